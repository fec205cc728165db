//! Listens, accepts connections, and pauses when no further connection can be accepted.
//!
//! Documents: accept(2), socket(7), tcp(7).
//!
//! Because the kernel reports a connection in the backlog only once ("edge-triggered"), the acceptor remembers the
//! report until an attempt to accept finds no connection.
//!
//! Limits: the backlog of connections, the unsent bytes of a socket, the pause, and the time between two log lines
//! about a shortage.
//!
//! Deliberately absent: the limit on the number of connections, which `server` enforces.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};

use crate::budget::RECEIVE_BUFFER;
use crate::system;

/// The maximum number of connections that wait to be accepted, which the system limits to `net.core.somaxconn`. With
/// std's 128, some of 200 simultaneous clients would wait for a second, until they retransmit their SYN.
const BACKLOG: i32 = 4096;

/// The number of unsent bytes above which the kernel takes no more bytes for one socket. This is enough to keep a link
/// busy until the next call. A stalled reader takes this much of the kernel's memory (see `budget`), so the number must
/// not be larger than necessary.
const UNSENT: i32 = 128 * 1024;

/// The number of seconds for which the kernel holds back a connection that has sent no data yet (tcp(7),
/// `TCP_DEFER_ACCEPT`). Because an honest client sends its request at once, the request is usually there when the
/// connection is accepted, and the server avoids a read that finds nothing. Such a read is a third of the cost of a
/// short connection. Apache httpd sets the option as well. If very many clients are silent, the kernel switches to SYN
/// cookies, and hands connections over at once. The price is that a client whose connection is held back does not
/// notice that the server exits, until it sends something and gets a reset.
const DEFERRED_SECONDS: i32 = 1;

/// The maximum number of connections that are accepted between two polls: some 10 ms of work. Accepting must keep up:
/// while 4,096 connections are in the backlog, the kernel drops further ones, and their clients try again only a second
/// later.
pub const ACCEPTS_PER_POLL: usize = 512;

/// How long accepting pauses after a connection could not be accepted. haproxy also waits 100 ms, whereas Go begins
/// with 5 ms and doubles the pause up to 1 s.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The time between two log lines about a shortage that lasts.
const SHORTAGE_LOGGED: Duration = Duration::from_secs(60);

/// Listens on `address`. Accepted connections inherit the options that are set here, so that no connection needs
/// further calls.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let options = [
        // Because the server uses MSG_MORE wherever more bytes follow, waiting for a full packet anywhere else would
        // only cause delay.
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT),
        (libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER),
        (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, DEFERRED_SECONDS),
    ];
    for (level, name, value) in options {
        // A system may lack one of these options, none of which is essential.
        let _ = system::set_option(listener.as_fd(), level, name, &value);
    }
    system::set_backlog(listener.as_fd(), BACKLOG)?;
    Ok(listener)
}

/// Limits the rate, in bytes per second, at which each connection that is accepted later can send (socket(7),
/// `SO_MAX_PACING_RATE`; Linux 3.13). Because the kernel waits only between packets, packets must be smaller than the
/// 64 KiB of the loopback device.
pub fn limit_rate(listener: &std::net::TcpListener, rate: u64) {
    let rate = i32::try_from(rate).unwrap_or(i32::MAX);
    let _ = system::set_option(listener.as_fd(), libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &rate);
    let _ = system::set_option(listener.as_fd(), libc::IPPROTO_TCP, libc::TCP_MAXSEG, &1400);
}

/// A listening socket, and whether to accept from it.
pub struct Acceptor {
    /// `None` once the server is stopping.
    listener: Option<TcpListener>,
    /// Whether there may be connections in the backlog.
    may_have_backlog: bool,
    /// The moment before which no connection is accepted.
    resume_at: Instant,
    /// When a shortage was last logged.
    logged_at: Option<Instant>,
}

impl Acceptor {
    /// Creates an acceptor, whose backlog may have connections already.
    pub fn new(listener: TcpListener, now: Instant) -> Self {
        Self { listener: Some(listener), may_have_backlog: true, resume_at: now, logged_at: None }
    }

    /// Notes that the kernel has reported a connection in the backlog.
    pub fn note_event(&mut self) {
        self.may_have_backlog = true;
    }

    /// Ends a pause, during which connections may have arrived.
    pub fn resume(&mut self, now: Instant) {
        (self.may_have_backlog, self.resume_at) = (true, now);
    }

    /// Closes the listener, whereupon the kernel resets the connections in the backlog.
    pub fn close(&mut self) {
        self.listener = None;
    }

    /// Returns when to accept next, or `None` if there is nothing to accept.
    pub fn accept_at(&self) -> Option<Instant> {
        (self.may_have_backlog && self.listener.is_some()).then_some(self.resume_at)
    }

    /// Stops accepting for `ACCEPT_PAUSE`. Returns whether the shortage must be logged.
    pub fn pause(&mut self, now: Instant) -> bool {
        self.resume_at = now + ACCEPT_PAUSE;
        let is_new = self.logged_at.is_none_or(|at| now >= at + SHORTAGE_LOGGED);
        if is_new {
            self.logged_at = Some(now);
        }
        is_new
    }

    /// Asks the kernel whether there is a connection in the backlog.
    pub fn refresh_backlog(&mut self) -> bool {
        self.may_have_backlog = self.listener.as_ref().is_some_and(|listener| system::is_acceptable(listener.as_fd()));
        self.may_have_backlog
    }

    /// Accepts a connection if there is one in the backlog.
    /// Fails if a connection cannot be accepted, usually because the system has no room for another.
    pub fn accept(&mut self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        let Some(listener) = self.listener.as_ref().filter(|_| self.may_have_backlog) else {
            return Ok(None);
        };
        match listener.accept() {
            Ok(accepted) => return Ok(Some(accepted)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.may_have_backlog = false,
            // The connection is gone, or a signal has interrupted the call.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            // Because Linux looks for a free descriptor first, this error does not mean that a connection is waiting.
            // If one is, `may_have_backlog` must stay true, because the kernel does not repeat the event.
            Err(error) => {
                if self.refresh_backlog() {
                    return Err(error);
                }
            }
        }
        Ok(None)
    }
}

/// Returns whether an error of [`Acceptor::accept`] is a shortage that closing a connection may relieve.
pub fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    error.raw_os_error().is_some_and(|number| shortages.contains(&number))
}
