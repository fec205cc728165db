//! Checks the health of a server, for the health check of the image.
//!
//! Document: none. Kubernetes' own servers use the name `/healthz` for such an endpoint. The registry does not log
//! successful checks.
//!
//! Limit: 2 s for the whole check, however slowly the server sends.
//!
//! Deliberately absent: parsing the response. The server is this program, and a healthy server's response begins with
//! `HTTP/1.1 200`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The time for the connection and the response together. The image allows 3 s for the check.
const PATIENCE: Duration = Duration::from_secs(2);

const REQUEST: &[u8] =
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUser-Agent: quinistry healthcheck\r\nConnection: close\r\n\r\n";

const EXPECTED: &[u8] = b"HTTP/1.1 200 ";

/// Requests `/healthz` from the server at `address`. Fails if the response is not a 200, or takes more than 2 s.
pub fn check(address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    // The request fits the buffer of a new socket, so this write does not block.
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
            // The read timed out, or a signal interrupted it. The loop checks the deadline.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    if start == EXPECTED { Ok(()) } else { Err(io::Error::other("the response is not 200")) }
}
