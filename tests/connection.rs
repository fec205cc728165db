//! One connection, over a scripted transport and with a clock that the test sets.
//!
//! However the transport behaves (short reads, short writes, no room, interrupts), the client must receive what it
//! would receive over a perfect transport. Only a deadline, a broken transport or a shortage of resources may end a
//! connection early.

mod common;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{Response, find, request, sample};
use proptest::prelude::*;
use quinistry::clients::{Rank, STALL_NOTICED, rank};
use quinistry::clock::Clock;
use quinistry::connection::{
    Buffers, Connection, Context, HEAD_TIMEOUT, IDLE_TIMEOUT, LINGER_TIMEOUT, Next, Transport,
};
use quinistry::fault::Faults;
use quinistry::http::request::MAX_HEAD;
use quinistry::http::response::FilePart;
use quinistry::kinds::CloseReason;
use quinistry::log::{Log, Requests};
use quinistry::metrics::Metrics;
use quinistry::run_queue::TURN_COST;
use quinistry::service::Service;
use quinistry::site::Site;

/// What a transport does in one call. After the script, every call transfers all bytes.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Transfers at most this many bytes.
    Bytes(usize),
    Block,
    Interrupt,
    Break,
}

/// An arbitrary time.
const SINCE_EPOCH: Duration = Duration::from_secs(784_111_777);

struct Script {
    input: Vec<u8>,
    /// Whether the client has stopped sending after its input. If not, a read blocks there.
    ends: bool,
    /// What the next calls do, in order.
    acts: VecDeque<Act>,
    output: Vec<u8>,
    layer: Vec<u8>,
    finished: bool,
    unacknowledged: u64,
    calls: usize,
}

impl Script {
    fn next(&mut self, wanted: usize) -> io::Result<usize> {
        self.calls += 1;
        match self.acts.pop_front() {
            None => Ok(wanted),
            Some(Act::Bytes(count)) => Ok(count.min(wanted)),
            Some(Act::Block) => Err(ErrorKind::WouldBlock.into()),
            Some(Act::Interrupt) => Err(ErrorKind::Interrupted.into()),
            Some(Act::Break) => Err(ErrorKind::ConnectionReset.into()),
        }
    }
}

