//! The event loop: lets one thread serve thousands of clients, each when it has something to do.
//!
//! Documents: epoll(7), accept(2).
//!
//! A reader who has never seen an event loop may begin at [`Server::run`]. The idea is this. The kernel
//! can tell which of many sockets have something to read or room to write. The loop waits for that,
//! does for each of those clients what can be done without waiting, and waits again. Nothing but that
//! one wait blocks, until the last lines of the log are written.
//!
//! The kernel says when a socket *becomes* ready, and does not say it again for the same bytes
//! ("edge-triggered"). So the loop has to remember a client that it has not served to the end. Such a
//! client stands in one of two queues (see `turns`). While a queue is not empty, the loop asks the kernel
//! without waiting.
//!
//! Between two looks at the kernel the loop does a bounded amount of work: it accepts some connections, and
//! gives some turns to clients that ask little and fewer to clients that ask much. That takes some tens of
//! milliseconds at worst, or a hundred if hundreds of newcomers take a whole layer each as fast as it is sent.
//! So a newcomer is noticed soon, however many clients ask without end.
//!
//! Limits: the number of connections, which depends on the number of descriptors that the process may
//! have; and how much all connections together may keep in memory. When one of them is reached, a
//! connection gives way: the one that has waited longest without being answered, or else a reader that
//! has stopped reading (for want of memory, a reader that has unsent answers). So thousands of clients
//! that say nothing cannot keep out one that speaks. `connection` has the limits of each connection.
//!
//! Deliberately absent: threads. Everything is sent from memory, and one core does that at the speed of
//! memory (`cargo bench` measures it).

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::clients::{Client, Clients, MAX_CONNECTIONS, Socket};
use crate::clock::Clock;
use crate::confinement;
use crate::connection::{Allowance, Buffers, Connection, Next, Shortage, Transport, Turn};
use crate::http::response::FilePart;
use crate::kinds::CloseReason;
use crate::log::{Log, Stderr, counted};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::system::{self, ResidentMemory, SealedFile, Signals};
use crate::turns::{Share, Turns};

/// Descriptors that are not connections': the standard three, epoll's, the listener's, the signals', the
/// terminal's, that of the resident memory, and one for each layer, of which there can be eight.
pub const RESERVED_DESCRIPTORS: usize = 16;

/// The most bytes that all connections together may keep of incomplete heads and unsent answers. An
/// honest client needs such memory only while its packets are on their way.
pub const MAX_HELD: usize = 8 * 1024 * 1024;

/// How much memory there has to be for serving, in bytes: for what connections keep, for their table (see
/// [`MAX_CONNECTIONS`]), and 4 MiB for turns, the log, and what lies unused between pieces of memory. A process
/// that gets no memory when it needs some aborts, so the server does not start with less.
pub const MEMORY: usize = MAX_HELD + MAX_CONNECTIONS * 640 + MAX_HELD / 2;

/// How long transfers may go on after the first signal. Docker kills a container 10 s after the signal.
pub const GRACE: Duration = Duration::from_secs(8);

/// How many connections are asked at most whether they give way, for one that needs room.
const ASKED_TO_GIVE_WAY: usize = 16;

/// How many events are taken from the kernel at a time: all there can be, or a client would wait for
/// several looks until its event is seen.
const EVENTS_PER_LOOK: usize = MAX_CONNECTIONS + 2;

/// How many connections are accepted between two looks: some 10 ms of work. When 4,096 connections wait,
/// the kernel drops others, which try again a second later; so accepting must not fall behind.
const ACCEPTS_PER_LOOK: usize = 512;

/// How many clients that ask little have their turn between two looks. At least as many as are accepted,
/// because each of those may need another turn.
const LIGHT_TURNS_PER_LOOK: usize = 512;

/// How many clients that ask much have their turn between two looks: 5 ms of work if each of them takes a
/// whole layer, which a network rarely does.
const HEAVY_TURNS_PER_LOOK: usize = 32;

