//! Holds the bill of materials: the list of crates is Cargo's, and each form of it is what its readers expect.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Folder, Server, find, has_tool, quinistry, quinistry_at, run, sha256, tool};
use quinistry::image::sbom::{CRATES, Crate, DOCUMENT, SECTION};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_quinistry");

/// Rust's names for the targets whose executables can be in an image, one of each processor.
const TARGETS: [&str; 8] = [
    "aarch64-unknown-linux-musl",
    "armv7-unknown-linux-musleabihf",
    "i686-unknown-linux-musl",
    "loongarch64-unknown-linux-gnu",
    "powerpc64le-unknown-linux-gnu",
    "riscv64gc-unknown-linux-gnu",
    "s390x-unknown-linux-gnu",
    "x86_64-unknown-linux-gnu",
];

/// Crates, each as `NAME vVERSION|LICENSE`, with the names of those that it uses.
type Crates = BTreeMap<String, BTreeSet<String>>;

fn listed() -> Crates {
    let describe = |it: &Crate| format!("{} v{}|{}", it.name, it.version, it.license);
    CRATES.iter().map(|it| (describe(it), it.uses.iter().map(|name| (*name).to_owned()).collect())).collect()
}

/// What `cargo tree` says of a target.
fn in_tree(target: &str) -> Crates {
    let mut cargo = tool("cargo");
    cargo.args(["tree", "--offline", "--locked", "--edges", "normal", "--target", target]);
    let tree = run(cargo.args(["--no-dedupe", "--prefix", "depth", "--format", " {p}|{l}"]));
    let (mut crates, mut path): (Crates, Vec<String>) = (Crates::new(), Vec::new());
    for line in tree.lines() {
        let (depth, described) = line.split_once(' ').expect("a depth");
        let (name_and_version, license) = described.split_once('|').expect("a license");
        // Behind the name and version of a crate that is not from crates.io is where it is.
        let described = format!("{}|{license}", name_and_version.split(" (").next().expect("a name"));
        path.truncate(depth.parse().expect("a number"));
        if let Some(user) = path.last() {
            let name = described.split(' ').next().expect("a name").to_owned();
            crates.get_mut(user).expect("it came before").insert(name);
        }
        crates.entry(described.clone()).or_default();
        path.push(described);
    }
    crates
}

#[test]
fn the_list_is_what_cargo_tree_says_but_for_the_differences_that_are_documented() {
    if !has_tool("cargo", &["--version"]) {
        return;
    }
    for target in TARGETS {
        let mut expected = listed();
        let mut leave_out = |user: &str, used: &str| {
            let user = expected.iter_mut().find(|(described, _)| described.starts_with(&format!("{user} ")));
            assert!(user.expect("it is listed").1.remove(used));
        };
        if !target.starts_with("aarch64") {
            leave_out("cpufeatures", "libc");
        }
        if !["aarch64", "i686", "x86_64"].iter().any(|processor| target.starts_with(processor)) {
            leave_out("sha2", "cpufeatures");
            expected.retain(|described, _| !described.starts_with("cpufeatures "));
        }
        assert_eq!(in_tree(target), expected, "{target}");
    }
}

/// The list as `cargo auditable` would write it.
fn auditable() -> Value {
    let place = |name: &&str| CRATES.iter().position(|it| it.name == *name).expect("it is listed");
    let packages = CRATES.iter().enumerate().map(|(at, it)| {
        let mut package = json!({ "name": it.name, "version": it.version });
        package["source"] = if at == 0 { "local" } else { "crates.io" }.into();
        if at == 0 {
            package["root"] = true.into();
        }
        if !it.uses.is_empty() {
            package["dependencies"] = it.uses.iter().map(place).collect();
        }
        package
    });
    json!({ "packages": packages.collect::<Vec<_>>() })
}

#[test]
fn the_executable_has_the_list_in_a_zlib_stream() {
    let executable = std::fs::read(PROGRAM).expect("the executable");
    assert!(find(&executable, &SECTION).is_some());
    let mut stream = flate2::bufread::ZlibDecoder::new(&SECTION[..]);
    let found: Value = serde_json::from_reader(&mut stream).expect("JSON, and a checksum that matches");
    assert_eq!(found, auditable());
    assert_eq!(stream.into_inner(), b"", "nothing is behind it");
}

