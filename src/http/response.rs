//! Describes a response, and writes its head, after which the connection sends the content.
//!
//! Documents: RFC 9110 (status codes and fields), RFC 9112 section 4 (the status line).
//!
//! ```text
//!     HTTP/1.1 200 OK                                    the status
//!     Date: Sun, 06 Nov 1994 08:49:37 GMT                formatted once a second
//!     Content-Type: application/octet-stream             \  the response's own fields; for content that
//!     Content-Length: 1234                               /  is requested often they are ready made
//!     Docker-Distribution-Api-Version: registry/2.0      the fields that many responses share (`shared`)
//!     Connection: close                                  if the connection ends
//! ```
//!
//! Deliberately absent: chunked coding, because the length of every content is known before its first byte; and
//! compression, because the bytes of a registry must arrive as they were hashed.

use std::borrow::Cow;
use std::ops::Range;

/// Declares the statuses, each with its code and its reason phrase.
macro_rules! statuses {
    ($($Name:ident = $code:literal $phrase:literal,)*) => {
        /// The statuses of this server's responses (RFC 9110 section 15; 429 and 431 are RFC 6585's).
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Status { $($Name = $code,)* }

        impl Status {
            pub const ALL: &[Self] = &[$(Self::$Name,)*];

            /// Returns the status line.
            fn line(self) -> &'static str {
                match self { $(Self::$Name => concat!("HTTP/1.1 ", $code, " ", $phrase, "\r\n"),)* }
            }
        }
    };
}

statuses! {
    Ok = 200 "OK",
    NoContent = 204 "No Content",
    PartialContent = 206 "Partial Content",
    NotModified = 304 "Not Modified",
    TemporaryRedirect = 307 "Temporary Redirect",
    BadRequest = 400 "Bad Request",
    Unauthorized = 401 "Unauthorized",
    Forbidden = 403 "Forbidden",
    NotFound = 404 "Not Found",
    MethodNotAllowed = 405 "Method Not Allowed",
    RequestTimeout = 408 "Request Timeout",
    PreconditionFailed = 412 "Precondition Failed",
    UriTooLong = 414 "URI Too Long",
    RangeNotSatisfiable = 416 "Range Not Satisfiable",
    TooManyRequests = 429 "Too Many Requests",
    FieldsTooLarge = 431 "Request Header Fields Too Large",
    InternalServerError = 500 "Internal Server Error",
    NotImplemented = 501 "Not Implemented",
    BadGateway = 502 "Bad Gateway",
    ServiceUnavailable = 503 "Service Unavailable",
    GatewayTimeout = 504 "Gateway Timeout",
    VersionNotSupported = 505 "HTTP Version Not Supported",
}

impl Status {
    pub fn is_error(self) -> bool {
        self.code() >= 400
    }

    pub fn code(self) -> u16 {
        self as u16
    }

    pub fn reason_phrase(self) -> &'static str {
        self.line()["HTTP/1.1 200 ".len()..].trim_ascii_end()
    }
}

/// The content of a response, which follows the head: bytes, and then a part of a file. Either can be empty, and at
/// least one of them is, unless `fault` has made the response wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Content<'a> {
    /// Bytes in memory, which are sent together with the head.
    pub bytes: Cow<'a, [u8]>,
    /// A part of a larger file. The transport has the file, and sends this part of it.
    pub part: FilePart,
}

/// A range of bytes of one of the files that the transport has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilePart {
    /// The number of the file, counted from 0.
    pub file: usize,
    pub range: Range<u64>,
}

impl FilePart {
    pub const NONE: Self = Self { file: 0, range: 0..0 };

    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

impl<'a> Content<'a> {
    pub const NONE: Self = Self { bytes: Cow::Borrowed(&[]), part: FilePart::NONE };

    /// Returns content that is in memory.
    pub fn bytes(bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { bytes: bytes.into(), part: FilePart::NONE }
    }

