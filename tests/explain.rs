//! `--explain`: each request has the right text, and every response that is logged has one.

mod common;

use std::collections::BTreeSet;

use common::sample::{self, AMD64, ARM64};
use common::{Server, readme_block, request};
use quinistry::clock::Clock;
use quinistry::explain::{MAX_NAME, explain};
use quinistry::fault::{FAULTS, Fault, Faults};
use quinistry::http::request::{self, MAX_HEAD, MAX_REQUEST_LINE};
use quinistry::http::response::Status;
use quinistry::image::Image;
use quinistry::image::artifacts::Artifacts;
use quinistry::kinds::RequestKind;
use quinistry::log::MAX_EXPLANATION;
use quinistry::metrics::{Metrics, Vitals};
use quinistry::site::Site;

/// A registry, and the digests of what it serves.
struct World {
    site: Site,
    index: String,
    manifest: String,
    config: String,
    layer: String,
    /// A part of an artifact that refers to the image.
    bill: String,
}

/// The kind and status of a response, and its explanation.
type Explained = (RequestKind, Status, Option<[String; 2]>);

impl World {
    fn new() -> Self {
        let (_, image) = sample::image(&[ARM64, AMD64]);
        let Image { index, platforms, .. } = &image;
        let index = index.descriptor.digest.to_string();
        let manifest = platforms[0].manifest.descriptor.digest.to_string();
        let config = platforms[0].config.descriptor.digest.to_string();
        let layer = platforms[0].layer.blob.digest.to_string();
        let bill = Artifacts::of(&image).bill.descriptor.digest.to_string();
        Self { site: Site::new(image), index, manifest, config, layer, bill }
    }

    /// Returns the target with each name replaced by its digest.
    fn target(&self, target: &str) -> String {
        [
            ("INDEX", &self.index),
            ("MANIFEST", &self.manifest),
            ("CONFIG", &self.config),
            ("LAYER", &self.layer),
            ("BILL", &self.bill),
        ]
        .into_iter()
        .fold(target.to_owned(), |target, (name, digest)| target.replace(name, digest))
    }

    /// Explains the response to a request, or to malformed bytes. Returns `None` for an incomplete request.
    fn explain(&self, bytes: &[u8]) -> Option<Explained> {
        self.explain_with("", bytes)
    }

    /// Does the same with rules of `--fault`.
    fn explain_with(&self, rules: &str, bytes: &[u8]) -> Option<Explained> {
        let mut faults = Faults::default();
        faults.add(rules).expect("rules");
        let clock = Clock::start();
        let metrics = Metrics::default();
        let (request, served, fault) = match request::parse(bytes) {
            Ok(parsed) => {
                let (request, _) = parsed?;
                let vitals = Vitals { metrics: &metrics, clock: &clock, dropped_lines: 0, faults: &faults.counts };
                let served = self.site.respond(&request, &vitals);
                let (served, fault) = faults.apply(served, &request, &self.site.registry);
                (Some(request), served, fault)
            }
            Err(rejection) => (None, Site::refuse(&rejection), None),
        };
        let (kind, status) = (served.kind, served.response.status);
        let explanation = explain(request.as_ref(), kind, status, fault);
        let explanation = served.label().map(|_| explanation.map(str::to_owned));
        assert!(explanation.iter().flatten().all(|text| !text.is_empty()), "{kind:?} {status:?}");
        Some((kind, status, explanation))
    }

    fn ask(&self, line: &str, fields: &[&str]) -> Explained {
        self.explain(request(&self.target(line), fields).as_bytes()).expect("a complete request")
    }
}

