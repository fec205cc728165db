//! Helpers for the tests: a server under test, a client that checks responses strictly, and, in the submodules, small
//! images, Docker, cluster nodes, system calls, and the external commands that tests may start.
#![allow(dead_code, unused_imports, reason = "each test file uses only a part of this module")]

pub mod docker;
pub mod node;
pub mod sample;
pub mod system;
mod tools;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem::take;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub use tools::{bash, has_tool, is_root, quinistry, quinistry_at, report, skip, this_test, tool};

/// How long a test waits for an event before it fails. The time is long because the machine may be busy. No test
/// depends on its exact length.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The maximum number of bytes of a server's log that are kept. The rest is read and discarded.
const MAX_LOG: usize = 16 * 1024 * 1024;

/// The program under test, listening on its own loopback port.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    log: Arc<(Mutex<String>, Condvar)>,
}

impl Server {
    /// Starts the server on a loopback port that the system chooses.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts the server with additional arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_as(quinistry().args(arguments).args(["--listen", "127.0.0.1:0"]))
    }

    /// Runs a command that starts the server, and waits until the server listens.
    pub fn start_as(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the server starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let writer = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let (text, changed) = &*writer;
                let mut text = text.lock().expect("no panic while held");
                if text.len() < MAX_LOG {
                    *text += &(line + "\n");
                    changed.notify_all();
                }
            }
        });
        let mut server = Self { child, address: ([127, 0, 0, 1], 0).into(), log };
        let line = server.wait_for_log("Listening on ");
        let address = line.split("Listening on ").nth(1).and_then(|rest| rest.split(". ").next());
        server.address = address.and_then(|address| address.parse().ok()).expect("an address");
        server
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Opens a connection, and completes one request on it. Without a request, the kernel would hold back the
    /// connection from the server for a second (`TCP_DEFER_ACCEPT`).
    pub fn connect_idle(&self) -> Client {
        let mut client = self.connect();
        client.send_request("GET /v2/", &[]);
        assert_eq!(client.response_to("GET /v2/").status, 200);
        client
    }

    /// Sends one request on a new connection, and returns the response.
    pub fn ask(&self, request_line: &str, fields: &[&str]) -> Response {
        let mut client = self.connect();
        client.send_request(request_line, fields);
        client.response_to(request_line)
    }

    /// Returns the log so far.
    pub fn log(&self) -> String {
        self.log.0.lock().expect("no panic while held").clone()
    }

    /// Waits for a log line that contains `text`, and returns the log so far.
    pub fn wait_for_log(&self, text: &str) -> String {
        let (log, changed) = &*self.log;
        let guard = log.lock().expect("no panic while held");
        let (log, outcome) =
            changed.wait_timeout_while(guard, PATIENCE, |log| !log.contains(text)).expect("no panic while held");
        assert!(!outcome.timed_out(), "no line with {text:?} in the log:\n{log}");
        log.clone()
    }

    /// Returns the digest of the index, as the log shows it.
    pub fn manifest_digest(&self) -> String {
        let log = self.log();
        let line = log.lines().find(|line| line.trim_start().starts_with("index")).expect("the index's line");
        line.split_whitespace().nth(1).expect("a digest").to_owned()
    }

    /// Returns the manifest for the server's own platform.
    pub fn manifest(&self) -> serde_json::Value {
        let accept = "Accept: application/vnd.docker.distribution.manifest.v2+json";
        self.ask("GET /v2/quinistry/manifests/latest", &[accept]).json()
    }

    /// Returns the digest and size of each layer that the manifest lists.
    pub fn layers(&self) -> Vec<(String, usize)> {
        let manifest = self.manifest();
        let layers = manifest["layers"].as_array().expect("a list");
        let describe = |layer: &serde_json::Value| {
            let size = layer["size"].as_u64().and_then(|size| size.try_into().ok());
            (layer["digest"].as_str().expect("a digest").to_owned(), size.expect("a size"))
        };
        layers.iter().map(describe).collect()
    }

    /// Returns the digest and size of the only layer.
    pub fn layer(&self) -> (String, usize) {
        let mut layers = self.layers();
        assert_eq!(layers.len(), 1);
        layers.remove(0)
    }

    /// Sends the server a signal, such as `libc::SIGTERM`.
    pub fn signal(&self, signal: i32) {
        system::signal(&self.child, signal);
    }

    /// Suspends the server, and returns once it is suspended. Everything that clients send until [`Server::thaw`] then
    /// arrives at once.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Resumes the server after [`Server::freeze`].
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Limits the number of descriptors that the server may have open.
    pub fn limit_descriptors(&self, count: usize) {
        system::limit_descriptors(&self.child, count);
    }

    /// Waits until the server ends, and returns its exit status.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the server ends", || self.child.try_wait().expect("our own child"))
    }

    /// Returns a number from /proc/PID/status, such as `VmRSS` in KiB.
    pub fn status(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server runs");
        let line = status.lines().find(|line| line.starts_with(key)).expect("a known key");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    pub fn open_descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server runs").count()
    }

    /// Returns the CPU time that the server has used so far, in clock ticks.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the server runs");
        let fields: Vec<_> = stat.rsplit(") ").next().expect("after the name").split(' ').collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Repeats `attempt` until it returns a value, which this function then returns. Panics, naming `what` it waited for,
