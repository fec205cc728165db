//! The image, from the perspective of the programs that unpack and run it: its config, manifests, indexes and layers,
//! the archive that `save` writes, and what makes one image differ from another.
//!
//! Most tests make images of small files that look like executables. GNU tar and bsdtar unpack a layer if they are
//! installed. Two tests need rustc, to show that a wrong build fails to compile.

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use common::sample::{self, AMD64, ARM64};
use common::{Folder, has_tool, lossy, run, sha256, tool};
use quinistry::image::layer::Executable;
use quinistry::image::{Document, Image, Platform, VERSION};
use serde_json::{Value, json};

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// Decompresses a gzip member.
fn unpacked(member: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    flate2::read::GzDecoder::new(member).read_to_end(&mut content).expect("a gzip member");
    content
}

#[test]
fn the_config_has_everything_that_a_runtime_needs() {
    let (image, layer) = sample::packed();
    let config = json(&image.platforms[0].config.content);
    assert_eq!(config["architecture"], "amd64");
    assert_eq!(config["os"], "linux");
    if option_env!("SOURCE_DATE_EPOCH").is_none() {
        assert_eq!(config["created"], "1970-01-01T00:00:00Z");
    }
    assert_eq!(config["rootfs"], json!({ "type": "layers", "diff_ids": [sha256(&unpacked(&layer))] }));
    assert_eq!(config["history"].as_array().map(Vec::len), Some(1), "one line per layer");

    let config = &config["config"];
    assert_eq!(config["Entrypoint"], json!(["/amd64/quinistry"]));
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["ExposedPorts"], json!({ "8080/tcp": {} }));
    assert_eq!(config["WorkingDir"], "/");
    assert_eq!(config["Env"], json!(["PATH=/amd64"]));
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/amd64/quinistry", "healthcheck"]));
    assert_eq!(config["Healthcheck"]["Timeout"], 3_000_000_000_u64, "in nanoseconds");
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
fn the_configs_of_two_platforms_differ_only_in_architecture_and_executable() {
    let (contents, image) = sample::image(&[AMD64, ARM64]);
    let [mut amd64, mut arm64] =
        [&image.platforms[0], &image.platforms[1]].map(|platform| json(&platform.config.content));
    let diff_ids: Vec<_> = contents.iter().map(|layer| sha256(&unpacked(layer))).collect();
    for (config, own, other) in [(&mut amd64, "amd64", "arm64"), (&mut arm64, "arm64", "amd64")] {
        assert_eq!(config["architecture"].take(), own);
        assert_eq!(config["rootfs"]["diff_ids"], json!(diff_ids), "every image has all layers");
        assert_eq!(config["history"].as_array().map(Vec::len), Some(2), "one line per layer");
        let (own, other) = (format!("/{own}/quinistry"), format!("/{other}/quinistry"));
        let config = &mut config["config"];
        assert_eq!(config["Entrypoint"].take(), json!([own, "--with", other]));
        assert_eq!(config["Healthcheck"]["Test"].take(), json!(["CMD", own, "healthcheck"]));
        assert_eq!(config["Env"].take(), json!([format!("PATH={}", own.trim_end_matches("/quinistry"))]));
    }
    assert_eq!(amd64, arm64);
}

