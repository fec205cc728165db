//! The external commands that tests start.
//!
//! A test first checks with [`has_tool`] that a command is available, and then gets it from [`tool`], which accepts
//! only the commands in [`TOOLS`]. Clippy forbids `Command::new` elsewhere (`.clippy.toml`). The benchmark is exempt,
//! as it handles missing commands itself.
//!
//! Deliberately absent: commands for what a system call or /proc can do (see `system.rs`).
#![allow(clippy::disallowed_methods, reason = "every command is created here")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::mem::take;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::{Folder, system};

/// Each command, its Debian package or other source, and what the tests use it for. The packages up to `util-linux` are
/// part of every Debian system.
const TOOLS: [(&str, &str, &str); 32] = [
    ("bash", "bash", "the README's commands; closed standard streams"),
    ("head", "coreutils", "the README's commands; a reader of the log that exits"),
    ("install", "coreutils", "copies of the program under test"),
    ("sha256sum", "coreutils", "the README's commands"),
    ("rm", "coreutils", "the README's commands"),
    ("tail", "coreutils", "the README's commands"),
    ("grep", "grep", "the README's commands"),
    ("gzip", "gzip", "tar, which calls it"),
    ("tar", "tar", "the README's commands; the layer and the archive"),
    ("nsenter", "util-linux", "nodes with their own network"),
    ("unshare", "util-linux", "a server that is process 1"),
    ("bsdtar", "libarchive-tools", "the layer"),
    ("cargo", "cargo", "the list of crates"),
    ("chromium", "chromium", "the page, as a browser shows it"),
    ("containerd", "containerd", "nodes with their own containerd"),
    ("ctr", "containerd", "nodes with their own containerd"),
    ("curl", "curl", "the README's commands"),
    ("docker", "docker.io", "pull, run, push and load"),
    ("dockerd", "docker.io", "Docker with the README's configuration"),
    ("ip", "iproute2", "nodes with their own network"),
    ("kubectl", "kubernetes-client", "the manifests"),
    ("podman", "podman", "pull and load"),
    ("prometheus", "prometheus", "a scrape of the metrics"),
    ("promtool", "prometheus", "the form of the metrics"),
    ("python3", "python3, and cyclonedx-python-lib[json-validation] from PyPI", "the CycloneDX document"),
    ("runc", "runc", "nodes with their own containerd"),
    ("rust-audit-info", "rust-audit-info from crates.io", "the section with the list of crates"),
    ("rustc", "rustc", "builds that must fail"),
    ("skopeo", "skopeo", "the archive, inspect and copy"),
    ("strace", "strace", "the server's system calls, and what happens when they fail"),
    ("tidy", "tidy", "the page's HTML"),
    ("umoci", "umoci", "the archive"),
];

/// Returns a command from the list.
pub fn tool(name: &str) -> Command {
    assert!(TOOLS.iter().any(|(listed, ..)| *listed == name), "{name} is not in the list in {}", file!());
    Command::new(name)
}

/// Returns a command that starts the program under test.
pub fn quinistry() -> Command {
    quinistry_at(env!("CARGO_BIN_EXE_quinistry"))
}

/// Returns a command that starts a copy of the program under test.
pub fn quinistry_at(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    command.env_remove("QUINISTRY_LISTEN").env_remove("QUINISTRY_FAULT");
    command
}

/// Returns a command that starts this test program again.
pub fn this_test() -> Command {
    Command::new(std::env::current_exe().expect("/proc is mounted"))
}

/// Returns a command that runs a script with bash. The script finds only the commands in the list: its PATH is a
/// directory, inside `folder`, with links to these commands.
pub fn bash(script: &str, folder: &Folder) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let links = folder.0.join("commands");
    std::fs::create_dir(&links).expect("a new directory");
    for (name, ..) in TOOLS {
        let mut files = std::env::split_paths(&path).map(|folder| folder.join(name));
        if let Some(file) = files.find(|file| file.is_file()) {
            std::os::unix::fs::symlink(file, links.join(name)).expect("a new link");
        }
    }
    let mut command = tool("bash");
    command.args(["-c", script]).env("PATH", links);
    command
}

/// Returns whether a command in the list works. If not, notes that the test is skipped.
pub fn has_tool(name: &str, arguments: &[&str]) -> bool {
    let status = tool(name).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let works = status.is_ok_and(|status| status.success());
    if !works {
        let (_, package, _) = TOOLS.iter().find(|(listed, ..)| *listed == name).expect("`tool` has checked the name");
        skip(&format!("`{name} {}` fails (package {package})", arguments.join(" ")));
    }
    works
}

/// Returns whether the tests run as root. If not, notes that the test is skipped for this reason.
pub fn is_root(reason: &str) -> bool {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root {
        skip(reason);
    }
    is_root
}

/// Notes that a test, or a part of it, is skipped. If `CI` is set, the test fails instead.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "nothing may be skipped in CI: {reason}");
    println!("Skipped: {reason}");
    note(Note::Skipped(reason.to_owned()));
}

/// Notes a line that is printed after the results of all tests in this file.
pub fn report(line: String) {
    note(Note::Line(line));
}

enum Note {
    Skipped(String),
    Line(String),
}

/// The lines to print after the tests in this file. If they were printed earlier, they would be mixed with the lines of
/// the test harness, or captured with the other output of a test.
static NOTES: Mutex<Vec<Note>> = Mutex::new(Vec::new());

fn note(note: Note) {
    let mut notes = NOTES.lock().expect("no panic while held");
    if notes.is_empty() {
        system::at_exit(print_notes);
    }
    notes.push(note);
}

extern "C" fn print_notes() {
    let (mut skipped, mut lines) = (BTreeMap::new(), String::new());
    let mut print = |line: &str| lines.extend([line, "\n"]);
    for note in take(&mut *NOTES.lock().expect("no panic while held")) {
        match note {
            Note::Skipped(reason) => *skipped.entry(reason).or_insert(0) += 1,
            Note::Line(line) => print(&line),
        }
    }
    if !skipped.is_empty() {
        let file = std::env::current_exe().unwrap_or_default();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let name = name.rsplit_once('-').map_or(&*name, |(name, _)| name);
        let count = quinistry::log::counted(skipped.values().sum(), "time");
        let reasons: Vec<_> = skipped.iter().map(|(reason, count)| format!("{count} x {reason}")).collect();
        let reasons = reasons.join("; ");
        print(&format!("*** SKIPPED {count} in {name} (a test, or a part of one): {reasons} ***"));
    }
    let _ = io::stderr().write_all(lines.as_bytes());
}
