//! Wraps the system calls that std and mio lack, or lack an option for. Every `unsafe` block of the crate is in
//! this file.
//!
//! Document: the Linux manual pages, sections 2 and 7, of each call named.
//!
//! Each function takes and returns descriptors (owned or borrowed) and slices, and reports errors as
//! [`io::Error`]. So its caller needs no `unsafe`.
//!
//! Limits: the backlog of connections, and the unsent bytes and the receive buffer of a socket.
//!
//! Deliberately absent: signal handlers. A handler may do almost nothing; signals are read from a descriptor.
#![allow(unsafe_code, reason = "this is the one module for it")]

use std::ffi::{CStr, c_char, c_int, c_short};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem::{ManuallyDrop, size_of, zeroed};
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The most connections that wait to be accepted. With std's 128, some of 200 simultaneous
/// clients would wait for a second, until they repeat their SYN. The system limits this to `net.core.somaxconn`.
const BACKLOG: c_int = 4096;

/// The most unsent bytes that are queued for one socket. This keeps a link busy until the next call.
/// With more, every stalled reader would cost more kernel memory, which counts as the container's.
const UNSENT: c_int = 128 * 1024;

/// The size of a socket's receive buffer. The kernel doubles it (socket(7)), and half of that is for bytes: a few
/// requests of the usual size. A client that sends more waits until the server reads.
pub const RECEIVE_BUFFER: c_int = 4 * 1024;

/// How many seconds the kernel holds a connection back until its first data (tcp(7), `TCP_DEFER_ACCEPT`). The
/// request of an honest client follows at once, and a read that finds nothing is a third of the cost of a short
/// connection. Apache httpd sets this as well. If very many clients are silent, the kernel switches to SYN
/// cookies, and hands connections over at once. A connection that is still held back when the server exits is
/// not closed: its client gets a reset when it sends.
const SILENCE: c_int = 1;

/// Defines `main`, from a function that takes the arguments as `&[String]` and returns the exit code,
/// without std's own start.
///
/// std's start installs a handler that reports a stack overflow. To find the end of the stack, glibc calls
/// `sscanf`, and with it come the functions that read and print floating-point numbers and wide
/// characters: 140 KB, a tenth of the binary and of every pull. The rest of what that start does is in
/// [`start`].
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        // SAFETY: the crate is `no_main`, so that nothing else of this name is linked.
        #[unsafe(no_mangle)]
        extern "C" fn main(
            count: core::ffi::c_int,
            arguments: *const *const core::ffi::c_char,
        ) -> core::ffi::c_int {
            // SAFETY: these are what C passes to `main`.
            $main(&unsafe { $crate::system::start(count, arguments) })
        }
    };
}

/// Defines a static of bytes in a section of its own: `section!(STATIC, ".name", BYTES)`.
/// Tools find the bytes by the section's name. Something must refer to the static, or the compiler and the linker
/// drop it.
#[macro_export]
macro_rules! section {
    ($static:ident, $name:literal, $bytes:expr) => {
        // SAFETY: a section of this name means nothing to the linker.
        #[unsafe(link_section = $name)]
        static $static: [u8; $bytes.len()] = $bytes;
    };
}

