//! The registry protocol, response by response: what real clients request, and what they need to receive.
//!
//! A response depends only on the image and the request, except at `/` and `/metrics`. So these tests need no sockets
//! and no tools. In every test, [`World::ask`] also checks what must be true of all responses.
//!
//! The registry serves an image for two platforms, and runs on the second of them.

mod common;

use common::sample::{self, AMD64, ARM64};
use common::{Response, request, sha256};
use quinistry::clock::Clock;
use quinistry::http::request;
use quinistry::http::response::{Content, Persistence};
use quinistry::image::sbom::{self, CYCLONE_DX};
use quinistry::image::{Descriptor, VERSION};
use quinistry::metrics::{Metrics, Vitals};
use quinistry::site::{Site, shared_fields};
use serde_json::Value;

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// A registry, and the content that it serves.
struct World {
    site: Site,
    /// The contents of the layers, in the order of the image.
    contents: Vec<Vec<u8>>,
    /// The digests of the indexes and manifests, each with its media type. The OCI index is first.
    manifests: Vec<(String, &'static str)>,
    /// The digests of the configs.
    configs: Vec<String>,
    /// The digest of the last layer, and its content.
    blob: String,
    layer: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let (contents, image) = sample::image(&[ARM64, AMD64]);
        let digest = |d: &Descriptor| d.digest.to_string();
        let mut manifests =
            vec![(digest(&image.index.descriptor), OCI_INDEX), (digest(&image.docker_list.descriptor), DOCKER_LIST)];
        for platform in &image.platforms {
            manifests.push((digest(&platform.manifest.descriptor), OCI));
            manifests.push((digest(&platform.docker_manifest.descriptor), DOCKER));
        }
        let configs = image.platforms.iter().map(|platform| digest(&platform.config.descriptor)).collect();
        let (blob, layer) = (digest(&Descriptor::of(&image.platforms[1].layer)), contents[1].clone());
        Self { site: Site::new(image), contents, manifests, configs, blob, layer }
    }

    /// Returns the digest of the OCI index.
    fn index(&self) -> &str {
        &self.manifests[0].0
    }

    /// Returns the OCI index and the OCI manifests. Docker's forms of them have no referrers.
    fn subjects(&self) -> impl Iterator<Item = &(String, &'static str)> {
        self.manifests.iter().filter(|(_, media_type)| [OCI_INDEX, OCI].contains(media_type))
    }

    /// Returns the response to a request. Checks what must be true of every response, and that HEAD agrees with GET.
    fn ask(&self, line: &str, fields: &[&str]) -> Response {
        let response = self.ask_once(line, fields);
        if let Some(target) = line.strip_prefix("GET ") {
            let mut as_head = self.ask_once(&format!("HEAD {target}"), fields);
            assert!(as_head.content.is_empty(), "a response to HEAD has no content: {line}");
            if !fields.iter().any(|field| field.starts_with("Range")) {
                as_head.content.clone_from(&response.content);
                if target == "/" && response.status == 200 {
                    // RFC 9110 section 9.3.2 lets HEAD omit fields that require generating the content.
                    let length = response.field("content-length").expect("the length of the content").to_owned();
                    assert_eq!(as_head.field("content-length"), None);
                    as_head.fields.insert("content-length".into(), length);
                }
                assert_eq!(as_head, response, "a response to HEAD has the status and fields of GET: {line}");
            }
        }
        response
    }

    fn ask_once(&self, line: &str, fields: &[&str]) -> Response {
        self.response(line, request(line, fields).as_bytes())
    }

    /// Returns the response to a request that is given as bytes, because its field values may contain any bytes.
    fn response(&self, line: &str, bytes: &[u8]) -> Response {
        let parsed = request::parse(bytes).expect("a valid request");
        let (request, length) = parsed.expect("a complete one");
        assert_eq!(length, bytes.len());
        let clock = Clock::start();
        let metrics = Metrics::default();
        let vitals = Vitals { metrics: &metrics, clock: &clock, dropped_lines: 0, faults: &[] };
        let served = self.site.respond(&request, &vitals).response;
        let mut head = Vec::new();
        served.write_head(DATE, shared_fields(&request.path), Persistence::Implied, &mut head);
        let mut response = Response::from_head(&head);
        let Content { bytes, part } = &served.content;
        let of_file = &self.contents[part.file][part.range.start as usize..part.range.end as usize];
        response.content = [&**bytes, of_file].concat();

        assert_eq!(response.status, served.status.code());
        assert_eq!(response.field("date"), Some(DATE));
        assert_eq!(response.field("docker-distribution-api-version"), Some("registry/2.0"));
        assert_eq!(response.field("transfer-encoding").or(response.field("content-encoding")), None);
        // A page of another origin can read responses under /v2, including errors, and no others.
        let is_under_v2 = request.path == "/v2" || request.path.starts_with("/v2/");
        let shared = |value| if is_under_v2 { Some(value) } else { None };
        assert_eq!(response.field("access-control-allow-origin"), shared("*"), "{line}");
        let exposed = shared("Docker-Content-Digest, Link, OCI-Filters-Applied");
        assert_eq!(response.field("access-control-expose-headers"), exposed, "{line}");
        if line.starts_with("HEAD ") || [204, 304].contains(&response.status) {
            assert!(response.content.is_empty());
        } else {
            assert_eq!(response.content_length(), response.content.len(), "{line}");
        }
        if response.status >= 400 {
            assert_eq!(response.field("cache-control"), Some("no-store"), "{line}");
            assert!(line.starts_with("HEAD ") || !response.error_code().is_empty());
        }
        response
    }

