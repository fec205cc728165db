//! Carries out the command that `options` has read from the command line, and returns an exit code.
//!
//! Document: exit codes as shells have them (POSIX.1-2017, Shell Command Language, section 2.8.2).
//!
//! ```text
//!       0  done
//!       1  not done; standard error says why
//!       2  the command line was not understood; standard error says why
//!     141  the reader of standard output went away (128 + SIGPIPE); no message is printed
//!     130, 143  a second signal ended the server before its transfers were over (128 + the signal)
//! ```
//!
//! `system::start`, which runs before the rest, ends with 1 when it fails. A signal ends the process in two
//! cases, and a shell reports it as 128 + the signal:
//!
//! ```text
//!     134, 139  a panic, or no memory when some is needed: SIGABRT before serving. While serving, the filter
//!               refuses that signal, and `abort` ends by an instruction that is not allowed: SIGSEGV on x86-64
//!     159  a system call that only foreign code makes (SIGSYS, see `confinement`)
//! ```
//!
//! Deliberately absent: running in the background, and a pid file. What starts a service does both.
#![no_main]

use std::env;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::process;
use std::time::Duration;

use quinistry::budget::{self, Budget};
use quinistry::health;
use quinistry::image::layer::Executable;
use quinistry::image::{Descriptor, Image, NAME, PORT, Platform, VERSION, archive, sbom, tar};
use quinistry::kubernetes;
use quinistry::log::{Log, Stderr};
use quinistry::options::{self, Command, HELP};
use quinistry::registry::Registry;
use quinistry::server::{RESERVED_DESCRIPTORS, Server, needed_memory};
use quinistry::system::{self, SealedFile, Signals};
use quinistry::welcome;

// The library compiles all the same, for a fuzzer's sanitizers need a dynamic build. rustdoc does not see the flags.
#[cfg(all(target_os = "linux", not(target_feature = "crt-static"), not(doc)))]
compile_error!(
    "quinistry must be linked statically, because its image holds no C library and no loader. The flags of
.cargo/config.toml do that. `cargo install --git` does not read them, and the variable RUSTFLAGS replaces them. Set it:

    RUSTFLAGS=\"$RUSTFLAGS -C target-feature=+crt-static\" cargo build --release
    RUSTFLAGS=\"$RUSTFLAGS -C target-feature=+crt-static\" cargo install --locked --git https://github.com/tazjin/quinistry quinistry
"
);

const DONE: i32 = 0;
const FAILED: i32 = 1;
const MISUSED: i32 = 2;
/// A shell reports a death by a signal as 128 and its number.
const SIGNALLED: i32 = 128;

/// How many ports are tried to find a free one for an example.
const PORTS_TRIED: u16 = 100;

/// Why what was asked for is not done.
enum Error {
    /// The command line is not understood.
    Misused(options::Error),
    /// The reader of standard output went away.
    ClosedPipe,
    /// Anything else, in words for the person who asked.
    Failed(String),
}

quinistry::entry!(run);
quinistry::section!(BILL_OF_MATERIALS, ".dep-v0", sbom::SECTION);

fn run(arguments: &[String]) -> i32 {
    // Nothing else refers to it, and so the executable would lack it.
    black_box(&BILL_OF_MATERIALS);
    let variable = env::var_os("QUINISTRY_LISTEN");
    let command = options::parse(arguments, variable.as_deref().map(OsStr::to_string_lossy).as_deref());
    match command.map_err(Error::Misused).and_then(execute) {
        Ok(code) => code,
        Err(Error::Misused(error)) => {
            say(&format!("quinistry: {error}\nTry `quinistry --help`.\n"));
            MISUSED
        }
        Err(Error::ClosedPipe) => SIGNALLED + libc::SIGPIPE,
        Err(Error::Failed(reason)) => {
            say(&format!("quinistry: {reason}\n"));
            FAILED
        }
    }
}

fn execute(command: Command) -> Result<i32, Error> {
    match command {
        Command::Serve { address, quiet, explain, with } => return serve(address, quiet, explain, &with),
        Command::Healthcheck(address) => check_health(address)?,
        Command::Save(with) => save(&with)?,
        Command::Digest(with) => print(digest_line(&pack(open(&with)?, None)?.1))?,
        Command::Kubernetes(manifest, with) => {
            print(kubernetes::pin(manifest, &pack(open(&with)?, None)?.1))?;
        }
        Command::Sbom => print(sbom::DOCUMENT)?,
        Command::Help => print(HELP)?,
        Command::Version => print(format!("{NAME} {VERSION}\n"))?,
    }
    Ok(DONE)
}

