//! Responds to the requests of one client, over any transport.
//!
//! Documents: RFC 9112 section 9.3 (persistence and pipelining) and section 9.6 (closing).
//!
//! A connection performs no input or output of its own and reads no clock. Each [`Context`] supplies a transport and
//! the time, so that tests and the fuzzer can cause short reads and writes, errors at any point, and any passage of
//! time.
//!
//! Limits: the deadlines below, and how much a connection may do in one turn.
//!
//! Deliberately absent: reading content (see `http::request`), and 100 Continue. A request that expects 100 Continue
//! has content that is not read, so it receives its final response at once (RFC 9110 section 10.1.1).
//!
//! # States
//!
//! ```text
//!     Receiving   The connection waits for a head. `input` holds the received bytes of the head, and perhaps whole
//!                 requests that arrived with an earlier one. Deadline: 10 s after the connection was accepted, after
//!                 the first byte of the head, or after the response to the request with which the head arrived.
//!     Idle        Every received request has a response, and the transport has taken all responses. The connection
//!                 holds no bytes. Deadline: 75 s after the last progress.
//!     Writing     The transport has not taken all of a response. Nothing is read meanwhile, so that the responses keep
//!                 the order of the requests. Deadline: 75 s after the last progress.
//!     Lingering   The last response and the end of the stream are sent, and input is discarded. Deadline: 75 s after
//!                 the last progress, but 5 s once the client has acknowledged everything.
//!
//!     Receiving, Idle   ->  Receiving             the input has no whole request                    [respond]
//!     Receiving, Idle   ->  Writing               the transport has not taken all of a response     [flush]
//!     Receiving         ->  Writing or Lingering  408, because the deadline has passed              [expire, refuse]
//!     any but Lingering ->  Idle                  the transport has taken all responses             [proceed]
//!     any but Lingering ->  Receiving             all responses are taken, and some input is left   [proceed]
//!     any but Lingering ->  Lingering             the transport has taken the last response         [proceed, linger]
//!     Receiving, Idle   ->  Lingering             the client has closed its side, or the server      [leave, linger]
//!                                                 stops, and not all responses are acknowledged     [stop, linger]
//!
//!     Receiving         ->  closed: Silent        the client sent nothing before the deadline       [expire]
//!     Receiving         ->  closed: CutShort      the client has closed its side within a head      [leave]
//!     Receiving, Idle   ->  closed: Left          the client has closed its side outside a head     [leave]
//!     Idle              ->  closed: Idle          no request arrived before the deadline            [expire]
//!     any but Receiving ->  closed: Stalled       the client made no progress before the deadline   [expire]
//!     any but Lingering ->  closed: LastResponse  the client has acknowledged the last response and [proceed]
//!                                                 has sent nothing more
//!     Lingering         ->  closed: LastResponse  the client has acknowledged the last response and [discard]
//!                                                 has closed its side
//!     Lingering         ->  closed: DidNotClose   the client has acknowledged everything, but has   [expire]
//!                                                 not closed its side before the deadline
//!     any but Lingering ->  closed: FaultReset    `--fault` requires a reset                        [proceed]
//!     Receiving, Idle   ->  closed: Stopping      the server stops; all responses are acknowledged  [stop]
//!     any               ->  closed: Broken        the transport failed                              [any step]
//! ```
//!
//! *Progress* means that a response begins, that the transport takes bytes or the end of the stream, or that the client
//! acknowledges either. Acknowledgements count because the transport takes all of a small response at once, long before
//! a slow reader has received it.
//!
//! When the server is stopping, every response is its connection's last. The table omits that the server also closes
//! connections when places or memory run out (see `clients`), or when the kernel has no memory to watch a socket.
//!
//! # Closing
//!
//! If a server closes a connection while the client is still sending, the kernel responds with a reset, which can
//! destroy the last response before the client has read it (RFC 9112 section 9.6). A connection is therefore closed at
//! once only if the request was complete, no more input has arrived, and the client has acknowledged the response.
//! Otherwise the connection lingers. Closing at once is only an optimization, and can be ignored on a first reading. On
//! the loopback device, a connection with a single request would cost 50 % more processor time if it always lingered.
//!
//! A connection whose client has not acknowledged everything is closed with a reset, for the reason that
//! `Socket::close` states.
//!
//! # Memory
//!
//! An idle connection keeps no buffer, because all connections share the one into which bytes are read. A connection
//! keeps only the beginning of a head, requests that must wait for the response to an earlier one, and the part of a
//! response that the transport has not taken. [`Connection::held`] counts these bytes, while `socket` bounds those that
//! the kernel keeps.
//!
//! # Example
//!
//! A client sends a request in two pieces, reads the response, and closes its side:
//!
//! ```
//! use std::io::{self, ErrorKind};
//!
//! use quinistry::connection::{
//!     Buffers, Connection, Context, HEAD_TIMEOUT, IDLE_TIMEOUT, Next, Transport,
//! };
//! use quinistry::http::response::FilePart;
//! use quinistry::kinds::CloseReason;
//! # use quinistry::clock::Clock;
//! # use quinistry::fault::Faults;
//! # use quinistry::image::{Image, layer::Executable};
//! # use quinistry::log::{Log, Requests};
//! # use quinistry::metrics::Metrics;
//! # use quinistry::run_queue::TURN_COST;
//! # use quinistry::service::Service;
//! # use quinistry::site::Site;
//!
//! /// A transport whose client is a script.
//! #[derive(Default)]
//! struct Script {
//!     sent: Vec<u8>,
//!     has_closed: bool,
//!     received: Vec<u8>,
//! }
//!
//! impl Transport for Script {
//!     fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
//!         let count = self.sent.len().min(buffer.len());
//!         buffer[..count].copy_from_slice(&self.sent[..count]);
//!         self.sent.drain(..count);
//!         if count == 0 && !self.has_closed { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
//!     }
//!     fn write(&mut self, bytes: &[u8], _more: bool) -> io::Result<usize> {
//!         self.received.extend_from_slice(bytes);
//!         Ok(bytes.len())
//!     }
//!     fn write_file(&mut self, part: &FilePart) -> io::Result<usize> {
//!         Ok(part.len() as usize)
//!     }
//!     fn may_have_input(&self) -> bool {
//!         !self.sent.is_empty()
//!     }
//!     fn finish(&mut self) -> io::Result<()> {
//!         Ok(())
//!     }
//!     fn unacknowledged(&self) -> u64 {
//!         0
//!     }
//! }
//!
//! # let mut executable = vec![0; 64 + 56];
//! # executable[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
//! # for (at, byte) in [(16, 2), (18, 62), (32, 64), (54, 56), (56, 1), (64, 1)] {
//! #     executable[at] = byte;
//! # }
//! # let executable = Executable::check(&executable[..], executable.len() as u64).expect("it is static");
//! # let mut content = Vec::new();
//! # let layer = executable.pack(&mut content).expect("a Vec takes everything");
//! # let site = Box::leak(Box::new(Site::new(Image::assemble(vec![(content, layer)]).1)));
//! # let (faults, log) = (Faults::default(), Log::new(Requests::Hidden, false));
//! # let mut service = Service { site, faults, clock: Clock::start(), log, metrics: Metrics::default() };
//! let mut buffers = Buffers::default();
//! let now = service.clock.now;
//! let mut client = Script::default();
//! let mut connection = Connection::new(([192, 0, 2, 1], 50514).into(), now);
//! let mut turn = |client: &mut Script| {
//!     let next = connection.turn(&mut Context {
//!         transport: client,
//!         service: &mut service,
//!         buffers: &mut buffers,
//!         is_stopping: false,
//!         remaining: TURN_COST,
//!     });
//!     (next, connection.deadline())
//! };
//!
//! client.sent = b"GET /v2/ HTTP/1.1\r\nHo".to_vec();
//! assert_eq!(turn(&mut client), (Next::Wait, now + HEAD_TIMEOUT)); // Receiving
//! client.sent = b"st: localhost\r\n\r\n".to_vec();
//! assert_eq!(turn(&mut client), (Next::Wait, now + IDLE_TIMEOUT)); // Idle
//! assert!(client.received.starts_with(b"HTTP/1.1 200 OK\r\n"));
//! client.has_closed = true;
//! assert_eq!(turn(&mut client).0, Next::Close(CloseReason::Left));
//! ```

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::http::request::{self, MAX_INPUT, Rejection};
use crate::http::response::{FilePart, Persistence};
use crate::kinds::{CloseReason, RequestKind};
use crate::run_queue::TURN_COST;
use crate::service::Service;