    /// Returns the response to a request for content, which must exist and match its digest.
    fn content(&self, line: &str, fields: &[&str]) -> Response {
        let response = self.ask(line, fields);
        assert_eq!(response.status, 200, "{line} {fields:?}");
        let digest = response.field("docker-content-digest").expect("the digest of content");
        assert_eq!(digest, sha256(&response.content), "{line}");
        assert_eq!(response.field("etag"), Some(&*format!("\"{digest}\"")));
        assert_eq!(response.field("accept-ranges"), Some("bytes"));
        response
    }
}

/// Asserts the status and the error code of the response to each request.
fn assert_errors(world: &World, cases: &[(&str, u16, &str)]) {
    for &(line, status, code) in cases {
        let response = world.ask(line, &[]);
        assert_eq!((response.status, &*response.error_code()), (status, code), "{line}");
    }
}

#[test]
fn the_base_endpoint_shows_that_this_is_a_registry() {
    let world = World::new();
    for line in ["GET /v2/", "GET /v2", "GET /v2/?ns=docker.io", "GET http://localhost:8080/v2/"] {
        let response = world.ask(line, &[]);
        assert_eq!((response.status, &*response.content), (200, &b"{}"[..]), "{line}");
        assert_eq!(response.field("content-type"), Some("application/json"));
    }
}

#[test]
fn the_root_shows_commands_that_pull_from_the_host_in_the_request() {
    let response = World::new().ask("GET /", &[]);
    assert_eq!(response.status, 200);
    assert!(response.field("content-type").expect("a type").starts_with("text/plain"));
    assert!(common::lossy(&response.content).contains("docker pull localhost:8080/quinistry\n"));
}

#[test]
fn the_commands_publish_the_child_on_a_different_port_from_the_parent() {
    for (host, port) in [
        ("localhost:8080", 8090),
        ("localhost:8090", 8100),
        ("[::1]:5000", 5010),
        ("registry.example", 8090),
        ("[2001:db8::1]", 8090),
        ("localhost:65535", 65525),
        ("localhost:0", 10),
    ] {
        let wanted = format!(
            "  docker pull {host}/quinistry\n  docker run -d --rm -p {port}:8080 {host}/quinistry\n  \
             docker pull localhost:{port}/quinistry\n"
        );
        assert_eq!(quinistry::welcome::commands(host, "  "), wanted);
    }
}

#[test]
fn a_health_probe_receives_200_and_ok() {
    let world = World::new();
    for line in ["GET /healthz", "GET /healthz?verbose"] {
        let response = world.ask(line, &[]);
        assert_eq!((response.status, &*response.content), (200, &b"ok\n"[..]), "{line}");
        assert_eq!(response.field("content-type"), Some("text/plain"), "{line}");
    }
    for target in ["/healthz/", "/livez", "/v2/healthz"] {
        assert_eq!(world.ask(&format!("GET {target}"), &[]).status, 404, "{target}");
    }
}

/// Returns the rows of the table "Which manifest?" in the documentation of the registry: a type in Accept, and what a
/// tag then stands for. The last row is for an Accept with none of these types, and for a request without Accept.
fn documented_choices() -> Vec<(&'static str, &'static str)> {
    let source = include_str!("../src/registry.rs");
    let rows = source.lines().filter_map(|line| line.strip_prefix("//! | ")).skip(1);
    rows.map(|row| {
        let (accept, stands_for) = row.trim_end_matches([' ', '|']).split_once('|').expect("two columns");
        (accept.trim().trim_matches('`'), stands_for.trim())
    })
    .collect()
}

/// Returns the media type of a document that the table names.
fn media_type(stands_for: &str) -> &'static str {
    match stands_for {
        "the index" => OCI_INDEX,
        "Docker's list" => DOCKER_LIST,
        "the manifest for our platform" => OCI,
        "Docker's manifest for our platform" => DOCKER,
        other => panic!("the documentation has no {other:?}"),
    }
}

#[test]
fn a_tag_stands_for_the_document_that_the_table_in_the_documentation_lists() {
    let world = World::new();
    let mut choices = documented_choices();
    assert_eq!(choices.len(), 7);
    let (_, otherwise) = choices.pop().expect("the last line");
    // Whichever of these types a client accepts, in any order and spelling, the first row of the table that matches
    // decides.
    for set in 0..1_usize << choices.len() {
        let chosen: Vec<_> = (0..choices.len()).filter(|bit| set >> bit & 1 == 1).collect();
        let expected = media_type(chosen.first().map_or(otherwise, |line| choices[*line].1));
        let types: Vec<_> = chosen.iter().rev().map(|line| choices[*line].0).collect();
        // Field note: containerd sends one list. Docker 28, skopeo and others send a field line for each type.
        let joined = format!("Accept: text/html, {}", types.join(" , "));
        let each: Vec<_> = types.iter().map(|name| format!("accept: {};q=0.5", name.to_uppercase())).collect();
        let each: Vec<_> = each.iter().map(String::as_str).collect();
        for fields in [&[&*joined][..], &each] {
            for tag in ["latest", VERSION] {
                let response = world.content(&format!("GET /v2/quinistry/manifests/{tag}"), fields);
                assert_eq!(response.field("content-type"), Some(expected), "{fields:?}");
                assert_eq!(response.json()["mediaType"], expected);
                assert_eq!(response.field("vary"), Some("Accept"));
            }
        }
    }
}

