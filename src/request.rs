//! Bytes to a request: `Ok(Some)`, not yet, or the answer that refuses them.
//!
//! Documents: RFC 9112 (HTTP/1.1 syntax), RFC 9110 (semantics), RFC 3986 (targets).
//!
//! ```text
//!     GET /v2/quinistry/tags/list?n=1 HTTP/1.1 CR LF      the request line
//!     Host: localhost:8080 CR LF                          field lines
//!     Accept: */* CR LF
//!     CR LF                                               the end of the head
//! ```
//!
//! A message is judged in this order: length and grammar of the request line, fields, Host,
//! framing, target. The first fault decides. Some faults make it doubtful where the next request
//! begins, and whoever makes another is better off with a new connection: each is answered once, and
//! the connection then closed.
//!
//! `httparse` reads the field lines. The request line is read here, because `httparse` is more
//! lenient with it than the RFCs allow (it takes `"<>\^{|}` and UTF-8 in targets) and reports
//! HTTP/1.2, which is to be treated as 1.1, and HTTP/2.0, which is not, as the same error. The end
//! of the head is found before either runs, so that nothing is parsed twice, however many pieces it
//! comes in.
//!
//! Deliberately absent: content. No request that this registry fulfils has any, and skipping it
//! safely needs all of chunked coding; a connection that carries some is closed after the answer.

use std::borrow::Cow;
use std::io::BufRead;

use crate::response::Status;

/// The longest head, with its empty line. Real clients send 200 bytes to 2 KiB; a bearer token or
/// a proxy's fields can add several more. nginx takes 33 KiB, haproxy 15 KiB.
pub const MAX_HEAD: usize = 16 * 1024;

/// The most bytes that it can take to judge a request: a head, and the empty line before it.
pub const MAX_INPUT: usize = MAX_HEAD + "\r\n".len();

/// The longest request line, without its CRLF. RFC 9112 section 3 recommends at least 8000 octets.
pub const MAX_REQUEST_LINE: usize = 8 * 1024;

/// The most field lines. hyper and h2o have the same limit; docker sends 4, containerd 7.
pub const MAX_FIELDS: usize = 100;

const _: () = assert!(MAX_REQUEST_LINE >= 8000 && MAX_REQUEST_LINE < MAX_HEAD);

/// The method, as far as this server tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// GET
    Get,
    /// HEAD: GET without the content.
    Head,
    /// Another method that HTTP defines, and this registry allows nowhere.
    Known,
    /// None that HTTP defines. Methods are case-sensitive (RFC 9110 section 9.1): `get` is one.
    Unknown,
}

/// What follows the head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// Nothing: the next byte begins the next request.
    None,
    /// Content of a known length.
    Sized,
    /// Content in chunked coding.
    Chunked,
}

/// A request, borrowed from the bytes it came in.
#[derive(Debug)]
pub struct Request<'b> {
    /// The method.
    pub method: Method,
    /// The method's name.
    pub method_name: &'b str,
    /// The target as it came, for the log.
    pub target: &'b str,
    /// The path, with needless percent-encoding undone.
    pub path: Cow<'b, str>,
    /// The query, without its question mark, still encoded.
    pub query: Option<&'b str>,
    /// The host and port that the client thinks it speaks to; `None` in HTTP/1.0, or if empty.
    pub authority: Option<&'b str>,
    /// What follows the head.
    pub body: Body,
    /// Whether the client wants, and can have, another request on this connection.
    pub persistent: bool,
    /// Whether the minor version is 0: such a client has to be told of persistence.
    pub is_http_1_0: bool,
    fields: Fields<'b>,
}

impl<'b> Request<'b> {
    /// The values of all field lines of that name, in order.
    pub fn field_lines(&self, name: &str) -> impl Iterator<Item = &'b str> {
        self.fields.lines(name)
    }
}

/// Bytes that are no request, and the answer to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// The status of the answer.
    pub status: Status,
    /// What was wrong, for the person at the other end.
    pub reason: &'static str,
}

const fn bad(reason: &'static str) -> Rejection {
    Rejection { status: Status::BadRequest, reason }
}

