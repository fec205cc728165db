//! A Docker registry quine: one static binary that speaks the registry protocol and serves one image, which holds that
//! very binary. Pull the image, run it, and pull it again from the container: the digest never changes.
//!
//! # Four stories
//!
//! The source explains four things, and names the documents that the code follows. Each story can be read alone, and
//! has an example that runs and can be changed:
//!
//! 1. How an executable becomes a container image. Read [`image::executable`], [`image::tar`], [`image::gzip`],
//!    [`image::layer`] and then [`mod@image`]. Example: [`image::layer`].
//! 2. How a registry responds. Read [`tests/pull.rs`], which pulls an image step by step as a client does. Then read
//!    [`registry`], and [`explain`], which explains each request. Example: [`registry`].
//! 3. How HTTP/1.1 is read and written: [`http`]. Example: [`http::request`].
//! 4. How one thread serves thousands of clients. Read [`connection`], the state machine of one client, then
//!    [`run_queue`], [`budget`], [`socket`], [`clients`], [`acceptor`] and, at last, [`server`]. Example:
//!    [`connection`].
//!
//! [`tests/pull.rs`]: https://github.com/tazjin/quinistry/blob/master/tests/pull.rs
//!
//! # One way through the files
//!
//! Each file uses only files below it in the table. A test compares the table with the source.
//!
//! ```text
//!     file                 what it does                                uses
//!     -------------------  ------------------------------------------  ---------------------------------
//!     main.rs              runs the user's command                     options server budget fault
//!                                                                      registry welcome kubernetes
//!                                                                      health image/archive image
//!                                                                      image/layer image/sbom log system
//!     options.rs           parses the command line                     fault kubernetes image log
//!     server.rs            the event loop: sockets, time and signals   acceptor clients run_queue socket
//!                                                                      budget connection fault registry
//!                                                                      metrics confinement kinds log
//!                                                                      clock system
//!     acceptor.rs          accepts connections                         system
//!     clients.rs           the table of clients, and who is evicted    run_queue socket budget connection
//!     socket.rs            a client's socket, as a transport           connection budget http/response
//!                                                                      system
//!     connection.rs        responds to a client's requests             explain fault registry metrics
//!                                                                      http/request http/response kinds
//!                                                                      log clock
//!     explain.rs           explains a request to a learner             http/request http/response
//!                                                                      http/syntax kinds
//!     fault.rs             makes right responses wrong, by rules       registry metrics http/request
//!                                                                      http/response http/syntax
//!                                                                      image/gzip kinds clock
//!     registry.rs          chooses the response to a request           page welcome metrics
//!                                                                      http/conditional http/request
//!                                                                      http/response
//!                                                                      http/syntax image/artifacts image
//!                                                                      image/sbom image/json image/digest
//!                                                                      kinds
//!     page.rs              writes the page that shows the image        welcome metrics image
//!                                                                      image/digest image/layer kinds
//!     welcome.rs           writes the commands that pull the image     image
//!     run_queue.rs         decides who is served next, for how long
//!     metrics.rs           counts, and writes the counters as text     http/response kinds clock system
//!     http/conditional.rs  decides how much content a request gets     http/request http/response
//!                                                                      http/syntax
//!     http/request.rs      parses bytes into a request                 http/response http/syntax
//!     http/response.rs     writes the head of a response
//!     http/syntax.rs       the grammar that several files share
//!     kubernetes.rs        writes Kubernetes manifests for the image   image
//!     image/archive.rs     writes the image as one file                image image/json image/tar
//!     image/artifacts.rs   builds what refers to the image             image image/digest image/sbom
//!     image.rs             builds an image of executables              image/digest image/executable
//!                                                                      image/json image/layer clock
//!     image/layer.rs       packs an executable into a layer            image/digest image/executable
//!                                                                      image/gzip image/tar
//!     image/executable.rs  reads the processor from an ELF header
//!     image/tar.rs         writes a tar archive
//!     image/gzip.rs        writes a gzip member
//!     image/sbom.rs        holds the list of crates that ship
//!     image/json.rs        writes JSON
//!     image/digest.rs      computes digests
//!     health.rs            checks the health of a server
//!     confinement.rs       filters the server's system calls           system
//!     budget.rs            divides the memory among the clients        system
//!     kinds.rs             names what is logged and counted
//!     log.rs               writes events as lines of text              clock system
//!     clock.rs             reads the clock, and formats the time
//!     system.rs            the system calls that std lacks
//! ```
//!
//! # The path of a request
//!
//! 1. `Server::run` polls the kernel, accepts a connection (`admit`) and runs its first turn (`turn`).
//! 2. `Connection::turn` reads the bytes that have come (`receive`), and `http::request::parse` parses them into a
//!    request (`respond`).
//! 3. `Registry::respond` chooses the response (`route`, `manifest`) and how much of its content the client gets
//!    (`http::conditional::select`). Its caller, `Faults::respond`, makes the response wrong if a rule applies.
//! 4. `Connection` writes the head of the response (`gather`, `Response::write_head`), counts and logs the response
//!    (with the text of `explain` if there is `--explain`), sends the head and the content (`flush`), and waits for the
//!    next request (`proceed`).
//! 5. The rest of a response is sent when the kernel reports that the socket has room (`note_event`, `send`).
//!
//! # Words
//!
//! * A *blob* is content that a registry knows by its digest and does not interpret: a config or a layer.
//! * A *diff ID* is the digest of a layer before it was compressed.
//! * A *head* is a request line or a status line, its field lines, and the empty line that ends them.
//! * A *turn* is the work that is done for one client before the next client is served. A client is *light* or *heavy*
//!   by the recent cost of its turns.
//! * *Pipelining* is sending requests without waiting for the responses to earlier ones.
//!
//! # Where a change goes
//!
//! * A tag: [`image::TAGS`], in sorted order. Then run the tests; the tests that list the tags fail. The archive that
//!   `save` writes has only the tag `latest`.
//! * An endpoint: `Registry::route` if the endpoint has one path, or `Registry::member` if its paths have the form
//!   `<name>/<collection>/<reference>`; in both cases also the list at the top of `registry.rs`. `RequestKind` in
//!   `kinds.rs` names each endpoint, and `explain.rs` explains each. The response needs a test in `tests/registry.rs`.
//!   JSON goes through `image/json.rs`, which cannot write booleans.
//! * A fault: `Fault` in `kinds.rs` names the fault, `fault.rs` makes it, `fault.txt` describes it for `--help`, and
//!   `explain.rs` says what a good client does. Each fault needs a test in `tests/fault.rs`.
//! * An option or a command: `options.rs`, and `options.txt`, which is the text of `--help`.
//! * A text of `--explain`: `explain.rs`, and the README if the log that it shows has this text.
//! * A header field: `http/response.rs` (`write_head`) if every response has the field, otherwise the code of
//!   `registry.rs` that makes the fields. `fuzz/fuzz_targets/registry.rs` lists the names of all fields.
//! * The page: `page.html` and `page.css`, beside `page.rs`. `tests/page.rs` says when the hash of the style is no
//!   longer right, and shows the page to a browser.
//! * A processor: `image/executable.rs`. If there are more than eight processors, also `RESERVED_DESCRIPTORS` in
//!   `budget.rs`. If the server runs on the new processor, also `ARCHITECTURE` in `confinement.rs`.
//! * A crate, or a version (also quinistry's own): `Cargo.toml` and `Cargo.lock`. Then run the command in
//!   `image/sbom.rs`, which writes the bill of materials again.
//! * A reason to close a connection: `CloseReason` in `kinds.rs`, and the table at the top of
//!   `connection.rs`. A metric: `metrics.rs`.
//! * A limit: a constant at the top of the file that enforces the limit. If a client can notice the limit, also the
//!   table of `README.md`, which a test compares with the constants.
//! * A system call: `system.rs`, and nowhere else. If serving needs the call, also the table in `confinement.rs`.
//!
//! # What must not change
//!
//! The program is a quine only as long as the same executable always makes the same image:
//!
//! * No clock, path, user, environment, map order or random number may reach the image. The keys of JSON objects are
//!   sorted (the feature `preserve_order` of `serde_json` would end that order), times are 0, and owners are root. Only
//!   `SOURCE_DATE_EPOCH` may set another time, when the program is built.
//! * A layer must not depend on the size of the pieces in which its executable is read.
//! * A child packs the executable that runs (`/proc/self/exe`), byte for byte.
//! * The content that the registry serves for a digest has this digest.
//!
//! And the program is safe only as long as
//!
//! * no byte from outside can cause a panic, a wait, or an unbounded use of memory;
//! * a request that could be understood in two ways is refused;
//! * the output that connections share is empty after every turn, or a client would get the bytes of another client.
//!
//! # How to read the comments
//!
//! Each file begins with its purpose, the documents that it follows (if there are any), its limits, and what is
//! deliberately absent. A comment cites each MUST that a line obeys. A *Field note* states what real clients need and
//! no document says.
//!
//! The library exists for the tests and the fuzzer. Its interface may change at any time.

pub mod acceptor;
pub mod budget;
pub mod clients;
pub mod clock;
pub mod confinement;
pub mod connection;
pub mod explain;
pub mod fault;
pub mod health;
pub mod http;
pub mod image;
pub mod kinds;
pub mod kubernetes;
pub mod log;
pub mod metrics;
pub mod options;
pub mod page;
pub mod registry;
pub mod run_queue;
pub mod server;
pub mod socket;
pub mod system;
pub mod welcome;
