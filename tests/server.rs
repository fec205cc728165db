//! The server as a process: its command line, its sockets, its signals and its log. A few tests need root, IPv6 or a
//! tool, and are skipped if these are missing.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{
    Background, Client, Folder, OnTerminal, Server, bash, eventually, free_port, has_tool, is_root, lossy,
    open_program, quinistry, quinistry_as_other_user, request, sha256, skip, system, tool,
};

/// Runs a command. Returns its exit code, its standard output and its standard error.
fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the command starts");
    (status.code(), lossy(&stdout).into_owned(), lossy(&stderr).into_owned())
}

#[test]
fn help_describes_the_command_line_and_a_wrong_argument_is_explained() {
    let (code, stdout, _) = output(quinistry().arg("--help"));
    assert_eq!(code, Some(0));
    for word in [
        "--listen",
        "QUINISTRY_LISTEN",
        "--quiet",
        "--explain",
        "--version",
        "healthcheck",
        "save",
        "digest",
        "sbom",
        "docker pull localhost:8080/quinistry",
        "docker run -d --rm -p 8090:8080 localhost:8080/quinistry",
    ] {
        assert!(stdout.contains(word), "{word}");
    }
    let (code, stdout, _) = output(quinistry().arg("--version"));
    assert_eq!((code, stdout), (Some(0), format!("quinistry {}\n", env!("CARGO_PKG_VERSION"))));

    for arguments in [
        &["--nonesuch"][..],
        &["--listen"],
        &["--listen", "example.com:8080"],
        &["digest", "--listen", "8080"],
        &["k8s"],
        &["--listen=nowhere"],
        &["--quiet=1"],
        &["--quiet", "--explain"],
        &[""],
    ] {
        let (code, stdout, stderr) = output(quinistry().args(arguments));
        assert_eq!((code, &*stdout), (Some(2), ""), "{arguments:?}");
        assert!(stderr.starts_with("quinistry: ") && stderr.contains("--help"), "{stderr}");
    }
    let (_, _, stderr) = output(quinistry().args(["serve", "--port=8080"]));
    assert!(stderr.contains("did you mean --listen?"), "{stderr}");
    let (code, _, stderr) = output(quinistry().env("QUINISTRY_LISTEN", "nonsense"));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("QUINISTRY_LISTEN is \"nonsense\""), "{stderr}");
}

#[test]
fn the_command_digest_prints_the_digest_of_the_image_that_is_served() {
    let server = Server::start();
    let (code, stdout, _) = output(quinistry().arg("digest"));
    assert_eq!((code, stdout), (Some(0), format!("quinistry@{}\n", server.manifest_digest())));
}

/// Every command that prints to standard output.
const PRINTING: [&[&str]; 6] = [&["save"], &["digest"], &["k8s", "child"], &["sbom"], &["--help"], &["--version"]];

#[test]
fn output_that_cannot_be_written_is_an_error() {
    for arguments in PRINTING {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("a device");
        let (code, _, stderr) = output(quinistry().args(arguments).stdout(full));
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(stderr.contains("No space left"), "{stderr}");

        let script = "exec \"$0\" \"$@\" >&-";
        let (code, _, stderr) =
            output(tool("bash").args(["-c", script, env!("CARGO_BIN_EXE_quinistry")]).args(arguments));
        assert_eq!(code, Some(1), "{arguments:?} with standard output closed");
        assert!(stderr.contains("cannot write to standard output"), "{stderr}");
    }
}

#[test]
fn output_to_a_closed_pipe_ends_the_program_as_sigpipe_would() {
    for arguments in PRINTING {
        let mut command = quinistry();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let (code, _, stderr) = output(command.args(arguments).stdout(writer));
        assert_eq!((code, &*stderr), (Some(141), ""), "{arguments:?}");
    }
}

#[test]
fn a_port_that_is_in_use_is_named_and_a_free_one_is_suggested() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let (code, _, stderr) = output(quinistry().args(["--listen", &address]));
    assert_eq!(code, Some(1));
    let (said, example) = stderr.split_once("; try --listen ").expect("an example");
    assert!(said.contains(&format!("port {} is in use", taken.local_addr().expect("an address").port())));
    // A server can listen on the suggested address.
    assert_ne!(example.trim(), address);
    assert!(example.starts_with("127.0.0.1:"));
    Server::start_as(quinistry().args(["--listen", example.trim()]));
}

