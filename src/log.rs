//! Writes events as lines of text.
//!
//! Documents: RFC 3339 (the time), POSIX `PIPE_BUF`.
//!
//! An event is usually a response, and `service` composes its line:
//!
//! ```text
//!     2026-01-31T12:00:00Z Serving manifest: GET /v2/quinistry/manifests/latest 200 502 127.0.0.1:50514 "docker/28.2.2"
//!     time                 what            : method and target                  |   |   peer            user agent
//!                                                                          status   bytes of content
//! ```
//!
//! The line of a response with a fault ends with the name of the fault: `(fault: cut)`.
//!
//! With `--explain`, indented lines that explain the request follow. A line and its explanation form an entry. The
//! buffer accepts or drops an entry as a whole, and a write to a pipe avoids splitting it if possible.
//!
//! The log buffers its lines, and writes them when the server has no other work, when the buffer has many lines, or
//! after 10 ms. Apart from two rare cases, which are described below, a write must not block the event loop, even if no
//! process reads the pipe or Ctrl-S has stopped the terminal. Because other processes may share the open file, the log
//! cannot make it non-blocking. Instead, the log asks poll(2) before each write, writes no more than is certain to fit,
//! and keeps in the buffer what cannot be written.
//!
//! ```text
//!     standard error    what fits when poll(2) reports it as writable
//!     ----------------  ------------------------------------------------------
//!     a pipe, a socket  4096 bytes
//!     a terminal        256 bytes of a line, or one line feed, which becomes CR LF
//! ```
//!
//! A write can still block in two cases. Between poll(2) and the write, another process may fill the pipe or the
//! terminal, or Ctrl-S may stop the terminal. A write to a regular file may hang with its file system, because poll(2)
//! reports a regular file as writable in any case.
//!
//! Limits: the buffer has 128 KiB, and an [`Excerpt`] shows at most 256 bytes of a text from a client. An entry that
//! does not fit the buffer is dropped, and a failed write drops all buffered entries. The log counts the dropped
//! entries, and reports the count when the buffer is empty again.
//!
//! Deliberately absent: levels, a choice of formats, and log files with rotation, because the person who starts the
//! program decides where standard error goes.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::system;

/// The maximum number of bytes in the buffer: twice as many as a pipe holds, or some 800 lines, which the server logs
/// in a few milliseconds at full speed.
const MAX_BUFFERED: usize = 128 * 1024;

/// The maximum number of bytes in one write to a pipe. A pipe that is ready for writing has room for this many bytes
/// (POSIX `PIPE_BUF` on Linux), whereas a longer write might block.
const MAX_WRITE: usize = 4096;

/// The maximum number of bytes in one write to a terminal. A pseudo-terminal that is ready for writing has room for
/// this many bytes, because Linux counts its memory in pieces of 256 bytes. A serial line or console has room for more.
const MAX_TERMINAL_WRITE: usize = 256;

/// The number of bytes above which the buffer is written immediately: less than [`MAX_WRITE`], so that a few more lines
/// still fit into the same write.
const WRITTEN_AT_ONCE: usize = MAX_WRITE * 3 / 4;

/// The longest time that a line waits while the server has other work.
const DELAY: Duration = Duration::from_millis(10);

/// The time that the reader of the log has to make room for the last lines.
const LAST_PATIENCE: Duration = Duration::from_millis(100);

/// The time between two attempts to write when nothing reads the log.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The maximum number of bytes of a target or user agent that a line shows.
const MAX_SHOWN: usize = 256;

/// The maximum number of bytes in an explanation, with the name of the client and the indentation.
pub const MAX_EXPLANATION: usize = 320;

// A line and its explanation fit into one write even if every byte of method, target and user agent must be escaped.
const _: () = assert!(3 * MAX_SHOWN * r"\xff".len() + 256 + MAX_EXPLANATION < MAX_WRITE);

/// The start of each line of an explanation. No other line begins with a space, except in the announcement when the
/// server starts.
pub const INDENTATION: &str = "    ";