    /// Returns content that the transport reads from a file.
    pub fn file(part: FilePart) -> Self {
        Self { part, ..Self::NONE }
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64 + self.part.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the content in `range`.
    pub fn slice(self, range: Range<u64>) -> Self {
        let Self { bytes, part: FilePart { file, range: whole } } = self;
        let length = bytes.len() as u64;
        let in_bytes = range.start.min(length) as usize..range.end.min(length) as usize;
        let in_file = |at: u64| whole.start + at.saturating_sub(length);
        Self {
            bytes: match bytes {
                Cow::Borrowed(bytes) => bytes[in_bytes].into(),
                Cow::Owned(bytes) => bytes[in_bytes].to_vec().into(),
            },
            part: FilePart { file, range: in_file(range.start)..in_file(range.end) },
        }
    }
}

/// Whether the connection persists (RFC 9112 section 9.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistence {
    /// The connection persists, which is the default in HTTP/1.1.
    Implied,
    /// The connection persists, and a field must state this to an HTTP/1.0 client.
    Stated,
    /// The connection ends with this response.
    Close,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response<'a> {
    pub status: Status,
    /// Complete field lines, each with its CRLF.
    fields: Cow<'a, [u8]>,
    pub content: Content<'a>,
}

impl<'a> Response<'a> {
    /// Builds a response from complete field lines, which must include Content-Length where HTTP requires it.
    pub fn new(status: Status, fields: impl Into<Cow<'a, [u8]>>, content: Content<'a>) -> Self {
        Self { status, fields: fields.into(), content }
    }

    /// Builds a response with content that was generated for it.
    pub fn generated(status: Status, media_type: &str, content: Vec<u8>) -> Self {
        let fields = format!("Content-Type: {media_type}\r\nContent-Length: {}\r\n", content.len());
        Self::new(status, fields.into_bytes(), Content::bytes(content))
    }

    /// Adds a field line. `value` must not contain CR or LF.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        debug_assert!(!value.contains(['\r', '\n']), "a value must stay on its line");
        self.fields.to_mut().extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        self
    }

    /// Changes the value of a field, or does nothing if the response has no such field.
    pub fn replace(self, name: &str, value: &str) -> Self {
        if self.field(name).is_none() { self } else { self.without(&[name]).with(name, value) }
    }

    /// Removes the field lines with these names.
    pub fn without(mut self, names: &[&str]) -> Self {
        let lines = self.fields.split_inclusive(|&byte| byte == b'\n');
        let kept = lines.filter(|line| names.iter().all(|name| field_value(line, name).is_none()));
        self.fields = kept.collect::<Vec<_>>().concat().into();
        self
    }

    /// Removes the content. RFC 9110 section 9.3.2: MUST NOT send content in response to HEAD.
    pub fn without_content(self) -> Self {
        Self { content: Content::NONE, ..self }
    }

    /// Returns the value of the response's own field named `name`. The comparison is case-sensitive.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.split_inclusive(|&byte| byte == b'\n').find_map(|line| field_value(line, name))
    }

    /// Changes a 200 to a 206 with the bytes of the content in `range` (RFC 9110 section 15.3.7).
    pub fn part(self, range: Range<u64>) -> Self {
        let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, self.content.len());
        let length = (range.end - range.start).to_string();
        let mut part = self.replace("Content-Length", &length);
        (part.status, part.content) = (Status::PartialContent, part.content.slice(range));
        part.with("Content-Range", &content_range)
    }

    /// Appends the head to `out`. `date` is the current time in the format of the Date field, and `shared` has complete
    /// field lines in addition to those of the response.
    ///
    /// ```
    /// use quinistry::http::response::{Content, Persistence, Response, Status};
    ///
    /// let fields = &b"Content-Length: 0\r\n"[..];
    /// let response = Response::new(Status::Ok, fields, Content::NONE);
    /// let mut head = Vec::new();
    /// response.write_head("Sun, 06 Nov 1994 08:49:37 GMT", "Server: example\r\n", Persistence::Close, &mut head);
    /// assert_eq!(
    ///     str::from_utf8(&head),
    ///     Ok("HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\
    ///         Server: example\r\nConnection: close\r\n\r\n")
    /// );
    /// ```
    pub fn write_head(&self, date: &str, shared: &str, persistence: Persistence, out: &mut Vec<u8>) {
        out.extend_from_slice(self.status.line().as_bytes());
        // RFC 9110 section 6.6.1: an origin server with a clock MUST send Date in 2xx, 3xx, 4xx.
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date.as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.fields);
        out.extend_from_slice(shared.as_bytes());
        out.extend_from_slice(match persistence {
            Persistence::Implied => b"\r\n",
            Persistence::Stated => b"Connection: keep-alive\r\n\r\n",
            Persistence::Close => b"Connection: close\r\n\r\n",
        });
    }
}

/// Returns the value of a field line, if the field is named `name`.
fn field_value<'l>(line: &'l [u8], name: &str) -> Option<&'l [u8]> {
    line.strip_prefix(name.as_bytes())?.strip_prefix(b": ")?.strip_suffix(b"\r\n")
}
