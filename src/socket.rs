//! Sends and receives through a client's socket, and bounds the bytes that the kernel queues for the socket.
//!
//! Documents: epoll(7), tcp(7).
//!
//! The transport reads only while there may be input, and sends only until the socket has used up its share of the
//! memory (see `budget`).
//!
//! Asking the kernel how many bytes are queued would cost a system call for each response. The transport therefore
//! keeps an upper bound: the last number that the kernel reported, plus the bytes sent since. It asks again only when
//! the bound leaves too little of the socket's share for the next packet, or when all sockets together come close to
//! their limit.
//!
//! Limits: the queued bytes, which `budget` bounds.
//!
//! Deliberately absent: the states of the connection (see `connection`).

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::AsFd;

use mio::event::Event;
use mio::net::TcpStream;

use crate::budget::GUARANTEED;
use crate::connection::Transport;
use crate::http::response::FilePart;
use crate::system::{self, SealedFile};

/// An estimate of the kernel's overhead for the bytes of one call.
const PACKET_OVERHEAD: u64 = 1024;

/// A client's socket, and what is known about it.
pub struct Socket {
    pub stream: TcpStream,
    /// Whether there may be something to read. Because the kernel reports input only once, this stays true until a read
    /// would block, or returns fewer bytes than the buffer has room for (epoll(7), question 9).
    is_readable: bool,
    /// Whether something may be left to read after a short read. This is so once the client has closed its side,
    /// because reading the end of the stream takes another read. The kernel reports the end only once, so this stays
    /// true.
    may_read_short: bool,
    /// An upper bound on the bytes that the kernel has queued.
    pub queued: u64,
    /// Whether bytes wait to be sent because the socket has used up its share of the memory.
    pub is_short_of_memory: bool,
}

impl Socket {
    /// Creates the socket of a connection that was just accepted. There may be something to read.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, is_readable: true, may_read_short: false, queued: 0, is_short_of_memory: false }
    }

    /// Notes what the kernel reports about the socket.
    pub fn note_event(&mut self, event: &Event) {
        self.is_readable |= event.is_readable();
        self.may_read_short |= event.is_read_closed();
    }

    /// Notes that there may be something to read, although the kernel has not reported it.
    pub fn expect_input(&mut self) {
        self.is_readable = true;
    }

    /// Asks the kernel how many bytes it has queued, and notes the answer.
    pub fn measure(&mut self) {
        self.queued = system::queued(self.stream.as_fd());
    }

    /// Returns whether the socket waits for memory and may now queue at least half of its guaranteed share, given that
    /// all sockets together may queue `spare` bytes more.
    pub fn has_memory_again(&self, spare: u64) -> bool {
        self.is_short_of_memory && limit(self.queued, spare) >= self.queued + GUARANTEED / 2
    }

    /// Returns how many of the sent bytes the client has not acknowledged.
    pub fn unacknowledged(&self) -> u64 {
        system::unacknowledged(self.stream.as_fd())
    }

    /// Closes the socket, with a reset if `wants_reset` is true, or if a response is in flight and the client has not
    /// acknowledged everything. Without the reset, the kernel would keep the queued bytes for minutes, counted towards
    /// no limit.
    pub fn close(self, wants_reset: bool, is_in_flight: bool) {
        if wants_reset || is_in_flight && self.unacknowledged() > 0 {
            system::reset_when_closed(self.stream.as_fd());
        }
    }
}

/// Returns how many bytes a socket may queue in all: the guaranteed share or `queued + spare`, whichever is more.
fn limit(queued: u64, spare: u64) -> u64 {
    GUARANTEED.max(queued + spare)
}

/// A client's socket, with the layers that can be sent through it.
pub struct SocketTransport<'a> {
    socket: &'a mut Socket,
    layers: &'a [SealedFile],
    /// The maximum number of bytes that this socket may queue.
    limit: u64,
}

impl<'a> SocketTransport<'a> {
    /// Creates a transport that may queue `spare` bytes more than the socket has queued now, and at least its
    /// guaranteed share in all.
    pub fn new(socket: &'a mut Socket, layers: &'a [SealedFile], spare: u64) -> Self {
        let limit = limit(socket.queued, spare);
        Self { socket, layers, limit }
    }

    /// Returns how many of `wanted` bytes may be sent now.
    /// Fails with `WouldBlock` if there is no room, or too little for a packet.
    fn room(&mut self, wanted: u64) -> io::Result<u64> {
        let Self { socket, limit, .. } = self;
        let least = wanted.min(GUARANTEED / 2);
        if socket.queued + least > *limit {
            socket.measure();
        }
        let room = limit.saturating_sub(socket.queued);
        socket.is_short_of_memory = room < least;
        if room < least { Err(ErrorKind::WouldBlock.into()) } else { Ok(room.min(wanted)) }
    }

    /// Adds the sent bytes to the upper bound of the queued bytes.
    fn note_sent(&mut self, sent: io::Result<usize>) -> io::Result<usize> {
        if let Ok(count) = sent {
            self.socket.queued += count as u64 + PACKET_OVERHEAD;
        }
        sent
    }
}

impl Transport for SocketTransport<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Socket { stream, is_readable, may_read_short, .. } = &mut *self.socket;
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
        let room = self.room(bytes.len() as u64)? as usize;
        let more = more && room == bytes.len();
        self.note_sent(system::send(self.socket.stream.as_fd(), &bytes[..room], more))
    }

    fn write_file(&mut self, part: &FilePart) -> io::Result<usize> {
        let room = self.room(part.len())?;
        let range = part.range.start..part.range.start + room;
        self.note_sent(self.layers[part.file].send(self.socket.stream.as_fd(), range))
    }

    fn may_have_input(&self) -> bool {
        self.socket.is_readable
    }

    fn finish(&mut self) -> io::Result<()> {
        self.socket.stream.shutdown(Shutdown::Write)
    }

    fn unacknowledged(&self) -> u64 {
        self.socket.unacknowledged()
    }
}
