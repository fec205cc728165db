//! Sockets and time: one thread, one event loop.
//!
//! Documents: epoll(7), accept(2), RFC 9112 section 9 as far as it is about sockets.
//!
//! One turn of the loop: wait until something can be done or is due; accept some connections; give
//! every connection that can do something one bounded turn; close what has run out of time. When
//! there is nothing to do, write the log. Nothing but the wait blocks, until all is over.
//!
//! Sockets are registered once, for reading and writing, and edge-triggered: the kernel says when
//! a socket *becomes* ready, and not again until it has been worked until it would block. Hence the
//! queue: whoever has not finished when its turn is over stands there, and the wait is then no wait.
//!
//! Limits: the number of connections, from the descriptors that the process may have, and how
//! much all of them together may keep in memory. When one is reached, whoever has waited longest
//! without a complete request is closed, so that thousands who say nothing cannot keep out one who
//! does. See `connection` for the limits of each.
//!
//! Deliberately absent: threads. Everything is sent from memory, which one core does at the speed of
//! memory: `cargo bench` tells.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::clock::Clock;
use crate::connection::{Buffers, Connection, Context, Next, Transport};
use crate::log::{Log, Stderr};
use crate::registry::Registry;
use crate::system::{self, SealedFile, Signals};

/// The most connections, however many descriptors there are: at 600 bytes each, 10 MB.
pub const MAX_CONNECTIONS: usize = 16 * 1024;

/// Descriptors that are not connections': the standard three, epoll's, the listener's, the
/// signals', the layer's, and as many again to be safe.
pub const RESERVED_DESCRIPTORS: usize = 16;

/// When all connections together keep more than this of incomplete heads and unsent answers, those
/// that do are closed, as if there were no room for them. An honest client needs some only while its
/// packets are on their way.
pub const MAX_HELD: usize = 8 * 1024 * 1024;

/// How many connections are accepted before those that exist have their turn: a millisecond's work.
const ACCEPTS_PER_TURN: usize = 64;

/// How long no connection is accepted after the system had no room for one. Go begins with 5 ms
/// and doubles up to 1 s; haproxy waits 100 ms.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Deadlines are looked after this often at most, which is as late as one can be missed.
const SWEEP_PAUSE: Duration = Duration::from_millis(250);

/// After how long a reader that takes nothing may have to make room.
pub const STALL_NOTICED: Duration = Duration::from_secs(1);

/// How long a line of the log waits at most while there are other things to do.
const LOG_DELAY: Duration = Duration::from_millis(10);

/// How long the log waits to try again if nobody reads it.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// How long transfers may go on after the first signal. Docker kills after 10 s.
pub const GRACE: Duration = Duration::from_secs(8);

/// How many events are taken from the kernel at a time. Those beyond come with the next turn.
const EVENTS_PER_TURN: usize = 256;

/// How many connections that might be closed are looked up at a time, so that a crowd at the door
/// costs a look at all clients only so often.
const LOOKED_UP: usize = 64;

const LISTENER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);

/// A listening server, ready to run.
pub struct Server {
    registry: Registry,
    layer: SealedFile,
    poll: Poll,
    signals: Signals,
    /// `None` once the server is stopping.
    listener: Option<TcpListener>,
    clients: Clients,
    /// Who can do something now, in the order of their turns.
    queue: VecDeque<Token>,
    buffers: Buffers,
    clock: Clock,
    log: Log,
    stderr: Stderr,
    /// When the log was last written.
    logged_at: Instant,
    /// Set by the listener's event, which comes once; cleared when there is nothing to accept.
    may_accept: bool,
    /// No connection is accepted before this moment.
    accept_from: Instant,
    /// When deadlines are looked after next.
    sweep_at: Option<Instant>,
    /// When the grace ends, if the server is stopping.
    grace_ends: Option<Instant>,
}

impl Server {
    /// Puts a server together.
    ///
    /// # Errors
    ///
    /// When the system denies a descriptor.
    pub fn new(
        listener: std::net::TcpListener,
        signals: Signals,
        registry: Registry,
        layer: SealedFile,
        log: Log,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::from_std(listener);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        poll.registry().register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
        let descriptors = system::raise_descriptor_limit();
        let limit = descriptors.saturating_sub(RESERVED_DESCRIPTORS).clamp(1, MAX_CONNECTIONS);
        let clock = Clock::start();
        Ok(Self {
            registry,
            layer,
            poll,
            signals,
            listener: Some(listener),
            clients: Clients::new(limit),
            queue: VecDeque::new(),
            buffers: Buffers::default(),
            accept_from: clock.now,
            logged_at: clock.now,
            clock,
            log,
            stderr: Stderr::open(),
            may_accept: true,
            sweep_at: None,
            grace_ends: None,
        })
    }

