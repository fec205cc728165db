//! An answer to the bytes of its head; content is borrowed and follows.
//!
//! Documents: RFC 9110 (status codes and fields), RFC 9112 section 4 (the status line);
//! distribution-spec, section "Error Codes".
//!
//! ```text
//!     HTTP/1.1 200 OK                                    Status
//!     Date: Sun, 06 Nov 1994 08:49:37 GMT                the one thing formatted per second
//!     Docker-Distribution-Api-Version: registry/2.0      on every answer
//!     Content-Type: application/octet-stream             \
//!     Content-Length: 1234                                | the answer's own fields, ready made
//!     …                                                  /  for everything that is often asked
//!     Connection: close                                  if so
//! ```
//!
//! Deliberately absent: chunked coding and compression. Every content's length is known before its
//! first byte, and a registry's bytes must arrive as they were hashed.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::{Value, json};

/// Field note: containers/image and older Docker clients take a server without this field for
/// something that is no registry; they read it from errors, too.
const API_VERSION: &[u8] = b"Docker-Distribution-Api-Version: registry/2.0\r\n";

/// The statuses that this server answers with (RFC 9110 section 15; 431 is RFC 6585's).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub enum Status {
    Ok = 200,
    PartialContent = 206,
    NotModified = 304,
    BadRequest = 400,
    NotFound = 404,
    MethodNotAllowed = 405,
    RequestTimeout = 408,
    LengthRequired = 411,
    PreconditionFailed = 412,
    UriTooLong = 414,
    RangeNotSatisfiable = 416,
    FieldsTooLarge = 431,
    NotImplemented = 501,
    VersionNotSupported = 505,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "HTTP/1.1 200 OK\r\n",
            Self::PartialContent => "HTTP/1.1 206 Partial Content\r\n",
            Self::NotModified => "HTTP/1.1 304 Not Modified\r\n",
            Self::BadRequest => "HTTP/1.1 400 Bad Request\r\n",
            Self::NotFound => "HTTP/1.1 404 Not Found\r\n",
            Self::MethodNotAllowed => "HTTP/1.1 405 Method Not Allowed\r\n",
            Self::RequestTimeout => "HTTP/1.1 408 Request Timeout\r\n",
            Self::LengthRequired => "HTTP/1.1 411 Length Required\r\n",
            Self::PreconditionFailed => "HTTP/1.1 412 Precondition Failed\r\n",
            Self::UriTooLong => "HTTP/1.1 414 URI Too Long\r\n",
            Self::RangeNotSatisfiable => "HTTP/1.1 416 Range Not Satisfiable\r\n",
            Self::FieldsTooLarge => "HTTP/1.1 431 Request Header Fields Too Large\r\n",
            Self::NotImplemented => "HTTP/1.1 501 Not Implemented\r\n",
            Self::VersionNotSupported => "HTTP/1.1 505 HTTP Version Not Supported\r\n",
        }
    }

    /// The three digits.
    #[must_use]
    pub fn code(self) -> u16 {
        self as u16
    }
}

/// The error codes of the distribution-spec that a read-only registry has a use for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum ErrorCode {
    BlobUnknown,
    DigestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unsupported,
    /// Field note: not in the specification's list; it is what the reference implementation says
    /// to a page size that is no number.
    PaginationNumberInvalid,
}

impl ErrorCode {
    fn name(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unsupported => "UNSUPPORTED",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
        }
    }
}

/// What follows the head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content<'a> {
    /// Bytes in memory, few enough to be sent in one piece with the head.
    Bytes(Cow<'a, [u8]>),
    /// A part of the layer, which is large and the transport's to send.
    Layer(Range<u64>),
}

impl Content<'_> {
    /// No content.
    pub const NONE: Self = Self::Bytes(Cow::Borrowed(&[]));

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Layer(range) => range.end - range.start,
        }
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What an answer says of the connection's future (RFC 9112 section 9.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistence {
    /// It goes on, as it does in HTTP/1.1 without a word.
    Implied,
    /// It goes on, which HTTP/1.0 has to be told.
    Stated,
    /// It ends with this answer.
    Close,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response<'a> {
    /// The status.
    pub status: Status,
    /// What the log says is being done.
    pub label: &'static str,
    /// Complete field lines, each with its CRLF.
    fields: Cow<'a, [u8]>,
    /// What follows the head.
    pub content: Content<'a>,
}

impl<'a> Response<'a> {
    /// An answer from ready-made field lines, which must include Content-Length where HTTP wants it.
    pub fn new(
        status: Status,
        label: &'static str,
        fields: impl Into<Cow<'a, [u8]>>,
        content: Content<'a>,
    ) -> Self {
        Self { status, label, fields: fields.into(), content }
    }

    /// An answer with generated content.
    #[must_use]
    pub fn generated(status: Status, label: &'static str, media_type: &str, content: Vec<u8>) -> Self {
        let fields = format!("Content-Type: {media_type}\r\nContent-Length: {}\r\n", content.len());
        Self::new(status, label, fields.into_bytes(), Content::Bytes(content.into()))
    }

    /// An answer with JSON for content.
    #[must_use]
    pub fn json(status: Status, label: &'static str, media_type: &str, json: &Value) -> Self {
        Self::generated(status, label, media_type, json.to_string().into_bytes())
    }

    /// An error. distribution-spec, "Error Codes": its body may have any format, but if it is JSON, it
    /// MUST be of this shape. Other paths than those of /v2 get the same.
    #[must_use]
    pub fn error(status: Status, code: ErrorCode, message: &str, detail: &str) -> Self {
        let error = json!({ "code": code.name(), "message": message, "detail": detail });
        Self::json(status, "Refusing", "application/json", &json!({ "errors": [error] }))
    }

    /// Adds a field line. `value` must not have any byte that ends a line.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        debug_assert!(!value.contains(['\r', '\n']), "a value must stay on its line");
        self.fields.to_mut().extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        self
    }

    /// Appends the head to `out`.
    pub fn write_head(&self, date: &str, persistence: Persistence, out: &mut Vec<u8>) {
        out.extend_from_slice(self.status.line().as_bytes());
        // RFC 9110 section 6.6.1: an origin server with a clock MUST send Date in 2xx, 3xx, 4xx.
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date.as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(API_VERSION);
        out.extend_from_slice(&self.fields);
        out.extend_from_slice(match persistence {
            Persistence::Implied => b"\r\n",
            Persistence::Stated => b"Connection: keep-alive\r\n\r\n",
            Persistence::Close => b"Connection: close\r\n\r\n",
        });
    }
}
