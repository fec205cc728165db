//! HTTP/1.1, as far as a server of ready-made content needs it.
//!
//! Documents: RFC 9110 (what messages mean), RFC 9112 (how HTTP/1.1 writes them), RFC 3986 (targets).
//!
//! ```text
//!     request.rs       turns bytes into a request, or "not yet", or a refusal
//!     conditional.rs   decides how much of some content a request gets
//!     response.rs      turns an answer into the bytes of its head
//!     syntax.rs        the grammar that these and the registry read with
//! ```
//!
//! Deliberately absent: sockets, time and registries. All of it is functions of bytes.

pub mod conditional;
pub mod request;
pub mod response;
pub mod syntax;
