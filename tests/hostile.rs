//! Misbehaving clients, one kind at a time. Meanwhile, an honest client must be served.
//!
//! These tests use real sockets, signals and resource limits. Long deadlines are tested in `tests/connection.rs`, with
//! a clock that the test sets.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use common::{
    Background, Client, Folder, OnTerminal, Response, Server, eventually, free_port, quinistry, request, sha256, system,
};

use quinistry::connection::REQUEST_COST;
use quinistry::run_queue::TURN_COST;

const MANIFEST: &str = "GET /v2/quinistry/manifests/latest";

/// What an honest client must receive, as it was before any client misbehaved.
struct Honest {
    manifest: Response,
    layer_line: String,
    layer: Vec<u8>,
}

impl Honest {
    fn learn(server: &Server) -> Self {
        let (digest, _) = server.layer();
        let layer_line = format!("GET /v2/quinistry/blobs/{digest}");
        let layer = server.ask(&layer_line, &[]).content;
        assert_eq!(sha256(&layer), digest);
        Self { manifest: server.ask(MANIFEST, &[]), layer_line, layer }
    }

    /// Asserts that a new connection receives the same bytes as before.
    fn is_served(&self, server: &Server) {
        let mut client = server.connect();
        client.send_request(MANIFEST, &[]);
        let manifest = client.response_to(MANIFEST);
        assert_eq!((manifest.status, &manifest.content), (200, &self.manifest.content));
        client.send_request(&self.layer_line, &[]);
        assert!(client.response_to(&self.layer_line).content == self.layer, "the layer's bytes");
    }
}

/// Starts a server that may have this many descriptors open.
fn with_limit(descriptors: usize) -> Server {
    Server::start_as(system::with_descriptors(&mut quinistry(), descriptors).args(["--listen", "127.0.0.1:0"]))
}

#[test]
fn every_malformed_request_receives_one_response_before_the_connection_is_closed_cleanly() {
    let server = Server::start();
    let honest = Honest::learn(&server);
    let long = "a".repeat(9000);
    let after = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n";
    for (bytes, status) in [
        // The start of a TLS ClientHello. The client then waits for a response.
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 400),
        (b"\x00\x01\x02", 400),
        (b"GET /v2/\r\n", 400),
        (b"GET /v2/ HTTP/0.9\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\n\n", 400),
        (b"GET /v2/ HTTP/1.1\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x y\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\n Host: x\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /v2/ HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /v2/ HTTP/9.9\r\nHost: x\r\n\r\n", 505),
        (b"GET /v2/ HTTP/1.10\r\nHost: x\r\n\r\n", 400),
        (b"POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n", 405),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(), 414),
        (long.as_bytes(), 501),
        (b"POST http://[/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"OPTIONS */test HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"PUT ?a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"FOO x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: [zz]\r\n\r\n", 400),
        (format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nX: {long}\r\nY: {long}\r\n\r\n").as_bytes(), 431),
        (format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(100)).as_bytes(), 431),
    ] {
        let mut client = server.connect();
        client.send(bytes);
        let response = client.response_to("GET");
        assert_eq!(response.status, status, "{}", common::lossy(bytes));
        response.error_code();
        assert_eq!(response.field("connection"), Some("close"));
        // The server discards these bytes, and closes the connection cleanly. After a reset, `expect_end` would fail.
        client.send(after);
        client.expect_end();
        honest.is_served(&server);
    }
}

#[test]
fn the_content_of_a_request_is_never_mistaken_for_another_request() {
    let server = Server::start();
    let smuggled = request("GET /v2/_catalog", &[]);
    for head in [
        format!("POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", smuggled.len()),
        format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", smuggled.len()),
        "PATCH /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "HEAD /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
    ] {
        let mut client = server.connect();
        client.send(head.clone() + &smuggled);
        client.finish();
        client.response_to(&head);
        client.expect_end();
    }
}

