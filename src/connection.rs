//! Turns the bytes that a client sends into answers, over any transport.
//!
//! Documents: RFC 9112 section 9.3 (persistence and pipelining) and section 9.6 (closing).
//!
//! A connection does no input or output of its own and reads no clock. Both are passed in with each
//! [`Turn`], so that tests and the fuzzer can bring about every accident: short reads and writes, errors
//! anywhere, any time of the day.
//!
//! # States
//!
//! ```text
//!     state      what happens                           next state             by         deadline
//!     ---------  -------------------------------------  ---------------------  ---------  -----------
//!     Fresh      the first bytes come                   as for "bytes" below   receive    10 s
//!                the deadline passes                    closed: Silent         expire
//!     Idle       bytes come                             as for "bytes" below   receive    60 s after
//!                the deadline passes                    closed: Stalled        expire     the last
//!                ... and the client has its answer      closed: Idle           expire     progress;
//!                                                                                         then 75 s
//!     Partial    more bytes come                        as for "bytes" below   receive    10 s after
//!                the deadline passes                    answered 408 (refuse)  expire     the first
//!                                                                                         of them
//!     Pending    it goes on, now or in its next turn    as for "bytes" below   receive    10 s; its turn
//!                                                                                         comes before
//!     Writing    the transport takes some               Writing                send       60 s after
//!                it takes the last                      as for "sent" below    proceed    the last
//!                the deadline passes                    closed: Stalled        expire     progress
//!     Lingering  bytes come, up to 256 KiB              Lingering              discard    60 s after
//!                the client stops sending, and has      closed: LastAnswer     discard    the last
//!                  acknowledged all                                                       progress;
//!                the deadline passes                    closed: Stalled        expire     then 2 s
//!                ... and the client has the answer      closed: DidNotClose    expire     after the
//!                                                                                         last byte,
//!                                                                                         5 s in all
//!
//!     bytes:     no whole request                       Partial                respond
//!                requests                               answered               respond
//!                no request at all                      answered (refuse)      respond
//!     answered:  all of it fits the transport           as for "sent" below    flush
//!                it does not fit                        Writing                flush
//!     sent:      nothing more has come                  Idle                   proceed
//!                more has come                          Pending                proceed
//!                it was the last answer, the client     closed: LastAnswer     proceed
//!                  has it, and nothing more has come
//!                it was the last answer                 Lingering              linger
//!                the server is stopping                 Lingering              linger
//! ```
//!
//! Fresh, Idle and Partial also end when the client stops sending: closed (Left or `CutShort`) if it has
//! acknowledged all, and otherwise Lingering. Every state ends when the transport fails (closed: Broken). The server
//! may close a connection because it is short of something ([`Connection::rank`]), and closes it or has it linger
//! when it stops ([`Connection::stop`]).
//!
//! # The end
//!
//! What the kernel has queued for a connection that is closed counts for nobody, and can stay for minutes. So a
//! connection is closed in one of two ways: when the client has acknowledged everything; or by a reset, which drops
//! what is queued. The last answer is safe, because Lingering waits until the client has it.
//!
//! # Memory
//!
//! An idle connection keeps no buffer. Bytes are read into a buffer that all connections share. What a
//! connection may keep is the beginning of a head, requests that came before their turn, and the rest of
//! an answer that did not fit; [`Connection::held`] counts it. `budget` and `socket` bound what the kernel
//! keeps for a socket.
//!
//! Limits: the deadlines above, and how much a connection may do in one turn.
//!
//! Deliberately absent: reading content (see `http::request`), and 100 Continue. A request that expects
//! it has content that we will not read, so it gets its final answer at once (RFC 9110 section 10.1.1).

use std::borrow::Cow;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::explain::explain;
use crate::http::request::{self, FieldStorage, MAX_INPUT, Rejection, Request};
use crate::http::response::{Content, FilePart, Persistence};
use crate::kinds::CloseReason;
use crate::log::{Entry, Log};
use crate::metrics::{Metrics, Vitals};
use crate::registry::{Answer, Registry};
use crate::run_queue::{Allowance, cost};

