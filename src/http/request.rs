//! Parses bytes into a request, reports that they are incomplete, or refuses them.
//!
//! Documents: RFC 9112 (the syntax of HTTP/1.1), RFC 9110 (its meaning), RFC 3986 (targets).
//!
//! ```
//! use quinistry::http::request::{Method, parse};
//!
//! // A request line, field lines, the empty line that ends the head, and the beginning of another request.
//! let bytes = b"GET /v2/_catalog?n=1 HTTP/1.1\r\nHost: localhost:8080\r\nAccept: */*\r\n\r\nGET /";
//! let (request, length) = parse(bytes).expect("valid").expect("complete");
//! assert_eq!(request.method, Method::Get);
//! assert_eq!((&*request.path, request.query), ("/v2/_catalog", Some("n=1")));
//! assert_eq!(request.authority, Some("localhost:8080"));
//! assert_eq!(request.fields.lines("accept").next(), Some("*/*"));
//!
//! assert_eq!(parse(&bytes[length..]), Ok(None), "it is incomplete");
//! let rejection = parse(b"\x16\x03\x01").expect_err("it is TLS");
//! assert_eq!((rejection.status.code(), rejection.is_head), (400, false));
//! ```
//!
//! A head is checked in this order, and the first error determines the response: the first bytes, the length and the
//! grammar of the request line, the other line ends and the length of the head, the field lines, Host, framing, target.
//! Every error that is found here ends the connection, because after some of these errors it is unknown where the next
//! request begins.
//!
//! `httparse` parses the field lines, but not the request line, for two reasons. It accepts more than the RFCs allow
//! (`"<>\^{|}` and UTF-8 in targets). It also reports the same error for HTTP/1.2, which must be treated as HTTP/1.1,
//! and for HTTP/2.0, which must not.
//!
//! `httparse` runs only on a complete head. The end of the head is therefore found first: whenever bytes arrive, the
//! head is scanned from its start. A head of 16 KiB that arrives byte by byte takes 60 ms of processor time in all, for
//! which `connection` charges the client.
//!
//! Limits: the lengths of the head and of the request line, and the number of field lines.
//!
//! Deliberately absent: content. No request that this registry fulfills needs content, and skipping it safely would
//! require all of chunked coding. The connection therefore ends after the response to a request with content.

use std::borrow::Cow;
use std::io::BufRead;

use crate::http::response::{Persistence, Status};
use crate::http::syntax::{
    PLAIN_IN_PATH, PLAIN_IN_QUERY, is_authority, is_percent_encoded, is_target, is_tchar, is_token, list_members,
    parse_number, percent_decode,
};

/// The longest head, with its empty line, in bytes. Real clients send 200 bytes to 2 KiB, and a bearer token or the
/// fields of a proxy can add several KiB. nginx accepts 33 KiB, and haproxy 15 KiB.
pub const MAX_HEAD: usize = 16 * 1024;

/// The maximum number of bytes that parsing a request can need: a head, and the empty line before it.
pub const MAX_INPUT: usize = MAX_HEAD + "\r\n".len();

/// The longest request line, without its CRLF, in bytes. RFC 9112 section 3 recommends at least 8000.
pub const MAX_REQUEST_LINE: usize = 8 * 1024;

/// The maximum number of field lines, as in hyper and h2o: ample, because docker sends 4, and containerd 7.
pub const MAX_FIELDS: usize = 100;

const _: () = assert!(MAX_REQUEST_LINE >= 8000 && MAX_REQUEST_LINE < MAX_HEAD);

/// The methods that this server distinguishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Get,
    Head,
    Options,
    Connect,
    /// Another method that RFC 9110 or RFC 5789 (PATCH) defines, and that no path of this registry allows.
    Other,
    /// A method that neither RFC defines, such as `get`: methods are case-sensitive (RFC 9110 section 9.1).
    Unrecognized,
}

