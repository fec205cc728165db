//! Runs the command that `options` has parsed, and returns the exit code.
//!
//! Document: the exit codes of shells (POSIX.1-2017, Shell Command Language, section 2.8.2).
//!
//! ```text
//!       0  success
//!       1  failure; standard error has the reason
//!       2  an invalid command line or environment variable; standard error has the reason
//!     141  the reader of standard output has closed it (128 + SIGPIPE); no message is printed
//!     130, 143  a second signal ended the server before its transfers were complete (128 + the signal)
//! ```
//!
//! Two failures can occur before `run`: glibc exits with 127 if one of its first calls fails, and `system::start`,
//! which runs next, exits with 1 if it fails. Two failures end the process with a signal, which a shell reports as 128
//! plus the number of the signal:
//!
//! ```text
//!     134, 139  a panic, or an allocation that fails: SIGABRT before serving. While serving, the filter denies the
//!               call that raises SIGABRT, so `abort` executes an instruction that traps: SIGSEGV on x86-64,
//!               elsewhere perhaps another signal
//!     159  a system call that only injected code would make (SIGSYS, see `confinement`)
//! ```
//!
//! Deliberately absent: running in the background, and a pid file, because a service manager provides both.
#![no_main]

use std::env;
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::process;

use quinistry::acceptor;
use quinistry::budget::{self, Budget};
use quinistry::clock::Clock;
use quinistry::fault::{self, Faults};
use quinistry::health;
use quinistry::image::layer::Executable;
use quinistry::image::{Descriptor, Image, NAME, PORT, Platform, VERSION, archive, sbom};
use quinistry::kubernetes;
use quinistry::log::{Log, Stderr};
use quinistry::metrics::Metrics;
use quinistry::options::{self, Command, HELP, Serve};
use quinistry::server::Server;
use quinistry::service::Service;
use quinistry::site::Site;
use quinistry::system::{self, ResidentMemory, SealedFile, Signals};
use quinistry::welcome;

// The library does not have this check, because a fuzzer's sanitizers need a dynamic build. A documentation build skips
// it, because rustdoc ignores the flags.
#[cfg(all(target_os = "linux", not(target_feature = "crt-static"), not(doc)))]
compile_error!(
    "quinistry must be linked statically, because its image holds no C library and no loader. The flags of
.cargo/config.toml do that. `cargo install --git` does not read them, and the variable RUSTFLAGS replaces them. In
either case, add the flag to RUSTFLAGS:

    RUSTFLAGS=\"$RUSTFLAGS -C target-feature=+crt-static\" cargo build --release
    RUSTFLAGS=\"$RUSTFLAGS -C target-feature=+crt-static\" cargo install --locked --git https://github.com/tazjin/quinistry quinistry
"
);

const SUCCESS: i32 = 0;
const FAILED: i32 = 1;
const MISUSED: i32 = 2;
/// A shell adds this to the number of the signal that ended a process.
const SIGNALLED: i32 = 128;

/// The number of ports that the search for a free port tries.
const PORTS_TRIED: u16 = 100;

/// Why a command failed.
enum Error {
    /// The command line is invalid.
    Misused(String),
    /// The reader of standard output has closed the pipe.
    ClosedPipe,
    /// Any other reason, as a message for the user.
    Failed(String),
}

/// Returns a function that prefixes an error with what has failed.
fn failed(what: impl Display) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Failed(format!("{what}: {error}"))
}

quinistry::entry!(run);
quinistry::section!(BILL_OF_MATERIALS, ".dep-v0", sbom::SECTION);

fn run(arguments: &[String]) -> i32 {
    // Without this line, the linker would drop the bill of materials, to which no other code refers.
    black_box(&BILL_OF_MATERIALS);
    let variable = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    match options::parse(arguments, variable).map_err(Error::Misused).and_then(execute) {
        Ok(code) => code,
        Err(Error::Misused(error)) => {
            print_error(&format!("quinistry: {error}\nTry `quinistry --help`.\n"));
            MISUSED
        }
        Err(Error::ClosedPipe) => SIGNALLED + libc::SIGPIPE,
        Err(Error::Failed(reason)) => {
            print_error(&format!("quinistry: {reason}\n"));
            FAILED
        }
    }
}