/// How long a connection may take to its first byte, counted from when the kernel hands it over; and
/// then again from the first byte of a head to its end. A head is one packet, or a few. h2o waits
/// 10 s, hyper 30 s, nginx 60 s.
pub const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// How long a persistent connection may wait for its next request. nginx waits 75 s. A load balancer keeps idle
/// connections for up to 60 s (AWS; nginx upstream), and must be the first to close one: a request that meets a close
/// is lost. Docker keeps connections for longer, but asks again within seconds or never.
pub const IDLE_PATIENCE: Duration = Duration::from_secs(75);

/// How long a reader may take nothing at all. A slow reader may take hours.
pub const STALL_PATIENCE: Duration = Duration::from_secs(60);

/// For how long a reader must have taken nothing before it may have to make room for a newcomer.
pub const STALL_NOTICED: Duration = Duration::from_secs(1);

/// How long a lingering connection waits for a sign of life.
pub const LINGER_PATIENCE: Duration = Duration::from_secs(2);

/// How long a connection lingers at most, once its last answer has arrived. nginx: 30 s.
pub const MAX_LINGER: Duration = Duration::from_secs(5);

/// How many bytes a lingering connection discards at most. What comes then is not read. A client that uploads
/// more waits, and has time to read its answer until the connection has lingered for [`MAX_LINGER`].
pub const MAX_DISCARDED: usize = 256 * 1024;

/// How many bytes are read at a time. Real clients send heads of 200 bytes to 2 KiB. What is not read
/// stays in the kernel, and not in the memory that all connections share. With 4 KiB, the unanswered
/// requests of 4,000 clients that pipelined without end filled that memory; with less, they fit.
const MAX_READ: usize = 2560;

/// When so much output has been gathered, in bytes, it is sent before more requests are parsed: a
/// dozen manifests with their heads, in one write.
const MAX_GATHERED: usize = 16 * 1024;

const _: () = assert!(LINGER_PATIENCE.as_secs() < MAX_LINGER.as_secs());
const _: () = assert!(MAX_READ < MAX_INPUT);
const _: () = assert!(HEAD_PATIENCE.as_secs() < IDLE_PATIENCE.as_secs());
// A load balancer's 60 s, and some time for what is on its way.
const _: () = assert!(IDLE_PATIENCE.as_secs() >= 60 + 10);

/// A byte stream to one client that never blocks. It also has the files that are too large to be kept
/// in a connection's memory.
pub trait Transport {
    /// Reads some bytes; none at the end of the stream.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there are none now.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes some of the bytes. With `more`, others follow at once and may share a packet with them.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is no room now.
    fn write(&mut self, bytes: &[u8], more: bool) -> io::Result<usize>;

    /// Writes some of these bytes of a file.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is no room now.
    fn write_file(&mut self, part: &FilePart) -> io::Result<usize>;

    /// Whether more may have come from the client than was read. The transport does not ask for this.
    fn may_have_input(&self) -> bool;

    /// Sends the end of the stream: nothing more is written.
    ///
    /// # Errors
    ///
    /// When the connection is already gone.
    fn finish(&mut self) -> io::Result<()>;

    /// How many of the bytes written the client has not acknowledged.
    fn unacknowledged(&self) -> u64;
}

/// Buffers that all connections share. Between turns neither has anything that matters.
pub struct Buffers {
    input: Box<[u8]>,
    output: Vec<u8>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { input: vec![0; MAX_READ].into(), output: Vec::with_capacity(2 * MAX_GATHERED) }
    }
}

/// One turn of a connection: what the connection may use, and how much.
pub struct Turn<'t, T> {
    /// Receives from and sends to the client.
    pub transport: &'t mut T,
    /// Answers requests.
    pub registry: &'t Registry,
    /// The time.
    pub clock: &'t Clock,
    /// Records answers.
    pub log: &'t mut Log,
    /// Counts answers and bytes.
    pub metrics: &'t mut Metrics,
    /// Scratch room.
    pub buffers: &'t mut Buffers,
    /// Whether the server is stopping: every answer is then the connection's last.
    pub is_stopping: bool,
    /// What the connection may still do in this turn.
    pub left: Allowance,
}

