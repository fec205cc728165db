//! The server as a process: its command line, its sockets, its signals and its log.

mod common;

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{
    Background, Client, Folder, Server, bash, eventually, free_port, has_tool, lossy, quinistry, request,
    sha256, system,
};

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    (status.code(), lossy(&stdout).into_owned(), lossy(&stderr).into_owned())
}

#[test]
fn the_command_line_explains_itself_and_its_errors() {
    let (code, stdout, _) = output(quinistry().arg("--help"));
    assert_eq!(code, Some(0));
    for word in ["--listen", "QUINISTRY_LISTEN", "--quiet", "--version", "healthcheck", "save", "digest"] {
        assert!(stdout.contains(word), "{word}");
    }
    let (code, stdout, _) = output(quinistry().arg("--version"));
    assert_eq!((code, stdout), (Some(0), format!("quinistry {}\n", env!("CARGO_PKG_VERSION"))));

    for arguments in [
        &["--nonesuch"][..],
        &["serve"],
        &["--listen"],
        &["--listen", "8080"],
        &["--listen=nowhere"],
        &["--quiet=1"],
        &[""],
    ] {
        let (code, stdout, stderr) = output(quinistry().args(arguments));
        assert_eq!((code, &*stdout), (Some(2), ""), "{arguments:?}");
        assert!(stderr.starts_with("quinistry: ") && stderr.contains("--help"), "{stderr}");
    }
    let (code, _, stderr) = output(quinistry().env("QUINISTRY_LISTEN", "nonsense"));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("QUINISTRY_LISTEN is \"nonsense\""), "{stderr}");
}

#[test]
fn the_digest_is_that_of_the_image_that_is_served() {
    let server = Server::start();
    let (code, stdout, _) = output(quinistry().arg("digest"));
    assert_eq!((code, stdout), (Some(0), format!("quinistry@{}\n", server.manifest_digest())));
}

#[test]
fn an_archive_that_cannot_be_written_is_an_error_and_one_that_nobody_wants_is_not() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let (code, _, stderr) = output(quinistry().arg("save").stdout(full));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("No space left"), "{stderr}");

    let mut child =
        quinistry().arg("save").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let Output { status, stderr, .. } = child.wait_with_output().expect("our child");
    assert_eq!((status.code(), &*lossy(&stderr)), (Some(141), ""));
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let (code, _, stderr) = output(quinistry().args(["--listen", &address]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&address) && stderr.contains("in use"), "{stderr}");
}

#[test]
fn the_address_comes_from_the_option_or_else_the_variable() {
    let server = Server::start_as(quinistry().env("QUINISTRY_LISTEN", "127.0.0.2:0"));
    assert_eq!(server.address.ip().to_string(), "127.0.0.2");
    let server =
        Server::start_as(quinistry().env("QUINISTRY_LISTEN", "127.0.0.2:0").arg("--listen=127.0.0.3:0"));
    assert_eq!(server.address.ip().to_string(), "127.0.0.3");
}

#[test]
fn a_wildcard_takes_both_families() {
    if TcpListener::bind("[::1]:0").is_err() {
        return; // This machine has no IPv6.
    }
    let server = Server::start_as(quinistry().args(["--listen", "[::]:0"]));
    for host in ["127.0.0.1", "[::1]"] {
        let address = format!("{host}:{}", server.address.port()).parse().expect("an address");
        let mut client = Client::connect(address);
        client.send_request("GET /v2/", &[]);
        assert_eq!(client.answer_to("GET /v2/").status, 200);
    }
    // An IPv4 peer is shown as one.
    assert!(server.wait_for_log(" [::1]:").contains(" 127.0.0.1:"));
}

#[test]
fn the_start_says_what_is_served_and_how_to_get_it() {
    let server = Server::start();
    let log = server.wait_for_log("docker pull");
    assert!(log.contains(concat!("quinistry ", env!("CARGO_PKG_VERSION"), ": packing")));
    assert!(log.contains(&format!("docker pull localhost:{}/quinistry", server.address.port())));
    let manifest = server.ask("GET /v2/quinistry/manifests/latest", &[]);
    let (layer, size) = server.layer();
    for text in [&sha256(&manifest.content), &layer, &size.to_string()] {
        assert!(log.contains(text), "{text}");
    }
}

