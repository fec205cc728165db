//! One connection: bytes in, answers out, over any transport.
//!
//! Documents: RFC 9112 sections 9.3 (persistence, pipelining) and 9.6 (closing).
//!
//! ```text
//!     accept ─> Fresh ──┐ first byte            answer fits the socket
//!                       v                     ┌───────────────────────┐
//!       ┌───────────> Reading ── complete ────┤                       │
//!       │ first byte    │        request      └─> Writing ──────────> │ then
//!       │               │                                 all sent    │
//!       │               │ a fault: answered once                      ├─ next request: Idle, or
//!     Idle <────────────│─────────────────────────────────────────────┤  Reading if it is here
//!                       │                                             ├─ close
//!                       └───────────────────────────────────────────> └─ linger: Lingering ─> close
//! ```
//!
//! A connection does no input or output of its own and reads no clock: both are passed in, so that
//! every state can be tested with every accident (short reads and writes, errors anywhere) and
//! fuzzed. It works until the transport would block or its turn is over.
//!
//! A connection that waits holds no buffer: bytes are read into one that all share, and only the
//! start of a head that is not complete, requests that came before their turn, and the rest of an
//! answer that did not fit, are kept.
//!
//! Deliberately absent: reading content (see `request`), and 100 Continue: a request that expects
//! it has content that we will not read, and gets its final answer at once (RFC 9110 section 10.1.1).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::http::request::{self, FieldStorage, HEAD_TIMEOUT, MAX_INPUT, Rejection};
use crate::http::response::{Content, Persistence, Response};
use crate::log::{Entry, Log};
use crate::registry::Registry;

/// How long a connection may take to its first byte, once the kernel has handed it over, and then
/// again to the end of the head. h2o gives 10 s, hyper 30 s, nginx 60 s; a head is one packet, or a few.
pub const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// How long a persistent connection may wait for its next request. Less than nginx's 75 s; docker
/// pools connections for longer, but asks again within seconds or never.
pub const IDLE_PATIENCE: Duration = Duration::from_secs(60);

/// How long a reader may take no byte at all. It is looked at once in this time, so that a reader
/// that has stopped is closed after between one and two of these. A slow one may take hours.
pub const STALL_PATIENCE: Duration = Duration::from_secs(60);

/// How long a lingering connection waits for a sign of life.
pub const LINGER_PATIENCE: Duration = Duration::from_secs(2);

/// How long a connection lingers at most, once its answer has arrived. nginx: 30 s.
pub const MAX_LINGER: Duration = Duration::from_secs(5);

/// How many bytes a lingering connection discards. Who sends more before listening loses the answer;
/// who is refused a blob with `Expect: 100-continue`, or listens meanwhile, does not.
pub const MAX_DISCARDED: usize = 256 * 1024;

/// How many requests a connection may have answered before it is the next one's turn. wrk and
/// others that pipeline send 16 at once.
pub const REQUESTS_PER_TURN: usize = 32;

/// How many bytes of the layer a connection may send before it is the next one's turn: all of it,
/// as a rule, which takes a fraction of a millisecond. nginx's `sendfile_max_chunk` is 2 MiB.
pub const BYTES_PER_TURN: u64 = 1024 * 1024;

/// When so much output has been gathered, it is sent before more requests are looked at: a good
/// dozen of manifests with their heads, in one write.
const MAX_GATHERED: usize = 16 * 1024;

const _: () = assert!(LINGER_PATIENCE.as_secs() < MAX_LINGER.as_secs());
const _: () = assert!(HEAD_PATIENCE.as_secs() < IDLE_PATIENCE.as_secs());

/// A byte stream to one client that never blocks, and the one place that has the layer's bytes.
pub trait Transport {
    /// Reads some bytes; none at the end.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there are none now.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes some bytes. With `more`, others follow at once and may share a packet.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is no room now.
    fn write(&mut self, bytes: &[u8], more: bool) -> io::Result<usize>;

    /// Writes some bytes of this part of the layer.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is no room now.
    fn write_layer(&mut self, part: Range<u64>) -> io::Result<usize>;

    /// Tells the client that nothing more will be written.
    ///
    /// # Errors
    ///
    /// When the connection is already gone.
    fn finish(&mut self) -> io::Result<()>;

    /// How many of the bytes written the client has not acknowledged.
    fn unacknowledged(&self) -> u64;
}

/// Buffers that all connections of a thread share.
pub struct Buffers {
    input: Box<[u8]>,
    output: Vec<u8>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { input: vec![0; MAX_INPUT].into(), output: Vec::with_capacity(2 * MAX_GATHERED) }
    }
}