/// How long a client may take to send its first byte after it has connected, and to send the rest of a head after the
/// first byte. Because a head fits into one or a few packets, 10 s is enough, as in h2o. hyper waits 30 s, nginx 60 s.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may go without sending a further request and without taking a byte of a response. A slow reader
/// that keeps taking bytes may therefore take hours. The time exceeds the 60 s for which load balancers keep an idle
/// connection by default (AWS; nginx upstream). A load balancer must close a connection before the server does, because
/// a request is lost if it is sent while the server closes the connection. nginx also waits 75 s for a request, but
/// only 60 s for a reader.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a client may take to close its side after it has received its last response. nginx also waits 5 s, but 30 s
/// in all if the client goes on sending.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum number of bytes that one read of a head takes. This is enough for the heads of real clients (200 bytes
/// to 2 KiB), but little more. Bytes that are not read stay in the kernel, and take none of the memory that all
/// connections share. With reads of 4 KiB, 4,000 clients that pipeline endlessly would fill that memory.
const MAX_READ: usize = 2560;

/// The cost of a small request and its response, in the unit of `run_queue`.
pub const REQUEST_COST: u64 = 32 * 1024;

/// The cost of parsing one byte, so that a long head costs as much as several requests.
const PARSED_BYTE_COST: u64 = 64;