/// A request, borrowed from the received bytes.
#[derive(PartialEq, Eq, Debug)]
pub struct Request<'b> {
    pub method: Method,
    /// The method as received, for the log.
    pub method_name: &'b str,
    /// The target as received, for the log.
    pub target: &'b str,
    /// The path, without needless percent-encoding.
    pub path: Cow<'b, str>,
    /// The query, without its question mark, still percent-encoded.
    pub query: Option<&'b str>,
    /// The host and port that the client addresses; `None` if the authority is empty or, in HTTP/1.0, absent.
    pub authority: Option<&'b str>,
    /// Whether what follows the head may be something other than a request: content or, after CONNECT, another protocol
    /// (RFC 9110 section 9.3.6).
    pub has_body: bool,
    pub persistence: Persistence,
    pub fields: Fields<'b>,
}

impl<'b> Request<'b> {
    /// Returns the decoded value of the first query parameter named `name`. In `?n=1&last=a`, the value of `n` is `1`.
    pub fn parameter(&self, name: &str) -> Option<Cow<'b, str>> {
        let mut pairs = self.query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| percent_decode(value, PLAIN_IN_QUERY))
    }

    /// Returns the weight of each of these media types in the Accept fields, in thousandths. 0 means that the type is
    /// not acceptable, or that nothing in the Accept fields matches it.
    ///
    /// RFC 9110 section 12.5.1: "The most specific reference has precedence." Of several equally specific media ranges,
    /// the one with the largest weight counts.
    pub fn weights<const N: usize>(&self, types: [&str; N]) -> [u16; N] {
        let mut best = [(0, 0); N];
        for range in self.fields.bytes("accept").flat_map(list_members) {
            let mut parts = range.split(';').map(str::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let is_weight = |part: &&str| part.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("q="));
            let weight = parts.find(is_weight).map_or(1000, |part| weight(&part[2..]));
            for (best, media_type) in best.iter_mut().zip(types) {
                *best = (*best).max((specificity(name, media_type), weight));
            }
        }
        best.map(|(specificity, weight)| if specificity == 0 { 0 } else { weight })
    }
}

/// Returns how specific a media range is for a media type: 3 for the type itself, 0 if the range does not match.
///
/// ```text
///     media-range = ( "*/*" / ( type "/" "*" ) / ( type "/" subtype ) ) parameters ; RFC 9110 section 12.5.1
/// ```
fn specificity(range: &str, media_type: &str) -> u8 {
    let is_prefix =
        |prefix: &str| media_type.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    match range.strip_suffix('*') {
        _ if range.eq_ignore_ascii_case(media_type) => 3,
        Some("*/") => 1,
        Some(prefix) if prefix.ends_with('/') && is_prefix(prefix) => 2,
        _ => 0,
    }
}

/// Parses a weight, in thousandths. A malformed weight is ignored, and counts as 1000.
///
/// ```text
///     qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] )   ; RFC 9110 section 12.4.2
/// ```
fn weight(text: &str) -> u16 {
    let digits = if text == "0" { Some("") } else { text.strip_prefix("0.") };
    match digits {
        Some(digits) if digits.len() <= 3 && digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            let digits = digits.bytes().chain([b'0'; 3]).take(3);
            digits.fold(0, |number, digit| 10 * number + u16::from(digit - b'0'))
        }
        _ => 1000,
    }
}

/// The reason why bytes are not an acceptable request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// The status of the response.
    pub status: Status,
    /// The error, in words for the person who uses the client.
    pub reason: &'static str,
    /// Whether the bytes begin like a HEAD request, whose response has no content.
    pub is_head: bool,
}

const fn reject(status: Status, reason: &'static str) -> Rejection {
    Rejection { status, reason, is_head: false }
}

const fn bad(reason: &'static str) -> Rejection {
    reject(Status::BadRequest, reason)
}

/// The rejection of a client that begins with TLS.
pub const TLS: Rejection = bad("this port speaks plain HTTP, not TLS");

/// Returns the rejection of a head that is incomplete at its deadline.
pub fn timeout(head: &[u8]) -> Rejection {
    let rejection = reject(Status::RequestTimeout, "the head of the request took too long");
    Rejection { is_head: head.strip_prefix(b"\r\n").unwrap_or(head).starts_with(HEAD), ..rejection }
}