impl Transport for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!buffer.is_empty(), "a read into an empty buffer looks like the end");
        if self.input.is_empty() {
            return if self.ends { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let count = self.next(buffer.len().min(self.input.len()))?;
        buffer[..count].copy_from_slice(&self.input[..count]);
        self.input.drain(..count);
        Ok(count)
    }

    fn write(&mut self, bytes: &[u8], _more: bool) -> io::Result<usize> {
        assert!(!self.finished, "nothing is written after the end");
        let count = self.next(bytes.len())?;
        self.output.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write_file(&mut self, part: &FilePart) -> io::Result<usize> {
        assert!(!self.finished, "nothing is written after the end");
        let count = self.next(part.len() as usize)?;
        let start = part.range.start as usize;
        self.output.extend_from_slice(&self.layer[start..start + count]);
        Ok(count)
    }

    fn may_have_input(&self) -> bool {
        self.ends || !self.input.is_empty()
    }

    fn finish(&mut self) -> io::Result<()> {
        // This call never blocks, so it is not interrupted either.
        if let Some(Act::Break) = self.acts.front() {
            self.next(0)?;
        }
        self.finished = true;
        Ok(())
    }

    fn unacknowledged(&self) -> u64 {
        self.unacknowledged
    }
}

/// A connection with everything that it needs.
struct World {
    service: Box<Service>,
    blob: String,
    buffers: Buffers,
    connection: Connection,
    transport: Script,
    is_stopping: bool,
}

impl World {
    fn new(input: impl AsRef<[u8]>) -> Self {
        let (image, layer) = sample::packed();
        let blob = image.platforms[0].layer.blob.digest.to_string();
        let now = Instant::now();
        let clock = Clock::at(now, SINCE_EPOCH);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        Self {
            service: Box::new(Service {
                site: Box::leak(Box::new(Site::new(image))),
                faults: Faults::default(),
                clock,
                log: Log::new(Requests::Hidden, false),
                metrics: Metrics::default(),
            }),
            blob,
            connection: Connection::new(peer, now),
            buffers: Buffers::default(),
            transport: Script {
                input: input.as_ref().to_vec(),
                ends: false,
                acts: VecDeque::new(),
                output: Vec::new(),
                layer,
                finished: false,
                unacknowledged: 0,
                calls: 0,
            },
            is_stopping: false,
        }
    }

    /// Returns a connection whose client has requested the layer.
    fn asked_for_layer() -> Self {
        let mut world = Self::new("");
        world.transport.input = world.layer_request().into_bytes();
        world
    }

    fn layer_request(&self) -> String {
        request(&format!("GET /v2/quinistry/blobs/{}", self.blob), &[])
    }

    fn turn(&mut self) -> Next {
        self.connection.turn(&mut Context {
            transport: &mut self.transport,
            service: &mut self.service,
            buffers: &mut self.buffers,
            is_stopping: self.is_stopping,
            remaining: TURN_COST,
        })
    }

    /// Runs turns until the connection has nothing to do, as a server would.
    fn run(&mut self) -> Next {
        for _ in 0..100_000 {
            let calls = self.transport.calls;
            match self.turn() {
                // A scripted block ends by itself. A real one lasts until more input arrives.
                Next::Wait if self.transport.calls == calls => return Next::Wait,
                Next::Close(reason) => return Next::Close(reason),
                Next::Wait | Next::Again => {}
            }
        }
        panic!("the connection never waits and never closes");
    }

    fn receive(&mut self, input: impl AsRef<[u8]>) -> Next {
        self.transport.input.extend_from_slice(input.as_ref());
        self.run()
    }

    fn pass(&mut self, time: Duration) {
        self.service.clock = Clock::at(self.service.clock.now + time, SINCE_EPOCH);
    }

    /// Advances the clock to just before the deadline, when nothing may happen yet, and then to the deadline.
    fn wait_for_deadline(&mut self, patience: Duration) -> Next {
        let (deadline, just_before) = (self.connection.deadline(), Duration::from_nanos(1));
        assert_eq!(deadline, self.service.clock.now + patience, "the deadline");
        self.pass(patience.checked_sub(just_before).expect("a time"));
        assert_eq!(self.turn(), Next::Wait, "nothing happens before the deadline");
        self.pass(just_before);
        self.turn()
    }

    fn rank(&self) -> Option<Rank> {
        rank(&self.connection, self.service.clock.now)
    }

    fn watch(&mut self) {
        self.connection.watch(|| self.transport.unacknowledged, self.service.clock.now);
    }

    fn stop(&mut self) -> Next {
        self.is_stopping = true;
        self.run()
    }

    fn responses(&self) -> Vec<Response> {
        responses(&self.transport.output)
    }
}

/// Splits bytes into responses, with nothing left over. None of them may be a response to HEAD.
fn responses(mut bytes: &[u8]) -> Vec<Response> {
    let mut responses = Vec::new();
    while !bytes.is_empty() {
        let end = find(bytes, b"\r\n\r\n").expect("a complete head") + 4;
        let mut response = Response::from_head(&bytes[..end]);
        let length = if response.status == 304 { 0 } else { response.content_length() };
        response.content = bytes[end..end + length].to_vec();
        bytes = &bytes[end + length..];
        responses.push(response);
    }
    responses
}

fn manifest() -> String {
    request("GET /v2/quinistry/manifests/latest", &[])
}

fn closed(reason: CloseReason) -> Next {
    Next::Close(reason)
}

#[test]
fn requests_are_answered_in_order_and_the_connection_persists() {
    let mut world = World::new("");
    let three = request("GET /v2/", &[]) + &world.layer_request() + &manifest();
    assert_eq!(world.receive(three.repeat(40)), Next::Wait);
    let responses = world.responses();
    assert_eq!(responses.len(), 120);
    for three in responses.chunks(3) {
        assert_eq!(three[0].content, b"{}");
        assert_eq!(three[1].content, world.transport.layer);
        assert_eq!(three[2].status, 200);
        assert!(three.iter().all(|response| response.field("connection").is_none()));
    }
    assert_eq!(world.connection.held(), 0, "an idle connection keeps no buffer");
}

#[test]
fn a_turn_is_bounded_in_requests_and_in_bytes() {
    // A turn has about 20 requests, which is more than the 16 that clients pipeline.
    let mut world = World::new(manifest().repeat(60));
    let mut answered = 0;
    for _ in 0..2 {
        assert_eq!(world.turn(), Next::Again);
        let in_this_turn = world.responses().len() - answered;
        assert!((17..=24).contains(&in_this_turn), "{in_this_turn}");
        answered += in_this_turn;
    }
    assert_eq!(world.run(), Next::Wait);
    assert_eq!(world.responses().len(), 60);

    let mut world = World::new("");
    world.transport.layer = vec![b'x'; 3 * TURN_COST as usize];
    let (mut image, _) = sample::packed();
    // The registry believes that this is the size of the layer.
    image.platforms[0].layer.blob.size = world.transport.layer.len() as u64;
    world.service.site = Box::leak(Box::new(Site::new(image)));
    world.transport.input = world.layer_request().into_bytes();
    let mut sent = 0;
    for _ in 0..3 {
        assert_eq!(world.turn(), Next::Again);
        let in_this_turn = world.transport.output.len() - sent;
        assert!(in_this_turn <= TURN_COST as usize + 1024, "{in_this_turn}");
        sent = world.transport.output.len();
    }
    assert_eq!(world.turn(), Next::Wait);
    assert_eq!(world.responses()[0].content, world.transport.layer);
}

#[test]
fn a_turn_has_fewer_requests_if_they_take_longer() {
    let long = request(&format!("GET /v2/quinistry/tags/list?{}", "&".repeat(8000)), &[]);
    let many = request("GET /v2/", &[&format!("Accept: {}", "a,".repeat(950))]);
    // The text is generated, although the response has none of it.
    let page = request("GET /", &["Accept: text/html", "If-None-Match: *"]);
    let metrics = request("GET /metrics", &["If-Match: \"x\""]);
    for (request, most) in [(long, 2), (many, 6), (page, 1), (metrics, 1)] {
        let mut world = World::new(request.repeat(10));
        // A turn that reads only the beginning of a head may send no response.
        let mut answered = 0;
        while answered < 10 {
            world.turn();
            let in_this_turn = world.responses().len() - answered;
            assert!(in_this_turn <= most, "{in_this_turn} of {request:.40}");
            answered += in_this_turn;
        }
    }
}

#[test]
fn a_head_that_is_parsed_again_and_again_ends_the_turn() {
    let mut world = World::new(format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}", "a".repeat(15_000)));
    assert_eq!(world.turn(), Next::Again, "the rest of the head waits for another turn");
    assert_eq!(world.run(), Next::Wait);
}

#[test]
fn a_client_that_does_not_read_costs_bounded_memory() {
    let mut world = World::new(manifest().repeat(1000));
    world.transport.acts = vec![Act::Block; 100].into();
    for _ in 0..50 {
        assert_eq!(world.turn(), Next::Wait);
        assert!(world.connection.held() < 64 * 1024, "{}", world.connection.held());
    }
    assert!(world.transport.input.len() > 20_000, "the rest stays in the socket");
    assert_eq!(world.run(), Next::Wait);
    assert_eq!(world.responses().len(), 1000);
}

#[test]
fn a_client_never_receives_what_was_meant_for_another() {
    let mut first = World::new(manifest());
    first.transport.acts = [Act::Bytes(usize::MAX), Act::Break].into();
    assert_eq!(first.turn(), closed(CloseReason::Broken), "the transport breaks while the response is written");
    let mut second = World::new(request("GET /v2/", &[]));
    second.buffers = first.buffers;
    assert_eq!(second.turn(), Next::Wait);
    assert_eq!(second.responses().len(), 1);
    assert_eq!(second.responses()[0].content, b"{}");
}

#[test]
fn a_connection_persists_only_if_the_request_allows_it() {
    for (bytes, connection, next) in [
        ("GET /v2/ HTTP/1.0\r\n\r\n", Some("close"), closed(CloseReason::LastResponse)),
        ("GET /v2/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Some("keep-alive"), Next::Wait),
        ("GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", Some("close"), closed(CloseReason::LastResponse)),
        ("GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", None, Next::Wait),
    ] {
        let mut world = World::new(bytes);
        assert_eq!(world.run(), next, "{bytes}");
        let responses = world.responses();
        assert_eq!((responses.len(), responses[0].status), (1, 200));
        assert_eq!(responses[0].field("connection"), connection);
    }
}

#[test]
fn nothing_after_the_last_request_is_answered() {
    let smuggled = manifest();
    for bytes in [
        format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n{smuggled}"),
        format!("POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
        format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
        format!("POST /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!(
            "GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{smuggled}"
        ),
        format!("GET /v2/ HTTP/1.1\r\nHost : x\r\n\r\n{smuggled}"),
        format!("\x16\x03\x01{smuggled}"),
        format!("HEAD /v2/ HTTP/1.1\r\n\r\n{smuggled}"),
        format!("\r\nHEAD /v2/ HTTP/1.1\r\n\r\n{smuggled}"),
    ] {
        let mut world = World::new(&bytes);
        assert_eq!(world.run(), Next::Wait, "the connection lingers: {bytes:?}");
        assert!(world.transport.finished && world.transport.input.is_empty(), "{bytes:?}");
        let output = &world.transport.output;
        assert_eq!(output.windows(9).filter(|window| window == b"HTTP/1.1 ").count(), 1, "{bytes:?}");
        assert!(find(output, b"\r\nConnection: close\r\n").is_some());
        assert!(find(output, b"quinistry").is_none());
        if bytes.contains("HEAD") {
            assert!(output.ends_with(b"\r\n\r\n"), "a response to HEAD has no content");
        }
        // When the client closes the connection, so does the server.
        world.transport.ends = true;
        assert_eq!(world.turn(), closed(CloseReason::LastResponse));
    }
}

#[test]
fn a_client_that_stops_sending_after_its_requests_is_still_answered() {
    let mut world = World::new(manifest().repeat(3));
    world.transport.ends = true;
    assert_eq!(world.run(), closed(CloseReason::Left));
    assert_eq!(world.responses().len(), 3);
    // An incomplete request gets no response.
    let mut world = World::new(&manifest()[..30]);
    world.transport.ends = true;
    assert_eq!(world.run(), closed(CloseReason::CutShort));
    assert!(world.transport.output.is_empty());
}

#[test]
fn a_head_of_maximum_length_is_accepted_even_after_an_empty_line() {
    for (length, status) in [(MAX_HEAD, 200), (MAX_HEAD + 1, 431)] {
        let head = |filler: &str| format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nX: {filler}\r\n\r\n");
        let head = head(&"a".repeat(length - head("").len()));
        for before in ["", "\r\n"] {
            let mut world = World::new(format!("{before}{head}"));
            assert_eq!(world.run(), Next::Wait);
            assert_eq!(world.responses()[0].status, status, "{length}");
        }
    }
}

#[test]
fn a_silent_client_is_closed_without_a_response() {
    let mut world = World::new("");
    assert_eq!(world.turn(), Next::Wait);
    assert_eq!(world.wait_for_deadline(HEAD_TIMEOUT), closed(CloseReason::Silent));
    assert!(world.transport.output.is_empty());

    let mut world = World::new(manifest());
    assert_eq!(world.turn(), Next::Wait);
    let sent = world.transport.output.len();
    world.watch();
    assert_eq!(world.wait_for_deadline(IDLE_TIMEOUT), closed(CloseReason::Idle));
    assert_eq!(world.transport.output.len(), sent);
}

#[test]
fn a_load_balancer_can_reuse_a_connection_after_a_minute() {
    // AWS and nginx keep idle connections for 60 s, and may send the next request just before that time ends.
    let mut world = World::new(manifest());
    assert_eq!(world.turn(), Next::Wait);
    world.pass(Duration::from_secs(65));
    assert_eq!(world.turn(), Next::Wait);
    world.receive(manifest());
    assert_eq!(world.responses().len(), 2);
}

#[test]
fn a_head_that_takes_too_long_gets_408_however_many_bytes_arrive() {
    let mut world = World::new("");
    assert_eq!(world.receive("GET /v2/ HT"), Next::Wait);
    let deadline = world.connection.deadline();
    for byte in "TP/1.1\r\nX: ".bytes() {
        world.pass(Duration::from_millis(500));
        assert_eq!(world.receive([byte]), Next::Wait);
        assert_eq!(world.connection.deadline(), deadline, "a byte does not extend the deadline");
    }
    world.pass(deadline - world.service.clock.now);
    assert_eq!(world.turn(), Next::Wait);
    assert_eq!(world.responses()[0].status, 408);
    assert!(world.transport.finished);
}

#[test]
fn a_request_that_has_arrived_is_answered_even_after_its_deadline() {
    // The machine was suspended for an hour. Before that, the client had sent nothing, half a head, a whole request, or
    // both. The rest arrived during that hour.
    let whole = manifest();
    for before in ["", &whole[..20], &whole, &(whole.clone() + &whole[..20])] {
        let mut world = World::new("");
        world.receive(before);
        world.pass(Duration::from_secs(3600));
        let rest = &whole[before.len() % whole.len()..];
        assert_eq!(world.receive(rest), Next::Wait, "{before:?}");
        let responses = world.responses();
        assert_eq!(responses.len(), 1 + before.len() / whole.len(), "{before:?}");
        assert!(responses.iter().all(|response| response.status == 200), "{before:?}");
    }
}

#[test]
fn a_slow_reader_is_served_and_a_stalled_one_is_closed() {
    let mut world = World::asked_for_layer();
    world.transport.acts = [Act::Bytes(1000), Act::Bytes(100)].into();
    world.transport.acts.extend([Act::Block; 1000]);
    assert_eq!(world.turn(), Next::Wait);
    // The socket accepts nothing for hours, but the client acknowledges what the socket holds.
    for left in (0..200).rev() {
        world.transport.unacknowledged = left;
        assert_eq!(world.wait_for_deadline(IDLE_TIMEOUT), Next::Wait, "{left}");
    }
    assert_eq!(world.wait_for_deadline(IDLE_TIMEOUT), closed(CloseReason::Stalled));

    // A client has made progress if it has acknowledged everything and was then sent more, although more is now
    // unacknowledged than before.
    let mut world = World::asked_for_layer();
    world.transport.acts = [Act::Bytes(1000), Act::Bytes(100), Act::Block].into();
    assert_eq!(world.turn(), Next::Wait);
    world.transport.unacknowledged = 100;
    world.transport.acts.extend([Act::Block; 2]);
    assert_eq!(world.wait_for_deadline(IDLE_TIMEOUT), Next::Wait);
    world.transport.acts.extend([Act::Bytes(400), Act::Block]);
    assert_eq!(world.turn(), Next::Wait);
    world.transport.unacknowledged = 200;
    world.transport.acts.extend([Act::Block; 2]);
    assert_eq!(world.wait_for_deadline(IDLE_TIMEOUT), Next::Wait);
}

#[test]
fn a_slow_reader_is_not_closed_before_its_response_has_arrived() {
    let mut world = World::new(manifest());
    world.transport.unacknowledged = 300;
    assert_eq!(world.run(), Next::Wait);
    for left in (0..3).rev() {
        world.transport.unacknowledged = left * 100;
        assert_eq!(world.wait_for_deadline(IDLE_TIMEOUT), Next::Wait, "{left}");
    }
    assert_eq!(world.wait_for_deadline(IDLE_TIMEOUT), closed(CloseReason::Idle));
    let mut world = World::new(manifest());
    world.transport.unacknowledged = 300;
    assert_eq!(world.run(), Next::Wait);
    world.watch();
    assert_eq!(world.wait_for_deadline(IDLE_TIMEOUT), closed(CloseReason::Stalled));
}

#[test]
fn a_reader_can_be_evicted_only_after_it_has_stalled_for_a_while() {
    let mut world = World::asked_for_layer();
    world.transport.acts = [Act::Bytes(1000), Act::Bytes(100), Act::Block].into();
    assert_eq!(world.turn(), Next::Wait);
    assert_eq!(world.rank(), None, "something was just sent");
    // The client reads steadily, but the transport has no room for more yet.
    for left in (0..10).rev() {
        world.transport.unacknowledged = left * 1000;
        world.pass(STALL_NOTICED);
        world.watch();
        assert_eq!(world.rank(), None, "{left}");
    }
    world.pass(STALL_NOTICED);
    world.watch();
    assert!(world.rank().is_some());
}

#[test]
fn the_connection_that_has_waited_longest_is_evicted_first() {
    let start = Clock::at(Instant::now(), SINCE_EPOCH);
    let half = &manifest()[..20];
    let now = start.now + Duration::from_secs(5);
    let rank_of = |began: u64, then: Option<u64>, input: &str, more: &str| {
        let mut world = World::new("");
        world.service.clock = Clock::at(start.now + Duration::from_secs(began), SINCE_EPOCH);
        world.connection = Connection::new(world.connection.peer, world.service.clock.now);
        world.receive(input);
        if let Some(then) = then {
            world.pass(Duration::from_secs(then - began));
            world.receive(more);
        }
        world.watch();
        rank(&world.connection, now)
    };
    // A silent client, one that sent half a head, one that has its response, and one that then sent half a head.
    let ranks = [
        rank_of(0, None, "", ""),
        rank_of(1, None, half, ""),
        rank_of(2, None, &manifest(), ""),
        // This one had been idle longest when its next head began to arrive.
        rank_of(0, Some(3), &manifest(), half),
    ];
    assert!(ranks.iter().all(Option::is_some) && ranks.is_sorted(), "{ranks:?}");
}

#[test]
fn a_connection_with_a_response_in_flight_is_evicted_after_idle_ones() {
    let mut answered = World::new(manifest());
    answered.transport.unacknowledged = 300;
    assert_eq!(answered.run(), Next::Wait);
    assert_eq!(answered.rank(), None, "the client may be reading its response");
    let mut silent = World::new("");
    silent.pass(2 * STALL_NOTICED);
    answered.pass(2 * STALL_NOTICED);
    assert!(silent.rank().is_some() && silent.rank() < answered.rank());
    answered.transport.unacknowledged = 0;
    answered.watch();
    let mut newer = World::new("");
    newer.service.clock = Clock::at(answered.service.clock.now + STALL_NOTICED, SINCE_EPOCH);
    newer.connection = Connection::new(newer.connection.peer, newer.service.clock.now);
    assert!(answered.rank() < newer.rank(), "the answered client has been idle since its response arrived");
}

#[test]
fn a_lingering_connection_can_be_evicted_once_its_response_arrives_or_stalls() {
    let mut world = World::new("GET / HTTP/1.1\r\nHost : x\r\n\r\n");
    world.transport.unacknowledged = 300;
    assert_eq!(world.run(), Next::Wait);
    assert_eq!(world.rank(), None);
    world.transport.unacknowledged = 0;
    world.watch();
    assert!(world.rank().is_some());
    let mut world = World::new("GET / HTTP/1.1\r\nHost : x\r\n\r\n");
    world.transport.unacknowledged = 300;
    assert_eq!(world.run(), Next::Wait);
    world.pass(STALL_NOTICED);
    world.watch();
    assert!(world.rank().is_some());
}

#[test]
fn a_client_that_may_send_more_after_its_last_response_is_not_reset() {
    // The client may already have sent bytes for the tunnel.
    let mut world = World::new("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(world.run(), Next::Wait);
    assert!(world.transport.finished);
    // Input may be left in the transport, however much of it was read before.
    let last = "GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for count in [0, 1, 50, 100] {
        let mut world = World::new(manifest().repeat(count) + last + &"x".repeat(3000));
        assert_eq!(world.run(), Next::Wait, "{count}");
        assert!(world.transport.finished && world.transport.input.is_empty(), "{count}");
        assert_eq!(world.responses().len(), count + 1);
    }
}

#[test]
fn a_connection_is_closed_once_its_last_response_has_arrived() {
    let asked = || {
        let mut world = World::new("");
        let line = format!("GET /v2/quinistry/blobs/{}", world.blob);
        world.transport.input = request(&line, &["Connection: close"]).into_bytes();
        world
    };
    // The client has acknowledged the whole response.
    let mut world = asked();
    assert_eq!(world.turn(), closed(CloseReason::LastResponse));
    assert!(!world.transport.finished);
    assert_eq!(world.responses()[0].content, world.transport.layer);
    // A part of the response is still in flight. The server ends its side of the stream, and the client ends its own.
    let mut world = asked();
    world.transport.unacknowledged = 300;
    assert_eq!(world.turn(), Next::Wait);
    assert!(world.transport.finished);
    world.transport.unacknowledged = 1;
    world.transport.ends = true;
    assert_eq!(world.run(), Next::Wait);
    world.transport.unacknowledged = 0;
    assert_eq!(world.turn(), closed(CloseReason::LastResponse));
    // More input arrives before the response is sent. If the server closed the connection
    // now, the client would receive a reset.
    let mut world = asked();
    let no_room = [Act::Bytes(usize::MAX), Act::Bytes(usize::MAX), Act::Bytes(5000), Act::Block];
    world.transport.acts = no_room.into();
    assert_eq!(world.turn(), Next::Wait);
    assert_eq!(world.receive("more"), Next::Wait);
    assert!(world.transport.finished && world.transport.input.is_empty());
}

#[test]
fn a_client_that_stops_sending_is_not_closed_before_it_has_its_responses() {
    for (input, reason) in [(manifest(), CloseReason::Left), (manifest() + "GET /", CloseReason::CutShort)] {
        for unacknowledged in [0, 300] {
            let mut world = World::new(&input);
            world.transport.ends = true;
            world.transport.unacknowledged = unacknowledged;
            let next = world.run();
            if unacknowledged == 0 {
                assert_eq!(next, closed(reason));
            } else {
                assert_eq!(next, Next::Wait);
                assert!(world.transport.finished);
                assert_eq!(world.wait_for_deadline(IDLE_TIMEOUT), closed(CloseReason::Stalled));
            }
            assert_eq!(world.responses().len(), 1);
        }
    }
}

#[test]
fn lingering_ends_soon_after_the_response_arrives_whatever_the_client_sends() {
    let malformed = "GET / HTTP/1.1\r\nHost : x\r\n\r\n";
    // The client sends nothing.
    let mut world = World::new(malformed);
    assert_eq!(world.run(), Next::Wait);
    assert_eq!(world.wait_for_deadline(LINGER_TIMEOUT), closed(CloseReason::DidNotClose));
    // A client that does not have its response yet has as much time as any reader, whether or not it sends.
    let mut world = World::new(malformed);
    world.transport.unacknowledged = 300;
    assert_eq!(world.run(), Next::Wait);
    assert_eq!(world.receive("x"), Next::Wait);
    world.transport.unacknowledged = 200;
    assert_eq!(world.wait_for_deadline(IDLE_TIMEOUT), Next::Wait);
    world.transport.unacknowledged = 0;
    assert_eq!(world.wait_for_deadline(IDLE_TIMEOUT), Next::Wait);
    assert_eq!(world.wait_for_deadline(LINGER_TIMEOUT), closed(CloseReason::DidNotClose));
    let mut world = World::new(malformed);
    world.transport.unacknowledged = 300;
    assert_eq!(world.run(), Next::Wait);
    world.watch();
    assert_eq!(world.wait_for_deadline(IDLE_TIMEOUT), closed(CloseReason::Stalled));
    // Input does not extend the deadline.
    let mut world = World::new(malformed);
    assert_eq!(world.run(), Next::Wait);
    let end = world.connection.deadline();
    for _ in 0..10 {
        world.pass((end - world.service.clock.now) / 2);
        assert_eq!(world.receive("x"), Next::Wait);
    }
    assert_eq!(world.connection.deadline(), end);
    world.pass(end - world.service.clock.now);
    assert_eq!(world.turn(), closed(CloseReason::DidNotClose));
}

#[test]
fn an_upload_is_discarded_in_turns() {
    let mut world = World::new("POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n");
    assert_eq!(world.run(), Next::Wait);
    assert!(world.transport.finished);
    world.transport.input = vec![b'x'; 3 * TURN_COST as usize];
    for left in [2, 1] {
        assert_eq!(world.turn(), Next::Again);
        // The last read of a turn may exceed its limit.
        let unread = world.transport.input.len();
        assert!(unread.abs_diff(left * TURN_COST as usize) < 2 * MAX_HEAD, "{unread}");
    }
    assert_eq!(world.turn(), Next::Wait);
}

#[test]
fn stopping_closes_idle_connections_and_finishes_responses_in_flight() {
    for input in [String::new(), manifest(), manifest() + "GET /"] {
        let mut world = World::new(&input);
        world.turn();
        assert_eq!(world.stop(), closed(CloseReason::Stopping), "{input}");
    }
    // The client has not acknowledged its response yet. The server finishes its side of the stream, and waits.
    let mut world = World::new(manifest());
    world.turn();
    world.transport.unacknowledged = 500;
    assert_eq!(world.stop(), Next::Wait);
    assert!(world.transport.finished);
    assert_eq!(world.turn(), Next::Wait);
    world.transport.unacknowledged = 0;
    world.transport.ends = true;
    assert_eq!(world.turn(), closed(CloseReason::LastResponse));
    // A client that is still uploading has time to read its last response.
    let mut world = World::new("POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n");
    world.turn();
    assert_eq!(world.stop(), Next::Wait);
    // A download is completed, and no further request receives a response.
    let mut world = World::asked_for_layer();
    world.transport.input.extend_from_slice(manifest().as_bytes());
    world.transport.acts = [Act::Bytes(1000), Act::Bytes(5000), Act::Block].into();
    assert_eq!(world.turn(), Next::Wait);
    world.is_stopping = true;
    assert_eq!(world.stop(), Next::Wait);
    assert_eq!(world.run(), Next::Wait);
    assert!(world.transport.finished);
    let responses = world.responses();
    assert_eq!((responses.len(), &responses[0].content), (1, &world.transport.layer));
}

#[test]
fn a_transport_that_accepts_no_byte_without_blocking_breaks_the_connection() {
    // The transport fails while the head is sent, and then while the layer is sent.
    for acts in [
        vec![Act::Bytes(1000), Act::Bytes(0), Act::Bytes(0)],
        vec![Act::Bytes(1000), Act::Bytes(1000), Act::Bytes(10_000), Act::Bytes(0)],
    ] {
        let mut world = World::asked_for_layer();
        world.transport.acts = acts.into();
        assert_eq!(world.turn(), closed(CloseReason::Broken));
    }
}

#[test]
fn a_connection_that_breaks_before_it_lingers_is_closed() {
    let mut world = World::new("GET / HTTP/1.1\r\nHost : x\r\n\r\n");
    world.transport.acts = [Act::Bytes(usize::MAX), Act::Bytes(usize::MAX), Act::Break].into();
    assert_eq!(world.turn(), closed(CloseReason::Broken));
    assert!(world.transport.acts.is_empty());
}

/// Returns a request of every kind that keeps the connection open.
fn requests(blob: &str) -> Vec<String> {
    vec![
        manifest(),
        request("GET /v2/", &[]),
        request("GET /v2/quinistry/manifests/nonesuch", &[]),
        request("POST /v2/quinistry/blobs/uploads/", &["Content-Length: 0"]),
        request(&format!("GET /v2/quinistry/blobs/{blob}"), &[]),
        request(&format!("GET /v2/quinistry/blobs/{blob}"), &["Range: bytes=100-4999"]),
        request("GET /v2/quinistry/manifests/latest", &["If-None-Match: *"]),
        format!("\r\n{}", request("GET /v2/quinistry/tags/list", &[])),
    ]
}

/// What follows the other requests: nothing, or input after which no request receives a response.
const LAST: [&str; 5] = [
    "",
    "GET /v2/ HTTP/1.0\r\n\r\n",
    "BREW / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nsugar",
    "GET / HTTP/1.1\n\n",
    "\x16\x03\x01\x02",
];

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1_usize..50).prop_map(Act::Bytes),
        4 => (50_usize..20_000).prop_map(Act::Bytes),
        2 => Just(Act::Block),
        1 => Just(Act::Interrupt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_behavior_of_the_transport_changes_what_arrives(
        kinds in proptest::collection::vec(0_usize..8, 1..20),
        last in 0_usize..LAST.len(),
        acts in proptest::collection::vec(act(), 0..300),
        ends in any::<bool>(),
    ) {
        let mut undisturbed = World::new("");
        let of_each_kind = requests(&undisturbed.blob);
        let input: String = kinds.iter().map(|&kind| &*of_each_kind[kind]).chain([LAST[last]]).collect();
        undisturbed.receive(&input);

        let mut disturbed = World::new(&input);
        disturbed.transport.acts = acts.into();
        disturbed.transport.ends = ends;
        let next = disturbed.run();
        prop_assert_eq!(&disturbed.transport.output, &undisturbed.transport.output);
        prop_assert_eq!(next != Next::Wait, ends || last == 1);
        let expected = kinds.len() + usize::from(last > 0);
        prop_assert_eq!(undisturbed.responses().len(), expected);
        prop_assert!(disturbed.connection.held() <= 4 * MAX_HEAD);
    }

    #[test]
    fn a_broken_transport_closes_the_connection_at_once(
        kinds in proptest::collection::vec(0_usize..8, 1..10),
        mut acts in proptest::collection::vec(act(), 0..30),
        at in 0_usize..30,
    ) {
        let mut world = World::new("");
        let of_each_kind = requests(&world.blob);
        world.transport.input = kinds.iter().map(|&kind| &*of_each_kind[kind]).collect::<String>().into_bytes();
        acts.insert(at.min(acts.len()), Act::Break);
        let planned = acts.len();
        world.transport.acts = acts.into();
        let next = world.run();
        if next == Next::Wait {
            let is_break = |act: &Act| matches!(act, Act::Break);
            prop_assert!(world.transport.acts.iter().any(is_break), "the connection continues after the break");
        } else {
            prop_assert_eq!(next, closed(CloseReason::Broken));
            let performed = planned - world.transport.acts.len();
            prop_assert_eq!(world.transport.calls, performed, "nothing is called after the break");
        }
    }
}
