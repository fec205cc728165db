//! How much memory clients can make the server and the kernel use, and which connections are closed when that memory
//! runs out.
//!
//! The kernel's `/proc/net/tcp` shows how many bytes each socket has queued. Some tests limit the memory of a server by
//! a control group. They need root, and are skipped if control groups cannot be created.

mod common;

use std::io::Write;
use std::time::Duration;

use common::{Client, Server, eventually, is_root, quinistry, request, system};

const MIB: u64 = 1024 * 1024;
const MANIFEST: &str = "GET /v2/quinistry/manifests/latest";

/// A socket of the server, from `/proc/net/tcp`, which proc(5) documents.
struct Row {
    /// The number of bytes that the peer has not acknowledged.
    queue: u64,
    /// Whether a process still has the socket open.
    is_owned: bool,
}

/// Returns the server's sockets, including those that no process has open.
fn sockets(server: &Server) -> Vec<Row> {
    let port = format!(":{:04X}", server.address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = rows.filter(|columns| columns[1].ends_with(&port));
    ours.map(|columns| {
        let queue = columns[4].split_once(':').expect("two queues").0;
        Row { queue: u64::from_str_radix(queue, 16).expect("a number"), is_owned: columns[9] != "0" }
    })
    .collect()
}

/// Connects clients that request the layer and never read it.
fn stalled(server: &Server, layer_line: &str, count: usize) -> Vec<Client> {
    let ask = |_| {
        let mut client = server.connect();
        client.send_request(layer_line, &[]);
        client
    };
    let clients: Vec<Client> = (0..count).map(ask).collect();
    eventually("every client has a part of the layer queued", || {
        (sockets(server).iter().filter(|row| row.queue > 0).count() >= count).then_some(())
    });
    clients
}

/// Starts a server that has room for this many connections.
fn with_places(count: usize) -> Server {
    let mut command = quinistry();
    Server::start_as(system::with_descriptors(&mut command, count + 16).args(["--listen", "127.0.0.1:0"]))
}

/// A control group, which is removed when the value is dropped.
struct Group(String);

impl Group {
    /// Creates a group with a memory limit of 64 MiB. If that is not possible, notes that the test is skipped, and
    /// returns `None`.
    fn new(name: &str) -> Option<Self> {
        if !is_root("only root can create a control group") {
            return None;
        }
        let name = format!("quinistry-{name}-{}", std::process::id());
        let versions = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        let group = versions.into_iter().find_map(|(root, file)| {
            let group = Self(format!("{root}/{name}"));
            std::fs::create_dir(&group.0).ok()?;
            std::fs::write(format!("{}/{file}", group.0), (64 * MIB).to_string()).ok()?;
            Some(group)
        });
        if group.is_none() {
            common::skip("control groups cannot be created here");
        }
        group
    }

    /// Starts a server in the group.
    fn start(&self) -> Server {
        let mut command = quinistry();
        let members = std::fs::File::options().write(true).open(format!("{}/cgroup.procs", self.0));
        let members = members.expect("the group's file");
        Server::start_as(system::in_control_group(&mut command, members).args(["--listen", "127.0.0.1:0"]))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The server has ended, but the kernel may not have removed it from the group yet.
        eventually("the group can be removed", || {
            std::fs::remove_dir(&self.0)
                .map_or_else(|error| (error.kind() == std::io::ErrorKind::NotFound).then_some(()), |()| Some(()))
        });
    }
}

#[test]
fn the_bytes_that_sockets_queue_are_limited_by_the_memory_of_the_control_group() {
    let Some(group) = Group::new("bounded") else { return };
    let server = group.start();
    let (digest, size) = server.layer();
    let layer_line = format!("GET /v2/quinistry/blobs/{digest}");
    let stalled = stalled(&server, &layer_line, 1000);
    let queued: u64 = sockets(&server).iter().map(|row| row.queue).sum();
    // The limit is 4 MiB in all, and beyond that 8 KiB for each reader.
    assert!(queued <= 13 * MIB, "{queued} bytes for {} readers", stalled.len());

    // Clients that read receive the whole layer, although each of them may have only a little queued.
    let reading: Vec<_> = (0..50)
        .map(|_| {
            let mut client = server.connect();
            let line = layer_line.clone();
            std::thread::spawn(move || {
                client.send_request(&line, &[]);
                assert_eq!(client.response_to(&line).content.len(), size);
            })
        })
        .collect();
    for reader in reading {
        reader.join().expect("the reader receives the whole layer");
    }
    drop(stalled);
}

#[test]
fn a_reader_that_waits_for_memory_when_the_server_stops_still_receives_its_response() {
    let Some(group) = Group::new("stopped") else { return };
    let mut server = group.start();
    let (digest, _) = server.layer();
    let layer_line = format!("GET /v2/quinistry/blobs/{digest}");
    let stalled = stalled(&server, &layer_line, 200);
    let mut reader = server.connect();
    // Otherwise the kernel would buffer the whole response at once.
    system::limit_receive_buffer(&reader.stream, 8 * 1024);
    reader.send_request(&layer_line, &["Range: bytes=0-399999"]);
    eventually("the response has begun", || {
        sockets(&server).iter().filter(|row| row.queue > 0).nth(stalled.len()).map(|_| ())
    });
    server.signal(libc::SIGTERM);
    server.wait_for_log("Stopping");
    assert_eq!(reader.response_to(&layer_line).content.len(), 400_000);
    drop(stalled);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_closed_connection_leaves_no_unsent_bytes_in_the_kernel() {
    let server = with_places(64);
    let (digest, _) = server.layer();
    let layer_line = format!("GET /v2/quinistry/blobs/{digest}");
    // None of them reads, and half of them also stop sending.
    let clients: Vec<Client> = (0..200)
        .map(|number| {
            let mut client = server.connect();
            client.send_request(&layer_line, &["Connection: close"]);
            if number % 2 == 0 {
                client.finish();
            }
            client
        })
        .collect();
    // The server evicts most of these clients, to make room for those that follow.
    eventually("every request is in the log", || {
        let accepted = server.log().matches(&*layer_line).count();
        (accepted >= clients.len()).then_some(())
    });
    let orphans: Vec<u64> = sockets(&server).iter().filter(|row| !row.is_owned).map(|row| row.queue).collect();
    // Connections that wait to be accepted have no owner either, but nothing is queued for them.
    let queued: u64 = orphans.iter().filter(|&&queue| queue > 1).sum();
    assert_eq!(queued, 0, "{orphans:?}");
}

#[test]
fn newcomers_do_not_wait_even_if_stalled_readers_hold_every_place() {
    const PLACES: usize = 1000;
    let server = with_places(PLACES);
    let (digest, _) = server.layer();
    let layer_line = format!("GET /v2/quinistry/blobs/{digest}");
    let pauses = |response: &common::Response| {
        let text = common::lossy(&response.content).into_owned();
        let line = text.lines().find(|line| line.starts_with("quinistry_accept_pauses_total "));
        let (_, count) = line.and_then(|line| line.split_once(' ')).expect("the metric");
        count.parse::<usize>().expect("a number")
    };
    let before = pauses(&server.ask("GET /metrics", &[]));
    let stalled = stalled(&server, &layer_line, PLACES);
    std::thread::sleep(Duration::from_secs(2)); // Wait until the readers count as stalled.
    let newcomers: Vec<Client> = (0..PLACES / 2)
        .map(|_| {
            let mut client = server.connect();
            client.send_request(MANIFEST, &[]);
            assert_eq!(client.response_to(MANIFEST).status, 200);
            client
        })
        .collect();
    // One or two pauses are allowed: the last readers may have had to wait until an earlier connection was closed.
    let waited = pauses(&server.ask("GET /metrics", &[])) - before;
    assert!(waited <= 2, "the server paused accepting {waited} times");
    drop((stalled, newcomers));
}

#[test]
fn an_honest_client_can_finish_its_request_while_unread_responses_fill_the_memory() {
    let Some(group) = Group::new("full") else { return };
    let server = group.start();
    let request = request(MANIFEST, &[]);
    let (half, rest) = request.split_at(30);
    let many = request.repeat(4000);
    let mut crowd: Vec<Client> = Vec::new();
    // Honest heads arrive in two pieces, with ten clients of the crowd in between, until the log has reported a hundred
    // times that a connection was closed because the memory is full.
    while server.log().matches("is full").count() < 100 {
        let mut honest = server.connect();
        honest.send(half);
        for _ in 0..10 {
            let mut client = server.connect();
            client.stream.set_write_timeout(Some(Duration::from_millis(1))).expect("a valid time");
            let _ = client.stream.write_all(many.as_bytes());
            crowd.push(client);
        }
        assert!(crowd.len() < 10_000, "the memory is never full");
        honest.send(rest);
        assert_eq!(honest.response_to(MANIFEST).status, 200);
    }
}