#[test]
fn a_media_type_with_weight_0_is_not_chosen() {
    let world = World::new();
    for (accept, expected) in [
        (format!("{DOCKER}, {OCI_INDEX};q=0, */* ; q=0.000"), DOCKER),
        (format!("{OCI_INDEX};q=0,{DOCKER_LIST}; q=0.001"), DOCKER_LIST),
        ("*/*;q=0".into(), OCI_INDEX),
        // The most specific media range has precedence.
        (format!("{OCI_INDEX};q=0, */*"), DOCKER_LIST),
        (format!("application/*, {OCI_INDEX};q=0"), DOCKER_LIST),
        (format!("application/*;q=0, */*, {DOCKER}"), DOCKER),
    ] {
        let response = world.content("GET /v2/quinistry/manifests/latest", &[&format!("Accept: {accept}")]);
        assert_eq!(response.field("content-type"), Some(expected), "{accept}");
    }
}

#[test]
fn a_client_that_accepts_no_index_receives_the_manifest_for_the_platform_of_the_server() {
    for machines in [[AMD64, ARM64], [ARM64, AMD64]] {
        let (contents, image) = sample::image(&machines);
        let own = &image.platforms[image.own];
        assert_eq!(own.layer.architecture, if machines[0] == AMD64 { "amd64" } else { "arm64" });
        let digests = [&own.manifest, &own.docker_manifest].map(|document| document.descriptor.digest);
        let world = World { site: Site::new(image), contents, ..World::new() };
        for (accept, digest) in [OCI, DOCKER].into_iter().zip(digests) {
            let response = world.content("GET /v2/quinistry/manifests/latest", &[&format!("Accept: {accept}")]);
            assert_eq!(response.field("docker-content-digest"), Some(digest.as_str()));
        }
    }
}

#[test]
fn a_digest_stands_for_the_same_bytes_whatever_the_client_accepts() {
    let world = World::new();
    assert_eq!(world.manifests.len(), 2 + 2 * 2);
    for (digest, media_type) in &world.manifests {
        for accept in ["*/*", DOCKER_LIST, OCI_INDEX, DOCKER, OCI, "text/html"] {
            for written in [digest.clone(), digest.replace(':', "%3A"), digest.replace(':', "%3a")] {
                let line = format!("GET /v2/quinistry/manifests/{written}");
                let response = world.content(&line, &[&format!("Accept: {accept}")]);
                assert_eq!(response.field("docker-content-digest"), Some(&**digest));
                assert_eq!(response.field("content-type"), Some(*media_type));
                assert_eq!(response.json()["mediaType"], *media_type);
            }
        }
    }
    let by_tag = world.ask("GET /v2/quinistry/manifests/latest", &[]);
    assert_eq!(by_tag.field("docker-content-digest"), Some(world.index()));
}

#[test]
fn an_index_leads_to_its_manifests_and_each_manifest_to_its_blobs() {
    let world = World::new();
    let by_digest = |path: &str, descriptor: &Value, fields: &[&str]| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        let response = world.content(&format!("GET /v2/quinistry/{path}/{digest}"), fields);
        assert_eq!(response.field("docker-content-digest"), Some(digest));
        assert_eq!(descriptor["size"], response.content.len());
        response
    };
    for (index_type, manifest_type) in [(OCI_INDEX, OCI), (DOCKER_LIST, DOCKER)] {
        let index = world.ask("GET /v2/quinistry/manifests/latest", &[&format!("Accept: {index_type}")]).json();
        assert_eq!(index["schemaVersion"], 2);
        let entries = index["manifests"].as_array().expect("a list");
        let architectures: Vec<_> = entries.iter().map(|entry| &entry["platform"]["architecture"]).collect();
        assert_eq!(architectures, ["amd64", "arm64"]);
        for entry in entries {
            let manifest = by_digest("manifests", entry, &[]);
            assert_eq!(entry["mediaType"], manifest_type);
            assert_eq!(manifest.field("content-type"), Some(manifest_type));
            let manifest = manifest.json();
            assert_eq!(manifest["schemaVersion"], 2);
            let layers = manifest["layers"].as_array().expect("a list");
            assert_eq!(layers.len(), 2);
            for descriptor in layers.iter().chain([&manifest["config"]]) {
                let any_coding = ["Accept-Encoding: gzip, deflate, zstd, br, identity;q=0"];
                let blob = by_digest("blobs", descriptor, &any_coding);
                assert_eq!(blob.field("content-type"), Some("application/octet-stream"));
                assert_eq!(blob.field("vary"), None, "a blob does not depend on Accept");
            }
            let config = by_digest("blobs", &manifest["config"], &[]).json();
            assert_eq!(config["architecture"], entry["platform"]["architecture"]);
        }
    }
}

