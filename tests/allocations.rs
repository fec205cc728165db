//! A frequent request allocates only the list of its field lines. A request for the layer also allocates the state of
//! its transfer.
//!
//! These tests drive a connection over a transport in memory, as the event loop does over a socket, and count
//! allocations. A backtrace shows the first allocation.
//!
//! Deliberately absent: errors, ranges and conditional requests, which are rare and may allocate. Also absent are
//! responses that do not fit the socket, because the server must keep their rest.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io::{self, ErrorKind, Read};

use quinistry::clock::Clock;
use quinistry::connection::{Buffers, Connection, Context, Next, Transport};
use quinistry::fault::Faults;
use quinistry::http::response::FilePart;
use quinistry::log::{Log, Requests, Sink};
use quinistry::metrics::Metrics;
use quinistry::run_queue::TURN_COST;
use quinistry::service::Service;
use quinistry::site::Site;

#[path = "common/sample.rs"]
mod sample;

const REQUESTS: usize = 10_000;

/// The system's allocator, which also counts allocations of a thread that wants them counted.
struct Counting;

thread_local! {
    static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending no longer has these variables, and does not count.
    if IS_COUNTING.try_with(|counting| counting.replace(false)) == Ok(true) {
        if COUNT.get() == 0 {
            eprintln!("The first allocation:\n{}", Backtrace::force_capture());
        }
        COUNT.set(COUNT.get() + 1);
        IS_COUNTING.set(true);
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[allow(unsafe_code, reason = "there is no other way to count allocations")]
// SAFETY: every call is passed on to the system's allocator unchanged. What happens before the call does not unwind.
// It allocates only while counting is off, so there is no infinite recursion.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller upholds the contract, which is that of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above, and the pointer came from the system's allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Supplies the same requests in each turn, and discards the responses.
struct Script<'a> {
    requests: &'a [u8],
    /// What has not been read yet in this turn.
    rest: &'a [u8],
    written: u64,
}

impl Transport for Script<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.rest.read(buffer)
    }

    fn write(&mut self, bytes: &[u8], _: bool) -> io::Result<usize> {
        self.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn write_file(&mut self, part: &FilePart) -> io::Result<usize> {
        self.written += part.len();
        Ok(usize::try_from(part.len()).expect("the sample is small"))
    }

    fn may_have_input(&self) -> bool {
        !self.rest.is_empty()
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn unacknowledged(&self) -> u64 {
        0
    }
}

struct Nowhere;

impl Sink for Nowhere {
    fn is_ready(&self) -> bool {
        true
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
}

/// Runs `REQUESTS` turns with these requests on one connection. Returns the number of bytes of the responses and the
/// number of allocations, without those of the turns that warm it up.
fn serve(requests: &str) -> (u64, usize) {
    let (image, _) = sample::packed();
    let (clock, mut buffers) = (Clock::start(), Buffers::default());
    let now = clock.now;
    let mut service = Service {
        site: Box::leak(Box::new(Site::new(image))),
        faults: Faults::default(),
        clock,
        log: Log::new(Requests::Shown, false),
        metrics: Metrics::default(),
    };
    let mut connection = Connection::new(([127, 0, 0, 1], 50514).into(), now);
    let mut script = Script { requests: requests.as_bytes(), rest: &[], written: 0 };
    let mut turn = |script: &mut Script<'_>| {
        script.rest = script.requests;
        let next = connection.turn(&mut Context {
            transport: script,
            service: &mut service,
            buffers: &mut buffers,
            is_stopping: false,
            remaining: TURN_COST,
        });
        assert!(next == Next::Wait, "the connection persists");
        service.log.flush(&service.clock.rfc3339, &mut Nowhere);
    };
    for _ in 0..10 {
        turn(&mut script);
    }
    script.written = 0;
    COUNT.set(0);
    IS_COUNTING.set(true);
    for _ in 0..REQUESTS {
        turn(&mut script);
    }
    IS_COUNTING.set(false);
    (script.written, COUNT.get())
}

/// Returns a request as docker sends it.
fn get(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: docker/28.2.2 go/go1.24.3\r\n\
         Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
         application/vnd.docker.distribution.manifest.v2+json, */*\r\nAccept-Encoding: gzip\r\n\r\n"
    )
}

/// Asserts that a turn with these requests makes at most `limit` allocations, and that the responses have this much
/// content.
fn assert_allocates_at_most(limit: usize, requests: &str, content: u64) {
    let (written, allocations) = serve(requests);
    assert!(written > REQUESTS as u64 * content, "the responses are too short: {written} bytes");
    assert!(
        allocations <= limit * REQUESTS,
        "{allocations} allocations in {REQUESTS} turns, the first of which is shown above"
    );
}

#[test]
fn the_index_by_tag_and_by_digest_allocates_only_field_lines() {
    let index = sample::packed().0.index.descriptor;
    for reference in ["latest", index.digest.as_str()] {
        assert_allocates_at_most(1, &get(&format!("/v2/quinistry/manifests/{reference}")), index.size);
    }
}

#[test]
fn a_manifest_allocates_only_field_lines() {
    let manifest = sample::packed().0.platforms[0].manifest.descriptor;
    assert_allocates_at_most(1, &get(&format!("/v2/quinistry/manifests/{}", manifest.digest)), manifest.size);
}

#[test]
fn pipelined_requests_allocate_only_field_lines() {
    let index = sample::packed().0.index.descriptor;
    // wrk sends requests in this form. They fit one read, so nothing is kept until the next read.
    let requests = "GET /v2/quinistry/manifests/latest HTTP/1.1\r\nHost: localhost:8080\r\n\r\n".repeat(16);
    assert_allocates_at_most(16, &requests, 16 * index.size);
}

#[test]
fn the_config_allocates_only_field_lines() {
    let config = sample::packed().0.platforms[0].config.descriptor;
    assert_allocates_at_most(1, &get(&format!("/v2/quinistry/blobs/{}", config.digest)), config.size);
}

/// The state of a transfer is on the heap, so that an idle connection needs no space for it. One allocation is
/// negligible next to hundreds of kilobytes.
#[test]
fn the_layer_allocates_the_state_of_its_transfer() {
    let layer = sample::packed().0.platforms[0].layer.blob;
    assert_allocates_at_most(2, &get(&format!("/v2/quinistry/blobs/{}", layer.digest)), layer.size);
}