#[test]
fn silent_and_slow_clients_are_closed_after_ten_seconds() {
    let server = Server::start();
    let honest = Honest::learn(&server);
    let silent = server.connect();
    let mut slow = server.connect();
    slow.send("GET /v2/ HTTP/1.1\r\nX: ");
    let mut idle = server.connect_idle();
    honest.is_served(&server);
    // The slow client receives a 408, and the silent one receives no response.
    assert_eq!(slow.response_to("GET").status, 408);
    slow.expect_end();
    silent.expect_end();
    server.wait_for_log("it has never sent anything");
    // A client that already has a response may take longer to send its next request.
    idle.send_request(MANIFEST, &[]);
    assert_eq!(idle.response_to(MANIFEST).content, honest.manifest.content);
}

#[test]
fn thousands_of_idle_connections_cost_little_memory_and_no_cpu_time() {
    let limit = quinistry::system::raise_descriptor_limit();
    let count = 10_000.min(limit.saturating_sub(200));
    let server = Server::start();
    let honest = Honest::learn(&server);
    let before = server.status("VmRSS");
    let clients: Vec<Client> = (0..count).map(|_| server.connect_idle()).collect();
    let added = server.status("VmRSS").saturating_sub(before);
    assert!(added * 10 <= count as u64 * 6, "{added} KiB for {count} connections");
    honest.is_served(&server);
    // Wait until the server has finished its work for the honest client.
    eventually("the server is idle without requests", || {
        let ticks = server.cpu_ticks();
        std::thread::sleep(Duration::from_secs(2));
        // A tick is 10 ms. In two seconds, the server may wake once to check deadlines.
        (server.cpu_ticks() <= ticks + 1).then_some(())
    });
    drop(clients);
    eventually("all connections are closed", || (server.open_descriptors() < 20).then_some(()));
}

#[test]
fn thousands_of_silent_clients_do_not_keep_an_honest_client_out() {
    let server = with_limit(64);
    let honest = Honest::learn(&server);
    let mut crowd: Vec<Client> = Vec::new();
    for round in 0..2000 {
        let mut client = server.connect();
        // Some send nothing, some begin a request, and some have been served before.
        match round % 3 {
            0 => {}
            1 => drop(client.stream.write_all(b"GET /v2/ HTTP/1.1\r\n")),
            _ => drop(client.stream.write_all(request("GET /v2/", &[]).as_bytes())),
        }
        crowd.push(client);
        if round % 100 == 99 {
            honest.is_served(&server);
            assert!(server.open_descriptors() <= 64);
        }
    }
    // Of the clients that have begun a request, the newest may continue. The oldest was evicted without a response. If
    // it had been closed at its deadline, it would have received a 408.
    let newest = &mut crowd[1999];
    newest.send("Host: x\r\n\r\n");
    assert_eq!(newest.response_to("GET /v2/").status, 200);
    assert!(crowd[1].is_closed());
    // The silent clients are also closed, by eviction or at their deadline.
    assert!(crowd[0].is_closed());
    drop(crowd);
    eventually("all connections are closed", || (server.open_descriptors() < 20).then_some(()));
}

#[test]
fn a_client_whose_request_has_arrived_is_not_evicted_even_if_it_was_idle_the_longest() {
    // There is room for 24 connections, and all places are taken.
    let server = with_limit(40);
    let mut idle: Vec<Client> = (0..24).map(|_| server.connect_idle()).collect();
    // Wait until the server has checked that the responses to these clients have arrived.
    std::thread::sleep(Duration::from_millis(600));
    server.signal(libc::SIGSTOP);
    idle[0].send_request("GET /v2/", &[]);
    let mut newcomers: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for client in &mut newcomers {
        client.send_request("GET /v2/", &[]);
    }
    server.signal(libc::SIGCONT);
    for client in newcomers.iter_mut().chain([&mut idle[0]]) {
        assert_eq!(client.response_to("GET /v2/").status, 200);
    }
    server.wait_for_log("a newcomer needs its place");
}