/// Prepares the process, and returns the arguments after the program's name.
/// Bytes of an argument that are not UTF-8 become U+FFFD, so the file names of `--with` must be UTF-8.
///
/// # Safety
///
/// `arguments` points to `count` C strings that are never freed or changed.
#[must_use]
pub unsafe fn start(count: c_int, arguments: *const *const c_char) -> Vec<String> {
    for descriptor in 0..3 {
        // If one of the standard three were closed, the next file or socket would get its number, and a
        // client could receive the log. So something must be open there: open(2) returns the lowest free
        // number, which is this one. A write to standard output must fail rather than lose its data, so that
        // is opened for reading. The log may be lost.
        let mode = if descriptor == libc::STDERR_FILENO { libc::O_WRONLY } else { libc::O_RDONLY };
        // SAFETY: none of the calls has a pointer to anything but a constant C string.
        let is_open = unsafe {
            libc::fcntl(descriptor, libc::F_GETFD) != -1 || libc::open(c"/dev/null".as_ptr(), mode) != -1
        };
        if !is_open {
            let reason = "cannot open /dev/null in place of a closed standard descriptor";
            give_up(reason, &io::Error::last_os_error());
        }
    }
    if let Err(error) = close_inherited() {
        give_up("cannot close the inherited descriptors", &error);
    }
    // Each of these would end the process. If it is ignored, the call fails instead: with EPIPE if a client or a
    // reader is gone, with EFBIG if a file has reached its limit.
    for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
        // SAFETY: ignoring a signal passes no function.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            give_up("cannot ignore a signal", &io::Error::last_os_error());
        }
    }
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller's promise.
    let argument = |index| unsafe { CStr::from_ptr(*arguments.add(index)) };
    (1..count).map(|index| argument(index).to_string_lossy().into_owned()).collect()
}

/// Closes all descriptors but the standard three. The filter of system calls would not keep an attacker from
/// reading and writing those that the program was started with.
///
/// Not by `close_range(2)`, which needs Linux 5.9, and for which some of systemd's filters kill a process.
fn close_inherited() -> io::Result<()> {
    // SAFETY: the path is a C string. The directory stays open from the check to the last call. An entry is
    // used before the next one is read, and its name is a C string. Nothing owns the descriptors that are
    // closed: the program has not opened anything yet but this directory.
    unsafe {
        let directory = libc::opendir(c"/proc/self/fd".as_ptr());
        if directory.is_null() {
            return Err(io::Error::last_os_error());
        }
        let outcome = loop {
            // readdir(3): a null pointer is the end, or an error if `errno` says so.
            *libc::__errno_location() = 0;
            let Some(entry) = libc::readdir(directory).as_ref() else { break io::Error::last_os_error() };
            let name = CStr::from_ptr(entry.d_name.as_ptr()).to_str();
            match name.ok().and_then(|name| name.parse().ok()) {
                Some(0..=libc::STDERR_FILENO) | None => {}
                Some(descriptor) if descriptor == libc::dirfd(directory) => {}
                Some(descriptor) => drop(libc::close(descriptor)),
            }
        };
        libc::closedir(directory);
        if outcome.raw_os_error() == Some(0) { Ok(()) } else { Err(outcome) }
    }
}

/// Exits with a message.
fn give_up(reason: &str, error: &io::Error) -> ! {
    let _ = io::stderr().write_all(format!("quinistry: {reason}: {error}\n").as_bytes());
    // SAFETY: _exit(2) takes no pointers. The rest of std's `exit` is not needed yet, and would add 2 KB to every
    // pull.
    unsafe { libc::_exit(1) }
}

/// Standard output, as a file. std's `Stdout` reports success even if the descriptor cannot be written to,
/// and it buffers by lines.
#[must_use]
pub fn stdout() -> ManuallyDrop<File> {
    // SAFETY: the descriptor is open, since `start` made sure of that, and the file is never dropped, which
    // would close it.
    ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDOUT_FILENO) })
}

/// Returns the result of a call that reports failure as -1.
fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Does the same for calls that transfer bytes.
fn check_count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Takes ownership of a descriptor that a call has just made.
fn own(descriptor: c_int) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor comes from a call that succeeded, and nothing else owns it.
    check(descriptor).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Listens on `address`. An IPv6 wildcard also accepts IPv4. Accepted connections inherit the options that are set
/// here, so that no further calls are needed for each.
///
/// # Errors
///
/// If the address is in use, or is not an address of this machine.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes no pointers.
    let socket = own(unsafe { libc::socket(family, kind, 0) })?;
    // The connections of a previous server keep its port for a minute. This server need not wait for that.
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if address.is_ipv6() {
        // ipv6(7): a sysctl may have set this, and it cannot be changed after bind.
        set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
    }
    let options = [
        // RFC 6093 section 3: urgent data is a part of the stream like any other.
        (libc::SOL_SOCKET, libc::SO_OOBINLINE, 1),
        // Every response is written as a whole. Waiting for more, to fill a packet, would delay it.
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT),
        (libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER),
        (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, SILENCE),
    ];
    for (level, name, value) in options {
        // None of these is essential, and a system may lack one.
        let _ = set_option(socket.as_fd(), level, name, value);
    }
    bind(socket.as_fd(), address)?;
    // SAFETY: listen(2) takes no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket.into())
}

