//! Bounds each use of memory that clients can cause, so that the sum stays below the limit of the process.
//!
//! Documents: cgroups(7); the kernel's `cgroup-v2`, "Memory"; tcp(7).
//!
//! A container is charged for the memory that its process allocates, and also for the bytes that the kernel queues for
//! its sockets. The kernel queues responses to a client that does not read, and requests from a client that sends
//! without end. The kernel kills the process if the sum exceeds the container's limit. Each use of memory that clients
//! can cause therefore has a bound, and the bounds leave an eighth of the limit to the program itself:
//!
//! ```text
//!     use                                           bound             of 64 MiB
//!     --------------------------------------------  ----------------  ----------------
//!     connections, 24 KiB for each                  3/4 of the limit  2048
//!     what sockets queue beyond `GUARANTEED` bytes  1/16              4 MiB
//!     incomplete heads and unsent responses         1/16              4 MiB
//!     the program, its layers, its log              the rest          8 MiB
//! ```
//!
//! The memory of the program itself has no bound, so whoever adds layers with `--with` must raise the limit of the
//! container.
//!
//! A connection can always queue [`GUARANTEED`] bytes, so that a slow reader makes progress whatever other clients do.
//! While all sockets together queue less than [`Budget::queued`], a connection can queue more, up to the difference. If
//! the container has no limit, `Budget::queued` is 512 MiB, and the kernel has a limit of its own (tcp(7), `tcp_mem`).
//!
//! Limits: the fields of [`Budget`].
//!
//! Deliberately absent: measuring the memory in use, which takes a system call and may come too late.

use std::fs;
use std::path::Path;

/// How many bytes each connection can have queued to be sent, whatever the other connections have queued.
pub const GUARANTEED: u64 = 8 * 1024;

/// The size of a socket's receive buffer, which is enough for a few requests of the usual size. The kernel doubles the
/// size (socket(7)), but uses only half of the result for received bytes, so this many bytes fit. A client that sends
/// more must wait until the server reads.
pub const RECEIVE_BUFFER: i32 = 4 * 1024;

/// The memory for a connection in addition to [`GUARANTEED`]: received bytes that have not been read, the kernel's
/// objects, and a slot in the table of clients. For received bytes, the kernel doubles the size of the buffer, and
/// takes one packet more.
const FIXED_OVERHEAD: u64 = 3 * RECEIVE_BUFFER as u64 + 4 * 1024;

/// The maximum amount of memory that is divided among connections, even if the process may use more: enough for
/// [`MAX_CONNECTIONS`].
const MOST_MEMORY: u64 = 512 * 1024 * 1024;

/// The maximum number of connections, however much memory and however many descriptors the process has.
pub const MAX_CONNECTIONS: usize = 16 * 1024;

/// The number of descriptors that are not connections. These are the three standard descriptors, those of epoll, the
/// listener, the signals and the resident memory, and one for each of up to eight layers. One more is opened only at
/// the start, to check that there is a descriptor for a client.
pub const RESERVED_DESCRIPTORS: usize = 16;

/// The maximum number of bytes for incomplete heads and unsent responses. An honest client needs this memory only while
/// its packets are in transit.
const MAX_HELD: u64 = 8 * 1024 * 1024;

const _: () = assert!(
    MOST_MEMORY / 4 * 3 / (GUARANTEED + FIXED_OVERHEAD) == MAX_CONNECTIONS as u64,
    "without a memory limit, the only limit is the number of connections"
);

/// The maximum that all connections together may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// The number of connections.
    pub connections: usize,
    /// The bytes of incomplete heads and unsent responses in the process.
    pub held: usize,
    /// The bytes that all sockets together can queue in the kernel before each socket is limited to [`GUARANTEED`].
    pub queued: u64,
}

impl Budget {
    /// Divides `limit` bytes of memory. `descriptors` is the number of descriptors that the process may open. All but
    /// [`RESERVED_DESCRIPTORS`] of them are available to connections, and at least one connection is always allowed.
    ///
    /// ```
    /// use quinistry::budget::Budget;
    ///
    /// let budget = Budget::of(64 << 20, 100_000);
    /// assert_eq!(budget, Budget { connections: 2048, held: 4 << 20, queued: 4 << 20 });
    /// ```
    pub fn of(limit: u64, descriptors: usize) -> Self {
        let memory = limit.min(MOST_MEMORY);
        let connections = memory / 4 * 3 / (GUARANTEED + FIXED_OVERHEAD);
        Self {
            connections: (connections as usize).min(descriptors.saturating_sub(RESERVED_DESCRIPTORS)).max(1),
            held: (memory / 16).min(MAX_HELD) as usize,
            // This divides `limit` and not `memory`, because with only 32 MiB for all sockets, 1,000 clients that fetch
            // the layer at once take twice as long.
            queued: (limit / 16).min(MOST_MEMORY),
        }
    }

    /// Returns the maximum amount of memory that serving may allocate, in bytes: the bytes that connections hold, 640
    /// bytes for each connection in the table, and 4 MiB for turns, the log and fragmentation. The server does not
    /// start if it cannot map this much memory, because a failed allocation would abort it later.
    pub fn needed_memory(&self) -> usize {
        self.held + self.connections * 640 + 4 * 1024 * 1024
    }
}

/// Returns the lowest memory limit of the control groups of this process, in bytes, or `u64::MAX` if no limit is
/// visible.
///
/// All directories of the path in `/proc/self/cgroup` (see cgroups(7)) are tried, because a container usually sees its
/// own group at the root of the cgroup file system, whatever that path is.
pub fn memory_limit() -> u64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().flat_map(|line| {
        // hierarchy-ID ":" controller-list ":" cgroup-path
        let mut columns = line.splitn(3, ':').skip(1);
        let (controllers, path) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        };
        let is_ours = controllers.is_empty() || controllers.split(',').any(|name| name == "memory");
        let directories = Path::new(path).ancestors().filter(move |_| is_ours);
        directories.filter_map(move |directory| {
            let limit = fs::read_to_string(format!("{root}{}/{file}", directory.display())).ok()?;
            limit.trim().parse().ok() // `max` is no limit.
        })
    });
    limits.min().unwrap_or(u64::MAX)
}
