//! Checks the health of a server, for the health check of the image.
//!
//! The endpoint is `/healthz`, as in Kubernetes' own servers. The server does not log successful checks (see `kinds`).
//!
//! Limits: 2 s to connect, and 2 s for each read of the response. In a container, the config of the image also makes
//! Docker end the check after 3 s.
//!
//! Deliberately absent: parsing the response, because the server is this program, and begins its response with
//! `HTTP/1.1 200` if it is healthy.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);

const REQUEST: &[u8] =
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUser-Agent: quinistry healthcheck\r\nConnection: close\r\n\r\n";

const EXPECTED: &[u8] = b"HTTP/1.1 200 ";

/// Requests `/healthz` from the server at `address`. Fails if the response is not a 200.
pub fn check(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // The request fits in the buffer of a new socket, so this write does not block.
    stream.write_all(REQUEST)?;
    let mut start = [0; EXPECTED.len()];
    stream.read_exact(&mut start).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    })?;
    if start == EXPECTED { Ok(()) } else { Err(io::Error::other("the response is not 200")) }
}
