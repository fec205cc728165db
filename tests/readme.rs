//! The README: its commands work as printed, and its figures are the program's.

mod common;

use std::fmt::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Folder, README, Server, has_tool, lossy, readme_blocks, skip};
use quinistry::clients::MAX_CONNECTIONS;
use quinistry::connection::{
    BYTES_PER_TURN, HEAD_PATIENCE, IDLE_PATIENCE, LINGER_PATIENCE, MAX_DISCARDED, MAX_LINGER,
    REQUESTS_PER_TURN, STALL_PATIENCE,
};
use quinistry::http::request::{MAX_FIELDS, MAX_HEAD, MAX_REQUEST_LINE};
use quinistry::server::{GRACE, MAX_HELD, RESERVED_DESCRIPTORS};

/// All blocks that have this word, as one script.
fn script(word: &str) -> String {
    readme_blocks("sh")
        .filter(|block| block.contains(word))
        .fold("set -eux\n".to_owned(), |script, block| script + block)
}

/// Runs a script in a folder of its own. It must succeed.
fn run_script(script: &str) -> String {
    let folder = Folder::new("readme");
    let output =
        Command::new("bash").args(["-c", script]).current_dir(&folder.0).output().expect("bash starts");
    let (stdout, stderr) = (lossy(&output.stdout), lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// The server where the README has it. It may be in use: not under CI, and then loudly.
fn server_on_8080() -> Option<Server> {
    let free = TcpListener::bind("[::]:8080").or_else(|_| TcpListener::bind("0.0.0.0:8080")).is_ok();
    if !free {
        skip("port 8080 is taken");
        return None;
    }
    Some(Server::start_as(&mut Command::new(env!("CARGO_BIN_EXE_quinistry"))))
}

#[test]
fn the_commands_work_as_printed() {
    if !has_tool("curl", &["--version"]) {
        return;
    }
    let Some(server) = server_on_8080() else { return };
    let said = run_script(&script("curl"));
    for text in
        ["HTTP/1.1 200 OK", "Docker-Content-Digest: sha256:", "layer.tar.gz: OK", "-rwxr-xr-x", "read-only"]
    {
        assert!(said.contains(text), "{text:?} in {said}");
    }
    assert!(said.contains(&server.manifest_digest()));

    if !has_tool("docker", &["info"]) {
        return;
    }
    let said = run_script(&script("docker "));
    let digests: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("Digest: ")).collect();
    assert_eq!(digests, [server.manifest_digest(), server.manifest_digest()]);
    for id in said.lines().filter(|line| line.len() == 64 && line.bytes().all(|b| b.is_ascii_hexdigit())) {
        let _ = Command::new("docker").args(["rm", "-f", id]).stdout(Stdio::null()).status();
    }
    let _ = Command::new("docker")
        .args(["rmi", "-f", "localhost:8080/quinistry", "localhost:8090/quinistry"])
        .stdout(Stdio::null())
        .status();
}

#[test]
fn every_block_of_commands_is_run_somewhere() {
    // By the test above or those of the Kubernetes manifests; or, in this order, by hand in the first
    // terminal and by the gate.
    let elsewhere = ["curl", "docker ", "kubectl patch"];
    let others: Vec<_> =
        readme_blocks("sh").filter(|block| !elsewhere.iter().any(|word| block.contains(word))).collect();
    assert_eq!(others.len(), 4, "{others:?}");
    for (block, command) in others.iter().zip([
        "cargo run --release",
        "cargo build --release",
        "cargo build --release --config",
        "cargo test",
    ]) {
        assert!(block.starts_with(command), "{block}");
    }
}

#[test]
fn the_limits_are_the_constants() {
    let seconds = |duration: Duration| format!("{} s", duration.as_secs());
    let mut rows = String::new();
    for (what, limit) in [
        ("a request's head", format!("{MAX_HEAD} bytes")),
        ("its request line", format!("{MAX_REQUEST_LINE} bytes")),
        ("its field lines", MAX_FIELDS.to_string()),
        ("time to the first byte, and then to the end of the head", seconds(HEAD_PATIENCE)),
        ("time to the next request", seconds(IDLE_PATIENCE)),
        ("time in which a reader takes nothing", seconds(STALL_PATIENCE)),
        (
            "after the last answer, while the client still sends: silence; time; bytes",
            format!("{}; {}; {MAX_DISCARDED} bytes", seconds(LINGER_PATIENCE), seconds(MAX_LINGER)),
        ),
        (
            "requests answered, layer bytes sent before the others' turn",
            format!("{REQUESTS_PER_TURN}; {BYTES_PER_TURN}"),
        ),
        (
            "connections",
            format!("{MAX_CONNECTIONS}, or the descriptors there are less {RESERVED_DESCRIPTORS}"),
        ),
        ("kept of half requests and unsent answers, in all", format!("{MAX_HELD} bytes")),
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
}
