//! What becomes of the server when the system fails it: each call that it makes fails in turn, with each
//! error that the call is known to fail with.
//!
//! Documents: strace(1), and section 2 of the manual pages for the errors of each call.
//!
//! strace lets a call fail instead of being made. A first run without faults counts which calls the server
//! makes, at its start and then while it serves. Then the first, the second, the third and the last of each
//! kind fails, each in a run of its own, and in one more run every third. A client asks for everything
//! meanwhile, goes on after a connection that was cut, and compares every byte. So a call or an error that is
//! missing in the table below is found, and so is a fault that
//!
//! * ends the start without a message;
//! * costs more requests than it hits, or a client a byte;
//! * has the server try forever;
//! * keeps it from ending at SIGTERM.
//!
//! Deliberately absent: `brk`. It reports failure by its result, which strace cannot make up. The memory
//! that it would give is limited instead.

mod common;

use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{
    Answer, Background, Client, Folder, PATIENCE, Server, eventually, find, has_tool, is_root, quinistry_at,
    report, request, sha256, system, tool,
};
use quinistry::budget::Budget;
use quinistry::server::needed_memory;

/// The errors that each call fails with, as the manual pages have them. Errors of an argument that can
/// only be a mistake of the program's are among them: a filter of system calls may give any.
const ERRORS: &[(&str, &str)] = &[
    // The C library's own, before it calls `main`.
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
    // accept(2) has those of the network from ENETDOWN on.
    (
        "accept4",
        "EAGAIN EBADF ECONNABORTED EFAULT EINTR EINVAL EMFILE ENFILE ENOBUFS ENOMEM ENOTSOCK EOPNOTSUPP EPERM \
         EPROTO ENOSR ESOCKTNOSUPPORT EPROTONOSUPPORT ETIMEDOUT ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET \
         EHOSTUNREACH ENETUNREACH",
    ),
    // Clients. tcp(7) and ip(7) have the errors that a network adds.
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
    // Its other errors are those of wrong arguments, after which the server could only spin.
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

/// Calls that cannot fail, or not by strace.
const WITHOUT_FAULT: [&str; 5] = ["brk", "execve", "exit_group", "getpid", "restart_syscall"];

/// How many servers are tried at the same time.
const WORKERS: usize = 4;

/// More lines than any of these servers has in its trace, unless it tries something forever.
const MAX_LINES: usize = 1000;

/// And that many for each client of a crowd.
const LINES_OF_CLIENT: usize = 20;

/// How often a client begins anew before it stops.
const MAX_CUTS: usize = 100;

/// How long a client waits before each request. So the server comes to rest in between, and writes its log.
const BREATH: Duration = Duration::from_millis(3);

/// For how long a client waits for a server to which the kernel has lied.
const LIED_TO: Duration = Duration::from_millis(300);

/// How many clients stay connected where the calls are to fail that such a crowd brings about: the table of
/// clients then grows beyond what comes from the heap, and grows again.
const CROWD: usize = 2200;
const OF_CROWD: [&str; 3] = ["mmap", "mremap", "munmap"];

/// The calls without which a C library ends with a message of its own and exit code 127.
const OF_C_LIBRARY: [&str; 2] = ["arch_prctl", "mprotect"];

/// The program without what only a debugger reads, three quarters of it. Its start, of which most is packing
/// itself, takes the less time.
fn lean(folder: &Folder) -> String {
    const CLASS_64_LITTLE_ENDIAN: [u8; 2] = [2, 1];
    let mut executable = fs::read(env!("CARGO_BIN_EXE_quinistry")).expect("the executable");
    // elf(5): where the program headers are, how large and how many; and in each, a segment's offset and
    // size in the file.
    if executable[4..6] == CLASS_64_LITTLE_ENDIAN {
        let number = |at: usize, size: usize| {
            executable[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
        };
        let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        let segments = (0..count).map(|index| headers + index * size);
        let end =
            segments.map(|at| number(at + 8, 8) + number(at + 32, 8)).max().expect("there are segments");
        executable.truncate(end);
        // Now there are no sections.
        executable[40..48].fill(0);
        executable[60..64].fill(0);
    }
    let path = folder.path("quinistry");
    fs::write(&path, executable).expect("room for it");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

/// Whether strace may trace here.
fn can_trace() -> bool {
    has_tool("strace", &["-o", "/dev/null", env!("CARGO_BIN_EXE_quinistry"), "version"])
}

/// Whether strace may attach itself to a process that it has not started.
fn can_attach() -> bool {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    scope.map_or(true, |scope| scope.trim() == "0")
        || is_root("only root's strace may attach itself to a process here")
}

/// A call, the error that it fails with, and which of its calls fail, as strace's `when` has it.
struct Fault {
    call: &'static str,
    error: &'static str,
    when: String,
}

/// As strace wants it.
impl Display for Fault {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "inject={}:error={}:when={}", self.call, self.error, self.when)
    }
}

impl Fault {
    /// Whether the kernel would tell a lie. A server to which an event is reported once must believe that there
    /// is nothing to do until the next; so the client may wait forever, and does not.
    fn is_lie(&self) -> bool {
        self.error == "EAGAIN" && self.call != "read" && self.call != "write"
    }
}

/// What a client asks for, and what it has to get.
struct Page {
    path: String,
    content: Vec<u8>,
}

/// A program, and what clients ask of it.
struct Site {
    folder: Folder,
    program: String,
    pages: Vec<Page>,
}

impl Site {
    /// Learns it from a server without faults.
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

    /// Asks for everything, and begins anew when a connection is cut; returns how often one was.
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
    /// Asks for what is not `known` of the content, and adds to that what comes.
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
        let answer = Answer::from_head(&bytes[..end]);
        let mut rest = &self.content[*known..];
        if (answer.status, answer.content_length()) != (status, rest.len()) {
            return Err(wrong(format!("{} from {known}: {answer:?}", self.path)));
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

/// Whether an error is none that a fault may bring about: a wrong byte, or no answer at all, unless the client
/// has little patience because there may be none.
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

/// Reads some bytes; the end is an error.
fn read<'b>(stream: &mut TcpStream, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    match stream.read(buffer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        count => Ok(&buffer[..count]),
    }
}

/// Sends content that the server does not want, and more of it than the server discards, after the answer
/// has come; waits for the end of the connection.
fn upload(address: SocketAddr, patience: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(patience))?;
    let content = vec![0; 300_000];
    stream.write_all(
        request("POST /v2/quinistry/blobs/uploads/", &[&format!("Content-Length: {}", content.len())])
            .as_bytes(),
    )?;
    let mut buffer = vec![0; 4096];
    let answer = read(&mut stream, &mut buffer)?;
    if !answer.starts_with(b"HTTP/1.1 405 ") {
        return Err(wrong(String::from_utf8_lossy(answer).into_owned()));
    }
    stream.write_all(&content)?;
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// A trace: the lines of strace, each with a call.
struct Trace(String);

impl Trace {
    /// Reads it once the process has ended.
    fn read(path: &str) -> Self {
        let read = || fs::read_to_string(path).ok().filter(|text| text.ends_with("+++\n"));
        let text = eventually("strace writes its last line", read);
        fs::remove_file(path).expect("it is ours");
        Self(text)
    }

    /// Whether the fault was met.
    fn is_hit(&self) -> bool {
        self.0.contains("(INJECTED)")
    }

    /// Checks that there were no more cuts than faults, and that nothing was tried forever.
    fn check(&self, cuts: usize, max_lines: usize) -> Result<(), String> {
        let (faults, lines) = (self.0.matches("(INJECTED)").count(), self.0.lines().count());
        if cuts > faults || lines > max_lines {
            return Err(format!("{cuts} cuts by {faults} faults, {lines} calls"));
        }
        Ok(())
    }

    /// The calls, in lines. The other lines are of signals and of the end.
    fn calls(&self) -> Vec<&str> {
        self.0.lines().filter(|line| !line.starts_with(['-', '+'])).collect()
    }
}

/// All faults that calls like these can meet.
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
            panic!("the table knows no errors of {call}: {lines:?}");
        };
        let last = lines.len();
        let single =
            [1, 2, 3, last].into_iter().filter(|&number| number <= last && !is_check(lines[number - 1]));
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

