//! How the server handles failures of the system: each system call that it makes fails in turn, with each error that
//! the call's manual page lists.
//!
//! Documents: strace(1), and section 2 of the manual pages for the errors of each call.
//!
//! strace injects the error instead of making the call. A first run without faults records the calls that the server
//! makes, at start and while it serves. Then the first, second, third and last call of each kind fails, each in a
//! separate run, and in another run every third call from the second on. Meanwhile a client requests everything,
//! resumes after a connection was cut, and compares every byte. A test fails if a call is missing from the table below,
//! or if a fault
//!
//! * ends the server at start without a message;
//! * cuts more connections than there are failed calls, or changes a byte that a client receives;
//! * makes the server retry forever;
//! * prevents the server from ending at SIGTERM.
//!
//! The tests that inject faults need strace, and one of them needs the right to attach strace to a running process.
//! They are skipped without these.
//!
//! Deliberately absent: faults of `brk`, which strace cannot inject because `brk` reports a failure by the address that
//! it returns. Another test limits the server's memory instead.

mod common;

use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{
    Background, Client, Folder, PATIENCE, Response, Server, eventually, find, has_tool, is_root, quinistry_at, report,
    request, sha256, system, tool, write_executable,
};
use quinistry::budget::Budget;

/// The errors of each call, from the manual pages. They include errors that only wrong arguments can cause, because a
/// system call filter may make a call fail with any error.
const ERRORS: &[(&str, &str)] = &[
    // Made by the C library before it calls `main`.
    ("arch_prctl", "EFAULT EINVAL ENODEV EPERM"),
    ("getrandom", "EAGAIN EFAULT EINTR EINVAL ENOSYS"),
    ("mprotect", "EACCES EINVAL ENOMEM"),
    ("readlink", "EACCES EINVAL EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR"),
    ("readlinkat", "EACCES EBADF EINVAL EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR"),
    ("rseq", "EBUSY EFAULT EINVAL EPERM"),
    ("set_robust_list", "EINVAL"),
    ("set_tid_address", "ENOSYS"),
    // Signals.
    ("rt_sigaction", "EFAULT EINVAL"),
    ("rt_sigprocmask", "EFAULT EINVAL"),
    ("signalfd4", "EBADF EINVAL EMFILE ENFILE ENODEV ENOMEM"),
    // Files.
    (
        "openat",
        "EACCES EAGAIN EBADF EBUSY EDQUOT EEXIST EFAULT EFBIG EINTR EINVAL EISDIR ELOOP EMFILE ENAMETOOLONG ENFILE ENODEV \
         ENOENT ENOMEM ENOSPC ENOTDIR ENXIO EOPNOTSUPP EOVERFLOW EPERM EROFS ETXTBSY",
    ),
    ("fstat", "EBADF EFAULT ENOMEM EOVERFLOW"),
    ("newfstatat", "EACCES EBADF EFAULT EINVAL ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EOVERFLOW"),
    ("getdents64", "EBADF EFAULT EINVAL ENOENT ENOTDIR"),
    ("statx", "EACCES EBADF EFAULT EINVAL ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR"),
    ("memfd_create", "EFAULT EINVAL EMFILE ENFILE ENOMEM EPERM"),
    ("fcntl", "EACCES EAGAIN EBADF EBUSY EDEADLK EFAULT EINTR EINVAL EMFILE ENOLCK EPERM"),
    ("ioctl", "EBADF EFAULT EINVAL ENOTTY"),
    ("read", "EAGAIN EBADF EFAULT EINTR EINVAL EIO EISDIR"),
    ("write", "EAGAIN EBADF EDESTADDRREQ EDQUOT EFAULT EFBIG EINTR EINVAL EIO ENOSPC EPERM EPIPE"),
    ("close", "EBADF EDQUOT EINTR EIO ENOSPC"),
    // The listener.
    ("socket", "EACCES EAFNOSUPPORT EINVAL EMFILE ENFILE ENOBUFS ENOMEM EPROTONOSUPPORT"),
    ("setsockopt", "EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK"),
    ("getsockopt", "EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK"),
    ("bind", "EACCES EADDRINUSE EADDRNOTAVAIL EBADF EFAULT EINVAL ENOMEM ENOTSOCK"),
    ("listen", "EADDRINUSE EBADF ENOTSOCK EOPNOTSUPP"),
    ("getsockname", "EBADF EFAULT EINVAL ENOBUFS ENOTSOCK"),
    // From ENETDOWN on, these are errors of the network that were pending on the new socket (accept(2)).
    (
        "accept4",
        "EAGAIN EBADF ECONNABORTED EFAULT EINTR EINVAL EMFILE ENFILE ENOBUFS ENOMEM ENOTSOCK EOPNOTSUPP EPERM \
         EPROTO ENOSR ESOCKTNOSUPPORT EPROTONOSUPPORT ETIMEDOUT ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET \
         EHOSTUNREACH ENETUNREACH",
    ),
    // Clients. tcp(7) and ip(7) list the errors of the network.
    (
        "recvfrom",
        "EAGAIN EBADF ECONNREFUSED ECONNRESET EFAULT EHOSTUNREACH EINTR EINVAL ENETUNREACH ENOMEM ENOTCONN \
         ENOTSOCK ETIMEDOUT",
    ),
    (
        "sendto",
        "EACCES EAGAIN EALREADY EBADF ECONNRESET EDESTADDRREQ EFAULT EHOSTUNREACH EINTR EINVAL EISCONN EMSGSIZE \
         ENETUNREACH ENOBUFS ENOMEM ENOTCONN ENOTSOCK EOPNOTSUPP EPIPE ETIMEDOUT",
    ),
    ("sendfile", "EAGAIN EBADF ECONNRESET EFAULT EINTR EINVAL EIO ENOMEM EOVERFLOW EPIPE ESPIPE"),
    ("shutdown", "EBADF EINVAL ENOTCONN ENOTSOCK"),
    // The loop.
    ("epoll_create1", "EINVAL EMFILE ENFILE ENOMEM"),
    ("epoll_ctl", "EBADF EEXIST EINVAL ELOOP ENOENT ENOMEM ENOSPC EPERM"),
    // Any other error of `epoll_wait` means that its arguments are wrong. The server could only retry forever.
    ("epoll_wait", "EINTR"),
    ("poll", "EFAULT EINTR EINVAL ENOMEM"),
    // Memory, limits and rights.
    ("mmap", "EACCES EAGAIN EBADF EEXIST EINVAL ENFILE ENODEV ENOMEM EOVERFLOW EPERM ETXTBSY"),
    ("mremap", "EAGAIN EFAULT EINVAL ENOMEM"),
    ("munmap", "EINVAL ENOMEM"),
    ("prlimit64", "EFAULT EINVAL EPERM ESRCH"),
    ("prctl", "EACCES EBADF EBUSY EFAULT EINVAL ENODEV ENXIO EOPNOTSUPP EPERM ERANGE"),
    ("seccomp", "EACCES EBUSY EFAULT EINVAL ENOMEM ENOSYS EOPNOTSUPP ESRCH"),
];