impl<T> Turn<'_, T> {
    /// What the server can say of itself now.
    fn vitals(&self) -> Vitals<'_> {
        Vitals { metrics: self.metrics, clock: self.clock, dropped_lines: self.log.dropped_lines() }
    }
}

/// What a connection wants after its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// A turn when the transport is ready again, or at [`Connection::deadline`].
    Wait,
    /// Another turn, after the others had theirs.
    Again,
    /// To be dropped, for this reason.
    Close(CloseReason),
}

/// How soon a connection is closed when a newcomer needs its place: the smallest rank first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank {
    /// A connection that is being answered is closed after all that are not.
    is_being_answered: bool,
    /// Among those, the connection that has waited longest is closed first.
    since: Instant,
}

/// One client's connection.
pub struct Connection {
    peer: SocketAddr,
    state: State,
    progress: Progress,
}

enum State {
    /// Nothing has come yet.
    Fresh { since: Instant },
    /// All that came is answered.
    Idle { since: Instant },
    /// The beginning of a head has come. It has been searched, and holds no end of a head.
    Partial { head: Vec<u8>, began: Instant },
    /// Bytes have come with an earlier request, and have not been parsed. They may hold whole requests.
    Pending { input: Vec<u8>, since: Instant },
    /// An answer is being sent. It is on the heap, so that an idle connection need not have room for it.
    Writing(Box<Writing>),
    /// The last answer is sent, and the client may still be sending. If the connection were closed now,
    /// the kernel would answer what comes with a reset, which can destroy the answer on its way (RFC
    /// 9112 section 9.6).
    Lingering(Lingering),
}

/// What is left of an answer that did not fit the transport.
struct Writing {
    /// The rest of heads and small contents.
    bytes: Vec<u8>,
    /// The rest of a file's part, which comes after them.
    part: FilePart,
    /// Input that came with the request and has not been parsed.
    input: Vec<u8>,
    then: Then,
}

struct Lingering {
    /// When lingering began, or the client was last seen to take the answer.
    began: Instant,
    /// When the client last sent something.
    heard: Instant,
    discarded: usize,
}

/// What happens when an answer has been sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Persist,
    /// Close if the client has all and nothing more has come; else linger.
    Close,
    /// More is coming from the client, or may be.
    Linger,
}

/// Whether a client takes what it has been sent. The transport takes bytes in large steps, and takes the last ones of an
/// answer long before the client has them. So a steady reader is known by what it has acknowledged.
struct Progress {
    /// When it was last seen to take something.
    at: Instant,
    /// What it had not acknowledged when last asked, in bytes; the end of the stream counts as one.
    /// `None` if more has been sent since.
    unacknowledged: Option<u64>,
}

impl Progress {
    /// Notes that the transport has taken something.
    fn note_sent(&mut self, now: Instant) {
        *self = Self { at: now, unacknowledged: None };
    }

    /// Compares what is unacknowledged with the last time. Returns whether the client has taken something,
    /// or may have.
    fn compare(&mut self, unacknowledged: u64, now: Instant) -> bool {
        let before = self.unacknowledged.replace(unacknowledged);
        let has_taken = before.is_none_or(|before| unacknowledged < before);
        if has_taken {
            self.at = now;
        }
        has_taken
    }
}

/// What a step within a turn leads to.
enum Step {
    /// Another step.
    GoOn,
    /// The end of the turn.
    End(Next),
}

impl Connection {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(peer: SocketAddr, now: Instant) -> Self {
        // A dual-stack socket shows IPv4 addresses as `::ffff:…`. People write them plainly.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let progress = Progress { at: now, unacknowledged: Some(0) };
        Self { peer, state: State::Fresh { since: now }, progress }
    }

    /// The other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Works without blocking until the allowance is used up, and only then checks the deadline: after a suspend of the
    /// machine every deadline has passed, but requests may be waiting.
    pub fn turn<T: Transport>(&mut self, turn: &mut Turn<'_, T>) -> Next {
        match self.work(turn) {
            Next::Wait | Next::Again if turn.clock.now >= self.deadline() => self.expire(turn),
            next => next,
        }
    }