/// For how long no connection is accepted after the system had no room for one. Go begins with 5 ms
/// and doubles up to 1 s; haproxy waits 100 ms.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// For how long the server waits for signals alone when it could not wait for events.
const WAIT_PAUSE: Duration = Duration::from_millis(10);

/// After so many failures in a row, a second's worth, waiting for events is given up.
const MAX_FAILED_WAITS: u32 = 100;

/// A shortage that lasts is logged once in this time.
const SHORTAGE_LOGGED: Duration = Duration::from_secs(60);

/// The least time between two looks at all deadlines. So a deadline is noticed that much too late at worst.
const SWEEP_PAUSE: Duration = Duration::from_millis(250);

/// How long a line of the log waits at most while there are other things to do.
const LOG_DELAY: Duration = Duration::from_millis(10);

/// How long the log waits to try again when nothing reads it.
const LOG_PAUSE: Duration = Duration::from_secs(1);

const LISTENER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);

/// A listening server, ready to run.
pub struct Server {
    registry: Registry,
    layers: Vec<SealedFile>,
    poll: Poll,
    signals: Signals,
    acceptor: Acceptor,
    clients: Clients,
    /// The clients that can do something now.
    turns: Turns<Token>,
    buffers: Buffers,
    clock: Clock,
    log: Log,
    log_writer: LogWriter,
    metrics: Metrics,
    /// When deadlines are looked at next.
    sweep_at: Option<Instant>,
    /// When the grace ends; `None` if the server is not stopping.
    grace_ends: Option<Instant>,
    /// How many waits for events have failed in a row.
    failed_waits: u32,
}

impl Server {
    /// Puts a server together. `layers` are the files that the registry's answers refer to.
    ///
    /// # Errors
    ///
    /// When the system denies a descriptor, and when it has none left for a client.
    pub fn new(
        listener: std::net::TcpListener,
        signals: Signals,
        registry: Registry,
        layers: Vec<SealedFile>,
        log: Log,
    ) -> io::Result<Self> {
        let mut listener = TcpListener::from_std(listener);
        let poll = poll(&mut listener, &signals).map_err(|error| cannot_wait(&error))?;
        let descriptors = system::raise_descriptor_limit();
        let clock = Clock::start();
        let metrics = Metrics::new(&clock, ResidentMemory::open().ok());
        let log_writer = LogWriter { stderr: Stderr::open(), written_at: clock.now };
        // A server that can accept no client at all should say so now.
        listener.as_fd().try_clone_to_owned().map_err(|error| {
            let message = format!("{descriptors} open files are too few to accept a client: {error}");
            io::Error::other(message)
        })?;
        let limit = descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(1);
        Ok(Self {
            registry,
            layers,
            poll,
            signals,
            acceptor: Acceptor::new(listener, clock.now),
            clients: Clients::new(limit),
            turns: Turns::default(),
            buffers: Buffers::default(),
            clock,
            log,
            log_writer,
            metrics,
            sweep_at: None,
            grace_ends: None,
            failed_waits: 0,
        })
    }

    /// Gives up what serving does not need (see `confinement`). Where that is not allowed, the server
    /// serves without, and says so.
    pub fn confine(&mut self) {
        if let Err(error) = confinement::confine() {
            self.log
                .event(self.clock.rfc3339(), &format!("Cannot give up what serving does not need: {error}"));
        }
    }