/// Calls that cannot fail, or whose failure strace cannot inject.
const WITHOUT_FAULT: [&str; 5] = ["brk", "execve", "exit_group", "getpid", "restart_syscall"];

/// The number of servers that run at the same time.
const WORKERS: usize = 4;

/// The maximum number of lines in a trace. A longer trace means that the server retries something forever.
const MAX_LINES: usize = 1000;

/// The number of lines that each client of a crowd may add to a trace.
const LINES_OF_CLIENT: usize = 20;

/// The maximum number of times that a client reconnects.
const MAX_CUTS: usize = 100;

/// How long a client waits before each request, so that the server becomes idle and writes its log.
const BREATH: Duration = Duration::from_millis(3);

/// How long a client waits for a response if the fault hides from the server that the client has sent something.
const LIED_TO: Duration = Duration::from_millis(300);

/// The number of clients that stay connected to provoke the calls in `OF_CROWD`: the table of clients becomes too large
/// for the heap, and then grows again.
const CROWD: usize = 2200;
const OF_CROWD: [&str; 3] = ["mmap", "mremap", "munmap"];

/// The calls whose failure makes the C library end the process with its own message and exit code 127.
const OF_C_LIBRARY: [&str; 2] = ["arch_prctl", "mprotect"];

/// Writes a copy of the program without its debug information, and returns the path of the copy. Three quarters of the
/// program are debug information, so the copy packs itself, and therefore starts, much faster.
fn lean(folder: &Folder) -> String {
    const CLASS_64_LITTLE_ENDIAN: [u8; 2] = [2, 1];
    let mut executable = fs::read(env!("CARGO_BIN_EXE_quinistry")).expect("the executable");
    // elf(5): the offset, size and number of the program headers, and in each, the offset and size of a segment.
    if executable[4..6] == CLASS_64_LITTLE_ENDIAN {
        let number = |at: usize, size: usize| {
            executable[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
        };
        let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        let segments = (0..count).map(|index| headers + index * size);
        let end = segments.map(|at| number(at + 8, 8) + number(at + 32, 8)).max().expect("there are segments");
        executable.truncate(end);
        // The copy has no table of sections, so the header must not refer to one.
        executable[40..48].fill(0);
        executable[60..64].fill(0);
    }
    let path = folder.path("quinistry");
    write_executable(&path, &executable);
    path
}

/// Returns whether strace works here.
fn can_trace() -> bool {
    has_tool("strace", &["-o", "/dev/null", env!("CARGO_BIN_EXE_quinistry"), "version"])
}

/// Returns whether strace can attach to a process that it has not started.
fn can_attach() -> bool {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    scope.map_or(true, |scope| scope.trim() == "0") || is_root("only root may attach strace to a process here")
}

/// A fault to inject: a call, its error, and which occurrences of the call fail, in the syntax of strace's `when`.
struct Fault {
    call: &'static str,
    error: &'static str,
    when: String,
}

/// Writes the fault as an argument of strace's `-e`.
impl Display for Fault {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "inject={}:error={}:when={}", self.call, self.error, self.when)
    }
}

