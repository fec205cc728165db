//! Signals and limits of child processes, and other system calls that std lacks.
//!
//! Documents: the Linux manual pages kill(2) and getrlimit(2).
//!
//! Deliberately absent: the commands `kill` and `prlimit`, which a minimal system may lack.
#![allow(unsafe_code, reason = "std has no such calls")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use super::eventually;

fn id(child: &Child) -> libc::pid_t {
    child.id().cast_signed()
}

/// Sends a signal, such as `libc::SIGTERM`, to a child. After SIGSTOP, waits until the child has stopped.
pub fn signal(child: &Child, signal: libc::c_int) {
    // SAFETY: kill(2) takes no pointers. The kernel keeps the child's ID until the child is waited for.
    assert_eq!(unsafe { libc::kill(id(child), signal) }, 0, "the child has not been waited for");
    if signal == libc::SIGSTOP {
        // proc(5): the state of the process follows its name, which is in parentheses.
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("the child exists");
        eventually("the child is stopped", || stat().rsplit(") ").next()?.starts_with('T').then_some(()));
    }
}

/// Limits the number of descriptors that a child may have open. The number must not exceed the child's hard limit.
pub fn limit_descriptors(child: &Child, count: usize) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let none = std::ptr::null_mut();
    // SAFETY: an rlimit is plain data, which outlives the call that fills it.
    let read = unsafe { libc::prlimit(id(child), libc::RLIMIT_NOFILE, none, &raw mut limit) };
    limit.rlim_cur = count as libc::rlim_t;
    // SAFETY: this call only reads the rlimit.
    let set = unsafe { libc::prlimit(id(child), libc::RLIMIT_NOFILE, &raw const limit, none) };
    assert_eq!((read, set), (0, 0), "{}", io::Error::last_os_error());
}

/// Limits the number of descriptors that the command's process may have open. The process cannot raise the limit.
pub fn with_descriptors(command: &mut Command, count: usize) -> &mut Command {
    let limit = rlimit(count as u64);
    // SAFETY: setrlimit(2) only reads the rlimit.
    before_exec(command, move || unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })
}

/// Limits the size in bytes of the files that the command's process can write.
pub fn with_file_size(command: &mut Command, size: u64) -> &mut Command {
    let limit = rlimit(size);
    // SAFETY: as above.
    before_exec(command, move || unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) })
}

/// Limits the private writable memory of the command's process, in bytes.
pub fn with_data(command: &mut Command, size: u64) -> &mut Command {
    let limit = rlimit(size);
    // SAFETY: as above.
    before_exec(command, move || unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) })
}

/// Limits the address space of the command's process, in bytes.
pub fn with_address_space(command: &mut Command, size: u64) -> &mut Command {
    let limit = rlimit(size);
    // SAFETY: as above.
    before_exec(command, move || unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) })
}

/// Moves the command's process into a control group. `members` is the group's `cgroup.procs`.
pub fn in_control_group(command: &mut Command, members: File) -> &mut Command {
    // SAFETY: the pointer is to one byte. (The text "0" stands for the process that writes it.)
    before_exec(command, move || {
        let written = unsafe { libc::write(members.as_raw_fd(), c"0".as_ptr().cast(), 1) };
        if written == 1 { 0 } else { -1 }
    })
}

/// Applies a filter to the command's process, as a service manager or a container runtime does. `result` is what the
/// kernel does when the process makes one of these calls.
pub fn with_filter(command: &mut Command, calls: &[libc::c_long], result: u32) {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let (jump, end) = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::BPF_RET | libc::BPF_K);
    let instruction = |code: u32, [jt, jf]: [u8; 2], k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number of the call is at offset 0 of the data that the kernel passes to a filter.
    let mut filter = vec![instruction(load, [0, 0], 0)];
    for call in calls {
        filter.push(instruction(jump, [0, 1], call.cast_unsigned() as u32));
        filter.push(instruction(end, [0, 0], result));
    }
    filter.push(instruction(end, [0, 0], libc::SECCOMP_RET_ALLOW));
    before_exec(command, move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        let (kind, none): (_, libc::c_ulong) = (libc::c_ulong::from(libc::SECCOMP_MODE_FILTER), 0);
        // SAFETY: the pointer is to a sock_fprog that outlives the call, with as many instructions as it has.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as libc::c_ulong, none, none, none)
                | libc::prctl(libc::PR_SET_SECCOMP, kind, &raw const program)
        }
    });
}