#[test]
fn each_request_is_explained_by_its_own_text() {
    let world = World::new();
    let old = "Accept: application/vnd.docker.distribution.manifest.v2+json";
    let same = world.target("If-None-Match: \"LAYER\"");
    for (line, field, beginning, section) in [
        ("GET /v2/", "", "asks whether this is a registry", "Determining Support"),
        ("HEAD /v2/quinistry/manifests/latest", "", "asks with HEAD what the tag stands for", "Checking if content"),
        ("HEAD /v2/library/quinistry/manifests/latest?ns=docker.io", "", "uses this server as a mirror", "Proxy"),
        ("HEAD /v2/library/quinistry/manifests/INDEX?ns=docker.io", "", "uses this server as a mirror", "Proxy"),
        ("GET /v2/library/quinistry/manifests/INDEX?ns=docker.io", "", "fetches the index", "OCI Image Index"),
        (
            "HEAD /v2/quinistry/manifests/latest?lens=1",
            "",
            "asks with HEAD what the tag stands for",
            "Checking if content",
        ),
        ("GET /v2/quinistry/manifests/latest", "", "asks what the tag stands for now, and", "manifests"),
        ("GET /v2/quinistry/manifests/latest", old, "asks what the tag stands for now. It", "manifests"),
        ("GET /v2/quinistry/manifests/INDEX", "", "fetches the index by its digest", "OCI Image Index"),
        ("GET /v2/quinistry/manifests/MANIFEST", "", "fetches the manifest of a platform", "Image Manifest"),
        ("HEAD /v2/quinistry/manifests/MANIFEST", "", "asks with HEAD whether a manifest", "Checking if content"),
        ("GET /v2/quinistry/blobs/CONFIG", "", "fetches the config", "Layer DiffID"),
        ("GET /v2/quinistry/blobs/LAYER", "", "fetches a layer", "Pulling blobs"),
        ("HEAD /v2/quinistry/blobs/LAYER", "", "asks with HEAD whether this blob is here", "Checking if content"),
        ("GET /v2/quinistry/blobs/LAYER", "Range: bytes=9-", "requests a part of the", "9110 section 14)"),
        ("GET /v2/quinistry/blobs/LAYER", "Range: bytes=99999999-", "requests a range of bytes", "15.5.17"),
        ("GET /v2/quinistry/blobs/LAYER", &same, "has this content already", "RFC 9110 section 15.4.5"),
        ("GET /v2/quinistry/blobs/LAYER", "If-Match: \"x\"", "wants the content only if", "15.5.13"),
        ("GET /v2/quinistry/tags/list", "", "asks which tags there are", "Listing Tags"),
        ("GET /v2/quinistry/tags/list?n=x", "", "requests a part of a list", "Listing Tags"),
        ("GET /v2/other/tags/list", "", "requests something from a repository", "Error Codes"),
        ("GET /v2/quinistry/referrers/INDEX", "", "asks what refers to a manifest", "Listing Referrers"),
        ("GET /v2/quinistry/referrers/latest", "", "uses a malformed digest", "Digests"),
        ("GET /v2/quinistry/blobs/BILL", "", "requests a part of an artifact", "Guidelines for Artifact Usage"),
        ("GET /v2/_catalog", "", "asks which repositories there are", "Listing Repositories"),
        ("GET /", "", "asks what this is", "RFC 9110 section 9.3.1"),
        ("GET /favicon.ico", "", "requests a path that does not exist here", "RFC 9110 section 15.5.5"),
        ("GET /v2/quinistry/manifests/other", "", "requests a manifest that is", "Pulling manifests"),
        ("HEAD /v2/other/manifests/INDEX", "", "requests something from a repository", "Error Codes"),
        ("GET /v2/other/blobs/LAYER", "", "requests something from a repository", "Error Codes"),
        ("GET /v2/quinistry/manifests/sha256-0f.sig", "", "looks for a signature", "Referrers Tag Schema"),
        ("GET /v2/quinistry/blobs/MANIFEST", "", "requests a blob that is not here", "Pulling blobs"),
        ("GET /v2/quinistry/blobs/latest", "", "uses a malformed digest", "Digests"),
        ("POST /v2/quinistry/blobs/uploads/", "", "wants to push", "distribution-spec, Push)"),
        ("PUT /v2/quinistry/manifests/latest", "", "wants to push", "distribution-spec, Push)"),
        ("PATCH /v2/quinistry/blobs/uploads/1", "", "wants to push", "distribution-spec, Push)"),
        ("DELETE /v2/quinistry/manifests/INDEX", "", "uses a method that no path", "section 15.5.6"),
        ("POST /login", "", "uses a method that no path here allows", "RFC 9110 section 15.5.6"),
        ("get /v2/", "", "uses a method or a transfer coding", "RFC 9110 section 15.6.2"),
        ("OPTIONS /v2/", "Origin: http://ui.example", "asks which methods and fields", "9.3.7"),
    ] {
        let fields = if field.is_empty() { vec![] } else { vec![field] };
        let (.., explanation) = world.ask(line, &fields);
        let [client, text] = explanation.unwrap_or_else(|| panic!("no text: {line}"));
        assert_eq!(client, "The client");
        assert!(text.starts_with(beginning) && text.contains(section), "{line}: {text}");
    }
}

