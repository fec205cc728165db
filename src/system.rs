//! Wraps the system calls that std and mio do not offer, or do not offer with the options needed here. Every `unsafe`
//! block of the crate is in this file.
//!
//! Document: the Linux manual pages, sections 2 and 7, of each call named.
//!
//! Every function except [`start`] can be called without `unsafe`. These functions take and return owned or borrowed
//! descriptors, slices and plain values. They return an [`io::Error`] for each failure that the caller must handle.
//!
//! Deliberately absent: signal handlers, because a handler may do almost nothing, and signals can be read from a
//! descriptor; and overriding the sysctl `net.ipv6.bindv6only`. Where an administrator has set it, `[::]` accepts no
//! IPv4.
#![allow(unsafe_code, reason = "this is the one module for it")]

use std::ffi::{CStr, c_char, c_int, c_short};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::mem::{ManuallyDrop, size_of, zeroed};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Defines `main` without std's own start. `main` calls a function that takes the arguments as `&[String]` and returns
/// the exit code.
///
/// This saves 140 KB, a tenth of the binary and of every pull. std's start installs a handler that reports a stack
/// overflow. To find the end of the stack, glibc calls `sscanf`, which links in the functions that read and print
/// floating-point numbers and wide characters. [`start`] does the other tasks of std's start.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        // SAFETY: the crate is `no_main`, so nothing else of this name is linked.
        #[unsafe(no_mangle)]
        extern "C" fn main(count: core::ffi::c_int, arguments: *const *const core::ffi::c_char) -> core::ffi::c_int {
            // SAFETY: these are the arguments that C passes to `main`.
            $main(&unsafe { $crate::system::start(count, arguments) })
        }
    };
}

/// Defines a static of bytes in a section of its own: `section!(STATIC, ".name", BYTES)`. Tools find the bytes by the
/// name of the section, which must mean nothing to the linker and the loader. The program must refer to the static,
/// because otherwise the compiler and the linker drop it.
#[macro_export]
macro_rules! section {
    ($static:ident, $name:literal, $bytes:expr) => {
        // SAFETY: the caller names a section that means nothing to the linker and the loader.
        #[unsafe(link_section = $name)]
        static $static: [u8; $bytes.len()] = $bytes;
    };
}

/// Prepares the process, and returns the arguments after the program's name. Bytes of an argument that are not UTF-8
/// become U+FFFD, so the file names of `--with` must be UTF-8.
///
/// # Safety
///
/// `arguments` points to `count` C strings that are never freed or changed.
pub unsafe fn start(count: c_int, arguments: *const *const c_char) -> Vec<String> {
    let prepared = open_standard().and_then(|()| close_inherited()).and_then(|()| ignore_signals());
    if let Err(error) = prepared {
        let _ =
            io::stderr().write_all(format!("quinistry: cannot prepare descriptors and signals: {error}\n").as_bytes());
        // SAFETY: _exit(2) takes no pointers. It replaces std's `exit`, which does more than is needed at this point,
        // and would add 2 KB to every pull.
        unsafe { libc::_exit(1) }
    }
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller's promise.
    let argument = |index| unsafe { CStr::from_ptr(*arguments.add(index)) };
    (1..count).map(|index| argument(index).to_string_lossy().into_owned()).collect()
}

/// Opens /dev/null in place of each standard descriptor that is closed. Otherwise the next file or socket would get the
/// number of that descriptor, and a client could receive the log. /dev/null gets this number, because open(2) returns
/// the lowest free one. For standard output, /dev/null is opened for reading, so that a write fails instead of silently
/// losing output. For standard error, it is opened for writing, because the loss of the log does no harm.
fn open_standard() -> io::Result<()> {
    for (descriptor, mode) in [(0, libc::O_RDONLY), (1, libc::O_RDONLY), (2, libc::O_WRONLY)] {
        // SAFETY: the only pointer that is passed is to a constant C string.
        unsafe {
            if libc::fcntl(descriptor, libc::F_GETFD) == -1 {
                check(libc::open(c"/dev/null".as_ptr(), mode))?;
            }
        }
    }
    Ok(())
}