/// Limits how fast each connection that is accepted from now on sends, in bytes per second (socket(7),
/// `SO_MAX_PACING_RATE`; Linux 3.13). The kernel waits between packets, so packets must be small. Those of the loopback
/// device have 64 KiB.
pub fn limit_rate(listener: BorrowedFd<'_>, rate: u64) {
    let rate = c_int::try_from(rate).unwrap_or(c_int::MAX);
    let _ = set_option(listener, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, rate);
    let _ = set_option(listener, libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1400);
}

fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the pointer is to a c_int that outlives the call, and the length is a c_int's.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) })?;
    Ok(())
}

fn bind(socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    let socket = socket.as_raw_fd();
    check(match address {
        SocketAddr::V4(address) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the pointer is to a sockaddr_in that outlives the call, with its length.
            unsafe { libc::bind(socket, (&raw const raw).cast(), size_of_val(&raw) as libc::socklen_t) }
        }
        SocketAddr::V6(address) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            // SAFETY: the pointer is to a sockaddr_in6 that outlives the call, with its length.
            unsafe { libc::bind(socket, (&raw const raw).cast(), size_of_val(&raw) as libc::socklen_t) }
        }
    })?;
    Ok(())
}

/// Sends bytes. With `more`, they wait for those that follow to share their packet.
///
/// # Errors
///
/// `WouldBlock` if the socket is full, others if the connection is broken.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], more: bool) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    // SAFETY: the pointer and length are those of a slice that outlives the call.
    check_count(unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Returns how many of the bytes written to the socket have not been acknowledged by the other end (tcp(7),
/// `SIOCOUTQ`). The end of the stream counts as one. A reset does not change it.
#[must_use]
pub fn unacknowledged(socket: BorrowedFd<'_>) -> u64 {
    let mut count: c_int = 0;
    // SAFETY: this request has the number of the terminal's TIOCOUTQ, and writes one c_int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == -1 { 0 } else { u64::try_from(count).unwrap_or(0) }
}

/// Returns how many bytes of memory the kernel uses for what waits to be sent or to be acknowledged. Before Linux 4.12
/// this is unknown, and 0 is returned.
#[must_use]
pub fn queued(socket: BorrowedFd<'_>) -> u64 {
    // linux/sock_diag.h: SK_MEMINFO_WMEM_QUEUED and SK_MEMINFO_VARS.
    const QUEUED: usize = 5;
    let mut info = [0_u32; 9];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the pointers are to an array and to its length in bytes, and both outlive the call.
    let result = unsafe {
        let info = (&raw mut info).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, info, &raw mut length)
    };
    if result == -1 { 0 } else { info[QUEUED].into() }
}

/// Makes the kernel reset the connection when the socket is closed, and drop what it has queued (socket(7),
/// `SO_LINGER`). Otherwise the kernel would keep that, and try to send it for minutes.
pub fn reset_when_closed(socket: BorrowedFd<'_>) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of_val(&linger) as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_LINGER);
    // SAFETY: the pointer is to a linger that outlives the call, with its length. The call fails only on a
    // descriptor that is not a socket.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const linger).cast(), length) };
}

/// A file in memory that is written once and never changes again.
pub struct SealedFile {
    file: File,
    size: u64,
}

impl SealedFile {
    /// Creates a file with what `write` writes. Returns the file and the result of `write`.
    ///
    /// # Errors
    ///
    /// If the system has no memory for it, or `write` fails.
    pub fn create<T, E: From<io::Error>>(
        write: impl FnOnce(&mut dyn Write) -> Result<T, E>,
    ) -> Result<(Self, T), E> {
        let mut file = Self::open()?;
        let result = write(&mut file)?;
        Ok((Self::seal(file)?, result))
    }

    /// Creates a copy in which the byte at `offset` is 0.
    ///
    /// # Errors
    ///
    /// If the system has no memory for it.
    pub fn with_zero_at(&self, offset: u64) -> io::Result<Self> {
        let mut file = Self::open()?;
        let mut copied = 0;
        while copied < self.size {
            // A sealed file does not end too soon.
            copied += self.send(file.as_fd(), copied..self.size)? as u64;
        }
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(&[0])?;
        Self::seal(file)
    }

    fn open() -> io::Result<File> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is a C string; memfd_create(2) only reads it.
        Ok(own(unsafe { libc::memfd_create(c"layer".as_ptr(), flags) })?.into())
    }

    fn seal(file: File) -> io::Result<Self> {
        let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
        // SAFETY: F_ADD_SEALS takes an integer.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }

    /// Returns a reader of the whole content.
    ///
    /// # Errors
    ///
    /// If seeking in a file in memory fails, which is not known to happen.
    pub fn content(&self) -> io::Result<impl Read> {
        let mut file = &self.file;
        file.rewind()?;
        Ok(file)
    }

    /// Sends some bytes of a part of the file. The kernel sends them from its page cache, without a copy.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the socket is full, others if the connection is broken.
    pub fn send(&self, socket: BorrowedFd<'_>, part: Range<u64>) -> io::Result<usize> {
        debug_assert!(part.start <= part.end && part.end <= self.size, "a part of the file");
        // On a 32-bit processor an `off_t` may have 32 bits, hence `sendfile64`. A `usize` has 32 bits there: a
        // part that is too long for one call is sent by several, as any part may be.
        let mut offset: libc::off64_t = part.start.cast_signed();
        let count = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
        // SAFETY: the pointer is to an off64_t that outlives the call.
        check_count(unsafe {
            libc::sendfile64(socket.as_raw_fd(), self.file.as_raw_fd(), &raw mut offset, count)
        })
    }
}

/// Reports the resident memory of this process. Its file must be opened before `confinement` forbids opening
/// files.
pub struct ResidentMemory {
    /// proc(5), `/proc/pid/statm`: numbers of pages; the second is the resident set.
    statm: File,
    page_size: u64,
}

impl ResidentMemory {
    /// Opens the file.
    ///
    /// # Errors
    ///
    /// If there is no /proc.
    pub fn open() -> io::Result<Self> {
        let statm = File::open("/proc/self/statm")?;
        // SAFETY: sysconf(3) takes a number and no pointer.
        let page_size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Ok(Self { statm, page_size: u64::try_from(page_size).map_err(io::Error::other)? })
    }

    /// Returns the memory in bytes, or `None` if it cannot be read.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let mut text = [0; 128];
        let count = self.statm.read_at(&mut text, 0).ok()?;
        let pages = str::from_utf8(&text[..count]).ok()?.split(' ').nth(1)?;
        Some(pages.parse::<u64>().ok()? * self.page_size)
    }
}