#[test]
fn a_port_that_only_root_may_use_is_named_and_another_is_suggested() {
    const PORT: u16 = 81;
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if first.is_ok_and(|first| first.trim().parse::<u16>().is_ok_and(|first| first <= PORT)) {
        return skip("any user may listen on any port here");
    }
    if !is_root("only root can start a server as another user") {
        return;
    }
    let program = open_program();
    for (address, shown) in [("127.0.0.1:81", "127.0.0.1:"), ("81", "")] {
        let (code, _, stderr) = output(quinistry_as_other_user(&program).args(["--listen", address]));
        assert_eq!(code, Some(1));
        let (said, example) = stderr.split_once("; try --listen ").expect("an example");
        assert_eq!(said, "quinistry: this process has no permission to listen on port 81");
        let port = example.trim().strip_prefix(shown).and_then(|port| port.parse::<u16>().ok());
        assert!(port.expect("a port") >= 8080, "{example}");
    }
}

#[test]
fn a_loopback_address_is_shown_in_a_form_that_docker_accepts() {
    if TcpListener::bind("[::1]:0").is_err() {
        return skip("this machine has no IPv6");
    }
    let server = Server::start_as(quinistry().args(["--listen", "[::1]:0"]));
    let port = server.address.port();
    assert_eq!(server.address.to_string(), format!("[::1]:{port}"));
    let log = server.wait_for_log("docker run");
    assert!(log.contains(&format!("docker pull localhost:{port}/quinistry\n")), "{log}");

    // `localhost` does not resolve to 127.0.0.2.
    let server = Server::start_as(quinistry().args(["--listen", "127.0.0.2:0"]));
    let log = server.wait_for_log("docker run");
    assert!(log.contains(&format!("docker pull {}/quinistry\n", server.address)), "{log}");
}

#[test]
fn a_server_that_is_process_1_logs_that_its_port_is_the_one_inside_the_container() {
    const INSIDE: &str = "This is the port inside the container";
    if !is_root("only root can make a server process 1") || !has_tool("unshare", &["--version"]) {
        return;
    }
    let mut command = tool("unshare");
    command.args(["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_quinistry")]);
    let inside = Server::start_as(command.args(["--listen", "127.0.0.1:0"]));
    let log = inside.wait_for_log("docker run");
    assert!(log.contains(INSIDE), "{log}");
    assert!(!Server::start().wait_for_log("docker run").contains(INSIDE));
}

#[test]
fn a_stopping_server_logs_how_many_connections_are_open_and_how_to_end_it_at_once() {
    for count in 0..3 {
        let server = Server::start();
        let clients: Vec<_> = (0..count).map(|_| server.connect_idle()).collect();
        server.signal(libc::SIGTERM);
        let log = server.wait_for_log("Stopping");
        let connections = ["0 connections", "1 connection", "2 connections"][count];
        let words =
            format!("Stopping: {connections} open, up to 8 s to finish; a second signal ends the server at once");
        assert!(log.contains(&words), "{log}");
        drop(clients);
    }
}

#[test]
fn the_option_listen_overrides_the_environment_variable() {
    let server = Server::start_as(quinistry().env("QUINISTRY_LISTEN", "127.0.0.2:0"));
    assert_eq!(server.address.ip().to_string(), "127.0.0.2");
    let server = Server::start_as(quinistry().env("QUINISTRY_LISTEN", "127.0.0.2:0").arg("--listen=127.0.0.3:0"));
    assert_eq!(server.address.ip().to_string(), "127.0.0.3");
}

#[test]
fn a_server_on_the_ipv6_wildcard_address_also_accepts_ipv4() {
    if TcpListener::bind("[::1]:0").is_err() {
        return skip("this machine has no IPv6");
    }
    let server = Server::start_as(quinistry().args(["--listen", "[::]:0"]));
    for host in ["127.0.0.1", "[::1]"] {
        let address = format!("{host}:{}", server.address.port()).parse().expect("an address");
        let mut client = Client::connect(address);
        client.send_request("GET /v2/", &[]);
        assert_eq!(client.response_to("GET /v2/").status, 200);
    }
    // An IPv4 peer is logged with its IPv4 address.
    assert!(server.wait_for_log(" [::1]:").contains(" 127.0.0.1:"));
}