    /// Serves until a signal comes. The first lets transfers finish. Gives nothing when they have, or
    /// when the grace is over, and the number of the second signal if that ends it.
    ///
    /// # Errors
    ///
    /// When the event queue breaks, which only a bug could bring about.
    pub fn run(&mut self) -> io::Result<Option<u32>> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        loop {
            let mut is_signalled = false;
            match self.poll.poll(&mut events, self.patience()) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.clock.tick();
            for event in &events {
                match event.token() {
                    LISTENER => self.may_accept = true,
                    SIGNALS => is_signalled = true,
                    token => self.wake(token, event.is_readable(), event.is_read_closed()),
                }
            }
            while is_signalled && let Some(signal) = self.signals.take() {
                if self.grace_ends.is_some() {
                    self.write_last_of_log();
                    return Ok(Some(signal));
                }
                self.stop();
            }
            self.accept();
            for _ in 0..self.queue.len() {
                if let Some(token) = self.queue.pop_front() {
                    self.turn(token);
                }
            }
            while self.clients.held > MAX_HELD && self.make_room(Shortage::Memory) {}
            if self.sweep_at.is_some_and(|at| at <= self.clock.now) {
                self.sweep();
            }
            let is_over =
                self.grace_ends.is_some_and(|end| self.clients.count() == 0 || end <= self.clock.now);
            if is_over {
                self.write_last_of_log();
                return Ok(None);
            }
            let is_idle = events.is_empty() && self.queue.is_empty();
            if is_idle || self.clock.now >= self.logged_at + LOG_DELAY {
                self.write_log();
            }
        }
    }

    fn write_log(&mut self) {
        self.log.flush(self.clock.rfc3339(), &mut self.stderr);
        self.logged_at = self.clock.now;
    }

    /// Gives whoever reads the log a tenth of a second to make room for the rest of it.
    fn write_last_of_log(&mut self) {
        for _ in 0..10 {
            self.write_log();
            if !self.log.is_waiting() {
                break;
            }
            std::thread::sleep(LOG_DELAY);
        }
    }

    /// How long to wait for events: not at all while there is something to do, if only to log. So a
    /// busy server writes many lines at once, and looks once more before it goes to sleep.
    fn patience(&self) -> Option<Duration> {
        let now = self.clock.now;
        let accept_at = (self.may_accept && self.listener.is_some()).then_some(self.accept_from);
        let log_at = self.log.is_waiting().then(|| now + LOG_PAUSE);
        let work_at = (!self.queue.is_empty() || self.log.is_new()).then_some(now);
        let at = [accept_at, log_at, work_at, self.sweep_at, self.grace_ends].into_iter().flatten().min()?;
        Some(at.saturating_duration_since(now))
    }

    /// Notes what the kernel says of a socket, and puts its client into the queue.
    fn wake(&mut self, token: Token, is_readable: bool, is_read_closed: bool) {
        if let Some(client) = self.clients.find(token) {
            client.socket.is_readable |= is_readable;
            client.socket.is_read_closed |= is_read_closed;
            self.enqueue(token);
        }
    }

    fn enqueue(&mut self, token: Token) {
        if let Some(client) = self.clients.find(token)
            && !client.is_queued
        {
            client.is_queued = true;
            self.queue.push_back(token);
        }
    }

    fn accept(&mut self) {
        let mut errors = 0;
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.may_accept || self.clock.now < self.accept_from {
                return;
            }
            let Some(listener) = &self.listener else { return };
            if self.clients.count() >= self.clients.limit {
                // Nobody is to make room for nobody.
                if !system::is_acceptable(listener.as_fd()) {
                    self.may_accept = false;
                    return;
                }
                if !self.make_room(Shortage::Places) {
                    // Everyone is being answered. There will be room when the first has been.
                    self.accept_from = self.clock.now + ACCEPT_PAUSE;
                    return;
                }
            }
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.may_accept = false,
                // Linux looks for a free descriptor before it looks for a connection.
                Err(error) if is_shortage(&error) && !system::is_acceptable(listener.as_fd()) => {
                    self.may_accept = false;
                }
                // The event will not come again, so `may_accept` stays.
                Err(error) if is_shortage(&error) => {
                    self.make_room(Shortage::Places);
                    self.accept_from = self.clock.now + ACCEPT_PAUSE;
                    let event = format!("Cannot accept connections for now: {error}");
                    self.log.event(self.clock.rfc3339(), &event);
                }
                // accept(2): errors of the connection that was to be accepted, such as ECONNABORTED
                // and EHOSTUNREACH, are to be treated like none. EINTR likewise.
                Err(_) => errors += 1,
            }
        }
        // An error that persists is of another kind, whatever it is.
        if errors == ACCEPTS_PER_TURN {
            self.accept_from = self.clock.now + ACCEPT_PAUSE;
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let connection = Connection::new(peer, self.clock.now);
        let token = self.clients.insert(Client { socket: Socket::new(stream), connection, is_queued: false });
        // The request is there with the connection, as a rule. A client that wants one answer and no
        // more is never registered.
        self.turn(token);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Some(client) = self.clients.find(token)
            && self.poll.registry().register(&mut client.socket.stream, token, interest).is_err()
        {
            self.clients.remove(token); // The kernel has no memory for it.
        }
    }

    /// Closes the connection that has waited longest without a complete request, or else the one
    /// that has stalled longest, if there is any.
    fn make_room(&mut self, shortage: Shortage) -> bool {
        match self.clients.most_expendable(shortage, self.clock.now) {
            Some(token) => {
                self.clients.remove(token);
                true
            }
            None => false,
        }
    }

    fn turn(&mut self, token: Token) {
        if let Some(client) = self.clients.find(token) {
            client.is_queued = false;
        }
        self.with_client(token, |connection, socket, context| connection.turn(socket, context));
    }

    /// Lets something happen to a client, and deals with what it wants next.
    fn with_client(
        &mut self,
        token: Token,
        happen: impl FnOnce(&mut Connection, &mut LayerSocket<'_>, &mut Context<'_>) -> Next,
    ) {
        let Some(client) = self.clients.find(token) else { return };
        let mut socket = LayerSocket { socket: &mut client.socket, layer: &self.layer };
        let mut context = Context {
            registry: &self.registry,
            clock: &self.clock,
            log: &mut self.log,
            buffers: &mut self.buffers,
            stopping: self.grace_ends.is_some(),
        };
        let held = client.connection.held();
        let next = happen(&mut client.connection, &mut socket, &mut context);
        let (deadline, now_held) = (client.connection.deadline(), client.connection.held());
        self.clients.held = self.clients.held - held + now_held;
        match next {
            Next::Wait => self.look_after(deadline),
            Next::Again => self.enqueue(token),
            Next::Close => self.clients.remove(token),
        }
        if self.log.is_ample() {
            self.write_log();
        }
    }

    fn look_after(&mut self, deadline: Instant) {
        // No sweep is due sooner than the pause allows, however soon the deadline is.
        let at = deadline.max(self.clock.now + SWEEP_PAUSE);
        self.sweep_at = Some(self.sweep_at.map_or(at, |planned| planned.min(at)));
    }

    /// Lets every deadline that has passed take effect, and plans the next sweep.
    fn sweep(&mut self) {
        self.sweep_at = None;
        for place in self.clients.places() {
            let token = self.clients.token(place);
            self.with_client(token, |connection, socket, context| connection.expire(socket, context));
        }
    }

    /// Refuses new connections, lets go of idle ones, and gives the others their time.
    fn stop(&mut self) {
        // Who is at the door was let in by the kernel, and would be thrown out by it.
        self.may_accept = true;
        for _ in 0..=self.clients.limit / ACCEPTS_PER_TURN {
            self.accept();
        }
        self.grace_ends = Some(self.clock.now + GRACE);
        self.listener = None;
        let event = format!("Stopping: {} connections are open", self.clients.count());
        self.log.event(self.clock.rfc3339(), &event);
        for place in self.clients.places() {
            let token = self.clients.token(place);
            self.with_client(token, |connection, socket, context| {
                // What has arrived before the signal is answered.
                match connection.turn(socket, context) {
                    Next::Wait => connection.stop(socket, context.clock.now),
                    next => next,
                }
            });
        }
    }
}