/// if this takes longer than [`PATIENCE`].
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "timed out before this happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An HTTP client that checks what it receives.
pub struct Client {
    pub stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a valid time");
        stream.set_write_timeout(Some(PATIENCE)).expect("a valid time");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream, unread: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads");
    }

    /// Sends an HTTP/1.1 request with a Host field.
    pub fn send_request(&mut self, request_line: &str, fields: &[&str]) {
        self.send(request(request_line, fields));
    }

    /// Ends the stream of requests. The client can still read responses.
    pub fn finish(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("the connection is open");
    }

    /// Reads the response to a request. Bytes that follow its content are kept for the next response.
    pub fn response_to(&mut self, request_line: &str) -> Response {
        let head_end = loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                break end + 4;
            }
            assert!(self.read_more(), "the connection ended within a head: {:?}", lossy(&self.unread));
        };
        let mut response = Response::from_head(&self.unread[..head_end]);
        self.unread.drain(..head_end);
        let has_content = !request_line.starts_with("HEAD ") && ![204, 304].contains(&response.status);
        let length = if has_content { response.content_length() } else { 0 };
        while self.unread.len() < length {
            assert!(self.read_more(), "the connection ended within content");
        }
        response.content = self.unread.drain(..length).collect();
        response
    }

    fn read_more(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        let count = loop {
            match self.stream.read(&mut bytes) {
                // If a socket has a timeout, the kernel does not restart a read that a signal interrupts (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.expect("a response or the end of the connection"),
            }
        };
        self.unread.extend_from_slice(&bytes[..count]);
        count > 0
    }

    /// Asserts that the server closes the connection cleanly and sends nothing more.
    pub fn expect_end(mut self) {
        assert!(!self.read_more(), "expected the end of the connection, got {:?}", lossy(&self.unread));
        assert!(self.unread.is_empty(), "expected the end of the connection, got {:?}", lossy(&self.unread));
    }

    /// Waits until the server closes or resets the connection. Returns false if the server sends anything first.
    pub fn is_closed(&mut self) -> bool {
        loop {
            match self.stream.read(&mut [0; 1024]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
                Ok(count) => return count == 0,
            }
        }
    }
}

/// Returns an HTTP/1.1 request with a Host field.
pub fn request(request_line: &str, fields: &[&str]) -> String {
    let head = format!("{request_line} HTTP/1.1\r\nHost: localhost:8080\r\n");
    fields.iter().fold(head, |head, field| head + field + "\r\n") + "\r\n"
}

/// A response, as a client receives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    pub status: u16,
    pub fields: HashMap<String, String>,
    pub content: Vec<u8>,
}

impl Response {
    /// Parses a head strictly: no field may occur twice, and there must be no superfluous whitespace.
    pub fn from_head(head: &[u8]) -> Self {
        let head = str::from_utf8(head).expect("ASCII");
        let mut lines = head.strip_suffix("\r\n\r\n").expect("a complete head").split("\r\n");
        let status_line = lines.next().expect("a status line");
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..4)).expect(status_line);
        let mut fields = HashMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").expect("a field line");
            assert!(!name.contains(' ') && value.trim() == value, "{line:?}");
            assert!(fields.insert(name.to_lowercase(), value.to_owned()).is_none(), "duplicate: {line:?}");
        }
        Self { status: status.trim().parse().expect("three digits"), fields, content: Vec::new() }
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(&name.to_lowercase()).map(String::as_str)
    }

    /// Returns the Content-Length, which the response must have.
    pub fn content_length(&self) -> usize {
        let length = self.field("content-length").expect("every response with content has a Content-Length");
        length.parse().expect("a number")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.content).expect("JSON")
    }

    /// Returns the code of an error response, and checks that the response has the format of the distribution-spec.
    pub fn error_code(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/json"));
        let json = self.json();
        let errors = json["errors"].as_array().expect("a list of errors");
        assert_eq!(errors.len(), 1);
        assert!(errors[0]["message"].is_string() && !errors[0]["detail"].is_null());
        errors[0]["code"].as_str().expect("a code").to_owned()
    }
}

pub fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