fn execute(command: Command) -> Result<i32, Error> {
    match command {
        Command::Serve(options) => return serve(options),
        Command::Healthcheck(address) => check_health(address)?,
        Command::Save(with) => save(&with)?,
        // `docker pull` accepts this form after the address of a registry.
        Command::Digest(with) => print(format!("{NAME}@{}\n", pack(open(&with)?)?.1.index.descriptor.digest))?,
        Command::Kubernetes(manifest, with) => {
            print(kubernetes::pin(manifest, &pack(open(&with)?)?.1))?;
        }
        Command::Sbom => print(sbom::DOCUMENT)?,
        Command::Help => print(format!("{HELP}\n{}", fault::HELP))?,
        Command::Version => print(format!("{NAME} {VERSION}\n"))?,
    }
    Ok(SUCCESS)
}

/// Listens, packs the image, and serves it until a signal arrives.
fn serve(options: Serve) -> Result<i32, Error> {
    let Serve { address, requests, faults, with } = options;
    // From here on, signals are queued until the server runs, because process 1 would lose them otherwise.
    let signals = Signals::new().map_err(failed("cannot wait for signals"))?;
    let budget = Budget::of(budget::memory_limit(), system::raise_descriptor_limit());
    let memory = budget.needed_memory();
    let reason = format!("cannot allocate the {} MiB of memory that serving may need", memory >> 20);
    system::try_memory(memory).map_err(failed(reason))?;
    let executables = open(&with)?;
    // Listening precedes packing, so that a port in use is reported at once, and clients can already connect and wait.
    let listener = listen(address)?;
    if let Some(rate) = faults.rate() {
        acceptor::limit_rate(&listener, rate);
    }
    let address = listener.local_addr().map_err(failed("cannot determine the server's own address"))?;
    let mut log = Log::new(requests, io::stderr().is_terminal());
    if log.wants_requests() {
        log.text(&format!("quinistry {VERSION}: packing this program into an image ...\n"));
        log.flush("", &mut Stderr);
    }
    let (layers, image) = pack(executables)?;
    if log.wants_requests() {
        log.text(&describe(&image, &faults, address));
    }
    let (site, clock) = (Box::leak(Box::new(Site::new(image))), Clock::start());
    let metrics = Metrics::new(clock.unix, ResidentMemory::open().ok());
    let service = Service { site, faults, clock, log, metrics };
    let ended = Server::new(listener, signals, service, layers, budget).and_then(|mut server| {
        server.confine();
        server.run()
    });
    match ended.map_err(|error| Error::Failed(error.to_string()))? {
        None => Ok(SUCCESS),
        Some(signal) => Ok(SIGNALLED + signal),
    }
}

fn check_health(address: SocketAddr) -> Result<(), Error> {
    let address = match address.ip() {
        // The check uses IPv4, which both wildcards accept unless `net.ipv6.bindv6only` is set. Field note: with Docker
        // 17.04 to 25, a container on a network without IPv6 has no `::1`.
        ip if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        _ => address,
    };
    health::check(address).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::ConnectionRefused => "; if the server has another address, set QUINISTRY_LISTEN to it",
            _ => "",
        };
        Error::Failed(format!("{address} is unhealthy: {error}{hint}"))
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
            // ip(7): a port below 1024 requires CAP_NET_BIND_SERVICE, or a sysctl that allows the port.
            io::ErrorKind::PermissionDenied if port < 1024 => {
                let free = find_free(address, PORT);
                format!("this process has no permission to listen on port {port}; try --listen {free}")
            }
            _ => format!("cannot listen (--listen {}): {error}", options::format_address(address)),
        })
    })
}

/// Returns an address in the form of `--listen`, with the first free port from `first` on. If the search finds no free
/// port, the port is 0, which lets the system choose.
fn find_free(address: SocketAddr, first: u16) -> String {
    let at = |port| SocketAddr::new(address.ip(), port);
    let mut others = (first..=first.saturating_add(PORTS_TRIED - 1)).map(at);
    options::format_address(others.find(|&other| try_to_listen(other).is_ok()).unwrap_or(at(0)))
}