/// What a connection needs of its surroundings for one turn.
pub struct Context<'c> {
    /// Who knows the answers.
    pub registry: &'c Registry,
    /// What time it is.
    pub clock: &'c Clock,
    /// Who is told.
    pub log: &'c mut Log,
    /// Where bytes are for the moment.
    pub buffers: &'c mut Buffers,
    /// Whether the server is stopping: every answer is then the connection's last.
    pub stopping: bool,
}

/// What a connection wants after its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// To be called when the transport is ready again, or at [`Connection::deadline`].
    Wait,
    /// Another turn, after the others had theirs.
    Again,
    /// To be dropped.
    Close,
}

/// One client's connection.
pub struct Connection {
    peer: SocketAddr,
    /// See [`Connection::since`].
    since: Instant,
    state: State,
}

enum State {
    /// Nothing has come yet.
    Fresh,
    /// All that came is answered.
    Idle,
    /// Bytes have come that are not answered. The first `seen` of them hold no end of a head.
    Reading { head: Vec<u8>, seen: usize, began: Instant },
    /// An answer is being sent.
    Writing(Box<Writing>),
    /// The last answer is sent, and the client may not have stopped talking. Were the connection
    /// closed now, what it still sends would be answered with a reset, which can destroy the answer
    /// on its way (RFC 9112 section 9.6).
    Lingering { began: Instant, discarded: usize, unacknowledged: u64 },
}

/// An answer that did not fit the socket. On the heap, lest every idle connection have room for it.
struct Writing {
    /// What is left of heads and small contents.
    bytes: Vec<u8>,
    /// What is left of the layer, which comes after.
    layer: Range<u64>,
    /// Input that came with the request and was not looked at.
    input: Vec<u8>,
    then: Then,
    /// What the client had not acknowledged when last looked at; all there is, if more has been sent
    /// since then.
    unacknowledged: u64,
}

/// What happens when an answer has been sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Persist,
    Close,
    Linger,
}

/// Whether to go on within a turn, or what the connection wants after it.
type Step = ControlFlow<Next>;

/// What is left of a turn.
struct Allowance {
    requests: usize,
    bytes: u64,
}

impl Connection {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(peer: SocketAddr, now: Instant) -> Self {
        // A dual-stack socket shows IPv4 peers as `::ffff:…`; people don't.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        Self { peer, since: now, state: State::Fresh }
    }

    /// Does what can be done without blocking, as far as one turn goes.
    pub fn turn(&mut self, transport: &mut impl Transport, context: &mut Context<'_>) -> Next {
        let mut allowance = Allowance { requests: REQUESTS_PER_TURN, bytes: BYTES_PER_TURN };
        loop {
            let step = match self.state {
                State::Fresh | State::Idle | State::Reading { .. } => {
                    self.receive(transport, context, &mut allowance)
                }
                State::Writing(_) => self.send(transport, context, &mut allowance),
                State::Lingering { .. } => self.discard(transport, context),
            };
            match step {
                Ok(Step::Continue(())) => {}
                Ok(Step::Break(next)) => return next,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Wait,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The client is gone, or the network is. There is nobody to tell.
                Err(_) => return Next::Close,
            }
        }
    }