/// The beginning of a HEAD request.
const HEAD: &[u8] = b"HEAD ";

/// Parses the request at the start of `bytes`.
///
/// Returns the request and the length of its head in bytes, or `None` if the head is incomplete. Fails as soon as it is
/// certain that the request line, a line end or the length of the head is not acceptable, which may be before the head
/// is complete. The field lines and the form of the target are parsed only in a complete head.
pub fn parse(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, Rejection> {
    // RFC 9112 section 2.2: "SHOULD ignore at least one empty line (CRLF) received prior to the request-line". This
    // server ignores only one, because otherwise a client could send empty lines forever.
    let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let bytes = &bytes[skipped..];
    match parse_trimmed(bytes) {
        Ok(request) => Ok(request.map(|(request, length)| (request, skipped + length))),
        // `is_head` describes the bytes that were parsed, which do not include the empty line.
        Err(rejection) => Err(Rejection { is_head: bytes.starts_with(HEAD), ..rejection }),
    }
}

/// Parses the request at the start of `bytes`, from which `parse` has removed an empty line before the request.
fn parse_trimmed(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, Rejection> {
    check_first_bytes(bytes)?;
    // Bytes beyond the limit are ignored, because otherwise the outcome would depend on how the input was split into
    // reads.
    let bytes = &bytes[..bytes.len().min(MAX_HEAD)];
    let Some(line_end) = request_line_end(bytes)? else { return Ok(None) };
    // The request line is checked as soon as it is complete, because an HTTP/0.9 client sends nothing after `GET /`.
    let line = parse_request_line(&bytes[..line_end])?;
    let (mut end, mut field_lines) = (line_end, 0);
    loop {
        end = match find_line_end(bytes, end)? {
            Some(end) => end,
            None if bytes.len() == MAX_HEAD => {
                return Err(reject(Status::FieldsTooLarge, "the head of a request must not exceed 16 KiB"));
            }
            None => return Ok(None),
        };
        if bytes[..end].ends_with(b"\r\n\r\n") {
            return Ok(Some((parse_head(&line, &bytes[line_end..end], field_lines)?, end)));
        }
        field_lines += 1;
    }
}

/// Refuses a client whose first bytes reveal another protocol.
fn check_first_bytes(bytes: &[u8]) -> Result<(), Rejection> {
    const TLS_HANDSHAKE: u8 = 0x16; // RFC 8446 section 5.1: ContentType
    match bytes {
        // Field note: Docker (observed with 20.10), its containerd store and containerd's CRI try HTTPS first, even on
        // localhost. They fall back to HTTP at once if the response begins with `HTTP/`. If there is no response, they
        // wait for a timeout of 10 s, and after a reset, the pull fails.
        [TLS_HANDSHAKE, ..] => Err(TLS),
        [b'\r'] => Ok(()), // This may be half of an empty line.
        [first, ..] if !is_tchar(*first) => Err(bad("a request begins with a method")),
        // RFC 9113 section 3.4: HTTP/2 begins with a preface that an HTTP/1.1 server refuses. Although the version in
        // the preface would call for a 505, the response is a 400, because the preface is not a request.
        _ if bytes.starts_with(b"PRI * HTTP/2.0\r\n") => Err(bad("this port speaks HTTP/1.1, not HTTP/2")),
        _ => Ok(()),
    }
}

/// Returns the end of the request line, or `None` if the line is incomplete.
fn request_line_end(bytes: &[u8]) -> Result<Option<usize>, Rejection> {
    const LONGEST: usize = MAX_REQUEST_LINE + "\r\n".len();
    const LONGEST_METHOD: usize = "OPTIONS".len();
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    match find_line_end(bytes, 0)? {
        None if bytes.len() < LONGEST => Ok(None),
        // RFC 9112 section 3: SHOULD respond with 501 to a method longer than every implemented method.
        None if !bytes[..=LONGEST_METHOD].contains(&b' ') => {
            Err(reject(Status::NotImplemented, "no method is this long"))
        }
        // RFC 9112 section 3: MUST respond with 414 to a target that is too long.
        None => Err(reject(Status::UriTooLong, "the request line must not exceed 8 KiB")),
        end => Ok(end),
    }
}

/// Returns the end of the line that begins or continues at `from`, or `None` if the line is incomplete.
///
/// RFC 9112 section 2.2 allows a server to accept a bare LF as the end of a line. This server refuses it, because if
/// two readers disagree about where a line ends, a request can be hidden from one of them. The refusal does not wait
/// for the end of the head, because a client that ends its head with two bare LFs would otherwise wait until the
/// deadline.
fn find_line_end(bytes: &[u8], from: usize) -> Result<Option<usize>, Rejection> {
    // std has a fast search for a byte, but makes it public only through `skip_until`.
    let end = from + { &bytes[from..] }.skip_until(b'\n').expect("a slice can be read");
    match bytes[..end] {
        _ if end == from => Ok(None),
        [.., b'\r', b'\n'] => Ok(Some(end)),
        [.., b'\n'] => Err(bad("every line must end with CR LF")),
        _ => Ok(None),
    }
}

/// Parses the rest of a head: the target in `line`, and `fields`, which has `count` field lines and the empty line.
fn parse_head<'b>(line: &RequestLine<'b>, fields: &'b [u8], count: usize) -> Result<Request<'b>, Rejection> {
    let &RequestLine { method: method_name, target, is_http_1_0 } = line;
    let fields = Fields::parse(fields, count)?;
    let host = fields.host(is_http_1_0)?;
    let has_content = fields.has_content(is_http_1_0)?;
    let method = match method_name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "OPTIONS" => Method::Options,
        "CONNECT" => Method::Connect,
        "POST" | "PUT" | "PATCH" | "DELETE" | "TRACE" => Method::Other,
        _ => Method::Unrecognized,
    };
    let has_body = has_content || method == Method::Connect;
    let Target { authority, path, query } = parse_target(target, method)?;
    Ok(Request {
        method,
        method_name,
        target,
        path,
        query,
        // RFC 9112 section 3.2.2: MUST ignore Host if the target has an authority.
        authority: authority.or(host).filter(|host| !host.is_empty()),
        has_body,
        persistence: if has_body { Persistence::Close } else { fields.persistence(is_http_1_0) },
        fields,
    })
}

/// A request line, whose version is HTTP/1.0 or a later version of HTTP/1.
struct RequestLine<'b> {
    method: &'b str,
    target: &'b str,
    is_http_1_0: bool,
}