/// Parses the request at the start of `bytes`, of which the first `seen` have been searched for
/// the end of the head before, in vain. The request's field lines are put into `lines`.
///
/// Gives the request and the number of bytes its head takes, or `None` if the head is not yet
/// complete.
///
/// # Errors
///
/// As soon as it is certain that the bytes cannot become an acceptable request, which may be
/// before the head is complete.
pub fn parse<'h, 'b>(
    bytes: &'b [u8],
    seen: usize,
    lines: &'h mut Lines<'b>,
) -> Result<Option<(Request<'h>, usize)>, Rejection> {
    // RFC 9112 section 2.2: "SHOULD ignore at least one empty line (CRLF) received prior to the
    // request-line". One it is: a client that sends nothing but empty lines meets the grammar.
    let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let (bytes, seen) = (&bytes[skipped..], seen.saturating_sub(skipped));
    check_first_bytes(bytes)?;
    // Never looking past the limit makes the answer independent of how the bytes arrived.
    let bytes = &bytes[..bytes.len().min(MAX_HEAD)];
    let Some(line_end) = find_line_end(bytes)? else { return Ok(None) };
    let (line, fields) = bytes.split_at(line_end);
    // The line is judged as soon as it is there: the `GET /` of HTTP/0.9 has no more to come.
    let line = if line_end > seen { Some(RequestLine::parse(line)?) } else { None };
    let Some(end) = find_end(bytes, seen.max(line_end))? else { return Ok(None) };
    let line = line.map_or_else(|| RequestLine::parse(&bytes[..line_end]), Ok)?;
    Ok(Some((parse_head(&line, &fields[..end - line_end], lines)?, skipped + end)))
}

/// Recognises a peer that speaks another protocol from what it says first.
fn check_first_bytes(bytes: &[u8]) -> Result<(), Rejection> {
    const TLS_HANDSHAKE: u8 = 0x16; // RFC 8446 section 5.1: ContentType
    match bytes {
        // Field note: Docker (20.10, seen), its containerd store and containerd's CRI try HTTPS first,
        // even on localhost. They fall back to HTTP at once if the reply begins with `HTTP/`, and only
        // then: silence costs them a time-out of 10 s, a reset fails the pull.
        [TLS_HANDSHAKE, ..] => Err(bad("this port speaks plain HTTP, not TLS")),
        [b'\r'] => Ok(()), // Perhaps half of the empty line above.
        [first, ..] if !TOKEN.has(*first) => Err(bad("a request begins with its method")),
        // RFC 9113 section 3.4: the preface is such that an HTTP/1.1 server refuses it. Its
        // version, 2.0, would bring it a 505; but it is not a request, and 400 says so.
        _ if bytes.starts_with(b"PRI * HTTP/2.0\r\n") => Err(bad("this port speaks HTTP/1.1, not HTTP/2")),
        _ => Ok(()),
    }
}

/// Finds the end of the request line.
fn find_line_end(bytes: &[u8]) -> Result<Option<usize>, Rejection> {
    const LONGEST: usize = MAX_REQUEST_LINE + "\r\n".len();
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    match find_line_feed(bytes) {
        Some(line_feed) if bytes[..line_feed].ends_with(b"\r") => Ok(Some(line_feed + 1)),
        Some(_) => Err(BARE_LINE_FEED),
        None if bytes.len() == LONGEST => Err(LINE_TOO_LONG),
        None => Ok(None),
    }
}

/// Finds the end of the head, of which the first `seen` bytes have been searched before.
fn find_end(bytes: &[u8], seen: usize) -> Result<Option<usize>, Rejection> {
    let mut at = seen;
    while let Some(next) = find_line_feed(&bytes[at..]) {
        at += next + 1;
        match bytes[..at] {
            [.., b'\r', b'\n', b'\r', b'\n'] => return Ok(Some(at)),
            [.., b'\r', b'\n'] => {}
            _ => return Err(BARE_LINE_FEED),
        }
    }
    if bytes.len() == MAX_HEAD { Err(HEAD_TOO_LONG) } else { Ok(None) }
}

/// `memchr`, which std lends to its readers only.
fn find_line_feed(mut bytes: &[u8]) -> Option<usize> {
    let all = bytes;
    let count = bytes.skip_until(b'\n').expect("a slice can be read");
    all[..count].ends_with(b"\n").then(|| count - 1)
}

/// RFC 9112 section 2.2 allows to take a bare LF for a line's end. We refuse: two readers that
/// disagree about it are how requests are smuggled. It must be at once, or a client that ends its
/// head with two of them waits until its time is over.
const BARE_LINE_FEED: Rejection = bad("a line ends with CR LF");