/// A destination of the log.
pub trait Sink {
    /// Returns whether a write would not block.
    fn is_ready(&self) -> bool;

    /// Writes some of the bytes.
    /// Fails with `WouldBlock` if the bytes can be written later, and with `Interrupted` if the call must be repeated.
    /// After any other error, the bytes are lost.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// Standard error.
pub struct Stderr;

impl Sink for Stderr {
    fn is_ready(&self) -> bool {
        system::is_writable(io::stderr().as_fd(), Duration::ZERO)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write(bytes)
    }
}

/// How much the log shows of each request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Requests {
    /// Nothing.
    Hidden,
    /// A line.
    Shown,
    /// A line and its explanation.
    Explained,
}

/// A buffer of lines.
pub struct Log {
    requests: Requests,
    buffer: Vec<u8>,
    /// Whether the buffer has lines that the log has not yet tried to write.
    is_new: bool,
    /// How many entries have been dropped in total.
    pub dropped: u64,
    /// How many of the dropped entries the log has reported.
    reported: u64,
    /// Whether a terminal shows the log.
    pub is_on_terminal: bool,
    /// When the log last tried to write to standard error.
    written_at: Option<Instant>,
}

impl Log {
    /// Creates an empty log.
    pub fn new(requests: Requests, is_on_terminal: bool) -> Self {
        Self { requests, is_on_terminal, buffer: Vec::new(), is_new: false, dropped: 0, reported: 0, written_at: None }
    }

    /// Returns whether requests and clients are logged, in addition to the events of the server.
    pub fn wants_requests(&self) -> bool {
        self.requests != Requests::Hidden
    }

    /// Returns whether requests are explained.
    pub fn wants_explanations(&self) -> bool {
        self.requests == Requests::Explained
    }

    /// Adds text unchanged.
    pub fn text(&mut self, text: &str) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(text.as_bytes());
        self.bound(start);
    }

    /// Adds an event: a line, or several lines, of which all but the first begin with [`INDENTATION`]. `time` has the
    /// format of RFC 3339.
    pub fn event(&mut self, time: &str, event: impl fmt::Display) {
        let start = self.buffer.len();
        writeln!(self.buffer, "{time} {event}").expect("a Vec takes everything");
        self.bound(start);
    }

    /// Drops the bytes from `start` on if the buffer has become too long.
    fn bound(&mut self, start: usize) {
        self.is_new = true;
        if self.buffer.len() > MAX_BUFFERED {
            self.buffer.truncate(start);
            self.dropped += 1;
        }
    }

    /// Returns whether a line, or the report of dropped lines, has not been written.
    fn is_waiting(&self) -> bool {
        !self.buffer.is_empty() || self.dropped > self.reported
    }

    /// Returns as much of the beginning of `lines` as is certain to fit. If possible, this piece ends where an entry
    /// ends, because an entry that is written whole is not interleaved with the lines of other processes.
    fn piece<'a>(&self, lines: &'a [u8]) -> &'a [u8] {
        if self.is_on_terminal {
            let line = lines.iter().position(|&byte| byte == b'\n').unwrap_or(lines.len());
            return &lines[..line.clamp(1, MAX_TERMINAL_WRITE)];
        }
        match lines.get(..=MAX_WRITE) {
            Some(more) => &lines[..last_end(more).unwrap_or(MAX_WRITE)],
            None => lines,
        }
    }

    /// Returns when a server without other work must write next. A busy server gathers many lines for one write.
    pub fn due_at(&self, now: Instant) -> Option<Instant> {
        if self.is_new { Some(now) } else { self.is_waiting().then(|| now + RETRY_PAUSE) }
    }

    /// Writes to standard error if the server is idle, many lines wait, or the last write was at least `DELAY` ago.
    pub fn write(&mut self, clock: &Clock, is_idle: bool) {
        let is_late = self.written_at.is_none_or(|at| clock.now >= at + DELAY);
        if is_idle || is_late || self.is_new && self.buffer.len() > WRITTEN_AT_ONCE {
            self.flush(&clock.rfc3339, &mut Stderr);
            self.written_at = Some(clock.now);
        }
    }

    /// Writes the last lines to standard error, for which the reader of the log has `LAST_PATIENCE` to make room.
    pub fn write_last(&mut self, clock: &Clock) {
        let end = Instant::now() + LAST_PATIENCE;
        loop {
            self.flush(&clock.rfc3339, &mut Stderr);
            if !self.is_waiting() || Instant::now() >= end {
                break;
            }
            let _ = system::is_writable(io::stderr().as_fd(), DELAY);
        }
    }

    /// Writes the lines that can be written without blocking.
    pub fn flush(&mut self, time: &str, sink: &mut impl Sink) {
        let mut written = 0;
        let mut is_lost = false;
        while written < self.buffer.len() && !is_lost && sink.is_ready() {
            match sink.write(self.piece(&self.buffer[written..])) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Nothing reads the pipe, the disk is full, or the file has reached its limit.
                Err(_) => is_lost = true,
            }
        }
        self.is_new = false;
        self.buffer.drain(..written);
        if is_lost {
            self.dropped += count_lines(&self.buffer);
            self.buffer.clear();
        } else if self.buffer.is_empty() && self.dropped > self.reported && sink.is_ready() {
            let lines = counted(self.dropped - self.reported, "line");
            let report = format!("{time} Dropped {lines} that could not be written to this log\n");
            if let Ok(written) = sink.write(self.piece(report.as_bytes())) {
                self.reported = self.dropped;
                self.buffer.extend_from_slice(&report.as_bytes()[written..]);
            }
        }
    }
}

