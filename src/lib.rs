//! A Docker registry quine: one static binary that speaks the registry protocol and serves one
//! image, whose only layer holds that very binary. Pull it from itself, run what you pulled, pull
//! it again from the child: the digest never changes.
//!
//! ## One way through the files
//!
//! Follow a request from the socket to its answer. Calls only point downward.
//!
//! ```text
//!     main.rs         command line -> what to do; the only place that exits
//!       |
//!     server.rs       the event loop: sockets, deadlines, signals       (owns time and sockets)
//!       |
//!     connection.rs   one connection's states, over any transport       (owns buffers)
//!     ===================  I/O above, pure functions below  ======================
//!       |
//!     request.rs      bytes -> request, or not yet, or the answer that refuses them
//!       |
//!     registry.rs     request -> answer: the registry protocol
//!       |
//!     response.rs     answer -> the bytes of its head
//!
//!     once, at start:   image.rs, what an image is  ->  executable.rs, tar.rs, gzip.rs, digest.rs
//!     for others:       archive.rs, an image as one file; kubernetes.rs, manifests that name it
//!     at the edges:     system.rs (system calls), log.rs, clock.rs, health.rs
//! ```
//!
//! To learn the registry protocol, read `registry.rs`; to learn what an image is, `image.rs`. Each
//! file names its document at the top, and a line that obeys a MUST cites it. A *Field note* tells
//! what no document says and real clients need.
//!
//! The library exists for the tests and the fuzzer. Its interface promises nothing to others.

pub mod clients;
pub mod clock;
pub mod connection;
pub mod health;
pub mod http;
pub mod image;
pub mod kubernetes;
pub mod log;
pub mod registry;
pub mod server;
pub mod system;
pub mod turns;