#[test]
fn the_reader_of_cargo_auditable_finds_the_list_in_the_executable() {
    if !has_tool("rust-audit-info", &[PROGRAM]) {
        return;
    }
    let found = run(tool("rust-audit-info").arg(PROGRAM));
    assert_eq!(serde_json::from_str::<Value>(&found).expect("JSON"), auditable());
}

#[test]
fn the_document_names_every_crate_and_what_it_uses() {
    let document: Value = serde_json::from_slice(DOCUMENT).expect("JSON");
    let purl = |it: &Crate| format!("pkg:cargo/{}@{}", it.name, it.version);
    let component = |it: &Crate, kind| {
        let (purl, license) = (purl(it), json!([{ "expression": it.license }]));
        json!({
            "type": kind, "bom-ref": purl, "purl": purl, "name": it.name, "version": it.version, "licenses": license,
        })
    };
    assert_eq!(document["metadata"], json!({ "component": component(&CRATES[0], "application") }));
    assert_eq!(CRATES[0].name, "quinistry");
    let libraries: Vec<_> = CRATES[1..].iter().map(|it| component(it, "library")).collect();
    assert_eq!(document["components"], json!(libraries));
    let by_name = |name: &&str| purl(CRATES.iter().find(|it| it.name == *name).expect("it is listed"));
    let dependencies = CRATES
        .iter()
        .map(|it| json!({ "ref": purl(it), "dependsOn": it.uses.iter().map(by_name).collect::<Vec<_>>() }));
    assert_eq!(document["dependencies"], json!(dependencies.collect::<Vec<_>>()));
}

#[test]
fn the_document_is_valid_against_the_schema_of_cyclone_dx() {
    const VALIDATE: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
validator = JsonStrictValidator(SchemaVersion.V1_5)
for path in sys.argv[1:]:
    print('invalid' if validator.validate_str(open(path).read()) else 'valid')";
    if !has_tool("python3", &["-c", "import cyclonedx.validation.json, jsonschema"]) {
        return;
    }
    let document = run(quinistry().arg("sbom"));
    // The validator is strict: a typing error does not get past it.
    let errors =
        [("purl", "prul"), ("library", "librari"), ("specVersion", "version"), ("dependsOn", "dependson")];
    let wrong = errors.map(|(right, wrong)| document.replacen(right, wrong, 1));
    let folder = Folder::new("sbom");
    let paths = [document].into_iter().chain(wrong).enumerate().map(|(number, document)| {
        let path = folder.path(&format!("{number}.cdx.json"));
        std::fs::write(&path, document).expect("room for it");
        path
    });
    let said = run(tool("python3").args(["-c", VALIDATE]).args(paths));
    assert_eq!(said.lines().collect::<Vec<_>>(), ["valid", "invalid", "invalid", "invalid", "invalid"]);
}

#[test]
fn the_command_prints_the_document_wherever_and_whenever_it_runs() {
    let folder = Folder::new("elsewhere");
    let copy = folder.path("other-name");
    std::fs::copy(PROGRAM, &copy).expect("room for it");
    let elsewhere =
        run(quinistry_at(copy).arg("sbom").env_clear().env("TZ", "Asia/Tokyo").current_dir(&folder.0));
    assert_eq!(elsewhere.as_bytes(), DOCUMENT);
    assert_eq!(run(quinistry().arg("sbom")), elsewhere);
}

#[test]
fn skopeo_copies_the_artifact_by_its_digest_and_by_the_tag_for_referrers() {
    if !has_tool("skopeo", &["--version"]) {
        return;
    }
    let server = Server::start();
    let image = server.manifest_digest();
    let referrers = server.ask(&format!("GET /v2/quinistry/referrers/{image}"), &[]).json();
    let artifact = referrers["manifests"][0]["digest"].as_str().expect("a digest");
    for reference in [format!("@{artifact}"), format!(":{}", image.replace(':', "-"))] {
        let folder = Folder::new("artifact");
        let source = format!("docker://{}/quinistry{reference}", server.address);
        let target = format!("oci:{}:bill", folder.path("layout"));
        run(tool("skopeo").args(["copy", "--all", "--src-tls-verify=false", &source, &target]));
        let blob = folder.path("layout/blobs/") + &sha256(DOCUMENT).replace(':', "/");
        assert_eq!(std::fs::read(blob).expect("it was copied"), DOCUMENT, "{reference}");
    }
}
