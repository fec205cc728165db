//! Sends arbitrary requests to the registry. The content of a 200 must match the digest in the head, and the content of
//! every response must match the length in the head. Nothing that a client sends may become a field line of the head.
//!
//! Names such as `@index` in the input stand for digests (see `served.rs`).
#![no_main]

mod served;

use libfuzzer_sys::fuzz_target;
use quinistry::http::request::{Method, parse};
use quinistry::http::response::{Content, Persistence, Status};
use quinistry::image::digest::Digest;
use quinistry::metrics::{Metrics, Vitals};
use quinistry::site::shared_fields;
use served::{CLOCK, SERVED};

/// The names of the fields that a response may have.
const NAMES: [&str; 22] = [
    "Date",
    "Docker-Distribution-Api-Version",
    "Content-Type",
    "Content-Length",
    "Content-Range",
    "Docker-Content-Digest",
    "ETag",
    "Accept-Ranges",
    "Vary",
    "Allow",
    "Access-Control-Allow-Origin",
    "Access-Control-Expose-Headers",
    "Access-Control-Allow-Methods",
    "Access-Control-Allow-Headers",
    "Access-Control-Max-Age",
    "Link",
    "OCI-Filters-Applied",
    "Content-Security-Policy",
    "X-Content-Type-Options",
    "Referrer-Policy",
    "Cache-Control",
    "Connection",
];

fuzz_target!(|bytes: &[u8]| {
    let bytes = SERVED.with_digests(bytes);
    let Ok(Some((request, _))) = parse(&bytes) else { return };
    let metrics = Metrics::default();
    let vitals = Vitals { metrics: &metrics, clock: &CLOCK, dropped_lines: 0, faults: &[] };
    let response = SERVED.site.respond(&request, &vitals).response;
    let mut head = Vec::new();
    let shared = shared_fields(&request.path);
    response.write_head("Thu, 01 Jan 1970 00:00:00 GMT", shared, Persistence::Close, &mut head);
    let Content { bytes, part } = &response.content;
    let content = &*[&**bytes, SERVED.layer(part)].concat();

    let head = str::from_utf8(&head).expect("ASCII").strip_suffix("\r\n\r\n").expect("a complete head");
    assert!(head.is_ascii() && head.starts_with(&format!("HTTP/1.1 {} ", response.status.code())));
    let mut fields: Vec<(&str, &str)> =
        head.split("\r\n").skip(1).map(|line| line.split_once(": ").expect("a field line")).collect();
    let field = |name| fields.iter().find(|field| field.0 == name).map(|field| field.1);
    if request.method == Method::Head {
        assert!(content.is_empty());
    } else if matches!(response.status, Status::NoContent | Status::NotModified) {
        assert!(content.is_empty() && field("Content-Length").is_none());
    } else {
        assert_eq!(field("Content-Length").map(str::parse), Some(Ok(content.len())));
        if let (Status::Ok, Some(digest)) = (response.status, field("Docker-Content-Digest")) {
            assert_eq!(Digest::of(content).as_str(), digest);
        }
    }
    assert!(fields.iter().all(|(name, _)| NAMES.contains(name)), "an unknown field: {head}");
    let count = fields.len();
    fields.sort_unstable();
    fields.dedup_by_key(|field| field.0);
    assert_eq!(fields.len(), count, "a field twice: {head}");
});