impl Fault {
    /// Returns whether the error falsely says that a socket is not ready. The kernel reports each event only once, so
    /// the server then waits for the next event, and may never send the response.
    fn is_lie(&self) -> bool {
        self.error == "EAGAIN" && self.call != "read" && self.call != "write"
    }
}

/// A path that a client requests, and the content that the client must receive.
struct Page {
    path: String,
    content: Vec<u8>,
}

/// A program, and what clients request from it.
struct Site {
    folder: Folder,
    program: String,
    pages: Vec<Page>,
}

impl Site {
    /// Starts a server without faults, and records the content of each page.
    fn learn() -> Self {
        let folder = Folder::new("faults");
        let program = lean(&folder);
        let server = Server::start_as(quinistry_at(&program).args(["--listen", "127.0.0.1:0"]));
        let manifest = server.manifest();
        let digests = [&manifest["config"], &manifest["layers"][0]].map(|blob| blob["digest"].as_str());
        let blobs = digests.map(|digest| format!("/v2/quinistry/blobs/{}", digest.expect("text")));
        let paths = ["/v2/", "/v2/quinistry/manifests/latest", "/healthz"].map(str::to_owned);
        let pages = paths.into_iter().chain(blobs).map(|path| {
            let content = server.ask(&format!("GET {path}"), &[]).content;
            assert!(!path.contains("sha256:") || path.ends_with(&sha256(&content)), "{path}");
            Page { path, content }
        });
        Self { pages: pages.collect(), folder, program }
    }

    /// Requests all pages, and reconnects when a connection is cut. Returns the number of cuts.
    fn visit(
        &self,
        address: SocketAddr,
        patience: Duration,
        mut is_gone: impl FnMut() -> bool,
    ) -> Result<usize, String> {
        let (mut cuts, mut stream) = (0, None);
        for page in &self.pages {
            let mut known = 0;
            while known < page.content.len() {
                std::thread::sleep(BREATH);
                let Err(error) = page.ask(address, &mut stream, patience, &mut known) else { continue };
                if is_wrong(&error, patience) || is_gone() || cuts == MAX_CUTS {
                    return Err(format!("{} after {cuts} cuts: {error}", page.path));
                }
                stream = None;
                cuts += 1;
            }
        }
        Ok(cuts)
    }
}

