//! The metrics, as a monitoring system reads them. Two tests need Prometheus and its promtool, and are skipped without
//! them.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::{Background, Client, Folder, Server, eventually, free_port, has_tool, quinistry, request, tool};
use quinistry::image::VERSION;

/// Returns the value of a sample, such as `quinistry_connections_open`, or 0 if it is missing.
fn value(text: &str, sample: &str) -> u64 {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let value = values.next().map_or(0, |value| value.parse().expect("a whole number"));
    assert_eq!(values.next(), None, "{sample} occurs twice");
    value
}

/// Requests the metrics, and returns them as text.
fn metrics(client: &mut Client) -> String {
    client.send_request("GET /metrics", &[]);
    let response = client.response_to("GET /metrics");
    assert_eq!(response.status, 200);
    assert_eq!(response.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    String::from_utf8(response.content).expect("ASCII")
}

#[test]
fn responses_are_counted_by_endpoint_and_status_code() {
    let server = Server::start();
    let mut client = server.connect();
    let (layer, size) = server.layer();
    let before = metrics(&mut client);
    for (line, fields) in [
        ("GET /v2/", vec![]),
        ("HEAD /v2/quinistry/manifests/latest", vec![]),
        ("GET /v2/quinistry/manifests/other", vec![]),
        (&format!("GET /v2/quinistry/blobs/{layer}"), vec![]),
        (&format!("GET /v2/quinistry/blobs/{layer}"), vec!["Range: bytes=0-9"]),
        (&format!("HEAD /v2/quinistry/blobs/{layer}"), vec![]),
        ("GET /nowhere", vec![]),
        ("OPTIONS *", vec![]),
        ("OPTIONS /v2/", vec![]),
        ("POST /v2/quinistry/blobs/uploads/", vec!["Content-Length: 0"]),
    ] {
        client.send_request(line, &fields);
        client.response_to(line);
    }
    let after = metrics(&mut client);
    let grown = |sample: &str| value(&after, sample) - value(&before, sample);
    for (endpoint, status, count) in [
        ("base", 200, 1),
        ("index", 200, 1),
        ("unknown_manifest", 404, 1),
        ("layer", 200, 2),
        ("layer", 206, 1),
        ("health", 204, 1),
        ("options", 204, 1),
        ("other", 404, 1),
        ("other", 405, 1),
        ("metrics", 200, 1),
    ] {
        let sample = format!("quinistry_requests_total{{endpoint=\"{endpoint}\",status=\"{status}\"}}");
        assert_eq!(grown(&sample), count, "{sample}");
    }
    let content = grown("quinistry_content_bytes_total") as usize;
    assert!((size + 10..size + 10_000).contains(&content), "a layer, ten bytes of it, and small responses");
}

#[test]
fn closed_connections_are_counted_by_the_reason_for_closing_them() {
    let server = Server::start();
    let mut watcher = server.connect();
    let before = metrics(&mut watcher);
    assert_eq!(value(&before, "quinistry_connections_open"), 1);
    let idle = server.connect_idle();
    server.connect_idle().finish();
    let mut cut_short = server.connect();
    cut_short.send("GET /v2/");
    cut_short.finish();
    let mut last = server.connect();
    last.send_request("GET /v2/", &["Connection: close"]);
    last.response_to("GET /v2/");
    last.expect_end();
    let after = eventually("all but two are closed", || {
        let text = metrics(&mut watcher);
        (value(&text, "quinistry_connections_open") == 2).then_some(text)
    });
    assert_eq!(value(&after, "quinistry_connections_accepted_total"), 5);
    for (reason, count) in [("left", 1), ("cut_short", 1), ("last_response", 1), ("idle", 0), ("silent", 0)] {
        let sample = format!("quinistry_connections_closed_total{{reason=\"{reason}\"}}");
        assert!(after.contains(&sample), "every reason is listed");
        assert_eq!(value(&after, &sample), count, "{sample}");
    }
    drop(idle);
}

#[test]
fn the_metrics_include_the_version_the_digest_and_the_memory_in_use() {
    let server = Server::start();
    let text = metrics(&mut server.connect());
    let build = format!("quinistry_build_info{{version=\"{VERSION}\",digest=\"{}\"}}", server.manifest_digest());
    assert_eq!(value(&text, &build), 1);
    // The kernel adds up its counts in batches, one for each processor. So two readings may differ for a while.
    let resident = eventually("the metric is close to the memory in use", || {
        let told = value(&metrics(&mut server.connect()), "process_resident_memory_bytes") / 1024;
        told.abs_diff(server.status("VmRSS")).le(&512).then_some(told)
    });
    assert!(resident > 0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let started = value(&text, "process_start_time_seconds");
    assert!((now - 3600..=now).contains(&started), "{started}, and now it is {now}");
}

#[test]
fn nothing_that_a_client_sends_becomes_a_label() {
    let server = Server::start();
    let mut client = server.connect();
    let names = |text: &str| {
        let names = text.lines().filter_map(|line| line.rsplit_once(' '));
        names.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    client.send_request("GET /nowhere", &[]);
    client.response_to("GET /nowhere");
    metrics(&mut client);
    let before = names(&metrics(&mut client));
    for target in ["/a", "/b\"} 1", "/metrics/x", "/%0aquinistry_x%201"] {
        server.ask(&format!("GET {}", target.replace([' ', '"', '}'], "%20")), &["User-Agent: \"} 1"]);
    }
    assert_eq!(names(&metrics(&mut client)), before);
}

#[test]
fn pauses_in_accepting_connections_are_counted() {
    let server = Server::start();
    server.connect_idle();
    let hard_limit = quinistry::system::raise_descriptor_limit();
    server.limit_descriptors(3);
    let mut waiting = server.connect();
    waiting.send_request("GET /metrics", &[]);
    server.wait_for_log("Cannot accept connections");
    server.limit_descriptors(hard_limit);
    let response = waiting.response_to("GET /metrics");
    assert!(value(&common::lossy(&response.content), "quinistry_accept_pauses_total") > 0);
}

#[test]
fn lines_that_are_dropped_from_the_log_are_counted() {
    let port = free_port();
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let mut command = quinistry();
    command.args(["--listen", &format!("127.0.0.1:{port}")]).stderr(full);
    let _server = Background::start(&mut command);
    let address = ([127, 0, 0, 1], port).into();
    eventually("the server listens", || std::net::TcpStream::connect(address).ok());
    let mut client = Client::connect(address);
    eventually("a line is dropped", || {
        client.send_request("GET /v2/", &[]);
        client.response_to("GET /v2/");
        (value(&metrics(&mut client), "quinistry_log_lines_dropped_total") > 0).then_some(())
    });
}

#[test]
fn requests_for_the_metrics_are_not_logged() {
    let server = Server::start();
    let mut client = server.connect();
    metrics(&mut client);
    client.send_request("GET /v2/", &[]);
    client.response_to("GET /v2/");
    let log = server.wait_for_log("GET /v2/");
    assert!(!log.contains("/metrics"), "{log}");
}

#[test]
fn promtool_finds_no_problem_in_the_metrics() {
    if !has_tool("promtool", &["--version"]) {
        return;
    }
    let server = Server::start();
    server.ask("GET /v2/", &[]);
    let text = metrics(&mut server.connect());
    let mut promtool = tool("promtool");
    let mut child = Background::start(
        promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()),
    );
    child.0.stdin.take().expect("the stream is piped").write_all(text.as_bytes()).expect("promtool reads its input");
    let mut said = String::new();
    for pipe in [
        &mut child.0.stdout.take().expect("the stream is piped") as &mut dyn std::io::Read,
        &mut child.0.stderr.take().expect("the stream is piped"),
    ] {
        pipe.read_to_string(&mut said).expect("UTF-8");
    }
    assert!(child.0.wait().expect("our own child").success(), "{said}");
    assert_eq!(said, "");
}

#[test]
fn prometheus_can_scrape_the_server() {
    if !has_tool("prometheus", &["--version"]) {
        return;
    }
    let (server, folder, port) = (Server::start(), Folder::new("prometheus"), free_port());
    let config = format!(
        "scrape_configs:\n  - job_name: quinistry\n    scrape_interval: 200ms\n    scrape_timeout: 200ms\n    \
         static_configs:\n      - targets: ['{}']\n",
        server.address
    );
    std::fs::write(folder.path("prometheus.yml"), config).expect("the file can be written");
    let mut prometheus = tool("prometheus");
    prometheus
        .arg(format!("--config.file={}", folder.path("prometheus.yml")))
        .arg(format!("--storage.tsdb.path={}", folder.path("data")))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let _prometheus = Background::start(prometheus.stdout(Stdio::null()).stderr(Stdio::null()));
    let query = "GET /api/v1/query?query=quinistry_requests_total%7Bendpoint%3D%22metrics%22%7D";
    let count = eventually("prometheus has scraped twice", || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.write_all(request(query, &["Connection: close"]).as_bytes()).ok()?;
        let mut response = String::new();
        std::io::Read::read_to_string(&mut stream, &mut response).ok()?;
        let (_, content) = response.split_once("\r\n\r\n")?;
        let json: serde_json::Value = serde_json::from_str(content).ok()?;
        let sample = &json["data"]["result"][0];
        let count: u64 = sample["value"][1].as_str()?.parse().ok()?;
        (count >= 2).then(|| sample["metric"]["instance"].clone())
    });
    assert_eq!(count, server.address.to_string());
}
