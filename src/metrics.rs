//! Writes the server's counters as text for a monitoring system.
//!
//! Documents: Prometheus, "Text-based format" (version 0.0.4) and "Metric and label naming".
//!
//! ```text
//!     # HELP quinistry_requests_total Answered requests, by endpoint and status.
//!     # TYPE quinistry_requests_total counter
//!     quinistry_requests_total{endpoint="layer",status="200"} 3
//! ```
//!
//! Counting allocates no memory and makes no system call. Every value of a label is a constant or a rule of the command
//! line, so a client cannot add a value.
//!
//! Deliberately absent: histograms of time, because the duration of a response depends on the network.

use std::fmt::Write as _;

use crate::clock::Clock;
use crate::http::response::Status;
use crate::kinds::{CloseReason, RequestKind};
use crate::system::ResidentMemory;

/// The media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const STATUSES: usize = Status::ALL.len();
const KINDS: usize = RequestKind::ALL.len();
const REASONS: usize = CloseReason::ALL.len();

/// What the server has counted since its start.
pub struct Metrics {
    /// When the server started, in seconds since the epoch.
    pub started: u64,
    /// The number of accepted connections.
    pub accepted: u64,
    /// How often accepting was paused because there was no room for another connection.
    pub pauses: u64,
    /// The number of sent bytes of content. Small contents are counted with their response, and layers when the kernel
    /// takes their bytes.
    pub content_bytes: u64,
    responses: [[u64; STATUSES]; KINDS],
    closed: [u64; REASONS],
    memory: Option<ResidentMemory>,
}

/// The state that the server reports about itself.
#[derive(Clone, Copy)]
pub struct Vitals<'a> {
    /// The counters.
    pub metrics: &'a Metrics,
    /// The present time.
    pub clock: &'a Clock,
    /// The number of lines that could not be written to the log.
    pub dropped_lines: u64,
    /// The rules of `--fault`, and the number of responses that each rule has made wrong.
    pub faults: &'a [(String, u64)],
}

impl Metrics {
    /// Creates counters that are 0. `memory` reports the resident memory of the process.
    pub fn new(clock: &Clock, memory: Option<ResidentMemory>) -> Self {
        Self {
            started: clock.unix(),
            accepted: 0,
            pauses: 0,
            content_bytes: 0,
            responses: [[0; STATUSES]; KINDS],
            closed: [0; REASONS],
            memory,
        }
    }

    /// Counts a response.
    pub fn note_response(&mut self, kind: RequestKind, status: Status) {
        let status = Status::ALL.iter().position(|&other| other == status);
        self.responses[kind as usize][status.expect("both come from one list")] += 1;
    }

    /// Counts a closed connection.
    pub fn note_closed(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }

    /// Returns the number of open connections.
    pub fn open(&self) -> u64 {
        self.accepted.saturating_sub(self.closed.iter().sum())
    }

    /// Iterates over the counted responses. An item is a kind, a status and the number of such responses.
    pub fn responses(&self) -> impl Iterator<Item = (RequestKind, Status, u64)> {
        let rows = RequestKind::ALL.iter().zip(&self.responses);
        let cells = rows.flat_map(|(&kind, row)| {
            Status::ALL.iter().zip(row).map(move |(&status, &count)| (kind, status, count))
        });
        cells.filter(|&(_, _, count)| count > 0)
    }
}

impl Vitals<'_> {
    /// Returns the counters as text. `version` and `digest` are those of the served image.
    pub fn to_text(&self, version: &str, digest: &str) -> String {
        let Self { metrics, dropped_lines, faults, .. } = self;
        let mut text = Text(String::new());
        text.family("quinistry_build_info", "gauge", "Version and digest of the served image.");
        text.sample("quinistry_build_info", &[("version", version), ("digest", digest)], 1);
        text.family("quinistry_requests_total", "counter", "Answered requests, by endpoint and status.");
        for (kind, status, count) in metrics.responses() {
            let labels = [("endpoint", kind.name()), ("status", &status.code().to_string())];
            text.sample("quinistry_requests_total", &labels, count);
        }
        let closed = "quinistry_connections_closed_total";
        text.family(closed, "counter", "Closed connections, by reason.");
        for (reason, &count) in CloseReason::ALL.iter().zip(&metrics.closed) {
            text.sample(closed, &[("reason", reason.name())], count);
        }
        if !faults.is_empty() {
            let total = "quinistry_faults_total";
            text.family(total, "counter", "Responses that are wrong on purpose, by rule.");
            for (rule, count) in *faults {
                text.sample(total, &[("rule", rule)], *count);
            }
        }
        let numbers = [
            ("quinistry_connections_accepted_total", "counter", "Accepted connections.", metrics.accepted),
            ("quinistry_connections_open", "gauge", "Open connections.", metrics.open()),
            (
                "quinistry_accept_pauses_total",
                "counter",
                "Pauses of accepting, usually because a limit was reached.",
                metrics.pauses,
            ),
            ("quinistry_content_bytes_total", "counter", "Sent bytes of content.", metrics.content_bytes),
            (
                "quinistry_log_lines_dropped_total",
                "counter",
                "Log lines that could not be written.",
                *dropped_lines,
            ),
            (
                "process_start_time_seconds",
                "gauge",
                "Start time of the server, in seconds since the epoch.",
                metrics.started,
            ),
        ];
        for (name, kind, help, value) in numbers {
            text.family(name, kind, help);
            text.sample(name, &[], value);
        }
        if let Some(bytes) = metrics.memory.as_ref().and_then(ResidentMemory::bytes) {
            text.family("process_resident_memory_bytes", "gauge", "Resident memory of the process.");
            text.sample("process_resident_memory_bytes", &[], bytes);
        }
        text.0
    }
}

/// The text under construction. No name, label or help text contains a character that must be escaped.
struct Text(String);

impl Text {
    /// Writes the HELP and TYPE lines of a metric.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0 += name;
        for (index, (label, value)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{value}\"");
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{after} {value}");
    }
}
