//! The README: its commands work as printed, but for ports, and its limits are the program's.

mod common;

use std::fmt::Write as _;
use std::time::Duration;

use common::docker::{ImageName, has_docker};
use common::{Folder, README, Server, bash, free_port, has_tool, lossy, readme_blocks};
use quinistry::budget::{Budget, GUARANTEED, MAX_CONNECTIONS};
use quinistry::connection::{HEAD_TIMEOUT, IDLE_TIMEOUT, LINGER_TIMEOUT};
use quinistry::http::request::{MAX_FIELDS, MAX_HEAD, MAX_REQUEST_LINE};
use quinistry::run_queue::{REQUEST_COST, TURN_COST};
use quinistry::server::{GRACE, RESERVED_DESCRIPTORS};

/// All blocks that have this word, as one script.
fn script(word: &str) -> String {
    readme_blocks("sh")
        .filter(|block| block.contains(word))
        .fold("set -eux\n".to_owned(), |script, block| script + block)
}

/// Runs a script in a folder of its own. It must succeed.
fn run_script(script: &str) -> String {
    let folder = Folder::new("readme");
    let output = bash(script, &folder).current_dir(&folder.0).output().expect("bash starts");
    let (stdout, stderr) = (lossy(&output.stdout), lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// A script for a server on that port. What is on port 8080 may be somebody's.
fn on_port(port: u16, script: &str) -> String {
    script.replace("localhost:8080", &format!("localhost:{port}"))
}

#[test]
fn the_commands_work_as_printed_but_for_the_ports() {
    if !["bash", "curl", "grep", "gzip", "head", "rm", "sha256sum", "tail", "tar"]
        .iter()
        .all(|tool| has_tool(tool, &["--version"]))
    {
        return;
    }
    let server = Server::start();
    let said = run_script(&on_port(server.address.port(), &script("curl")));
    for text in
        ["HTTP/1.1 200 OK", "Docker-Content-Digest: sha256:", "layer.tar.gz: OK", "-rwxr-xr-x", "read-only"]
    {
        assert!(said.contains(text), "{text:?} in {said}");
    }
    assert!(said.contains(&server.manifest_digest()));
}

#[test]
fn the_commands_for_docker_work_as_printed_but_for_the_ports() {
    if !has_tool("bash", &["--version"]) || !has_docker() {
        return;
    }
    let server = Server::start();
    let mut script = on_port(server.address.port(), &script("docker "));
    let mut images = vec![ImageName::at(server.address.port())];
    // Nor does a container get a port or a name that may be somebody's.
    while let Some((before, after)) = script.split_once("-p 80") {
        let (published, rest) = after.split_once(':').expect("two ports");
        let (old, new) = (format!("localhost:80{published}"), free_port());
        script = format!("{before}-p 127.0.0.1:{new}:{rest}").replace(&old, &format!("localhost:{new}"));
        images.push(ImageName::at(new));
    }
    assert!(!script.contains("localhost:80"), "{script}");
    let said = run_script(&script);
    let digests: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("Digest: ")).collect();
    assert_eq!(digests, [server.manifest_digest(), server.manifest_digest()]);
}

#[test]
fn every_block_of_commands_is_run_somewhere() {
    // By the tests above or those of the Kubernetes manifests; or, in this order, by hand in the first
    // terminal, by the gate, and by `tests/targets.sh`, which has the same commands in other words.
    let elsewhere = ["curl", "docker ", "kubectl patch"];
    let others: Vec<_> =
        readme_blocks("sh").filter(|block| !elsewhere.iter().any(|word| block.contains(word))).collect();
    let commands = [
        "cargo run --release",
        "cargo test",
        "cargo build --release",
        "rustup target add",
        "rustup toolchain install nightly",
        "cargo build --release --config",
        "RUSTFLAGS='-C target-feature=+crt-static' cargo install",
    ];
    assert_eq!(others.len(), commands.len(), "{others:?}");
    for (block, command) in others.iter().zip(commands) {
        assert!(block.starts_with(command), "{block}");
    }
}

#[test]
fn the_limits_are_the_constants() {
    let seconds = |duration: Duration| format!("{} s", duration.as_secs());
    let most = Budget::of(u64::MAX, usize::MAX);
    let mut rows = String::new();
    for (what, limit) in [
        ("a request's head", format!("{MAX_HEAD} bytes")),
        ("its request line", format!("{MAX_REQUEST_LINE} bytes")),
        ("its field lines", MAX_FIELDS.to_string()),
        ("time to the first byte, and then to the end of the head", seconds(HEAD_TIMEOUT)),
        ("time to the next request, and in which a reader takes nothing", seconds(IDLE_TIMEOUT)),
        ("time to close after the last response has arrived", seconds(LINGER_TIMEOUT)),
        (
            "bytes of a layer before it is the others' turn; a request counts as",
            format!("{TURN_COST}; {REQUEST_COST}"),
        ),
        (
            "connections",
            format!("{MAX_CONNECTIONS}, or the descriptors there are less {RESERVED_DESCRIPTORS}"),
        ),
        ("incomplete heads and unsent responses, in all", format!("{} bytes", most.held)),
        ("queued by all sockets before each is limited", format!("{} bytes", most.queued)),
        ("after SIGTERM or SIGINT, for transfers in flight", seconds(GRACE)),
    ] {
        writeln!(rows, "| {what} | {limit} |").expect("a String takes everything");
    }
    let table = README.lines().skip_while(|line| *line != "| what | limit | then |").skip(2);
    let found: String = table
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.rsplit_once(" | ").expect("three columns").0.to_owned() + " |\n")
        .collect();
    assert_eq!(found, rows);
    assert!(README.contains(&format!("a reader has {GUARANTEED} bytes at a time")));

    for limit in [16, 64, 256] {
        let Budget { connections, held, queued } = Budget::of(limit << 20, usize::MAX);
        let row = format!("| {limit} MiB | {connections} | {} MiB | {} MiB |", held >> 20, queued >> 20);
        assert!(README.contains(&row), "{row}");
    }

    let words = README.split_whitespace().collect::<Vec<_>>().join(" ");
    let connections = format!("{},{:03}", MAX_CONNECTIONS / 1000, MAX_CONNECTIONS % 1000);
    let named = format!(
        "{} KiB for a request's head, {} to send it, {} until the next one, {connections} connections, and {} MiB for half",
        MAX_HEAD / 1024,
        seconds(HEAD_TIMEOUT),
        seconds(IDLE_TIMEOUT),
        most.held >> 20,
    );
    assert!(words.contains(&named), "{named}");
}
