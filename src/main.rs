//! The command line to what is to be done. The only place that exits.
#![no_main]

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;

use quinistry::health;
use quinistry::image::{self, Image, NAME, PORT, VERSION, archive, tar};
use quinistry::kubernetes;
use quinistry::log::Log;
use quinistry::registry::Registry;
use quinistry::server::Server;
use quinistry::system::{self, SealedFile, Signals};

const HELP: &str = "\
quinistry: a Docker registry that serves one image, which holds this very program

Usage: quinistry [OPTIONS]              serve
       quinistry healthcheck [OPTIONS]  ask the server on this machine whether it is well
       quinistry save                   write the image to standard output, for `docker load`
       quinistry digest                 print the image's name and digest
       quinistry k8s parent|child       print a Kubernetes manifest that runs this very image

Options:
  --listen ADDR:PORT  the address to serve on [default: every address, port 8080]
                      [variable: QUINISTRY_LISTEN]
  --quiet             do not log requests
  --help              print this
  --version           print the version

  docker pull localhost:8080/quinistry
";

/// What the command line asks for.
struct Options {
    command: Command,
    listen: Option<SocketAddr>,
    quiet: bool,
}

enum Command {
    Serve,
    Healthcheck,
    Save,
    Digest,
    /// A manifest that is to be pinned.
    Kubernetes(&'static str),
    Print(String),
}

// Exit codes: what was asked for was done; it could not be; it was not understood.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const MISUSED: i32 = 2;

quinistry::entry!(run);

fn run(arguments: Vec<OsString>) -> i32 {
    let options = match Options::parse(arguments, env::var_os("QUINISTRY_LISTEN")) {
        Ok(options) => options,
        Err(error) => {
            say(&format!("quinistry: {error}\nTry `quinistry --help`.\n"));
            return MISUSED;
        }
    };
    let outcome = match &options.command {
        Command::Serve => serve(&options),
        Command::Healthcheck => check_health(&options),
        Command::Save => save(),
        Command::Digest => pack().and_then(|(_, image)| print(&digest_line(&image))),
        Command::Kubernetes(manifest) => {
            pack().and_then(|(_, image)| print(&kubernetes::pin(manifest, &image)))
        }
        Command::Print(text) => print(text),
    };
    outcome.unwrap_or_else(|error| {
        say(&format!("quinistry: {error}\n"));
        FAILED
    })
}

impl Options {
    fn parse(arguments: Vec<OsString>, variable: Option<OsString>) -> Result<Self, String> {
        let mut options = Self { command: Command::Serve, listen: None, quiet: false };
        let mut arguments = arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned());
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "healthcheck" if matches!(options.command, Command::Serve) => {
                    options.command = Command::Healthcheck;
                }
                "save" if matches!(options.command, Command::Serve) => options.command = Command::Save,
                "digest" if matches!(options.command, Command::Serve) => options.command = Command::Digest,
                "k8s" if matches!(options.command, Command::Serve) => {
                    options.command = Command::Kubernetes(match arguments.next().as_deref() {
                        Some("parent") => kubernetes::PARENT,
                        Some("child") => kubernetes::CHILD,
                        _ => return Err("k8s needs one of parent and child".into()),
                    });
                }
                "--listen" => {
                    let value =
                        arguments.next().ok_or("--listen needs an address, such as 127.0.0.1:8080")?;
                    options.listen = Some(parse_address("--listen", &value)?);
                }
                "--quiet" => options.quiet = true,
                "--help" | "-h" => options.command = Command::Print(HELP.into()),
                "--version" | "-V" => options.command = Command::Print(format!("{NAME} {VERSION}\n")),
                other => match other.strip_prefix("--listen=") {
                    Some(value) => options.listen = Some(parse_address("--listen", value)?),
                    None => return Err(format!("unknown argument: {other:?}")),
                },
            }
        }
        if let (None, Some(value)) = (options.listen, variable.filter(|value| !value.is_empty())) {
            options.listen = Some(parse_address("QUINISTRY_LISTEN", &value.to_string_lossy())?);
        }
        Ok(options)
    }
}

fn parse_address(origin: &str, value: &str) -> Result<SocketAddr, String> {
    let hint = "it has to be an address and a port, such as 127.0.0.1:8080 or [::]:8080";
    value.parse().map_err(|_| format!("{origin} is {value:?}; {hint}"))
}