/// SIGTERM and SIGINT as a descriptor (signalfd(2)). The kernel discards a signal that process 1 neither
/// handles nor blocks. Blocking them is enough.
pub struct Signals(File);

impl Signals {
    /// Blocks the signals and makes them readable. It must be called before another thread starts.
    ///
    /// # Errors
    ///
    /// If the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a sigset_t is plain data. sigemptyset initialises it before it is used, and it outlives
        // the calls that get a pointer to it.
        let descriptor = unsafe {
            let mut signals: libc::sigset_t = zeroed();
            libc::sigemptyset(&raw mut signals);
            libc::sigaddset(&raw mut signals, libc::SIGTERM);
            libc::sigaddset(&raw mut signals, libc::SIGINT);
            check(libc::sigprocmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut()))?;
            libc::signalfd(-1, &raw const signals, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
        };
        Ok(Self(own(descriptor)?.into()))
    }

    /// Returns whether a signal has come, or comes within `patience`.
    #[must_use]
    pub fn has_any(&self, patience: Duration) -> bool {
        is_ready(self.0.as_fd(), libc::POLLIN, patience).unwrap_or(false)
    }

    /// Returns the number of the next signal that has come, if any.
    pub fn take(&mut self) -> Option<u32> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let count = io::Read::read(&mut self.0, &mut info).unwrap_or(0);
        // The number is the first field of the structure.
        (count == info.len()).then(|| u32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Installs a seccomp filter for this thread. It cannot be removed. It requires `no_new_privs`, so a set-uid
/// program started later gains no privileges either.
///
/// # Errors
///
/// If the kernel does not support filters, or the environment of the process does not allow them.
pub fn set_filter(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program =
        libc::sock_fprog { len: filter.len() as libc::c_ushort, filter: filter.as_ptr().cast_mut() };
    let program = &raw const program;
    let (set, kind) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_MODE_FILTER);
    let (one, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: the pointer is to a sock_fprog that outlives the calls. It points to that many instructions,
    // which are only read, although the pointer is mutable.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, none, none, none))?;
        // Field note: systemd's filter `@system-service` allows prctl(2), and kills a process that calls
        // seccomp(2). So if there is a filter already, only prctl(2) is called.
        if libc::prctl(libc::PR_GET_SECCOMP, none, none, none, none) == 0 {
            // Before Linux 5.16, a filter restricts speculation, which makes the process slower, unless this flag
            // is set. The restriction is not needed here: the process runs no code of others.
            let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
            if libc::syscall(libc::SYS_seccomp, set, flags, program) == 0 {
                return Ok(());
            }
            // Before Linux 4.17 the flag does not exist.
        }
        check(libc::prctl(libc::PR_SET_SECCOMP, libc::c_ulong::from(kind), program)).map(drop)
    }
}