#[test]
fn any_namespace_and_any_unknown_query_lead_to_the_same_image() {
    let world = World::new();
    for name in ["quinistry", "library/quinistry", "tazjin/quinistry", "a/b-c/d__e/f.g/quinistry"] {
        for query in ["", "?ns=docker.io", "?ns=docker.io&x=%2F", "?"] {
            let line = format!("GET /v2/{name}/manifests/latest{query}");
            assert_eq!(world.content(&line, &[]).field("docker-content-digest"), Some(world.index()));
            assert_eq!(world.content(&format!("GET /v2/{name}/blobs/{}{query}", world.blob), &[]).content, world.layer);
            for path in ["tags/list".to_owned(), format!("referrers/{}", world.index())] {
                assert_eq!(world.ask(&format!("GET /v2/{name}/{path}{query}"), &[]).status, 200);
            }
        }
    }
}

#[test]
fn every_path_has_one_spelling_and_any_other_is_not_found() {
    let world = World::new();
    for line in [
        "GET //",
        "GET /v2//",
        "GET /v2/./",
        "GET /v2/../v2/",
        "GET //v2/",
        "GET /favicon.ico",
        "GET /v1/",
        "GET /V2/",
        "GET /v2/quinistry",
        "GET /v2/quinistry/",
        "GET /v2/quinistry/manifests",
        "GET /v2/quinistry/manifests/latest/",
        "GET /v2//quinistry/manifests/latest",
        "GET /v2/quinistry//manifests/latest",
        "GET /v2/./quinistry/manifests/latest",
        "GET /v2/x/../quinistry/manifests/latest",
        "GET /v2/x/%2e%2e/quinistry/manifests/latest",
        "GET /v2/x%2Fquinistry/manifests/latest",
        "GET /v2/quinistry%2Fmanifests%2Flatest",
        "GET /v2/manifests/latest",
        "GET /v2/quinistry/tags/list/",
        "GET /v2/quinistry/tags/",
        "GET /v2/quinistry/tags/lists",
        "GET /v2/_catalog/",
        "GET /v2/quinistry/blobs/uploads/",
        "GET /v2/quinistry/blobs/uploads/1234",
    ] {
        assert_eq!(world.ask(line, &[]).status, 404, "{line}");
    }
}

