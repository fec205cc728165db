//! `--fault`: the chosen responses are wrong in the chosen way, and all others are right.

mod common;

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use common::{Client, Response, Server, find, lossy, quinistry, request, sample, sha256};
use quinistry::clock::Clock;
use quinistry::fault::{FAULTS, Fault, Faults, HELP, PLACES};
use quinistry::http::request::parse;
use quinistry::http::response::Status;
use quinistry::metrics::{Metrics, Vitals};
use quinistry::site::Site;

/// A registry with rules, without a server around it.
struct World {
    site: Site,
    faults: Faults,
    layer: String,
    index: String,
}

impl World {
    fn new(rules: &str) -> Self {
        let (image, _) = sample::packed();
        let layer = image.platforms[0].layer.blob.digest.to_string();
        let index = image.index.descriptor.digest.to_string();
        let mut faults = Faults::default();
        faults.add(rules).unwrap_or_else(|error| panic!("{rules}: {error}"));
        Self { site: Site::new(image), faults, layer, index }
    }

    /// Returns the response as text, for comparison, and its fault.
    fn ask(&mut self, line: &str, fields: &[&str]) -> (String, Option<Fault>) {
        let line = line.replace("LAYER", &self.layer).replace("INDEX", &self.index);
        let bytes = request(&line, fields);
        let (request, _) = parse(bytes.as_bytes()).expect("valid").expect("complete");
        let clock = Clock::start();
        let metrics = Metrics::default();
        let vitals = Vitals { metrics: &metrics, clock: &clock, dropped_lines: 0, faults: &self.faults.counts };
        let served = self.site.respond(&request, &vitals);
        let (served, fault) = self.faults.apply(served, &request, &self.site.registry);
        (format!("{:?}", served.response), fault)
    }
}

#[test]
fn each_fault_occurs_when_its_rule_applies_and_changes_the_response() {
    let (line, range) = ("GET /v2/quinistry/blobs/LAYER", ["Range: bytes=0-99"]);
    let (right, _) = World::new("").ask(line, &range);
    for (name, fault) in FAULTS.into_iter().filter(|(_, fault)| *fault != Fault::Slow) {
        for (when, expected) in [
            ("", &[1, 2, 3, 4, 5, 6, 7][..]),
            ("@always", &[1, 2, 3, 4, 5, 6, 7]),
            ("@first:1", &[1]),
            ("@first:2", &[1, 2]),
            ("@every:1", &[1, 2, 3, 4, 5, 6, 7]),
            ("@every:3", &[3, 6]),
        ] {
            for place in ["any", "layer", "blob"] {
                let mut world = World::new(&format!("{place}={name}{when}"));
                for index in 1..=7 {
                    let (response, applied) = world.ask(line, &range);
                    let is_expected = expected.contains(&index);
                    let wanted = is_expected.then_some(fault);
                    assert_eq!(applied, wanted, "{place}={fault:?}{when}, request {index}");
                    assert_eq!(response != right, is_expected, "{fault:?}{when}, request {index}");
                }
            }
        }
    }
}