/// Packs, listens and serves until a signal comes.
fn serve(options: &Options) -> Result<i32, String> {
    // From here on a signal waits until it can be obeyed; as process 1 it would else be lost.
    let signals = Signals::new().map_err(|error| format!("cannot wait for signals: {error}"))?;
    // Listening first brings a port in use to light at once; clients wait until we are ready.
    let listener = listen(options.listen)?;
    let address = listener.local_addr().map_err(|error| format!("cannot tell our own address: {error}"))?;
    say(&format!("quinistry {VERSION}: packing this program into an image ...\n"));
    let (layer, image) = pack()?;
    say(&describe(&image, address));
    let log = Log::new(!options.quiet);
    let ended = Server::new(listener, signals, Registry::new(image), vec![layer], log)
        .and_then(|mut server| server.run());
    match ended.map_err(|error| error.to_string())? {
        None => Ok(DONE),
        // As a shell would report it.
        Some(signal) => Ok(128 + signal.cast_signed()),
    }
}

fn listen(address: Option<SocketAddr>) -> Result<TcpListener, String> {
    let dual_stack = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT);
    let wanted = address.unwrap_or(dual_stack);
    let listener = match system::listen(wanted) {
        // A machine without IPv6 has no such family, or no such address.
        Err(error) if address.is_none() && error.kind() != io::ErrorKind::AddrInUse => {
            system::listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT))
        }
        outcome => outcome,
    };
    listener.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{wanted} is in use by another program; try --listen with another port")
        }
        _ => format!("cannot listen on {wanted}: {error}"),
    })
}

/// Packs the executable of this process. Its path may be gone, or another file's by now: the link
/// in /proc leads to the file that runs.
fn pack() -> Result<(SealedFile, Image), String> {
    let read = |error: io::Error| format!("cannot read /proc/self/exe: {error}");
    let executable = File::open("/proc/self/exe").map_err(read)?;
    let size = executable.metadata().map_err(read)?.len();
    SealedFile::create(|layer| image::pack(&executable, size, layer)).map_err(|error| error.to_string())
}

/// What is served, and how to get it.
fn describe(image: &Image, address: SocketAddr) -> String {
    let host = match address.ip() {
        // Docker, too, takes these for a registry that may speak plain HTTP.
        ip if ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST => format!("localhost:{}", address.port()),
        _ => address.to_string(),
    };
    let Image { manifest, config, layer, .. } = image;
    let line = |what, descriptor: &image::Descriptor| {
        format!("  {what:<9} {}  {:>7} bytes\n", descriptor.digest, descriptor.size)
    };
    format!(
        "{}{}{}Listening on {address}. To pull:\n\n  docker pull {host}/{NAME}\n\n",
        line("manifest", &manifest.descriptor),
        line("config", &config.descriptor),
        line("layer", layer),
    )
}

/// Writes the image to standard output, as an archive that other tools load.
fn save() -> Result<i32, String> {
    if io::stdout().is_terminal() {
        return Err("an archive is nothing for a terminal; try `quinistry save | docker load`".into());
    }
    let (layer, image) = pack()?;
    let write = || -> Result<(), tar::Error> {
        // Not by `Stdout`, which looks for the ends of lines.
        let mut stdout = BufWriter::new(File::from(io::stdout().as_fd().try_clone_to_owned()?));
        archive::write(&image, &mut layer.content()?, &mut stdout)?;
        Ok(stdout.flush()?)
    };
    match write() {
        Ok(()) => Ok(DONE),
        // Whoever read it has seen enough. As a shell reports one who is told so by a signal.
        Err(tar::Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(128 + 13),
        Err(error) => Err(format!("cannot write the archive: {error}")),
    }
}

/// The image by its digest, as `docker pull` takes it behind a registry's address.
fn digest_line(image: &Image) -> String {
    format!("{NAME}@{}\n", image.manifest.descriptor.digest)
}

fn check_health(options: &Options) -> Result<i32, String> {
    let address = options.listen.unwrap_or((Ipv4Addr::LOCALHOST, PORT).into());
    health::check(address).map_err(|error| format!("unhealthy, {address}: {error}"))?;
    Ok(DONE)
}

fn print(text: &str) -> Result<i32, String> {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| format!("cannot write to standard output: {error}"))?;
    Ok(DONE)
}

/// Writes to standard error. Nobody may be there to read it, which `eprint!` would panic about.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