impl Page {
    /// Requests the content from byte `known` on, and adds the number of bytes that arrive to `known`.
    fn ask(
        &self,
        address: SocketAddr,
        stream: &mut Option<TcpStream>,
        patience: Duration,
        known: &mut usize,
    ) -> io::Result<()> {
        let stream = match stream {
            Some(stream) => stream,
            None => stream.insert(TcpStream::connect(address)?),
        };
        stream.set_read_timeout(Some(patience))?;
        let range = format!("Range: bytes={known}-");
        let (fields, status) = if *known > 0 { (&[&*range][..], 206) } else { (&[][..], 200) };
        stream.write_all(request(&format!("GET {}", self.path), fields).as_bytes())?;
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        let end = loop {
            if let Some(at) = find(&bytes, b"\r\n\r\n") {
                break at + 4;
            }
            bytes.extend_from_slice(read(stream, &mut buffer)?);
        };
        let response = Response::from_head(&bytes[..end]);
        let mut rest = &self.content[*known..];
        if (response.status, response.content_length()) != (status, rest.len()) {
            return Err(wrong(format!("{} from {known}: {response:?}", self.path)));
        }
        let mut piece = &bytes[end..];
        loop {
            let Some(left) = rest.strip_prefix(piece) else {
                return Err(wrong(format!("{}: a wrong byte", self.path)));
            };
            *known += piece.len();
            rest = left;
            if rest.is_empty() {
                return Ok(());
            }
            piece = read(stream, &mut buffer)?;
        }
    }
}

/// Returns whether this is an error that no fault may cause: a wrong byte, or a response that has not arrived although
/// the client has waited for [`PATIENCE`].
fn is_wrong(error: &io::Error, patience: Duration) -> bool {
    match error.kind() {
        ErrorKind::InvalidData => true,
        ErrorKind::WouldBlock => patience == PATIENCE,
        _ => false,
    }
}

fn wrong(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

/// Reads some bytes. The end of the stream is an error.
fn read<'b>(stream: &mut TcpStream, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    match stream.read(buffer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        count => Ok(&buffer[..count]),
    }
}

/// Sends a request with content, which the server refuses. Then sends more content than the server discards, and waits
/// for the end of the connection.
fn upload(address: SocketAddr, patience: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(patience))?;
    let content = vec![0; 300_000];
    stream.write_all(
        request("POST /v2/quinistry/blobs/uploads/", &[&format!("Content-Length: {}", content.len())]).as_bytes(),
    )?;
    let mut buffer = vec![0; 4096];
    let response = read(&mut stream, &mut buffer)?;
    if !response.starts_with(b"HTTP/1.1 405 ") {
        return Err(wrong(String::from_utf8_lossy(response).into_owned()));
    }
    stream.write_all(&content)?;
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// The output of strace, with one call on each line.
struct Trace(String);

impl Trace {
    /// Reads the trace when the process has ended, and removes its file.
    fn read(path: &str) -> Self {
        let read = || fs::read_to_string(path).ok().filter(|text| text.ends_with("+++\n"));
        let text = eventually("strace writes its last line", read);
        fs::remove_file(path).expect("the file is our own");
        Self(text)
    }

    /// Returns whether the fault was injected.
    fn is_hit(&self) -> bool {
        self.0.contains("(INJECTED)")
    }

    /// Checks that there were at most as many cuts as faults, and that nothing was retried forever.
    fn check(&self, cuts: usize, max_lines: usize) -> Result<(), String> {
        let (faults, lines) = (self.0.matches("(INJECTED)").count(), self.0.lines().count());
        if cuts > faults || lines > max_lines {
            return Err(format!("{cuts} cuts by {faults} faults, {lines} calls"));
        }
        Ok(())
    }

    /// Returns the lines with calls. The others are about signals and the end of the process.
    fn calls(&self) -> Vec<&str> {
        self.0.lines().filter(|line| !line.starts_with(['-', '+'])).collect()
    }
}