#[test]
fn clients_whose_requests_arrive_at_once_are_not_evicted_before_their_turn() {
    // These are more clients than the server serves between two polls of the kernel.
    const PLACES: usize = 700;
    let server = with_limit(PLACES + 16);
    let mut clients: Vec<Client> = (0..PLACES).map(|_| server.connect_idle()).collect();
    // Wait until the server has checked that the responses to these clients have arrived.
    std::thread::sleep(Duration::from_millis(600));
    server.signal(libc::SIGSTOP);
    let mut newcomers: Vec<Client> = (0..5).map(|_| server.connect()).collect();
    for client in clients.iter_mut().chain(&mut newcomers) {
        client.send_request("GET /v2/", &[]);
    }
    server.signal(libc::SIGCONT);
    for client in clients.iter_mut().chain(&mut newcomers) {
        assert_eq!(client.response_to("GET /v2/").status, 200);
    }
    server.wait_for_log("a newcomer needs its place");
}

#[test]
fn stalled_readers_do_not_keep_an_honest_client_out() {
    let server = with_limit(64);
    let honest = Honest::learn(&server);
    let stalled: Vec<Client> = (0..64)
        .map(|_| {
            let mut client = server.connect();
            // The responses are larger than the sockets' buffers, so one of them has to wait for its reader.
            let lines = request(&honest.layer_line, &[]).repeat(30);
            let _ = client.stream.write_all(lines.as_bytes());
            client
        })
        .collect();
    for _ in 0..5 {
        honest.is_served(&server);
    }
    drop(stalled);
}

#[test]
fn a_server_that_has_used_up_its_descriptors_waits_until_some_are_free() {
    let server = Server::start();
    let own = server.open_descriptors();
    let is_open =
        |descriptor: &usize| std::fs::exists(format!("/proc/{}/fd/{descriptor}", server.pid())).is_ok_and(|is| is);
    let honest = Honest::learn(&server);
    eventually("no connection is open", || (server.open_descriptors() == own).then_some(()));
    let free = (0..1000).find(|descriptor| !is_open(descriptor)).expect("a free descriptor");
    let mut before = server.connect_idle();
    let hard_limit = quinistry::system::raise_descriptor_limit();
    server.limit_descriptors(free + 1);
    // The oldest idle connection is evicted for the newcomer, so one client can still be served.
    let mut newcomer = server.connect();
    newcomer.send_request(MANIFEST, &[]);
    assert_eq!(newcomer.response_to(MANIFEST).content, honest.manifest.content);
    assert!(before.is_closed());
    // Until there is another newcomer, this client keeps its connection.
    std::thread::sleep(Duration::from_millis(300));
    newcomer.send_request(MANIFEST, &[]);
    assert_eq!(newcomer.response_to(MANIFEST).content, honest.manifest.content);
    drop(newcomer);

    // Without room for any connection, the server waits.
    eventually("no connection is open", || (server.open_descriptors() == own).then_some(()));
    server.limit_descriptors(3);
    let mut waiting = server.connect();
    waiting.send_request(MANIFEST, &[]);
    server.wait_for_log("Cannot accept connections");
    let ticks = server.cpu_ticks();
    std::thread::sleep(Duration::from_secs(1));
    assert!(server.cpu_ticks() - ticks < 20, "the server must wait without spinning");
    assert_eq!(server.log().matches("Cannot accept connections").count(), 1, "the pause is logged once");
    server.limit_descriptors(hard_limit);
    assert_eq!(waiting.response_to(MANIFEST).content, honest.manifest.content);
    honest.is_served(&server);
}

