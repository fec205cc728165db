//! How an image is pulled, told with plain sockets: what `docker pull localhost:8080/quinistry` does.

mod common;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use common::{Folder, Server, quinistry_at, sha256};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

#[test]
fn a_pull_step_by_step_and_then_the_child_is_asked_for_the_same() {
    let parent = Server::start();
    let (digest, executable) = pull(&parent);

    // What was pulled is the program that served it,
    assert_eq!(executable, std::fs::read(env!("CARGO_BIN_EXE_quinistry")).expect("our own binary"));

    // and it runs, and serves itself: the same image, to the byte.
    let folder = Folder::new("pulled");
    let path = folder.0.join("quinistry");
    std::fs::write(&path, &executable).expect("room for it");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("our own file");
    let child = Server::start_as(quinistry_at(&path).args(["--listen", "127.0.0.1:0"]));
    assert_eq!(pull(&child), (digest, executable));
}

/// Pulls the image. Gives the digest of its manifest and the one file in it.
fn pull(server: &Server) -> (String, Vec<u8>) {
    let mut client = server.connect();
    let mut ask = |line: &str, fields: &[&str]| {
        client.send_request(line, fields);
        client.answer_to(line)
    };

    // 1. Is this a registry, and does it want to know who we are? A 401 would say so.
    let base = ask("GET /v2/", &[]);
    assert_eq!(base.status, 200);
    assert_eq!(base.field("Docker-Distribution-Api-Version"), Some("registry/2.0"));

    // 2. What does the tag stand for today? A HEAD is enough: the answer is a digest, which is the
    //    name of the manifest that never changes its meaning.
    let accept = format!("Accept: {DOCKER_MANIFEST}");
    let resolved = ask("HEAD /v2/quinistry/manifests/latest", &[&accept]);
    let digest = resolved.field("Docker-Content-Digest").expect("what the tag stands for").to_owned();

    // 3. The manifest, by that digest. Its bytes have to have it, whoever sent them.
    let manifest = ask(&format!("GET /v2/quinistry/manifests/{digest}"), &[&accept]);
    assert_eq!(sha256(&manifest.content), digest);
    assert_eq!(manifest.field("Content-Type"), Some(DOCKER_MANIFEST));
    assert_eq!(manifest.content_length(), resolved.content_length());
    let manifest = manifest.json();

    // 4. The config, which says how to run the image, and lists the layers by diff ID.
    let config_digest = manifest["config"]["digest"].as_str().expect("a digest");
    let config = ask(&format!("GET /v2/quinistry/blobs/{config_digest}"), &[]);
    assert_eq!(sha256(&config.content), config_digest);
    let config = config.json();
    assert_eq!(config["config"]["Entrypoint"][0], "/quinistry");

    // 5. Every layer: there is one.
    let layer_digest = manifest["layers"][0]["digest"].as_str().expect("a digest");
    let layer = ask(&format!("GET /v2/quinistry/blobs/{layer_digest}"), &[]);
    assert_eq!(sha256(&layer.content), layer_digest);
    assert_eq!(manifest["layers"][0]["size"], layer.content.len());

    // 6. A layer is a compressed tar. Uncompressed, its digest is the diff ID.
    let mut archive = Vec::new();
    flate2::read::GzDecoder::new(&layer.content[..]).read_to_end(&mut archive).expect("a gzip member");
    assert_eq!(config["rootfs"]["diff_ids"][0], sha256(&archive));

    // 7. And in the tar is what runs.
    let mut archive = tar::Archive::new(&archive[..]);
    let mut entries = archive.entries().expect("a tar archive");
    let mut entry = entries.next().expect("one entry").expect("a header");
    assert_eq!(entry.path().expect("a path").to_str(), Some("quinistry"));
    let mut executable = Vec::new();
    entry.read_to_end(&mut executable).expect("content");
    assert!(entries.next().is_none(), "and nothing else");
    (digest, executable)
}
