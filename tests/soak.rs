//! Ten minutes of full load from good and bad clients at once. This test runs only on request:
//!
//! ```text
//!     cargo test --release --test soak -- --ignored --nocapture
//! ```
//!
//! `QUINISTRY_SOAK_SECONDS` changes the duration. The good clients check every byte. The bad clients misbehave as those
//! in `hostile.rs` do, but all at once and in random order. The server's memory must not grow, and it must close every
//! descriptor.

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, Server, eventually, request, sha256};

const GOOD: usize = 4;
const BAD: usize = 8;

/// How much the server's memory may grow after the warm-up, in KiB.
const ALLOWED_GROWTH: u64 = 512;

struct World {
    address: std::net::SocketAddr,
    layer_line: String,
    digest: String,
    is_over: AtomicBool,
    good: AtomicU64,
    bad: AtomicU64,
}

#[test]
#[ignore = "it takes ten minutes"]
fn under_full_load_memory_does_not_grow_and_no_descriptor_is_leaked() {
    let seconds = std::env::var("QUINISTRY_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let server = Server::start();
    let (digest, _) = server.layer();
    thread::sleep(Duration::from_secs(1)); // Wait until the server has closed the connection of that request.
    let descriptors = server.open_descriptors();
    let world = Arc::new(World {
        address: server.address,
        layer_line: format!("GET /v2/quinistry/blobs/{digest}"),
        digest,
        is_over: AtomicBool::new(false),
        good: AtomicU64::new(0),
        bad: AtomicU64::new(0),
    });
    let mut clients = Vec::new();
    for number in 0..GOOD + BAD {
        let world = Arc::clone(&world);
        clients.push(thread::spawn(move || {
            let mut seed = number as u64 + 1;
            while !world.is_over.load(Ordering::Relaxed) {
                if number < GOOD { be_good(&world) } else { be_bad(&world, &mut seed) }
            }
        }));
    }

    let start = Instant::now();
    let mut settled = 0;
    while start.elapsed() < Duration::from_secs(seconds) {
        thread::sleep(Duration::from_secs((seconds / 60).max(1)));
        let (resident, elapsed) = (server.status("VmRSS"), start.elapsed().as_secs());
        let (good, bad) = (world.good.load(Ordering::Relaxed), world.bad.load(Ordering::Relaxed));
        println!(
            "{elapsed} s: {resident} KiB, {} descriptors, {good} good responses, {bad} faults",
            server.open_descriptors()
        );
        // The first fifth is the warm-up, in which every buffer reaches its final size.
        if elapsed <= seconds / 5 {
            settled = settled.max(resident);
        }
        assert!(resident <= settled + ALLOWED_GROWTH, "{resident} KiB, from {settled} KiB");
    }
    world.is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no good client failed");
    }
    eventually("every descriptor is released", || (server.open_descriptors() == descriptors).then_some(()));
}

/// Sends ten requests on one connection, and checks the responses.
fn be_good(world: &World) {
    let mut client = Client::connect(world.address);
    for _ in 0..5 {
        client.send_request("GET /v2/quinistry/manifests/latest", &[]);
        assert_eq!(client.response_to("GET").status, 200);
        client.send_request(&world.layer_line, &[]);
        assert_eq!(sha256(&client.response_to("GET").content), world.digest);
        world.good.fetch_add(2, Ordering::Relaxed);
    }
}

/// Misbehaves once, at random. The server may respond in any way, as long as good clients are served.
fn be_bad(world: &World, seed: &mut u64) {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let random = (*seed >> 33) as usize;
    let mut client = Client::connect(world.address);
    let layer = request(&world.layer_line, &[]);
    let mut write = |bytes: &[u8]| drop(client.stream.write_all(bytes));
    match random % 9 {
        0 => {}
        1 => write(&layer.as_bytes()[..random % layer.len()]),
        2 => write(&[0x16, 3, 1, 2, 0]),
        3 => write(&vec![b'x'; random % 40_000]),
        4 => write(layer.repeat(20).as_bytes()),
        5 => write(request("PUT /v2/x", &["Content-Length: 100000"]).repeat(50).as_bytes()),
        6 => write(b"GET / HTTP/1.1\n\n"),
        7 => write(request("GET /v2/", &[]).repeat(random % 500).as_bytes()),
        _ => layer.bytes().take(random % 100).for_each(|byte| write(&[byte])),
    }
    // The client reads a little or nothing, and closes its socket. If data is unread, that resets the connection.
    if random.is_multiple_of(2) {
        let _ = client.stream.set_read_timeout(Some(Duration::from_millis(5)));
        let _ = client.stream.read(&mut [0; 1000]);
    }
    world.bad.fetch_add(1, Ordering::Relaxed);
}
