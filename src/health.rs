//! An address to whether a registry answers there: what the image's health check runs.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long the whole check may take. The image allows its health check 3 s.
const PATIENCE: Duration = Duration::from_secs(2);

const REQUEST: &[u8] =
    b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nUser-Agent: quinistry healthcheck\r\nConnection: close\r\n\r\n";

/// Asks the server that listens on `address` for `/v2/`.
///
/// # Errors
///
/// When it can't be reached, or doesn't answer 200 within 2 s.
pub fn check(address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let left = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(Some(left)),
    };
    let mut stream = TcpStream::connect_timeout(&reachable(address), PATIENCE)?;
    stream.set_write_timeout(left()?)?;
    stream.write_all(REQUEST)?;
    let expected = b"HTTP/1.1 200 ";
    let mut answer = Vec::new();
    while answer.len() < expected.len() {
        let mut bytes = [0; 64];
        stream.set_read_timeout(left()?)?;
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    if answer.starts_with(expected) {
        Ok(())
    } else {
        Err(io::Error::other("it answers something else than 200"))
    }
}

/// Where a server that listens on `address` can be reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
