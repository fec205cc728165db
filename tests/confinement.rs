//! The system call filter, and what a compromised server could still do: these tests try each call that the filter
//! allows, and many that it does not allow.
//!
//! Each call is made in a separate process, because some calls end the process. That process runs this test program
//! again, and an environment variable selects the call (see [`a_child_process_makes_the_selected_call_and_exits`]).
//!
//! One test needs root, and one needs Docker. Without these, they are skipped.

mod common;

use std::ffi::c_long;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use common::docker::{ImageName, docker, has_docker};
use common::{Server, eventually, is_root, open_program, quinistry, quinistry_as_other_user, system, this_test, tool};
use quinistry::confinement::{self, RULES, Verdict};

/// What happens to a call in a confined process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// The filter allows the call. The kernel makes it, or rejects its arguments.
    Heard,
    /// The filter makes the call fail.
    Refused,
    /// The filter ends the process.
    Ends,
}

use Fate::{Ends, Heard, Refused};

/// An argument that is not a valid descriptor, address or ID.
const BAD: usize = usize::MAX;
const ANY: [usize; 6] = [BAD; 6];
const NONE: [usize; 6] = [0; 6];

/// A call, its arguments, and what must happen to it.
type Attempt = (c_long, [usize; 6], Fate);

/// Returns an attempt at a call of which the filter checks only this argument.
const fn with(call: c_long, index: usize, argument: i32, fate: Fate) -> Attempt {
    let mut arguments = ANY;
    arguments[index] = argument.cast_unsigned() as usize;
    (call, arguments, fate)
}

/// Returns an attempt to read or set a socket option.
const fn option(call: c_long, level: i32, name: i32, fate: Fate) -> Attempt {
    let (_, mut arguments, _) = with(call, 1, level, fate);
    arguments[2] = name.cast_unsigned() as usize;
    (call, arguments, fate)
}