/// Formats a number of things: "1 line", "2 lines".
pub fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// Finds the end of the last entry (a line with its explanation) after which another entry begins.
fn last_end(lines: &[u8]) -> Option<usize> {
    lines.windows(2).rposition(|pair| pair[0] == b'\n' && pair[1] != b' ').map(|at| at + 1)
}

/// Counts the entries. A partly written entry at the start counts too, because the rest of it is lost.
fn count_lines(lines: &[u8]) -> u64 {
    1 + lines.windows(2).filter(|pair| pair[0] == b'\n' && pair[1] != b' ').count() as u64
}

/// Text from a client, truncated, and with quotes, backslashes and all bytes other than printable ASCII escaped,
/// because a client must not be able to control the reader's terminal.
pub struct Excerpt<'a>(pub &'a str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.as_bytes();
        // The output is ASCII, so the text may be cut within a character.
        bytes[..bytes.len().min(MAX_SHOWN)].escape_ascii().fmt(f)?;
        f.write_str(if bytes.len() > MAX_SHOWN { "..." } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader with room for `room` more bytes.
    #[derive(Default)]
    struct Pipe {
        room: usize,
        read: String,
        is_broken: bool,
    }

    impl Pipe {
        fn with_room() -> Self {
            Self { room: 1 << 20, ..Self::default() }
        }
    }

    impl Sink for Pipe {
        fn is_ready(&self) -> bool {
            self.room >= MAX_WRITE
        }

        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            assert!(bytes.len() <= MAX_WRITE, "this might block");
            if self.is_broken {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            self.room -= bytes.len();
            self.read.push_str(str::from_utf8(bytes).expect("ASCII only"));
            Ok(bytes.len())
        }
    }

    const TIME: &str = "2026-01-31T12:00:00Z";

    /// A line and an explanation of about the greatest length.
    fn explained() -> String {
        format!("Serving\n{INDENTATION}{}\n{INDENTATION}and y", "x".repeat(MAX_EXPLANATION - 50))
    }

    #[test]
    fn an_explanation_is_written_with_its_line_or_dropped_with_it() {
        let (mut log, mut pipe) = (Log::new(Requests::Explained, false), Pipe::default());
        for _ in 0..2000 {
            log.event(TIME, explained());
        }
        assert!(log.dropped > 0 && log.buffer.len() <= MAX_BUFFERED);
        let kept = 2000 - log.dropped;
        // Each write has whole entries: it begins with a line, and ends with an explanation.
        while !log.buffer.is_empty() {
            pipe.room = MAX_WRITE;
            pipe.read.clear();
            log.flush(TIME, &mut pipe);
            assert!(pipe.read.starts_with("2026") && pipe.read.ends_with("    and y\n"), "{}", pipe.read);
        }
        assert!(kept > 0 && log.dropped == 2000 - kept);

        // A failed write counts the entries that it drops, not each of their lines.
        (pipe.room, pipe.is_broken) = (1 << 20, true);
        for _ in 0..10 {
            log.event(TIME, explained());
        }
        log.flush(TIME, &mut pipe);
        assert_eq!(log.dropped, 2000 - kept + 10);
    }

    #[test]
    fn an_excerpt_is_printable_ascii() {
        let shown = Excerpt("/\u{1b}[2J \"é\\\n").to_string();
        assert_eq!(shown, r#"/\x1b[2J \"\xc3\xa9\\\n"#);
    }

    #[test]
    fn an_excerpt_ends_with_dots_only_if_the_text_is_longer() {
        assert_eq!(Excerpt(&"x".repeat(MAX_SHOWN)).to_string(), "x".repeat(MAX_SHOWN));
        assert_eq!(Excerpt(&"x".repeat(MAX_SHOWN + 1)).to_string(), "x".repeat(MAX_SHOWN) + "...");
        let cut = Excerpt(&"é".repeat(5000)).to_string();
        assert!(cut.ends_with(r"\xa9...") && cut.len() == 4 * MAX_SHOWN + 3, "{cut}");
    }

    #[test]
    fn lines_that_nothing_reads_are_dropped_and_counted() {
        let (mut log, mut pipe) = (Log::new(Requests::Shown, false), Pipe::default());
        for _ in 0..2000 {
            log.event(TIME, "Serving manifest: GET /v2/quinistry/manifests/latest 200 702 127.0.0.1:50514 \"x\"");
            log.flush(TIME, &mut pipe);
            assert!(log.buffer.len() <= MAX_BUFFERED);
        }
        assert_eq!(pipe.read, "");
        pipe.room = 1 << 20;
        log.flush(TIME, &mut pipe);
        let report = pipe.read.lines().last().expect("the report");
        let dropped = 2000 - (pipe.read.lines().count() as u64 - 1);
        assert!(report.contains(&format!("Dropped {dropped} lines")), "{report}");
        assert_eq!(log.dropped, dropped, "they are still counted after the report");
        assert!(!log.is_waiting());
    }

    #[test]
    fn lines_that_a_write_fails_for_are_dropped_and_counted() {
        let (mut log, mut pipe) = (Log::new(Requests::Shown, false), Pipe::with_room());
        pipe.is_broken = true;
        for _ in 0..10 {
            for _ in 0..50 {
                log.event(TIME, "Serving manifest: GET /v2/quinistry/manifests/latest 200 702 127.0.0.1:50514 \"x\"");
            }
            log.flush(TIME, &mut pipe);
            assert!(log.buffer.is_empty() && log.is_waiting(), "the report is still to be written");
            // The server tries again without new lines. This time the report cannot be written.
            log.flush(TIME, &mut pipe);
            assert!(log.buffer.is_empty() && log.is_waiting());
        }
        pipe.is_broken = false;
        for _ in 0..2 {
            log.event(TIME, "Serving welcome");
            log.flush(TIME, &mut pipe);
        }
        let lines: Vec<_> = pipe.read.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("Dropped 500 lines"), "{lines:?}");
    }

    #[test]
    fn a_write_of_no_bytes_ends_the_attempt() {
        struct Full;

        impl Sink for Full {
            fn is_ready(&self) -> bool {
                true
            }

            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Ok(0)
            }
        }

        let mut log = Log::new(Requests::Shown, false);
        log.event(TIME, "Stopping");
        log.flush(TIME, &mut Full);
        assert!(log.is_waiting() && log.dropped == 0, "the line is kept for later");
    }
}