#[test]
fn unknown_and_malformed_references_are_refused_with_the_specified_error_codes() {
    let world = World::new();
    let hex = "0".repeat(64);
    let cases = [
        ("GET /v2/quinistry/manifests/nonesuch".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (format!("GET /v2/quinistry/manifests/sha256:{hex}"), 404, "MANIFEST_UNKNOWN"),
        (format!("GET /v2/quinistry/manifests/sha512:{hex}{hex}"), 404, "MANIFEST_UNKNOWN"),
        (format!("GET /v2/quinistry/manifests/{}", world.configs[0]), 404, "MANIFEST_UNKNOWN"),
        (format!("GET /v2/quinistry/manifests/{}", world.blob), 404, "MANIFEST_UNKNOWN"),
        // These are tags of the referrers tag schema, and of cosign's signatures and attestations.
        (format!("GET /v2/quinistry/manifests/sha256-{hex}"), 404, "MANIFEST_UNKNOWN"),
        (format!("GET /v2/quinistry/manifests/sha256-{hex}.sig"), 404, "MANIFEST_UNKNOWN"),
        (format!("GET /v2/quinistry/manifests/sha256-{hex}.att"), 404, "MANIFEST_UNKNOWN"),
        ("GET /v2/quinistry/manifests/sha256:abc".to_owned(), 400, "DIGEST_INVALID"),
        ("GET /v2/quinistry/manifests/:".to_owned(), 400, "DIGEST_INVALID"),
        (format!("GET /v2/quinistry/blobs/sha256:{hex}"), 404, "BLOB_UNKNOWN"),
        (format!("GET /v2/quinistry/blobs/sha512:{hex}{hex}"), 404, "BLOB_UNKNOWN"),
        (format!("GET /v2/quinistry/blobs/{}", world.manifests[0].0), 404, "BLOB_UNKNOWN"),
        (format!("GET /v2/quinistry/blobs/{}", world.manifests[3].0), 404, "BLOB_UNKNOWN"),
        ("GET /v2/quinistry/blobs/latest".to_owned(), 400, "DIGEST_INVALID"),
        (format!("GET /v2/quinistry/blobs/sha256:{}", "A".repeat(64)), 400, "DIGEST_INVALID"),
        ("GET /v2/quinistry/referrers/latest".to_owned(), 400, "DIGEST_INVALID"),
        ("GET /v2/alpine/manifests/latest".to_owned(), 404, "NAME_UNKNOWN"),
        ("GET /v2/quinistry/alpine/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("GET /v2/xquinistry/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("GET /v2/Quinistry/manifests/latest".to_owned(), 404, "NAME_INVALID"),
        ("GET /v2/-x/quinistry/manifests/latest".to_owned(), 404, "NAME_INVALID"),
        ("GET /v2/x..y/quinistry/manifests/latest".to_owned(), 404, "NAME_INVALID"),
        ("GET /v2/x___y/quinistry/manifests/latest".to_owned(), 404, "NAME_INVALID"),
    ];
    assert_errors(&world, &cases.each_ref().map(|(line, status, code)| (line.as_str(), *status, *code)));
}

#[test]
fn a_request_for_a_range_receives_206_and_the_bytes_of_the_range() {
    let world = World::new();
    let whole = world.layer.clone();
    let (size, last) = (whole.len(), whole.len() - 1);
    for (range, part) in [
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=10-19".to_owned(), 10..20),
        ("BYTES=10-".to_owned(), 10..size),
        (format!("bytes={last}-"), last..size),
        // Field note: regctl requests one byte past the end.
        (format!("bytes=0-{size}"), 0..size),
        ("bytes=5-99999999999999999999999".to_owned(), 5..size),
        ("bytes=-7".to_owned(), size - 7..size),
        ("bytes=-99999999999999999999999".to_owned(), 0..size),
    ] {
        for if_range in [None, Some(format!("If-Range: \"{}\"", world.blob))] {
            let mut fields = vec![format!("Range: {range}")];
            fields.extend(if_range);
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            let line = format!("GET /v2/quinistry/blobs/{}", world.blob);
            let response = world.ask(&line, &fields);
            assert_eq!(response.status, 206, "{range}");
            let content_range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            assert_eq!(response.field("content-range"), Some(&*content_range));
            assert_eq!(response.content, whole[part.clone()], "{range}");
            assert_eq!(response.field("content-type"), Some("application/octet-stream"));
            assert_eq!(response.field("docker-content-digest"), Some(&*world.blob));
            assert_eq!(response.field("etag"), Some(&*format!("\"{}\"", world.blob)));
        }
    }
}

#[test]
fn a_request_for_an_unsatisfiable_range_receives_416_and_the_size_of_the_content() {
    let world = World::new();
    let size = world.layer.len();
    for range in [
        format!("bytes={size}-"),
        format!("bytes={size}-{size}"),
        "bytes=500-0".into(),
        "bytes=5-4".into(),
        "bytes=-0".into(),
        "bytes=1180591620717411303424-".into(),
        "bytes=18446744073709551615-18446744073709551615".into(),
    ] {
        let response = world.ask(&format!("GET /v2/quinistry/blobs/{}", world.blob), &[&format!("Range: {range}")]);
        assert_eq!(response.status, 416, "{range}");
        assert_eq!(response.field("content-range"), Some(&*format!("bytes */{size}")));
    }
}

#[test]
fn a_range_that_is_malformed_unsupported_or_out_of_date_is_ignored() {
    let world = World::new();
    let line = format!("GET /v2/quinistry/blobs/{}", world.blob);
    for fields in [
        &["Range: bytes=0-1,5-6"][..],
        &["Range: lines=0-1"],
        &["Range: bytes"],
        &["Range: bytes="],
        &["Range: bytes=-"],
        &["Range: bytes=a-b"],
        &["Range: bytes=+1-2"],
        &["Range: bytes=1-+2"],
        &["Range: bytes=1"],
        &["Range: bytes=0x1-2"],
        &["Range: bytes=0-1", "Range: bytes=5-6"],
        &["Range: bytes=0-1", "If-Range: \"sha256:0\""],
        &["Range: bytes=0-1", "If-Range: Sun, 06 Nov 1994 08:49:37 GMT"],
        &["Range: bytes=0-1", &format!("If-Range: W/\"{}\"", world.blob)],
        &["If-Range: \"sha256:0\""],
    ] {
        assert_eq!(world.content(&line, fields).content, world.layer, "{fields:?}");
    }
    // Range is defined only for GET.
    let head = world.ask(&line.replace("GET", "HEAD"), &["Range: bytes=0-1"]);
    assert_eq!((head.status, head.content_length()), (200, world.layer.len()));
}

#[test]
fn a_manifest_can_also_be_requested_in_ranges() {
    let world = World::new();
    let whole = world.content("GET /v2/quinistry/manifests/latest", &[]);
    let part = world.ask("GET /v2/quinistry/manifests/latest", &["Range: bytes=0-9"]);
    assert_eq!((part.status, &*part.content), (206, &whole.content[..10]));
    assert_eq!(part.field("content-type"), Some(OCI_INDEX));
}

#[test]
fn a_client_that_already_has_the_content_receives_304() {
    let world = World::new();
    for (path, digest) in [
        ("manifests/latest".to_owned(), world.index()),
        (format!("manifests/{}", world.manifests[2].0), &*world.manifests[2].0),
        (format!("blobs/{}", world.blob), &world.blob),
    ] {
        let line = format!("GET /v2/quinistry/{path}");
        for tag in [format!("\"{digest}\""), format!("W/\"{digest}\""), format!("\"x\", \"{digest}\""), "*".into()] {
            // If-None-Match has precedence over Range.
            for more in [&[][..], &["Range: bytes=0-0"], &["If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"]] {
                let tag = format!("If-None-Match: {tag}");
                let fields = [&[&*tag], more].concat();
                let response = world.ask(&line, &fields);
                assert_eq!(response.status, 304, "{fields:?}");
                assert!(response.content.is_empty());
                assert_eq!(response.field("etag"), Some(&*format!("\"{digest}\"")));
                for field in ["content-length", "content-type", "docker-content-digest", "accept-ranges"] {
                    assert_eq!(response.field(field), None, "RFC 9110 section 15.4.5");
                }
                let whole = world.ask(&line, &[]);
                for field in ["vary", "cache-control"] {
                    assert_eq!(response.field(field), whole.field(field), "RFC 9110 section 15.4.5");
                }
            }
        }
        for field in [
            "If-None-Match: \"sha256:0\"",
            // The text between the quotes is one tag.
            "If-None-Match: \"a,*,b\"",
            &format!("If-None-Match: \"a, \"{digest}\", b\""),
            &format!("If-None-Match: w/\"{digest}\""),
            // `*` is not a member of a list.
            "If-None-Match: *, *",
            &format!("If-Match: \"a,b\" , W/\"x\",,\"{digest}\""),
            "If-None-Match: ",
            &format!("If-None-Match: {digest}"),
            "If-Modified-Since: Sun, 06 Nov 2094 08:49:37 GMT",
            &format!("If-Match: \"{digest}\""),
            "If-Match: *",
        ] {
            assert_eq!(world.ask(&line, &[field]).status, 200, "{field}");
        }
        for other in ["\"sha256:0\"", &format!("W/\"{digest}\""), "\"a,*,b\"", "*, \"x\"", ""] {
            assert_eq!(world.ask(&line, &[&format!("If-Match: {other}")]).status, 412, "{other}");
        }
    }
    // A byte beyond ASCII does not hide the other tags in a list.
    let line = "GET /v2/quinistry/manifests/latest";
    let tags = [b"\"\xe9\", \"", world.index().as_bytes(), b"\""].concat();
    for (field, status) in [("If-None-Match", 304), ("If-Match", 200)] {
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\n{field}: ");
        let response = world.response(line, &[head.as_bytes(), &tags, b"\r\n\r\n"].concat());
        assert_eq!(response.status, status, "{field}");
    }
    // A condition is evaluated only if the response would be a success without it.
    assert_eq!(world.ask("GET /v2/quinistry/manifests/nonesuch", &["If-None-Match: *"]).status, 404);
}

#[test]
fn every_resource_evaluates_conditions_and_has_a_cache_control_field() {
    let world = World::new();
    let (immutable, no_cache, no_store) = ("max-age=31536000, immutable", "no-cache", "no-store");
    let [index, blob, config] = [world.index(), &world.blob, &world.configs[0]];
    let artifact = world.content(&format!("GET /v2/quinistry/referrers/{index}"), &[]).json();
    let artifact = artifact["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
    for (path, has_tag, cache) in [
        ("/", false, no_store),
        ("/healthz", false, no_store),
        ("/metrics", false, no_store),
        ("/v2", false, no_cache),
        ("/v2/", false, no_cache),
        ("/v2/_catalog", false, no_cache),
        ("/v2/_catalog?n=0", false, no_cache),
        ("/v2/quinistry/tags/list", false, no_cache),
        ("/v2/quinistry/tags/list?n=1", false, no_cache),
        (&format!("/v2/quinistry/referrers/{index}"), true, no_cache),
        (&format!("/v2/quinistry/referrers/{blob}"), true, no_cache),
        (&format!("/v2/quinistry/referrers/{index}?artifactType={CYCLONE_DX}"), true, no_cache),
        (&format!("/v2/quinistry/manifests/{}", index.replace(':', "-")), true, no_cache),
        ("/v2/quinistry/manifests/latest", true, no_cache),
        (&format!("/v2/quinistry/manifests/{VERSION}"), true, no_cache),
        (&format!("/v2/quinistry/manifests/{index}"), true, immutable),
        (&format!("/v2/quinistry/manifests/{artifact}"), true, immutable),
        (&format!("/v2/quinistry/blobs/{blob}"), true, immutable),
        (&format!("/v2/quinistry/blobs/{config}"), true, immutable),
    ] {
        let line = format!("GET {path}");
        for (field, status) in [
            ("X: y", 200),
            ("If-None-Match: \"x\"", 200),
            ("If-None-Match: *", 304),
            ("If-Match: *", 200),
            ("If-Match: \"x\"", 412),
            ("Range: bytes=0-1", if has_tag { 206 } else { 200 }),
        ] {
            let response = world.ask(&line, &[field]);
            assert_eq!(response.status, status, "{line} {field}");
            let expected = if status == 412 { no_store } else { cache };
            assert_eq!(response.field("cache-control"), Some(expected), "{line} {field}");
            assert_eq!(response.field("etag").is_some(), has_tag && status != 412, "{line} {field}");
        }
        // RFC 9110 section 13.2.2: If-Match comes first, and a range last.
        let both = ["If-Match: \"x\"", "If-None-Match: *", "Range: bytes=-0"];
        assert_eq!(world.ask(&line, &both).status, 412, "{line}");
        assert_eq!(world.ask(&line, &both[1..]).status, 304, "{line}");
    }
}

#[test]
fn tags_are_listed_in_order_and_can_be_requested_page_by_page() {
    let world = World::new();
    for (query, tags, next) in [
        ("", &[VERSION, "latest"][..], None),
        ("?n=10000", &[VERSION, "latest"], None),
        ("?n=99999999999999999999999999", &[VERSION, "latest"], None),
        ("?n=2", &[VERSION, "latest"], None),
        ("?n=0", &[], None),
        ("?n=1", &[VERSION], Some(format!("</v2/x/quinistry/tags/list?n=1&last={VERSION}>; rel=\"next\""))),
        (&format!("?n=1&last={VERSION}"), &["latest"], None),
        ("?last=a", &["latest"], None),
        ("?last=latest", &[], None),
        ("?last=zzz&n=1", &[], None),
    ] {
        let response = world.ask(&format!("GET /v2/x/quinistry/tags/list{query}"), &[]);
        assert_eq!(response.status, 200, "{query}");
        assert_eq!(response.field("content-type"), Some("application/json"));
        assert_eq!(response.json(), serde_json::json!({ "name": "x/quinistry", "tags": tags }), "{query}");
        assert_eq!(response.field("link"), next.as_deref(), "{query}");
    }
    for query in ["n=abc", "n=-1", "n=", "n=1.5", "n=%31x", "n"] {
        let response = world.ask(&format!("GET /v2/quinistry/tags/list?{query}"), &[]);
        assert_eq!((response.status, &*response.error_code()), (400, "PAGINATION_NUMBER_INVALID"), "{query}");
    }
}

/// Returns the descriptor of this content, with this media type.
fn described(media_type: &str, content: &[u8]) -> Value {
    serde_json::json!({ "mediaType": media_type, "digest": sha256(content), "size": content.len() })
}

#[test]
fn a_bill_of_materials_refers_to_the_index_and_each_manifest() {
    let world = World::new();
    let bill = sbom::DOCUMENT;
    for (subject, subject_type) in world.subjects() {
        let referrers = world.content(&format!("GET /v2/quinistry/referrers/{subject}"), &[]);
        assert_eq!(referrers.field("content-type"), Some(OCI_INDEX));
        assert_eq!(referrers.field("oci-filters-applied"), None);
        let digest = referrers.json()["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
        let artifact = world.content(&format!("GET /v2/quinistry/manifests/{digest}"), &[]);
        assert_eq!(artifact.field("content-type"), Some(OCI));
        let mut descriptor = described(OCI, &artifact.content);
        descriptor["artifactType"] = CYCLONE_DX.into();
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor] });
        assert_eq!(referrers.json(), index);

        let subject = world.content(&format!("GET /v2/quinistry/manifests/{subject}"), &[]);
        let mut layer = described(CYCLONE_DX, bill);
        layer["annotations"] = serde_json::json!({ "org.opencontainers.image.title": "quinistry.cdx.json" });
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI,
            "artifactType": CYCLONE_DX,
            "config": described("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": [layer],
            "subject": described(subject_type, &subject.content),
        });
        assert_eq!(artifact.json(), manifest);
    }
    for content in [&b"{}"[..], bill] {
        let blob = world.content(&format!("GET /v2/quinistry/blobs/{}", sha256(content)), &[]);
        assert_eq!(blob.content, content);
    }
}

