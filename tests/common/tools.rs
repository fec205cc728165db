//! Every command from outside that a test starts.
//!
//! A test gets a command from [`tool`], which knows those of the list alone, and asks [`has_tool`] first
//! whether it is there. Clippy forbids `Command::new` elsewhere (`.clippy.toml`), but for the benchmark,
//! which has its own rules for what is missing.
//!
//! Deliberately absent: what a system call or /proc does without a command, see `system.rs`.
#![allow(clippy::disallowed_methods, reason = "this is the one place for it")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::mem::take;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::{Folder, system};

/// A command, the package that Debian has it in, or else where it comes from, and what is tested with it. The
/// packages down to `util-linux` are in every Debian system.
const TOOLS: [(&str, &str, &str); 31] = [
    ("bash", "bash", "the README's commands; closed standard streams"),
    ("head", "coreutils", "the README's commands; a reader of the log that goes"),
    ("sha256sum", "coreutils", "the README's commands"),
    ("rm", "coreutils", "the README's commands"),
    ("tail", "coreutils", "the README's commands"),
    ("grep", "grep", "the README's commands"),
    ("gzip", "gzip", "tar, which calls it"),
    ("tar", "tar", "the README's commands; the layer and the archive"),
    ("nsenter", "util-linux", "nodes with a network of their own"),
    ("unshare", "util-linux", "a server that is process 1"),
    ("bsdtar", "libarchive-tools", "the layer"),
    ("cargo", "cargo", "the list of crates"),
    ("chromium", "chromium", "the page, as a browser shows it"),
    ("containerd", "containerd", "nodes with a containerd of their own"),
    ("ctr", "containerd", "the same"),
    ("curl", "curl", "the README's commands"),
    ("docker", "docker.io", "pull, run, push and load"),
    ("dockerd", "docker.io", "Docker with the README's configuration"),
    ("ip", "iproute2", "nodes with a network of their own"),
    ("kubectl", "kubernetes-client", "the manifests"),
    ("podman", "podman", "pull and load"),
    ("prometheus", "prometheus", "a scrape of the metrics"),
    ("promtool", "prometheus", "the form of the metrics"),
    ("python3", "python3, and cyclonedx-python-lib[json-validation] from PyPI", "the CycloneDX document"),
    ("runc", "runc", "nodes with a containerd of their own"),
    ("rust-audit-info", "rust-audit-info from crates.io", "the section with the list of crates"),
    ("rustc", "rustc", "a build that has to fail"),
    ("skopeo", "skopeo", "the archive, inspect and copy"),
    ("strace", "strace", "the system calls that the server makes, and what becomes of it when they fail"),
    ("tidy", "tidy", "the page's HTML"),
    ("umoci", "umoci", "the archive"),
];

/// A command of the list.
pub fn tool(name: &str) -> Command {
    assert!(TOOLS.iter().any(|(listed, ..)| *listed == name), "{name} is not on the list in {}", file!());
    Command::new(name)
}

/// The program under test.
pub fn quinistry() -> Command {
    quinistry_at(env!("CARGO_BIN_EXE_quinistry"))
}

/// A copy of the program under test.
pub fn quinistry_at(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    command.env_remove("QUINISTRY_LISTEN").env_remove("QUINISTRY_FAULT");
    command
}

/// The test program that runs.
pub fn this_test() -> Command {
    Command::new(std::env::current_exe().expect("/proc tells"))
}

/// bash with a script. Of the commands from outside, it and what it starts find those of the list alone:
/// there are links to them in the test's folder.
pub fn bash(script: &str, folder: &Folder) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let links = folder.0.join("commands");
    std::fs::create_dir(&links).expect("a new folder");
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

/// Whether a command of the list can be used. If not, the test is skipped.
pub fn has_tool(name: &str, arguments: &[&str]) -> bool {
    let status = tool(name).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let works = status.is_ok_and(|status| status.success());
    if !works {
        let (_, package, _) = TOOLS.iter().find(|(listed, ..)| *listed == name).expect("it is listed");
        skip(&format!("`{name} {}` fails (package {package})", arguments.join(" ")));
    }
    works
}

/// Whether the tests run as root. If not, the test is skipped, for that reason.
pub fn is_root(reason: &str) -> bool {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root {
        skip(reason);
    }
    is_root
}

/// Notes that a test, or a part of it, is skipped. Where `CI` is set, it fails instead.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "nothing is to be skipped under CI, but {reason}");
    println!("Skipped: {reason}");
    note(Note::Skipped(reason.to_owned()));
}

/// Notes a line that is printed after the results of all tests of this file.
pub fn report(line: String) {
    note(Note::Line(line));
}

enum Note {
    Skipped(String),
    Line(String),
}

/// What is printed when the tests of this file are over. Before, it would run into the lines of the test
/// harness, or be hidden with all else that a test prints.
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
        print(&format!("*** SKIPPED in {name} a test, or a part of it, {count}: {reasons} ***"));
    }
    let _ = io::stderr().write_all(lines.as_bytes());
}
