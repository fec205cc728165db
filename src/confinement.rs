//! Builds a seccomp filter, by which the kernel refuses every system call that a table does not allow.
//!
//! Documents: seccomp(2), and linux/audit.h for the names of architectures.
//!
//! Once a server has opened its sockets and packed its layers, it needs few system calls. An attacker who has taken
//! over the process would need others: to open files, to run programs, to connect to other machines. Before the server
//! reads the first byte from outside, it therefore permanently drops the right to make those calls. The filter is a
//! program that the kernel runs for each call. It only loads, masks and compares numbers, and jumps forward:
//!
//! ```text
//!     is the call made for this architecture?     no: the process ends
//!     is it the first in the table?               yes: its verdict
//!     is it the second?                           yes: its verdict
//!     ...
//!     the call fails with ENOSYS
//! ```
//!
//! The kernel refuses a call in one of these ways:
//!
//! * Usually the call fails with ENOSYS. Libraries expect this error from a call that an old kernel lacks, and do
//!   without the call. EPERM, in contrast, has broken libraries in containers. An unforeseen call, such as one that a
//!   library makes before it writes an error message, is therefore harmless.
//! * The process ends if it makes a call that only injected code can make: the server itself starts no process and
//!   creates no socket while it serves. A process that has been taken over can then neither try other calls nor serve
//!   other bytes, and the service manager, which sees SIGSYS as the reason, restarts the server.
//!
//! `abort` does not end the process with SIGABRT, because the call that sends the signal fails with ENOSYS. `abort`
//! then executes an instruction that traps. The calls of x32, a second system call ABI of `x86_64`, fail as well,
//! because their numbers are not in the table.
//!
//! Limits: the architectures below. On any other architecture the server runs without a filter, and logs that it does.
//!
//! Deliberately absent: rules for descriptors and for files, because a filter sees only numbers. The descriptors of
//! clients change all the time (`system::start` has closed the inherited ones), and a filter cannot read a file name,
//! so no call that opens a file is allowed at all.

use std::ffi::c_long;
use std::io::{self, ErrorKind};

use libc::sock_filter;

use crate::system;

use Verdict::{Allowed, AllowedIf, Ends};

/// What the kernel does with a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Executes the call.
    Allowed,
    /// Executes the call if every condition holds, and makes the call fail otherwise. A condition is an argument
    /// (counted from 0), a mask, and the value that the argument must have in the bits of the mask.
    AllowedIf(&'static [(u32, u32, u32)]),
    /// Ends the process.
    Ends,
}

/// The kernel's number for the architecture of this program; 0 if the table does not cover the architecture.
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

/// All bits of an argument.
const ALL: u32 = u32::MAX;

// The conditions of the table. The flags in `SENDS` are those that `system::send` and std use.
const SOCKET_LEVEL: (u32, u32, u32) = (1, ALL, libc::SOL_SOCKET.cast_unsigned());
const SENDS: Verdict = AllowedIf(&[(3, !(libc::MSG_NOSIGNAL | libc::MSG_MORE).cast_unsigned(), 0)]);
const MAPS: Verdict = AllowedIf(&[(2, libc::PROT_EXEC.cast_unsigned(), 0)]);

