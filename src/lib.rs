//! A Docker registry quine: one static binary that speaks the registry protocol and serves one image, which holds that
//! very binary. Pull the image, run it, and pull it again from the container: the digest never changes.
//!
//! # What happens in a pull
//!
//! ```text
//!     latest ──> index ──> manifest for amd64 ──> config: how to run the image
//!                  │              └────────────> layer: gzip( tar( the executable of this server ))
//!                  └─────> manifest for arm64 ──> ...
//! ```
//!
//! A client first requests `/v2/`, to find out whether this is a registry. It then asks what the tag `latest` stands
//! for, and receives an index, which lists a manifest for each platform. The client chooses the manifest for its own
//! platform, which in turn names a config and layers. Each arrow after the first is a digest: a hash of the content to
//! which the arrow leads. The client can therefore check every byte that it receives, and need not fetch what it
//! already has. Once the client has the config and all layers, it unpacks the layers, which completes the pull.
//!
//! # Four stories
//!
//! The source tells four stories, each of which can be read on its own and has a runnable example to experiment with:
//!
//! 1. How an executable becomes a container image. Read [`image::executable`], [`image::tar`], [`image::gzip`],
//!    [`image::layer`] and then [`mod@image`]. Example: [`image::layer`].
//! 2. How a registry responds. Read [`tests/pull.rs`], which pulls an image step by step as a client does, and then
//!    [`registry`], [`site`], [`service`], and [`explain`], which explains each request. Example: [`registry`].
//! 3. How HTTP/1.1 is read and written: [`http`]. Example: [`http::request`].
//! 4. How one thread serves thousands of clients. Read [`connection`], the state machine of one client, then
//!    [`run_queue`], [`budget`], [`socket`], [`clients`], [`acceptor`] and finally [`server`]. Example: [`connection`].
//!
//! The other files can be left for later. Among other things, they contain the command line, the log, the metrics, the
//! page for browsers, the manifests for Kubernetes, the responses that are wrong on purpose, and the system call
//! filter.
//!
//! [`tests/pull.rs`]: https://github.com/tazjin/quinistry/blob/master/tests/pull.rs
//!
//! # The files, from top to bottom
//!
//! The files are listed in order of dependency: each file uses only files below it. A test checks this order. To read
//! the code, follow a story instead.
//!
//! ```text
//!     file                 what it does
//!     -------------------  -----------------------------------------------------
//!     main.rs              runs the user's command
//!     options.rs           parses the command line
//!     server.rs            runs the event loop: sockets, time and signals
//!     acceptor.rs          listens, and accepts connections
//!     clients.rs           keeps the table of clients, and chooses which to evict
//!     socket.rs            sends and receives through a client's socket
//!     connection.rs        responds to a client's requests
//!     service.rs           responds to a request, counts it and logs it
//!     log.rs               writes events as lines of text
//!     explain.rs           explains a request to a learner
//!     fault.rs             makes correct responses wrong, by rules
//!     site.rs              chooses the response to a request
//!     registry.rs          chooses the response to GET under /v2
//!     page.rs              writes the page that shows the image
//!     welcome.rs           writes the commands that pull the image
//!     run_queue.rs         decides who is served next, for how long
//!     metrics.rs           counts, and writes the counters as text
//!     http/conditional.rs  decides how much content a request gets
//!     http/request.rs      parses bytes into a request
//!     http/response.rs     writes the head of a response
//!     http/syntax.rs       implements the grammar that several files share
//!     kubernetes.rs        writes Kubernetes manifests for the image
//!     image/archive.rs     writes the image as one file
//!     image/artifacts.rs   builds what refers to the image
//!     image.rs             builds an image of executables
//!     image/layer.rs       packs an executable into a layer
//!     image/executable.rs  reads the architecture from an ELF header
//!     image/tar.rs         writes a tar archive
//!     image/gzip.rs        writes a gzip member
//!     image/sbom.rs        holds the list of crates that ship
//!     image/json.rs        writes JSON
//!     image/digest.rs      computes digests
//!     health.rs            checks the health of a server
//!     confinement.rs       filters the server's system calls
//!     budget.rs            divides the memory among the clients
//!     kinds.rs             names what is logged and counted
//!     clock.rs             reads the clock, and formats the time
//!     system.rs            wraps the system calls that std lacks
//! ```
//!
//! # The path of a request
//!
//! 1. `Server::run` polls the kernel, accepts a connection (`admit`) and runs its first turn (`turn`).
//! 2. `Connection::turn` reads the bytes that have arrived (`receive`), and `http::request::parse` parses them into a
//!    request (`respond`).
//! 3. `Service::respond` chooses the response (`Site::respond`, `Registry::respond`, `manifest`), and how much of its
//!    content the client gets (`http::conditional::select`). It makes the response wrong if a rule of `--fault` applies
//!    (`Faults::apply`). It then counts and logs the response (`record`, which adds the text of `explain` if the server
//!    runs with `--explain`), and writes its head (`Response::write_head`).
//! 4. `Connection` sends the head and the content (`flush`), and waits for the next request (`proceed`).
//! 5. The rest of a response is sent when the kernel reports that the socket has room (`note_event`, `send`).
//!
//! # Words
//!
//! * A *digest* is a hash of content, and the name by which a registry knows the content.
//! * A *blob* is content that a registry knows by its digest and does not interpret: a config or a layer.
//! * A *manifest* lists the content of an image for one platform. An *index* lists manifests.
//! * A *diff ID* is the digest that a layer has before it is compressed.
//! * A *child* is a server that runs from a pulled image. Its *parent* served that image.
//! * A *head* is everything in a message before its content: the request line or status line, the field lines, and the
//!   empty line that ends them.
//! * A *turn* is the work done for one client before the next is served. A client is *light* or *heavy* depending on
//!   what its recent turns have cost.
//! * A response is *in flight* until the client has acknowledged all of it.
//! * *Pipelining* is sending requests without waiting for the responses to earlier ones.
//!
//! # Where a change goes
//!
//! * A tag: [`image::TAGS`], in sorted order. Then run the tests. Those that list the tags fail, and must be updated.
//!   The archive that `save` writes keeps only the tag `latest`.
//! * An endpoint: `Registry::respond` if the endpoint has one path, or `Registry::member` if its paths have the form
//!   `<name>/<collection>/<reference>`; outside `/v2`, `Site::route`. In each case, also extend the list at the top of
//!   the file. `RequestKind` in `kinds.rs` names each endpoint, `explain.rs` explains each, and `PLACES` in `fault.rs`
//!   lists those that a rule can name. The response needs a test in `tests/registry.rs`. Its JSON goes through
//!   `image/json.rs`, which writes no booleans, no null and only unsigned integers.
//! * A fault: `fault.rs` makes the fault, `fault.txt` describes it for `--help`, and `explain.rs` says what a good
//!   client does. Each fault needs a test in `tests/fault.rs`.
//! * An option or a command: `options.rs`, and `options.txt`, which is the text of `--help`. `execute` in `main.rs`
//!   runs each command.
//! * A text of `--explain`: `explain.rs`. If the log in the README shows the text, change the README as well.
//! * A header field: `write_head` in `http/response.rs` if every response has the field, `shared_fields` in `site.rs`
//!   if every response under `/v2` has it, `Resource::new` in `registry.rs` for documents and layers, and `FIELDS` in
//!   `page.rs` and `welcome.rs` for `/`. `fuzz/fuzz_targets/registry.rs` lists the names of all fields.
//! * The page: `page.html` and `page.css`, beside `page.rs`. `tests/page.rs` fails if the hash of the style is out of
//!   date, and shows the page to a browser.
//! * An architecture: `image/executable.rs`. If there are more than eight, also `RESERVED_DESCRIPTORS` in `budget.rs`.
//!   If the server runs on the new one, also `ARCHITECTURE` in `confinement.rs`.
//! * A crate, or a version (including that of quinistry itself): `Cargo.toml` and `Cargo.lock`. Then run the command in
//!   `image/sbom.rs`, which writes the bill of materials again.
//! * A reason to close a connection: `CloseReason` in `kinds.rs`, and the table at the top of `connection.rs`. A
//!   metric: `metrics.rs` and `metrics.txt`.
//! * A limit: a constant at the top of the file that enforces the limit. If a client can notice the limit, also the
//!   table of `README.md`, which a test compares with the constants.
//! * A system call: `system.rs`, and nowhere else. If serving needs the call, also the table in `confinement.rs`.
//!
//! # What must not change
//!
//! The program is a quine only as long as the same executable always makes the same image:
//!
//! * No clock, path, user, environment, map order or random number may reach the image. The keys of JSON objects are
//!   sorted (`serde_json`'s `preserve_order` feature would end that order), times are 0, and owners are root. Only
//!   `SOURCE_DATE_EPOCH` may set another time, when the program is built.
//! * A layer must not depend on the size of the pieces in which its executable is read.
//! * Every server packs the executable that it runs from (`/proc/self/exe`), byte for byte.
//! * Whatever the registry serves for a digest has that digest, unless a rule of `--fault` makes the response wrong.
//!
//! And the program is safe only as long as
//!
//! * no input from outside can cause a panic, block the thread, or make the use of memory grow without bound;
//! * a request that could be understood in two ways is refused;
//! * the output buffer that all connections share is empty after every turn, because otherwise a client would receive
//!   the bytes of another client.
//!
//! Because every pull transfers the binary, the program must also stay small, and `.ci/run` limits the size of a layer.
//! Where the code avoids a part of std or of a crate for that reason (for example, in `image/json.rs`), a comment says
//! how many bytes this saves.
//!
//! # How to read the comments
//!
//! Each file begins with its purpose and, if there are any, the documents that it follows, its limits, and what is
//! deliberately absent. Where a line obeys a MUST, a comment cites the requirement. A *Field note* states how real
//! software behaves where no document says so.
//!
//! Because the library exists for the tests and the fuzzer, its interface may change at any time.

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
pub mod service;
pub mod site;
pub mod socket;
pub mod system;
pub mod welcome;