/// Ignores the signals that would end the process when a call fails: SIGPIPE (with EPIPE, if a client or a reader is
/// gone) and SIGXFSZ (with EFBIG, if a file has reached its limit).
fn ignore_signals() -> io::Result<()> {
    for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
        // SAFETY: ignoring a signal passes no function.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Closes all descriptors except the standard three, because the system call filter would not keep an attacker from
/// reading and writing inherited ones. `close_range(2)` is not used, because it needs Linux 5.9, and some of systemd's
/// filters kill a process that calls it.
fn close_inherited() -> io::Result<()> {
    // SAFETY: the path is a C string. The directory stays open from the check to the last call. An entry is used before
    // the next one is read, and its name is a C string. Nothing owns the descriptors that are closed, because apart
    // from the standard descriptors, which stay open, this directory is all that the program has opened so far.
    unsafe {
        let directory = libc::opendir(c"/proc/self/fd".as_ptr());
        if directory.is_null() {
            return Err(io::Error::last_os_error());
        }
        let outcome = loop {
            // readdir(3): a null pointer means the end, or an error if `errno` is not 0.
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

/// Returns standard output as a file, because std's `Stdout` reports success even if the descriptor cannot be written
/// to, and buffers by lines.
pub fn stdout() -> ManuallyDrop<File> {
    // SAFETY: `start` has made sure that the descriptor is open, and because the file is never dropped, the descriptor
    // is never closed.
    ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDOUT_FILENO) })
}

/// Returns the result of a call that reports failure as -1.
fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Returns the result of a call that transfers bytes.
fn check_count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Takes ownership of a descriptor that a call has just made.
fn own(descriptor: c_int) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor comes from a call that succeeded, and nothing else owns it.
    check(descriptor).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Sets how many connections to a listening socket may wait to be accepted. std's `bind` sets it to 128.
pub fn set_backlog(listener: BorrowedFd<'_>, backlog: c_int) -> io::Result<()> {
    // SAFETY: listen(2) takes no pointers.
    check(unsafe { libc::listen(listener.as_raw_fd(), backlog) }).map(drop)
}

/// Sets an option of a socket to a value of the type that the option has in C.
pub fn set_option<T>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<c_int> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer is to a value that outlives the call, with its length. The kernel only reads the value.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) })
}