    /// Serves until a signal comes. The first signal lets transfers finish. Gives nothing when they have
    /// finished or the grace is over, and the signal's number if a second one ends it.
    ///
    /// # Errors
    ///
    /// When waiting for events fails again and again, which only a bug could bring about.
    pub fn run(&mut self) -> io::Result<Option<u32>> {
        let mut events = Events::with_capacity(EVENTS_PER_LOOK);
        loop {
            // 1. Wait until the kernel has something to tell, or until something else is due. If clients
            //    stand in a queue, this only looks.
            let mut is_signalled = self.wait(&mut events)?;
            // 2. Note what the kernel says. A client that can go on is put into a queue.
            for event in &events {
                match event.token() {
                    LISTENER => self.acceptor.note_event(),
                    SIGNALS => is_signalled = true,
                    token => self.note_event(token, event),
                }
            }
            // 3. Obey signals: the first lets transfers finish, the second does not. The event says that a
            //    signal has come, even if its number cannot be read. Only the second's number matters.
            while is_signalled {
                let signal = self.signals.take();
                is_signalled = signal.is_some();
                if self.grace_ends.is_none() {
                    self.stop();
                } else if signal.is_some() {
                    self.log_writer.write_last(&mut self.log, &self.clock);
                    return Ok(signal);
                }
            }
            // 4. Let newcomers in, some at a time.
            self.accept();
            // 5. Give some clients a turn.
            self.give_turns();
            // 6. Now and then, queue the clients whose deadline has passed.
            if self.sweep_at.is_some_and(|at| at <= self.clock.now) {
                self.sweep();
            }
            // 7. When the server stops: end when all clients are gone, or their time is over.
            let is_over =
                self.grace_ends.is_some_and(|end| self.clients.count() == 0 || end <= self.clock.now);
            if is_over {
                self.log_writer.write_last(&mut self.log, &self.clock);
                return Ok(None);
            }
            // 8. Write the log if there is nothing else to do, or if it has waited for long.
            let is_idle = events.is_empty() && self.turns.is_empty();
            if is_idle || self.log_writer.is_due(self.clock.now) {
                self.log_writer.write(&mut self.log, &self.clock);
            }
        }
    }

    /// Waits for events. A wait that fails is repeated after a pause. Gives whether a signal has come in the
    /// pause.
    fn wait(&mut self, events: &mut Events) -> io::Result<bool> {
        let waited = self.poll.poll(events, self.time_to_wait());
        let is_signalled = match waited {
            Ok(()) => {
                self.failed_waits = 0;
                false
            }
            Err(error) if self.failed_waits == MAX_FAILED_WAITS => return Err(cannot_wait(&error)),
            // A signal that stops and continues the process interrupts the wait. No other error is known to
            // happen. None of them loses an event.
            Err(_) => {
                self.failed_waits += 1;
                self.signals.has_any(WAIT_PAUSE)
            }
        };
        self.clock.tick();
        Ok(is_signalled)
    }

    /// How long to wait for events; not at all while there is something to do, if only to write the log.
    /// So a busy server writes many lines at once, and looks once more before it goes to sleep.
    fn time_to_wait(&self) -> Option<Duration> {
        let now = self.clock.now;
        let log_at = self.log.is_waiting().then(|| now + LOG_PAUSE);
        let work_at = (!self.turns.is_empty() || self.log.is_new()).then_some(now);
        let at = [self.acceptor.accept_at(), log_at, work_at, self.sweep_at, self.grace_ends];
        let first = at.into_iter().flatten().min()?;
        Some(first.saturating_duration_since(now))
    }

    /// Notes what the kernel says of a client's socket.
    fn note_event(&mut self, token: Token, event: &mio::event::Event) {
        if let Some(client) = self.clients.find(token) {
            client.socket.is_readable |= event.is_readable();
            client.socket.may_read_short |= event.is_read_closed() || event.is_priority();
            self.turns.enqueue(token, &mut client.share, self.clock.now);
        }
    }