/// EMFILE, ENFILE, ENOMEM, ENOBUFS.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    error.raw_os_error().is_some_and(|number| shortages.contains(&number))
}

struct Client {
    socket: Socket,
    connection: Connection,
    is_queued: bool,
}

/// What there is not enough of.
#[derive(Clone, Copy)]
enum Shortage {
    Places,
    /// Only closing a connection that holds some helps then.
    Memory,
}

/// All clients, by token. A token is a place and the number of its use, so that an event for a
/// connection that is closed does not reach the one that has its place now.
struct Clients {
    slots: Vec<Slot>,
    free: Vec<usize>,
    limit: usize,
    /// What all connections together keep in memory.
    held: usize,
    /// The most expendable connections when last looked, the first to go last, for each shortage. One
    /// that has been served since is out of place here, and its time shows that.
    expendable: [Vec<((bool, Instant), Token)>; 2],
}

struct Slot {
    uses: usize,
    client: Option<Client>,
}

const _: () = assert!(MAX_CONNECTIONS.is_power_of_two(), "or a token that wraps around changes its place");

impl Clients {
    fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), limit, held: 0, expendable: [Vec::new(), Vec::new()] }
    }

    fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The places where there may be a client.
    fn places(&self) -> Range<usize> {
        0..self.slots.len()
    }

    /// The token of whoever is, or comes next, at a place.
    fn token(&self, place: usize) -> Token {
        // The topmost bit stays clear of the tokens that are no client's.
        Token(self.slots[place].uses.wrapping_mul(MAX_CONNECTIONS).wrapping_add(place) & (usize::MAX >> 1))
    }

    fn place(&self, token: Token) -> Option<usize> {
        let place = token.0 % MAX_CONNECTIONS;
        (place < self.slots.len() && self.token(place) == token).then_some(place)
    }

    fn find(&mut self, token: Token) -> Option<&mut Client> {
        let place = self.place(token)?;
        self.slots[place].client.as_mut()
    }

    fn insert(&mut self, client: Client) -> Token {
        let place = self.free.pop().unwrap_or(self.slots.len());
        if place == self.slots.len() {
            self.slots.push(Slot { uses: 0, client: None });
        }
        self.slots[place].client = Some(client);
        self.token(place)
    }

    /// Closes a client's connection.
    fn remove(&mut self, token: Token) {
        let Some(place) = self.place(token) else { return };
        let slot = &mut self.slots[place];
        if let Some(client) = slot.client.take() {
            slot.uses = slot.uses.wrapping_add(1);
            self.held -= client.connection.held();
            self.free.push(place);
        }
    }

    /// Who is to be closed if there is not enough of something.
    fn most_expendable(&mut self, shortage: Shortage, now: Instant) -> Option<Token> {
        loop {
            while let Some((found, token)) = self.expendable[shortage as usize].pop() {
                if self.expendability(token, shortage, now) == Some(found) {
                    return Some(token);
                }
            }
            let tokens = self.places().map(|place| self.token(place));
            let mut found: Vec<_> =
                tokens.filter_map(|token| Some((self.expendability(token, shortage, now)?, token))).collect();
            if found.is_empty() {
                return None;
            }
            found.sort_unstable_by(|one, other| other.cmp(one));
            found.drain(..found.len().saturating_sub(LOOKED_UP));
            self.expendable[shortage as usize] = found;
        }
    }

    /// Whether, and how soon, a connection may be closed for want of something: the smallest goes
    /// first. That is who has waited longest without a complete request, and after all of those,
    /// who has taken nothing of an answer for longest.
    fn expendability(&self, token: Token, shortage: Shortage, now: Instant) -> Option<(bool, Instant)> {
        let connection = &self.slots[self.place(token)?].client.as_ref()?.connection;
        let (is_writing, since) = (connection.is_writing(), connection.since());
        let is_expendable = match shortage {
            Shortage::Places => !is_writing || now >= since + STALL_NOTICED,
            Shortage::Memory => connection.held() > 0,
        };
        is_expendable.then_some((is_writing, since))
    }
}