/// Parses a request line.
///
/// ```text
///     request-line = method SP request-target SP HTTP-version   ; RFC 9112 section 3
///     method       = token                                      ; RFC 9110 section 9.1
///     HTTP-version = "HTTP" "/" DIGIT "." DIGIT                 ; RFC 9112 section 2.3, case-sensitive
/// ```
fn parse_request_line(line: &[u8]) -> Result<RequestLine<'_>, Rejection> {
    let line = str::from_utf8(line).map_err(|_| bad("the request line is not ASCII"))?;
    let parts = line.strip_suffix("\r\n").unwrap_or(line).rsplit_once(' ');
    let Some(((method, target), version)) = parts.and_then(|(rest, version)| Some((rest.split_once(' ')?, version)))
    else {
        return Err(bad("a request line is a method, a target and a version, separated by single spaces"));
    };
    if !is_token(method) {
        return Err(bad("the method contains an invalid character"));
    }
    // RFC 9112 section 3.2: SHOULD respond to an invalid request line with 400, and not repair it.
    if !is_target(target) {
        return Err(bad("the target contains a character that must be percent-encoded"));
    }
    match version.as_bytes() {
        b"HTTP/1.0" => Ok(RequestLine { method, target, is_http_1_0: true }),
        // RFC 9110 section 2.5: a higher minor version SHOULD be processed as the highest known.
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => {
            Ok(RequestLine { method, target, is_http_1_0: false })
        }
        [b'H', b'T', b'T', b'P', b'/', b'2'..=b'9', b'.', b'0'..=b'9'] => {
            Err(reject(Status::VersionNotSupported, "this server supports only HTTP/1.1 and HTTP/1.0"))
        }
        _ => Err(bad("the version is neither HTTP/1.1 nor HTTP/1.0")),
    }
}