    /// Accepts some of the connections that wait.
    fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_LOOK {
            if self.acceptor.accept_at().is_none_or(|at| at > self.clock.now) {
                return;
            }
            // Before a connection is closed for a newcomer, make sure that there is one.
            let is_full = self.clients.count() >= self.clients.limit();
            if is_full && self.acceptor.is_anyone_waiting() && !self.make_room(Shortage::Places) {
                // All clients are being answered. There will be room when the first has been.
                self.acceptor.pause(self.clock.now, &mut self.metrics);
                return;
            }
            match self.acceptor.accept(self.clock.now, &mut self.metrics) {
                Ok(Some((stream, peer))) => self.admit(stream, peer),
                Ok(None) => {}
                Err(error) => {
                    self.make_room(Shortage::Places);
                    self.acceptor.pause(self.clock.now, &mut self.metrics);
                    if self.acceptor.is_news(self.clock.now) {
                        let event = format!("Cannot accept connections for now: {error}");
                        self.log.event(self.clock.rfc3339(), &event);
                    }
                }
            }
        }
    }

    /// Gives a newcomer its first turn, and then has the kernel watch its socket. The request is there, as a
    /// rule; if the client wants only one answer, it is gone before its socket is registered. No event is
    /// lost in between: if there is something to read when the socket is registered, the kernel says so.
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let connection = Connection::new(peer, self.clock.now);
        let client = Client { socket: Socket::new(stream), connection, share: Share::new(self.clock.now) };
        let token = self.clients.insert(client);
        self.turn(token, Allowance::FIRST);
        // Urgent data is input like any other (RFC 6093), but reads stop in front of it.
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        if let Some(client) = self.clients.find(token)
            && self.poll.registry().register(&mut client.socket.stream, token, interest).is_err()
        {
            // The kernel has no memory for it.
            self.close(token, CloseReason::NotWatched);
        }
    }

    /// Gives turns to some of the clients that stand in the queues.
    fn give_turns(&mut self) {
        let (mut light, mut heavy) = (LIGHT_TURNS_PER_LOOK, HEAVY_TURNS_PER_LOOK);
        while light > 0
            && let Some(token) = self.turns.next_light()
        {
            light -= usize::from(self.queued_turn(token));
        }
        while heavy > 0
            && let Some(token) = self.turns.next_heavy()
        {
            heavy -= usize::from(self.queued_turn(token));
        }
        if self.turns.len() > 2 * MAX_CONNECTIONS {
            self.turns.retain(|token| self.clients.find(*token).is_some());
        }
    }

    /// Gives a turn to a client that was taken from its queue. Tells whether the client is still there.
    fn queued_turn(&mut self, token: Token) -> bool {
        let Some(client) = self.clients.find(token) else { return false };
        client.share.leave_queue();
        self.turn(token, Allowance::FULL);
        true
    }

    /// Gives a client a turn, and does what its connection wants next.
    fn turn(&mut self, token: Token, allowance: Allowance) {
        let outcome = self.clients.with(token, |Client { socket, connection, share }| {
            let mut turn = Turn {
                transport: &mut ClientSocket { socket, layers: &self.layers },
                registry: &self.registry,
                clock: &self.clock,
                log: &mut self.log,
                metrics: &mut self.metrics,
                buffers: &mut self.buffers,
                is_stopping: self.grace_ends.is_some(),
                left: allowance,
            };
            let next = connection.turn(&mut turn);
            share.note_turn(allowance.spent(turn.left), self.clock.now);
            if next == Next::Again {
                self.turns.enqueue(token, share, self.clock.now);
            }
            (next, connection.deadline())
        });
        match outcome {
            Some((Next::Wait, deadline)) => self.plan_sweep(deadline),
            Some((Next::Close(reason), _)) => self.close(token, reason),
            Some((Next::Again, _)) | None => {}
        }
        while self.clients.held() > MAX_HELD && self.make_room(Shortage::Memory) {}
        if self.log.is_ample() {
            self.log_writer.write(&mut self.log, &self.clock);
        }
    }

    /// Closes the connection that gives way first, if one of the first few does.
    fn make_room(&mut self, shortage: Shortage) -> bool {
        for _ in 0..ASKED_TO_GIVE_WAY {
            let Some(token) = self.clients.first_to_give_way(shortage, self.clock.now) else { break };
            let Some(Client { socket, connection, .. }) = self.clients.find(token) else { break };
            let transport = ClientSocket { socket, layers: &self.layers };
            let reason = match shortage {
                Shortage::Memory => CloseReason::NoMemory,
                Shortage::Places if connection.yields(&transport, self.clock.now) => CloseReason::NoPlace,
                Shortage::Places => continue,
            };
            self.close(token, reason);
            return true;
        }
        false
    }

    fn close(&mut self, token: Token, reason: CloseReason) {
        let Some(client) = self.clients.remove(token) else { return };
        self.metrics.note_closed(reason);
        if let Some(explanation) = reason.explanation()
            && self.log.wants_requests()
        {
            let event = format!("Closing {}: {explanation}", client.connection.peer());
            self.log.event(self.clock.rfc3339(), &event);
        }
    }

    /// Queues the clients whose deadline has passed, and plans the next sweep. What has arrived from them
    /// is looked at before the deadline counts, even if the kernel has not been asked for it yet.
    fn sweep(&mut self) {
        self.sweep_at = None;
        for slot in self.clients.slots() {
            let token = self.clients.token(slot);
            let Some(client) = self.clients.find(token) else { continue };
            let deadline = client.connection.deadline();
            if deadline <= self.clock.now {
                client.socket.is_readable = true;
                self.turns.enqueue(token, &mut client.share, self.clock.now);
            } else {
                self.plan_sweep(deadline);
            }
        }
    }

    fn plan_sweep(&mut self, deadline: Instant) {
        // No sweep is due sooner than the pause allows, however soon the deadline is.
        let at = deadline.max(self.clock.now + SWEEP_PAUSE);
        self.sweep_at = Some(self.sweep_at.map_or(at, |planned| planned.min(at)));
    }

    /// Refuses new connections, closes those that wait for nothing, and gives the others their time.
    fn stop(&mut self) {
        // When the listener is closed, the kernel resets the connections that wait to be accepted. They
        // came before the signal, so they are accepted first, as far as there is room.
        self.acceptor.resume(self.clock.now);
        for _ in 0..=self.clients.limit() / ACCEPTS_PER_LOOK {
            self.accept();
        }
        self.grace_ends = Some(self.clock.now + GRACE);
        self.acceptor.close();
        let open = counted(self.clients.count() as u64, "connection");
        let seconds = GRACE.as_secs();
        let event =
            format!("Stopping: {open} open, up to {seconds} s to finish; a second signal ends it at once");
        self.log.event(self.clock.rfc3339(), &event);
        for slot in self.clients.slots() {
            let token = self.clients.token(slot);
            // What has arrived before the signal is answered.
            self.turn(token, Allowance::FULL);
            let outcome = self.clients.with(token, |Client { socket, connection, .. }| {
                let mut transport = ClientSocket { socket, layers: &self.layers };
                let next = connection.stop(&mut transport, self.clock.now);
                (next, connection.deadline())
            });
            match outcome {
                Some((Next::Close(reason), _)) => self.close(token, reason),
                Some((_, deadline)) => self.plan_sweep(deadline),
                None => {}
            }
        }
    }
}