/// Packs, listens and serves until a signal comes.
fn serve(address: SocketAddr, quiet: bool, explain: bool, with: &[String]) -> Result<i32, Error> {
    // From here on a signal waits until it can be obeyed; process 1 would lose the signal otherwise.
    let signals =
        Signals::new().map_err(|error| Error::Failed(format!("cannot wait for signals: {error}")))?;
    let descriptors = system::raise_descriptor_limit();
    let budget = Budget::of(budget::memory_limit(), descriptors.saturating_sub(RESERVED_DESCRIPTORS));
    let memory = needed_memory(&budget);
    system::try_memory(memory).map_err(|error| {
        Error::Failed(format!(
            "cannot have the {} MiB of memory that serving may take: {error}",
            memory >> 20
        ))
    })?;
    let executables = open(with)?;
    // Listening comes before packing: a port in use shows at once, and clients wait until we are ready.
    let listener = listen(address)?;
    let address = listener
        .local_addr()
        .map_err(|error| Error::Failed(format!("cannot tell our own address: {error}")))?;
    let mut log = Log::new(!quiet).explained(explain).short(io::stderr().is_terminal());
    if !quiet {
        log.text(&format!("quinistry {VERSION}: packing this program into an image ...\n"));
        log.flush("", &mut Stderr::open());
    }
    let (layers, image) = match pack(executables, Some(&signals)) {
        Err(_) if signals.has_any(Duration::ZERO) => return Ok(DONE),
        packed => packed?,
    };
    if !quiet {
        log.text(&describe(&image, address));
    }
    let server = Server::new(listener, signals, Registry::new(image), layers, log, budget);
    let ended = server.and_then(|mut server| {
        server.confine();
        server.run()
    });
    match ended.map_err(|error| Error::Failed(error.to_string()))? {
        None => Ok(DONE),
        Some(signal) => Ok(SIGNALLED + signal.cast_signed()),
    }
}

fn check_health(address: SocketAddr) -> Result<(), Error> {
    let address = match address.ip() {
        // Both wildcards take IPv4. Field note: with Docker 17.04 to 25, a container on a network without IPv6
        // has no `::1` to ask.
        ip if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        _ => address,
    };
    health::check(address).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                "; if the server has another address, set QUINISTRY_LISTEN to it"
            }
            _ => "",
        };
        Error::Failed(format!("unhealthy, {address}: {error}{hint}"))
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let port = address.port();
    try_to_listen(address).map_err(|error| {
        Error::Failed(match error.kind() {
            io::ErrorKind::AddrInUse => {
                let free = find_free(address, port.saturating_add(1));
                format!("port {port} is in use by another program; try --listen {free}")
            }
            // ip(7): a port below 1024 takes CAP_NET_BIND_SERVICE, unless the system says otherwise.
            io::ErrorKind::PermissionDenied if port < 1024 => {
                let free = find_free(address, PORT);
                format!("only root may listen on port {port} here; try --listen {free}")
            }
            _ => format!("cannot listen (--listen {}): {error}", options::shown(address)),
        })
    })
}

/// The same address with the first port that is free from this one on, or else with 0, which lets the system
/// choose. As `--listen` takes it.
fn find_free(address: SocketAddr, first: u16) -> String {
    let at = |port| SocketAddr::new(address.ip(), port);
    let mut others = (first..=first.saturating_add(PORTS_TRIED - 1)).map(at);
    options::shown(others.find(|&other| try_to_listen(other).is_ok()).unwrap_or(at(0)))
}