const HEAD_TOO_LONG: Rejection =
    Rejection { status: Status::FieldsTooLarge, reason: "the head of a request has at most 16 KiB" };

const LINE_TOO_LONG: Rejection =
    Rejection { status: Status::UriTooLong, reason: "the request line has at most 8 KiB" };

fn parse_head<'h, 'b: 'h>(
    line: &RequestLine<'b>,
    fields: &'b [u8],
    lines: &'h mut Lines<'b>,
) -> Result<Request<'h>, Rejection> {
    let fields = Fields::parse(fields, lines)?;
    let host = fields.host(line.is_http_1_0)?;
    let body = fields.body(line.is_http_1_0)?;
    let method = method(line.method);
    let target = Target::parse(line.target, method)?;
    Ok(Request {
        method,
        method_name: line.method,
        target: line.target,
        path: target.path,
        query: target.query,
        // RFC 9112 section 3.2.2: the authority of an absolute target replaces the Host's.
        authority: target.authority.or(host).filter(|host| !host.is_empty()),
        body,
        // After CONNECT, the client may send what is no request (RFC 9110 section 9.3.6).
        persistent: fields.persistent(line.is_http_1_0) && body == Body::None && line.method != "CONNECT",
        is_http_1_0: line.is_http_1_0,
        fields,
    })
}

struct RequestLine<'b> {
    method: &'b str,
    target: &'b str,
    is_http_1_0: bool,
}

impl<'b> RequestLine<'b> {
    /// RFC 9112 section 3: `request-line = method SP request-target SP HTTP-version`, and CRLF.
    fn parse(line: &'b [u8]) -> Result<Self, Rejection> {
        const GRAMMAR: Rejection = bad("a request line is a method, a target and a version, one space apart");
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        let mut parts = line.split(|&byte| byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(GRAMMAR);
        };
        let method = TOKEN.text(method).ok_or(bad("the method has a character that methods cannot have"))?;
        // RFC 9112 section 3.2: SHOULD be answered with 400; no attempt to repair it.
        let target =
            TARGET.text(target).ok_or(bad("the target has a character that must be percent-encoded"))?;
        // RFC 9112 section 2.3: `HTTP-version = HTTP-name "/" DIGIT "." DIGIT`, case-sensitive.
        let is_http_1_0 = match version {
            b"HTTP/1.0" => true,
            // RFC 9110 section 2.5: a higher minor version SHOULD be processed as the highest known.
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => false,
            [b'H', b'T', b'T', b'P', b'/', b'2'..=b'9', b'.', b'0'..=b'9'] => {
                let status = Status::VersionNotSupported;
                return Err(Rejection { status, reason: "this server speaks HTTP/1.1 and HTTP/1.0" });
            }
            _ => return Err(bad("the version is not one of HTTP")),
        };
        Ok(Self { method, target, is_http_1_0 })
    }
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" | "PUT" | "PATCH" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" => Method::Known,
        _ => Method::Unknown,
    }
}

/// How many field lines there is always room for: clients of registries send fewer.
const FEW_FIELDS: usize = 16;

/// Room for the field lines of a request, which one request after the other can use.
pub struct Lines<'b> {
    few: [httparse::Header<'b>; FEW_FIELDS],
    many: Vec<httparse::Header<'b>>,
}

impl Default for Lines<'_> {
    fn default() -> Self {
        Self { few: [httparse::EMPTY_HEADER; FEW_FIELDS], many: Vec::new() }
    }
}