/// A socket, and what the kernel has said of it.
struct Socket {
    stream: TcpStream,
    /// Whether there may be something to read. The kernel says so once; it is known to be over when
    /// a read would block, or brings less than there was room for (epoll(7), question 9).
    is_readable: bool,
    /// Whether the other end has stopped writing. That is said once, too, maybe together with bytes:
    /// then a short read is not the last.
    is_read_closed: bool,
}

impl Socket {
    fn new(stream: TcpStream) -> Self {
        Self { stream, is_readable: true, is_read_closed: false }
    }
}

/// A client's socket with the layer that may be sent through it.
struct LayerSocket<'a> {
    socket: &'a mut Socket,
    layer: &'a SealedFile,
}

impl Transport for LayerSocket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Socket { stream, is_readable, is_read_closed } = &mut *self.socket;
        if !*is_readable {
            return Err(ErrorKind::WouldBlock.into());
        }
        let result = stream.read(buffer);
        *is_readable = match &result {
            Ok(count) => *count == buffer.len() || *is_read_closed,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        result
    }

    fn write(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        system::send(self.socket.stream.as_fd(), bytes, more)
    }

    fn write_layer(&mut self, part: Range<u64>) -> io::Result<usize> {
        self.layer.send(self.socket.stream.as_fd(), part)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.socket.stream.shutdown(std::net::Shutdown::Write)
    }

    fn unacknowledged(&self) -> u64 {
        system::unacknowledged(self.socket.stream.as_fd())
    }
}