#[test]
fn the_manifests_of_a_platform_describe_its_config_and_all_layers() {
    let (contents, image) = sample::image(&[AMD64, ARM64]);
    for Platform { config, manifest, docker_manifest, .. } in &image.platforms {
        for (document, config_type, layer_type) in [
            (manifest, "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"),
            (
                docker_manifest,
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
        ] {
            let described = |content: &[u8], media_type| json!({ "mediaType": media_type, "digest": sha256(content), "size": content.len() });
            let layers: Vec<_> = contents.iter().map(|layer| described(layer, layer_type)).collect();
            let expected = json!({
                "schemaVersion": 2,
                "mediaType": document.descriptor.content_type,
                "config": described(&config.content, config_type),
                "layers": layers,
            });
            assert_eq!(json(&document.content), expected);
        }
    }
    for (Platform { layer, .. }, content) in image.platforms.iter().zip(&contents) {
        let archive = unpacked(content);
        let executable = sample::executable(if layer.architecture == "amd64" { AMD64 } else { ARM64 });
        for (summary, bytes) in [(layer.blob, content), (layer.tar, &archive), (layer.executable, &executable)] {
            assert_eq!((summary.digest.as_str(), summary.size), (&*sha256(bytes), bytes.len() as u64));
            assert_eq!(summary.start, bytes[..16]);
        }
    }
}

#[test]
fn the_index_and_dockers_list_name_each_platform_and_its_manifest() {
    let (_, image) = sample::image(&[ARM64, AMD64]);
    for (index, index_type, manifest_of) in [
        (
            &image.index,
            "application/vnd.oci.image.index.v1+json",
            (|platform: &Platform| &platform.manifest) as fn(&Platform) -> &Document,
        ),
        (&image.docker_list, "application/vnd.docker.distribution.manifest.list.v2+json", |platform| {
            &platform.docker_manifest
        }),
    ] {
        assert_eq!(index.descriptor.content_type, index_type);
        let entries = image.platforms.iter().zip(["amd64", "arm64"]).map(|(platform, architecture)| {
            let Document { descriptor, content } = manifest_of(platform);
            json!({
                "mediaType": descriptor.content_type,
                "digest": sha256(content),
                "size": content.len(),
                "platform": { "architecture": architecture, "os": "linux" },
            })
        });
        let entries: Vec<_> = entries.collect();
        let expected = json!({ "schemaVersion": 2, "mediaType": index_type, "manifests": entries });
        assert_eq!(json(&index.content), expected);
    }
}

#[test]
fn every_document_has_the_digest_and_the_size_of_its_content() {
    let (_, image) = sample::image(&[AMD64, ARM64]);
    assert_eq!(image.documents().count(), 1 + 2 * 2);
    let of_docker = image.platforms.iter().map(|platform| &platform.docker_manifest);
    let of_docker = std::iter::once(&image.docker_list).chain(of_docker);
    for Document { descriptor, content } in image.documents().chain(of_docker) {
        assert_eq!((descriptor.digest.as_str(), descriptor.size), (&*sha256(content), content.len() as u64));
    }
}

#[test]
fn an_image_for_32_bit_arm_names_the_variant_of_its_processor() {
    let mut executable = sample::executable(40);
    // The header of a 32-bit file has the position, size and number of the program headers at other offsets.
    executable[4] = 1;
    executable[28] = 64;
    executable[42] = 56;
    executable[44] = 1;
    let (_, image) = Image::assemble(vec![sample::layer(&executable)]);
    let platform = json!({ "architecture": "arm", "os": "linux", "variant": "v7" });
    for index in [&image.index, &image.docker_list] {
        assert_eq!(json(&index.content)["manifests"][0]["platform"], platform);
    }
    let config = json(&image.platforms[0].config.content);
    for field in ["architecture", "os", "variant"] {
        assert_eq!(config[field], platform[field]);
    }
}

#[test]
fn the_image_does_not_depend_on_the_platform_of_the_server_that_packs_it() {
    let (contents, image) = sample::image(&[AMD64, ARM64]);
    let (other_contents, other) = sample::image(&[ARM64, AMD64]);
    assert_eq!((image.own, other.own), (0, 1));
    assert_eq!(contents, other_contents);
    let contents = |image: &Image| image.documents().map(|it| it.content.clone()).collect::<Vec<_>>();
    assert_eq!(contents(&image), contents(&other));
}

#[test]
fn a_layer_does_not_depend_on_the_other_layers() {
    let (_, alone) = sample::image(&[ARM64]);
    let (_, with_another) = sample::image(&[AMD64, ARM64]);
    assert_eq!(alone.platforms[0].layer.blob.digest, with_another.platforms[1].layer.blob.digest);
    assert_ne!(alone.index.descriptor.digest, with_another.index.descriptor.digest);
}

#[test]
fn another_executable_makes_another_image() {
    let mut executable = sample::executable(AMD64);
    *executable.last_mut().expect("not empty") ^= 1;
    let (_, other) = Image::assemble(vec![sample::layer(&executable)]);
    let (image, _) = sample::packed();
    assert_ne!(other.index.descriptor.digest, image.index.descriptor.digest);
}

#[test]
fn a_file_that_cannot_be_packed_is_refused_with_the_reason() {
    let executable = sample::executable(AMD64);
    let size = executable.len() as u64;
    for (bytes, size, reason) in [
        (&b"#!/bin/sh\n"[..], 10, "not an executable for Linux".to_owned()),
        (&executable, size - 1, format!("no longer has the {} bytes", size - 1)),
        (&executable, size + 1, format!("no longer has the {} bytes", size + 1)),
        // In tar, a size has eleven octal digits.
        (&executable, 1 << 33, "8589934592 bytes, more than".to_owned()),
    ] {
        let packed = Executable::check(bytes, size).and_then(|executable| executable.pack(Vec::new()));
        let error = packed.expect_err("the file cannot be packed").to_string();
        assert!(error.contains(&reason), "{error}");
    }
}

/// Returns the files of a tar archive. Checks that no file occurs twice, that each is in a directory that precedes it,
/// and that each blob is named after its digest.
fn files(archive: &[u8]) -> HashMap<String, Vec<u8>> {
    let (mut files, mut directories) = (HashMap::new(), vec![String::new()]);
    for entry in tar::Archive::new(archive).entries().expect("a tar archive") {
        let mut entry = entry.expect("a header");
        let path = entry.path().expect("a path").display().to_string();
        let name = path.trim_end_matches('/').rsplit('/').next().expect("a name");
        assert!(directories.contains(&path[..path.rfind(name).expect("its end")].to_owned()), "{path}");
        if entry.header().entry_type().is_dir() {
            directories.push(path);
            continue;
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        if let Some(encoded) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(sha256(&content), format!("sha256:{encoded}"));
        }
        assert!(files.insert(path, content).is_none(), "no file may occur twice");
    }
    assert_eq!(directories, ["", "blobs/", "blobs/sha256/"]);
    files
}

#[test]
fn an_archive_is_both_an_oci_layout_and_a_docker_archive() {
    let (contents, image) = sample::image(&[ARM64, AMD64]);
    let mut archive = Vec::new();
    let layers = contents.iter().map(|content| &content[..]);
    quinistry::image::archive::write(&image, layers, &mut archive).expect("a Vec takes everything");
    let files = files(&archive);
    assert_eq!(files.len(), 3 + image.documents().count() + contents.len());
    assert_eq!(json(&files["oci-layout"]), json!({ "imageLayoutVersion": "1.0.0" }));
    let blob = |digest: &str| &files[&format!("blobs/{}", digest.replace(':', "/"))];
    for Document { descriptor, content } in image.documents() {
        assert_eq!(blob(descriptor.digest.as_str()), content);
    }

    // The OCI layout: one entry refers to the index, and has the tag and the name for containerd.
    let oci_index = "application/vnd.oci.image.index.v1+json";
    let entry = json!({
        "mediaType": oci_index,
        "digest": image.index.descriptor.digest.as_str(),
        "size": image.index.content.len(),
        "annotations": {
            "io.containerd.image.name": "docker.io/library/quinistry:latest",
            "org.opencontainers.image.ref.name": "latest",
        },
    });
    let index = json!({ "schemaVersion": 2, "mediaType": oci_index, "manifests": [entry] });
    assert_eq!(json(&files["index.json"]), index);

    // The Docker archive is for the platform of the program that writes it.
    let images = json(&files["manifest.json"]);
    assert_eq!(images.as_array().map(Vec::len), Some(1));
    assert_eq!(images[0]["RepoTags"], json!(["quinistry:latest"]));
    let config = &files[images[0]["Config"].as_str().expect("a path")];
    assert_eq!(json(config)["architecture"], "arm64");
    let layers = images[0]["Layers"].as_array().expect("a list").iter();
    let layers: Vec<_> = layers.map(|path| &files[path.as_str().expect("a path")]).collect();
    assert_eq!(layers, [&contents[0], &contents[1]]);
}

#[test]
fn gnu_tar_and_bsdtar_unpack_the_layer_and_list_root_as_the_owner() {
    let (_, layer) = sample::packed();
    for name in ["tar", "bsdtar"] {
        if !has_tool(name, &["--version"]) || !has_tool("gzip", &["--version"]) {
            continue;
        }
        let folder = Folder::new(name);
        let archive = folder.0.join("layer.tar.gz");
        fs::write(&archive, &layer).expect("the file can be written");
        let listed = run(tool(name).arg("-tvzf").arg(&archive));
        let lines: Vec<_> = listed.lines().collect();
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with("amd64/"), "{listed}");
        assert!(lines[1].starts_with("-rwxr-xr-x") && lines[1].ends_with("amd64/quinistry"), "{listed}");
        assert!(lines.len() == 2 && lines.iter().all(|line| line.contains("1970")), "{listed}");
        let owners = run(tool(name).arg("--numeric-owner").arg("-tvzf").arg(&archive));
        assert!(
            owners.contains(" 0/0 ") || owners.split_whitespace().collect::<Vec<_>>()[1..4] == ["0", "0", "0"],
            "{owners}"
        );
        run(tool(name).arg("-xzf").arg(&archive).arg("-C").arg(&folder.0));
        let unpacked = folder.0.join("amd64/quinistry");
        assert_eq!(fs::read(&unpacked).expect("it was unpacked"), sample::executable(AMD64));
        let metadata = fs::metadata(&unpacked).expect("it was unpacked");
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.mtime()), (0o755, 0));
    }
}

