//! Builds a filter from a table of system calls. With it, the kernel denies all others.
//!
//! Documents: seccomp(2), and linux/audit.h for the names of architectures.
//!
//! Once a server has opened its sockets and packed its layers, it needs few system calls. An attacker who has
//! taken over the process would need others: to open files, to run programs, to connect to other machines. The
//! server drops those rights, irrevocably, before it reads the first byte from outside. The filter is a program
//! that the kernel runs for each call. It compares numbers and jumps forward. It is built at compile time:
//!
//! ```text
//!     is the call made for this architecture?     no: the process ends
//!     is it the first in the table?               yes: its verdict
//!     is it the second?                           yes: its verdict
//!     ...
//!     the call fails with ENOSYS
//! ```
//!
//! What happens to a call that is not allowed:
//!
//! * Usually it fails with ENOSYS. Libraries expect this error of a call that an old kernel lacks, and do
//!   without the call (EPERM has broken libraries in containers). So an unforeseen call of a library, perhaps
//!   on its way to an error message, is harmless.
//! * A call that only injected code can make ends the process: nothing here starts a process or creates a
//!   socket while it serves. A process that has been taken over must not try something else, or serve other
//!   bytes. The service manager restarts the server, and sees SIGSYS as the reason.
//!
//! `abort` is not supported: its signal to itself fails with ENOSYS, and it then ends the process by an illegal
//! instruction. The numbers of x32, the second set of calls of `x86_64`, are not in the table.
//!
//! Limits: the architectures below. On others the server runs without a filter, and logs that.
//!
//! Deliberately absent: rules for descriptors and for files. A filter sees only numbers, and the descriptors of
//! clients change all the time. (`system::start` has closed the inherited ones.) A filter cannot read a file
//! name either, so no file can be opened at all.

use std::ffi::c_long;
use std::io::{self, ErrorKind};

use libc::sock_filter;

use crate::system;

use Verdict::{Allowed, AllowedWith, AllowedWithout, Ends};

/// What happens to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is executed.
    Allowed,
    /// It is executed if each of the arguments with these indexes, from 0, is that number.
    AllowedWith(&'static [(u32, u32)]),
    /// It is executed if the argument with that index has none of those bits.
    AllowedWithout(u32, u32),
    /// It ends the process.
    Ends,
}

/// The kernel's number for the architecture of this program; 0 if the table does not cover it.
pub const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e // AUDIT_ARCH_X86_64
} else if cfg!(target_arch = "aarch64") {
    0xc000_00b7 // AUDIT_ARCH_AARCH64
} else if cfg!(target_arch = "riscv64") {
    0xc000_00f3 // AUDIT_ARCH_RISCV64
} else if cfg!(target_arch = "arm") {
    0x4000_0028 // AUDIT_ARCH_ARM
} else {
    0
};

/// The flags that `system::send` and std use.
const SEND_FLAGS: u32 = (libc::MSG_NOSIGNAL | libc::MSG_MORE).cast_unsigned();
const SOCKET_LEVEL: (u32, u32) = (1, libc::SOL_SOCKET.cast_unsigned());
const EXECUTABLE: u32 = libc::PROT_EXEC.cast_unsigned();