/// The length of gathered output, in bytes, at which the output is sent before more requests are parsed: a dozen
/// manifests with their heads, in one write.
const MAX_GATHERED: usize = 16 * 1024;

const _: () = assert!(MAX_READ < MAX_INPUT);
// A load balancer's 60 s, and 10 s for packets that are on their way.
const _: () = assert!(IDLE_TIMEOUT.as_secs() >= 60 + 10);

/// A byte stream to one client, with methods that never block. A transport also has the files that are too large for a
/// connection's memory, and sends parts of them.
pub trait Transport {
    /// Reads some bytes. Returns 0 at the end of the stream.
    /// Fails with `WouldBlock` if there are no bytes now.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes some of the bytes. If `more` is true, other bytes follow at once and may share a packet with these.
    /// Fails with `WouldBlock` if there is no room now.
    fn write(&mut self, bytes: &[u8], more: bool) -> io::Result<usize>;

    /// Writes some bytes of a part of a file.
    /// Fails with `WouldBlock` if there is no room now.
    fn write_file(&mut self, part: &FilePart) -> io::Result<usize>;

    /// Returns whether bytes, or the end of the stream, may be waiting to be read. Makes no system call.
    fn may_have_input(&self) -> bool;

    /// Sends the end of the stream. The caller writes nothing afterwards.
    /// Fails if the connection is gone.
    fn finish(&mut self) -> io::Result<()>;

    /// Returns how many of the written bytes the client has not acknowledged. The end of the stream counts as one.
    fn unacknowledged(&self) -> u64;
}

/// Buffers that all connections share. Between turns, the output is empty, and the bytes that are left in the input
/// have no meaning.
pub struct Buffers {
    input: Box<[u8]>,
    output: Vec<u8>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { input: vec![0; MAX_INPUT].into(), output: Vec::with_capacity(2 * MAX_GATHERED) }
    }
}