#[test]
fn malformed_requests_are_explained_too() {
    let world = World::new();
    for (bytes, beginning) in [
        (&b"\x16\x03\x01\x02\x00\x01"[..], "tries HTTPS first"),
        (b"GET /v2/ HTTP/2.0\r\n", "speaks a version of HTTP"),
        (b"GET /v2/\r\n", "sends something that is not a request"),
    ] {
        let (.., explanation) = world.explain(bytes).expect("it is refused at once");
        let [client, text] = explanation.expect("a refusal is logged");
        assert!(client == "The client" && text.starts_with(beginning), "{text}");
    }
}

/// Returns many different requests, as bytes.
fn many_requests(world: &World) -> Vec<Vec<u8>> {
    let mut all = vec![
        b"\x16\x03\x01".to_vec(),
        b"GET / HTTP/1.1\n".to_vec(),
        b"GET / HTTP/3.0\r\n".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_REQUEST_LINE)).into_bytes(),
        request("GET /", &[&format!("X: {}", "x".repeat(MAX_HEAD))]).into_bytes(),
    ];
    let digest = format!("sha256:{}", "0".repeat(64));
    let references = [
        "latest",
        "other",
        "sha256-0f",
        "sha256-0f.sig",
        "sha256:0",
        &digest,
        "INDEX",
        "MANIFEST",
        "CONFIG",
        "LAYER",
        "BILL",
    ];
    let mut paths: Vec<_> =
        ["/", "/healthz", "/metrics", "/v2", "/v2/", "/v2/_catalog", "/favicon.ico"].map(str::to_owned).into();
    for name in ["quinistry", "library/quinistry", "other", "A"] {
        paths.push(format!("/v2/{name}/tags/list"));
        for collection in ["manifests", "blobs", "referrers"] {
            paths.extend(references.map(|reference| format!("/v2/{name}/{collection}/{reference}")));
        }
    }
    let types = ["oci.image.manifest.v1", "docker.distribution.manifest.v2", "docker.distribution.manifest.list.v2"];
    let types = types.map(|name| format!("Accept: application/vnd.{name}+json"));
    let fields = [
        "A: b",
        &types[0],
        &types[1],
        &types[2],
        "If-None-Match: *",
        "If-Match: \"x\"",
        "Range: bytes=1-",
        "Range: bytes=9-1",
    ];
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get"] {
        for path in &paths {
            for query in ["", "?ns=docker.io", "?n=1", "?n=x"] {
                let line = world.target(&format!("{method} {path}{query}"));
                let more = ["Transfer-Encoding: chunked", "Transfer-Encoding: gzip"];
                all.extend(fields.iter().chain(&more).map(|field| request(&line, &[field]).into_bytes()));
            }
        }
    }
    all
}

#[test]
fn every_logged_response_has_a_text_and_every_text_is_used() {
    let world = World::new();
    let mut texts = BTreeSet::new();
    let (mut statuses, mut endpoints) = (Vec::new(), Vec::new());
    for bytes in many_requests(&world) {
        let (endpoint, status, explanation) = world.explain(&bytes).expect("a complete request, or a refusal");
        texts.extend(explanation.map(|[_, text]| text));
        statuses.push(status);
        endpoints.push(endpoint);
    }
    for (rules, line) in faults() {
        let bytes = request(&world.target(line), &["Range: bytes=0-99"]).into_bytes();
        let (endpoint, status, explanation) = world.explain_with(&rules, &bytes).expect("a complete request");
        texts.extend(explanation.map(|[_, text]| text));
        statuses.push(status);
        endpoints.push(endpoint);
    }
    let timeout = Site::refuse(&request::timeout(b"GET"));
    let explanation = explain(None, timeout.kind, timeout.response.status, None);
    texts.insert(explanation[1].to_owned());
    statuses.push(timeout.response.status);
    assert!(Status::ALL.iter().all(|status| statuses.contains(status)), "a status does not occur");
    assert!(RequestKind::ALL.iter().all(|endpoint| endpoints.contains(endpoint)), "a kind of request does not occur");

    let source = include_str!("../src/explain.rs");
    assert_eq!(texts.len(), source.matches(": &str = \"").count(), "a text is never used: {texts:#?}");
    for text in texts {
        assert_is_readable(&text);
    }
}

