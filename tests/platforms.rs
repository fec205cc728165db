//! A server that also includes this program for another processor (`--with`).
//!
//! The other program is a copy of the executable under test, with another processor in its header. It is packed and
//! served, but never run.

mod common;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::Output;

use common::{Folder, Server, goarch, lossy, quinistry, run, sibling};

fn output(arguments: &[&str]) -> Output {
    quinistry().args(arguments).output().expect("the command starts")
}

/// Runs a command, which must succeed, and returns its standard output.
fn printed(arguments: &[&str]) -> String {
    run(quinistry().args(arguments))
}

#[test]
fn every_command_includes_the_given_executable() {
    let folder = Folder::new("commands");
    let other = sibling(&folder);
    let server = Server::start_with(&["--with", &other]);
    let digest = server.manifest_digest();
    // The image's entrypoint has the first form, and users write the second.
    for arguments in [["--with", &*other, "digest"], ["digest", "--with", &*other]] {
        assert_eq!(printed(&arguments), format!("quinistry@{digest}\n"));
    }
    let manifest = printed(&["k8s", "child", "--with", &other]);
    assert!(manifest.contains(&digest), "{manifest}");
    assert!(manifest.contains("values: [amd64, arm64]"), "{manifest}");
    let archive = output(&["save", "--with", &other]).stdout;
    let paths: BTreeSet<_> = tar::Archive::new(&archive[..])
        .entries()
        .expect("a tar archive")
        .map(|entry| entry.expect("a header").path().expect("a path").display().to_string())
        .collect();
    for (layer, _) in server.layers() {
        assert!(paths.contains(&format!("blobs/{}", layer.replace(':', "/"))), "{layer} in {paths:?}");
    }
}

#[test]
fn a_file_that_cannot_be_included_is_reported_before_the_server_listens() {
    let folder = Folder::new("refused");
    let other = sibling(&folder);
    let own = env!("CARGO_BIN_EXE_quinistry");
    let missing = folder.path("missing");
    let script = folder.path("script");
    std::fs::write(&script, "#!/bin/sh\n").expect("the file can be written");
    let dynamic = folder.path("dynamic");
    std::fs::write(&dynamic, with_interpreter(&other)).expect("the file can be written");
    // If the server listened first, it would report this port as in use.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    for (files, refused, reason) in [
        (&[&*missing][..], &*missing, "No such file"),
        (&[&*folder.path("")], &folder.path(""), "not a regular file"),
        (&["/dev/zero"], "/dev/zero", "not a regular file"),
        (&[&script], &script, "not an executable for Linux"),
        (&[&dynamic], &dynamic, "dynamically linked"),
        (&[own], own, &format!("there is already an executable for {}", goarch())),
        (&[&other, &other], &other, "there is already an executable"),
        (&[&other, &missing], &missing, "No such file"),
    ] {
        let with: Vec<_> = files.iter().flat_map(|file| ["--with", file]).collect();
        for command in [&["--listen", &*address][..], &["digest"], &["save"], &["k8s", "parent"]] {
            let output = output(&[command, &with].concat());
            let said = lossy(&output.stderr);
            assert_eq!((output.status.code(), &*lossy(&output.stdout)), (Some(1), ""), "{said}");
            assert!(said.starts_with(&format!("quinistry: cannot include {refused}: ")), "{said}");
            assert!(said.contains(reason), "{said}");
        }
    }
    assert_eq!(output(&["--with"]).status.code(), Some(2));
}

/// Returns a copy of an executable whose first program header requests an interpreter (`PT_INTERP`, 3). The program
/// headers follow the file header, which has 64 or 52 bytes.
fn with_interpreter(executable: &str) -> Vec<u8> {
    let mut bytes = std::fs::read(executable).expect("the executable");
    let (table, size) = if bytes[4] == 2 { (32, 64) } else { (28, 52) };
    assert_eq!(bytes[table], size, "the program headers must follow the file header");
    bytes[usize::from(size)..][..4].copy_from_slice(&3_u32.to_le_bytes());
    bytes
}