/// Returns all faults for these calls.
fn faults(lines: &[&str]) -> Vec<Fault> {
    let mut calls: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in lines {
        let call = line.split('(').next().expect("the name");
        match calls.iter_mut().find(|(known, _)| *known == call) {
            Some((_, lines)) => lines.push(line),
            None => calls.push((call, vec![line])),
        }
    }
    calls.retain(|(call, _)| !WITHOUT_FAULT.contains(call));
    let mut faults = Vec::new();
    for (call, lines) in &calls {
        let Some((call, errors)) = ERRORS.iter().find(|(known, _)| known == call) else {
            panic!("the table has no errors for {call}: {lines:?}");
        };
        let last = lines.len();
        let single = [1, 2, 3, last].into_iter().filter(|&number| number <= last && !is_check(lines[number - 1]));
        let mut when: Vec<_> = single.map(|number| number.to_string()).collect();
        when.dedup();
        if last > 3 && !lines.iter().any(|line| is_check(line)) {
            when.push("2+3".into());
        }
        for error in errors.split(' ') {
            faults.extend(when.iter().map(|when| Fault { call, error, when: when.clone() }));
        }
    }
    faults
}

/// Returns whether this is a call with which a debug build of std checks that a descriptor is open. A release build
/// makes no such call.
fn is_check(line: &str) -> bool {
    let is_standard = ["fcntl(0,", "fcntl(1,", "fcntl(2,"].iter().any(|start| line.starts_with(start));
    line.contains("F_GETFD") && !is_standard
}

/// The outcome of the faults.
#[derive(Default)]
struct Tally {
    tried: usize,
    survived: usize,
    problems: Vec<String>,
}

impl Tally {
    /// Reports the number of faults, and panics if there was a problem.
    fn report(self, when: &str) {
        let Self { tried, survived, problems } = self;
        report(format!("{tried} faults {when}, {survived} of them survived"));
        assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    }
}

/// Tries all faults, several at a time, each with a number. `attempt` returns whether the server survived, or `None`
/// if the fault was not injected.
fn try_all(faults: &[Fault], attempt: impl Fn(&Fault, usize) -> Result<Option<bool>, String> + Sync) -> Tally {
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    let work = || {
        while let Some((number, fault)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|number| Some((number, faults.get(number)?)))
        {
            // Number 0 is the run without faults.
            let outcome = attempt(fault, number + 1);
            let mut tally = tally.lock().expect("no panic while held");
            match outcome {
                Ok(None) => {}
                Ok(Some(survived)) => {
                    tally.tried += 1;
                    tally.survived += usize::from(survived);
                }
                Err(problem) => tally.problems.push(format!("{fault}: {problem}")),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(work);
        }
    });
    tally.into_inner().expect("no panic while held")
}

/// How a run of a server ended.
enum Run {
    /// It served, with this number of cuts, and then exited with 0.
    Served { cuts: usize },
    /// It ended before it had served everything, with this exit code.
    Ended(Option<i32>),
}

/// Returns an address that only the server with this number in this process uses. If the system chose a free port, one
/// of the many clients could take that port before the server listens. Clients do not use these addresses.
fn address(number: usize) -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    ([127, 64 | high & 63, middle, low], 10_000 + number as u16).into()
}

/// Waits until a server listens or ends. Returns whether it listens.
fn listens(server: &mut Background, address: SocketAddr) -> bool {
    eventually("the server listens or ends", || match server.0.try_wait().expect("our own child") {
        None => TcpStream::connect(address).is_ok().then_some(true),
        Some(_) => Some(false),
    })
}