/// The field lines of a request.
#[derive(PartialEq, Eq, Debug)]
pub struct Fields<'b>(Vec<httparse::Header<'b>>);

impl<'b> Fields<'b> {
    fn parse(bytes: &'b [u8], count: usize) -> Result<Self, Rejection> {
        let mut lines = vec![httparse::EMPTY_HEADER; count.min(MAX_FIELDS)];
        // `httparse` refuses what a server must or may refuse by RFC 9112 sections 2.2, 5.1 and 5.2: a bare CR, a space
        // before the colon, a line that begins with white space, control characters.
        match httparse::parse_headers(bytes, &mut lines) {
            Ok(httparse::Status::Complete(_)) => Ok(Self(lines)),
            Err(httparse::Error::TooManyHeaders) => {
                Err(reject(Status::FieldsTooLarge, "a request must not have more than 100 field lines"))
            }
            Ok(httparse::Status::Partial) | Err(_) => Err(bad("a field line is a name, a colon and a value")),
        }
    }

    /// Iterates over the values of all field lines named `name`, in order. A value that is not UTF-8 becomes U+FFFD,
    /// which is invalid in every field that this server uses.
    pub fn lines(&self, name: &str) -> impl Iterator<Item = &'b str> {
        self.bytes(name).map(|value| str::from_utf8(value).unwrap_or("\u{fffd}"))
    }

    /// Like [`Self::lines`], but with the values as bytes, which need not be UTF-8 (RFC 9110 section 5.5, obs-text).
    pub fn bytes(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        let lines = self.0.iter().filter(move |line| line.name.eq_ignore_ascii_case(name));
        lines.map(|line| line.value.trim_ascii())
    }

    /// Returns the value of Host. RFC 9112 section 3.2: MUST respond with 400 to an HTTP/1.1 request without Host, and
    /// to any request with two Host field lines or an invalid one.
    fn host(&self, is_http_1_0: bool) -> Result<Option<&'b str>, Rejection> {
        let mut hosts = self.lines("host");
        match (hosts.next(), hosts.next()) {
            (None, _) if is_http_1_0 => Ok(None),
            (None, _) => Err(bad("HTTP/1.1 requires a Host field")),
            (Some(host), None) if is_authority(host) => Ok(Some(host)),
            (Some(_), None) => Err(bad("the Host field is not a host with an optional port")),
            (Some(_), Some(_)) => Err(bad("the Host field must not be repeated")),
        }
    }

    /// Returns whether content follows the head (RFC 9112 section 6).
    fn has_content(&self, is_http_1_0: bool) -> Result<bool, Rejection> {
        let mut lengths = self.lines("content-length");
        let length = lengths.next();
        // An empty Transfer-Encoding counts as well: it has no members, but the field is present.
        if self.bytes("transfer-encoding").next().is_some() {
            // Section 6.3: such a message "ought to be handled as an error", because one reader may use the length and
            // another the coding.
            if length.is_some() {
                return Err(bad("Content-Length and Transfer-Encoding must not be sent together"));
            }
            // Section 6.1: MUST treat the framing of an HTTP/1.0 message with this field as faulty.
            if is_http_1_0 {
                return Err(bad("HTTP/1.0 has no Transfer-Encoding"));
            }
            return self.check_codings().map(|()| true);
        }
        match (length, lengths.next()) {
            (None, _) => Ok(false),
            // Section 6.3: MUST respond with 400 to an invalid length.
            (Some(length), None) => {
                let length = parse_number(length).ok_or(bad("the Content-Length field is not a number"))?;
                Ok(length > 0)
            }
            // A server may accept two equal lengths as one, but no client sends two, so equal lengths are refused as
            // well.
            (Some(_), Some(_)) => Err(bad("the Content-Length field must not be repeated")),
        }
    }

    /// Checks the transfer codings. RFC 9112 section 6.3: MUST respond with 400 if chunked is not the last coding,
    /// because then the length is unknown. Section 6.1: SHOULD respond with 501 to a coding that is unknown here.
    fn check_codings(&self) -> Result<(), Rejection> {
        let codings: Vec<&str> = self.bytes("transfer-encoding").flat_map(list_members).collect();
        match codings.iter().position(|coding| coding.eq_ignore_ascii_case("chunked")) {
            Some(0) if codings.len() == 1 => Ok(()),
            Some(first) if first + 1 == codings.len() => {
                Err(reject(Status::NotImplemented, "this server supports only the chunked transfer coding"))
            }
            _ => Err(bad("the last transfer coding, and only the last, must be chunked")),
        }
    }

    /// Returns whether the client wants the connection to persist (RFC 9112 section 9.3).
    fn persistence(&self, is_http_1_0: bool) -> Persistence {
        let has = |option: &str| {
            self.bytes("connection").flat_map(list_members).any(|member| member.eq_ignore_ascii_case(option))
        };
        match is_http_1_0 {
            _ if has("close") => Persistence::Close,
            false => Persistence::Implied,
            true if has("keep-alive") => Persistence::Stated,
            true => Persistence::Close,
        }
    }
}