#[test]
fn every_answer_is_a_line_of_the_log() {
    let server = Server::start();
    server.ask("GET /v2/quinistry/manifests/latest", &["User-Agent: tester/1 \"q\""]);
    server.ask("DELETE /v2/quinistry/manifests/latest", &[]);
    let log = server.wait_for_log("DELETE");
    let line = log.lines().find(|line| line.contains("GET")).expect("a line for the GET");
    let (time, rest) = line.split_once(' ').expect("a time first");
    assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
    assert!(rest.starts_with("Serving manifest: GET /v2/quinistry/manifests/latest 200 "), "{rest}");
    assert!(rest.contains(" 127.0.0.1:") && rest.ends_with(r#" "tester/1 \"q\"""#), "{rest}");
    assert!(log.contains("Refusing: DELETE /v2/quinistry/manifests/latest 405 "));

    let quiet = Server::start_as(quinistry().args(["--quiet", "--listen", "127.0.0.1:0"]));
    quiet.ask("GET /v2/", &[]);
    quiet.signal(libc::SIGTERM);
    assert!(!quiet.wait_for_log("Stopping").contains("GET /v2/"));
}

#[test]
fn nobody_at_the_other_end_of_the_log_does_not_matter() {
    // `head` reads the start and goes: from then on, writing to stderr is a broken pipe. And where
    // stderr is closed, no socket may get its number: a client would read the log.
    if !has_tool("bash", &["--version"]) || !has_tool("head", &["--version"]) {
        return;
    }
    for redirection in ["2> >(head -n 1)", "2>&-", "<&- >&- 2>&-"] {
        is_served_with(redirection);
    }
}

fn is_served_with(redirection: &str) {
    let port = free_port();
    let script = format!("exec {} --listen 127.0.0.1:{port} {redirection}", env!("CARGO_BIN_EXE_quinistry"));
    let folder = Folder::new("redirection");
    let mut child = Background::start(&mut bash(&script, &folder));
    let address = ([127, 0, 0, 1], port).into();
    eventually("it listens", || TcpStream::connect(address).ok());
    for _ in 0..100 {
        let mut client = Client::connect(address);
        client.send_request("GET /v2/", &[]);
        assert_eq!(client.answer_to("GET /v2/").status, 200);
    }
    child.signal(libc::SIGTERM);
    assert_eq!(child.0.wait().expect("our child").code(), Some(0));
}

#[test]
fn requests_may_come_in_any_pieces() {
    let server = Server::start();
    let line = "GET /v2/quinistry/manifests/latest";
    let whole = server.ask(line, &[]).content;
    let bytes = request(line, &["User-Agent: slow"]);

    let mut client = server.connect();
    for byte in bytes.bytes() {
        client.send([byte]);
    }
    assert_eq!(client.answer_to(line).content, whole);

    // By the hundred in one write, cut anywhere, and finished after the last.
    let many = bytes.repeat(300);
    for piece in many.as_bytes().chunks(1021) {
        client.send(piece);
    }
    client.finish();
    for _ in 0..300 {
        assert_eq!(client.answer_to(line).content, whole);
    }
    client.expect_end();
}

#[test]
fn head_leaves_the_connection_in_step() {
    let server = Server::start();
    let mut client = server.connect();
    for line in [
        "HEAD /v2/quinistry/manifests/latest",
        "GET /v2/",
        "HEAD /nonesuch",
        "GET /v2/quinistry/manifests/latest",
    ] {
        client.send_request(line, &[]);
        let answer = client.answer_to(line);
        assert_eq!(answer.content.is_empty(), line.starts_with("HEAD"), "{line}");
    }
}

#[test]
fn ten_ranges_and_a_reader_that_stalls() {
    let server = Server::start();
    let (digest, size) = server.layer();
    let line = format!("GET /v2/quinistry/blobs/{digest}");
    let mut stalled = server.connect();
    for _ in 0..20 {
        stalled.send_request(&line, &[]);
    }
    let clients: Vec<_> = (0..10)
        .map(|part| {
            let mut client = server.connect();
            let (start, end) = (part * size / 10, (part + 1) * size / 10 - 1);
            client.send_request(&line, &[&format!("Range: bytes={start}-{end}")]);
            client
        })
        .collect();
    let mut layer = Vec::new();
    for mut client in clients {
        let answer = client.answer_to(&line);
        assert_eq!(answer.status, 206);
        layer.extend(answer.content);
    }
    assert_eq!(sha256(&layer), digest);
    // The one that stalled gets everything, once it reads.
    for _ in 0..20 {
        assert_eq!(sha256(&stalled.answer_to(&line).content), digest);
    }
}

#[test]
fn a_write_with_content_is_refused_before_the_content_is_read_and_the_client_hears_it() {
    let server = Server::start();
    let line = "PUT /v2/quinistry/blobs/uploads/1";
    // The client waits to be told to go on, and is told not to.
    let mut client = server.connect();
    client.send_request(line, &["Content-Length: 1000000", "Expect: 100-continue"]);
    assert_eq!(client.answer_to(line).status, 405);
    client.expect_end();
    // The client sends all it has before it listens.
    for field in ["Content-Length: 200000", "Transfer-Encoding: chunked"] {
        let mut client = server.connect();
        client.send_request(line, &[field]);
        client.send(vec![b'x'; 200_000]);
        let answer = client.answer_to(line);
        assert_eq!((answer.status, answer.field("connection")), (405, Some("close")));
        client.expect_end();
    }
}

#[test]
fn both_signals_end_it_with_success_and_free_the_port() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut server = Server::start();
        let (idle, own) = (server.connect_idle(), server.open_descriptors());
        // Another that says nothing, and that the kernel hands over in the end.
        let silent = server.connect();
        eventually("the silent one is there", || (server.open_descriptors() > own).then_some(()));
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal}");
        idle.expect_end();
        silent.expect_end();
        // Connections of the past do not keep the port.
        let again = Server::start_as(quinistry().args(["--listen", &server.address.to_string()]));
        assert_eq!(again.ask("GET /v2/", &[]).status, 200);
    }
}

