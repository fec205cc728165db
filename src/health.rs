//! An address to whether a registry answers there: what the image's health check runs.
//!
//! Document: distribution-spec, "Determining Support".
//!
//! Deliberately absent: doubt. Who is asked is the same program, on the same machine.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long connecting may take, and then the answer: 2 s in all, of the 3 that the image allows.
const PATIENCE: Duration = Duration::from_secs(1);

const REQUEST: &[u8] =
    b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nUser-Agent: quinistry healthcheck\r\nConnection: close\r\n\r\n";

const EXPECTED: &[u8; 13] = b"HTTP/1.1 200 ";

/// Asks the server that listens on `address` for `/v2/`.
///
/// # Errors
///
/// When it can't be reached, or doesn't answer 200 within 2 s.
pub fn check(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&reachable(address), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    let mut start = [0; EXPECTED.len()];
    match stream.read_exact(&mut start) {
        Ok(()) if start == *EXPECTED => Ok(()),
        Ok(()) => Err(io::Error::other("it answers something else than 200")),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
        Err(error) => Err(error),
    }
}

/// Where a server that listens on `address` can be reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    // A wildcard of either family takes IPv4. Field note: a container on a network without IPv6 has
    // no `::1` to ask, from Docker 17.04 to 25.
    let ip = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
    SocketAddr::new(ip, address.port())
}