#[derive(Clone, Copy, Debug)]
struct Fields<'h>(&'h [httparse::Header<'h>]);

impl<'h> Fields<'h> {
    fn parse<'b: 'h>(bytes: &'b [u8], lines: &'h mut Lines<'b>) -> Result<Self, Rejection> {
        // `httparse` refuses, as RFC 9112 sections 2.2, 5.1 and 5.2 demand or allow: a bare CR, a
        // space before the colon, a line that begins with white space, control characters.
        let parsed = match httparse::parse_headers(bytes, &mut lines.few) {
            Err(httparse::Error::TooManyHeaders) => {
                lines.many.resize(MAX_FIELDS, httparse::EMPTY_HEADER);
                httparse::parse_headers(bytes, &mut lines.many)
            }
            parsed => parsed,
        };
        match parsed {
            Ok(httparse::Status::Complete((_, parsed))) => Ok(Self(parsed)),
            Err(httparse::Error::TooManyHeaders) => {
                let status = Status::FieldsTooLarge;
                Err(Rejection { status, reason: "a request has at most 100 field lines" })
            }
            Ok(httparse::Status::Partial) | Err(_) => {
                Err(bad("a field line is a name, a colon at once, and a value without control characters"))
            }
        }
    }

    /// The values of all lines with that name. One that is not UTF-8 becomes a text that is valid
    /// in no field that matters here.
    fn lines(&self, name: &str) -> impl Iterator<Item = &'h str> {
        self.0
            .iter()
            .filter(move |line| line.name.eq_ignore_ascii_case(name))
            .map(|line| trim(str::from_utf8(line.value).unwrap_or("\u{fffd}")))
    }

    /// The one Host. RFC 9112 section 3.2: a server MUST answer 400 if HTTP/1.1 has none, and to
    /// more than one, and to an invalid one.
    fn host(&self, is_http_1_0: bool) -> Result<Option<&'h str>, Rejection> {
        let mut hosts = self.lines("host");
        match (hosts.next(), hosts.next()) {
            (None, _) if is_http_1_0 => Ok(None),
            (None, _) => Err(bad("HTTP/1.1 needs a Host field")),
            (Some(host), None) if is_authority(host) => Ok(Some(host)),
            (Some(_), None) => Err(bad("the Host field is not a host and a port")),
            (Some(_), Some(_)) => Err(bad("there are two Host fields")),
        }
    }

    /// How the message is framed: RFC 9112 section 6.
    fn body(&self, is_http_1_0: bool) -> Result<Body, Rejection> {
        let mut lengths = self.lines("content-length");
        let length = lengths.next();
        let mut codings = self.lines("transfer-encoding").flat_map(list_members).peekable();
        // A field that is there but empty has no members, and is no better for it.
        if self.lines("transfer-encoding").next().is_some() {
            // Section 6.3: such a message "ought to be handled as an error", for of two readers that
            // see it, one may believe the length and the other the coding.
            if length.is_some() {
                return Err(bad("Content-Length and Transfer-Encoding exclude each other"));
            }
            // Section 6.1: a server that gets one in HTTP/1.0 MUST treat the framing as faulty.
            if is_http_1_0 {
                return Err(bad("HTTP/1.0 has no Transfer-Encoding"));
            }
            return chunked(&mut codings);
        }
        match length {
            None => Ok(Body::None),
            // Section 6.3: an invalid length is an unrecoverable error, and MUST be answered with
            // 400. So are two, even equal ones: the RFC allows to repair those, we need not.
            Some(_) if lengths.next().is_some() => Err(bad("there are two Content-Length fields")),
            Some(text) => match parse_number(text) {
                Some(0) => Ok(Body::None),
                Some(_) => Ok(Body::Sized),
                None => Err(bad("the Content-Length is not a number")),
            },
        }
    }

    /// RFC 9112 section 9.3.
    fn persistent(&self, is_http_1_0: bool) -> bool {
        let has = |option: &str| {
            self.lines("connection").flat_map(list_members).any(|member| member.eq_ignore_ascii_case(option))
        };
        !has("close") && (!is_http_1_0 || has("keep-alive"))
    }
}

/// RFC 9112 section 6.3: where chunked is not the last coding, the length cannot be told, and the
/// server MUST answer 400. A coding beneath it is one we do not know: 501 (section 6.1).
fn chunked<'a>(codings: &mut impl Iterator<Item = &'a str>) -> Result<Body, Rejection> {
    let is_chunked = |coding: &&str| coding.eq_ignore_ascii_case("chunked");
    let codings: Vec<&str> = codings.collect();
    match codings.split_last() {
        Some((last, [])) if is_chunked(last) => Ok(Body::Chunked),
        Some((last, others)) if is_chunked(last) && !others.iter().any(is_chunked) => {
            let status = Status::NotImplemented;
            Err(Rejection { status, reason: "the only transfer coding known here is chunked" })
        }
        _ => Err(bad("the last transfer coding, and only the last, has to be chunked")),
    }
}

struct Target<'b> {
    authority: Option<&'b str>,
    path: Cow<'b, str>,
    query: Option<&'b str>,
}