pub fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Computes a digest independently of the code under test.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Runs a command, which must succeed, and returns its standard output.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (lossy(&output.stdout), lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// Writes an executable file in a child process. If this process wrote the file, the child of a concurrent test could
/// inherit the open descriptor, and executing the file would fail with ETXTBSY.
pub fn write_executable(path: &str, content: &[u8]) {
    let mut install = tool("install");
    let mut child = install.args(["-m", "755", "/dev/stdin", path]).stdin(Stdio::piped()).spawn().expect("coreutils");
    child.stdin.take().expect("the stream is piped").write_all(content).expect("the file can be written");
    assert!(child.wait().expect("our own child").success(), "{path} cannot be written");
}

/// Returns a command that starts the program as the user and group 65532. `program` is the open executable, because that
/// user may have no access to the directory of the build.
pub fn quinistry_as_other_user(program: &File) -> Command {
    const NUMBER: i32 = 100;
    let mut command = quinistry_at(format!("/proc/self/fd/{NUMBER}"));
    system::with_descriptor(command.uid(65532).gid(65532), program, NUMBER);
    command
}

/// Opens the executable under test.
pub fn open_program() -> File {
    File::open(env!("CARGO_BIN_EXE_quinistry")).expect("Cargo has built it")
}

/// Writes the image to a file, with `quinistry save` and these arguments.
pub fn save(path: &str, arguments: &[&str]) {
    let file = std::fs::File::create(path).expect("the file can be written");
    run(quinistry().arg("save").args(arguments).stdout(file));
}

/// The README, followed by the README for Kubernetes.
pub const README: &str = concat!(include_str!("../../README.md"), include_str!("../../k8s/README.md"));

/// Returns the README's code blocks in a language, such as `sh`.
pub fn readme_blocks(language: &str) -> impl Iterator<Item = &'static str> {
    let blocks = README.split("```").skip(1).step_by(2);
    blocks.filter_map(move |block| block.strip_prefix(language)?.strip_prefix('\n'))
}

/// Returns the README's first code block in a language that contains `text`.
pub fn readme_block(language: &str, text: &str) -> &'static str {
    readme_blocks(language).find(|block| block.contains(text)).expect("the README has it")
}

/// Copies the executable under test, and changes the header of the copy so that it names another processor: arm64, or
/// amd64 if this machine is arm64. Returns the path of the copy.
pub fn sibling(folder: &Folder) -> String {
    let mut executable = std::fs::read(env!("CARGO_BIN_EXE_quinistry")).expect("the executable");
    executable[18] = if other_goarch() == "arm64" { sample::ARM64 } else { sample::AMD64 };
    let path = folder.path("sibling");
    std::fs::write(&path, executable).expect("the file can be written");
    path
}

/// Returns the architecture that the header of a [`sibling`] names.
pub fn other_goarch() -> &'static str {
    if goarch() == "arm64" { "amd64" } else { "arm64" }
}

/// Returns Go's name for the architecture of this machine.
pub fn goarch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Returns a loopback port that was free a moment ago. The ports that Linux chooses, for clients and for servers that
/// ask for port 0, are all higher. So no other server takes this port before the test uses it.
pub fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let first = std::process::id() as usize * 100;
    let ports = std::iter::repeat_with(|| 12_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000);
    let mut ports = ports.map(|port| u16::try_from(port).expect("it is below 32,000"));
    ports.find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok()).expect("some port is free")
}

/// A background process, which is killed when the value is dropped.
pub struct Background(pub Child);

impl Background {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub fn signal(&self, signal: i32) {
        system::signal(&self.0, signal);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server whose log goes to a terminal.
pub struct OnTerminal {
    pub server: Background,
    pub address: SocketAddr,
    /// The user's side of the terminal.
    pub person: File,
    program: File,
}

impl OnTerminal {
    /// Starts the server, and waits until it listens.
    pub fn start() -> Self {
        let (address, (person, program)) = (([127, 0, 0, 1], free_port()).into(), system::terminal());
        let mut command = quinistry();
        let stderr = program.try_clone().expect("a descriptor");
        command.args(["--listen", &SocketAddr::to_string(&address)]).stderr(stderr);
        let server = Background::start(&mut command);
        eventually("the server listens", || TcpStream::connect(address).ok());
        Self { server, address, person, program }
    }

    /// Stops the terminal's output, as Ctrl-S does.
    pub fn hold(&mut self) {
        system::hold(&mut self.person, &self.program);
    }

    /// Resumes the terminal's output, as Ctrl-Q does.
    pub fn release(&mut self) {
        self.person.write_all(b"\x11").expect("the terminal is open");
    }

    /// Reads from the terminal until a complete line contains `text`, and returns everything that was read. Meanwhile,
    /// sends requests that are not logged. They wake the server, which would otherwise pause before it writes to a full
    /// terminal again.
    pub fn read_until(&mut self, text: &str) -> String {
        let (mut read, mut bytes) = (String::new(), [0; 4096]);
        let mut waking = Client::connect(self.address);
        eventually(text, || {
            waking.send_request("GET /healthz", &[]);
            waking.response_to("GET /healthz");
            let count = self.person.read(&mut bytes).unwrap_or(0);
            read += &lossy(&bytes[..count]);
            let is_complete = read.ends_with('\n') && read.lines().any(|line| line.contains(text));
            is_complete.then(|| take(&mut read))
        })
    }
}

/// A temporary directory, which is removed when the value is dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("quinistry-{name}-{process}-{count}"));
        std::fs::create_dir(&path).expect("a writable directory");
        Self(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
