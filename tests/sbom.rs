//! The bill of materials: its two files match Cargo's list of crates, and validators, scanners and registry clients
//! accept them. Tests whose tools are missing are skipped.
//!
//! The files are generated. This command writes them again:
//!
//! ```sh
//! QUINISTRY_UPDATE=1 cargo test --test sbom
//! ```

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use common::{Folder, Server, find, has_tool, quinistry, quinistry_at, run, sha256, tool, write_executable};
use quinistry::image::sbom::{DOCUMENT, SECTION};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_quinistry");
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/image");

/// Targets of Rust whose executables can be in an image, one for each processor.
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

/// A crate that ships.
#[derive(Default)]
struct Crate {
    name: String,
    version: String,
    /// An SPDX expression.
    license: String,
    /// The names of the crates that it uses.
    uses: BTreeSet<String>,
}

impl Crate {
    /// Returns the package URL, by which advisories identify a crate (purl-spec, type "cargo").
    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

/// Returns every crate that ships on any target, from `cargo tree`: quinistry, then the others in order.
fn crates() -> Vec<Crate> {
    let mut crates = BTreeMap::<String, Crate>::new();
    for target in TARGETS {
        let mut cargo = tool("cargo");
        cargo.args(["tree", "--offline", "--locked", "--edges", "normal", "--target", target]);
        let tree = run(cargo.args(["--no-dedupe", "--prefix", "depth", "--format", " {p}|{l}"]));
        let mut path: Vec<String> = Vec::new();
        for line in tree.lines() {
            let (depth, described) = line.split_once(' ').expect("a depth");
            let (package, license) = described.split_once('|').expect("a license");
            // If a crate is not from crates.io, its source follows the version.
            let mut words = package.split(' ');
            let (name, version) = (words.next().expect("a name"), words.next().expect("a version"));
            path.truncate(depth.parse().expect("a number"));
            if let Some(user) = path.last() {
                crates.get_mut(user).expect("a crate follows its user").uses.insert(name.to_owned());
            }
            let found = crates.entry(name.to_owned()).or_default();
            let version = version.strip_prefix('v').expect("a version");
            assert!(found.version.is_empty() || found.version == version, "there are two versions of {name}");
            (found.name, found.version, found.license) = (name.into(), version.into(), license.into());
            path.push(name.to_owned());
        }
    }
    let own = crates.remove("quinistry").expect("the root");
    std::iter::once(own).chain(crates.into_values()).collect()
}

/// Returns the crates as a `CycloneDX` document: a line for each crate, and a line for its dependencies.
fn document(crates: &[Crate]) -> String {
    let component = |kind: &str, it: &Crate| {
        let (purl, Crate { name, version, license, .. }) = (it.purl(), it);
        format!(
            "{{\"type\": \"{kind}\", \"bom-ref\": \"{purl}\", \"name\": \"{name}\", \"version\": \"{version}\", \
             \"purl\": \"{purl}\", \"licenses\": [{{\"expression\": \"{license}\"}}]}}"
        )
    };
    let dependency = |it: &Crate| {
        let used = crates.iter().filter(|other| it.uses.contains(&other.name));
        let used: Vec<_> = used.map(|other| format!("\"{}\"", other.purl())).collect();
        format!("{{\"ref\": \"{}\", \"dependsOn\": [{}]}}", it.purl(), used.join(", "))
    };
    let components: Vec<_> = crates[1..].iter().map(|it| component("library", it)).collect();
    let dependencies: Vec<_> = crates.iter().map(dependency).collect();
    format!(
        "{{\n\"bomFormat\": \"CycloneDX\",\n\"specVersion\": \"1.5\",\n\"version\": 1,\n\
         \"metadata\": {{\"component\": {}}},\n\"components\": [\n{}\n],\n\"dependencies\": [\n{}\n]\n}}\n",
        component("application", &crates[0]),
        components.join(",\n"),
        dependencies.join(",\n"),
    )
}

/// Returns the crates in the format of `cargo auditable`. A package has the indices of its dependencies.
fn auditable(crates: &[Crate]) -> Value {
    let packages = crates.iter().enumerate().map(|(place, it)| {
        let mut package = json!({ "name": it.name, "version": it.version });
        package["source"] = if place == 0 { "local" } else { "crates.io" }.into();
        if place == 0 {
            package["root"] = true.into();
        }
        if !it.uses.is_empty() {
            let used = (0..crates.len()).filter(|&other| it.uses.contains(&crates[other].name));
            package["dependencies"] = used.collect();
        }
        package
    });
    json!({ "packages": packages.collect::<Vec<_>>() })
}

/// Returns a list in a zlib stream, as `cargo auditable` does. It is stored without compression, because the layer is
/// compressed as a whole.
fn zlib(list: &Value) -> Vec<u8> {
    let mut stream = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::none());
    stream.write_all(list.to_string().as_bytes()).expect("a Vec takes everything");
    stream.finish().expect("a Vec takes everything")
}

