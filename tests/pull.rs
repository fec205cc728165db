//! How an image is pulled: what `docker pull localhost:8080/quinistry` does, step by step, with plain sockets. The
//! tests use no other client, and end by running what they have pulled.

mod common;

use std::collections::HashMap;
use std::io::Read;

use common::{Folder, Server, goarch, quinistry_at, sha256, sibling, write_executable};
use serde_json::Value;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[test]
fn a_pull_yields_a_program_that_serves_the_same_image() {
    let parent = Server::start();
    let pulled = pull(&parent);

    // The pulled image holds the program that served it.
    let program = pulled.config["config"]["Entrypoint"][0].as_str().expect("a path");
    let executable = std::fs::read(env!("CARGO_BIN_EXE_quinistry")).expect("our own binary");
    assert!(pulled.files[program] == executable);

    // The program runs, and serves the same image, byte for byte.
    let child = start(&pulled, &Folder::new("pulled"));
    assert!(pull(&child) == pulled);

    // The artifact that refers to the image is also the same.
    assert_eq!(bill_of_materials(&child), bill_of_materials(&parent));
}

#[test]
fn three_generations_that_include_a_program_for_another_processor_have_one_digest() {
    let folder = Folder::new("carried");
    let mut server = Server::start_with(&["--with", &sibling(&folder)]);
    let pulled = pull(&server);
    assert_eq!(pulled.digest, server.manifest_digest());
    assert_eq!(pulled.files.len(), 2);
    for generation in 1..=3 {
        server = start(&pulled, &Folder::new(&format!("generation-{generation}")));
        assert!(pull(&server) == pulled, "generation {generation}");
    }
}

/// Starts a server from a pulled image as a runtime does: unpacks the files, and runs the command in the config. (A
/// runtime would also make the directory the root directory of the program.)
fn start(pulled: &Pulled, root: &Folder) -> Server {
    for (path, file) in &pulled.files {
        let path = root.path(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.rsplit_once('/').expect("a directory").0).expect("a new directory");
        write_executable(&path, file);
    }
    let entrypoint = pulled.config["config"]["Entrypoint"].as_array().expect("a command");
    let mut words = entrypoint.iter().map(|word| {
        let word = word.as_str().expect("text");
        word.strip_prefix('/').map_or(word.to_owned(), |path| root.path(path))
    });
    let program = words.next().expect("a program");
    Server::start_as(quinistry_at(program).args(words).args(["--listen", "127.0.0.1:0"]))
}

/// The result of a pull.
#[derive(PartialEq)]
struct Pulled {
    /// The digest of the index, by which people know the image.
    digest: String,
    /// The config, which says how to run the image.
    config: Value,
    /// The files of all layers, by their paths.
    files: HashMap<String, Vec<u8>>,
}

/// Pulls the image for this machine.
fn pull(server: &Server) -> Pulled {
    let mut client = server.connect();
    let mut ask = |line: &str, fields: &[&str]| {
        client.send_request(line, fields);
        client.response_to(line)
    };

    // 1. Is this a registry, and does it require authentication? If it did, it would respond with a 401.
    let base = ask("GET /v2/", &[]);
    assert_eq!(base.status, 200);
    assert_eq!(base.field("Docker-Distribution-Api-Version"), Some("registry/2.0"));

    // 2. What does the tag stand for today? Accept lists the types that we can read, an index first. HEAD is enough: we
    //    need only the digest, and what a digest stands for never changes.
    let accept = format!("Accept: {INDEX}, {MANIFEST}");
    let resolved = ask("HEAD /v2/quinistry/manifests/latest", &[&accept]);
    let digest = resolved.field("Docker-Content-Digest").expect("what the tag stands for").to_owned();

    // 3. The index, by that digest. We check the digest, so we need not trust the sender of the bytes.
    let index = ask(&format!("GET /v2/quinistry/manifests/{digest}"), &[&accept]);
    assert_eq!(sha256(&index.content), digest);
    assert_eq!(index.field("Content-Type"), Some(INDEX));
    assert_eq!(index.content_length(), resolved.content_length());

    // 4. The index lists a manifest for each platform, and we look for ours. If it were missing, we would stop
    //    before downloading anything large.
    let index = index.json();
    let entries = index["manifests"].as_array().expect("a list");
    let is_ours = |entry: &&Value| entry["platform"]["architecture"] == goarch();
    let entry = entries.iter().find(is_ours).expect("the index has the server's own platform");
    assert_eq!(entry["platform"]["os"], "linux");

    // 5. The manifest. From here on, each document has the digests of the next ones. So the first digest
    //    identifies all of the content.
    let manifest_digest = entry["digest"].as_str().expect("a digest");
    let manifest = ask(&format!("GET /v2/quinistry/manifests/{manifest_digest}"), &[&accept]);
    assert_eq!(sha256(&manifest.content), manifest_digest);
    assert_eq!(manifest.field("Content-Type"), Some(MANIFEST));
    let manifest = manifest.json();

    // 6. The config, which says how to run the image, and lists the layers by diff ID.
    let config_digest = manifest["config"]["digest"].as_str().expect("a digest");
    let config = ask(&format!("GET /v2/quinistry/blobs/{config_digest}"), &[]);
    assert_eq!(sha256(&config.content), config_digest);
    let config = config.json();
    assert_eq!(config["architecture"], goarch());

    // 7. Every layer. In this image, each layer has the program for one processor. Usually, there is only one layer.
    let layers = manifest["layers"].as_array().expect("a list");
    let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("a list");
    assert_eq!(layers.len(), diff_ids.len());
    let mut files = HashMap::new();
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let layer_digest = layer["digest"].as_str().expect("a digest");
        let content = ask(&format!("GET /v2/quinistry/blobs/{layer_digest}"), &[]).content;
        assert_eq!(sha256(&content), layer_digest);
        assert_eq!(layer["size"], content.len());

        // 8. A layer is a compressed tar. Uncompressed, its digest is the diff ID.
        let mut archive = Vec::new();
        flate2::read::GzDecoder::new(&content[..]).read_to_end(&mut archive).expect("a gzip member");
        assert_eq!(*diff_id, sha256(&archive));

        // 9. The tar contains the program.
        for entry in tar::Archive::new(&archive[..]).entries().expect("a tar archive") {
            let mut entry = entry.expect("a header");
            if entry.header().entry_type().is_file() {
                let path = format!("/{}", entry.path().expect("a path").display());
                let mut file = Vec::new();
                entry.read_to_end(&mut file).expect("content");
                files.insert(path, file);
            }
        }
    }
    Pulled { digest, config, files }
}

/// Follows the digests from the image to its bill of materials. Returns the list of referrers, the manifest of the
/// artifact and the document.
fn bill_of_materials(server: &Server) -> [Vec<u8>; 3] {
    let ask = |path: &str, digest: &str| {
        let response = server.ask(&format!("GET /v2/quinistry/{path}/{digest}"), &[]);
        assert_eq!(response.status, 200, "{path}/{digest}");
        response
    };
    let digest = |value: &Value| value["digest"].as_str().expect("a digest").to_owned();
    let referrers = ask("referrers", &server.manifest_digest());
    let manifest = ask("manifests", &digest(&referrers.json()["manifests"][0]));
    let document = ask("blobs", &digest(&manifest.json()["layers"][0]));
    assert_eq!(document.json()["bomFormat"], "CycloneDX");
    [referrers, manifest, document].map(|response| response.content)
}