/// Whether a call is one by which a debug build of std makes sure that what it closes is open. What ships
/// does not make it.
fn is_check(line: &str) -> bool {
    let is_standard = ["fcntl(0,", "fcntl(1,", "fcntl(2,"].iter().any(|start| line.starts_with(start));
    line.contains("F_GETFD") && !is_standard
}

/// What became of the faults.
#[derive(Default)]
struct Tally {
    tried: usize,
    survived: usize,
    problems: Vec<String>,
}

impl Tally {
    /// Reports how many there were, and fails if there was a problem.
    fn tell(self, when: &str) {
        let Self { tried, survived, problems } = self;
        report(format!("{tried} faults {when}, of which {survived} were survived"));
        assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    }
}

/// Tries all faults, some at a time, each with a number. `attempt` returns whether the server survived; nothing
/// if the fault was not met.
fn try_all(
    faults: &[Fault],
    attempt: impl Fn(&Fault, usize) -> Result<Option<bool>, String> + Sync,
) -> Tally {
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    let work = || {
        while let Some((number, fault)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|number| Some((number, faults.get(number)?)))
        {
            // The first number is that of the run without faults.
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

/// What a server did.
enum Run {
    /// It served, though the client was cut off so many times, and ended with 0.
    Served { cuts: usize },
    /// It ended before it had served, with this exit code.
    Ended(Option<i32>),
}

/// An address that only the server with that number in this process has. Nothing but luck keeps a port free
/// that the system has chosen, and here are many clients that it chooses ports for. But none of theirs is of
/// these addresses.
fn address(number: usize) -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    ([127, 64 | high & 63, middle, low], 10_000 + number as u16).into()
}

/// Waits until a server listens, or ends. Returns whether it listens.
fn listens(server: &mut Background, address: SocketAddr) -> bool {
    eventually("it listens, or ends", || match server.0.try_wait().expect("our own child") {
        None => TcpStream::connect(address).is_ok().then_some(true),
        Some(_) => Some(false),
    })
}

/// Starts a server under strace, with a fault or without. Has a client ask for everything, and then the
/// server end, unless it ends before. Returns that, the trace, and what is on standard error.
fn start(site: &Site, number: usize, fault: Option<&Fault>) -> Result<(Run, Trace, String), String> {
    let address = address(number);
    let [trace, stderr] = ["trace", "stderr"].map(|name| site.folder.path(&format!("{number}-{name}")));
    let mut command = tool("strace");
    // With -D, the process that is started becomes the server, and strace watches it from aside.
    command.args(["-D", "-q", "-o", &trace]).args(injection(fault));
    command.arg(&site.program).args(["--listen", &address.to_string()]);
    command.stderr(File::create(&stderr).expect("room for it"));
    let mut server = Background::start(command.env_remove("QUINISTRY_LISTEN"));
    listens(&mut server, address);
    let mut ended = || server.0.try_wait().expect("our own child");
    let visited = site.visit(address, PATIENCE, || ended().is_some());
    let run = if let Some(status) = ended() {
        Run::Ended(status.code())
    } else {
        let cuts = visited?;
        server.signal(libc::SIGTERM);
        check_end(eventually("it ends", || server.0.try_wait().expect("our own child")))?;
        Run::Served { cuts }
    };
    Ok((run, Trace::read(&trace), fs::read_to_string(&stderr).expect("text")))
}

/// Starts a server, and strace with a fault or without when it serves. Has a client ask for everything, one
/// upload, and another ask for everything; then the server end.
fn serve(site: &Site, number: usize, fault: Option<&Fault>, crowd: usize) -> Result<Trace, String> {
    let mut server = Server::start_as(quinistry_at(&site.program).args(["--listen", "127.0.0.1:0"]));
    // It listens before it serves, and from its answer on it serves.
    let first = server.connect_idle();
    std::thread::sleep(BREATH);
    let path = site.folder.path(&format!("{number}-trace"));
    let mut command = tool("strace");
    command.args(["-q", "-p", &server.pid().to_string(), "-o", &path]).args(injection(fault));
    let mut strace = Background::start(&mut command);
    eventually("strace watches", || {
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

/// What tells strace of a fault.
fn injection(fault: Option<&Fault>) -> Vec<String> {
    fault.map_or(Vec::new(), |fault| vec!["-e".into(), fault.to_string()])
}

fn check_end(status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("in the end, {status}")) }
}

#[test]
fn a_fault_at_start_is_survived_or_explained() {
    if !can_trace() {
        return;
    }
    let site = Site::learn();
    let (run, trace, _) = start(&site, 0, None).expect("nothing fails");
    assert!(matches!(run, Run::Served { cuts: 0 }));
    let mut calls = trace.calls();
    calls.truncate(1 + calls.iter().position(|call| call.starts_with("seccomp(")).expect("it is confined"));
    let tally = try_all(&faults(&calls), |fault, number| {
        let (run, trace, stderr) = start(&site, number, Some(fault))?;
        let survived = match run {
            Run::Served { cuts } => trace.check(cuts, MAX_LINES).map(|()| true)?,
            Run::Ended(Some(1)) if explanation(&stderr).is_some() => false,
            // There was an explanation, which could not be written.
            Run::Ended(Some(1)) if fault.call == "write" && trace.0.contains("write(2, \"quinistry: ") => {
                false
            }
            Run::Ended(Some(127)) if OF_C_LIBRARY.contains(&fault.call) => false,
            Run::Ended(code) => return Err(format!("{code:?}: {stderr}")),
        };
        Ok(trace.is_hit().then_some(survived))
    });
    tally.tell("at start");
}

/// The last words of a server that could not start.
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
    let (few, many) = (few.expect("nothing fails"), many.expect("nothing fails"));
    let is_of_crowd = |call: &str| OF_CROWD.iter().any(|of_crowd| call.starts_with(of_crowd));
    let few = few.calls().into_iter().filter(|call| !is_of_crowd(call));
    let many = many.calls().into_iter().filter(|call| is_of_crowd(call));
    let tally = try_all(&faults(&few.chain(many).collect::<Vec<_>>()), |fault, number| {
        let trace = serve(&site, number, Some(fault), if is_of_crowd(fault.call) { crowd } else { 0 })?;
        Ok(trace.is_hit().then_some(true))
    });
    tally.tell("while serving");
}

#[test]
fn a_server_that_starts_with_little_memory_has_enough_for_a_crowd() {
    let site = Site::learn();
    for (number, limit) in [system::with_data, system::with_address_space].into_iter().enumerate() {
        // The faults of the other tests have the lower numbers.
        let (address, stderr) = (address(5000 + number), site.folder.path("stderr"));
        // As much as it asks for, and ever more, until that and what it has by then are allowed.
        let memory = needed_memory(&Budget::of(u64::MAX, usize::MAX));
        let sizes = (0..).map(|step| (memory + step * 128 * 1024) as u64);
        let mut refused = 0;
        let mut started = sizes.filter_map(|size| {
            let mut command = quinistry_at(&site.program);
            command
                .args(["--listen", &address.to_string()])
                .stderr(File::create(&stderr).expect("room for it"));
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
        let mut server = started.next().expect("there is an end to it");
        drop(started);
        assert!(refused > 0);
        let crowd = crowd(&server, address);
        site.visit(address, PATIENCE, || false).expect("nothing fails");
        drop(crowd);
        server.signal(libc::SIGTERM);
        assert_eq!(check_end(server.0.wait().expect("our own child")), Ok(()));
    }
}

/// Has the server keep as much as it may of half heads and of answers that are not read.
fn crowd(server: &Background, address: SocketAddr) -> Vec<Client> {
    let limit = quinistry::system::raise_descriptor_limit().saturating_sub(500);
    let mut half_heads: Vec<_> = (0..6000.min(limit)).map(|_| Client::connect(address)).collect();
    for client in &mut half_heads {
        client.send_request("GET /v2/", &[]);
        client.answer_to("GET /v2/");
    }
    // They all act at once, from the point of view of the server.
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