#[test]
fn rules_apply_in_order() {
    let rules = "layer=503@first:1 tags=404 layer=cut@first:2 any=reset@every:2";
    let mut world = World::new(rules);
    let mut ask = |line: &str| world.ask(line, &[]).1;
    let (layer, base) = ("GET /v2/quinistry/blobs/LAYER", "GET /v2/");
    let seen = [
        ask(layer),
        ask(base),
        ask(layer),
        ask(layer),
        ask(layer),
        ask(layer),
        ask("GET /v2/quinistry/tags/list"),
        ask(base),
    ];
    let expected = [
        Some(Fault::Status(Status::ServiceUnavailable)),
        None,
        Some(Fault::Cut),
        Some(Fault::Cut),
        Some(Fault::Reset),
        None,
        Some(Fault::Status(Status::NotFound)),
        Some(Fault::Reset),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_rule_counts_only_responses_that_it_can_change() {
    let layer = "GET /v2/quinistry/blobs/LAYER";
    for (fault, line, field) in [
        // There is no content to cut.
        ("cut", "HEAD /v2/quinistry/blobs/LAYER", ""),
        ("stall", "HEAD /v2/quinistry/blobs/LAYER", ""),
        ("stall", layer, "Content-Length: 1"),
        ("reset", layer, "If-None-Match: *"),
        ("flip", layer, "Range: bytes=10-"),
        ("flip", "HEAD /v2/quinistry/manifests/latest", ""),
        ("wrong-digest", "GET /v2/", ""),
        ("wrong-type", layer, "If-None-Match: *"),
        ("no-length", layer, "If-None-Match: *"),
        ("no-range", layer, ""),
        ("redirect", "GET /v2/quinistry/blobs/LAYER?redirected", ""),
        ("auth", layer, "Authorization: bearer x"),
        // Responses that are errors already, and responses about the server itself.
        ("503", "GET /v2/quinistry/manifests/other", ""),
        ("503", "POST /v2/quinistry/blobs/uploads/", "Content-Length: 0"),
        ("503", "OPTIONS /v2/", ""),
        ("503", "GET /", ""),
        ("503", "GET /healthz", ""),
        ("503", "GET /metrics", ""),
        ("503", "GET /token", ""),
    ] {
        let mut world = World::new(&format!("any={fault}@first:1"));
        let fields: Vec<&str> = [field].into_iter().filter(|field| !field.is_empty()).collect();
        let right = World::new("").ask(line, &fields);
        let seen = world.ask(line, &fields);
        // The metrics and the page depend on the time.
        assert_eq!(seen.1, None, "{fault}: {line}");
        if !["GET /", "GET /metrics"].contains(&line) {
            assert_eq!(seen, right, "{fault}: {line}");
        }
        let partial = ["Range: bytes=0-99"];
        assert!(world.ask(layer, &partial).1.is_some(), "{line} does not use up {fault}");
    }
}

#[test]
fn each_place_matches_its_endpoints() {
    let docker = |name| format!("Accept: application/vnd.docker.distribution.{name}+json");
    let oci = "Accept: application/vnd.oci.image.manifest.v1+json".to_owned();
    let tag = "GET /v2/quinistry/manifests/latest";
    for (line, field, places) in [
        ("GET /v2/", "A: b".to_owned(), &["base"][..]),
        ("GET /v2/_catalog", "A: b".into(), &[]),
        (tag, "A: b".into(), &["index"]),
        (tag, docker("manifest.list.v2"), &["index"]),
        (tag, oci, &["manifest"]),
        (tag, docker("manifest.v2"), &["manifest"]),
        ("GET /v2/quinistry/blobs/LAYER", "A: b".into(), &["layer", "blob"]),
        ("GET /v2/quinistry/tags/list", "A: b".into(), &["tags"]),
        ("GET /v2/quinistry/referrers/INDEX", "A: b".into(), &["referrers"]),
    ] {
        for (place, _) in PLACES {
            let expected = place == "any" || places.contains(&place);
            let (_, applied) = World::new(&format!("{place}=500")).ask(line, &[&field]);
            assert_eq!(applied.is_some(), expected, "{place}: {line} {field}");
        }
    }
}

#[test]
fn the_help_lists_every_name() {
    let words: Vec<&str> = HELP.split([' ', ':', ',', ';', '\n']).collect();
    let names = PLACES.iter().map(|(name, _)| *name).chain(FAULTS.iter().map(|(name, _)| *name));
    for name in names.chain(["first", "every", "always"]) {
        assert!(words.contains(&name), "{name}");
    }
}

/// How a transfer ended.
#[derive(PartialEq, Eq, Debug)]
enum End {
    Fin,
    Reset,
    /// The transfer did not end.
    Silence,
}

/// Sends a request on a new connection, and returns everything that arrives.
fn transfer(server: &Server, line: &str, fields: &[&str]) -> (Response, End) {
    let mut client = server.connect();
    client.send_request(line, fields);
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    client.stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a valid time");
    let end = loop {
        match client.stream.read(&mut piece) {
            Ok(0) => break End::Fin,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break End::Reset,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break End::Silence,
            // If a socket has a timeout, the kernel does not restart a read that a signal interrupts (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    };
    let head = find(&bytes, b"\r\n\r\n").expect("a head") + 4;
    let mut response = Response::from_head(&bytes[..head]);
    response.content = bytes.split_off(head);
    (response, end)
}

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// Starts a server with these rules.
fn serve(rules: &str) -> Server {
    let arguments: Vec<&str> = rules.split(' ').flat_map(|rule| ["--fault", rule]).collect();
    Server::start_with(&arguments)
}

/// Returns a request line for the layer, and its digest from the server's banner.
fn layer(server: &Server) -> (String, String) {
    let log = server.log();
    let line = log.lines().find(|line| line.starts_with("  layer ")).expect("the layer's line");
    let digest = line.split_whitespace().nth(1).expect("a digest").to_owned();
    (format!("GET /v2/quinistry/blobs/{digest}"), digest)
}

/// Asserts that the layer arrives intact.
fn assert_is_right(server: &Server) {
    let (line, digest) = layer(server);
    assert_eq!(sha256(&server.ask(&line, &[]).content), digest);
}

#[test]
fn a_status_has_the_code_and_fields_of_a_registry_and_keeps_the_connection() {
    for (fault, status, base, index, blob) in [
        ("401", 401, "UNAUTHORIZED", "UNAUTHORIZED", "UNAUTHORIZED"),
        ("403", 403, "DENIED", "DENIED", "DENIED"),
        ("404", 404, "NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"),
        ("429", 429, "TOOMANYREQUESTS", "TOOMANYREQUESTS", "TOOMANYREQUESTS"),
        ("429:7", 429, "TOOMANYREQUESTS", "TOOMANYREQUESTS", "TOOMANYREQUESTS"),
        ("500", 500, "UNKNOWN", "UNKNOWN", "UNKNOWN"),
        ("502", 502, "", "", ""),
        ("503", 503, "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"),
        ("503:7", 503, "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"),
        ("504", 504, "", "", ""),
    ] {
        let server = serve(&format!("any={fault}@first:4"));
        let (blob_line, digest) = layer(&server);
        let mut client = server.connect();
        let lines = [("GET /v2/", base), ("GET /v2/quinistry/manifests/latest", index), (&*blob_line, blob)];
        for (line, code) in lines {
            client.send_request(line, &[]);
            let response = client.response_to(line);
            assert_eq!(response.status, status, "{fault}: {line}");
            if code.is_empty() {
                assert_eq!(response.field("content-type"), Some("text/html"));
                assert!(lossy(&response.content).starts_with("<html>"));
            } else {
                assert_eq!(response.error_code(), code, "{fault}: {line}");
            }
            let seconds = if fault.contains(':') { Some("7") } else { None };
            assert_eq!(response.field("retry-after"), seconds, "{fault}");
            // RFC 9110 section 15.5.2: a 401 has a challenge.
            assert_eq!(response.field("www-authenticate").is_some(), status == 401);
            assert_eq!(response.field("docker-distribution-api-version"), Some("registry/2.0"));
        }
        client.send_request("HEAD /v2/", &[]);
        let as_head = client.response_to("HEAD /v2/");
        assert!(as_head.status == status && as_head.content_length() > 0, "{as_head:?}");
        client.send_request(&blob_line, &[]);
        assert_eq!(sha256(&client.response_to(&blob_line).content), digest, "after {fault}");
    }
}

#[test]
fn half_of_the_content_arrives_before_the_end_a_stall_or_a_reset() {
    let right = Server::start();
    for (fault, end) in [("cut", End::Fin), ("stall", End::Silence), ("reset", End::Reset)] {
        let server = serve(&format!("any={fault}@every:2"));
        for line in [&*layer(&server).0, "GET /v2/quinistry/manifests/latest"] {
            // Field note: docker sends this field. A stall must not close the connection even then.
            for fields in [&[][..], &["Connection: close"]] {
                let whole = right.ask(line, &[]);
                server.ask(line, &[]);
                let (response, seen) = transfer(&server, line, fields);
                assert_eq!(seen, end, "{fault}: {line}");
                assert_eq!((response.status, response.content_length()), (200, whole.content.len()));
                let half = whole.content.len() / 2;
                assert!(whole.content.starts_with(&response.content), "{fault}: {line}");
                if end == End::Reset {
                    assert!(response.content.len() <= half, "{}", response.content.len());
                } else {
                    assert_eq!(response.content.len(), half, "{fault}: {line}");
                }
            }
        }
        assert_is_right(&server);
    }
}

#[test]
fn a_flipped_layer_can_be_unpacked_and_only_its_digest_is_wrong() {
    let server = serve("any=flip@first:3");
    let (line, digest) = layer(&server);
    let flipped = server.ask(&line, &[]).content;
    let part = server.ask(&line, &["Range: bytes=9-9"]).content;
    let rest = server.ask(&line, &["Range: bytes=10-"]).content;
    let document = server.ask("GET /v2/quinistry/manifests/latest", &[]).content;
    let right = server.ask(&line, &[]).content;
    assert_eq!(sha256(&right), digest);
    let differences: Vec<usize> = (0..right.len()).filter(|&at| right[at] != flipped[at]).collect();
    assert_eq!((flipped.len(), &*differences), (right.len(), &[9][..]));
    assert_eq!((&*part, &*rest), (&flipped[9..10], &right[10..]));
    let unpack = |bytes: &[u8]| {
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut tar).expect("it is gzip");
        tar
    };
    assert_eq!(unpack(&flipped), unpack(&right));

    let right = server.ask("GET /v2/quinistry/manifests/latest", &[]).content;
    let differences = right.iter().zip(&document).filter(|(a, b)| a != b).count();
    assert_eq!((document.len(), differences), (right.len(), 1));
}

#[test]
fn a_field_is_wrong_or_missing_and_the_content_is_right() {
    for fault in ["wrong-digest", "wrong-type", "no-length"] {
        let server = serve(&format!("any={fault}@first:2"));
        let (line, digest) = layer(&server);
        let (mut wrong, end) = transfer(&server, &line, &[]);
        let as_head = transfer(&server, &line.replace("GET", "HEAD"), &[]).0;
        let mut right = server.ask(&line, &[]);
        assert_eq!(sha256(&wrong.content), digest, "{fault}");
        let (name, value) = match fault {
            "wrong-digest" => ("docker-content-digest", Some(format!("sha256:{:064}", 0))),
            "wrong-type" => ("content-type", Some("text/html".to_owned())),
            _ => ("content-length", None),
        };
        assert_eq!(end == End::Fin, value.is_none(), "{fault}");
        assert_eq!(wrong.fields.remove("connection").is_some(), value.is_none(), "{fault}");
        assert_eq!((wrong.fields.remove(name), as_head.field(name)), (value.clone(), value.as_deref()));
        for response in [&mut wrong, &mut right] {
            response.fields.remove(name);
            response.fields.remove("date");
        }
        assert!(wrong == right, "{fault}");
    }
}

#[test]
fn a_range_is_ignored() {
    let server = serve("blob=no-range@first:1");
    let (line, digest) = layer(&server);
    let range = ["Range: bytes=100-199"];
    let [whole, part] = [server.ask(&line, &range), server.ask(&line, &range)];
    assert_eq!((whole.status, whole.field("content-range")), (200, None));
    assert_eq!(sha256(&whole.content), digest);
    assert_eq!((part.status, &*part.content), (206, &whole.content[100..200]));
}

#[test]
fn a_redirect_leads_to_the_right_content() {
    let server = serve("any=redirect");
    let (line, digest) = layer(&server);
    for (query, redirected) in [("", "?redirected"), ("?ns=docker.io", "?ns=docker.io&redirected")] {
        let line = line.clone() + query;
        let response = server.ask(&line, &[]);
        let location = format!("/v2/quinistry/blobs/{digest}{redirected}");
        assert_eq!((response.status, response.field("location")), (307, Some(&*location)));
        assert_eq!(sha256(&server.ask(&format!("GET {location}"), &[]).content), digest);
    }
}

#[test]
fn a_token_grants_access_and_anyone_can_get_one() {
    let server = serve("any=auth");
    let (line, digest) = layer(&server);
    let response = server.ask("GET /v2/", &[]);
    assert_eq!((response.status, &*response.error_code()), (401, "UNAUTHORIZED"));
    let challenge = "Bearer realm=\"http://localhost:8080/token\",service=\"quinistry\",\
                     scope=\"repository:quinistry:pull\"";
    assert_eq!(response.field("www-authenticate"), Some(challenge));
    let post = server.ask("POST /token", &["Content-Length: 0"]);
    assert_eq!(post.status, 405, "so that a client tries GET");
    let response = server.ask("GET /token?service=quinistry&scope=repository:quinistry:pull", &[]);
    assert_eq!(response.status, 200);
    let token = response.json()["token"].as_str().expect("a token").to_owned();
    let field = format!("Authorization: Bearer {token}");
    assert_eq!(sha256(&server.ask(&line, &[&field]).content), digest);
    assert_eq!(server.ask(&line, &["Authorization: Basic eDp5"]).status, 401);
    server.wait_for_log("Serving token: GET /token");

    let right = Server::start();
    assert_eq!(right.ask("GET /token", &[]).status, 404, "without the rule there are no tokens");
}

#[test]
fn a_slow_response_does_not_exceed_its_rate() {
    let server = serve("any=slow:100k");
    let (line, _) = layer(&server);
    let began = Instant::now();
    let part = server.ask(&line, &["Range: bytes=0-204799"]).content;
    assert_eq!(part.len(), 200 * 1024);
    assert!(began.elapsed() > Duration::from_secs(1), "{:?} for two seconds' worth of content", began.elapsed());
}

#[test]
fn rules_and_wrong_responses_are_shown_logged_and_counted() {
    let server = serve("layer=cut@first:1 tags=503:2");
    let (line, _) = layer(&server);
    let banner = server.log();
    assert!(banner.contains("\n  fault     layer=cut@first:1\n  fault     tags=503:2\n"), "{banner}");
    transfer(&server, &line, &[]);
    server.ask(&line, &["User-Agent: right"]);
    server.ask("GET /v2/quinistry/tags/list", &["User-Agent: tags"]);
    server.ask("GET /v2/quinistry/tags/list", &["User-Agent: tags"]);
    assert_eq!(server.ask("GET /healthz", &[]).content, b"ok\n");
    let log = server.wait_for_log("\"tags\" (fault: 503)\n");
    assert!(log.contains(" \"\" (fault: cut)\n") && log.contains("\"right\"\n"), "{log}");

    let metrics = server.ask("GET /metrics", &[]).content;
    for line in [
        "# TYPE quinistry_faults_total counter\n",
        "quinistry_faults_total{rule=\"layer=cut@first:1\"} 1\n",
        "quinistry_faults_total{rule=\"tags=503:2\"} 2\n",
        "quinistry_requests_total{endpoint=\"tags\",status=\"503\"} 2\n",
    ] {
        assert!(lossy(&metrics).contains(line), "{}", lossy(&metrics));
    }
    let page = |server: &Server| lossy(&server.ask("GET /", &["Accept: text/html"]).content).into_owned();
    let shown = page(&server);
    assert!(shown.contains("wrong on purpose") && shown.contains("\ntags=503:2  2\n"), "{shown}");

    let right = Server::start();
    assert!(!page(&right).contains("wrong on purpose"));
    assert!(!lossy(&right.ask("GET /metrics", &[]).content).contains("faults"));
    assert!(!right.log().contains("fault"));
}

#[test]
fn a_reset_has_its_own_close_reason() {
    let server = serve("index=reset");
    let (_, end) = transfer(&server, "GET /v2/quinistry/manifests/latest", &[]);
    assert_eq!(end, End::Reset);
    let metrics = server.ask("GET /metrics", &[]).content;
    assert!(lossy(&metrics).contains("closed_total{reason=\"fault_reset\"} 1\n"));
}

/// Runs the program, which must not serve, and returns the first line that it prints to standard error.
fn refused(arguments: &[&str], variable: &str) -> String {
    let mut command = quinistry();
    // A server would run forever. It cannot listen on this address, which is reserved for documentation (RFC 5737).
    command.args(arguments).envs([("QUINISTRY_FAULT", variable), ("QUINISTRY_LISTEN", "192.0.2.1:1")]);
    let output = command.output().expect("the command starts");
    let said = lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?} {variable}: {said}");
    assert!(said.ends_with("Try `quinistry --help`.\n"), "{said}");
    said.lines().next().expect("a line").to_owned()
}

#[test]
fn an_invalid_rule_is_refused_and_its_invalid_part_named() {
    for (rule, reason) in [
        ("cut", "WHERE cannot be \"cut\""),
        ("=cut", "WHERE cannot be \"\""),
        ("layr=cut", "WHERE cannot be \"layr\""),
        ("layer=", "WHAT cannot be \"\""),
        ("layer=cutt", "WHAT cannot be \"cutt\""),
        ("layer=200", "WHAT cannot be \"200\""),
        ("layer=cut:2", "WHAT cannot be \"cut:2\""),
        ("layer=cut:", "WHAT cannot be \"cut:\""),
        ("layer=429:x", "WHAT cannot be \"429:x\""),
        ("layer=429:+2", "WHAT cannot be \"429:+2\""),
        ("layer=503:0", "WHAT cannot be \"503:0\""),
        ("any=slow", "WHAT cannot be \"slow\""),
        ("any=slow:0", "WHAT cannot be \"slow:0\""),
        ("any=slow:k", "WHAT cannot be \"slow:k\""),
        ("any=slow:99999999999999999999k", "WHAT cannot be \"slow:99999999999999999999k\""),
        ("layer=cut@", "WHEN cannot be \"\""),
        ("layer=cut@first", "WHEN cannot be \"first\""),
        ("layer=cut@first:0", "WHEN cannot be \"first:0\""),
        ("layer=cut@last:1", "WHEN cannot be \"last:1\""),
        ("layer=cut@always:1", "WHEN cannot be \"always:1\""),
        ("layer=slow:64k", "a rule with slow cannot be \"layer=slow:64k\""),
        ("any=slow:64k@first:1", "a rule with slow cannot be \"any=slow:64k@first:1\""),
    ] {
        assert_eq!(refused(&["--fault", rule], ""), format!("quinistry: --fault: {reason}"));
        let said = refused(&[], &format!("index=cut {rule}"));
        assert_eq!(said, format!("quinistry: QUINISTRY_FAULT: {reason}"));
    }
    let twice = refused(&["--fault=layer=cut", "--fault", "layer=cut"], "");
    assert_eq!(twice, "quinistry: --fault: there is already a rule like layer=cut");
    let rates = refused(&["--fault", "any=slow:1k any=slow:2k"], "");
    assert_eq!(rates, "quinistry: --fault: there is already a rule like any=slow:2k");
    let nothing = refused(&["--fault"], "");
    assert!(nothing.starts_with("quinistry: --fault requires a rule"), "{nothing}");
}

#[test]
fn rules_affect_only_the_server_and_not_its_image() {
    for command in [&["save"][..], &["digest"], &["k8s", "child"], &["healthcheck"], &["sbom"]] {
        let arguments = [command, &["--fault", "layer=cut"]].concat();
        assert_eq!(refused(&arguments, ""), "quinistry: this command does not use --fault");
    }
    // Other commands ignore the variable, even if it is invalid.
    let digest = |variable| {
        let output = quinistry().arg("digest").env("QUINISTRY_FAULT", variable).output().expect("the command starts");
        assert!(output.status.success(), "{}", lossy(&output.stderr));
        lossy(&output.stdout).trim().to_owned()
    };
    let server = Server::start_as(quinistry().env("QUINISTRY_FAULT", "  tags=500  base=404 ").args(LISTEN));
    assert_eq!((server.ask("GET /v2/", &[]).status, server.ask("GET /v2/_catalog", &[]).status), (404, 200));
    assert_eq!(server.ask("GET /v2/quinistry/tags/list", &[]).status, 500);
    let expected = format!("quinistry@{}", server.manifest_digest());
    assert_eq!([digest("nonsense"), digest("layer=flip"), digest("")], [(); 3].map(|()| expected.clone()));

    let replaced =
        Server::start_as(quinistry().env("QUINISTRY_FAULT", "base=404").args(LISTEN).args(["--fault", "tags=500"]));
    assert_eq!(replaced.ask("GET /v2/", &[]).status, 200, "an option replaces the variable");
}

#[test]
fn a_connection_persists_after_a_fault_that_does_not_end_it() {
    let server = serve("layer=flip@first:1 layer=wrong-type@first:1");
    let (line, digest) = layer(&server);
    let mut client: Client = server.connect();
    let mut digests = Vec::new();
    for _ in 0..3 {
        client.send_request(&line, &[]);
        digests.push(sha256(&client.response_to(&line).content) == digest);
    }
    assert_eq!(digests, [false, true, true]);
}

#[test]
fn a_stall_ends_when_the_client_sends_its_end_or_the_server_stops() {
    let server = serve("index=stall");
    let mut clients = [server.connect(), server.connect()];
    for client in &mut clients {
        client.send_request("GET /v2/quinistry/manifests/latest", &[]);
        let mut byte = [0];
        client.stream.read_exact(&mut byte).expect("the beginning of the response");
    }
    let [mut gone, kept] = clients;
    gone.finish();
    gone.stream.read_to_end(&mut Vec::new()).expect("half of the content, and the end");
    server.signal(libc::SIGTERM);
    let log = server.wait_for_log("the server is stopping");
    assert_eq!(log.matches("Closing 127.0.0.1").count(), 1, "{log}");
    drop(kept);
}
