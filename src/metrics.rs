//! Turns what the server has counted into text for a monitoring system.
//!
//! Documents: Prometheus, "Text-based format" (version 0.0.4) and "Metric and label naming".
//!
//! ```text
//!     # HELP quinistry_requests_total Answers, by what was asked for and by status.
//!     # TYPE quinistry_requests_total counter
//!     quinistry_requests_total{endpoint="layer",status="200"} 3
//! ```
//!
//! To count is to add to a number that is there: it takes no memory and no system call. Every label has
//! few values, and all of them are known to the program; a client can cause none of its own.
//!
//! Deliberately absent: histograms of time. The network decides how long an answer of this size takes.

use std::fmt::Write as _;

use crate::clock::Clock;
use crate::http::response::Status;
use crate::kinds::{CloseReason, Endpoint};
use crate::system::ResidentMemory;

/// The media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const STATUSES: usize = Status::ALL.len();
const ENDPOINTS: usize = Endpoint::ALL.len();
const REASONS: usize = CloseReason::ALL.len();

/// What the server has counted since its start.
pub struct Metrics {
    /// When the server started, in seconds since the epoch.
    pub started: u64,
    /// The connections that were accepted.
    pub accepted: u64,
    /// How often accepting was paused: the system had no room for a connection, or it failed again and again.
    pub pauses: u64,
    /// The bytes of content that were sent: of small contents when they were answered, of layers when the kernel
    /// took them.
    pub content_bytes: u64,
    answers: [[u64; STATUSES]; ENDPOINTS],
    closed: [u64; REASONS],
    memory: Option<ResidentMemory>,
}

/// What the server can say of itself at this moment.
pub struct Vitals<'a> {
    /// What it has counted.
    pub metrics: &'a Metrics,
    /// What time it is.
    pub clock: &'a Clock,
    /// The lines of its log that could not be written.
    pub dropped_lines: u64,
}

impl Metrics {
    /// Nothing has been counted yet. `memory` tells how much of it the process has.
    #[must_use]
    pub fn new(clock: &Clock, memory: Option<ResidentMemory>) -> Self {
        Self {
            started: clock.unix(),
            accepted: 0,
            pauses: 0,
            content_bytes: 0,
            answers: [[0; STATUSES]; ENDPOINTS],
            closed: [0; REASONS],
            memory,
        }
    }

    /// Counts an answer.
    pub fn note_answer(&mut self, endpoint: Endpoint, status: Status) {
        let status = Status::ALL.iter().position(|&other| other == status);
        self.answers[endpoint as usize][status.expect("both come from one list")] += 1;
    }

    /// Counts a connection that is closed.
    pub fn note_closed(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }

    /// The connections that are open.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.accepted.saturating_sub(self.closed.iter().sum())
    }

    /// All answers that were counted: what was asked for, the status, and how many.
    pub fn answers(&self) -> impl Iterator<Item = (Endpoint, Status, u64)> {
        let rows = Endpoint::ALL.iter().zip(&self.answers);
        let cells = rows.flat_map(|(&endpoint, row)| {
            Status::ALL.iter().zip(row).map(move |(&status, &count)| (endpoint, status, count))
        });
        cells.filter(|&(_, _, count)| count > 0)
    }
}

impl Vitals<'_> {
    /// The text. `version` and `digest` are those of the image that is served.
    #[must_use]
    pub fn to_text(&self, version: &str, digest: &str) -> String {
        let Self { metrics, dropped_lines, .. } = self;
        let mut text = Text(String::new());
        text.family("quinistry_build_info", "gauge", "The program and the image that it serves.");
        text.sample("quinistry_build_info", &[("version", version), ("digest", digest)], 1);
        text.family("quinistry_requests_total", "counter", "Answers, by what was asked for and by status.");
        for (endpoint, status, count) in metrics.answers() {
            let labels = [("endpoint", endpoint.name()), ("status", &status.code().to_string())];
            text.sample("quinistry_requests_total", &labels, count);
        }
        let closed = "quinistry_connections_closed_total";
        text.family(closed, "counter", "Connections that are closed, by the reason.");
        for (reason, &count) in CloseReason::ALL.iter().zip(&metrics.closed) {
            text.sample(closed, &[("reason", reason.name())], count);
        }
        let numbers = [
            (
                "quinistry_connections_accepted_total",
                "counter",
                "Connections that were accepted.",
                metrics.accepted,
            ),
            ("quinistry_connections_open", "gauge", "Connections that are open.", metrics.open()),
            (
                "quinistry_accept_pauses_total",
                "counter",
                "Pauses of accepting, as a rule for want of room.",
                metrics.pauses,
            ),
            ("quinistry_content_bytes_total", "counter", "Bytes of content sent.", metrics.content_bytes),
            (
                "quinistry_log_lines_dropped_total",
                "counter",
                "Log lines that could not be written.",
                *dropped_lines,
            ),
            (
                "process_start_time_seconds",
                "gauge",
                "When the server started, since the epoch.",
                metrics.started,
            ),
        ];
        for (name, kind, help, value) in numbers {
            text.family(name, kind, help);
            text.sample(name, &[], value);
        }
        if let Some(bytes) = metrics.memory.as_ref().and_then(ResidentMemory::bytes) {
            text.family("process_resident_memory_bytes", "gauge", "Memory that the process has.");
            text.sample("process_resident_memory_bytes", &[], bytes);
        }
        text.0
    }
}

/// The text as it grows. Names, labels and help have no character that would have to be escaped.
struct Text(String);

impl Text {
    /// Begins the samples of one name.
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
