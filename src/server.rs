//! Runs the event loop, in which one thread serves thousands of clients.
//!
//! Documents: epoll(7), accept(2).
//!
//! If event loops are new to you, begin at [`Server::run`]. The loop polls the kernel to learn which of many sockets
//! have something to read or room to write, does what it can for each of these clients without waiting, and polls
//! again. It waits nowhere else, except briefly at the end, for the last lines of the log. (`log` lists the writes that
//! can block.)
//!
//! Because the kernel reports only when a socket *becomes* ready, and does not report the same bytes again
//! ("edge-triggered"), the loop must remember a client whose work is not finished. Such a client waits in the run queue
//! (see `run_queue`), and as long as the queue is not empty, the poll does not wait.
//!
//! Between two polls, the loop does a bounded amount of work: it serves some light clients and fewer heavy clients, and
//! accepts some connections. It therefore notices a newcomer soon, however many clients send requests without end.
//!
//! Limits: the number of connections, the bytes of heads and responses that connections hold, and the bytes that
//! sockets queue (see `budget`). When one of the first two limits is reached, the server closes connections (see
//! `clients`), because thousands of silent clients must not keep out a client that sends a request. When the third
//! limit is reached, the server only sends responses in smaller pieces. `connection` has the limits of each connection.
//!
//! Deliberately absent: threads, because everything is sent from memory, and one core sends several gigabytes per
//! second (as `cargo bench` shows).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::acceptor::{ACCEPTS_PER_POLL, Acceptor, is_shortage};
use crate::budget::{Budget, GUARANTEED, MAX_CONNECTIONS};
use crate::clients::{Client, Clients};
use crate::confinement;
use crate::connection::{Buffers, Connection, Context, Next};
use crate::kinds::CloseReason;
use crate::log::counted;
use crate::run_queue::{LIGHT_TURNS_PER_POLL, Load, RunQueue, TURN_COST};
use crate::service::Service;
use crate::socket::{Socket, SocketTransport};
use crate::system::{SealedFile, Signals};

/// How long transfers may continue after the first signal: less than the 10 s after which Docker kills a container.
pub const GRACE: Duration = Duration::from_secs(8);

/// The maximum number of events that a poll returns: one for each client, one for the listener and one for the signals.
/// With room for fewer, the kernel would report some clients only at a later poll.
const EVENTS_PER_POLL: usize = MAX_CONNECTIONS + 2;

/// The time between two checks of all clients, and thus the maximum delay with which a deadline is noticed.
const CHECK_PAUSE: Duration = Duration::from_millis(250);

/// The time between two checks while a client waits for memory. It lets a reader that has only its guaranteed share
/// receive up to 320 KiB per second. A check of 16,384 such readers takes some 8 ms.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(25);

const _: () = assert!(
    ACCEPTS_PER_POLL <= LIGHT_TURNS_PER_POLL,
    "otherwise newcomers that need another turn would pile up in the run queue"
);

const LISTENER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);

/// A server that listens and is ready to run.
pub struct Server {
    service: Service,
    layers: Vec<SealedFile>,
    poll: Poll,
    signals: Signals,
    acceptor: Acceptor,
    clients: Clients,
    budget: Budget,
    /// The clients that can continue now.
    run_queue: RunQueue,
    buffers: Buffers,
    /// When all clients are checked next.
    check_at: Instant,
    /// When the grace period ends; `None` if the server is not stopping.
    grace_ends: Option<Instant>,
}

impl Server {
    /// Creates a server. `layers` are the files to which the responses of the site refer.
    /// Fails if the system denies a descriptor, or has no descriptor left for a client.
    pub fn new(
        listener: std::net::TcpListener,
        signals: Signals,
        service: Service,
        layers: Vec<SealedFile>,
        budget: Budget,
    ) -> io::Result<Self> {
        let mut listener = TcpListener::from_std(listener);
        let poll = new_poll(&mut listener, &signals).map_err(|error| cannot_wait(&error))?;
        let now = service.clock.now;
        // A server that can accept no client at all must not start.
        listener.as_fd().try_clone_to_owned().map_err(|error| {
            io::Error::other(format!("the limit on open files is too low to accept a client: {error}"))
        })?;
        Ok(Self {
            service,
            layers,
            poll,
            signals,
            acceptor: Acceptor::new(listener, now),
            clients: Clients::default(),
            budget,
            run_queue: RunQueue::default(),
            buffers: Buffers::default(),
            check_at: now,
            grace_ends: None,
        })
    }

    /// Drops the rights that serving does not need (see `confinement`), or logs that the system does not allow this.
    pub fn confine(&mut self) {
        if let Err(error) = confinement::confine() {
            self.service.log_event(format_args!("Serving without a system call filter: {error}"));
        }
    }