#[test]
fn referrers_can_be_filtered_by_artifact_type() {
    let world = World::new();
    for (subject, _) in world.subjects() {
        let line = format!("GET /v2/quinistry/referrers/{subject}");
        let all = world.ask(&line, &[]);
        // Clients percent-encode the type, and people write it as it is.
        for wanted in ["application%2Fvnd.cyclonedx%2Bjson", CYCLONE_DX] {
            let filtered = world.ask(&format!("{line}?artifactType={wanted}"), &[]);
            assert_eq!((filtered.status, &filtered.content), (200, &all.content));
            assert_eq!(filtered.field("oci-filters-applied"), Some("artifactType"));
        }
        for other in ["application%2Fspdx%2Bjson", "application/vnd.cyclonedx", ""] {
            let filtered = world.ask(&format!("{line}?artifactType={other}"), &[]);
            assert_no_referrers(&filtered);
            assert_eq!(filtered.field("oci-filters-applied"), Some("artifactType"));
        }
        assert_eq!(world.ask(&format!("{line}?other=1"), &[]), all);
    }
}

#[test]
fn the_referrers_tag_of_a_digest_stands_for_the_same_index() {
    let world = World::new();
    for (subject, _) in world.subjects() {
        let referrers = world.content(&format!("GET /v2/quinistry/referrers/{subject}"), &[]);
        let by_tag =
            world.content(&format!("GET /v2/x/quinistry/manifests/{}", subject.replace(':', "-")), &["Accept: */*"]);
        assert_eq!(by_tag, referrers);
        let digest = by_tag.field("docker-content-digest").expect("a digest");
        let by_digest = world.content(&format!("GET /v2/quinistry/manifests/{digest}"), &[]);
        assert_eq!(by_digest.content, referrers.content);
    }
    for (subject, _) in world.subjects() {
        for wrong in [&subject[7..], &format!("sha256-{}", &subject[8..]), &format!("sha512-{}", &subject[7..])] {
            assert_eq!(world.ask(&format!("GET /v2/quinistry/manifests/{wrong}"), &[]).status, 404, "{wrong}");
        }
    }
    assert_eq!(world.ask("GET /v2/quinistry/manifests/sha256-", &[]).status, 404);
}