/// The queue of events, with those of the listener and of signals.
fn poll(listener: &mut TcpListener, signals: &Signals) -> io::Result<Poll> {
    let poll = Poll::new()?;
    poll.registry().register(listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
    Ok(poll)
}

fn cannot_wait(error: &io::Error) -> io::Error {
    io::Error::other(format!("cannot wait for events: {error}"))
}

/// Accepts connections, and knows when that makes sense.
struct Acceptor {
    /// `None` once the server is stopping.
    listener: Option<TcpListener>,
    /// Whether connections may be waiting. The kernel says so once, and it stays so until an attempt finds
    /// none.
    may_wait: bool,
    /// No connection is accepted before this moment.
    resume_at: Instant,
    /// When a shortage was last logged.
    logged_at: Option<Instant>,
    /// How many attempts have failed in a row, for other reasons than a shortage.
    failures: usize,
}

impl Acceptor {
    fn new(listener: TcpListener, now: Instant) -> Self {
        Self { listener: Some(listener), may_wait: true, resume_at: now, logged_at: None, failures: 0 }
    }

    fn note_event(&mut self) {
        self.may_wait = true;
    }

    /// Ends a pause, and looks again whether connections wait.
    fn resume(&mut self, now: Instant) {
        (self.may_wait, self.resume_at) = (true, now);
    }

    fn close(&mut self) {
        self.listener = None;
    }

    /// When to accept next, if connections may be waiting.
    fn accept_at(&self) -> Option<Instant> {
        (self.may_wait && self.listener.is_some()).then_some(self.resume_at)
    }

    fn pause(&mut self, now: Instant, metrics: &mut Metrics) {
        self.resume_at = now + ACCEPT_PAUSE;
        metrics.pauses += 1;
    }

    /// Whether a shortage is to be logged. One that lasts is logged only now and then.
    fn is_news(&mut self, now: Instant) -> bool {
        let is_news = self.logged_at.is_none_or(|at| now >= at + SHORTAGE_LOGGED);
        if is_news {
            self.logged_at = Some(now);
        }
        is_news
    }

    /// Whether a connection waits to be accepted, as the kernel says now.
    fn is_anyone_waiting(&mut self) -> bool {
        self.may_wait =
            self.listener.as_ref().is_some_and(|listener| system::is_acceptable(listener.as_fd()));
        self.may_wait
    }

    /// Accepts a connection, if one waits.
    ///
    /// # Errors
    ///
    /// When one waits and the system has no room for it.
    fn accept(&mut self, now: Instant, metrics: &mut Metrics) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        let Some(listener) = self.listener.as_ref().filter(|_| self.may_wait) else { return Ok(None) };
        match listener.accept() {
            Ok(accepted) => {
                self.failures = 0;
                metrics.accepted += 1;
                return Ok(Some(accepted));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.may_wait = false,
            // Linux looks for a free descriptor before it looks for a connection. The event does not
            // come again, so `may_wait` has to stay if there is a connection.
            Err(error) if is_shortage(&error) => {
                if self.is_anyone_waiting() {
                    return Err(error);
                }
            }
            // accept(2): an error of the connection that was to be accepted, such as ECONNABORTED or
            // EHOSTUNREACH, is to be treated as if there had been no connection. EINTR likewise. An error
            // that comes again and again is of another kind, and a pause keeps the loop from spinning.
            Err(_) => {
                self.failures += 1;
                if self.failures.is_multiple_of(ACCEPTS_PER_LOOK) {
                    self.pause(now, metrics);
                }
            }
        }
        Ok(None)
    }
}

/// EMFILE, ENFILE, ENOMEM, ENOBUFS.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    error.raw_os_error().is_some_and(|number| shortages.contains(&number))
}