/// The calls with a verdict of their own. The calls with a condition come first, because Linux 5.11 and later cache
/// which calls are always allowed, and run the filter only for the other calls.
pub const RULES: &[(c_long, Verdict)] = &[
    // Responses, but not with MSG_FASTOPEN, which connects a socket to another machine.
    (libc::SYS_sendto, SENDS),
    #[cfg(target_arch = "arm")]
    (libc::SYS_send, SENDS),
    // Whether a response has been acknowledged, but no other ioctl, because some can even inject input into a terminal.
    (libc::SYS_ioctl, AllowedIf(&[(1, ALL, libc::TIOCOUTQ as u32)])),
    // How much memory a socket has queued.
    (libc::SYS_getsockopt, AllowedIf(&[SOCKET_LEVEL, (2, ALL, libc::SO_MEMINFO.cast_unsigned())])),
    // Reset instead of a graceful close.
    (libc::SYS_setsockopt, AllowedIf(&[SOCKET_LEVEL, (2, ALL, libc::SO_LINGER.cast_unsigned())])),
    // The end of the last response, but not SHUT_RD, which would turn the listener into a socket that can connect.
    (libc::SYS_shutdown, AllowedIf(&[(1, ALL, libc::SHUT_WR.cast_unsigned())])),
    // Memory, but not executable.
    #[cfg(not(target_arch = "arm"))]
    (libc::SYS_mmap, MAPS),
    #[cfg(target_arch = "arm")]
    (libc::SYS_mmap2, MAPS),
    (libc::SYS_mprotect, MAPS), // musl
    (libc::SYS_brk, Allowed),
    (libc::SYS_mremap, Allowed),
    (libc::SYS_munmap, Allowed),
    // The loop, for which musl calls epoll_pwait even where there is epoll_wait.
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
    // Locks, because C libraries wake the waiting threads even if there are none, and abort if the call fails.
    (libc::SYS_futex, Allowed),
    // The kernel uses this call to resume one that a stop signal has interrupted.
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

/// The libc crate does not define this number.
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

/// Builds the filter for an architecture and its table of calls.
fn filter(architecture: u32, rules: &[(c_long, Verdict)]) -> Vec<sock_filter> {
    let mut filter = vec![load(CALLED_ARCHITECTURE), compare(architecture, [1, 0]), end_with(END), load(NUMBER)];
    for &(call, verdict) in rules {
        let (conditions, result) = match verdict {
            Allowed => (&[][..], ALLOW),
            AllowedIf(conditions) => (conditions, ALLOW),
            Ends => (&[][..], END),
        };
        // Any other call skips the instructions that follow: four for each condition, and the last one.
        filter.push(compare(call.cast_unsigned() as u32, [0, 4 * conditions.len() as u8 + 1]));
        // An argument has 64 bits, of which the lower half comes first on every processor that `ARCHITECTURE` covers.
        // The upper half can be ignored, because the kernel takes each of the arguments in the table as an `int`, or
        // uses only bits of the lower half.
        for &(argument, mask, value) in conditions {
            let and = instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask, [0, 0]);
            filter.extend([load(ARGUMENTS + 8 * argument), and, compare(value, [1, 0]), end_with(FAIL)]);
        }
        filter.push(end_with(result));
    }
    filter.push(end_with(FAIL));
    filter
}

/// Loads the 32 bits at this offset of the input.
fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, [0, 0])
}

/// Compares the loaded bits with `number`. Skips `skipped[0]` instructions if the two are equal, and `skipped[1]`
/// instructions otherwise.
fn compare(number: u32, skipped: [u8; 2]) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, skipped)
}

fn end_with(result: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, result, [0, 0])
}

fn instruction(code: u32, k: u32, [jt, jf]: [u8; 2]) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// Confines this thread to the calls of the table, irrevocably. Fails if the table does not cover the architecture, if
/// the kernel does not support filters, or if the environment of the process does not allow them.
pub fn confine() -> io::Result<()> {
    if ARCHITECTURE == 0 {
        return Err(ErrorKind::Unsupported.into());
    }
    system::set_filter(&filter(ARCHITECTURE, RULES))
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
                0x54 => loaded &= k,
                0x06 => return k,
                other => panic!("an unknown instruction: {other:#x}"),
            }
        }
    }

    const ARCHITECTURE: u32 = 7;

    fn result(number: u32, arguments: [u64; 6]) -> u32 {
        let rules =
            [(10, AllowedIf(&[(2, 4, 0)])), (11, Allowed), (12, Ends), (13, AllowedIf(&[(4, ALL, 0), (5, ALL, 1)]))];
        run(&filter(ARCHITECTURE, &rules), &Call { architecture: ARCHITECTURE, number, arguments })
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
            assert_eq!(run(&filter(ARCHITECTURE, &[(11, Allowed)]), &call), END);
        }
    }
}
