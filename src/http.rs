//! Implements as much of HTTP/1.1 as a server of ready-made content needs.
//!
//! Documents: RFC 9110 (what messages mean), RFC 9112 (how HTTP/1.1 writes them), RFC 3986 (targets).
//!
//! ```text
//!     request.rs       parses bytes into a request, or refuses them
//!     conditional.rs   decides how much of some content a request gets
//!     response.rs      writes the head of a response
//!     syntax.rs        implements the grammar that several files share
//! ```
//!
//! Deliberately absent: sockets, time and registries, because everything here depends on bytes alone.

pub mod conditional;
pub mod request;
pub mod response;
pub mod syntax;