/// The calls with a verdict of their own. Those with a condition come first: the kernel caches which calls are
/// always allowed, and runs the filter only for the others.
pub const RULES: &[(c_long, Verdict)] = &[
    // Responses. Not with MSG_FASTOPEN, which connects a socket to another machine.
    (libc::SYS_sendto, AllowedWithout(3, !SEND_FLAGS)),
    #[cfg(target_arch = "arm")]
    (libc::SYS_send, AllowedWithout(3, !SEND_FLAGS)),
    // Whether a response has been acknowledged. Other ioctls can even type into a terminal.
    (libc::SYS_ioctl, AllowedWith(&[(1, libc::TIOCOUTQ as u32)])),
    // How much memory a socket has queued.
    (libc::SYS_getsockopt, AllowedWith(&[SOCKET_LEVEL, (2, libc::SO_MEMINFO.cast_unsigned())])),
    // Reset instead of a graceful close.
    (libc::SYS_setsockopt, AllowedWith(&[SOCKET_LEVEL, (2, libc::SO_LINGER.cast_unsigned())])),
    // The end of the last response. SHUT_RD would turn the listener into a socket that can connect.
    (libc::SYS_shutdown, AllowedWith(&[(1, libc::SHUT_WR.cast_unsigned())])),
    // Memory, but not executable.
    #[cfg(not(target_arch = "arm"))]
    (libc::SYS_mmap, AllowedWithout(2, EXECUTABLE)),
    #[cfg(target_arch = "arm")]
    (libc::SYS_mmap2, AllowedWithout(2, EXECUTABLE)),
    (libc::SYS_mprotect, AllowedWithout(2, EXECUTABLE)), // musl
    (libc::SYS_brk, Allowed),
    (libc::SYS_mremap, Allowed),
    (libc::SYS_munmap, Allowed),
    // The loop. musl asks for epoll_pwait even where there is epoll_wait.
    #[cfg(any(target_arch = "x86_64", target_arch = "arm"))]
    (libc::SYS_epoll_wait, Allowed),
    (libc::SYS_epoll_pwait, Allowed),
    (libc::SYS_epoll_ctl, Allowed),
    // Clients.
    (libc::SYS_accept4, Allowed),
    (libc::SYS_recvfrom, Allowed),
    #[cfg(target_arch = "arm")]
    (libc::SYS_recv, Allowed),
    (libc::SYS_sendfile, Allowed),
    #[cfg(target_arch = "arm")]
    (libc::SYS_sendfile64, Allowed),
    (libc::SYS_close, Allowed),
    // Signals, through their descriptor.
    (libc::SYS_read, Allowed),
    // The resident memory, for the metrics.
    (libc::SYS_pread64, Allowed),
    // The log, and the last message of a C library or a panic.
    #[cfg(any(target_arch = "x86_64", target_arch = "arm"))]
    (libc::SYS_poll, Allowed),
    (libc::SYS_ppoll, Allowed),
    (libc::SYS_write, Allowed),
    (libc::SYS_writev, Allowed),
    // The time, where the kernel has no vDSO for it.
    (libc::SYS_clock_gettime, Allowed),
    #[cfg(target_arch = "arm")]
    (SYS_CLOCK_GETTIME64, Allowed),
    // Locks. C libraries wake the waiting threads even if there are none, and abort if that fails.
    (libc::SYS_futex, Allowed),
    // The kernel's continuation of a call that a stop has interrupted.
    (libc::SYS_restart_syscall, Allowed),
    // Exit.
    (libc::SYS_exit_group, Allowed),
    // Another program, another process, another machine.
    (libc::SYS_execve, Ends),
    (libc::SYS_execveat, Ends),
    #[cfg(any(target_arch = "x86_64", target_arch = "arm"))]
    (libc::SYS_fork, Ends),
    #[cfg(any(target_arch = "x86_64", target_arch = "arm"))]
    (libc::SYS_vfork, Ends),
    (libc::SYS_clone, Ends),
    (libc::SYS_clone3, Ends),
    (libc::SYS_ptrace, Ends),
    (libc::SYS_socket, Ends),
    (libc::SYS_connect, Ends),
];

/// The libc crate does not define it.
#[cfg(target_arch = "arm")]
const SYS_CLOCK_GETTIME64: c_long = 403;

/// The offsets of the fields of a `seccomp_data`, the input of a filter.
const NUMBER: u32 = 0;
const CALLED_ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

// The kernel's values for a filter's result.
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const FAIL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
const END: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// The filter of this program.
static FILTER: Filter = Filter::new(ARCHITECTURE, RULES);

/// A filter in the kernel's format.
pub struct Filter {
    instructions: [sock_filter; Self::ROOM],
    length: usize,
}

impl Filter {
    const ROOM: usize = 128;

    /// Builds the filter for an architecture and its table of calls.
    pub const fn new(architecture: u32, rules: &[(c_long, Verdict)]) -> Self {
        let nothing = sock_filter { code: 0, jt: 0, jf: 0, k: 0 };
        let mut filter = Self { instructions: [nothing; Self::ROOM], length: 0 };
        filter.load(CALLED_ARCHITECTURE);
        filter.jump(libc::BPF_JEQ, architecture, [1, 0]);
        filter.ret(END);
        filter.load(NUMBER);
        let mut index = 0;
        // A const function cannot use `for` yet.
        while index < rules.len() {
            let (call, verdict) = rules[index];
            filter.rule(call.cast_unsigned() as u32, verdict);
            index += 1;
        }
        filter.ret(FAIL);
        filter
    }

    /// The instructions.
    pub fn instructions(&self) -> &[sock_filter] {
        &self.instructions[..self.length]
    }

    /// Appends the instructions for one call. Other calls skip them.
    const fn rule(&mut self, call: u32, verdict: Verdict) {
        match verdict {
            Allowed | Ends => {
                self.jump(libc::BPF_JEQ, call, [0, 1]);
                self.ret(if matches!(verdict, Allowed) { ALLOW } else { END });
            }
            AllowedWith(arguments) => {
                let mut left = 2 * arguments.len() as u8;
                self.jump(libc::BPF_JEQ, call, [0, left + 2]);
                while left > 0 {
                    let (argument, number) = arguments[arguments.len() - left as usize / 2];
                    self.load(lower_half(argument));
                    left -= 2;
                    self.jump(libc::BPF_JEQ, number, [0, left + 1]);
                }
                self.ret(ALLOW);
                self.ret(FAIL);
            }
            AllowedWithout(argument, bits) => {
                self.jump(libc::BPF_JEQ, call, [0, 4]);
                self.load(lower_half(argument));
                self.jump(libc::BPF_JSET, bits, [1, 0]);
                self.ret(ALLOW);
                self.ret(FAIL);
            }
        }
    }