    /// Serves until a signal arrives, and then lets transfers finish. Returns `None` when all transfers have finished
    /// or [`GRACE`] is over, or the number of a second signal if this signal ends the server earlier. Fails if the
    /// server cannot wait for events, which only a bug could cause.
    pub fn run(&mut self) -> io::Result<Option<i32>> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        let second_signal = 'serving: loop {
            // 1. Wait until the kernel has something to report or something else is due.
            if let Err(error) = self.poll.poll(&mut events, self.time_to_wait())
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(cannot_wait(&error));
            }
            self.service.clock.tick();
            let mut is_signalled = false;
            // 2. Note what the kernel reports, and enqueue each client that can continue.
            for event in &events {
                match event.token() {
                    LISTENER => self.acceptor.note_event(),
                    SIGNALS => is_signalled = true,
                    token => self.note_event(token, event),
                }
            }
            // 3. Act on signals: the first lets transfers finish, and the second ends the server. The event shows that
            //    a signal has arrived even if its number cannot be read, and only the number of the second signal
            //    matters.
            while is_signalled {
                let signal = self.signals.take();
                is_signalled = signal.is_some();
                if self.grace_ends.is_none() {
                    self.stop();
                } else if signal.is_some() {
                    break 'serving signal;
                }
            }
            // 4. Serve some of the clients in the run queue.
            self.serve();
            // 5. Accept some newcomers.
            self.accept();
            // 6. From time to time, check all clients, and queue the clients whose deadline has passed.
            if self.check_at <= self.now() {
                self.check();
            }
            // 7. While the server is stopping: end when all clients are gone or the grace period is over.
            let is_over = self.grace_ends.is_some_and(|end| self.clients.count() == 0 || end <= self.service.clock.now);
            if is_over {
                break None;
            }
            // 8. Write the log.
            let is_idle = events.is_empty() && self.run_queue.is_empty();
            self.service.log.write(&self.service.clock, is_idle);
        };
        self.service.log.write_last(&self.service.clock);
        Ok(second_signal)
    }

    fn now(&self) -> Instant {
        self.service.clock.now
    }

    /// Returns how long to wait for events, or `None` to wait until one arrives. The time is zero while there is
    /// something to do, such as writing the log.
    fn time_to_wait(&self) -> Option<Duration> {
        let now = self.now();
        let log_at = self.service.log.due_at(now);
        let work_at = (!self.run_queue.is_empty()).then_some(now);
        let check_at = (self.clients.count() > 0).then_some(self.check_at);
        let at = [self.acceptor.accept_at(), log_at, work_at, check_at, self.grace_ends];
        let first = at.into_iter().flatten().min()?;
        Some(first.saturating_duration_since(now))
    }

    /// Notes what the kernel reports about a client's socket.
    fn note_event(&mut self, token: Token, event: &mio::event::Event) {
        self.clients.update(token, |Client { socket, load, .. }| {
            socket.note_event(event);
            self.run_queue.enqueue(token, load, self.service.clock.now);
        });
    }

    /// Accepts some of the connections in the backlog.
    fn accept(&mut self) {
        let mut has_evicted = false;
        for _ in 0..ACCEPTS_PER_POLL {
            if self.acceptor.accept_at().is_none_or(|at| at > self.now()) {
                return;
            }
            // No connection is evicted unless a newcomer is waiting.
            let is_full = self.clients.count() >= self.budget.connections;
            if is_full && self.acceptor.refresh_backlog() {
                // One scan of all clients between two polls is enough.
                if has_evicted {
                    return;
                }
                has_evicted = self.make_places();
                if !has_evicted {
                    return self.pause_accepting("all connections have a response in flight");
                }
            }
            match self.acceptor.accept() {
                Ok(Some((stream, peer))) => self.admit(stream, peer),
                Ok(None) => {}
                Err(error) => {
                    if is_shortage(&error) {
                        self.make_places();
                    }
                    self.pause_accepting(&error.to_string());
                }
            }
        }
    }

    fn pause_accepting(&mut self, reason: &str) {
        self.service.metrics.pauses += 1;
        if self.acceptor.pause(self.now()) {
            self.service.log_event(format_args!("Cannot accept connections for now: {reason}"));
        }
    }

    /// Serves a newcomer, and only then registers its socket. The request has usually arrived already. A client on this
    /// machine that wants only one response is often gone by then, and its socket need not be registered. No event is
    /// lost, because the kernel reports earlier input when a socket is registered.
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        self.service.metrics.accepted += 1;
        let connection = Connection::new(peer, self.now());
        let client = Client { socket: Socket::new(stream), connection, load: Load::new(self.now()) };
        let token = self.clients.insert(client);
        self.turn(token);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self
            .clients
            .update(token, |client| self.poll.registry().register(&mut client.socket.stream, token, interest));
        if let Some(Err(_)) = registered {
            // The kernel has no memory for the registration.
            self.close(token, CloseReason::NotWatched);
        }
    }

    /// Serves some of the clients in the run queue.
    fn serve(&mut self) {
        for token in self.run_queue.next_batch() {
            self.clients.update(token, |client| client.load.is_queued = false);
            self.turn(token);
        }
    }

    /// Runs a turn of a client, and does what its connection wants next.
    fn turn(&mut self, token: Token) {
        let (now, spare) = (self.now(), self.spare());
        let next = self.clients.update(token, |Client { socket, connection, load }| {
            let mut context = Context {
                transport: &mut SocketTransport::new(socket, &self.layers, spare),
                service: &mut self.service,
                buffers: &mut self.buffers,
                is_stopping: self.grace_ends.is_some(),
                remaining: TURN_COST,
            };
            let next = connection.turn(&mut context);
            load.note_turn(TURN_COST - context.remaining, now);
            if next == Next::Again {
                self.run_queue.enqueue(token, load, now);
            }
            if socket.is_short_of_memory {
                self.check_at = self.check_at.min(now + SHORTAGE_PAUSE);
            }
            next
        });
        if let Some(Next::Close(reason)) = next {
            self.close(token, reason);
        }
        if self.clients.held > self.budget.held {
            self.release_memory();
        }
        self.service.log.write(&self.service.clock, false);
    }

    /// Closes connections until the others hold at most 7/8 of the budget, because without this margin, the next head
    /// would cause another scan.
    fn release_memory(&mut self) {
        for token in self.clients.holders(self.now()) {
            if self.clients.held <= self.budget.held / 8 * 7 {
                break;
            }
            self.close(token, CloseReason::NoMemory);
        }
    }

    /// Closes connections to make room for newcomers. Returns whether there were connections to close.
    fn make_places(&mut self) -> bool {
        // Some clients may have taken their responses since the last check.
        let now = self.now();
        self.clients.for_each(|_, Client { socket, connection, .. }| {
            connection.watch(|| socket.unacknowledged(), now);
        });
        let evictable = self.clients.evictable(now);
        let is_any = !evictable.is_empty();
        for token in evictable {
            self.close(token, CloseReason::NoPlace);
        }
        is_any
    }

    fn close(&mut self, token: Token, reason: CloseReason) {
        let Some(client) = self.clients.remove(token) else { return };
        self.run_queue.remove(token, &client.load);
        self.service.metrics.note_closed(reason);
        if let Some(text) = reason.text()
            && self.service.log.wants_requests()
        {
            let event = format_args!("Closing {}: {text}", client.connection.peer);
            self.service.log_event(event);
        }
        client.socket.close(reason == CloseReason::FaultReset, client.connection.is_in_flight());
    }

    /// Queues the clients whose deadline has passed, and those that have waited for memory and can continue. Input that
    /// has arrived, reported by the kernel or not, is read before the deadline of its client is enforced.
    fn check(&mut self) {
        let now = self.now();
        if self.spare() < GUARANTEED {
            self.clients.measure();
        }
        self.check_at = now + CHECK_PAUSE;
        let spare = self.spare();
        self.clients.for_each(|token, Client { socket, connection, load }| {
            connection.watch(|| socket.unacknowledged(), now);
            if socket.has_memory_again(spare) || connection.deadline() <= now {
                socket.expect_input();
                self.run_queue.enqueue(token, load, now);
            }
            if socket.is_short_of_memory {
                self.check_at = now + SHORTAGE_PAUSE;
            }
        });
    }

    /// Returns how many more bytes all sockets together may queue before each is limited to its guaranteed share.
    fn spare(&self) -> u64 {
        self.budget.queued.saturating_sub(self.clients.queued)
    }

    /// Closes the listener, and queues all clients. In its turn, a connection without a response in flight is closed,
    /// while the others have [`GRACE`] to finish.
    fn stop(&mut self) {
        // When the listener is closed, the kernel resets the connections in the backlog. Because these arrived before
        // the signal, the server first accepts as many of them as it can, and may close idle connections for them.
        self.acceptor.resume(self.now());
        for _ in 0..=self.budget.connections / ACCEPTS_PER_POLL {
            self.accept();
        }
        self.grace_ends = Some(self.now() + GRACE);
        self.acceptor.close();
        let (open, seconds) = (counted(self.clients.count() as u64, "connection"), GRACE.as_secs());
        let end = "a second signal ends the server at once";
        self.service.log_event(format_args!("Stopping: {open} open, up to {seconds} s to finish; {end}"));
        // Requests that arrived before the signal receive a response even if their events have not been reported. The
        // exception is a connection that is still sending a response: this response is then its last.
        self.clients.for_each(|token, Client { socket, load, .. }| {
            socket.expect_input();
            self.run_queue.enqueue(token, load, self.service.clock.now);
        });
    }
}

/// Creates the queue of events, and registers the listener and the signals.
fn new_poll(listener: &mut TcpListener, signals: &Signals) -> io::Result<Poll> {
    let poll = Poll::new()?;
    poll.registry().register(listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
    Ok(poll)
}

fn cannot_wait(error: &io::Error) -> io::Error {
    io::Error::other(format!("cannot wait for events: {error}"))
}