fn try_to_listen(address: SocketAddr) -> io::Result<TcpListener> {
    match acceptor::listen(address) {
        // A machine without IPv6 lacks the address family, or the address.
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != io::ErrorKind::AddrInUse => {
            acceptor::listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        outcome => outcome,
    }
}

/// Opens and checks the executable of this process and the other executables. The process opens itself through /proc,
/// because the path from which it was started may be gone by now, or name another file.
fn open(others: &[String]) -> Result<Vec<Executable<File>>, Error> {
    let mut executables: Vec<Executable<File>> = Vec::new();
    for path in ["/proc/self/exe"].into_iter().chain(others.iter().map(String::as_str)) {
        let check = || {
            // Without O_NONBLOCK, opening a pipe would wait for a writer.
            let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::other("not a regular file"));
            }
            Executable::check(file, metadata.len())
        };
        let executable = check().map_err(failed(format!("cannot include {path}")))?;
        let architecture = executable.architecture;
        if executables.iter().any(|other| other.architecture == architecture) {
            let reason = format!("cannot include {path}: there is already an executable for {architecture}");
            return Err(Error::Failed(reason));
        }
        executables.push(executable);
    }
    Ok(executables)
}

/// Packs executables, of which the first is that of this process.
fn pack(executables: Vec<Executable<File>>) -> Result<(Vec<SealedFile>, Image), Error> {
    let pack = |executable: Executable<File>| {
        let architecture = executable.architecture;
        SealedFile::create(|layer| executable.pack(layer))
            .map_err(failed(format!("cannot make the layer for {architecture}")))
    };
    let packed: Result<_, _> = executables.into_iter().map(pack).collect();
    packed.map(Image::assemble)
}

/// Describes the served image, the rules that make responses wrong, and the commands that pull the image.
fn describe(image: &Image, faults: &Faults, address: SocketAddr) -> String {
    let host = match address.ip() {
        // Docker allows plain HTTP for `localhost`. Field note: Docker 20.10 accepts no IPv6 address as a registry.
        ip if ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST => {
            format!("localhost:{}", address.port())
        }
        _ => address.to_string(),
    };
    let place = if process::id() == 1 {
        " This is the port inside the container; outside, use the one that `docker ps` shows.\n"
    } else {
        " "
    };
    let mut text = line("index", "", &image.index.descriptor);
    for Platform { layer, manifest, config, .. } in &image.platforms {
        text += &line("manifest", layer.architecture, &manifest.descriptor);
        text += &line("config", layer.architecture, &config.descriptor);
        text += &line("layer", layer.architecture, &Descriptor::of(layer));
    }
    for (rule, _) in &faults.counts {
        text += "  fault     ";
        text += rule;
        text += "\n";
    }
    let commands = welcome::commands(&host, "  ");
    text + &format!(
        "Listening on {address}.{place}Pull the image, run it, and pull it again from the container:\n\n{commands}\n"
    )
}

fn line(what: &str, architecture: &str, descriptor: &Descriptor) -> String {
    let line = format!("  {what:<9} {}  {:>7} bytes  {architecture}", descriptor.digest, descriptor.size);
    format!("{}\n", line.trim_ascii_end())
}

/// Writes the image to standard output, as an archive that other tools can load.
fn save(with: &[String]) -> Result<(), Error> {
    if system::stdout().is_terminal() {
        let reason = "a terminal cannot show an archive; try `quinistry save | docker load`";
        return Err(Error::Failed(reason.into()));
    }
    let (layers, image) = pack(open(with)?)?;
    write(|stdout| {
        let contents = layers.iter().map(SealedFile::content).collect::<io::Result<Vec<_>>>()?;
        archive::write(&image, contents, stdout)
    })
}

fn print(text: impl AsRef<[u8]>) -> Result<(), Error> {
    write(|stdout| stdout.write_all(text.as_ref()))
}

/// Writes to standard output.
fn write(content: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Error> {
    content(&mut system::stdout()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::ClosedPipe,
        _ => failed("cannot write to standard output")(error),
    })
}

/// Writes a message to standard error, without `eprint!`, which would panic if the write failed.
fn print_error(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