impl<'b> Target<'b> {
    /// RFC 9112 section 3.2: the target's form depends on the method.
    fn parse(text: &'b str, method: Method) -> Result<Self, Rejection> {
        // CONNECT names an authority, OPTIONS may say `*`. Both are refused whatever they name.
        if matches!(method, Method::Known | Method::Unknown) && !text.starts_with('/') {
            return Ok(Self { authority: None, path: text.into(), query: None });
        }
        let scheme_and_rest = if text.starts_with('/') { None } else { text.split_once("://") };
        let (authority, path_and_query) = match scheme_and_rest {
            None if text.starts_with('/') => (None, text),
            // Section 3.2.2: a server MUST accept the absolute form.
            Some((scheme, rest)) if is_http(scheme) => {
                let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                // RFC 9110 section 4.2.1: an empty host is invalid here, though not in a Host field.
                if authority.is_empty() || !is_authority(authority) {
                    return Err(bad("the target's authority is not a host and a port"));
                }
                (Some(authority), path)
            }
            _ => return Err(bad("the target is neither a path nor an http URI")),
        };
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        if !is_percent_encoded(path) || !query.is_none_or(is_percent_encoded) {
            return Err(bad("a percent sign in the target is not followed by two hexadecimal digits"));
        }
        // RFC 9110 section 4.2.3: an empty path is the same as `/`.
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { authority, path: percent_decode(path), query })
    }
}

fn is_http(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

/// RFC 3986 section 3.2.2, as far as it matters: nothing gets in that could end a line, a word or
/// a URI, nor user information. An empty host is valid (section 3.2.2, and RFC 9112 section 3.2).
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let is_host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
        Some(Some(literal)) => !literal.is_empty() && literal.bytes().all(|b| HOST.has(b) || b == b':'),
        Some(None) => false,
        None => host.bytes().all(|b| HOST.has(b)),
    };
    is_host && port.bytes().all(|b| b.is_ascii_digit()) && !(host.is_empty() && text.contains(':'))
}

fn is_percent_encoded(text: &str) -> bool {
    let is_octet = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    text.split('%').skip(1).all(is_octet)
}

/// Undoes percent-encoding that was not needed, and keeps what was: `%3A` is the colon of a digest,
/// but `%2F` is a slash that separates nothing (RFC 3986 sections 2.2 and 2.3).
#[must_use]
pub fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let octet = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match octet {
            Some(octet) if octet.is_ascii_alphanumeric() || b"-._~:+".contains(&octet) => {
                decoded.push(octet.into());
                rest = &after[2..];
            }
            _ => {
                decoded.push('%');
                rest = after;
            }
        }
    }
    decoded.push_str(rest);
    decoded.into()
}

/// The members of a comma-separated list, trimmed, without empty ones (RFC 9110 section 5.6.1).
pub fn list_members(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(trim).filter(|member| !member.is_empty())
}

/// Takes optional white space, which is spaces and tabs (RFC 9110 section 5.6.3), off both ends.
/// `httparse` lets no other white space of ASCII's into a field's value.
#[must_use]
pub fn trim(value: &str) -> &str {
    value.trim_ascii()
}

/// `1*DIGIT`: no sign, no space. Too large a number is the largest there is, so that comparing
/// with it stays right.
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// A set of characters of ASCII: letters, digits and some others.
struct Characters([bool; 256]);

/// RFC 9110 section 5.6.2: `tchar`.
static TOKEN: Characters = Characters::new(b"!#$%&'*+-.^_`|~");

/// RFC 3986: unreserved and reserved characters but `#`, which begins a fragment, and `%`. Square
/// brackets belong to an IPv6 authority; in a path or query we do not insist on their encoding.
static TARGET: Characters = Characters::new(b"-._~:/?[]@!$&'()*+,;=%");

/// RFC 3986 section 3.2.2: what can stand in a `reg-name`, or in an IPv4 address.
static HOST: Characters = Characters::new(b"-._~%!$&'()*+,;=");

impl Characters {
    const fn new(others: &[u8]) -> Self {
        let mut set = [false; 256];
        let mut index = 0;
        while index < 256 {
            set[index] = (index as u8).is_ascii_alphanumeric();
            index += 1;
        }
        let mut index = 0;
        while index < others.len() {
            set[others[index] as usize] = true;
            index += 1;
        }
        Self(set)
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte)]
    }

    /// The bytes as text, if there are any and all are in the set.
    fn text<'b>(&self, bytes: &'b [u8]) -> Option<&'b str> {
        let is_text = !bytes.is_empty() && bytes.iter().all(|&byte| self.has(byte));
        str::from_utf8(bytes).ok().filter(|_| is_text)
    }
}