#[test]
fn the_banner_shows_what_is_served_and_how_to_pull_it() {
    let server = Server::start();
    let port = server.address.port();
    let child = port + 10;
    let log = server.wait_for_log(&format!("docker pull localhost:{child}/quinistry"));
    assert!(log.contains(concat!("quinistry ", env!("CARGO_PKG_VERSION"), ": packing")));
    for line in [
        format!("docker pull localhost:{port}/quinistry\n"),
        format!("docker run -d --rm -p {child}:8080 localhost:{port}/quinistry\n"),
    ] {
        assert!(log.contains(&line), "{line}");
    }
    let index = server.ask("GET /v2/quinistry/manifests/latest", &[]);
    let (layer, size) = server.layer();
    for text in [&sha256(&index.content), &layer, &size.to_string()] {
        assert!(log.contains(text), "{text}");
    }
}

#[test]
fn every_response_is_logged_on_one_line() {
    let server = Server::start();
    server.ask("GET /v2/quinistry/manifests/latest", &["User-Agent: tester/1 \"q\""]);
    server.ask("DELETE /v2/quinistry/manifests/latest", &[]);
    let log = server.wait_for_log("DELETE");
    let line = log.lines().find(|line| line.contains("GET")).expect("a line for the GET");
    let (time, rest) = line.split_once(' ').expect("a time first");
    assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
    assert!(rest.starts_with("Serving index: GET /v2/quinistry/manifests/latest 200 "), "{rest}");
    assert!(rest.contains(" 127.0.0.1:") && rest.ends_with(r#" "tester/1 \"q\"""#), "{rest}");
    assert!(log.contains("Refusing: DELETE /v2/quinistry/manifests/latest 405 "));
}

#[test]
fn a_log_without_a_reader_does_not_stop_the_server() {
    // `head` exits after the first line, and standard error is a broken pipe from then on. If standard error is closed,
    // no socket may get its number, because a client would then receive the log.
    if !has_tool("bash", &["--version"]) || !has_tool("head", &["--version"]) {
        return;
    }
    for redirection in ["2> >(head -n 1)", "2>&-", "<&- >&- 2>&-"] {
        is_served_with(redirection);
    }
}

/// Starts a server with these redirections, and checks that it serves and then stops cleanly.
fn is_served_with(redirection: &str) {
    let port = free_port();
    let script = format!("exec {} --listen 127.0.0.1:{port} {redirection}", env!("CARGO_BIN_EXE_quinistry"));
    let folder = Folder::new("redirection");
    let mut child = Background::start(bash(&script, &folder).stdout(Stdio::null()));
    let address = ([127, 0, 0, 1], port).into();
    eventually("the server listens", || TcpStream::connect(address).ok());
    for _ in 0..100 {
        let mut client = Client::connect(address);
        client.send_request("GET /v2/", &[]);
        assert_eq!(client.response_to("GET /v2/").status, 200);
    }
    child.signal(libc::SIGTERM);
    assert_eq!(child.0.wait().expect("our own child").code(), Some(0));
}

#[test]
fn requests_may_arrive_in_pieces_of_any_size() {
    let server = Server::start();
    let line = "GET /v2/quinistry/manifests/latest";
    let whole = server.ask(line, &[]).content;
    let bytes = request(line, &["User-Agent: slow"]);

    let mut client = server.connect();
    for byte in bytes.bytes() {
        client.send([byte]);
    }
    assert_eq!(client.response_to(line).content, whole);

    // Many requests arrive in pieces that may end anywhere. The client ends its stream after the last one.
    let many = bytes.repeat(300);
    for piece in many.as_bytes().chunks(1021) {
        client.send(piece);
    }
    client.finish();
    for _ in 0..300 {
        assert_eq!(client.response_to(line).content, whole);
    }
    client.expect_end();
}

#[test]
fn a_response_to_head_keeps_the_connection_in_sync() {
    let server = Server::start();
    let mut client = server.connect();
    for line in
        ["HEAD /v2/quinistry/manifests/latest", "GET /v2/", "HEAD /nonesuch", "GET /v2/quinistry/manifests/latest"]
    {
        client.send_request(line, &[]);
        let response = client.response_to(line);
        assert_eq!(response.content.is_empty(), line.starts_with("HEAD"), "{line}");
    }
}

#[test]
fn ten_clients_receive_the_layer_in_ranges_while_another_reader_stalls() {
    const LAYERS: usize = 3;
    let server = Server::start();
    let (digest, size) = server.layer();
    let line = &format!("GET /v2/quinistry/blobs/{digest}");
    let mut stalled = server.connect();
    // The buffer is small, so the server soon cannot send more to a client that stalls.
    system::limit_receive_buffer(&stalled.stream, 16 * 1024);
    for _ in 0..LAYERS {
        stalled.send_request(line, &[]);
    }
    // Each of the ten clients reads in its own thread, so none of them stalls, however slow the machine is.
    let layer: Vec<u8> = std::thread::scope(|scope| {
        let read = |part| {
            let mut client = server.connect();
            let (start, end) = (part * size / 10, (part + 1) * size / 10 - 1);
            client.send_request(line, &[&format!("Range: bytes={start}-{end}")]);
            scope.spawn(move || {
                let response = client.response_to(line);
                assert_eq!(response.status, 206);
                response.content
            })
        };
        let parts: Vec<_> = (0..10).map(read).collect();
        parts.into_iter().flat_map(|part| part.join().expect("a part")).collect()
    });
    assert_eq!(sha256(&layer), digest);
    // The stalled client receives everything once it reads.
    for _ in 0..LAYERS {
        assert_eq!(sha256(&stalled.response_to(line).content), digest);
    }
}

#[test]
fn a_write_is_refused_before_its_content_is_read_and_the_client_receives_the_response() {
    let server = Server::start();
    let line = "PUT /v2/quinistry/blobs/uploads/1";
    // A client that waits for 100 (Continue) receives the final status instead.
    let mut client = server.connect();
    client.send_request(line, &["Content-Length: 1000000", "Expect: 100-continue"]);
    assert_eq!(client.response_to(line).status, 405);
    client.expect_end();
    // A client that sends all of its content before it reads also receives the response.
    for field in ["Content-Length: 200000", "Transfer-Encoding: chunked"] {
        let mut client = server.connect();
        client.send_request(line, &[field]);
        client.send(vec![b'x'; 200_000]);
        let response = client.response_to(line);
        assert_eq!((response.status, response.field("connection")), (405, Some("close")));
        client.expect_end();
    }
}

#[test]
fn sigterm_and_sigint_end_the_server_with_exit_code_0_and_free_the_port() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut server = Server::start();
        let (idle, own) = (server.connect_idle(), server.open_descriptors());
        // Another client sends nothing. The kernel passes its connection to the server after a second.
        let silent = server.connect();
        eventually("the silent client is accepted", || (server.open_descriptors() > own).then_some(()));
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal}");
        idle.expect_end();
        silent.expect_end();
        // Earlier connections do not block the port.
        let again = Server::start_as(quinistry().args(["--listen", &server.address.to_string()]));
        assert_eq!(again.ask("GET /v2/", &[]).status, 200);
    }
}