#[test]
fn stalled_readers_do_not_delay_fast_readers() {
    let server = Server::start();
    let honest = Honest::learn(&server);
    let before = server.status("VmRSS");
    let lines = request(&honest.layer_line, &[]).repeat(200);
    let stalled: Vec<Client> = (0..200)
        .map(|_| {
            let mut client = server.connect();
            client.send(&lines);
            client
        })
        .collect();
    // These clients read as fast as they can, until they are stopped.
    let readers: Vec<_> = (0..200)
        .map(|_| {
            let mut client = server.connect();
            client.send(&lines);
            let stream = client.stream.try_clone().expect("a descriptor");
            let reading = std::thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                while client.stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
            });
            (stream, reading)
        })
        .collect();
    for _ in 0..10 {
        honest.is_served(&server);
    }
    let added = server.status("VmRSS").saturating_sub(before);
    assert!(added < 8 * 1024, "{added} KiB");
    for (stream, reading) in readers {
        let _ = stream.shutdown(Shutdown::Both);
        reading.join().expect("a reader");
    }
    drop(stalled);
    eventually("all connections are closed", || (server.open_descriptors() < 20).then_some(()));
}

#[test]
fn stalled_readers_cost_the_kernel_only_a_limited_amount_of_memory() {
    let server = Server::start();
    let honest = Honest::learn(&server);
    let lines = request(&honest.layer_line, &["Connection: close"]);
    let many = request(&honest.layer_line, &[]).repeat(30) + &lines;
    let stalled: Vec<Client> = (0..40)
        .map(|number| {
            let mut client = server.connect();
            client.send(if number % 2 == 0 { &lines } else { &many });
            client
        })
        .collect();
    honest.is_served(&server);
    // proc(5): the number of bytes that the peer has not acknowledged, in hexadecimal.
    let port = format!(":{:04X}", server.address.port());
    let queues = || -> Vec<u64> {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has it");
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours = rows.filter(|columns| columns[1].ends_with(&port));
        let unsent = ours.map(|columns| columns[4].split_once(':').expect("two queues").0.to_owned());
        unsent.map(|queue| u64::from_str_radix(&queue, 16).expect("a number")).collect()
    };
    let full = eventually("every reader has a part of the layer queued", || {
        let queues: Vec<_> = queues().into_iter().filter(|&queue| queue > 0).collect();
        (queues.len() == stalled.len()).then_some(queues)
    });
    std::thread::sleep(Duration::from_millis(300)); // If there were room for more, the server would use it.
    let most = queues().into_iter().max().expect("there are some");
    // The limit is 128 KiB, and the last packet may exceed it by 64 KiB, the size of a packet on the loopback
    // interface.
    assert!(most <= 192 * 1024, "{most} bytes for one reader; all queues a moment ago: {full:?}");
}

#[test]
fn a_light_client_is_not_delayed_by_many_heavy_ones() {
    const CROWD: usize = 300;
    const REQUESTS: usize = 300;
    const PER_TURN: usize = (TURN_COST / REQUEST_COST) as usize;
    // The log shows the order of the responses. A log in a file loses no line.
    let folder = Folder::new("order");
    let log = File::create(folder.path("log")).expect("the file can be written");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = quinistry();
    let server = Background::start(command.args(["--listen", &address.to_string()]).stderr(log));
    eventually("the server listens", || TcpStream::connect(address).ok());
    let connect = || {
        let mut client = Client::connect(address);
        client.send_request(MANIFEST, &[]);
        assert_eq!(client.response_to(MANIFEST).status, 200);
        client
    };
    let mut visitor = connect();
    let mut crowd: Vec<Client> = (0..CROWD).map(|_| connect()).collect();
    let requests = request("HEAD /x", &[]).repeat(REQUESTS);
    server.signal(libc::SIGSTOP);
    for client in &mut crowd {
        client.send(&requests);
    }
    server.signal(libc::SIGCONT);
    let lines = || std::fs::read_to_string(folder.path("log")).expect("the log exists");
    let answered = |log: &str| log.matches("HEAD /x").count();
    eventually("each client of the crowd has had a turn", || (answered(&lines()) >= CROWD * PER_TURN).then_some(()));
    let mut visits = Vec::new();
    while answered(&lines()) < CROWD * REQUESTS / 2 {
        // The visitor sends its request while the crowd receives responses.
        server.signal(libc::SIGSTOP);
        let size = std::fs::metadata(folder.path("log")).expect("the log exists").len();
        visitor.send_request("GET /v2/", &[]);
        server.signal(libc::SIGCONT);
        assert_eq!(visitor.response_to("GET /v2/").status, 200);
        visits.push(eventually("the visit is in the log", || {
            let log = lines();
            let (at, _) = log.match_indices("GET /v2/ 200").nth(visits.len())?;
            Some(answered(log.get(size as usize..at).unwrap_or_default()))
        }));
    }
    // With a single queue, each client of the crowd would have a turn before each visit. Over time, the server forgets
    // what a client has cost, and time also passes while the server is suspended. So on a busy machine some visits may
    // wait for the crowd, and the test only requires that a quarter of them do not.
    visits.sort_unstable();
    let waited = visits[visits.len() / 4];
    assert!(waited < CROWD * PER_TURN / 2, "{waited} requests of the crowd were answered first: {visits:?}");
}