/// Starts a server under strace, with or without a fault, and requests everything. Then stops the server, unless it has
/// ended already. Returns how the run ended, the trace, and standard error.
fn start(site: &Site, number: usize, fault: Option<&Fault>) -> Result<(Run, Trace, String), String> {
    let address = address(number);
    let [trace, stderr] = ["trace", "stderr"].map(|name| site.folder.path(&format!("{number}-{name}")));
    let mut command = tool("strace");
    // With -D, the process that is started becomes the server, and strace is a separate process.
    command.args(["-D", "-q", "-o", &trace]).args(injection(fault));
    command.arg(&site.program).args(["--listen", &address.to_string()]);
    command.stderr(File::create(&stderr).expect("the file can be written"));
    let mut server = Background::start(command.env_remove("QUINISTRY_LISTEN"));
    listens(&mut server, address);
    let mut ended = || server.0.try_wait().expect("our own child");
    let visited = site.visit(address, PATIENCE, || ended().is_some());
    let run = if let Some(status) = ended() {
        Run::Ended(status.code())
    } else {
        let cuts = visited?;
        server.signal(libc::SIGTERM);
        check_end(eventually("the process ends", || server.0.try_wait().expect("our own child")))?;
        Run::Served { cuts }
    };
    Ok((run, Trace::read(&trace), fs::read_to_string(&stderr).expect("text")))
}

/// Starts a server, and attaches strace, with or without a fault, once the server serves. Requests everything, uploads,
/// requests everything again, and stops the server.
fn serve(site: &Site, number: usize, fault: Option<&Fault>, crowd: usize) -> Result<Trace, String> {
    let mut server = Server::start_as(quinistry_at(&site.program).args(["--listen", "127.0.0.1:0"]));
    // The server listens before it is ready to serve. Its first response shows that it is ready.
    let first = server.connect_idle();
    std::thread::sleep(BREATH);
    let path = site.folder.path(&format!("{number}-trace"));
    let mut command = tool("strace");
    command.args(["-q", "-p", &server.pid().to_string(), "-o", &path]).args(injection(fault));
    let mut strace = Background::start(&mut command);
    eventually("strace is attached", || {
        assert!(strace.0.try_wait().expect("our own child").is_none(), "strace has ended");
        (server.status("TracerPid") != 0).then_some(())
    });
    let crowd: Vec<_> = (0..crowd).map(|_| server.connect_idle()).collect();
    let is_lie = fault.is_some_and(Fault::is_lie);
    let is_not_closed = fault.is_some_and(|fault| fault.call == "close");
    let patience = |is_little| if is_little { LIED_TO } else { PATIENCE };
    let visit = || site.visit(server.address, patience(is_lie), || false);
    let mut cuts = visit()?;
    let less_patience = patience(is_lie || is_not_closed);
    if let Err(error) = upload(server.address, less_patience)
        && is_wrong(&error, less_patience)
    {
        return Err(format!("an upload: {error}"));
    }
    cuts += visit()?;
    drop(first);
    server.signal(libc::SIGTERM);
    check_end(server.wait())?;
    let trace = Trace::read(&path);
    trace.check(if is_lie { 0 } else { cuts }, MAX_LINES + crowd.len() * LINES_OF_CLIENT)?;
    Ok(trace)
}

/// Returns the arguments that make strace inject a fault.
fn injection(fault: Option<&Fault>) -> Vec<String> {
    fault.map_or(Vec::new(), |fault| vec!["-e".into(), fault.to_string()])
}

fn check_end(status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("the server did not stop cleanly: {status}")) }
}

#[test]
fn a_fault_at_start_is_survived_or_ends_the_server_with_a_message() {
    if !can_trace() {
        return;
    }
    let site = Site::learn();
    let (run, trace, _) = start(&site, 0, None).expect("no fault is injected");
    assert!(matches!(run, Run::Served { cuts: 0 }));
    let mut calls = trace.calls();
    calls.truncate(1 + calls.iter().position(|call| call.starts_with("seccomp(")).expect("the server confines itself"));
    let tally = try_all(&faults(&calls), |fault, number| {
        let (run, trace, stderr) = start(&site, number, Some(fault))?;
        let survived = match run {
            Run::Served { cuts } => trace.check(cuts, MAX_LINES).map(|()| true)?,
            Run::Ended(Some(1)) if explanation(&stderr).is_some() => false,
            // The server had a message, but could not write it.
            Run::Ended(Some(1)) if fault.call == "write" && trace.0.contains("write(2, \"quinistry: ") => false,
            Run::Ended(Some(127)) if OF_C_LIBRARY.contains(&fault.call) => false,
            Run::Ended(code) => return Err(format!("{code:?}: {stderr}")),
        };
        Ok(trace.is_hit().then_some(survived))
    });
    tally.report("at start");
}