/// Sends bytes. With `more`, the kernel holds them back until they can share a packet with the bytes that follow.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], more: bool) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    // SAFETY: the pointer and length are those of a slice that outlives the call.
    check_count(unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Returns how many of the bytes written to the socket have not been acknowledged by the other end (tcp(7),
/// `SIOCOUTQ`). The end of the stream counts as one byte, and a reset does not change the number.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> u64 {
    let mut count: c_int = 0;
    // SAFETY: this request has the number of the terminal's TIOCOUTQ, and writes one c_int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == -1 { 0 } else { u64::try_from(count).unwrap_or(0) }
}

/// Returns how many bytes of memory the kernel uses for data that waits to be sent or to be acknowledged, or 0 on
/// kernels before Linux 4.12, which do not report this number.
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

/// Makes the kernel reset the connection when the socket is closed, and drop the bytes that it has queued (socket(7),
/// `SO_LINGER`). Otherwise the kernel would keep these bytes, and try to send them for minutes.
pub fn reset_when_closed(socket: BorrowedFd<'_>) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // This fails only on a descriptor that is not a socket.
    let _ = set_option(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
}

/// A file in memory that is written once and never changes again.
pub struct SealedFile(File);

impl SealedFile {
    /// Creates a file with the bytes that `write` writes. Returns the file and the result of `write`.
    pub fn create<T>(write: impl FnOnce(&mut dyn Write) -> io::Result<T>) -> io::Result<(Self, T)> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is a C string; memfd_create(2) only reads it.
        let mut file: File = own(unsafe { libc::memfd_create(c"layer".as_ptr(), flags) })?.into();
        let result = write(&mut file)?;
        let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
        // SAFETY: F_ADD_SEALS takes an integer.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        Ok((Self(file), result))
    }

    /// Returns a reader of the whole content.
    pub fn content(&self) -> io::Result<impl Read> {
        let mut file = &self.0;
        file.rewind()?;
        Ok(file)
    }

    /// Sends some bytes from the beginning of `part`, a range of the file, and returns their number. The kernel sends
    /// them from its page cache, without a copy.
    pub fn send(&self, socket: BorrowedFd<'_>, part: Range<u64>) -> io::Result<usize> {
        // The call is `sendfile64`, because an `off_t` may have only 32 bits on a 32-bit processor. A `usize` has 32
        // bits there as well, so a part that is too long for one call takes several calls, as any part may.
        let mut offset: libc::off64_t = part.start.cast_signed();
        let count = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
        // SAFETY: the pointer is to an off64_t that outlives the call.
        check_count(unsafe { libc::sendfile64(socket.as_raw_fd(), self.0.as_raw_fd(), &raw mut offset, count) })
    }
}

/// Reports the resident memory of this process, which it reads from a file that must be opened before `confinement`
/// forbids opening files.
pub struct ResidentMemory {
    /// proc(5), `/proc/pid/statm`: numbers of pages. The second number is the size of the resident set.
    statm: File,
    page_size: u64,
}

impl ResidentMemory {
    /// Opens the file.
    pub fn open() -> io::Result<Self> {
        let statm = File::open("/proc/self/statm")?;
        // SAFETY: sysconf(3) takes a number and no pointer.
        let page_size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Ok(Self { statm, page_size: u64::try_from(page_size).map_err(io::Error::other)? })
    }

    /// Returns the memory in bytes, or `None` if it cannot be read.
    pub fn bytes(&self) -> Option<u64> {
        let mut text = [0; 128];
        let count = self.statm.read_at(&mut text, 0).ok()?;
        let pages = str::from_utf8(&text[..count]).ok()?.split(' ').nth(1)?;
        Some(pages.parse::<u64>().ok()? * self.page_size)
    }
}

/// SIGTERM and SIGINT as a descriptor (signalfd(2)). Both signals are blocked, because the kernel discards a signal
/// that process 1 neither handles nor blocks.
pub struct Signals(File);

impl Signals {
    /// Blocks the signals, and makes them readable. Must be called before another thread starts.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a sigset_t is plain data. sigemptyset initializes it before it is used, and it outlives the calls
        // that get a pointer to it.
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

    /// Returns the number of the next pending signal, if any.
    pub fn take(&mut self) -> Option<i32> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let count = self.0.read(&mut info).unwrap_or(0);
        // The number is the first field of the structure.
        (count == info.len()).then(|| i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Installs a seccomp filter, which cannot be removed, for this thread. Because the kernel requires `no_new_privs` for
/// a filter, a set-uid program that this process starts would gain no privileges.
pub fn set_filter(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as libc::c_ushort, filter: filter.as_ptr().cast_mut() };
    let program = &raw const program;
    let (set, kind) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_MODE_FILTER);
    let (one, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: the pointer is to a sock_fprog that outlives the calls. The sock_fprog points to `len` instructions,
    // which are only read, although the pointer is mutable.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, none, none, none))?;
        // Field note: systemd's filter `@system-service` allows prctl(2) but kills a process that calls seccomp(2), so
        // only prctl(2) is called if there is a filter already.
        if libc::prctl(libc::PR_GET_SECCOMP, none, none, none, none) == 0 {
            // Before Linux 5.16, a filter without this flag restricts speculation, which makes the process slower. The
            // restriction is not needed here, because the process runs no foreign code.
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
pub fn is_writable(descriptor: BorrowedFd<'_>, patience: Duration) -> bool {
    is_ready(descriptor, libc::POLLOUT, patience).unwrap_or(false)
}

/// Returns whether there may be a connection to accept.
pub fn is_acceptable(listener: BorrowedFd<'_>) -> bool {
    is_ready(listener, libc::POLLIN, Duration::ZERO).unwrap_or(true)
}

fn is_ready(descriptor: BorrowedFd<'_>, events: c_short, patience: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: descriptor.as_raw_fd(), events, revents: 0 };
    // SAFETY: the pointer is to one pollfd, as the count says, that outlives the call.
    check(unsafe { libc::poll(&raw mut poll, 1, patience.as_millis() as c_int) }).map(|count| count == 1)
}

/// Checks, without touching a page, that `size` bytes of address space can be mapped, which a limit of the process or
/// of the system may forbid.
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

/// Raises the limit on open descriptors to the highest value that this process may set, and returns the new limit.
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
