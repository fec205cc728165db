//! Asks a server whether it is well. The image's health check runs this.
//!
//! Document: none. `/healthz` is the name that Kubernetes' own servers have for such an endpoint. The
//! registry does not log it while it succeeds.
//!
//! Limit: 2 s for all of it, however slowly the other end talks.
//!
//! Deliberately absent: parsing the answer. The peer is this program, and its answer begins with
//! `HTTP/1.1 200` if it is well.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long connecting and the answer may take together. The image allows the check 3 s.
const PATIENCE: Duration = Duration::from_secs(2);

const REQUEST: &[u8] =
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUser-Agent: quinistry healthcheck\r\nConnection: close\r\n\r\n";

const EXPECTED: &[u8] = b"HTTP/1.1 200 ";

/// Asks the server at `address` for `/healthz`.
///
/// # Errors
///
/// When it cannot be reached, or does not answer 200 within 2 s.
pub fn check(address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    // So few bytes fit the buffer of a new socket: this does not wait.
    stream.write_all(REQUEST)?;
    let (mut start, mut length) = ([0; EXPECTED.len()], 0);
    while length < start.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut start[length..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => length += count,
            // A read that ran out of time, or that a signal ended. Time is looked at above.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    if start == EXPECTED { Ok(()) } else { Err(io::Error::other("the answer is not 200")) }
}
