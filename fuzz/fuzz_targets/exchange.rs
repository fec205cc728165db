//! Any bytes, in any pieces, to a whole connection: the client receives what it would have received
//! had they come at once, and the connection keeps no more than it may.
//!
//! The first bytes of the input decide about the pieces; the rest is what the client sends.
#![no_main]

mod served;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use quinistry::clock::Clock;
use quinistry::connection::{Allowance, Buffers, Connection, Next, Transport, Turn};
use quinistry::http::request::MAX_HEAD;
use quinistry::http::response::FilePart;
use quinistry::log::Log;
use served::SERVED;

/// A transport that moves at most `pieces[i]` bytes in its i-th call, round and round; 0 blocks.
struct Pieces<'a> {
    input: &'a [u8],
    pieces: &'a [u8],
    calls: usize,
    output: Vec<u8>,
}

impl Pieces<'_> {
    fn next(&mut self, wanted: usize) -> io::Result<usize> {
        let piece =
            if self.pieces.is_empty() { u8::MAX } else { self.pieces[self.calls % self.pieces.len()] };
        self.calls += 1;
        match piece {
            // Not for ever: a transport that only blocks would prove nothing.
            0 if self.calls % 2 == 0 => Err(ErrorKind::WouldBlock.into()),
            u8::MAX => Ok(wanted),
            piece => Ok(wanted.min(usize::from(piece).pow(2).max(1))),
        }
    }
}

impl Transport for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!buffer.is_empty());
        let count = self.next(buffer.len().min(self.input.len()))?;
        let (now, later) = self.input.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.input = later;
        Ok(count)
    }

    fn write(&mut self, bytes: &[u8], _more: bool) -> io::Result<usize> {
        let count = self.next(bytes.len())?;
        self.output.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write_file(&mut self, part: &FilePart) -> io::Result<usize> {
        let count = self.next(part.len() as usize)?;
        self.output.extend_from_slice(&SERVED.layer(part)[..count]);
        Ok(count)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn unacknowledged(&self) -> u64 {
        0
    }
}

/// Everything the client receives until the connection closes.
fn receive(input: &[u8], pieces: &[u8]) -> Vec<u8> {
    let mut transport = Pieces { input, pieces, calls: 0, output: Vec::new() };
    let clock = Clock::at(Instant::now(), Duration::ZERO);
    let (mut log, mut buffers) = (Log::new(true), Buffers::default());
    let mut connection = Connection::new(SocketAddr::from(([127, 0, 0, 1], 1)), clock.now);
    loop {
        let next = connection.turn(&mut Turn {
            transport: &mut transport,
            registry: &SERVED.registry,
            clock: &clock,
            log: &mut log,
            buffers: &mut buffers,
            is_stopping: false,
            left: Allowance::FULL,
        });
        assert!(connection.held() <= 4 * MAX_HEAD, "it holds {} bytes", connection.held());
        if let Next::Close(_) = next {
            return transport.output;
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&count, rest)) = bytes.split_first() else { return };
    let (pieces, input) = rest.split_at(rest.len().min(usize::from(count % 16)));
    let input = SERVED.with_digests(input);
    assert!(receive(&input, pieces) == receive(&input, &[]), "the pieces make a difference");
});