/// Writes the log to standard error, not too often.
struct LogWriter {
    stderr: Stderr,
    written_at: Instant,
}

impl LogWriter {
    fn is_due(&self, now: Instant) -> bool {
        now >= self.written_at + LOG_DELAY
    }

    fn write(&mut self, log: &mut Log, clock: &Clock) {
        log.flush(clock.rfc3339(), &mut self.stderr);
        self.written_at = clock.now;
    }

    /// Writes the last lines. The reader of the log has a tenth of a second to make room for them.
    fn write_last(&mut self, log: &mut Log, clock: &Clock) {
        for _ in 0..10 {
            self.write(log, clock);
            if !log.is_waiting() {
                break;
            }
            self.stderr.wait(LOG_DELAY);
        }
    }
}

/// A client's socket, with the layers that may be sent through it.
struct ClientSocket<'a> {
    socket: &'a mut Socket,
    layers: &'a [SealedFile],
}

impl Transport for ClientSocket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Socket { stream, is_readable, may_read_short } = &mut *self.socket;
        if !*is_readable {
            return Err(ErrorKind::WouldBlock.into());
        }
        let result = stream.read(buffer);
        *is_readable = match &result {
            Ok(count) => *count == buffer.len() || *may_read_short,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        result
    }

    fn write(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        system::send(self.socket.stream.as_fd(), bytes, more)
    }

    fn write_file(&mut self, part: &FilePart) -> io::Result<usize> {
        self.layers[part.file].send(self.socket.stream.as_fd(), part.range.clone())
    }

    fn may_have_input(&self) -> bool {
        self.socket.is_readable
    }

    fn finish(&mut self) -> io::Result<()> {
        self.socket.stream.shutdown(Shutdown::Write)
    }

    fn unacknowledged(&self) -> u64 {
        system::unacknowledged(self.socket.stream.as_fd())
    }
}