    /// When [`Connection::expire`] is to be called, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        match &self.state {
            State::Fresh => self.since + HEAD_PATIENCE,
            State::Idle => self.since + IDLE_PATIENCE,
            State::Reading { began, .. } => *began + HEAD_PATIENCE,
            State::Writing(_) => self.since + STALL_PATIENCE,
            State::Lingering { began, .. } => (self.since + LINGER_PATIENCE).min(*began + MAX_LINGER),
        }
    }

    /// Acts upon the deadline, if it has passed.
    pub fn expire(&mut self, transport: &mut impl Transport, context: &mut Context<'_>) -> Next {
        let now = context.clock.now;
        if now < self.deadline() {
            return Next::Wait;
        }
        match &mut self.state {
            State::Fresh | State::Idle => Next::Close,
            State::Reading { head, .. } => {
                let is_head = head.starts_with(b"HEAD ");
                context.buffers.output.clear();
                match self.refuse(Rejection { is_head, ..HEAD_TIMEOUT }, transport, context) {
                    Ok(_) => self.turn(transport, context),
                    Err(_) => Next::Close,
                }
            }
            // The socket becomes writable only when a good part of its buffer is free, which takes
            // a slow reader minutes. Whether it reads at all shows in what it has acknowledged.
            State::Writing(writing) => {
                let left = transport.unacknowledged();
                self.since = now;
                if left < std::mem::replace(&mut writing.unacknowledged, left) {
                    Next::Wait
                } else {
                    Next::Close
                }
            }
            State::Lingering { began, unacknowledged, .. } => {
                let left = transport.unacknowledged();
                if left > 0 && left < std::mem::replace(unacknowledged, left) {
                    (self.since, *began) = (now, now);
                    Next::Wait
                } else {
                    Next::Close
                }
            }
        }
    }

    /// Prepares for the end of the server: who waits for nothing is let go.
    pub fn stop(&mut self, transport: &mut impl Transport, now: Instant) -> Next {
        match self.state {
            State::Fresh | State::Idle | State::Reading { .. } if transport.unacknowledged() == 0 => {
                Next::Close
            }
            // The last answer is still on its way. If the process ends now, so may the network
            // namespace of its container, and with it the socket's buffer.
            State::Fresh | State::Idle | State::Reading { .. } => match self.linger(transport, now) {
                Ok(()) => Next::Wait,
                Err(_) => Next::Close,
            },
            State::Lingering { .. } if transport.unacknowledged() == 0 => Next::Close,
            State::Writing(_) | State::Lingering { .. } => Next::Wait,
        }
    }

    /// When something was last achieved: it was accepted, an answer or a part of one was sent.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether an answer is on its way, and the client so to speak served.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        matches!(self.state, State::Writing(_))
    }

    /// How many bytes the connection keeps for itself.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.state {
            State::Reading { head, .. } => head.capacity(),
            State::Writing(writing) => writing.bytes.capacity() + writing.input.capacity(),
            State::Fresh | State::Idle | State::Lingering { .. } => 0,
        }
    }

    /// Reads, and answers all requests that are then complete.
    fn receive(
        &mut self,
        transport: &mut impl Transport,
        context: &mut Context<'_>,
        allowance: &mut Allowance,
    ) -> io::Result<Step> {
        if allowance.requests == 0 {
            return Ok(Step::Break(Next::Again));
        }
        let now = context.clock.now;
        // The shared buffer is taken, not borrowed, while the context is passed on.
        let mut input = std::mem::take(&mut context.buffers.input);
        let (kept, seen, began) = match &self.state {
            State::Reading { head, seen, began } => (&head[..], *seen, *began),
            _ => (&[][..], 0, now),
        };
        input[..kept.len()].copy_from_slice(kept);
        // Kept input that was not looked at comes first; it may hold whole requests.
        let length = if seen < kept.len() {
            Ok(kept.len())
        } else {
            transport.read(&mut input[kept.len()..]).map(|count| kept.len() + count)
        };
        let step = match length {
            Ok(length) if length > seen => {
                self.respond(&input[..length], seen, began, transport, context, allowance)
            }
            // RFC 9112 section 8: a message that is cut short need not be answered.
            Ok(_) => Ok(Step::Break(Next::Close)),
            Err(error) => Err(error),
        };
        context.buffers.input = input;
        step
    }

    /// Answers the requests in `input` and sends the answers.
    fn respond(
        &mut self,
        input: &[u8],
        mut seen: usize,
        began: Instant,
        transport: &mut impl Transport,
        context: &mut Context<'_>,
        allowance: &mut Allowance,
    ) -> io::Result<Step> {
        let registry = context.registry;
        let (mut rest, mut lines) = (input, FieldStorage::default());
        context.buffers.output.clear();
        loop {
            let (request, length) = match request::parse(rest, seen, &mut lines) {
                Ok(Some(parsed)) => parsed,
                Ok(None) if rest.len() == input.len() => {
                    self.state = State::Reading { head: rest.to_vec(), seen: rest.len(), began };
                    return Ok(Step::Continue(()));
                }
                Ok(None) => return self.flush(0..0, rest, Then::Persist, transport, context),
                Err(rejection) => return self.refuse(rejection, transport, context),
            };
            rest = &rest[length..];
            seen = 0;
            allowance.requests -= 1;
            let response = registry.answer(&request);
            let persistence = if context.stopping { Persistence::Close } else { request.persistence };
            let user_agent = request.field_lines("user-agent").next().unwrap_or_default();
            let shown = [request.method_name, request.target];
            let layer = self.gather(shown, user_agent, &response, persistence, context);
            if persistence == Persistence::Close {
                // RFC 9112 section 9.6: MUST NOT process what follows. If nothing can follow, and the
                // answer is sure to fit the client's buffers, closing at once is safe.
                let is_last = rest.is_empty() && request.body == request::Body::None && layer.is_empty();
                let then = if is_last && !context.stopping { Then::Close } else { Then::Linger };
                return self.flush(layer, &[], then, transport, context);
            }
            let is_enough = context.buffers.output.len() >= MAX_GATHERED || allowance.requests == 0;
            if rest.is_empty() || !layer.is_empty() || is_enough {
                return self.flush(layer, rest, Then::Persist, transport, context);
            }
        }
    }

    /// Answers `input`, which begins with what is no request, and then listens no more.
    fn refuse(
        &mut self,
        rejection: Rejection,
        transport: &mut impl Transport,
        context: &mut Context<'_>,
    ) -> io::Result<Step> {
        let response = Registry::refuse(&rejection);
        self.gather(["-", rejection.reason], "", &response, Persistence::Close, context);
        self.flush(0..0, &[], Then::Linger, transport, context)
    }

    /// Gathers one answer, tells the log, and gives the part of the layer that is to follow.
    fn gather(
        &self,
        request: [&str; 2],
        user_agent: &str,
        response: &Response<'_>,
        persistence: Persistence,
        context: &mut Context<'_>,
    ) -> Range<u64> {
        let output = &mut context.buffers.output;
        response.write_head(context.clock.http_date(), persistence, output);
        let (status, length) = (response.status.code(), response.content.len());
        let entry = Entry { label: response.label, request, status, length, peer: self.peer, user_agent };
        context.log.request(context.clock.rfc3339(), &entry);
        match &response.content {
            Content::Bytes(bytes) => {
                output.extend_from_slice(bytes);
                0..0
            }
            Content::File(part) => part.range.clone(),
        }
    }

    /// Sends what was gathered, with `layer` behind it; keeps what does not fit. `input` is what
    /// came after the request.
    fn flush(
        &mut self,
        layer: Range<u64>,
        input: &[u8],
        then: Then,
        transport: &mut impl Transport,
        context: &Context<'_>,
    ) -> io::Result<Step> {
        let output = &context.buffers.output;
        let written = match transport.write(output, !layer.is_empty()) {
            Err(error) if is_passing(&error) => 0,
            written => written?,
        };
        if written == output.len() && layer.is_empty() {
            return self.proceed(then, input, transport, context);
        }
        self.since = context.clock.now;
        self.state = State::Writing(Box::new(Writing {
            bytes: output[written..].to_vec(),
            layer,
            input: input.to_vec(),
            then,
            unacknowledged: u64::MAX,
        }));
        Ok(Step::Continue(()))
    }

    /// Goes on sending an answer.
    fn send(
        &mut self,
        transport: &mut impl Transport,
        context: &mut Context<'_>,
        allowance: &mut Allowance,
    ) -> io::Result<Step> {
        let State::Writing(writing) = &mut self.state else {
            return Ok(Step::Continue(()));
        };
        let now = context.clock.now;
        while !writing.bytes.is_empty() {
            let count = transport.write(&writing.bytes, !writing.layer.is_empty())?;
            writing.bytes.drain(..count);
            writing.unacknowledged = u64::MAX;
            self.since = now;
        }
        while !writing.layer.is_empty() {
            if allowance.bytes == 0 {
                return Ok(Step::Break(Next::Again));
            }
            let start = writing.layer.start;
            let count = transport.write_layer(start..writing.layer.end.min(start + allowance.bytes))? as u64;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            writing.layer.start += count;
            writing.unacknowledged = u64::MAX;
            allowance.bytes -= count;
            self.since = now;
        }
        let (then, input) = (writing.then, std::mem::take(&mut writing.input));
        self.proceed(then, &input, transport, context)
    }

    /// Moves on when an answer is sent.
    fn proceed(
        &mut self,
        then: Then,
        input: &[u8],
        transport: &mut impl Transport,
        context: &Context<'_>,
    ) -> io::Result<Step> {
        let now = context.clock.now;
        self.since = now;
        match then {
            Then::Persist if context.stopping => self.linger(transport, now)?,
            Then::Persist if input.is_empty() => self.state = State::Idle,
            Then::Persist => self.state = State::Reading { head: input.to_vec(), seen: 0, began: now },
            Then::Close => return Ok(Step::Break(Next::Close)),
            Then::Linger => self.linger(transport, now)?,
        }
        Ok(Step::Continue(()))
    }

    fn linger(&mut self, transport: &mut impl Transport, now: Instant) -> io::Result<()> {
        transport.finish()?;
        self.since = now;
        let unacknowledged = transport.unacknowledged();
        self.state = State::Lingering { began: now, discarded: 0, unacknowledged };
        Ok(())
    }

    fn discard(&mut self, transport: &mut impl Transport, context: &mut Context<'_>) -> io::Result<Step> {
        let State::Lingering { discarded, .. } = &mut self.state else {
            return Ok(Step::Continue(()));
        };
        let count = transport.read(&mut context.buffers.input)?;
        *discarded += count;
        self.since = context.clock.now;
        let is_over = count == 0 || *discarded > MAX_DISCARDED;
        Ok(if is_over { Step::Break(Next::Close) } else { Step::Continue(()) })
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