/// What a connection may use in one turn, and how much the turn may cost.
pub struct Context<'t> {
    pub transport: &'t mut dyn Transport,
    pub service: &'t mut Service,
    pub buffers: &'t mut Buffers,
    /// Whether the server is stopping. If so, every response is its connection's last.
    pub is_stopping: bool,
    /// What the turn may still cost (see `run_queue`).
    pub remaining: u64,
}

impl Context<'_> {
    fn now(&self) -> Instant {
        self.service.clock.now
    }

    /// Counts the cost of some work.
    fn spend(&mut self, cost: u64) {
        self.remaining = self.remaining.saturating_sub(cost);
    }
}

/// What a connection wants at the end of its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// A turn when the transport is ready again, or at [`Connection::deadline`].
    Wait,
    /// Another turn, after the other clients have had theirs.
    Again,
    /// To be closed for this reason.
    Close(CloseReason),
}

impl From<io::Error> for Next {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock => Self::Wait,
            ErrorKind::Interrupted => Self::Again,
            _ => Self::Close(CloseReason::Broken),
        }
    }
}

/// The result of one step within a turn. After `Ok`, another step follows. An error ends the turn.
type Step = Result<(), Next>;

/// One client's connection.
pub struct Connection {
    pub peer: SocketAddr,
    state: State,
    progress: Progress,
}

/// A state of the table at the top of this file.
enum State {
    Receiving {
        input: Vec<u8>,
        /// Whether the parser has found the head incomplete, so that more bytes must be read.
        is_incomplete: bool,
        began: Instant,
    },
    Idle,
    /// On the heap, so that an idle connection does not need room for a [`Writing`].
    Writing(Box<Writing>),
    Lingering,
}

/// The rest of a response, which the transport has not taken yet.
struct Writing {
    /// The rest of the heads, and of the content that is in memory.
    bytes: Vec<u8>,
    /// The rest of a part of a file, which comes after `bytes`.
    part: FilePart,
    /// Input that arrived with the request and has not been parsed.
    input: Vec<u8>,
    then: Then,
}

/// What follows a response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The next request.
    Persist,
    /// The end of the stream. So far, the client has sent nothing after its request.
    Close,
    /// The end of the stream, after which the connection lingers, because the client has sent more or may send more.
    Linger,
    /// A reset, because a fault requires it.
    Reset,
}

/// Whether the client takes the bytes that are sent to it.
struct Progress {
    /// When the client or the transport was last seen to take bytes.
    at: Instant,
    /// How many bytes were unacknowledged when the transport was last asked; `None` if more bytes have been sent since
    /// then.
    unacknowledged: Option<u64>,
}

impl Progress {
    /// Notes that bytes were handed to the transport.
    fn note_sent(&mut self, now: Instant) {
        *self = Self { at: now, unacknowledged: None };
    }

    /// Notes how many bytes are unacknowledged. A smaller number than last time is progress. If more bytes were sent in
    /// between, the client is assumed to make progress, because the two numbers cannot be compared.
    fn note_unacknowledged(&mut self, unacknowledged: u64, now: Instant) {
        let before = self.unacknowledged.replace(unacknowledged);
        if before.is_none_or(|before| unacknowledged < before) {
            self.at = now;
        }
    }
}

impl Connection {
    /// Creates a connection that was just accepted.
    pub fn new(peer: SocketAddr, now: Instant) -> Self {
        // A dual-stack socket shows IPv4 addresses as `::ffff:…`, although people write them without this prefix.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let progress = Progress { at: now, unacknowledged: Some(0) };
        let state = State::Receiving { input: Vec::new(), is_incomplete: true, began: now };
        Self { peer, state, progress }
    }

    /// Works until the transport would block or the turn is over, and only then checks the deadline. If a suspended
    /// process resumes, every deadline may have passed, but requests that are waiting must be served first.
    pub fn turn(&mut self, context: &mut Context<'_>) -> Next {
        let mut next = self.work(context);
        if matches!(next, Next::Wait | Next::Again) && context.now() >= self.deadline() {
            next = self.expire(next, context);
        }
        if next == Next::Wait && context.is_stopping { self.stop(context) } else { next }
    }