#[test]
fn the_list_of_referrers_is_empty_if_nothing_refers_to_the_digest() {
    let world = World::new();
    let sha512 = format!("sha512:{}", "0".repeat(128));
    let other = format!("other:{}", &world.index()[7..]);
    let referrers = world.content(&format!("GET /v2/quinistry/referrers/{}", world.index()), &[]).json();
    let artifact = referrers["manifests"][0]["digest"].as_str().expect("a digest");
    let docker_list = &*world.manifests[1].0;
    for digest in [docker_list, &world.blob, &world.configs[0], artifact, &sha512, &other] {
        let line = format!("GET /v2/quinistry/referrers/{digest}");
        let response = world.ask(&line, &[]);
        assert_no_referrers(&response);
        assert_eq!(response.field("oci-filters-applied"), None);
        let filtered = world.ask(&format!("{line}?artifactType={CYCLONE_DX}"), &[]);
        assert_no_referrers(&filtered);
        assert_eq!(filtered.field("oci-filters-applied"), Some("artifactType"));
    }
}

/// Asserts that a response is an empty index.
fn assert_no_referrers(response: &Response) {
    assert_eq!((response.status, response.field("content-type")), (200, Some(OCI_INDEX)));
    let empty = serde_json::json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] });
    assert_eq!(response.json(), empty);
}

