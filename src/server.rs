//! The event loop: lets one thread serve thousands of clients, each when it has something to do.
//!
//! Documents: epoll(7), accept(2).
//!
//! If event loops are new to you, begin at [`Server::run`]. The kernel knows which of many sockets have something to
//! read or room to write. The loop polls the kernel, does for each of those clients what can be done without waiting,
//! and polls again. Only the poll waits, and at the end the last lines of the log.
//!
//! The kernel reports when a socket *becomes* ready, and does not report it again for the same bytes
//! ("edge-triggered"). So the loop must remember a client that it has not served to the end. Such a client waits in
//! the run queue (see `run_queue`). While the queue is not empty, the poll does not wait.
//!
//! Between two polls the loop does a bounded amount of work: it accepts some connections, and serves some light clients
//! and fewer heavy ones. That takes some tens of milliseconds at worst, or a hundred if hundreds of newcomers take a
//! whole layer each as fast as it is sent. So a newcomer is noticed soon, however many clients ask without end.
//!
//! Limits: how many connections there are, how much of heads and responses they hold, and how much their sockets queue:
//! see `budget`. When one of the first two is reached, connections are closed for others: see `clients`. So thousands
//! of clients that say nothing cannot keep out one that speaks. When the third is reached, readers are served in smaller
//! pieces. `connection` has the limits of each connection.
//!
//! Deliberately absent: threads. Everything is sent from memory, and one core does that at the speed of
//! memory (`cargo bench` measures it).

use std::io;
use std::mem::take;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::acceptor::{ACCEPTS_PER_POLL, Acceptor, is_shortage};
use crate::budget::{Budget, MAX_CONNECTIONS};
use crate::clients::{Client, Clients};
use crate::clock::Clock;
use crate::confinement;
use crate::connection::{Buffers, Connection, Next, Turn};
use crate::fault::{FLIPPED, Faults};
use crate::kinds::CloseReason;
use crate::log::{Log, LogWriter, counted};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::run_queue::{Allowance, HEAVY_TURNS_PER_POLL, LIGHT_TURNS_PER_POLL, Load, RunQueue};
use crate::socket::{Socket, SocketTransport};
use crate::system::{self, ResidentMemory, SealedFile, Signals};

/// Descriptors that are not connections': the standard three, epoll's, the listener's, the signals', the
/// terminal's, that of the resident memory, and one for each layer, of which there can be eight.
pub const RESERVED_DESCRIPTORS: usize = 16;

/// Returns how much memory the process itself must have, in bytes: for what connections keep, for their table (an
/// idle connection costs less than 600 bytes), and 4 MiB for turns, the log, and what lies unused between pieces of
/// memory. A process that gets no memory when it needs some aborts, so the server does not start with less.
#[must_use]
pub fn needed_memory(budget: &Budget) -> usize {
    budget.held + budget.connections * 640 + 4 * 1024 * 1024
}

/// How long transfers may go on after the first signal. Docker kills a container 10 s after the signal.
pub const GRACE: Duration = Duration::from_secs(8);

/// How many events a poll returns at most: all there can be, or a client would wait for several polls until its
/// event is returned.
const EVENTS_PER_POLL: usize = MAX_CONNECTIONS + 2;

/// For how long the server waits for signals alone when it could not wait for events.
const WAIT_PAUSE: Duration = Duration::from_millis(10);

/// After so many failures in a row, a second's worth, waiting for events is given up.
const MAX_FAILED_WAITS: u32 = 100;

/// The least time between two checks of all clients. So a deadline is noticed that much too late at worst.
const CHECK_PAUSE: Duration = Duration::from_millis(250);

/// The time between two checks while a client waits for memory: a reader that has just its guaranteed share then gets
/// up to 400 KB a second.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// How long the log waits to try again when nothing reads it.
const LOG_PAUSE: Duration = Duration::from_secs(1);

const LISTENER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);