    /// Returns the time at which the connection needs a turn even if no event occurs.
    pub fn deadline(&self) -> Instant {
        match self.state {
            State::Receiving { began, .. } => began + HEAD_TIMEOUT,
            State::Lingering if !self.is_in_flight() => self.progress.at + LINGER_TIMEOUT,
            State::Idle | State::Writing(_) | State::Lingering => self.progress.at + IDLE_TIMEOUT,
        }
    }

    /// Returns whether the client may lack some bytes of a response.
    pub fn is_in_flight(&self) -> bool {
        matches!(self.state, State::Writing(_)) || self.progress.unacknowledged != Some(0)
    }

    /// Notes whether the client has made progress. `unacknowledged` asks the transport, and is called only if a
    /// response is in flight.
    pub fn watch(&mut self, unacknowledged: impl FnOnce() -> u64, now: Instant) {
        if self.is_in_flight() {
            self.progress.note_unacknowledged(unacknowledged(), now);
        }
    }

    /// Returns the time since which the connection has waited. If it is receiving a head and no response is in flight,
    /// this is when it began to wait for the head. Otherwise, it is the time of the last progress.
    pub fn waits_since(&self) -> Instant {
        match self.state {
            State::Receiving { began, .. } if !self.is_in_flight() => began,
            _ => self.progress.at,
        }
    }

    /// Returns how many bytes the connection keeps in memory.
    pub fn held(&self) -> usize {
        match &self.state {
            State::Receiving { input, .. } => input.capacity(),
            State::Writing(writing) => writing.bytes.capacity() + writing.input.capacity(),
            State::Idle | State::Lingering => 0,
        }
    }

    /// Takes steps until one ends the turn.
    fn work(&mut self, context: &mut Context<'_>) -> Next {
        loop {
            if let Err(next) = self.step(context) {
                return next;
            }
        }
    }

    fn step(&mut self, context: &mut Context<'_>) -> Step {
        match &mut self.state {
            State::Writing(writing) => {
                writing.send(&mut self.progress, context)?;
                let (then, input) = (writing.then, std::mem::take(&mut writing.input));
                self.proceed(then, input, context)
            }
            State::Lingering => discard(context),
            State::Receiving { .. } | State::Idle if context.remaining == 0 => Err(Next::Again),
            State::Receiving { .. } | State::Idle => {
                // The buffer is taken, not borrowed, because `receive` also borrows the context.
                let mut buffer = std::mem::take(&mut context.buffers.input);
                let step = self.receive(&mut buffer, context);
                context.buffers.input = buffer;
                step
            }
        }
    }

    /// Enforces the deadline. Returns `next` if the client has made progress that extends the deadline.
    fn expire(&mut self, next: Next, context: &mut Context<'_>) -> Next {
        self.watch(|| context.transport.unacknowledged(), context.now());
        if context.now() < self.deadline() {
            return next;
        }
        match &self.state {
            State::Receiving { input, .. } if input.is_empty() => Next::Close(CloseReason::Silent),
            State::Receiving { input, .. } => {
                let rejection = request::timeout(input);
                self.refuse(&rejection, context).err().unwrap_or_else(|| self.work(context))
            }
            State::Idle if !self.is_in_flight() => Next::Close(CloseReason::Idle),
            State::Lingering if !self.is_in_flight() => Next::Close(CloseReason::DidNotClose),
            State::Idle | State::Writing(_) | State::Lingering => Next::Close(CloseReason::Stalled),
        }
    }

    /// Ends a connection that waits for a request, because the server stops.
    fn stop(&mut self, context: &mut Context<'_>) -> Next {
        match self.state {
            State::Writing(_) | State::Lingering => Next::Wait,
            // The client must have its last response before the process ends. The network namespace of a container may
            // end with the process, and the bytes that the socket has queued would then be lost.
            State::Receiving { .. } | State::Idle => {
                self.leave(CloseReason::Stopping, context).err().unwrap_or(Next::Wait)
            }
        }
    }