#[test]
fn slow_readers_that_keep_reading_receive_everything_even_if_others_wait() {
    // There is room for 24 connections, and there are 40 slow readers.
    let server = with_limit(40);
    let honest = Honest::learn(&server);
    let size = honest.layer.len().min(600_000);
    let range = format!("Range: bytes=0-{}", size - 1);
    let readers: Vec<_> = (0..40)
        .map(|_| {
            let (line, range, mut client) = (honest.layer_line.clone(), range.clone(), server.connect());
            std::thread::spawn(move || {
                // Otherwise the kernel would buffer the whole range at once.
                system::limit_receive_buffer(&client.stream, 16 * 1024);
                client.send_request(&line, &[&range]);
                let (mut count, mut bytes) = (0, [0; 12 * 1024]);
                while count < size {
                    match client.stream.read(&mut bytes) {
                        Ok(read) if read > 0 => count += read,
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        _ => return false,
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                true
            })
        })
        .collect();
    let outcomes = readers.into_iter().map(|reader| reader.join().expect("a reader"));
    assert_eq!(outcomes.filter(|&is_complete| is_complete).count(), 40, "{}", server.log());
}

#[test]
fn requests_that_arrive_while_the_server_is_suspended_miss_no_deadline() {
    let server = Server::start();
    let mut clients: Vec<Client> = (0..100).map(|_| server.connect_idle()).collect();
    let request = request(MANIFEST, &[]);
    let (half, rest) = request.split_at(20);
    for client in &mut clients {
        client.send(half);
    }
    // Wait until the server has read the first halves.
    std::thread::sleep(Duration::from_millis(300));
    server.freeze();
    for client in &mut clients {
        client.send(rest);
    }
    std::thread::sleep(quinistry::connection::HEAD_TIMEOUT);
    server.thaw();
    for client in &mut clients {
        assert_eq!(client.response_to(MANIFEST).status, 200);
    }
}

#[test]
fn a_server_that_can_accept_no_client_refuses_to_start() {
    let mut command = quinistry();
    let command = system::with_descriptors(&mut command, 8).args(["--listen", "127.0.0.1:0"]);
    let mut child = Background::start(command.stderr(Stdio::piped()));
    let status = eventually("the process ends", || child.0.try_wait().expect("our own child"));
    let mut said = String::new();
    child.0.stderr.take().expect("the stream is piped").read_to_string(&mut said).expect("text");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("limit on open files is too low"), "{said}");
}

#[test]
fn thousands_of_incomplete_heads_cost_little_memory() {
    let limit = quinistry::system::raise_descriptor_limit();
    let server = Server::start();
    let honest = Honest::learn(&server);
    let half = format!("GET /v2/ HTTP/1.1\r\nX: {}", "a".repeat(15_000));
    let mut crowd: Vec<Client> = (0..3000.min(limit - 200)).map(|_| server.connect_idle()).collect();
    let before = server.status("VmRSS");
    // The clients send while the server is suspended, so that everything arrives at once.
    server.freeze();
    for client in &mut crowd {
        client.send(&half);
    }
    server.thaw();
    honest.is_served(&server);
    let added = server.status("VmHWM").saturating_sub(before);
    assert!(added < 12 * 1024, "{added} KiB at the peak for {} incomplete heads", crowd.len());
}

#[test]
fn a_thousand_clients_that_do_not_read_cost_little_memory() {
    let limit = quinistry::system::raise_descriptor_limit();
    let server = Server::start();
    let honest = Honest::learn(&server);
    let before = server.status("VmRSS");
    let many = request(MANIFEST, &[]).repeat(4000);
    let crowd: Vec<Client> = (0..1000.min(limit - 200))
        .map(|_| {
            let mut client = server.connect();
            client.stream.set_write_timeout(Some(Duration::from_millis(1))).expect("a valid time");
            let _ = client.stream.write_all(many.as_bytes());
            client
        })
        .collect();
    honest.is_served(&server);
    let added = server.status("VmRSS").saturating_sub(before);
    assert!(added < 16 * 1024, "{added} KiB for {} clients that do not read", crowd.len());
}

#[test]
fn a_terminal_whose_output_is_held_does_not_stop_the_server_and_later_shows_how_many_lines_were_dropped() {
    const REQUESTS: usize = 3000;
    for is_held in [false, true] {
        let mut server = OnTerminal::start();
        server.read_until("docker pull localhost");
        let mut client = Client::connect(server.address);
        client.send_request(MANIFEST, &[]);
        client.response_to(MANIFEST);
        server.read_until(MANIFEST);
        if is_held {
            server.hold();
        }
        // These requests cause more lines than the terminal and the server can hold.
        for _ in 0..REQUESTS {
            client.send_request(MANIFEST, &[]);
            assert_eq!(client.response_to(MANIFEST).status, 200);
        }
        server.release();
        let shown = server.read_until("Dropped ");
        let told = shown.split("Dropped ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        let told: usize = told.expect("a number");
        assert_eq!(shown.matches(MANIFEST).count() + told, REQUESTS);
        server.server.signal(libc::SIGTERM);
        assert_eq!(server.server.0.wait().expect("our own child").code(), Some(0));
    }
}

#[test]
fn a_server_that_starts_on_a_terminal_whose_output_is_held_serves() {
    let (mut person, program) = system::terminal();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    system::hold(&mut person, &program);
    let _server = Background::start(quinistry().args(["--listen", &address.to_string()]).stderr(program));
    eventually("the server listens", || TcpStream::connect(address).ok());
    let mut client = Client::connect(address);
    client.send_request(MANIFEST, &[]);
    assert_eq!(client.response_to(MANIFEST).status, 200);
}

#[test]
fn a_log_that_is_being_read_loses_no_line_in_a_burst_of_requests() {
    // Together, the clients cause more lines than the server can hold, but fewer than the server and a pipe can.
    const REQUESTS: usize = 26;
    let server = Server::start();
    // When the server resumes, all connections and requests are in its backlog.
    server.freeze();
    let requests = request("GET /v2/", &["User-Agent: in the backlog"]).repeat(REQUESTS);
    let clients: Vec<Client> = (0..64)
        .map(|_| {
            let mut client = server.connect();
            client.send(&requests);
            client
        })
        .collect();
    server.thaw();
    eventually("every request is in the log", || {
        (server.log().matches("in the backlog").count() == 64 * REQUESTS).then_some(())
    });
    drop(clients);
    server.signal(libc::SIGTERM);
    server.wait_for_log("Stopping");
}

#[test]
fn an_unread_log_does_not_stop_the_server_and_later_reports_how_many_lines_were_dropped() {
    // This test cannot use `Server`, which would read the log.
    let port = free_port();
    let mut server = quinistry();
    server.args(["--listen", &format!("127.0.0.1:{port}")]).stderr(Stdio::piped());
    let mut server = Background::start(&mut server);
    let address = ([127, 0, 0, 1], port).into();
    eventually("the server listens", || TcpStream::connect(address).ok());
    // A pipe holds 64 KiB. The log of these requests is about ten times as long.
    let mut client = Client::connect(address);
    for _ in 0..6000 {
        client.send_request(MANIFEST, &["User-Agent: somebody who has a long name for himself"]);
        assert_eq!(client.response_to(MANIFEST).status, 200);
    }
    // As soon as the log is read, it reports how many lines were dropped.
    let mut stderr = server.0.stderr.take().expect("the stream is piped");
    let mut log = String::new();
    let mut bytes = [0; 4096];
    while !log.contains("Dropped") {
        let count = stderr.read(&mut bytes).expect("the log");
        assert!(count > 0, "the log ended: {log}");
        log += &common::lossy(&bytes[..count]);
    }
    let told = log.lines().find(|line| line.contains("Dropped")).expect("just seen");
    let told: usize = told.split_whitespace().find_map(|word| word.parse().ok()).expect("a number");
    let kept = log.lines().filter(|line| line.contains(MANIFEST)).count();
    assert_eq!(kept + told, 6000, "every line was written or counted");
    assert!(log.lines().all(|line| !line.contains(MANIFEST) || line.ends_with('"')), "no line is cut");
}

#[test]
fn a_hundred_downloads_in_flight_complete_after_sigterm() {
    // This is little enough for a busy machine to send a hundred times within the grace period, but more than the
    // sockets can hold.
    const SIZE: usize = 500_000;
    let mut server = Server::start();
    let honest = Honest::learn(&server);
    let idle = server.connect_idle();
    let expected = &honest.layer[..SIZE];
    let range = format!("Range: bytes=0-{}", SIZE - 1);
    let downloads: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = server.connect();
            system::limit_receive_buffer(&client.stream, 16 * 1024);
            client.send_request(&honest.layer_line, &[&range]);
            client
        })
        .collect();
    eventually("all have begun", || (server.log().matches(&*honest.layer_line).count() >= 101).then_some(()));
    server.signal(libc::SIGTERM);
    server.wait_for_log("Stopping: 101 connections");
    idle.expect_end();
    assert!(TcpStream::connect(server.address).is_err(), "new connections are refused");
    std::thread::scope(|scope| {
        for mut download in downloads {
            let line = &honest.layer_line;
            scope.spawn(move || {
                assert!(download.response_to(line).content == expected);
                download.expect_end();
            });
        }
    });
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_stopping_server_does_not_wait_forever_for_a_stalled_reader() {
    let mut server = Server::start();
    let honest = Honest::learn(&server);
    let mut stalled = server.connect();
    for _ in 0..100 {
        stalled.send_request(&honest.layer_line, &[]);
    }
    eventually("the transfer has begun", || (server.log().matches(&*honest.layer_line).count() >= 2).then_some(()));
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_killed_server_leaves_its_port_free() {
    let mut server = Server::start();
    let honest = Honest::learn(&server);
    let mut download = server.connect();
    download.send_request(&honest.layer_line, &[]);
    server.signal(libc::SIGKILL);
    server.wait();
    let next = Server::start_as(quinistry().args(["--listen", &server.address.to_string()]));
    honest.is_served(&next);
}

#[test]
fn signals_that_are_ignored_or_harmless_change_nothing() {
    let server = Server::start();
    let honest = Honest::learn(&server);
    for signal in [libc::SIGPIPE, libc::SIGSTOP, libc::SIGCONT, libc::SIGWINCH, libc::SIGURG] {
        server.signal(signal);
    }
    honest.is_served(&server);
}