#[test]
fn downloads_in_flight_are_finished_and_a_second_signal_does_not_wait() {
    let mut server = Server::start();
    let (digest, _) = server.layer();
    let line = format!("GET /v2/quinistry/blobs/{digest}");
    // More than fits the sockets' buffers, so that it is in flight.
    let mut slow = server.connect();
    for _ in 0..100 {
        slow.send_request(&line, &[]);
    }
    slow.answer_to(&line);
    let idle = server.connect_idle();
    server.signal(libc::SIGTERM);
    server.wait_for_log("Stopping");
    idle.expect_end();
    assert!(TcpStream::connect(server.address).is_err(), "new connections are refused");
    // The answer that was begun comes whole, and says nothing of those that never will.
    let answer = slow.answer_to(&line);
    assert_eq!(sha256(&answer.content), digest);
    server.signal(libc::SIGINT);
    assert_eq!(server.wait().code(), Some(130));
}

#[test]
fn a_signal_counts_from_the_first_moment_on() {
    let mut child = Background::start(quinistry().args(["--listen", "127.0.0.1:0"]).stderr(Stdio::piped()));
    let mut stderr = child.0.stderr.take().expect("it is piped");
    // It is still packing.
    let mut bytes = [0; 10];
    stderr.read_exact(&mut bytes).expect("its first words");
    child.signal(libc::SIGTERM);
    std::io::copy(&mut stderr, &mut std::io::sink()).expect("its other words");
    assert_eq!(child.0.wait().expect("our child").code(), Some(0));
}

#[test]
fn who_is_at_the_door_when_it_stops_is_answered() {
    // However few places there are.
    let mut server =
        Server::start_as(system::with_descriptors(&mut quinistry(), 40).args(["--listen", "127.0.0.1:0"]));
    let line = "GET /v2/quinistry/manifests/latest";
    let manifest = server.ask(line, &[]).content;
    server.signal(libc::SIGSTOP);
    let mut client = server.connect();
    client.send_request(line, &[]);
    server.signal(libc::SIGTERM);
    server.signal(libc::SIGCONT);
    assert_eq!(client.answer_to(line).content, manifest);
    client.expect_end();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_health_check_tells_well_from_unwell() {
    let server = Server::start();
    let check = |address: &str| output(quinistry().args(["healthcheck", "--listen", address]));
    let (code, stdout, stderr) = check(&server.address.to_string());
    assert_eq!((code, &*stdout, &*stderr), (Some(0), "", ""));
    let (code, ..) =
        output(quinistry().arg("healthcheck").env("QUINISTRY_LISTEN", server.address.to_string()));
    assert_eq!(code, Some(0));
    // A wildcard is asked on loopback.
    let wildcard = Server::start_as(quinistry().args(["--listen", "0.0.0.0:0"]));
    assert_eq!(check(&wildcard.address.to_string()).0, Some(0));

    // Somebody who accepts and says nothing, or something else, or nobody.
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mute_address = mute.local_addr().expect("an address");
    let (code, _, stderr) = check(&mute_address.to_string());
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&mute_address.to_string()), "{stderr}");
    drop(mute);
    assert_eq!(check(&mute_address.to_string()).0, Some(1));
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("an address");
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().expect("the check connects");
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
            .expect("it reads");
        std::thread::sleep(Duration::from_millis(100));
    });
    assert_eq!(check(&address.to_string()).0, Some(1));
    answering.join().expect("it answered");
}