#[test]
fn a_second_signal_ends_the_server_at_once_and_sets_its_exit_code() {
    let mut server = Server::start();
    let (digest, _) = server.layer();
    let line = format!("GET /v2/quinistry/blobs/{digest}");
    // The responses are larger than the sockets' buffers, so one of them stays in flight.
    let mut slow = server.connect();
    for _ in 0..100 {
        slow.send_request(&line, &[]);
    }
    slow.response_to(&line);
    server.signal(libc::SIGTERM);
    server.wait_for_log("Stopping");
    // The response that has begun arrives completely. The later requests receive no response.
    let response = slow.response_to(&line);
    assert_eq!(sha256(&response.content), digest);
    server.signal(libc::SIGINT);
    assert_eq!(server.wait().code(), Some(130));
}

#[test]
fn a_signal_ends_a_server_that_is_still_packing() {
    let mut child = Background::start(quinistry().args(["--listen", "127.0.0.1:0"]).stderr(Stdio::piped()));
    let mut stderr = child.0.stderr.take().expect("the stream is piped");
    // The log starts while the server is still packing.
    let mut bytes = [0; 10];
    stderr.read_exact(&mut bytes).expect("the start of the log");
    child.signal(libc::SIGTERM);
    std::io::copy(&mut stderr, &mut std::io::sink()).expect("the rest of the log");
    assert_eq!(child.0.wait().expect("our own child").code(), Some(0));
}