/// Returns the list that a zlib stream contains.
fn unzipped(stream: &[u8]) -> Value {
    let mut stream = flate2::bufread::ZlibDecoder::new(stream);
    let list = serde_json::from_reader(&mut stream).expect("JSON, and a checksum that matches");
    assert_eq!(stream.into_inner(), b"", "nothing may follow the stream");
    list
}

#[test]
fn the_files_list_the_crates_that_cargo_tree_lists() {
    if !has_tool("cargo", &["--version"]) {
        return;
    }
    let crates = crates();
    let (document, list) = (document(&crates), auditable(&crates));
    if std::env::var_os("QUINISTRY_UPDATE").is_some() {
        std::fs::write(format!("{FOLDER}/sbom.json"), document).expect("the file can be written");
        std::fs::write(format!("{FOLDER}/sbom.zlib"), zlib(&list)).expect("the file can be written");
        return;
    }
    let update = "the bill of materials is not that of Cargo.lock; run: QUINISTRY_UPDATE=1 cargo test --test sbom";
    assert_eq!(str::from_utf8(DOCUMENT), Ok(&*document), "{update}");
    assert_eq!(unzipped(&SECTION), list, "{update}");
}

#[test]
fn the_executable_contains_the_list_of_crates_that_scanners_read() {
    let executable = std::fs::read(PROGRAM).expect("the executable");
    assert!(find(&executable, &SECTION).is_some());
    if has_tool("rust-audit-info", &[PROGRAM]) {
        let found = run(tool("rust-audit-info").arg(PROGRAM));
        assert_eq!(serde_json::from_str::<Value>(&found).expect("JSON"), unzipped(&SECTION));
    }
}

#[test]
fn both_files_list_the_same_crates_and_begin_with_this_version_of_quinistry() {
    let document: Value = serde_json::from_slice(DOCUMENT).expect("JSON");
    let list = unzipped(&SECTION);
    let named = |it: &Value| format!("{} {}", it["name"], it["version"]);
    let packages: Vec<_> = list["packages"].as_array().expect("a list").iter().map(named).collect();
    let libraries = document["components"].as_array().expect("a list").iter();
    let own = &document["metadata"]["component"];
    assert_eq!(std::iter::once(own).chain(libraries).map(named).collect::<Vec<_>>(), packages);
    assert_eq!(packages[0], concat!("\"quinistry\" \"", env!("CARGO_PKG_VERSION"), "\""));
}

#[test]
fn the_document_conforms_to_the_schema_of_cyclone_dx() {
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
    // The validator is strict enough to notice a misspelling.
    let errors = [("purl", "prul"), ("library", "librari"), ("specVersion", "version"), ("dependsOn", "dependson")];
    let wrong = errors.map(|(right, wrong)| document.replacen(right, wrong, 1));
    let folder = Folder::new("sbom");
    let paths = [document].into_iter().chain(wrong).enumerate().map(|(number, document)| {
        let path = folder.path(&format!("{number}.cdx.json"));
        std::fs::write(&path, document).expect("the file can be written");
        path
    });
    let said = run(tool("python3").args(["-c", VALIDATE]).args(paths));
    assert_eq!(said.lines().collect::<Vec<_>>(), ["valid", "invalid", "invalid", "invalid", "invalid"]);
}

#[test]
fn the_command_sbom_prints_the_same_document_everywhere() {
    let folder = Folder::new("elsewhere");
    let copy = folder.path("other-name");
    write_executable(&copy, &std::fs::read(PROGRAM).expect("the executable"));
    let elsewhere = run(quinistry_at(copy).arg("sbom").env_clear().env("TZ", "Asia/Tokyo").current_dir(&folder.0));
    assert_eq!(elsewhere.as_bytes(), DOCUMENT);
    assert_eq!(run(quinistry().arg("sbom")), elsewhere);
}

#[test]
fn skopeo_copies_the_artifact_by_its_digest_and_by_the_referrers_tag() {
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