/// Returns a rule for each fault, and a request to which it applies.
fn faults() -> impl Iterator<Item = (String, &'static str)> {
    let faults = FAULTS.into_iter().filter(|(_, fault)| *fault != Fault::Slow);
    let layer = faults.map(|(name, _)| (format!("layer={name}"), "GET /v2/quinistry/blobs/LAYER"));
    layer.chain([("any=auth".into(), "GET /token")])
}

#[test]
fn each_fault_is_explained_by_what_a_good_client_does() {
    let world = World::new();
    for ((rules, line), beginning) in faults().zip([
        "is refused, whatever password it sends",
        "is refused, whatever password it sends",
        "requests a blob that is not here",
        "is told that this fails for now",
        "is told that this fails for now",
        "is told that this fails for now",
        "is told that this fails for now",
        "is told that this fails for now",
        "receives up to half of the content",
        "receives half of the content, and then nothing",
        "receives up to half of the content",
        "receives content with a wrong byte, or a head with a wrong digest",
        "receives content with a wrong byte, or a head with a wrong digest",
        "receives the right content with a wrong Content-Type",
        "receives content without its length",
        "requests a part of the content and receives all",
        "is redirected to another URL",
        "needs a token",
        "requests a token after a 401",
    ]) {
        let bytes = request(&world.target(line), &["Range: bytes=0-99"]).into_bytes();
        let (.., explanation) = world.explain_with(&rules, &bytes).expect("a complete request");
        let [_, text] = explanation.expect("an explanation");
        assert!(text.starts_with(beginning), "{rules}: {text}");
        assert!(world.explain(&bytes).expect("complete").2 != Some(["The client".into(), text]), "{rules}");
    }
}

fn assert_is_readable(text: &str) {
    let (sentences, section) = text.rsplit_once('(').expect("it ends with a section");
    let section = section.strip_suffix(')').expect("it ends with a section");
    let documents = ["distribution-spec, ", "image-spec, ", "RFC ", "Docker Registry HTTP API V2, "];
    assert!(documents.iter().any(|document| section.starts_with(document)), "{text}");
    let ends = sentences.split_whitespace().filter(|word| word.ends_with(['.', ';'])).count();
    assert!((1..=2).contains(&ends) && sentences.trim_end().ends_with('.'), "{text}");
    assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "{text}");
    for (index, line) in text.lines().enumerate() {
        assert!(line.trim() == line && !line.is_empty(), "{text}");
        let subject = if index == 0 { "The client " } else { "" };
        assert!(4 + subject.len() + line.len() <= 100, "too long for a terminal: {line}");
    }
    assert!(text.len() + MAX_NAME + 1 + 4 * text.lines().count() < MAX_EXPLANATION, "{text}");
}

#[test]
fn a_client_is_called_by_its_name_unless_the_name_is_unusual() {
    let world = World::new();
    for (user_agent, name) in [
        ("docker/28.2.2 go/go1.24.3 os/linux", "docker"),
        ("containerd/1.6.20~ds1", "containerd"),
        ("skopeo", "skopeo"),
        ("go-containerregistry/0.20", "go-containerregistry"),
        ("", "The client"),
        ("/1", "The client"),
        (" docker", "docker"),
        ("\"quoted\"/1", "The client"),
        ("back\\slash", "The client"),
        ("caf\u{e9}/1", "The client"),
        ("a-name-that-is-quite-long/1", "The client"),
    ] {
        let (.., explanation) = world.ask("GET /v2/", &[&format!("User-Agent: {user_agent}")]);
        assert_eq!(explanation.map(|[client, _]| client).as_deref(), Some(name), "{user_agent}");
    }
}