    /// Puts the held input into the buffer, reads more if the input has no whole request, and responds to the requests.
    fn receive(&mut self, buffer: &mut [u8], context: &mut Context<'_>) -> Step {
        let (held, is_incomplete, mut began) = match &self.state {
            State::Receiving { input, is_incomplete, began } => (&**input, *is_incomplete, *began),
            _ => (&[][..], true, context.now()),
        };
        let mut length = held.len();
        buffer[..length].copy_from_slice(held);
        if is_incomplete {
            let room = length..buffer.len().min(length + MAX_READ);
            let count = context.transport.read(&mut buffer[room])?;
            match (count, length) {
                (0, 0) => return self.leave(CloseReason::Left, context),
                // RFC 9112 section 8: a message that is cut short needs no response.
                (0, _) => return self.leave(CloseReason::CutShort, context),
                (_, 0) => began = context.now(),
                // The head is parsed again from its start.
                _ => context.spend(REQUEST_COST + PARSED_BYTE_COST * length as u64),
            }
            length += count;
        }
        self.respond(&buffer[..length], began, context)
    }

    /// Responds to the requests in `input`. If `input` has no whole request, keeps `input` as the beginning of a head
    /// whose first byte arrived at `began`.
    fn respond(&mut self, input: &[u8], began: Instant, context: &mut Context<'_>) -> Step {
        let mut rest = input;
        loop {
            let (request, length) = match request::parse(rest) {
                Ok(Some(request)) => request,
                Ok(None) if rest.len() == input.len() => {
                    self.state = State::Receiving { input: input.to_vec(), is_incomplete: true, began };
                    return Ok(());
                }
                Ok(None) => return self.flush(FilePart::NONE, rest, Then::Persist, context),
                Err(rejection) => return self.refuse(&rejection, context),
            };
            rest = &rest[length..];
            let Context { service, buffers, is_stopping, .. } = &mut *context;
            let reply = service.respond(&request, self.peer, *is_stopping, &mut buffers.output);
            context.spend(cost(length, reply.kind));
            let part = reply.part;
            let then = match reply.persistence {
                _ if reply.fault == Some(Fault::Reset) => Then::Reset,
                Persistence::Close if rest.is_empty() && !request.has_body => Then::Close,
                Persistence::Close => Then::Linger,
                Persistence::Implied | Persistence::Stated => Then::Persist,
            };
            if then != Then::Persist {
                // RFC 9112 section 9.6: MUST NOT process further requests.
                return self.flush(part, &[], then, context);
            }
            let is_enough = context.buffers.output.len() >= MAX_GATHERED || context.remaining == 0;
            if rest.is_empty() || !part.is_empty() || is_enough {
                return self.flush(part, rest, Then::Persist, context);
            }
        }
    }

    /// Responds to bytes that are not a request, and discards what the client sends afterwards.
    fn refuse(&mut self, rejection: &Rejection, context: &mut Context<'_>) -> Step {
        context.service.refuse(rejection, self.peer, &mut context.buffers.output);
        self.flush(FilePart::NONE, &[], Then::Linger, context)
    }

