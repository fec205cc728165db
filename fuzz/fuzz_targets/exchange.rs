//! Sends any bytes, in any pieces, to a whole connection. The client must receive the same bytes as if everything had
//! arrived at once, and the connection must not buffer more than its limit.
//!
//! The lower half of the first byte of the input is the number of bytes that follow and describe the pieces. The upper
//! half selects the rules of `--fault`. The rest is what the client sends.
#![no_main]

mod served;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use quinistry::clock::Clock;
use quinistry::connection::{Buffers, Connection, Context, Next, Transport};
use quinistry::fault::Faults;
use quinistry::http::request::MAX_HEAD;
use quinistry::http::response::FilePart;
use quinistry::log::{Log, Requests};
use quinistry::metrics::Metrics;
use quinistry::run_queue::TURN_COST;
use quinistry::service::Service;
use served::{CLOCK, SERVED};

/// The rules of `--fault`. Half of a byte selects an entry.
const RULES: [&str; 16] = [
    "",
    "any=cut@every:2",
    "any=stall@first:2",
    "any=reset@every:3",
    "any=flip",
    "any=wrong-digest any=wrong-type",
    "any=no-length@every:2",
    "any=no-range",
    "any=redirect",
    "any=auth",
    "any=401@every:2 any=403@every:2",
    "any=404@every:2 any=429:1",
    "any=500@every:2 any=502",
    "any=503:1@every:2 any=504",
    "layer=503@first:1 layer=cut@first:1 index=reset",
    "blob=stall manifest=flip base=cut tags=wrong-type referrers=reset",
];

/// A transport that transfers at most `pieces[i]` squared bytes in its i-th call, cyclically. If the piece is 0, the
/// call blocks.
struct Pieces<'a> {
    input: &'a [u8],
    pieces: &'a [u8],
    calls: usize,
    output: Output,
}

/// What a client received. Copying and comparing parts of the layer would take most of the time, so the output has only
/// their positions and ranges.
#[derive(Default, PartialEq)]
struct Output {
    bytes: Vec<u8>,
    parts: Vec<(usize, FilePart)>,
}

impl Output {
    fn add_part(&mut self, part: FilePart) {
        let at = self.bytes.len();
        match self.parts.last_mut() {
            Some((last_at, last)) if *last_at == at && last.range.end == part.range.start => {
                last.range.end = part.range.end;
            }
            _ => self.parts.push((at, part)),
        }
    }
}

impl Pieces<'_> {
    fn next(&mut self, wanted: usize) -> io::Result<usize> {
        let piece = if self.pieces.is_empty() { u8::MAX } else { self.pieces[self.calls % self.pieces.len()] };
        self.calls += 1;
        match piece {
            // Only in every second call, or the connection would never continue.
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
        self.output.bytes.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write_file(&mut self, part: &FilePart) -> io::Result<usize> {
        let count = self.next(part.len() as usize)?;
        let range = part.range.start..part.range.start + count as u64;
        self.output.add_part(FilePart { range, ..part.clone() });
        Ok(count)
    }

    fn may_have_input(&self) -> bool {
        !self.input.is_empty()
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn unacknowledged(&self) -> u64 {
        0
    }
}

/// Returns everything that the client receives until the connection is closed.
fn receive(input: &[u8], pieces: &[u8], rules: &str, buffers: &mut Buffers) -> Output {
    let mut faults = Faults::default();
    faults.add(rules).expect("the rules are valid");
    let mut transport = Pieces { input, pieces, calls: 0, output: Output::default() };
    let (clock, log) = (Clock::at(CLOCK.now, Duration::ZERO), Log::new(Requests::Explained, false));
    let mut service = Service { site: &SERVED.site, faults, clock, log, metrics: Metrics::default() };
    let mut connection = Connection::new(SocketAddr::from(([127, 0, 0, 1], 1)), CLOCK.now);
    loop {
        let next = connection.turn(&mut Context {
            transport: &mut transport,
            service: &mut service,
            buffers,
            is_stopping: false,
            remaining: TURN_COST,
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
    let (input, rules) = (SERVED.with_digests(input), RULES[usize::from(count / 16)]);
    // Both connections use the same buffers, as in the server. The first must leave nothing in them.
    let mut buffers = Buffers::default();
    let in_pieces = receive(&input, pieces, rules, &mut buffers);
    assert!(in_pieces == receive(&input, &[], rules, &mut buffers), "the pieces change the output");
});