/// Makes the command's process inherit a copy of a descriptor, under this number.
pub fn with_descriptor(command: &mut Command, file: &impl AsRawFd, number: i32) {
    let descriptor = file.as_raw_fd();
    // SAFETY: dup2(2) takes no pointers.
    before_exec(command, move || if unsafe { libc::dup2(descriptor, number) } == number { 0 } else { -1 });
}

fn rlimit(limit: u64) -> libc::rlimit {
    libc::rlimit { rlim_cur: limit as libc::rlim_t, rlim_max: limit as libc::rlim_t }
}

fn before_exec(command: &mut Command, call: impl Fn() -> libc::c_int + Send + Sync + 'static) -> &mut Command {
    let call = move || if call() == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: between fork and exec, this makes one system call and allocates nothing.
    unsafe { command.pre_exec(call) }
}

/// Creates a named pipe.
pub fn make_fifo(path: &str) {
    let path = CString::new(path).expect("no NUL in it");
    // SAFETY: the pointer is to a C string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0, "{}", io::Error::last_os_error());
}

/// Opens a new terminal. Returns the user's side, which is non-blocking, and the program's side.
pub fn terminal() -> (File, File) {
    let (mut person, mut program) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: two pointers are to numbers that outlive the call, and the others are null.
    let result = unsafe { libc::openpty(&raw mut person, &raw mut program, none, none.cast(), none.cast()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    for descriptor in [person, program] {
        // SAFETY: the descriptors are open, and the call takes no pointers.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // SAFETY: as above.
    unsafe { libc::fcntl(person, libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) };
    // SAFETY: the descriptors have just been created, and nothing else owns them.
    unsafe { (File::from_raw_fd(person), File::from_raw_fd(program)) }
}

/// Types Ctrl-S, and waits until the terminal has stopped its output.
pub fn hold(person: &mut File, program: &File) {
    person.write_all(b"\x13").expect("the terminal is open");
    let is_held = || !quinistry::system::is_writable(program.as_fd(), Duration::ZERO);
    eventually("the terminal has stopped its output", || is_held().then_some(()));
}

/// Limits the number of received bytes that the kernel buffers for a socket to about `size`.
pub fn limit_receive_buffer(stream: &TcpStream, size: libc::c_int) {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_RCVBUF);
    // SAFETY: the pointer is to a c_int that outlives the call, and the length is a c_int's.
    let set = unsafe { libc::setsockopt(stream.as_raw_fd(), level, name, (&raw const size).cast(), length) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

/// Makes a system call, and returns its error number, or 0 if it succeeds. The tests use only calls and arguments that
/// do not harm the process.
pub fn call(number: libc::c_long, with: [usize; 6]) -> i32 {
    // SAFETY: no argument is a valid address in this process, so a call that takes an address fails.
    let result = unsafe { libc::syscall(number, with[0], with[1], with[2], with[3], with[4], with[5]) };
    if result == -1 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
}

/// Calls getpid as a 32-bit program does. Returns 0.
#[cfg(target_arch = "x86_64")]
pub fn call_as_i386() -> i32 {
    // SAFETY: getpid has no arguments, and its result replaces its number, in a register that is named.
    unsafe { std::arch::asm!("int 0x80", inout("eax") 20 => _) };
    0
}

/// Registers a function to be called when this process exits.
pub fn at_exit(function: extern "C" fn()) {
    // SAFETY: the function is a static one.
    assert_eq!(unsafe { libc::atexit(function) }, 0, "the C library has memory for the registration");
}

/// Ends the process at once, without calling the functions that are registered with [`at_exit`].
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) takes no pointers.
    unsafe { libc::_exit(code) }
}
