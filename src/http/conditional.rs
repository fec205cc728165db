//! Decides how much of the content a GET or HEAD request gets: all, a part, or nothing (for example, because the client
//! already has it).
//!
//! Documents: RFC 9110 section 13 (conditional requests) and section 14 (ranges).
//!
//! ```text
//!     If-Match: "x"          wants the content only if it has this entity tag
//!     If-None-Match: "x"     wants the content only if it does not have this entity tag
//!     Range: bytes=0-99      wants the first hundred bytes
//!     If-Range: "x"          wants the range only if the content has this entity tag, else everything
//! ```
//!
//! Deliberately absent: dates (`If-Modified-Since`, `Last-Modified`), because an entity tag is more precise; and
//! multipart responses. No client of a registry asks for several ranges, and overlapping ranges are a known attack. A
//! request for several ranges gets the whole content, since RFC 9110 section 14.2 allows a server to ignore Range.

use std::ops::Range;

use crate::http::request::{Method, Request};
use crate::http::response::Response;
use crate::http::syntax::{entity_tags, parse_number};

/// How much of the content a request gets, and with which status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selection {
    /// The whole content: 200.
    Whole,
    /// This range of bytes: 206.
    Part(Range<u64>),
    /// Nothing, because the client already has the content: 304.
    NotModified,
    /// Nothing, because If-Match does not list the entity tag of this content: 412.
    PreconditionFailed,
    /// Nothing, because the content does not have the requested bytes: 416.
    Unsatisfiable,
}

/// Returns how much `request` gets of the content of `response`, which is a 200. The entity tag of the response must be
/// strong; if there is none, Range is ignored.
pub fn select(request: &Request<'_>, response: &Response<'_>) -> Selection {
    let has = |field: &str| request.fields.bytes(field).next().is_some();
    if !["if-match", "if-none-match", "range"].into_iter().any(has) {
        return Selection::Whole;
    }
    let entity_tag = response.field("ETag");
    // The order of the conditions is that of RFC 9110 section 13.2.2.
    if has("if-match") && !matches(request, "if-match", entity_tag) {
        return Selection::PreconditionFailed;
    }
    if matches(request, "if-none-match", entity_tag) {
        return Selection::NotModified;
    }
    let mut ranges = request.fields.lines("range");
    // RFC 9110 section 14.2: a server MUST ignore Range in a request other than GET.
    let (Method::Get, Some(_), Some(range), None) = (request.method, entity_tag, ranges.next(), ranges.next()) else {
        return Selection::Whole;
    };
    // RFC 9110 section 13.1.5: MUST ignore Range if the validator of If-Range does not match. A date never matches,
    // because there is no Last-Modified.
    if request.fields.bytes("if-range").any(|tag| Some(tag) != entity_tag) {
        return Selection::Whole;
    }
    parse_range(range, response.content.len())
}

/// Returns whether the fields named `field` list the entity tag, or are a single `*`, which matches any content.
///
/// ```text
///     If-Match      = "*" / #entity-tag                         ; RFC 9110 section 13.1.1
///     If-None-Match = "*" / #entity-tag                         ; section 13.1.2
/// ```
fn matches(request: &Request<'_>, field: &str, entity_tag: Option<&[u8]>) -> bool {
    let mut lines = request.fields.bytes(field);
    // The `*` must be alone, because several field lines form one list, of which `*` cannot be a member.
    if (lines.next(), lines.next()) == (Some(&b"*"[..]), None) {
        return true;
    }
    // Section 13.1.2: If-None-Match MUST compare weakly. Section 13.1.1: If-Match MUST compare strongly.
    let takes_weak = field == "if-none-match";
    let mut tags = request.fields.bytes(field).flat_map(entity_tags);
    tags.any(|(is_weak, tag)| Some(tag) == entity_tag && (takes_weak || !is_weak))
}

/// Parses the value of a Range field for content of `size` bytes. `size` is at least 1.
///
/// ```text
///     Range      = range-unit "=" range-set                     ; RFC 9110 section 14.2
///     int-range  = first-pos "-" [ last-pos ]                   ; section 14.1.1
///     suffix-range = "-" suffix-length
/// ```
fn parse_range(value: &str, size: u64) -> Selection {
    // RFC 9110 section 14.2: MUST ignore a range unit that the server does not understand.
    let range = value.split_once('=').filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"));
    let Some((first, last)) = range.and_then(|(_, range)| range.split_once('-')) else {
        return Selection::Whole;
    };
    let (first, last) = (first.trim_ascii(), last.trim_ascii());
    match (parse_number(first), parse_number(last)) {
        // A suffix, "bytes=-n", means the last n bytes, or all bytes if the content has fewer.
        (None, Some(0)) if first.is_empty() => Selection::Unsatisfiable,
        (None, Some(suffix)) if first.is_empty() => Selection::Part(size.saturating_sub(suffix)..size),
        (Some(first), None) if last.is_empty() && first < size => Selection::Part(first..size),
        // Field note: regctl asks for one byte past the end, which is valid, because a last position beyond the content
        // means its last byte (RFC 9110 section 14.1.2).
        (Some(first), Some(last)) if first <= last && first < size => {
            Selection::Part(first..size.min(last.saturating_add(1)))
        }
        (Some(_), None) if last.is_empty() => Selection::Unsatisfiable,
        // Field note: a server may ignore "bytes=500-0", which is invalid, but the conformance tests of the
        // distribution-spec expect 416.
        (Some(_), Some(_)) => Selection::Unsatisfiable,
        _ => Selection::Whole,
    }
}