/// A listening server, ready to run.
pub struct Server {
    registry: Registry,
    faults: Faults,
    layers: Vec<SealedFile>,
    poll: Poll,
    signals: Signals,
    acceptor: Acceptor,
    clients: Clients,
    budget: Budget,
    /// The clients that can do something now.
    run_queue: RunQueue<Token>,
    buffers: Buffers,
    clock: Clock,
    log: Log,
    log_writer: LogWriter,
    metrics: Metrics,
    /// When all clients are checked next.
    check_at: Option<Instant>,
    /// When a check was last for all clients, and not only for those that wait for memory.
    watched_at: Instant,
    /// When the sockets were last asked how much they have queued.
    measured_at: Instant,
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
        budget: Budget,
    ) -> io::Result<Self> {
        let mut listener = TcpListener::from_std(listener);
        let poll = poll(&mut listener, &signals).map_err(|error| cannot_wait(&error))?;
        let clock = Clock::start();
        let metrics = Metrics::new(&clock, ResidentMemory::open().ok());
        let log_writer = LogWriter::open(clock.now);
        // A server that can accept no client at all should say so now.
        listener.as_fd().try_clone_to_owned().map_err(|error| {
            let descriptors = system::raise_descriptor_limit();
            let message = format!("{descriptors} open files are too few to accept a client: {error}");
            io::Error::other(message)
        })?;
        Ok(Self {
            registry,
            faults: Faults::default(),
            layers,
            poll,
            signals,
            acceptor: Acceptor::new(listener, clock.now),
            clients: Clients::default(),
            budget,
            run_queue: RunQueue::default(),
            buffers: Buffers::default(),
            check_at: None,
            watched_at: clock.now,
            measured_at: clock.now,
            clock,
            log,
            log_writer,
            metrics,
            grace_ends: None,
            failed_waits: 0,
        })
    }

    /// Makes some responses wrong on purpose.
    ///
    /// # Errors
    ///
    /// If the system has no memory for the copies of the layers in which a byte is wrong.
    pub fn set_faults(&mut self, mut faults: Faults) -> io::Result<()> {
        self.metrics.faults = take(&mut faults.counts);
        faults.layers = self.layers.len();
        for index in 0..if faults.flips() { faults.layers } else { 0 } {
            self.layers.push(self.layers[index].with_zero_at(FLIPPED)?);
        }
        self.faults = faults;
        Ok(())
    }

    /// Drops the rights that serving does not need (see `confinement`). Where that is not allowed, the server
    /// serves with them, and logs it.
    pub fn confine(&mut self) {
        if let Err(error) = confinement::confine() {
            self.log
                .event(self.clock.rfc3339(), &format!("Cannot give up what serving does not need: {error}"));
        }
    }

    /// Serves until a signal comes. The first signal lets transfers finish. Returns `None` when they have
    /// finished or the grace is over, and the signal's number if a second one ends it.
    ///
    /// # Errors
    ///
    /// When waiting for events fails again and again, which only a bug could bring about.
    pub fn run(&mut self) -> io::Result<Option<u32>> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        loop {
            // 1. Wait until the kernel has something to report, or until something else is due. While clients
            //    are in the run queue, this does not wait.
            let mut is_signalled = self.wait(&mut events)?;
            // 2. Note what the kernel reports. A client that can go on is put into the run queue.
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
            // 4. Accept newcomers, some at a time.
            self.accept();
            // 5. Serve some of the clients in the run queue.
            self.give_turns();
            // 6. From time to time, check all clients, and queue those whose deadline has passed.
            if self.check_at.is_some_and(|at| at <= self.clock.now) {
                self.check();
            }
            // 7. When the server stops: end when all clients are gone, or their time is over.
            let is_over =
                self.grace_ends.is_some_and(|end| self.clients.count() == 0 || end <= self.clock.now);
            if is_over {
                self.log_writer.write_last(&mut self.log, &self.clock);
                return Ok(None);
            }
            // 8. Write the log if there is nothing else to do, or if it has waited for long.
            let is_idle = events.is_empty() && self.run_queue.is_empty();
            if is_idle || self.log_writer.is_due(self.clock.now) {
                self.log_writer.write(&mut self.log, &self.clock);
            }
        }
    }

    /// Waits for events. A wait that fails is repeated after a pause. Returns whether a signal has come in the
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

    /// Returns how long to wait for events; not at all while there is something to do, if only to write the log.
    /// So a busy server writes many lines at once, and polls once more before it goes to sleep.
    fn time_to_wait(&self) -> Option<Duration> {
        let now = self.clock.now;
        let log_at = self.log.is_waiting().then(|| now + LOG_PAUSE);
        let work_at = (!self.run_queue.is_empty() || self.log.is_new()).then_some(now);
        let at = [self.acceptor.accept_at(), log_at, work_at, self.check_at, self.grace_ends];
        let first = at.into_iter().flatten().min()?;
        Some(first.saturating_duration_since(now))
    }

    /// Notes what the kernel reports of a client's socket.
    fn note_event(&mut self, token: Token, event: &mio::event::Event) {
        if let Some(client) = self.clients.find(token) {
            client.socket.note_event(event);
            self.run_queue.enqueue(token, &mut client.load, self.clock.now);
        }
    }

    /// Accepts some of the connections that wait.
    fn accept(&mut self) {
        let mut has_evicted = false;
        for _ in 0..ACCEPTS_PER_POLL {
            if self.acceptor.accept_at().is_none_or(|at| at > self.clock.now) {
                return;
            }
            // Before a connection is closed for a newcomer, make sure that there is one.
            let is_full = self.clients.count() >= self.budget.connections;
            if is_full && self.acceptor.poll_backlog() {
                // One scan of all clients in a pass bounds its time.
                if has_evicted {
                    return;
                }
                has_evicted = self.make_places();
                if !has_evicted {
                    // All clients are being answered. There will be room when the first has been.
                    self.acceptor.pause(self.clock.now, &mut self.metrics);
                    return;
                }
            }
            match self.acceptor.accept(&mut self.metrics) {
                Ok(Some((stream, peer))) => self.admit(stream, peer),
                Ok(None) => {}
                Err(error) => {
                    if is_shortage(&error) {
                        self.make_places();
                    }
                    self.acceptor.pause(self.clock.now, &mut self.metrics);
                    if self.acceptor.is_news(self.clock.now) {
                        let event = format!("Cannot accept connections for now: {error}");
                        self.log.event(self.clock.rfc3339(), &event);
                    }
                }
            }
        }
    }

    /// Serves a newcomer, and then registers its socket. As a rule its request is there; and a client that wants only
    /// one response is gone before its socket is registered. No event is lost in between: the kernel reports what
    /// is there when the socket is registered.
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let connection = Connection::new(peer, self.clock.now);
        let client = Client { socket: Socket::new(stream), connection, load: Load::new(self.clock.now) };
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

    /// Serves some of the clients in the run queue.
    fn give_turns(&mut self) {
        let (mut light, mut heavy) = (LIGHT_TURNS_PER_POLL, HEAVY_TURNS_PER_POLL);
        while light > 0
            && let Some(token) = self.run_queue.next_light()
        {
            light -= usize::from(self.queued_turn(token));
        }
        while heavy > 0
            && let Some(token) = self.run_queue.next_heavy()
        {
            heavy -= usize::from(self.queued_turn(token));
        }
        if self.run_queue.len() > 2 * MAX_CONNECTIONS {
            self.run_queue.retain(|token| self.clients.find(*token).is_some());
        }
    }

    /// Serves a client that was taken from the run queue. Returns whether it is still connected.
    fn queued_turn(&mut self, token: Token) -> bool {
        let Some(client) = self.clients.find(token) else { return false };
        client.load.leave_queue();
        self.turn(token, Allowance::FULL);
        true
    }

    /// Runs a client's turn, and does what its connection wants next.
    fn turn(&mut self, token: Token, allowance: Allowance) {
        let (now, spare) = (self.clock.now, self.spare());
        let outcome = self.clients.update(token, |Client { socket, connection, load }| {
            let mut turn = Turn {
                transport: &mut SocketTransport::new(socket, &self.layers, spare),
                registry: &self.registry,
                faults: &mut self.faults,
                clock: &self.clock,
                log: &mut self.log,
                metrics: &mut self.metrics,
                buffers: &mut self.buffers,
                is_stopping: self.grace_ends.is_some(),
                left: allowance,
            };
            let next = connection.turn(&mut turn);
            load.note_turn(allowance.spent(turn.left), now);
            if next == Next::Again {
                self.run_queue.enqueue(token, load, now);
            }
            (next, check_at(connection, socket, now))
        });
        match outcome {
            Some((Next::Wait, at)) => self.plan_check(at),
            Some((Next::Close(reason), _)) => self.close(token, reason),
            Some((Next::Again, _)) | None => {}
        }
        self.bound_memory();
        if self.log.is_ample() {
            self.log_writer.write(&mut self.log, &self.clock);
        }
    }

    /// Keeps what connections hold below the budget, and asks the kernel what sockets have queued if that seems to be
    /// more than it may be.
    fn bound_memory(&mut self) {
        let now = self.clock.now;
        if self.clients.held() > self.budget.held {
            for token in self.clients.holders(now) {
                self.close(token, CloseReason::NoMemory);
                // Some more is freed than is needed now, or the next head would need another search.
                if self.clients.held() <= self.budget.held / 8 * 7 {
                    break;
                }
            }
        }
        // To ask all sockets takes a millisecond or two, so it is not done after every turn.
        if self.clients.queued() > self.budget.queued && now >= self.measured_at + SHORTAGE_PAUSE {
            self.clients.measure();
            self.measured_at = now;
        }
    }

    /// Closes connections for newcomers. Returns whether there were any that could be closed.
    fn make_places(&mut self) -> bool {
        // Some may have taken their answers since they were last asked.
        self.watch();
        let evictable = self.clients.evictable(self.clock.now);
        let is_any = !evictable.is_empty();
        for token in evictable {
            self.close(token, CloseReason::NoPlace);
        }
        is_any
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
        client.socket.close(reason == CloseReason::FaultReset);
    }

    /// Notes which clients take their answers.
    fn watch(&mut self) {
        for slot in self.clients.slots() {
            if let Some(Client { socket, connection, .. }) = self.clients.find(self.clients.token(slot)) {
                connection.watch(|| socket.unacknowledged(), self.clock.now);
            }
        }
    }

    /// Queues the clients that can go on, and plans the next check. What has arrived from a client is read before
    /// its deadline counts, even if the kernel has not been asked for it yet.
    fn check(&mut self) {
        self.check_at = None;
        self.bound_memory();
        let (now, spare) = (self.clock.now, self.spare());
        // While clients wait for memory, there are more checks. Those are for readers that read.
        let is_for_all = now >= self.watched_at + CHECK_PAUSE;
        if is_for_all {
            self.watched_at = now;
            self.watch();
        }
        for slot in self.clients.slots() {
            let token = self.clients.token(slot);
            let at = self.clients.update(token, |Client { socket, connection, load }| {
                let is_asked = is_for_all || !connection.is_stalled(now);
                if is_asked && socket.has_memory_again(spare) || connection.deadline() <= now {
                    socket.expect_input();
                    self.run_queue.enqueue(token, load, now);
                }
                check_at(connection, socket, now)
            });
            if let Some(at) = at {
                self.plan_check(at);
            }
        }
    }

    /// Returns how many bytes all sockets together may queue before each is limited to its guaranteed share.
    fn spare(&self) -> u64 {
        self.budget.queued.saturating_sub(self.clients.queued())
    }

    fn plan_check(&mut self, at: Instant) {
        self.check_at = Some(self.check_at.map_or(at, |planned| planned.min(at)));
    }

    /// Closes the listener and the connections that wait for nothing. The others have the grace to finish.
    fn stop(&mut self) {
        // When the listener is closed, the kernel resets the connections that wait to be accepted. They
        // came before the signal, so they are accepted first, up to the limit.
        self.acceptor.resume(self.clock.now);
        for _ in 0..=self.budget.connections / ACCEPTS_PER_POLL {
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
            // What has arrived before the signal is answered, even if the kernel has not been asked for it yet.
            if let Some(client) = self.clients.find(token) {
                client.socket.expect_input();
            }
            self.turn(token, Allowance::FULL);
            let outcome = self.clients.update(token, |Client { socket, connection, .. }| {
                let next =
                    connection.stop(&mut SocketTransport::new(socket, &self.layers, 0), self.clock.now);
                (next, check_at(connection, socket, self.clock.now))
            });
            match outcome {
                Some((Next::Close(reason), _)) => self.close(token, reason),
                Some((_, at)) => self.plan_check(at),
                None => {}
            }
        }
    }
}

/// Returns when a client is to be checked if nothing happens before.
fn check_at(connection: &Connection, socket: &Socket, now: Instant) -> Instant {
    if socket.is_short_of_memory() && !connection.is_stalled(now) {
        now + SHORTAGE_PAUSE
    } else if connection.is_being_answered() {
        now + CHECK_PAUSE
    } else {
        // No check is due sooner than the pause allows, however soon the deadline is.
        connection.deadline().max(now + CHECK_PAUSE)
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