#[test]
fn a_named_pipe_is_refused_without_waiting_for_a_writer() {
    let folder = Folder::new("fifo");
    let pipe = folder.path("pipe");
    system::make_fifo(&pipe);
    for command in ["serve", "save", "digest"] {
        let mut child = Background::start(
            quinistry().args([command, "--with", &pipe]).stdout(Stdio::null()).stderr(Stdio::piped()),
        );
        let status = eventually("the process ends", || child.0.try_wait().expect("our own child"));
        let mut said = String::new();
        child.0.stderr.take().expect("the stream is piped").read_to_string(&mut said).expect("text");
        assert_eq!(status.code(), Some(1), "{said}");
        assert_eq!(said, format!("quinistry: cannot include {pipe}: not a regular file\n"));
    }
}

#[test]
fn every_client_in_the_backlog_is_answered_when_the_server_stops() {
    let mut server = Server::start();
    let line = "GET /v2/quinistry/manifests/latest";
    server.freeze();
    // These are more clients than the server accepts at a time.
    let clients: Vec<_> = (0..700)
        .map(|_| {
            let mut client = server.connect();
            client.send_request(line, &[]);
            client
        })
        .collect();
    server.signal(libc::SIGTERM);
    server.thaw();
    for mut client in clients {
        assert_eq!(client.response_to(line).status, 200);
    }
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_client_that_sends_nothing_is_not_accepted_at_once() {
    let server = Server::start();
    let accepted = || {
        let text = server.ask("GET /metrics", &[]).content;
        let text = lossy(&text).into_owned();
        let line = text.lines().find(|line| line.starts_with("quinistry_connections_accepted_total "));
        line.and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok()).expect("a number")
    };
    // The kernel passes the connection to the server after a second. On a busy machine, an attempt may take longer than
    // that. A faster attempt finds that the server has not accepted the connection.
    eventually("a silent client is not accepted at once", || {
        let before = accepted();
        let silent = server.connect();
        let is_unknown = accepted() == before + 1;
        drop(silent);
        is_unknown.then_some(())
    });
}

#[test]
fn a_client_in_the_backlog_is_answered_when_a_server_with_few_descriptors_stops() {
    // With so few descriptors, there is room for only a few connections.
    let mut server = Server::start_as(system::with_descriptors(&mut quinistry(), 40).args(["--listen", "127.0.0.1:0"]));
    let line = "GET /v2/quinistry/manifests/latest";
    let manifest = server.ask(line, &[]).content;
    server.freeze();
    let mut client = server.connect();
    client.send_request(line, &[]);
    server.signal(libc::SIGTERM);
    server.thaw();
    assert_eq!(client.response_to(line).content, manifest);
    client.expect_end();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_request_that_arrived_before_the_signal_is_answered_even_if_no_event_reports_it() {
    for _ in 0..10 {
        let mut server = Server::start();
        let line = "GET /v2/quinistry/manifests/latest";
        let mut client = server.connect_idle();
        // SIGSTOP interrupts the wait for events, so the server notices only the signals.
        server.freeze();
        client.send_request(line, &[]);
        server.signal(libc::SIGTERM);
        server.thaw();
        assert_eq!(client.response_to(line).status, 200);
        client.expect_end();
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn the_health_check_succeeds_only_if_the_server_is_healthy() {
    let server = Server::start();
    let check = |address: &str| output(quinistry().args(["healthcheck", "--listen", address]));
    let (code, stdout, stderr) = check(&server.address.to_string());
    assert_eq!((code, &*stdout, &*stderr), (Some(0), "", ""));
    let (code, ..) = output(quinistry().arg("healthcheck").env("QUINISTRY_LISTEN", server.address.to_string()));
    assert_eq!(code, Some(0));
    // A wildcard address is checked on loopback.
    let wildcard = Server::start_as(quinistry().args(["--listen", "0.0.0.0:0"]));
    assert_eq!(check(&wildcard.address.to_string()).0, Some(0));

    // The check fails if a server accepts the connection but sends nothing, if nothing listens, and if the status is
    // not 200.
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mute_address = mute.local_addr().expect("an address");
    let (code, _, stderr) = check(&mute_address.to_string());
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&mute_address.to_string()) && stderr.contains("timed out"), "{stderr}");
    drop(mute);
    let (code, _, stderr) = check(&mute_address.to_string());
    assert_eq!(code, Some(1));
    assert!(stderr.contains("set QUINISTRY_LISTEN to it"), "{stderr}");
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("an address");
    let responding = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().expect("the check connects");
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").expect("the check reads");
        std::thread::sleep(Duration::from_millis(100));
    });
    assert_eq!(check(&address.to_string()).0, Some(1));
    responding.join().expect("the response was sent");
}

