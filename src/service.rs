//! Serves requests: chooses the response to each, counts it, logs it, and writes it for the connection to send.
//!
//! Documents: RFC 9112 section 9.3 (persistence); RFC 9110 section 10.1.5 (User-Agent), for the log.
//!
//! ```text
//!     request  ──>  site  ──>  faults  ──>  the output: a head, and the content that is in memory
//!                    │           │
//!                    └───────────┴───────>  metrics, log
//! ```
//!
//! Deliberately absent: sending, because a connection sends the output, then the part of a file that a [`Reply`] names.

use std::fmt::Display;
use std::net::SocketAddr;

use crate::clock::Clock;
use crate::explain::explain;
use crate::fault::{self, Fault, Faults};
use crate::http::request::{Rejection, Request};
use crate::http::response::{FilePart, Persistence};
use crate::kinds::RequestKind;
use crate::log::{Excerpt, INDENTATION, Log};
use crate::metrics::{Metrics, Vitals};
use crate::registry::Served;
use crate::site::{Site, shared_fields};

/// Everything that takes part in responding to a request, and the records of the responses: the log and the metrics.
pub struct Service {
    /// The site lives as long as the process, so that responses can refer to its content.
    pub site: &'static Site,
    pub faults: Faults,
    pub clock: Clock,
    pub log: Log,
    pub metrics: Metrics,
}

/// What a connection needs to know about a response whose head and in-memory content are already in the output.
pub struct Reply {
    pub kind: RequestKind,
    pub fault: Option<Fault>,
    pub persistence: Persistence,
    /// The part of a file that follows the output.
    pub part: FilePart,
}

impl Service {
    /// Responds to a request from `peer`, with a fault if a rule of `--fault` applies, and appends the head and the
    /// in-memory content of the response to `output`. If `is_last` is true, the connection ends with the response.
    pub fn respond(&mut self, request: &Request<'_>, peer: SocketAddr, is_last: bool, output: &mut Vec<u8>) -> Reply {
        let Self { site, faults, clock, log, metrics } = self;
        let vitals = Vitals { metrics, clock, dropped_lines: log.dropped, faults: &faults.counts };
        let served = site.respond(request, &vitals);
        let (served, fault) = faults.apply(served, request, &site.registry);
        let wanted = if is_last { Persistence::Close } else { request.persistence };
        let persistence = fault::persistence(fault, wanted);
        let Served { kind, response } = &served;
        self.record(&served, Ok(request), fault, peer);
        response.write_head(&self.clock.http_date, shared_fields(&request.path), persistence, output);
        output.extend_from_slice(&response.content.bytes);
        Reply { kind: *kind, fault, persistence, part: response.content.part.clone() }
    }

    /// Responds to bytes that are not a request, and ends the connection with the response.
    pub fn refuse(&mut self, rejection: &Rejection, peer: SocketAddr, output: &mut Vec<u8>) {
        let served = Site::refuse(rejection);
        self.record(&served, Err(rejection), None, peer);
        served.response.write_head(&self.clock.http_date, shared_fields(""), Persistence::Close, output);
        output.extend_from_slice(&served.response.content.bytes);
    }

    /// Counts and logs a response, and explains it if the server runs with `--explain`.
    fn record(
        &mut self,
        served: &Served<'_>,
        received: Result<&Request<'_>, &Rejection>,
        fault: Option<Fault>,
        peer: SocketAddr,
    ) {
        let Self { log, metrics, .. } = self;
        let Served { kind, response } = served;
        metrics.note_response(*kind, response);
        let Some(label) = served.label().filter(|_| log.wants_requests()) else { return };
        let (method, target, mut user_agent) = match received {
            Ok(request) => (request.method_name, request.target, request.fields.lines("user-agent").next()),
            Err(rejection) => ("-", rejection.reason, None),
        };
        // The first product is the client, and the others are its components, which are omitted on a terminal to keep
        // the line short.
        if log.is_on_terminal {
            user_agent = user_agent.and_then(|user_agent| user_agent.split(' ').next());
        }
        let [method, target, user_agent] = [method, target, user_agent.unwrap_or_default()].map(Excerpt);
        let (status, length) = (response.status.code(), response.content.len());
        let mut rest = fault.map_or_else(String::new, |fault| format!(" (fault: {})", fault.name()));
        if log.wants_explanations() {
            let [client, text] = explain(received.ok(), *kind, response.status, fault);
            for line in format!("{client} {text}").lines() {
                rest += "\n";
                rest += INDENTATION;
                rest += line;
            }
        }
        let line = format_args!("{label}: {method} {target} {status} {length} {peer} \"{user_agent}\"{rest}");
        log.event(&self.clock.rfc3339, line);
    }

    /// Logs an event.
    pub fn log_event(&mut self, event: impl Display) {
        self.log.event(&self.clock.rfc3339, event);
    }
}