#[test]
fn a_program_that_is_not_linked_statically_does_not_compile() {
    let errors = |feature: &str| {
        let main = concat!(env!("CARGO_MANIFEST_DIR"), "/src/main.rs");
        let mut rustc = tool("rustc");
        // rustc is not given the library, so it reports errors in both cases.
        rustc.args(["--edition=2024", "--emit=metadata=/dev/null", "-C", feature, main]);
        lossy(&rustc.output().expect("rustc starts").stderr).into_owned()
    };
    let (dynamic, fixed) = (errors("target-feature=-crt-static"), errors("target-feature=+crt-static"));
    for way_out in
        ["cargo build --release", "cargo install --locked --git https://github.com/tazjin/quinistry quinistry"]
    {
        let way_out = format!("RUSTFLAGS=\"$RUSTFLAGS -C target-feature=+crt-static\" {way_out}\n");
        assert!(dynamic.contains(&way_out), "{dynamic}");
        assert!(!fixed.contains(&way_out), "{fixed}");
    }
}

#[test]
fn a_build_date_that_rfc_3339_cannot_express_does_not_compile() {
    let folder = Folder::new("date");
    let build = |date: &str| {
        let clock = concat!(env!("CARGO_MANIFEST_DIR"), "/src/clock.rs");
        let mut rustc = tool("rustc");
        // rustc writes a temporary file and then renames it, so an output of /dev/null would replace that device.
        let metadata = format!("--emit=metadata={}", folder.path("metadata"));
        rustc.args(["--edition=2024", "--crate-type=lib", &metadata, clock]);
        let output = rustc.env("SOURCE_DATE_EPOCH", date).output().expect("rustc starts");
        (output.status.success(), lossy(&output.stderr).into_owned())
    };
    for date in ["0", "1764288000", "253402300799"] {
        let (is_built, said) = build(date);
        assert!(is_built, "{date}: {said}");
    }
    for (date, reason) in [
        ("253402300800", "must not be after the year 9999"),
        ("18446744073709551615", "must not be after the year 9999"),
        ("18446744073709551616", "must be a number of seconds"),
        ("-1", "must be a number of seconds"),
        ("now", "must be a number of seconds"),
        ("", "must be a number of seconds"),
    ] {
        let (is_built, said) = build(date);
        assert!(!is_built && said.contains(reason), "{date}: {said}");
    }
}