    /// When the connection wants a turn even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        match &self.state {
            State::Fresh { since } | State::Pending { since, .. } => *since + HEAD_PATIENCE,
            State::Partial { began, .. } => *began + HEAD_PATIENCE,
            State::Idle { since } if !self.is_being_answered() => {
                *since.max(&self.progress.at) + IDLE_PATIENCE
            }
            State::Lingering(Lingering { began, heard, discarded }) if !self.is_being_answered() => {
                let end = *began + MAX_LINGER;
                // Beyond the limit it is not known whether the client still sends.
                if *discarded < MAX_DISCARDED { end.min(*heard.max(began) + LINGER_PATIENCE) } else { end }
            }
            // The transport has taken all of an answer long before a slow reader has.
            State::Writing(_) | State::Idle { .. } | State::Lingering(_) => self.progress.at + STALL_PATIENCE,
        }
    }

    /// Whether the client is taking an answer, so that [`Connection::watch`] is to be called from time to time.
    #[must_use]
    pub fn is_being_answered(&self) -> bool {
        matches!(self.state, State::Writing(_)) || self.progress.unacknowledged != Some(0)
    }

    /// Notes whether the client has taken something. `unacknowledged` is that of the transport, and is called only if
    /// that matters.
    pub fn watch(&mut self, unacknowledged: impl FnOnce() -> u64, now: Instant) {
        if !self.is_being_answered() {
            return;
        }
        let has_taken = self.progress.compare(unacknowledged(), now);
        if let State::Lingering(lingering) = &mut self.state
            && has_taken
        {
            lingering.began = now;
        }
    }

    /// Since when nothing has happened that the connection waits for.
    fn waits_since(&self) -> Instant {
        match &self.state {
            State::Fresh { since } | State::Idle { since } | State::Pending { since, .. }
                if !self.is_being_answered() =>
            {
                *since
            }
            State::Partial { began, .. } if !self.is_being_answered() => *began,
            _ => self.progress.at,
        }
    }

    /// Whether the connection has waited for long enough to be closed if the server is short of something.
    #[must_use]
    pub fn is_stalled(&self, now: Instant) -> bool {
        now >= self.waits_since() + STALL_NOTICED
    }

    /// How soon the connection is closed when a newcomer needs its place; `None` if it should not be, because the
    /// client is taking an answer.
    #[must_use]
    pub fn rank(&self, now: Instant) -> Option<Rank> {
        let is_being_answered = self.is_being_answered();
        let can_be_closed = !is_being_answered || self.is_stalled(now);
        can_be_closed.then(|| Rank { is_being_answered, since: self.waits_since() })
    }

    /// How many bytes the connection keeps for itself.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.state {
            State::Partial { head, .. } => head.capacity(),
            State::Pending { input, .. } => input.capacity(),
            State::Writing(writing) => writing.bytes.capacity() + writing.input.capacity(),
            State::Fresh { .. } | State::Idle { .. } | State::Lingering(_) => 0,
        }
    }

    /// Prepares for the end of the server: closes a connection that waits for nothing.
    pub fn stop(&mut self, transport: &mut impl Transport, now: Instant) -> Next {
        let has_arrived = transport.unacknowledged() == 0;
        match self.state {
            State::Writing(_) | State::Pending { .. } => Next::Wait,
            _ if has_arrived => Next::Close(CloseReason::Stopping),
            State::Lingering(_) => Next::Wait,
            // The last answer is still on its way. When the process ends, so may the network namespace
            // of its container, and with it the socket's buffer.
            _ => match self.linger(transport, now) {
                Ok(()) => Next::Wait,
                Err(_) => Next::Close(CloseReason::Broken),
            },
        }
    }

    /// Works until the transport would block or the turn is over.
    fn work<T: Transport>(&mut self, turn: &mut Turn<'_, T>) -> Next {
        loop {
            match self.step(turn) {
                Ok(Step::GoOn) => {}
                Ok(Step::End(next)) => return next,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Wait,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Next::Close(CloseReason::Broken),
            }
        }
    }

    fn step<T: Transport>(&mut self, turn: &mut Turn<'_, T>) -> io::Result<Step> {
        match &mut self.state {
            State::Writing(writing) => {
                if !writing.send(&mut self.progress, turn)? {
                    return Ok(Step::End(Next::Again));
                }
                let (then, input) = (writing.then, std::mem::take(&mut writing.input));
                self.proceed(then, input, turn)
            }
            State::Lingering(lingering) => lingering.discard(turn),
            _ if turn.left.requests == 0 => Ok(Step::End(Next::Again)),
            _ => self.receive(turn),
        }
    }

    /// Acts upon the deadline, which has passed.
    fn expire<T: Transport>(&mut self, turn: &mut Turn<'_, T>) -> Next {
        self.watch(|| turn.transport.unacknowledged(), turn.clock.now);
        if turn.clock.now < self.deadline() {
            return Next::Wait;
        }
        let is_being_answered = self.is_being_answered();
        match &mut self.state {
            State::Fresh { .. } => Next::Close(CloseReason::Silent),
            State::Partial { head: input, .. } | State::Pending { input, .. } => {
                let rejection = request::timeout(input);
                match self.refuse(&rejection, turn) {
                    Ok(Step::End(next)) => next,
                    Ok(Step::GoOn) => self.work(turn),
                    Err(_) => Next::Close(CloseReason::Broken),
                }
            }
            State::Idle { .. } if !is_being_answered => Next::Close(CloseReason::Idle),
            State::Lingering(_) if !is_being_answered => Next::Close(CloseReason::DidNotClose),
            State::Writing(_) | State::Idle { .. } | State::Lingering(_) => Next::Close(CloseReason::Stalled),
        }
    }

    /// Reads, and answers all requests that are then complete.
    fn receive<T: Transport>(&mut self, turn: &mut Turn<'_, T>) -> io::Result<Step> {
        let now = turn.clock.now;
        match &mut self.state {
            State::Partial { head, began } => {
                let room = MAX_READ.min(MAX_INPUT - head.len());
                let count = turn.transport.read(&mut turn.buffers.input[..room])?;
                if count == 0 {
                    // RFC 9112 section 8: a message that is cut short need not be answered.
                    return self.leave(CloseReason::CutShort, turn);
                }
                let (mut head, began, searched) = (std::mem::take(head), *began, head.len());
                head.extend_from_slice(&turn.buffers.input[..count]);
                // A long head takes as much time as several requests.
                turn.left.pay(1);
                self.respond(head.into(), searched, began, turn)
            }
            State::Pending { input, .. } => {
                let input = std::mem::take(input);
                self.respond(input.into(), 0, now, turn)
            }
            _ => {
                // The shared buffer is taken, not borrowed, while the turn is passed on.
                let mut buffer = std::mem::take(&mut turn.buffers.input);
                let step = match turn.transport.read(&mut buffer) {
                    Ok(0) => self.leave(CloseReason::Left, turn),
                    Ok(count) => self.respond(buffer[..count].into(), 0, now, turn),
                    Err(error) => Err(error),
                };
                turn.buffers.input = buffer;
                step
            }
        }
    }

    /// Answers the requests in `input`, of which the first `searched` bytes have been parsed before. If there is not
    /// one whole request, keeps the beginning of the head, which began to come at `began`.
    fn respond<T: Transport>(
        &mut self,
        input: Cow<'_, [u8]>,
        mut searched: usize,
        began: Instant,
        turn: &mut Turn<'_, T>,
    ) -> io::Result<Step> {
        let registry = turn.registry;
        let (mut rest, mut storage) = (&*input, FieldStorage::default());
        loop {
            let (request, length) = match request::parse(rest, searched, &mut storage) {
                Ok(Some(parsed)) => parsed,
                Ok(None) if rest.len() == input.len() => {
                    self.state = State::Partial { head: input.into_owned(), began };
                    return Ok(Step::GoOn);
                }
                Ok(None) => return self.flush(FilePart::NONE, rest, Then::Persist, turn),
                Err(rejection) => return self.refuse(&rejection, turn),
            };
            (rest, searched) = (&rest[length..], 0);
            let answer = registry.answer(&request, &turn.vitals());
            turn.left.pay(cost(length, &answer.response.content));
            let persistence = if turn.is_stopping { Persistence::Close } else { request.persistence };
            let part = self.gather(Ok(&request), &answer, persistence, turn);
            if persistence == Persistence::Close {
                // RFC 9112 section 9.6: MUST NOT process what follows.
                let is_all = rest.is_empty() && !request.has_body;
                let then = if is_all { Then::Close } else { Then::Linger };
                return self.flush(part, &[], then, turn);
            }
            let is_enough = turn.buffers.output.len() >= MAX_GATHERED || turn.left.requests == 0;
            if rest.is_empty() || !part.is_empty() || is_enough {
                return self.flush(part, rest, Then::Persist, turn);
            }
        }
    }

    /// Answers bytes that are no request. What the client sends afterwards is not answered.
    fn refuse<T: Transport>(&mut self, rejection: &Rejection, turn: &mut Turn<'_, T>) -> io::Result<Step> {
        let answer = Registry::refuse(rejection);
        self.gather(Err(rejection), &answer, Persistence::Close, turn);
        self.flush(FilePart::NONE, &[], Then::Linger, turn)
    }

    /// Appends one answer to the output and records it. Returns the part of a file that follows.
    fn gather<T>(
        &self,
        request: Result<&Request<'_>, &Rejection>,
        answer: &Answer<'_>,
        persistence: Persistence,
        turn: &mut Turn<'_, T>,
    ) -> FilePart {
        let Answer { endpoint, response } = answer;
        turn.metrics.note_answer(*endpoint, response.status);
        let output = &mut turn.buffers.output;
        response.write_head(turn.clock.http_date(), persistence, output);
        if let Some(label) = answer.label() {
            turn.log.request(turn.clock.rfc3339(), &self.entry(label, request, answer, turn.log));
        }
        match &response.content {
            Content::Bytes(bytes) => {
                output.extend_from_slice(bytes);
                turn.metrics.content_bytes += bytes.len() as u64;
                FilePart::NONE
            }
            Content::File(part) => part.clone(),
        }
    }

    /// What the log has of an answer.
    fn entry<'a>(
        &self,
        label: &'a str,
        request: Result<&Request<'a>, &Rejection>,
        answer: &Answer<'_>,
        log: &Log,
    ) -> Entry<'a> {
        let Answer { endpoint, response } = answer;
        let (shown, user_agent) = match request {
            Ok(request) => ([request.method_name, request.target], request.field_lines("user-agent").next()),
            Err(rejection) => (["-", rejection.reason], None),
        };
        let explanation =
            if log.wants_explanations() { explain(request.ok(), *endpoint, response.status) } else { None };
        Entry {
            label,
            request: shown,
            status: response.status.code(),
            length: response.content.len(),
            peer: self.peer,
            user_agent: user_agent.unwrap_or_default(),
            explanation,
        }
    }

    /// Sends the output with `part` behind it, and keeps what does not fit. `input` is what came after
    /// the request. However it ends, the output is empty then: the next client must not receive it.
    fn flush<T: Transport>(
        &mut self,
        part: FilePart,
        input: &[u8],
        then: Then,
        turn: &mut Turn<'_, T>,
    ) -> io::Result<Step> {
        let output = &mut turn.buffers.output;
        let written = match turn.transport.write(output, !part.is_empty()) {
            Err(error) if is_passing(&error) => Ok(0),
            written => written,
        };
        let rest = written.map(|written| output[written..].to_vec());
        output.clear();
        let bytes = rest?;
        self.progress.note_sent(turn.clock.now);
        if bytes.is_empty() && part.is_empty() {
            return self.proceed(then, input.to_vec(), turn);
        }
        self.state = State::Writing(Box::new(Writing { bytes, part, input: input.to_vec(), then }));
        Ok(Step::GoOn)
    }

    /// Moves on when an answer has been sent. `input` is what came after the request.
    fn proceed<T: Transport>(
        &mut self,
        then: Then,
        input: Vec<u8>,
        turn: &mut Turn<'_, T>,
    ) -> io::Result<Step> {
        let now = turn.clock.now;
        match then {
            // If something has come, the kernel would answer the close with a reset.
            Then::Close if !turn.transport.may_have_input() && turn.transport.unacknowledged() == 0 => {
                return Ok(Step::End(Next::Close(CloseReason::LastAnswer)));
            }
            Then::Persist if !turn.is_stopping => {
                self.state = if input.is_empty() {
                    State::Idle { since: now }
                } else {
                    State::Pending { input, since: now }
                };
            }
            Then::Persist | Then::Close | Then::Linger => self.linger(turn.transport, now)?,
        }
        Ok(Step::GoOn)
    }

    /// Ends a connection whose client has stopped sending, when the client has all that was sent.
    fn leave<T: Transport>(&mut self, reason: CloseReason, turn: &mut Turn<'_, T>) -> io::Result<Step> {
        if turn.transport.unacknowledged() == 0 {
            return Ok(Step::End(Next::Close(reason)));
        }
        self.linger(turn.transport, turn.clock.now)?;
        Ok(Step::GoOn)
    }

    /// Says that nothing more comes, and goes on listening.
    fn linger(&mut self, transport: &mut impl Transport, now: Instant) -> io::Result<()> {
        while let Err(error) = transport.finish() {
            if error.kind() != ErrorKind::Interrupted {
                // No other error passes with time.
                return Err(ErrorKind::NotConnected.into());
            }
        }
        self.progress = Progress { at: now, unacknowledged: Some(transport.unacknowledged()) };
        self.state = State::Lingering(Lingering { began: now, heard: now, discarded: 0 });
        Ok(())
    }
}