#[test]
fn the_catalog_has_one_repository() {
    let world = World::new();
    let repositories = |query| world.ask(&format!("GET /v2/_catalog{query}"), &[]).json();
    assert_eq!(repositories(""), serde_json::json!({ "repositories": ["quinistry"] }));
    assert_eq!(repositories("?n=100"), serde_json::json!({ "repositories": ["quinistry"] }));
    assert_eq!(repositories("?last=quinistry"), serde_json::json!({ "repositories": [] }));
    assert_eq!(repositories("?n=0"), serde_json::json!({ "repositories": [] }));
    assert_eq!(world.ask("GET /v2/_catalog?n=abc", &[]).status, 400);
}

#[test]
fn every_write_is_refused_because_the_registry_is_read_only() {
    let world = World::new();
    let digest = world.blob.clone();
    for line in [
        "POST /v2/quinistry/blobs/uploads/",
        "PATCH /v2/quinistry/blobs/uploads/1",
        "PUT /v2/quinistry/manifests/latest",
        "PUT /v2/quinistry/blobs/uploads/1?digest=sha256:0",
        "DELETE /v2/quinistry/manifests/latest",
        &format!("DELETE /v2/quinistry/blobs/{digest}"),
        "DELETE /v2/quinistry/tags/latest",
        "POST /v2/alpine/blobs/uploads/",
        "POST /v2/quinistry/blobs/uploads/?mount=sha256:0&from=x",
        "POST /metrics",
        "TRACE /",
        "CONNECT localhost:8080",
    ] {
        for field in [
            &["Content-Length: 5"][..],
            &["Transfer-Encoding: chunked"],
            &["Expect: 100-continue", "Content-Length: 9"],
            &[],
        ] {
            let response = world.ask(line, field);
            assert_eq!((response.status, &*response.error_code()), (405, "DENIED"), "{line}");
            assert_eq!(response.field("allow"), Some("GET, HEAD, OPTIONS"));
            assert!(common::lossy(&response.content).contains("read-only"));
        }
    }
    for line in ["get /v2/", "BREW /v2/", "PROPFIND /"] {
        assert_eq!(world.ask(line, &[]).status, 501, "{line}");
    }
}

#[test]
fn request_content_does_not_change_the_response() {
    let world = World::new();
    for line in ["GET /", "GET /v2/", "GET /v2/quinistry/manifests/latest", "OPTIONS /", "GET /nonesuch"] {
        let response = world.ask(line, &[]);
        // Field note: HAProxy, Envoy and nginx translate an HTTP/2 GET that ends with an empty DATA frame into a GET
        // with the first of these fields.
        for field in ["Transfer-Encoding: chunked", "Content-Length: 5"] {
            assert_eq!(world.ask(line, &[field]), response, "{line} {field}");
        }
    }
}

#[test]
fn a_response_to_options_lists_the_methods_and_under_v2_answers_a_preflight_request() {
    let world = World::new();
    for (target, is_under_v2) in [
        ("*", false),
        ("/", false),
        ("/healthz", false),
        ("/nonesuch", false),
        ("/v2x", false),
        ("/v2", true),
        ("/v2/", true),
        ("http://registry.example/v2/", true),
        ("/v2/quinistry/manifests/latest", true),
        ("/v2/nonesuch/blobs/x", true),
    ] {
        for fields in [&[][..], &["Origin: http://ui.example", "Access-Control-Request-Method: GET"]] {
            let response = world.ask(&format!("OPTIONS {target}"), fields);
            assert_eq!((response.status, response.field("allow")), (204, Some("GET, HEAD, OPTIONS")), "{target}");
            // RFC 9110 section 8.6: a 204 response MUST NOT have a Content-Length.
            assert_eq!(response.field("content-length").or(response.field("content-type")), None, "{target}");
            for (name, value) in [
                ("methods", "GET, HEAD, OPTIONS"),
                ("headers", "Accept, Authorization, Cache-Control, If-None-Match, Range"),
            ] {
                let value = if is_under_v2 { Some(value) } else { None };
                assert_eq!(response.field(&format!("access-control-allow-{name}")), value, "{target}");
            }
            assert_eq!(response.field("access-control-max-age").is_some(), is_under_v2, "{target}");
        }
    }
    let get = world.ask("GET /v2/", &["Origin: http://ui.example"]);
    assert_eq!(get.field("access-control-allow-methods"), None);
}