const ATTEMPTS: &[Attempt] = &[
    // A server may send responses, but open no connections. With MSG_FASTOPEN, `sendto` could connect a listener that
    // is shut down for reading.
    with(libc::SYS_sendto, 3, libc::MSG_NOSIGNAL | libc::MSG_MORE, Heard),
    with(libc::SYS_sendto, 3, libc::MSG_FASTOPEN, Refused),
    with(libc::SYS_sendto, 3, libc::MSG_OOB | libc::MSG_NOSIGNAL, Refused),
    with(libc::SYS_shutdown, 1, libc::SHUT_WR, Heard),
    with(libc::SYS_shutdown, 1, libc::SHUT_RD, Refused),
    with(libc::SYS_shutdown, 1, libc::SHUT_RDWR, Refused),
    with(libc::SYS_ioctl, 1, libc::TIOCOUTQ as i32, Heard),
    with(libc::SYS_ioctl, 1, libc::TIOCSTI as i32, Refused),
    with(libc::SYS_ioctl, 1, libc::FIONREAD as i32, Refused),
    option(libc::SYS_getsockopt, libc::SOL_SOCKET, libc::SO_MEMINFO, Heard),
    option(libc::SYS_getsockopt, libc::SOL_SOCKET, libc::SO_PEERCRED, Refused),
    option(libc::SYS_setsockopt, libc::SOL_SOCKET, libc::SO_LINGER, Heard),
    option(libc::SYS_setsockopt, libc::IPPROTO_TCP, libc::SO_LINGER, Refused),
    option(libc::SYS_setsockopt, libc::SOL_SOCKET, libc::SO_REUSEPORT, Refused),
    // A server may allocate memory, but add no code.
    #[cfg(not(target_arch = "arm"))]
    with(libc::SYS_mmap, 2, libc::PROT_READ | libc::PROT_WRITE, Heard),
    #[cfg(not(target_arch = "arm"))]
    with(libc::SYS_mmap, 2, libc::PROT_READ | libc::PROT_EXEC, Refused),
    with(libc::SYS_mprotect, 2, libc::PROT_READ | libc::PROT_WRITE, Heard),
    with(libc::SYS_mprotect, 2, libc::PROT_READ | libc::PROT_EXEC, Refused),
    (libc::SYS_pkey_mprotect, ANY, Refused),
    (libc::SYS_brk, NONE, Heard),
    (libc::SYS_mremap, ANY, Heard),
    (libc::SYS_munmap, ANY, Heard),
    // The other calls that serving needs.
    #[cfg(any(target_arch = "x86_64", target_arch = "arm"))]
    (libc::SYS_epoll_wait, ANY, Heard),
    (libc::SYS_epoll_pwait, ANY, Heard),
    (libc::SYS_epoll_ctl, ANY, Heard),
    (libc::SYS_accept4, ANY, Heard),
    (libc::SYS_recvfrom, ANY, Heard),
    (libc::SYS_sendfile, ANY, Heard),
    (libc::SYS_close, ANY, Heard),
    (libc::SYS_read, ANY, Heard),
    (libc::SYS_pread64, ANY, Heard),
    #[cfg(any(target_arch = "x86_64", target_arch = "arm"))]
    (libc::SYS_poll, ANY, Heard),
    (libc::SYS_ppoll, ANY, Heard),
    (libc::SYS_write, ANY, Heard),
    (libc::SYS_writev, ANY, Heard),
    (libc::SYS_clock_gettime, ANY, Heard),
    with(libc::SYS_futex, 1, libc::FUTEX_WAKE, Heard),
    (libc::SYS_restart_syscall, ANY, Heard),
    (libc::SYS_exit_group, NONE, Heard),
    // Starting programs and processes, and connecting to other machines.
    (libc::SYS_execve, ANY, Ends),
    (libc::SYS_execveat, ANY, Ends),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_fork, ANY, Ends),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_vfork, ANY, Ends),
    (libc::SYS_clone, ANY, Ends),
    (libc::SYS_clone3, ANY, Ends),
    (libc::SYS_ptrace, ANY, Ends),
    (libc::SYS_socket, ANY, Ends),
    (libc::SYS_connect, ANY, Ends),
    // Opening and changing files.
    (libc::SYS_openat, ANY, Refused),
    (libc::SYS_openat2, ANY, Refused),
    (libc::SYS_unlinkat, ANY, Refused),
    (libc::SYS_linkat, ANY, Refused),
    (libc::SYS_chdir, ANY, Refused),
    (libc::SYS_chroot, ANY, Refused),
    (libc::SYS_mount, ANY, Refused),
    (libc::SYS_memfd_create, ANY, Refused),
    (libc::SYS_readlinkat, ANY, Refused),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, ANY, Refused),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, ANY, Refused),
    // Copying and passing descriptors.
    (libc::SYS_fcntl, ANY, Refused),
    (libc::SYS_dup, ANY, Refused),
    (libc::SYS_pidfd_getfd, ANY, Refused),
    (libc::SYS_sendmsg, ANY, Refused),
    (libc::SYS_recvmsg, ANY, Refused),
    (libc::SYS_splice, ANY, Refused),
    // Creating sockets, and finding out about them.
    (libc::SYS_socketpair, ANY, Refused),
    (libc::SYS_bind, ANY, Refused),
    (libc::SYS_listen, ANY, Refused),
    (libc::SYS_getpeername, ANY, Refused),
    // Reaching other processes.
    (libc::SYS_kill, ANY, Refused),
    (libc::SYS_tgkill, ANY, Refused),
    (libc::SYS_pidfd_open, ANY, Refused),
    (libc::SYS_process_vm_readv, ANY, Refused),
    (libc::SYS_process_vm_writev, ANY, Refused),
    (libc::SYS_getppid, ANY, Refused),
    // Changing privileges and limits.
    (libc::SYS_setuid, ANY, Refused),
    (libc::SYS_capset, ANY, Refused),
    (libc::SYS_unshare, ANY, Refused),
    (libc::SYS_setns, ANY, Refused),
    (libc::SYS_prctl, ANY, Refused),
    (libc::SYS_seccomp, ANY, Refused),
    (libc::SYS_personality, ANY, Refused),
    (libc::SYS_prlimit64, ANY, Refused),
    (libc::SYS_rt_sigaction, ANY, Refused),
];

/// The environment variable that selects what a child tries: the index of an attempt, or a word such as `abort`.
const VARIABLE: &str = "QUINISTRY_ATTEMPT";

/// The environment variable that, if it is set, makes a child confine itself first.
const CONFINED: &str = "QUINISTRY_CONFINED";

