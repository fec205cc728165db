//! Writes the server's counters as text for a monitoring system.
//!
//! Documents: Prometheus, "Text-based format" (version 0.0.4) and "Metric and label naming".
//!
//! ```text
//!     # HELP quinistry_requests_total Responses, by endpoint and status.
//!     # TYPE quinistry_requests_total counter
//!     quinistry_requests_total{endpoint="layer",status="200"} 3
//! ```
//!
//! The template of the text is `metrics.txt`. Nothing is escaped, because no metric name and no label value contains a
//! character that needs escaping.
//!
//! Counting allocates no memory and makes no system call. A client cannot add a label value, because all label values
//! are known when the server starts.
//!
//! Deliberately absent: latency histograms, because the duration of a response depends on the network.

use std::fmt::Write as _;

use crate::clock::Clock;
use crate::http::response::{Response, Status};
use crate::kinds::{CloseReason, RequestKind};
use crate::system::ResidentMemory;

/// The media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const STATUSES: usize = Status::ALL.len();
const KINDS: usize = RequestKind::ALL.len();
const REASONS: usize = CloseReason::ALL.len();

/// What the server has counted since its start.
#[derive(Default)]
pub struct Metrics {
    /// When the server started, in seconds since the epoch.
    pub started: u64,
    /// The number of accepted connections.
    pub accepted: u64,
    /// How often accepting was paused, usually because there was no room for another connection.
    pub pauses: u64,
    /// The number of bytes of content that were sent. Content in memory is counted with its response, whereas a layer
    /// is counted as the kernel takes its bytes.
    pub content_bytes: u64,
    responses: [[u64; STATUSES]; KINDS],
    closed: [u64; REASONS],
    memory: Option<ResidentMemory>,
}

/// The state that the server reports about itself.
pub struct Vitals<'a> {
    /// The counters.
    pub metrics: &'a Metrics,
    /// The current time.
    pub clock: &'a Clock,
    /// The number of log entries that could not be written. With `--explain`, an entry has several lines.
    pub dropped_lines: u64,
    /// The rules of `--fault`, and the number of responses that each rule has made wrong.
    pub faults: &'a [(String, u64)],
}

impl Metrics {
    /// Creates counters that are 0. `started` is the current time in seconds since the epoch.
    pub fn new(started: u64, memory: Option<ResidentMemory>) -> Self {
        Self { started, memory, ..Self::default() }
    }

    /// Counts a response, and the bytes of its content that are in memory.
    pub fn note_response(&mut self, kind: RequestKind, response: &Response<'_>) {
        let status = Status::ALL.iter().position(|&other| other == response.status);
        self.responses[kind as usize][status.expect("both come from one list")] += 1;
        self.content_bytes += response.content.bytes.len() as u64;
    }

    /// Counts a closed connection.
    pub fn note_closed(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }

    /// Returns the number of open connections.
    pub fn open(&self) -> u64 {
        self.accepted.saturating_sub(self.closed.iter().sum())
    }

    /// Iterates over the counted responses, as triples of a kind, a status and the number of such responses.
    pub fn responses(&self) -> impl Iterator<Item = (RequestKind, Status, u64)> {
        let rows = RequestKind::ALL.iter().zip(&self.responses);
        let cells = rows
            .flat_map(|(&kind, row)| Status::ALL.iter().zip(row).map(move |(&status, &count)| (kind, status, count)));
        cells.filter(|&(_, _, count)| count > 0)
    }
}

impl Vitals<'_> {
    /// Returns the counters as text. `version` and `digest` are those of the served image.
    pub fn to_text(&self, version: &str, digest: &str) -> String {
        let Self { metrics, dropped_lines, .. } = self;
        let requests = metrics.responses().map(|(kind, status, count)| {
            let (endpoint, status) = (kind.name(), status.code());
            format!("quinistry_requests_total{{endpoint=\"{endpoint}\",status=\"{status}\"}} {count}")
        });
        let closed = CloseReason::ALL.iter().zip(&metrics.closed).map(|(reason, count)| {
            format!("quinistry_connections_closed_total{{reason=\"{}\"}} {count}", reason.name())
        });
        let memory = metrics.memory.as_ref().and_then(ResidentMemory::bytes);
        format!(
            include_str!("metrics.txt"),
            version = version,
            digest = digest,
            requests = requests.collect::<Vec<_>>().join("\n"),
            closed = closed.collect::<Vec<_>>().join("\n"),
            accepted = metrics.accepted,
            open = metrics.open(),
            pauses = metrics.pauses,
            bytes = metrics.content_bytes,
            dropped = dropped_lines,
            started = metrics.started,
            memory = memory.map_or_else(|| "NaN".to_owned(), |bytes| bytes.to_string()),
            faults = self.faults(),
        )
    }

    /// Returns the metric of the rules of `--fault`, or nothing if there are no rules.
    fn faults(&self) -> String {
        if self.faults.is_empty() {
            return String::new();
        }
        let mut text = "# HELP quinistry_faults_total Responses that are wrong on purpose, by rule.\n\
                        # TYPE quinistry_faults_total counter\n"
            .to_owned();
        for (rule, count) in self.faults {
            let _ = writeln!(text, "quinistry_faults_total{{rule=\"{rule}\"}} {count}");
        }
        text
    }
}