fn try_to_listen(address: SocketAddr) -> io::Result<TcpListener> {
    match system::listen(address) {
        // A machine without IPv6 has no such family, or no such address.
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != io::ErrorKind::AddrInUse => {
            system::listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        outcome => outcome,
    }
}

/// Opens and checks the executable of this process and the others. The path of our own may be gone, or
/// lead to another file by now; the link in /proc leads to the file that runs.
fn open(others: &[String]) -> Result<Vec<Executable<File>>, Error> {
    let mut executables: Vec<Executable<File>> = Vec::new();
    for path in ["/proc/self/exe"].into_iter().chain(others.iter().map(String::as_str)) {
        let check = || {
            // Without the flag, to open a pipe would wait for who writes to it.
            let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::other("it is not a regular file").into());
            }
            Executable::check(file, metadata.len())
        };
        let executable = check().map_err(|error| Error::Failed(format!("cannot carry {path}: {error}")))?;
        let architecture = executable.architecture;
        if executables.iter().any(|other| other.architecture == architecture) {
            let reason = format!("an executable for {architecture} is already there");
            return Err(Error::Failed(format!("cannot carry {path}: {reason}")));
        }
        executables.push(executable);
    }
    Ok(executables)
}

/// Packs executables, of which the first is that of this process. With `signals`, one of them ends it.
fn pack(
    executables: Vec<Executable<File>>,
    signals: Option<&Signals>,
) -> Result<(Vec<SealedFile>, Image), Error> {
    let pack = |executable: Executable<File>| {
        let architecture = executable.architecture;
        SealedFile::create(|layer| executable.pack(UntilSignal { layer, signals }))
            .map_err(|error| Error::Failed(format!("cannot make the layer for {architecture}: {error}")))
    };
    let packed = executables.into_iter().map(pack).collect::<Result<_, _>>();
    packed.map(Image::assemble)
}

/// Takes the bytes of a layer until a signal comes. Large files take long to pack.
struct UntilSignal<'a> {
    layer: &'a mut dyn Write,
    signals: Option<&'a Signals>,
}

impl Write for UntilSignal<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.signals.is_some_and(|signals| signals.has_any(Duration::ZERO)) {
            return Err(io::Error::other("a signal has come"));
        }
        self.layer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.layer.flush()
    }
}

/// What is served, and how to get it.
fn describe(image: &Image, address: SocketAddr) -> String {
    let host = match address.ip() {
        // Docker takes `localhost` for a registry that may speak plain HTTP. Field note: Docker 20.10 takes no
        // IPv6 address for a registry.
        ip if ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST => {
            format!("localhost:{}", address.port())
        }
        _ => address.to_string(),
    };
    let place = if process::id() == 1 {
        " This port is inside of the container; outside, take the one that `docker ps` shows.\n"
    } else {
        " "
    };
    let mut text = line("index", "", &image.index.descriptor);
    for Platform { layer, manifest, config, .. } in &image.platforms {
        text += &line("manifest", layer.architecture, &manifest.descriptor);
        text += &line("config", layer.architecture, &config.descriptor);
        text += &line("layer", layer.architecture, &Descriptor::of(layer));
    }
    let commands = welcome::commands(&host, "  ");
    text + &format!(
        "Listening on {address}.{place}Pull the image, run it, and pull it again from there:\n\n{commands}\n"
    )
}

fn line(what: &str, architecture: &str, descriptor: &Descriptor) -> String {
    let line = format!("  {what:<9} {}  {:>7} bytes  {architecture}", descriptor.digest, descriptor.size);
    format!("{}\n", line.trim_ascii_end())
}

/// Writes the image to standard output, as an archive that other tools load.
fn save(with: &[String]) -> Result<(), Error> {
    if system::stdout().is_terminal() {
        let reason = "a terminal cannot show an archive; try `quinistry save | docker load`";
        return Err(Error::Failed(reason.into()));
    }
    let (layers, image) = pack(open(with)?, None)?;
    write(|stdout| {
        let contents = layers.iter().map(SealedFile::content).collect::<Result<Vec<_>, _>>()?;
        archive::write(&image, contents, stdout)
    })
}

/// The image by its digest, as `docker pull` takes it behind a registry's address.
fn digest_line(image: &Image) -> String {
    format!("{NAME}@{}\n", image.index.descriptor.digest)
}

fn print(text: impl AsRef<[u8]>) -> Result<(), Error> {
    write(|stdout| Ok(stdout.write_all(text.as_ref())?))
}

/// Writes to standard output.
fn write(content: impl FnOnce(&mut File) -> Result<(), tar::Error>) -> Result<(), Error> {
    content(&mut system::stdout()).map_err(|error| match error {
        tar::Error::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => Error::ClosedPipe,
        error => Error::Failed(format!("cannot write to standard output: {error}")),
    })
}

/// Writes a last message to standard error. If nothing reads it, nothing can be done; `eprint!` would panic.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