/// Makes the selected call if this process is the child of another test, and exits with the error number of the call,
/// or with 0 if it succeeds. Otherwise does nothing. The child exits here because a confined thread cannot end as the
/// threads of the test harness do.
#[test]
fn a_child_process_makes_the_selected_call_and_exits() {
    let Some(wanted) = std::env::var_os(VARIABLE) else { return };
    let wanted = wanted.to_str().expect("text");
    if std::env::var_os(CONFINED).is_some() {
        confinement::confine().expect("the kernel supports such filters");
    }
    match wanted {
        "abort" => std::process::abort(),
        #[cfg(target_arch = "x86_64")]
        "i386" => system::exit(system::call_as_i386()),
        #[cfg(target_arch = "x86_64")]
        "x32" => system::exit(system::call(libc::SYS_getppid | 0x4000_0000, NONE)),
        // The allocator takes the smaller blocks from the heap, and asks the kernel for a mapping for each larger one.
        // All blocks grow, and then some are released.
        "memory" => {
            let mut blocks: Vec<Vec<u8>> = (0..300).map(|size| vec![1; size * size * 10]).collect();
            for block in &mut blocks {
                block.resize(block.len() * 3, 2);
            }
            blocks.retain(|block| block.len() % 4 == 0);
            assert!(std::time::Instant::now().elapsed().as_secs() < 60);
            system::exit(0);
        }
        index => {
            let (call, arguments, _) = ATTEMPTS[index.parse::<usize>().expect("an index")];
            system::exit(system::call(call, arguments));
        }
    }
}

