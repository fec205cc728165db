//! Writes the commands that pull the image from a host, and the short text around them for clients other than browsers.
//!
//! Documents: Docker's grammar of image names (distribution/reference); RFC 3986 section 3.2.2 (host).
//!
//! ```text
//!     docker pull localhost:8080/quinistry
//!     docker run -d --rm -p 8090:8080 localhost:8080/quinistry
//!     docker pull localhost:8090/quinistry
//! ```
//!
//! Because people copy the commands into a shell, a host that a client names is shown only if none of its characters
//! has a special meaning in a shell.
//!
//! Deliberately absent: the address that the server listens on, which may differ from the one outside its container.

use std::net::Ipv4Addr;

use crate::image::{NAME, PORT};

/// The fields of the short text, except Content-Length. They include Vary, because Accept decides whether a client
/// receives this text or the page (RFC 9110 section 12.5.5).
pub const FIELDS: &[u8] = b"Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\nVary: Accept\r\n";

/// Returns the short text for clients other than browsers.
pub fn text(host: &str) -> String {
    let commands = commands(host, "  ");
    format!(
        "This is a Docker registry quine: it serves one image, which holds the program that serves it.\n\n{commands}"
    )
}

/// Returns commands that pull the image from `host`, run it, and pull it again from the container, each on a line with
/// this indentation. The container's port differs from that of `host`, because both may be on one machine.
pub fn commands(host: &str, indent: &str) -> String {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    let port = port.parse::<u16>().unwrap_or(PORT);
    let port = port.checked_add(10).unwrap_or_else(|| port - 10);
    let is_loopback = name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    let local = if is_loopback { name } else { "localhost" };
    format!(
        "{indent}docker pull {host}/{NAME}\n\
         {indent}docker run -d --rm -p {port}:{PORT} {host}/{NAME}\n\
         {indent}docker pull {local}:{port}/{NAME}\n"
    )
}

/// Returns the host to show to a client: the requested host if Docker can pull from it, otherwise `localhost:8080`.
///
/// The host must follow Docker's grammar. RFC 3986 allows characters that mean something to a shell, such as `;` and
/// `$(`. Docker's grammar allows none of them, and no name that begins with a hyphen, which a command would take for an
/// option. The host must also have a dot or a port, or be `localhost`, because Docker takes any other single word for a
/// namespace of Docker Hub.
///
/// ```text
///     host      = component *( "." component ) [ ":" 1*DIGIT ]
///     component = alphanumeric [ *( alphanumeric / "-" ) alphanumeric ]
/// ```
///
/// Field note: an IPv6 address in brackets is not shown, because Docker 20.10 does not accept it (newer versions do),
/// and because a shell may take the brackets for a pattern.
pub fn host(authority: Option<&str>) -> &str {
    let is_component = |component: &str| {
        let is_plain = component.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        is_plain && !component.is_empty() && !component.starts_with('-') && !component.ends_with('-')
    };
    let can_be_pulled_from = |host: &&str| {
        let (name, port) = host.split_once(':').unwrap_or((host, "0"));
        let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let is_registry = host.contains(['.', ':']) || *host == "localhost";
        is_registry && is_port && name.split('.').all(is_component)
    };
    authority.filter(can_be_pulled_from).unwrap_or("localhost:8080")
}
