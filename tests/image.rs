//! The image, as those who unpack and run it see it.

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use common::{Folder, has_tool, run, sample, sha256, tool};
use quinistry::image::{self, Error, Image, VERSION};
use serde_json::{Value, json};

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

#[test]
fn the_config_says_all_that_a_runtime_wants_to_know() {
    let (image, layer) = sample::packed();
    let config = json(&image.config.content);
    let mut archive = Vec::new();
    flate2::read::GzDecoder::new(&layer[..]).read_to_end(&mut archive).expect("a gzip member");
    assert_eq!(config["architecture"], "amd64");
    assert_eq!(config["os"], "linux");
    if option_env!("SOURCE_DATE_EPOCH").is_none() {
        assert_eq!(config["created"], "1970-01-01T00:00:00Z");
    }
    assert_eq!(config["rootfs"], json!({ "type": "layers", "diff_ids": [sha256(&archive)] }));
    assert_eq!(config["history"].as_array().map(Vec::len), Some(1), "one line per layer");

    let config = &config["config"];
    assert_eq!(config["Entrypoint"], json!(["/quinistry"]));
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["ExposedPorts"], json!({ "8080/tcp": {} }));
    assert_eq!(config["WorkingDir"], "/");
    assert!(config["Env"][0].as_str().expect("a variable").starts_with("PATH="));
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/quinistry", "healthcheck"]));
    // In nanoseconds; the check itself takes 2 s at most.
    assert_eq!(config["Healthcheck"]["Timeout"], 3_000_000_000_u64);
    for (label, value) in [
        ("title", Some("quinistry")),
        ("description", None),
        ("version", Some(VERSION)),
        ("licenses", Some("MIT")),
        ("source", None),
    ] {
        let found = config["Labels"][format!("org.opencontainers.image.{label}")].as_str().expect(label);
        assert!(value.is_none_or(|value| value == found), "{label}: {found}");
    }
}