/// The parts of a target.
struct Target<'b> {
    authority: Option<&'b str>,
    path: Cow<'b, str>,
    query: Option<&'b str>,
}

/// Parses a target.
///
/// ```text
///     request-target = origin-form / absolute-form / authority-form / asterisk-form
///     origin-form    = absolute-path [ "?" query ]               ; RFC 9112 section 3.2.1
///     absolute-form  = scheme "://" authority path [ "?" query ] ; section 3.2.2
///     authority-form = uri-host ":" port                         ; section 3.2.3, of CONNECT
///     asterisk-form  = "*"                                       ; section 3.2.4, of OPTIONS
/// ```
fn parse_target(text: &str, method: Method) -> Result<Target<'_>, Rejection> {
    if method == Method::Connect {
        // RFC 9110 section 9.3.6: MUST reject a CONNECT request with an empty or invalid port.
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty() && is_authority(text));
        if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port != 0)) {
            return Err(bad("the target of CONNECT must be a host and a port"));
        }
        return Ok(Target { authority: Some(text), path: text.into(), query: None });
    }
    if method == Method::Options && text == "*" {
        return Ok(Target { authority: None, path: text.into(), query: None });
    }
    let (authority, path_and_query) = if text.starts_with('/') {
        (None, text)
    } else {
        // RFC 9112 section 3.2.2: MUST accept the absolute form.
        let is_http = |scheme: &str| ["http", "https"].iter().any(|http| scheme.eq_ignore_ascii_case(http));
        let Some((_, rest)) = text.split_once("://").filter(|(scheme, _)| is_http(scheme)) else {
            return Err(bad("the target is neither a path nor an http URI"));
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        // RFC 9110 section 4.2.1: MUST reject an empty host here. In a Host field an empty host is valid.
        if authority.is_empty() || !is_authority(authority) {
            return Err(bad("the authority of the target is not a host with an optional port"));
        }
        (Some(authority), path)
    };
    if !is_percent_encoded(path_and_query) {
        return Err(bad("a percent sign in the target is not followed by two hexadecimal digits"));
    }
    let parts = path_and_query.split_once('?');
    let (path, query) = parts.map_or((path_and_query, None), |(path, query)| (path, Some(query)));
    // RFC 9110 section 4.2.3: an empty path is the same as `/`.
    let path = if path.is_empty() { "/" } else { path };
    Ok(Target { authority, path: percent_decode(path, PLAIN_IN_PATH), query })
}