    /// Appends: load the 32 bits at this offset.
    const fn load(&mut self, offset: u32) {
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, [0, 0]);
    }

    /// Appends: compare the loaded bits with a number, and skip the first count of instructions if the
    /// comparison holds, else the second.
    const fn jump(&mut self, comparison: u32, number: u32, skipped: [u8; 2]) {
        self.push(libc::BPF_JMP | comparison | libc::BPF_K, number, skipped);
    }

    /// Appends: return this result.
    const fn ret(&mut self, result: u32) {
        self.push(libc::BPF_RET | libc::BPF_K, result, [0, 0]);
    }

    const fn push(&mut self, code: u32, k: u32, [jt, jf]: [u8; 2]) {
        self.instructions[self.length] = sock_filter { code: code as u16, jt, jf, k };
        self.length += 1;
    }
}

/// Returns the offset of the lower 32 bits of an argument. The upper half can be ignored: the kernel takes each of
/// the arguments in the table as an `int`, or uses only bits of the lower half.
const fn lower_half(argument: u32) -> u32 {
    let big_endian = cfg!(target_endian = "big") as u32;
    ARGUMENTS + 8 * argument + 4 * big_endian
}

/// Confines this thread to the calls of the table, irrevocably.
///
/// # Errors
///
/// If the kernel does not support filters, or the environment of the process does not allow them.
pub fn confine() -> io::Result<()> {
    if ARCHITECTURE == 0 {
        return Err(ErrorKind::Unsupported.into());
    }
    system::set_filter(FILTER.instructions())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The input of a filter, as 32-bit words.
    struct Call {
        architecture: u32,
        number: u32,
        arguments: [u64; 6],
    }

    impl Call {
        fn word(&self, offset: u32) -> u32 {
            let argument = |at: u32| (self.arguments[at as usize / 8] >> (at % 8 * 8)) as u32;
            match offset {
                NUMBER => self.number,
                CALLED_ARCHITECTURE => self.architecture,
                offset => argument(offset - ARGUMENTS),
            }
        }
    }

    /// Runs a filter as the kernel does.
    fn run(filter: &[sock_filter], call: &Call) -> u32 {
        let (mut loaded, mut at) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = filter[at];
            let skipped = |holds: bool| usize::from(if holds { jt } else { jf });
            at += 1;
            match code {
                0x20 => loaded = call.word(k),
                0x15 => at += skipped(loaded == k),
                0x45 => at += skipped(loaded & k != 0),
                0x06 => return k,
                other => panic!("an unknown instruction: {other:#x}"),
            }
        }
    }

    const ARCHITECTURE: u32 = 7;

    fn result(number: u32, arguments: [u64; 6]) -> u32 {
        let rules =
            [(10, AllowedWithout(2, 4)), (11, Allowed), (12, Ends), (13, AllowedWith(&[(4, 0), (5, 1)]))];
        let filter = Filter::new(ARCHITECTURE, &rules);
        run(filter.instructions(), &Call { architecture: ARCHITECTURE, number, arguments })
    }

    #[test]
    fn each_verdict_is_given_for_its_call_alone() {
        let any = [0, 0, 0, 0, 0, 1];
        let expected = [(9, FAIL), (10, ALLOW), (11, ALLOW), (12, END), (13, ALLOW), (14, FAIL)];
        for (number, verdict) in expected {
            assert_eq!(result(number, any), verdict, "{number}");
        }
        assert_eq!(result(0x4000_000b, any), FAIL, "a call of x32");
        assert_eq!(result(u32::MAX, any), FAIL, "a call that a tracer has taken out");
    }

    #[test]
    fn arguments_are_compared_by_their_lower_half() {
        for (argument, verdict) in [(0, ALLOW), (3, ALLOW), (4, FAIL), (7, FAIL), (1 << 34, ALLOW)] {
            assert_eq!(result(10, [4, 4, argument, 4, 4, 4]), verdict, "{argument:#x}");
        }
        for (argument, verdict) in [(1, ALLOW), (0, FAIL), (3, FAIL), (1 << 32 | 1, ALLOW), (1 << 32, FAIL)] {
            assert_eq!(result(13, [1, 1, 1, 1, 0, argument]), verdict, "{argument:#x}");
            assert_eq!(result(13, [1, 1, 1, 1, 2, argument]), FAIL, "the other argument counts as well");
        }
    }

    #[test]
    fn a_call_for_another_architecture_ends_the_process() {
        for number in [9, 11] {
            let call = Call { architecture: ARCHITECTURE + 1, number, arguments: [0; 6] };
            assert_eq!(run(Filter::new(ARCHITECTURE, &[(11, Allowed)]).instructions(), &call), END);
        }
    }
}