#[test]
fn the_two_manifests_describe_the_same_config_and_layer() {
    let (Image { manifest, oci_manifest, config, layer, .. }, bytes) = sample::packed();
    assert_eq!(layer.digest.as_str(), sha256(&bytes));
    assert_eq!(layer.size, bytes.len() as u64);
    for (document, config_type, layer_type) in [
        (
            &manifest,
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
        (
            &oci_manifest,
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ),
    ] {
        assert_eq!(document.descriptor.digest.as_str(), sha256(&document.content));
        assert_eq!(document.descriptor.size, document.content.len() as u64);
        let expected = json!({
            "schemaVersion": 2,
            "mediaType": document.descriptor.content_type,
            "config": { "mediaType": config_type, "digest": sha256(&config.content), "size": config.content.len() },
            "layers": [{ "mediaType": layer_type, "digest": sha256(&bytes), "size": bytes.len() }],
        });
        assert_eq!(json(&document.content), expected);
    }
}

#[test]
fn the_same_executable_gives_the_same_bytes_and_another_one_others() {
    let (first, first_layer) = sample::packed();
    let (second, second_layer) = sample::packed();
    assert_eq!(first_layer, second_layer);
    assert_eq!(first.manifest.content, second.manifest.content);
    assert_eq!(first.config.content, second.config.content);

    let mut executable = sample::executable();
    *executable.last_mut().expect("not empty") ^= 1;
    let other = image::pack(&executable[..], executable.len() as u64, Vec::new()).expect("it packs");
    assert_ne!(other.manifest.descriptor.digest, first.manifest.descriptor.digest);
}

#[test]
fn the_layer_is_one_gzip_member_without_name_or_time() {
    let (_, layer) = sample::packed();
    assert_eq!(layer[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
    let mut decoder = flate2::bufread::GzDecoder::new(&layer[..]);
    std::io::copy(&mut decoder, &mut std::io::sink()).expect("valid");
    assert!(decoder.into_inner().is_empty(), "nothing follows the member");
}

#[test]
fn what_cannot_be_an_image_is_refused() {
    let pack = |bytes: &[u8], size| image::pack(bytes, size, Vec::new()).map(|_| ());
    assert!(matches!(pack(b"#!/bin/sh\n", 10), Err(Error::Executable(_))));
    let executable = sample::executable();
    let size = executable.len() as u64;
    assert!(matches!(pack(&executable, size - 1), Err(Error::Tar(_))));
    assert!(matches!(pack(&executable, size + 1), Err(Error::Tar(_))));
    // Eleven octal digits are what tar has for a size.
    let error = pack(&executable, 1 << 33).expect_err("too large");
    assert!(error.to_string().contains("8589934592"), "{error}");
}

#[test]
fn an_archive_is_a_layout_and_a_docker_archive_at_once() {
    let (image, layer) = sample::packed();
    let mut archive = Vec::new();
    quinistry::image::archive::write(&image, &mut &layer[..], &mut archive).expect("a Vec takes everything");
    let mut files = HashMap::new();
    for entry in tar::Archive::new(&archive[..]).entries().expect("a tar archive") {
        let mut entry = entry.expect("a header");
        let path = entry.path().expect("a path").display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        if let Some(encoded) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(sha256(&content), format!("sha256:{encoded}"));
        }
        assert!(files.insert(path, content).is_none(), "no file twice");
    }
    assert_eq!(json(&files["oci-layout"]), json!({ "imageLayoutVersion": "1.0.0" }));
    let blob =
        |digest: &Value| &files[&format!("blobs/{}", digest.as_str().expect("a digest").replace(':', "/"))];

    // The OCI's way: the tag leads to the OCI manifest, containerd's names to the canonical one.
    let index = json(&files["index.json"]);
    let manifests = index["manifests"].as_array().expect("a list");
    assert_eq!(manifests.len(), 3);
    let name = "docker.io/library/quinistry";
    let pinned = format!("{name}@{}", image.manifest.descriptor.digest);
    for (manifest, annotation, value, document) in [
        (&manifests[0], "io.containerd.image.name", &*format!("{name}:latest"), &image.manifest),
        (&manifests[1], "io.containerd.image.name", &pinned, &image.manifest),
        (&manifests[2], "org.opencontainers.image.ref.name", "latest", &image.oci_manifest),
    ] {
        assert_eq!(manifest["annotations"], json!({ annotation: value }));
        assert_eq!(manifest["mediaType"], document.descriptor.content_type);
        assert_eq!(manifest["size"], document.content.len());
        assert_eq!(blob(&manifest["digest"]), &document.content);
    }
    // Docker's way.
    let images = json(&files["manifest.json"]);
    assert_eq!(images[0]["RepoTags"], json!(["quinistry:latest"]));
    assert_eq!(files[images[0]["Config"].as_str().expect("a path")], image.config.content);
    assert_eq!(files[images[0]["Layers"][0].as_str().expect("a path")], layer);
    assert_eq!(files.len(), 3 + 4);
}

#[test]
fn gnu_tar_and_bsdtar_unpack_the_layer_to_an_executable_of_root() {
    let (_, layer) = sample::packed();
    for name in ["tar", "bsdtar"] {
        if !has_tool(name, &["--version"]) || !has_tool("gzip", &["--version"]) {
            continue;
        }
        let folder = Folder::new(name);
        let archive = folder.0.join("layer.tar.gz");
        fs::write(&archive, &layer).expect("room for it");
        let listed = run(tool(name).arg("-tvzf").arg(&archive));
        assert!(listed.starts_with("-rwxr-xr-x") && listed.contains("1970"), "{listed}");
        let owners = run(tool(name).arg("--numeric-owner").arg("-tvzf").arg(&archive));
        assert!(
            owners.contains(" 0/0 ")
                || owners.split_whitespace().collect::<Vec<_>>()[1..4] == ["0", "0", "0"],
            "{owners}"
        );
        run(tool(name).arg("-xzf").arg(&archive).arg("-C").arg(&folder.0));
        let unpacked = folder.0.join("quinistry");
        assert_eq!(fs::read(&unpacked).expect("it was unpacked"), sample::executable());
        let metadata = fs::metadata(&unpacked).expect("it is there");
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.mtime()), (0o755, 0));
    }
}