#[test]
fn health_checks_that_succeed_are_not_logged() {
    let server = Server::start();
    for _ in 0..3 {
        let check = output(quinistry().args(["healthcheck", "--listen", &server.address.to_string()]));
        assert_eq!(check, (Some(0), String::new(), String::new()));
        for line in ["GET /healthz", "HEAD /healthz"] {
            assert_eq!(server.ask(line, &["User-Agent: kube-probe/1.32"]).status, 200);
        }
        // HAProxy and Apache send checks like these.
        for target in ["/", "*"] {
            let mut client = server.connect();
            client.send(format!("OPTIONS {target} HTTP/1.0\r\n\r\n"));
            assert_eq!(client.response_to("OPTIONS").status, 204);
            client.expect_end();
        }
    }
    // A refused probe is logged, and so is a browser's preflight request.
    assert_eq!(server.ask("OPTIONS /v2/", &["Origin: http://ui.example"]).status, 204);
    server.ask("POST /healthz", &[]);
    let log = server.wait_for_log("POST /healthz 405");
    assert!(log.contains("Serving options: OPTIONS /v2/ 204 0 "), "{log}");
    // These are the only lines after the banner.
    let lines = log.rsplit_once("\n\n").map(|(_, lines)| lines.lines().count());
    assert_eq!(lines, Some(2), "{log}");
}

#[test]
fn a_quiet_server_logs_only_errors_and_its_shutdown() {
    let (mut command, port) = (quinistry(), free_port());
    command.args(["serve", "--quiet", "--listen", &format!("localhost:{port}")]);
    let mut child = Background::start(command.stderr(Stdio::piped()));
    let address = ([127, 0, 0, 1], port).into();
    eventually("the server listens", || TcpStream::connect(address).ok());
    let mut client = Client::connect(address);
    client.send_request("GET /v2/", &[]);
    assert_eq!(client.response_to("GET /v2/").status, 200);
    // Meanwhile, another server finds the port in use.
    let (code, _, stderr) = output(&mut command);
    assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");
    child.signal(libc::SIGTERM);
    let mut said = String::new();
    child.0.stderr.take().expect("the stream is piped").read_to_string(&mut said).expect("text");
    assert!(said.contains("Stopping"), "{said}");
    assert!(!["packing", "Listening", "docker", "GET", "Closing"].iter().any(|word| said.contains(word)), "{said}");
}

#[test]
fn short_forms_of_the_listen_address_are_accepted() {
    for (prefix, host) in [("", "127.0.0.2"), (":", "127.0.0.2"), ("localhost:", "127.0.0.1")] {
        let port = free_port();
        let server = Server::start_as(quinistry().args(["--listen", &format!("{prefix}{port}")]));
        assert_eq!(server.address.port(), port);
        let mut client = Client::connect(format!("{host}:{port}").parse().expect("an address"));
        client.send_request("GET /v2/", &[]);
        assert_eq!(client.response_to("GET /v2/").status, 200);
        assert_eq!(TcpStream::connect(("127.0.0.2", port)).is_ok(), host == "127.0.0.2");
        let check = output(quinistry().args(["healthcheck", "--listen", &format!("{prefix}{port}")]));
        assert_eq!(check.0, Some(0));
    }
}