impl Writing {
    /// Goes on sending. Returns whether all has been sent; if not, the turn is over.
    fn send<T: Transport>(&mut self, progress: &mut Progress, turn: &mut Turn<'_, T>) -> io::Result<bool> {
        let now = turn.clock.now;
        while !self.bytes.is_empty() {
            let count = turn.transport.write(&self.bytes, !self.part.is_empty())?;
            if count == 0 {
                // A transport that takes nothing and does not block would be asked forever.
                return Err(ErrorKind::WriteZero.into());
            }
            self.bytes.drain(..count);
            progress.note_sent(now);
        }
        while !self.part.is_empty() {
            if turn.left.bytes == 0 {
                return Ok(false);
            }
            let FilePart { file, range } = &mut self.part;
            let end = range.end.min(range.start + turn.left.bytes);
            let next = FilePart { file: *file, range: range.start..end };
            let count = turn.transport.write_file(&next)? as u64;
            if count == 0 {
                // The file has shrunk, which a sealed one cannot.
                return Err(ErrorKind::UnexpectedEof.into());
            }
            range.start += count;
            turn.left.bytes -= count;
            turn.metrics.content_bytes += count;
            progress.note_sent(now);
        }
        Ok(true)
    }
}

impl Lingering {
    /// Reads and forgets, until the client has taken the answer and stops sending.
    fn discard<T: Transport>(&mut self, turn: &mut Turn<'_, T>) -> io::Result<Step> {
        if self.discarded >= MAX_DISCARDED {
            return Ok(Step::End(Next::Wait));
        }
        let count = turn.transport.read(&mut turn.buffers.input)?;
        if count == 0 {
            let has_arrived = turn.transport.unacknowledged() == 0;
            let next = if has_arrived { Next::Close(CloseReason::LastAnswer) } else { Next::Wait };
            return Ok(Step::End(next));
        }
        self.discarded += count;
        self.heard = turn.clock.now;
        turn.left.bytes = turn.left.bytes.saturating_sub(count as u64);
        Ok(if turn.left.bytes == 0 { Step::End(Next::Again) } else { Step::GoOn })
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
