//! The README: its commands work as printed (except for the ports), no link is broken, and its limits are those of the
//! program. Tests of commands whose tools are missing are skipped.

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use common::docker::{ImageName, has_docker};
use common::{Folder, README, Server, bash, free_port, has_tool, lossy, readme_block, readme_blocks, report, tool};
use quinistry::budget::{Budget, GUARANTEED, MAX_CONNECTIONS, RESERVED_DESCRIPTORS};
use quinistry::connection::{HEAD_TIMEOUT, IDLE_TIMEOUT, LINGER_TIMEOUT, REQUEST_COST};
use quinistry::fault::Faults;
use quinistry::http::request::{MAX_FIELDS, MAX_HEAD, MAX_REQUEST_LINE};
use quinistry::run_queue::TURN_COST;
use quinistry::server::GRACE;

/// Returns all code blocks that contain this word, as one script.
fn script(word: &str) -> String {
    readme_blocks("sh")
        .filter(|block| block.contains(word))
        .fold("set -eux\n".to_owned(), |script, block| script + block)
}

/// Runs a script, which must succeed, in its own directory. Returns its standard output.
fn run_script(script: &str) -> String {
    let folder = Folder::new("readme");
    let output = bash(script, &folder).current_dir(&folder.0).output().expect("bash starts");
    let (stdout, stderr) = (lossy(&output.stdout), lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// Returns a script with this port instead of 8080, which may be in use.
fn on_port(port: u16, script: &str) -> String {
    script.replace("localhost:8080", &format!("localhost:{port}"))
}

#[test]
fn the_commands_work_as_printed_except_for_the_ports() {
    if !["bash", "curl", "grep", "gzip", "head", "rm", "sha256sum", "tail", "tar"]
        .iter()
        .all(|tool| has_tool(tool, &["--version"]))
    {
        return;
    }
    let server = Server::start();
    let said = run_script(&on_port(server.address.port(), &script("curl")));
    for text in ["HTTP/1.1 200 OK", "Docker-Content-Digest: sha256:", "layer.tar.gz: OK", "-rwxr-xr-x", "read-only"] {
        assert!(said.contains(text), "{text:?} in {said}");
    }
    assert!(said.contains(&server.manifest_digest()));
    // Each JSON document ends on a line of its own.
    assert_eq!(said.matches("\n}\n").count(), 4, "{said}");
}

/// Returns the lines that Docker prints at the end of each pull.
fn pulls(output: &str) -> Vec<&str> {
    output.lines().filter(|line| line.starts_with("Digest: ") || line.starts_with("Status: ")).collect()
}

#[test]
fn the_commands_for_docker_work_as_printed_except_for_the_ports() {
    if !has_tool("bash", &["--version"]) || !has_docker() {
        return;
    }
    let server = Server::start();
    let port = server.address.port();
    let transcript = readme_block("console", "docker pull");
    let mut script = script("docker ");
    for line in transcript.lines().filter_map(|line| line.strip_prefix("$ ")) {
        assert!(script.contains(line), "{line}");
    }
    let printed =
        transcript.lines().find_map(|line| line.strip_prefix("Digest: ")).expect("the transcript has digests");
    let mut expected = on_port(port, transcript).replace(printed, &server.manifest_digest());
    script = on_port(port, &script);
    let mut images = vec![ImageName::at(port)];
    // The ports and image names of the containers may also be in use.
    while let Some((before, after)) = script.split_once("-p 80") {
        let (published, rest) = after.split_once(':').expect("two ports");
        let (old, new) = (format!("localhost:80{published}"), free_port());
        script = format!("{before}-p 127.0.0.1:{new}:{rest}").replace(&old, &format!("localhost:{new}"));
        expected = expected.replace(&old, &format!("localhost:{new}"));
        images.push(ImageName::at(new));
    }
    assert!(!script.contains("localhost:80"), "{script}");
    let said = run_script(&script);
    assert_eq!(pulls(&said), pulls(&expected));
}

#[test]
fn every_fault_rule_in_the_readme_is_valid() {
    let options = README.split("--fault ").skip(1).filter_map(|rest| rest.split([' ', '`']).next());
    let variables = README.split("QUINISTRY_FAULT='").skip(1).filter_map(|rest| rest.split('\'').next());
    let rules: Vec<_> = options.filter(|rule| rule.contains('=')).chain(variables).collect();
    assert_eq!(rules.len(), 3, "{rules:?}");
    for rule in rules {
        assert!(Faults::default().add(rule).is_ok(), "{rule}");
    }
}

#[test]
fn every_block_of_commands_in_the_readme_is_run_somewhere() {
    // The tests above and those of the Kubernetes manifests run some of the blocks. Of the others, the first is run by
    // hand, `tests/targets.sh` runs those of rustup in another form, and the gate runs the rest.
    let elsewhere = ["curl", "docker ", "kubectl patch"];
    let others: Vec<_> =
        readme_blocks("sh").filter(|block| !elsewhere.iter().any(|word| block.contains(word))).collect();
    let commands = [
        "git clone",
        "RUSTFLAGS='-C target-feature=+crt-static' cargo install",
        "cargo build --release\n",
        "rustup target add",
        "rustup toolchain install nightly",
        "cargo build --release --config",
        "cargo test",
    ];
    assert_eq!(others.len(), commands.len(), "{others:?}");
    for (block, command) in others.iter().zip(commands) {
        assert!(block.starts_with(command), "{block}");
    }
}

#[test]
fn the_limits_in_the_readme_are_those_of_the_program() {
    let seconds = |duration: Duration| format!("{} s", duration.as_secs());
    let most = Budget::of(u64::MAX, usize::MAX);
    let mut rows = String::new();
    for (what, limit) in [
        ("a request's head", format!("{MAX_HEAD} bytes")),
        ("its request line", format!("{MAX_REQUEST_LINE} bytes")),
        ("its field lines", MAX_FIELDS.to_string()),
        ("time to the first byte", seconds(HEAD_TIMEOUT)),
        ("time from the first byte to the end of the head", seconds(HEAD_TIMEOUT)),
        ("time to the next request", seconds(IDLE_TIMEOUT)),
        ("time in which a reader takes nothing", seconds(IDLE_TIMEOUT)),
        ("time to close after the last response has arrived", seconds(LINGER_TIMEOUT)),
        ("bytes of a layer that one client receives in a turn", TURN_COST.to_string()),
        ("what one request counts for in a turn, in bytes of a layer", REQUEST_COST.to_string()),
        ("connections", format!("{MAX_CONNECTIONS}, or the limit of open files minus {RESERVED_DESCRIPTORS}")),
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
    assert!(README.contains(&format!("each socket may queue only {GUARANTEED} bytes")));

    for limit in [16, 64, 256] {
        let Budget { connections, held, queued } = Budget::of(limit << 20, usize::MAX);
        let row = format!("| {limit} MiB | {connections} | {} MiB | {} MiB |", held >> 20, queued >> 20);
        assert!(README.contains(&row), "{row}");
    }
}

#[test]
fn the_program_compiles_with_the_oldest_compiler_that_the_readme_names() {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    assert!(README.contains(&format!("Rust {oldest} or later")));
    let cargo = |arguments: &[&str]| {
        let mut command = tool("cargo");
        // Otherwise rustup would download a missing toolchain.
        command.env("RUSTUP_AUTO_INSTALL", "0").arg(format!("+{oldest}")).args(arguments);
        command.current_dir(env!("CARGO_MANIFEST_DIR")).output().is_ok_and(|output| output.status.success())
    };
    if !cargo(&["--version"]) {
        report(format!(
            "Skipped: there is no `cargo +{oldest}`, so it is not known whether that version compiles the program."
        ));
        return;
    }
    let folder = Folder::new("oldest");
    assert!(cargo(&["check", "--locked", "--quiet", "--target-dir", &folder.path("target")]));
}

/// Returns the anchor that GitHub generates for a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|character| character.is_alphanumeric() || "-_".contains(*character)).collect()
}

/// Returns the anchors of the headings in a text, in order.
fn anchors(text: &str) -> Vec<String> {
    let outside = text.split("```").step_by(2).flat_map(str::lines);
    outside.filter_map(|line| Some(anchor(line.strip_prefix('#')?.trim_start_matches('#').trim_start()))).collect()
}

#[test]
fn no_link_is_broken_and_each_table_of_contents_is_complete() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut count = 0;
    for name in [
        "README.md",
        "k8s/README.md",
        "tests/bench/README.md",
        "tests/client-faults.md",
        ".github/CONTRIBUTING.md",
        ".github/SECURITY.md",
    ] {
        let path = root.join(name);
        // A package from crates.io has no directories whose names begin with a dot.
        if name.starts_with('.') && !path.exists() {
            continue;
        }
        let text = read(&path);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().expect("a directory").join(file) };
            let is_missing_folder = file.starts_with('.') && !root.join(".github").exists();
            assert!(target.exists() || is_missing_folder, "{name}: {link}");
            assert!(
                wanted.is_empty() || anchors(&read(&target)).iter().any(|anchor| anchor == wanted),
                "{name}: {link}"
            );
            count += 1;
        }
    }
    assert!(count > 40, "{count} links");

    for text in [include_str!("../README.md"), include_str!("../k8s/README.md")] {
        let listed: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("* [")?.split_once("](#")?.1.strip_suffix(')')).collect();
        assert_eq!(listed, anchors(text)[1..]);
    }
}