    /// Sends the output. Keeps what the transport did not take, as well as `part`, which follows the output, and
    /// `input`, which arrived after the request. The output is empty afterwards, even after an error, because the next
    /// client must not receive it.
    fn flush(&mut self, part: FilePart, input: &[u8], then: Then, context: &mut Context<'_>) -> Step {
        let output = &mut context.buffers.output;
        let written = match context.transport.write(output, !part.is_empty()) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            written => written,
        };
        let rest = written.map(|written| output[written..].to_vec());
        output.clear();
        let bytes = rest?;
        self.progress.note_sent(context.now());
        if bytes.is_empty() && part.is_empty() {
            return self.proceed(then, input.to_vec(), context);
        }
        self.state = State::Writing(Box::new(Writing { bytes, part, input: input.to_vec(), then }));
        Ok(())
    }

    /// Moves to the next state when the transport has taken everything. `input` arrived after the request.
    fn proceed(&mut self, then: Then, input: Vec<u8>, context: &mut Context<'_>) -> Step {
        match then {
            Then::Close if !context.transport.may_have_input() && self.is_acknowledged(context) => {
                return Err(Next::Close(CloseReason::LastResponse));
            }
            Then::Reset => return Err(Next::Close(CloseReason::FaultReset)),
            Then::Persist if context.is_stopping => return self.linger(context),
            Then::Persist if input.is_empty() => self.state = State::Idle,
            Then::Persist => {
                self.state = State::Receiving { input, is_incomplete: false, began: context.now() };
            }
            Then::Close | Then::Linger => return self.linger(context),
        }
        Ok(())
    }

    /// Asks the transport whether the client has acknowledged everything, and notes the progress that this shows.
    fn is_acknowledged(&mut self, context: &Context<'_>) -> bool {
        self.progress.note_unacknowledged(context.transport.unacknowledged(), context.now());
        self.progress.unacknowledged == Some(0)
    }

    /// Closes the connection for `reason`, or lingers if the client has not acknowledged all responses.
    fn leave(&mut self, reason: CloseReason, context: &mut Context<'_>) -> Step {
        if self.is_acknowledged(context) {
            return Err(Next::Close(reason));
        }
        self.linger(context)
    }

    /// Sends the end of the stream, and lingers.
    fn linger(&mut self, context: &mut Context<'_>) -> Step {
        if context.transport.finish().is_err() {
            return Err(Next::Close(CloseReason::Broken));
        }
        self.progress = Progress { at: context.now(), unacknowledged: Some(context.transport.unacknowledged()) };
        self.state = State::Lingering;
        Ok(())
    }
}

impl Writing {
    /// Sends until the transport has taken the rest of the response.
    fn send(&mut self, progress: &mut Progress, context: &mut Context<'_>) -> Step {
        let now = context.now();
        while !self.bytes.is_empty() {
            let count = context.transport.write(&self.bytes, !self.part.is_empty())?;
            if count == 0 {
                // Without this check, the loop would never end if a transport took nothing and did not block.
                return Err(Next::Close(CloseReason::Broken));
            }
            self.bytes.drain(..count);
            progress.note_sent(now);
        }
        while !self.part.is_empty() {
            if context.remaining == 0 {
                return Err(Next::Again);
            }
            let FilePart { file, range } = &mut self.part;
            let end = range.end.min(range.start + context.remaining);
            let next = FilePart { file: *file, range: range.start..end };
            let count = context.transport.write_file(&next)? as u64;
            if count == 0 {
                // The file has shrunk, which a sealed file cannot do.
                return Err(Next::Close(CloseReason::Broken));
            }
            range.start += count;
            context.spend(count);
            context.service.metrics.content_bytes += count;
            progress.note_sent(now);
        }
        Ok(())
    }
}

/// Returns the cost of a request of this kind, whose head has `head` bytes, and of its response without the bytes of a
/// file.
fn cost(head: usize, kind: RequestKind) -> u64 {
    match kind {
        // These requests cost a whole turn, because their text is generated anew each time.
        RequestKind::Welcome | RequestKind::Metrics => TURN_COST,
        _ => REQUEST_COST + PARSED_BYTE_COST * head as u64,
    }
}

/// Reads and discards input, until the client has closed its side and has acknowledged everything.
fn discard(context: &mut Context<'_>) -> Step {
    if context.remaining == 0 {
        return Err(Next::Again);
    }
    let count = context.transport.read(&mut context.buffers.input)?;
    context.spend(count as u64);
    match count {
        0 if context.transport.unacknowledged() == 0 => Err(Next::Close(CloseReason::LastResponse)),
        0 => Err(Next::Wait),
        _ => Ok(()),
    }
}