#[test]
fn a_file_size_limit_below_the_size_of_the_layer_is_reported_at_start() {
    let mut command = quinistry();
    command.args(["--listen", "127.0.0.1:0"]);
    let (code, _, stderr) = output(system::with_file_size(&mut command, 64 * 1024));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot make the layer for "), "{stderr}");
    assert!(stderr.contains("File too large"), "{stderr}");
}

#[test]
fn a_log_that_reaches_the_file_size_limit_drops_lines_and_counts_them() {
    const LIMIT: u64 = 64 * 1024 * 1024; // The layer is smaller, however the program was built.
    const ROOM: u64 = 8 * 1024;
    const LINE: &str = "GET /v2/";
    let folder = Folder::new("log-limit");
    let (path, port) = (folder.path("log"), free_port());
    let log = File::create(&path).expect("the file can be written");
    log.set_len(LIMIT - ROOM).expect("a file with a hole");
    let mut command = quinistry();
    let appended = OpenOptions::new().append(true).open(&path).expect("the log exists");
    command.args(["--listen", &format!("127.0.0.1:{port}")]).stderr(appended);
    let _server = Background::start(system::with_file_size(&mut command, LIMIT));
    let address = ([127, 0, 0, 1], port).into();
    eventually("the server listens", || TcpStream::connect(address).ok());
    for _ in 0..200 {
        let mut client = Client::connect(address);
        client.send_request(LINE, &[]);
        assert_eq!(client.response_to(LINE).status, 200);
    }
    eventually("the log is full", || (log.metadata().ok()?.len() == LIMIT).then_some(()));
    let written = fs::read(&path).expect("the log exists");
    let lines = lossy(&written[(LIMIT - ROOM) as usize..]).matches(LINE).count();
    eventually("all lines are written or dropped", || {
        let mut client = Client::connect(address);
        client.send_request("GET /metrics", &[]);
        let metrics = client.response_to("GET /metrics").content;
        let dropped = lossy(&metrics)
            .lines()
            .find_map(|line| line.strip_prefix("quinistry_log_lines_dropped_total ")?.parse::<usize>().ok());
        (lines + dropped? >= 200).then_some(())
    });

    // When there is room again, the log continues, and reports how many lines were dropped.
    log.set_len(0).expect("our file");
    let mut client = Client::connect(address);
    let log = eventually("the count is logged", || {
        client.send_request(LINE, &[]);
        assert_eq!(client.response_to(LINE).status, 200);
        fs::read_to_string(&path).ok().filter(|log| log.contains("Dropped"))
    });
    let count = log.split("Dropped ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    let dropped = count.expect("a number");
    // The last line that was written may be incomplete, and is then counted twice.
    assert!((200..=201).contains(&(lines + dropped)), "{lines} lines and {dropped} dropped of 200");
}

#[test]
fn a_client_that_tries_https_first_receives_an_explanation_and_is_logged() {
    let server = Server::start();
    let mut client = server.connect();
    client.send([0x16, 3, 1, 2, 0]); // A TLS record of the handshake.
    let response = client.response_to("");
    assert_eq!(response.status, 400);
    assert!(lossy(&response.content).contains("this port speaks plain HTTP, not TLS"));
    client.expect_end();
    let log = server.wait_for_log("Client tried HTTPS first");
    assert!(!log.contains("Refusing"), "{log}");
}

#[test]
fn a_terminal_shows_only_the_first_product_of_the_user_agent() {
    let mut server = OnTerminal::start();
    let mut client = Client::connect(server.address);
    client.send_request("GET /v2/", &["User-Agent: docker/28.2.2 go/go1.23.9 os/linux"]);
    client.response_to("GET /v2/");
    let shown = server.read_until("GET /v2/");
    assert!(shown.starts_with(concat!("quinistry ", env!("CARGO_PKG_VERSION"), ": packing")), "{shown}");
    let line = shown.lines().find(|line| line.contains("GET /v2/")).expect("just seen");
    assert!(line.ends_with("\"docker/28.2.2\""), "{line}");
}