/// Runs a child that makes a call, and returns its exit status.
fn attempt(wanted: &str, is_confined: bool) -> ExitStatus {
    let mut command = this_test();
    command.args(["--exact", "a_child_process_makes_the_selected_call_and_exits"]).env(VARIABLE, wanted);
    if is_confined {
        command.env(CONFINED, "");
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("this program starts")
}

#[test]
fn a_confined_process_can_make_the_calls_that_serving_needs_and_no_others() {
    for (index, (call, arguments, fate)) in ATTEMPTS.iter().enumerate() {
        let status = attempt(&index.to_string(), true);
        let found = match (status.code(), status.signal()) {
            (Some(libc::ENOSYS), _) => Refused,
            (Some(_), _) => Heard,
            (_, Some(libc::SIGSYS)) => Ends,
            _ => panic!("call {call}: {status}"),
        };
        assert_eq!(found, *fate, "call {call} with {arguments:x?}: {status}");
        // Without the filter, the call does not fail in this way.
        if *fate == Refused {
            assert_ne!(attempt(&index.to_string(), false).code(), Some(libc::ENOSYS), "call {call}");
        }
    }
}

#[test]
fn every_call_in_the_table_of_the_filter_is_tried() {
    for (call, verdict) in RULES {
        let fate = if *verdict == Verdict::Ends { Ends } else { Heard };
        assert!(ATTEMPTS.iter().any(|(tried, _, found)| (tried, *found) == (call, fate)), "call {call}");
    }
}

#[test]
fn a_confined_process_can_allocate_memory() {
    assert_eq!(attempt("memory", true).code(), Some(0));
}

#[test]
fn a_confined_process_that_aborts_is_killed_by_a_signal() {
    // The table in main.rs lists these signals with their exit codes in a shell: 134 for SIGABRT, and 139 for SIGSEGV.
    assert_eq!(attempt("abort", false).signal(), Some(libc::SIGABRT));
    let signal = attempt("abort", true).signal();
    assert!(signal.is_some());
    if cfg!(target_arch = "x86_64") {
        assert_eq!(signal, Some(libc::SIGSEGV));
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_through_the_interfaces_of_other_architectures_are_refused() {
    // A kernel may lack the interface for i386. The process ends in either case.
    assert!(matches!(attempt("i386", true).signal(), Some(libc::SIGSYS | libc::SIGSEGV)));
    assert_eq!(attempt("x32", true).code(), Some(libc::ENOSYS));
}

/// Returns two values from the text of `/proc/PID/status`: the kind of the process's filter, and whether the process
/// can no longer gain privileges.
fn confinement_of(status: &str) -> [Option<&str>; 2] {
    ["Seccomp:\t", "NoNewPrivs:\t"].map(|key| status.lines().find_map(|line| line.strip_prefix(key)))
}

/// The beginning of the line that a server without a filter logs.
const WITHOUT_FILTER: &str = "Serving without a system call filter: ";

/// The values for a confined server: it has a filter (kind 2), and cannot gain privileges.
const FULLY_CONFINED: [Option<&str>; 2] = [Some("2"), Some("1")];

#[test]
fn a_server_that_serves_is_confined() {
    let server = Server::start();
    server.ask("GET /v2/", &[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    assert_eq!(confinement_of(&status), FULLY_CONFINED);
    assert!(!server.log().contains(WITHOUT_FILTER), "{}", server.log());
}

#[test]
fn a_server_that_does_not_run_as_root_is_confined() {
    if !is_root("only root can start a server as another user") {
        return;
    }
    let program = open_program();
    let server = Server::start_as(quinistry_as_other_user(&program).args(["--listen", "127.0.0.1:0"]));
    server.ask("GET /v2/", &[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    assert_eq!(confinement_of(&status), FULLY_CONFINED);
}

/// Calls that a server might make before it is confined, and that not every version of systemd's filter
/// `@system-service` allows.
const DEADLY_IN_A_SERVICE: [c_long; 2] = [libc::SYS_seccomp, libc::SYS_close_range];

#[test]
fn a_server_whose_service_manager_forbids_the_call_seccomp_is_confined_by_prctl() {
    let mut command = quinistry();
    let kill = libc::SECCOMP_RET_KILL_PROCESS;
    system::with_filter(command.args(["--listen", "127.0.0.1:0"]), &DEADLY_IN_A_SERVICE, kill);
    let server = Server::start_as(&mut command);
    assert_eq!(server.ask("GET /v2/", &[]).status, 200);
    assert_eq!(server.status("Seccomp_filters"), 2, "the service manager's filter and the server's own");
    assert!(!server.log().contains(WITHOUT_FILTER), "{}", server.log());
}

#[test]
fn a_server_that_may_not_have_a_filter_logs_this_and_serves() {
    let mut command = quinistry();
    let fail = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    system::with_filter(command.args(["--listen", "127.0.0.1:0"]), &[libc::SYS_seccomp, libc::SYS_prctl], fail);
    let server = Server::start_as(&mut command);
    assert_eq!(server.ask("GET /v2/", &[]).status, 200);
    server.wait_for_log(WITHOUT_FILTER);
    assert_eq!(server.status("Seccomp_filters"), 1, "only the filter of the test");
}

#[test]
fn a_server_closes_the_descriptors_that_it_inherits() {
    let mut command = quinistry();
    let file = std::fs::File::open("/proc/version").expect("Linux has it");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    system::with_descriptor(&mut command, &file, 77);
    system::with_descriptor(&mut command, &socket, 400);
    let server = Server::start_as(command.args(["--listen", "127.0.0.1:0"]));
    let folder = format!("/proc/{}/fd", server.pid());
    let open: Vec<_> = std::fs::read_dir(&folder).expect("the server runs").flatten().collect();
    assert!(open.len() > 3);
    for entry in open {
        let number: u32 = entry.file_name().to_str().and_then(|name| name.parse().ok()).expect("a number");
        let leads_to = std::fs::read_link(entry.path()).expect("it is open");
        assert!(number < 20, "{number} is {}", leads_to.display());
    }
}

#[test]
fn a_server_in_a_container_is_confined_whatever_the_container_allows() {
    if !has_docker() {
        return;
    }
    let parent = Server::start();
    let image = ImageName::at(parent.address.port());
    image.pull();
    for options in [
        &[][..],
        &["--cap-drop", "ALL", "--read-only", "--user", "12345:54321"],
        &["--user", "0:0", "--security-opt", "seccomp=unconfined"],
    ] {
        let id = docker(&[&["run", "--detach", "--network", "none"], options, &[&image.0]].concat());
        let log = || {
            let output = tool("docker").args(["logs", &id]).output().expect("docker starts");
            common::lossy(&output.stderr).into_owned()
        };
        eventually("the server listens", || log().contains("Listening on").then_some(()));
        let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &id]);
        eventually("the server is confined", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the server runs");
            (confinement_of(&status) == FULLY_CONFINED).then_some(())
        });
        docker(&["stop", "-t", "1", &id]);
        assert!(!log().contains(WITHOUT_FILTER), "{options:?}: {}", log());
    }
}
