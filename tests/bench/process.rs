//! The processes that are measured: starts them on their own core, reads their cost so far, and ends them.
//!
//! Document: proc(5).
//!
//! Every server listens on a loopback port that was free a moment ago. Only children of this process are ever stopped.
//!
//! Deliberately absent: a system call that sets the affinity, which would need `unsafe`. The program `taskset` sets
//! it, and then executes the server in the same process, so that the child's ID stays valid.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// The core of the server that is measured, and the core of the client.
pub const SERVER_CORE: usize = 0;
pub const CLIENT_CORE: usize = 1;

/// The maximum time to wait for anything that is not a measurement.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the path of a program, if it is installed. Servers may be in directories that are not in an ordinary
/// user's PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    directories.map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// Returns whether server and client can each have their own core.
pub fn can_pin() -> bool {
    find("taskset").is_some() && std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1)
}

/// Returns a command that runs on one core, if that is possible.
pub fn pinned(core: usize, program: impl AsRef<OsStr>) -> Command {
    if !can_pin() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// Returns an unused address. It is not reserved, but the benchmark runs nothing else that would take it.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

/// A server under measurement, stopped when it is dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts a server and waits until it listens on that address.
    pub fn start(mut command: Command, address: SocketAddr) -> Outcome<Self> {
        // The limit server exits at the end of its input, so it also exits if this process is killed.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let mut server = Self { child, address };
        let start = Instant::now();
        while let Err(error) = TcpStream::connect(address) {
            if server.child.try_wait()?.is_some() || start.elapsed() > PATIENCE {
                return Err(format!("{command:?} does not listen on {address}: {error}").into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn cpu(&self) -> Outcome<Duration> {
        cpu(self.pid())
    }

    /// Returns a number from /proc/PID/status, such as `VmRSS` in KiB.
    pub fn status(&self, key: &str) -> Outcome<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()).ok_or("no such key")?;
        Ok(number.parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the user and system time of a process with one thread. `/proc/PID/stat` would count ticks of 10 ms. The
/// scheduler's statistics are in nanoseconds, and at most one tick out of date.
pub fn cpu(pid: u32) -> Outcome<Duration> {
    let account = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))
        .map_err(|error| format!("the kernel has no CPU time in /proc/PID/schedstat: {error}"))?;
    Ok(Duration::from_nanos(account.split(' ').next().unwrap_or_default().parse()?))
}

/// Sends SIGINT, which makes wrk and strace finish and print their results.
pub fn interrupt(child: &Child) -> io::Result<()> {
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().map(|_| ())
}

/// The head and the content of a response.
pub type Response = (Vec<u8>, Vec<u8>);

/// Sends a request, with `fields` as complete lines. Returns the response and the connection.
pub fn ask(address: SocketAddr, path: &str, fields: &str) -> Outcome<(Response, TcpStream)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request(address, path, fields).as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let mut content = vec![0; content_length(&head).ok_or("a response without a length")?];
    stream.read_exact(&mut content)?;
    Ok(((head, content), stream))
}

/// Returns the request that wrk would send, so that all clients send the same request.
pub fn request(address: SocketAddr, path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n")
}

pub fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\r\nContent-Length: ";
    let start = head.windows(NAME.len()).position(|window| window.eq_ignore_ascii_case(NAME))? + NAME.len();
    let digits = head[start..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}

/// Writes a file, and creates its parent directories.
pub fn write(file: &Path, bytes: impl AsRef<[u8]>) -> Outcome<()> {
    let directory = file.parent().ok_or(io::Error::from(ErrorKind::InvalidInput))?;
    std::fs::create_dir_all(directory)?;
    Ok(std::fs::write(file, bytes)?)
}

/// Returns the median, which one bad round on a busy machine does not change.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<_> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        count => f64::midpoint(figures[(count - 1) / 2], figures[count / 2]),
    }
}