/// Sends one more request, and returns the log lines of all requests before it.
fn requests_logged(server: &Server) -> Vec<String> {
    server.ask("GET /end", &[]);
    let log = server.wait_for_log("GET /end ");
    let lines = log.lines().skip_while(|line| !line.starts_with("20"));
    lines.take_while(|line| !line.contains("GET /end ")).map(str::to_owned).collect()
}

#[test]
fn client_input_cannot_pass_for_an_explanation() {
    let server = Server::start_with(&["--explain"]);
    let ask = |line: &str, fields: &[&str]| server.ask(line, fields).status;
    assert_eq!(ask("GET /%0a%20%20%20%20docker%20asks", &["User-Agent: x\ty (\"z\")"]), 404);
    assert_eq!(ask("GET /v2/", &["User-Agent: "]), 200);
    assert_eq!(ask("GET /healthz", &[]), 200);
    assert_eq!(ask("GET /metrics", &[]), 200);
    assert_eq!(ask("GET /v2/_catalog", &["User-Agent: last/1"]), 200);
    let lines = requests_logged(&server);
    let beginnings = [
        "20",
        "    The client requests a path",
        "    404 means",
        "20",
        "    The client asks whether",
        "    After 200",
        "    (distribution-spec, Determining Support)",
        "20",
        "    last asks which repositories",
        "    It can then ask",
    ];
    assert_eq!(lines.len(), beginnings.len(), "{lines:#?}");
    for (line, beginning) in lines.iter().zip(beginnings) {
        assert!(line.starts_with(beginning), "{line}");
    }
}

/// Returns a log line without what varies between runs (the time, digest, length and port), and with the user agent
/// shortened as on a terminal.
fn comparable(line: &str) -> String {
    let Some((_, line)) = line.split_once("Z ").filter(|_| line.starts_with("20")) else {
        return line.to_owned();
    };
    let quoted = line.strip_suffix('"').and_then(|line| line.rsplit_once(" \""));
    let (line, user_agent) = quoted.expect("a user agent");
    let mut fields = line.rsplitn(3, ' ');
    let [_peer, _length, request] = [(); 3].map(|()| fields.next().expect("three fields"));
    let request = match request.split_once("sha256:") {
        Some((before, rest)) => format!("{before}sha256: {}", rest.split_once(' ').expect("a status").1),
        None => request.to_owned(),
    };
    format!("{request} \"{}\"", user_agent.split(' ').next().expect("a word, or nothing"))
}

/// Sends the request of a log line again. Its digest is replaced by this server's.
fn ask_again(server: &Server, line: &str) {
    let line = comparable(line);
    let (label, request) = line.split_once(": ").expect("a label");
    let mut words = request.split(' ');
    let (method, target) = (words.next().expect("a method"), words.next().expect("a target"));
    if method == "-" {
        let mut client = server.connect();
        client.send(b"\x16\x03\x01\x02\x00\x01");
        assert_eq!(client.response_to("").status, 400);
        return;
    }
    let what = label.rsplit(' ').next().expect("a word");
    let log = server.log();
    let mut digests = log.lines().filter_map(|line| line.trim().strip_prefix(what)?.split_whitespace().next());
    let target = target.replace("sha256:", digests.next().unwrap_or_default());
    let user_agent = request.rsplit('"').nth(1).expect("a user agent");
    server.ask(&format!("{method} {target}"), &[&format!("User-Agent: {user_agent} go/go1.19.8")]);
}

#[test]
fn the_readme_has_the_log_of_a_pull_which_explains_only_with_the_option() {
    let recorded = readme_block("text", "docker asks with HEAD").lines();
    let recorded: Vec<&str> = recorded.take_while(|line| !line.starts_with("time ")).collect();
    let requests = || recorded.iter().copied().filter(|line| !line.starts_with(' '));
    assert_eq!(requests().count(), 7);
    for (options, expected) in [(&["--explain"][..], recorded.clone()), (&[], requests().collect())] {
        let server = Server::start_with(options);
        requests().for_each(|line| ask_again(&server, line));
        let logged = requests_logged(&server).iter().map(|line| comparable(line)).collect::<Vec<_>>();
        assert_eq!(logged, expected.into_iter().map(comparable).collect::<Vec<_>>());
    }
}