/// Returns the error message of a server that could not start.
fn explanation(stderr: &str) -> Option<&str> {
    stderr.lines().last()?.strip_prefix("quinistry: ").filter(|text| text.contains(' '))
}

#[test]
fn a_fault_while_serving_costs_at_most_the_request_that_it_hits() {
    if !can_trace() || !can_attach() {
        return;
    }
    let site = Site::learn();
    let crowd = CROWD.min(quinistry::system::raise_descriptor_limit().saturating_sub(500));
    let (few, many) = (serve(&site, 0, None, 0), serve(&site, 0, None, crowd));
    let (few, many) = (few.expect("no fault is injected"), many.expect("no fault is injected"));
    let is_of_crowd = |call: &str| OF_CROWD.iter().any(|of_crowd| call.starts_with(of_crowd));
    let few = few.calls().into_iter().filter(|call| !is_of_crowd(call));
    let many = many.calls().into_iter().filter(|call| is_of_crowd(call));
    let tally = try_all(&faults(&few.chain(many).collect::<Vec<_>>()), |fault, number| {
        let trace = serve(&site, number, Some(fault), if is_of_crowd(fault.call) { crowd } else { 0 })?;
        Ok(trace.is_hit().then_some(true))
    });
    tally.report("while serving");
}

#[test]
fn a_server_that_starts_with_little_memory_can_serve_a_crowd() {
    let site = Site::learn();
    for (number, limit) in [system::with_data, system::with_address_space].into_iter().enumerate() {
        // The other tests use the lower numbers.
        let (address, stderr) = (address(5000 + number), site.folder.path("stderr"));
        // The first attempt has only as much memory as the server reserves for its clients. Each further attempt has
        // more, until the rest of the process also has room.
        let memory = Budget::of(u64::MAX, usize::MAX).needed_memory();
        let sizes = (0..).map(|step| (memory + step * 128 * 1024) as u64);
        let mut refused = 0;
        let mut started = sizes.filter_map(|size| {
            let mut command = quinistry_at(&site.program);
            command
                .args(["--listen", &address.to_string()])
                .stderr(File::create(&stderr).expect("the file can be written"));
            let mut server = Background::start(limit(&mut command, size));
            if listens(&mut server, address) {
                return Some(server);
            }
            let said = fs::read_to_string(&stderr).expect("text");
            assert_eq!(server.0.wait().expect("our own child").code(), Some(1), "{said}");
            assert!(said.contains("cannot allocate the 22 MiB of memory"), "{said}");
            refused += 1;
            None
        });
        let mut server = started.next().expect("the server starts with enough memory");
        drop(started);
        assert!(refused > 0);
        let crowd = crowd(&server, address);
        site.visit(address, PATIENCE, || false).expect("no fault is injected");
        drop(crowd);
        server.signal(libc::SIGTERM);
        assert_eq!(check_end(server.0.wait().expect("our own child")), Ok(()));
    }
}

/// Makes the server hold as many incomplete heads and unread responses as its budget allows.
fn crowd(server: &Background, address: SocketAddr) -> Vec<Client> {
    let limit = quinistry::system::raise_descriptor_limit().saturating_sub(500);
    let mut half_heads: Vec<_> = (0..6000.min(limit)).map(|_| Client::connect(address)).collect();
    for client in &mut half_heads {
        client.send_request("GET /v2/", &[]);
        client.response_to("GET /v2/");
    }
    // The clients send while the server is suspended, so that everything arrives at once.
    server.signal(libc::SIGSTOP);
    for (index, client) in half_heads.iter_mut().enumerate() {
        client.send(format!("GET /v2/ HTTP/1.1\r\nX: {}", "a".repeat(index * 37 % 15_000)));
    }
    server.signal(libc::SIGCONT);
    half_heads.truncate(3000);
    let many = request("GET /v2/quinistry/manifests/latest", &[]).repeat(4000);
    for client in &mut half_heads[..500.min(limit / 2)] {
        client.stream.set_write_timeout(Some(Duration::from_millis(1))).expect("a valid time");
        let _ = client.stream.write_all(many.as_bytes());
    }
    half_heads
}