/// Returns whether a write to `descriptor` would not block, now or within `patience`. A write to a pipe without a
/// reader does not block either: it fails at once.
#[must_use]
pub fn is_writable(descriptor: BorrowedFd<'_>, patience: Duration) -> bool {
    is_ready(descriptor, libc::POLLOUT, patience).unwrap_or(false)
}

/// Returns whether this terminal is the controlling terminal of the process (`tcgetsid(3)`).
#[must_use]
pub fn controls_us(terminal: BorrowedFd<'_>) -> bool {
    // SAFETY: tcgetsid(3) takes no pointers.
    unsafe { libc::tcgetsid(terminal.as_raw_fd()) != -1 }
}

/// Returns whether there may be a connection to accept.
#[must_use]
pub fn is_acceptable(listener: BorrowedFd<'_>) -> bool {
    is_ready(listener, libc::POLLIN, Duration::ZERO).unwrap_or(true)
}

fn is_ready(descriptor: BorrowedFd<'_>, events: c_short, patience: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: descriptor.as_raw_fd(), events, revents: 0 };
    // SAFETY: the pointer is to one pollfd, as the count says, that outlives the call.
    check(unsafe { libc::poll(&raw mut poll, 1, patience.as_millis() as c_int) }).map(|count| count == 1)
}

/// Checks that so many bytes of memory can be allocated. They are freed before anything touches them, so that no
/// memory is used.
///
/// # Errors
///
/// If a limit of the process (getrlimit(2): `RLIMIT_AS`, `RLIMIT_DATA`) or of the system prevents it.
pub fn try_memory(size: usize) -> io::Result<()> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: the kernel chooses an address that is not in use. Nothing refers to the memory when it is unmapped.
    unsafe {
        let memory = libc::mmap(std::ptr::null_mut(), size, access, kind, -1, 0);
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        check(libc::munmap(memory, size)).map(drop)
    }
}

/// Raises the limit of open descriptors to the highest that this process may have, and returns it.
#[must_use]
pub fn raise_descriptor_limit() -> usize {
    // SAFETY: an rlimit is plain data, which getrlimit fills and setrlimit only reads.
    let limit = unsafe {
        let mut limit: libc::rlimit = zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == -1 {
            return 1024; // The usual default.
        }
        let wanted = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) == -1 { limit } else { wanted }
    };
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}
