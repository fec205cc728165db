//! The request parser: its grammar and its limits.
//!
//! Every case is parsed whole, byte by byte, and with other bytes after it. The outcome must be the same, because a
//! packet can end at any byte.

use quinistry::http::request::{MAX_FIELDS, MAX_HEAD, MAX_REQUEST_LINE, Method, Rejection, Request, parse};
use quinistry::http::response::Persistence;

/// The outcome of parsing, in a form that outlives the bytes.
type Outcome = Result<String, Rejection>;

/// Returns the outcome, or `None` if the request is incomplete.
fn describe(parsed: Result<Option<(Request<'_>, usize)>, Rejection>) -> Option<Outcome> {
    match parsed {
        Ok(None) => None,
        Ok(Some((request, length))) => Some(Ok(format!("{length} {request:?}"))),
        Err(rejection) => Some(Err(rejection)),
    }
}

/// Parses bytes at once, and asserts that the outcome is the same byte by byte and with more bytes after them. Returns
/// `None` if the request is incomplete.
fn outcome(bytes: &[u8]) -> Option<Outcome> {
    let whole = describe(parse(bytes));
    let by_bytes = (1..=bytes.len()).find_map(|end| describe(parse(&bytes[..end])));
    assert_eq!(by_bytes, whole, "byte by byte: {:?}", String::from_utf8_lossy(bytes));
    if whole.is_some() {
        for more in [&b"HEAD / HTTP/1.1\r\n\r\n"[..], b"\n\n", b"\x16\x03", &vec![b'x'; 2 * MAX_HEAD]] {
            let with_more = describe(parse(&[bytes, more].concat()));
            assert_eq!(with_more, whole, "with more bytes after them: {:?}", String::from_utf8_lossy(bytes));
        }
    }
    whole
}

/// Returns the status with which bytes are refused.
fn status(bytes: impl AsRef<[u8]>) -> u16 {
    match outcome(bytes.as_ref()) {
        Some(Err(rejection)) => rejection.status.code(),
        other => panic!("{:?} should be refused: {other:?}", String::from_utf8_lossy(bytes.as_ref())),
    }
}

/// Parses bytes that must be exactly one valid request.
fn accepted(bytes: &[u8]) -> Request<'_> {
    assert!(matches!(outcome(bytes), Some(Ok(_))), "{:?}: {:?}", String::from_utf8_lossy(bytes), outcome(bytes));
    let (request, length) = parse(bytes).expect("no fault").expect("complete");
    assert_eq!(length, bytes.len());
    request
}

/// Returns a request with a Host field and these field lines.
fn with_lines(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n")
}

#[test]
fn a_request_is_parsed_into_its_parts() {
    let bytes = b"GET /v2/quinistry/blobs/sha256%3Aab?n=1&m=%20 HTTP/1.1\r\nhost: localhost:8080\r\nAccept: a\r\nX:\r\nACCEPT:\t b \r\n\r\n";
    let request = accepted(bytes);
    assert_eq!((request.method, request.method_name), (Method::Get, "GET"));
    assert_eq!(request.path, "/v2/quinistry/blobs/sha256:ab");
    assert_eq!(request.query, Some("n=1&m=%20"));
    assert_eq!(request.authority, Some("localhost:8080"));
    assert_eq!(request.fields.lines("accept").collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(request.fields.lines("x").collect::<Vec<_>>(), [""]);
    assert_eq!((request.persistence, request.has_body), (Persistence::Implied, false));
}

#[test]
fn an_incomplete_request_is_neither_accepted_nor_refused() {
    let whole = b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n";
    for end in 0..whole.len() {
        assert_eq!(outcome(&whole[..end]), None, "cut at {end}");
    }
    accepted(whole);
}

#[test]
fn another_protocol_is_refused_as_soon_as_it_can_be_recognized() {
    // TLS, NUL, SOCKS, and other bytes with which no method begins.
    for bytes in [
        &b"\x16"[..],
        b"\x16\x03\x01\x02\x00\x01",
        b"\0",
        b"\x05\x01\x00",
        b" GET",
        b"\nGET",
        b"\rGET",
        b"\r\n\r\n",
        b"\x80",
    ] {
        assert_eq!(status(bytes), 400);
    }
    assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400);
    assert_eq!(status("SSH-2.0-OpenSSH_9\r\n\r\n"), 400);
}

#[test]
fn a_request_line_that_deviates_from_the_grammar_is_refused() {
    for line in [
        "GET / HTTP/1.1 ",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / ",
        "GET /",
        "GET",
        "G(T / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.10",
        "GET / HTTP/0.9",
        "GET / HTTP/1",
        "GET / HTTP/1.",
        "GET / HTTP/.1",
        "GET / HTTP/1,1",
        "GET / HTTPS/1.1",
        "GET / HTTP/1.1\rX",
        "GET /\r HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /é HTTP/1.1",
        "GET /\u{7f} HTTP/1.1",
        "GET /\" HTTP/1.1",
        "GET /< HTTP/1.1",
        "GET /\\ HTTP/1.1",
        "GET /^ HTTP/1.1",
        "GET /{ HTTP/1.1",
        "GET /| HTTP/1.1",
        "GET /#f HTTP/1.1",
        "GET * HTTP/1.1",
        "GET v2/ HTTP/1.1",
        "GET localhost:80 HTTP/1.1",
        "GET ftp://x/ HTTP/1.1",
        "GET /% HTTP/1.1",
        "GET /%4 HTTP/1.1",
        "GET /%zz HTTP/1.1",
        "GET /?%zz HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET http://:80/ HTTP/1.1",
        "GET http://u@x/ HTTP/1.1",
        "GET http://x:y/ HTTP/1.1",
        "GET http://[::1/ HTTP/1.1",
        "GET http://a%zz/v2/ HTTP/1.1",
        "GET http://[zz]/v2/ HTTP/1.1",
    ] {
        assert_eq!(status(format!("{line}\r\nHost: x\r\n\r\n")), 400, "{line}");
    }
}

#[test]
fn a_request_line_is_checked_as_soon_as_it_ends() {
    // An HTTP/0.9 client sends only this line, and then waits.
    for line in ["GET /v2/\r\n", "GET / HTTP/1.10\r\n", "SSH-2.0-OpenSSH_9\r\n"] {
        assert_eq!(status(line), 400, "{line:?}");
    }
    assert_eq!(status("GET / HTTP/2.0\r\n"), 505);
}

#[test]
fn only_http_1_x_is_accepted() {
    for version in ["2.0", "9.9", "3.0"] {
        assert_eq!(status(format!("GET / HTTP/{version}\r\nHost: x\r\n\r\n")), 505, "{version}");
    }
    for version in ["1.2", "1.9"] {
        let bytes = format!("GET / HTTP/{version}\r\nHost: x\r\n\r\n");
        let request = accepted(bytes.as_bytes());
        assert_eq!(request.persistence, Persistence::Implied);
    }
}

#[test]
fn absolute_targets_are_accepted_and_their_authority_has_precedence_over_host() {
    for (target, path, query) in [
        ("http://example.com/v2/", "/v2/", None),
        ("HTTP://example.com", "/", None),
        ("https://example.com?n=1", "/", Some("n=1")),
        ("http://example.com/v2/?n=1", "/v2/", Some("n=1")),
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: other\r\n\r\n");
        let request = accepted(bytes.as_bytes());
        assert_eq!(request.authority, Some("example.com"));
        assert_eq!((&*request.path, request.query), (path, query), "{target}");
    }
}

#[test]
fn a_request_must_have_exactly_one_valid_host() {
    for hosts in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: u@a\r\n",
        "Host: a:b\r\n",
        "Host: :80\r\n",
        "Host: [::1\r\n",
        "Host: []\r\n",
        "Host: a:80:80\r\n",
        "Host: \u{e9}\r\n",
        "Host: a,b c\r\n",
        // A percent sign without two digits.
        "Host: %\r\n",
        "Host: a%4\r\n",
        "Host: a%zz:80\r\n",
        // Not an IPv6 address.
        "Host: [zz]\r\n",
        "Host: [1]\r\n",
        "Host: [:::]\r\n",
        "Host: [1:2:3:4:5:6:7:8:9]\r\n",
        "Host: [::1]]\r\n",
        "Host: [::256.0.0.1]\r\n",
        "Host: [fe80::1%25eth0]\r\n",
        "Host: [v1.x]\r\n",
    ] {
        assert_eq!(status(format!("GET / HTTP/1.1\r\n{hosts}\r\n")), 400, "{hosts}");
    }
    for host in ["a", "a:80", "a:", "[::1]", "[::1]:5000", "127.0.0.1:1", "registry_1.local-x"].into_iter().chain([
        "%41",
        "[::]",
        "[1:2:3:4:5:6:7:8]",
        "[::ffff:192.0.2.1]",
    ]) {
        let bytes = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(accepted(bytes.as_bytes()).authority, Some(host));
    }
    assert_eq!(accepted(b"GET / HTTP/1.1\r\nHost:\r\n\r\n").authority, None);
    assert_eq!(accepted(b"GET / HTTP/1.0\r\n\r\n").authority, None);
    assert_eq!(status("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), 400);
}

#[test]
fn a_field_line_that_deviates_from_the_grammar_is_refused() {
    for line in [
        "X : y\r\n",
        " X: y\r\n",
        "\tX: y\r\n",
        "X: y\r\n z\r\n",
        "X: y\r\n\tz\r\n",
        "X\r\n",
        ": y\r\n",
        "X: a\rb\r\n",
        "X: a\0b\r\n",
        "X: a\u{7f}\r\n",
        "X(: y\r\n",
        "X\u{e9}: y\r\n",
        "X: \u{1b}[2J\r\n",
    ] {
        assert_eq!(status(with_lines(line)), 400, "{line:?}");
    }
    // RFC 9110 section 5.5: a value may have bytes beyond ASCII (obs-text).
    accepted(&[b"GET / HTTP/1.1\r\nHost: x\r\nX: ", &[0xe9][..], b"\r\n\r\n"].concat());
}

#[test]
fn a_line_that_ends_in_lf_alone_is_refused_at_once() {
    for bytes in ["GET / HTTP/1.1\n", "GET / HTTP/1.1\r\nHost: x\n", "GET / HTTP/1.1\r\nHost: x\r\n\n", "\r\nGET /\n"] {
        assert_eq!(status(bytes), 400, "{bytes:?}");
    }
}

#[test]
fn ambiguous_framing_is_refused() {
    for (lines, expected) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400),
        ("Transfer-Encoding: \r\nContent-Length: 5\r\n", 400),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", 400),
        ("Content-Length: 0\r\ncontent-length: 5\r\n", 400),
        ("Content-Length: 5, 5\r\n", 400),
        ("Content-Length: +5\r\n", 400),
        ("Content-Length: -5\r\n", 400),
        ("Content-Length: 5 5\r\n", 400),
        ("Content-Length: 0x5\r\n", 400),
        ("Content-Length: \r\n", 400),
        ("Transfer-Encoding: gzip\r\n", 400),
        ("Transfer-Encoding: chunked, gzip\r\n", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400),
        ("Transfer-Encoding: chunked, chunked\r\n", 400),
        ("Transfer-Encoding: \r\n", 400),
        ("Transfer-Encoding: \u{b}chunked\r\n", 400),
        ("Transfer-Encoding: xchunked\r\n", 400),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501),
    ] {
        assert_eq!(status(with_lines(lines)), expected, "{lines:?}");
    }
    assert_eq!(status("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    for (lines, has_body) in [
        ("", false),
        ("Content-Length: 0\r\n", false),
        ("Content-Length: 5\r\n", true),
        ("Content-Length: 99999999999999999999999999\r\n", true),
        ("Transfer-Encoding: Chunked\r\n", true),
        ("Transfer-Encoding: ,chunked ,\r\n", true),
    ] {
        let bytes = with_lines(lines);
        let request = accepted(bytes.as_bytes());
        // The content is not parsed, so the connection cannot carry another request.
        assert_eq!(request.has_body, has_body, "{lines:?}");
        assert_eq!(request.persistence == Persistence::Close, has_body, "{lines:?}");
    }
}

#[test]
fn a_connection_persists_as_its_http_version_specifies() {
    for (version, lines, persistence) in [
        ("1.1", "", Persistence::Implied),
        ("1.1", "Connection: close\r\n", Persistence::Close),
        ("1.1", "Connection: Upgrade, CLOSE\r\n", Persistence::Close),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", Persistence::Close),
        ("1.1", "Connection: closed\r\n", Persistence::Implied),
        ("1.0", "", Persistence::Close),
        ("1.0", "Connection: Keep-Alive\r\n", Persistence::Stated),
        ("1.0", "Connection: keep-alive, close\r\n", Persistence::Close),
    ] {
        let bytes = format!("GET / HTTP/{version}\r\nHost: x\r\n{lines}\r\n");
        assert_eq!(accepted(bytes.as_bytes()).persistence, persistence, "{version} {lines}");
    }
}

#[test]
fn a_request_at_a_limit_is_accepted_and_one_beyond_it_is_refused() {
    // The request line.
    let line = |length: usize| format!("GET /{} HTTP/1.1", "a".repeat(length - "GET / HTTP/1.1".len()));
    accepted(format!("{}\r\nHost: x\r\n\r\n", line(MAX_REQUEST_LINE)).as_bytes());
    assert_eq!(status(format!("{}\r\nHost: x\r\n\r\n", line(MAX_REQUEST_LINE + 1))), 414);
    for method in ["GET", "OPTIONS", "EIGHT"] {
        assert_eq!(status(format!("{method} {}", "a".repeat(MAX_REQUEST_LINE))), 414, "{method}");
    }
    for bytes in ["A".repeat(MAX_REQUEST_LINE + 2), format!("PROPFIND /{}", "a".repeat(MAX_REQUEST_LINE))] {
        assert_eq!(status(bytes), 501);
    }

    // The head.
    let head = |length: usize| with_lines(&format!("X: {}\r\n", "a".repeat(length - with_lines("X: \r\n").len())));
    accepted(head(MAX_HEAD).as_bytes());
    assert_eq!(status(head(MAX_HEAD + 1)), 431);
    assert_eq!(status(&head(MAX_HEAD + 100)[..MAX_HEAD]), 431);

    // The number of field lines, including Host.
    accepted(with_lines(&"X: y\r\n".repeat(MAX_FIELDS - 1)).as_bytes());
    assert_eq!(status(with_lines(&"X: y\r\n".repeat(MAX_FIELDS))), 431);
}

#[test]
fn the_first_error_decides_the_status() {
    // The order of the checks is: length, grammar and version, fields, Host, framing, target.
    for (bytes, expected) in [
        (format!("GET /{} HTTP/9.9\r\n\r\n", "a".repeat(MAX_REQUEST_LINE)), 414),
        ("GET * HTTP/2.0\r\nHost : x\r\n\r\n".into(), 505),
        ("GET * HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".into(), 400),
        ("GET * HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".into(), 501),
    ] {
        assert_eq!(status(bytes), expected);
    }
}

#[test]
fn methods_are_case_sensitive_and_the_parser_refuses_none() {
    for (name, method) in [
        ("HEAD", Method::Head),
        ("POST", Method::Other),
        ("TRACE", Method::Other),
        ("OPTIONS", Method::Options),
        ("get", Method::Unrecognized),
        ("M-SEARCH", Method::Unrecognized),
    ] {
        assert_eq!(accepted(format!("{name} / HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).method, method);
    }
}

#[test]
fn each_method_accepts_only_its_own_forms_of_target() {
    const METHODS: [&str; 9] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "TRACE", "CONNECT", "BREW"];
    for (target, methods) in [
        ("/a?b", &METHODS.map(|method| if method == "CONNECT" { "" } else { method })[..]),
        ("http://x/a?b", &METHODS.map(|method| if method == "CONNECT" { "" } else { method })),
        ("*", &["OPTIONS"]),
        ("x:1", &["CONNECT"]),
        ("[::1]:65535", &["CONNECT"]),
        ("*/test", &[]),
        ("x", &[]),
        ("x:", &[]),
        ("x:0", &[]),
        ("x:65536", &[]),
        (":1", &[]),
        ("u@x:1", &[]),
        ("?a", &[]),
        ("http://[/", &[]),
        ("http://x:1x/", &[]),
        ("/%zz", &[]),
    ] {
        for method in METHODS {
            let bytes = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            if methods.contains(&method) {
                assert_eq!(accepted(bytes.as_bytes()).target, target, "{method}");
            } else {
                assert_eq!(status(&bytes), 400, "{method} {target}");
            }
        }
    }
    assert_eq!(accepted(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").path, "*");
    let connect = accepted(b"CONNECT x:1 HTTP/1.1\r\nHost: y\r\n\r\n");
    assert_eq!((&*connect.path, connect.authority), ("x:1", Some("x:1")));
    assert_eq!(connect.persistence, Persistence::Close);
}

#[test]
fn a_list_member_that_is_not_utf_8_does_not_hide_the_others() {
    let with_line = |line: &[u8]| [b"GET / HTTP/1.1\r\nHost: x\r\n", line, b"\r\n\r\n"].concat();
    let close = with_line(b"Connection: \xe9, close");
    assert_eq!(accepted(&close).persistence, Persistence::Close);
    let accept = with_line(b"Accept: \xe9/x, a/b;q=0.5, \xe9");
    assert_eq!(accepted(&accept).weights(["a/b", "a/c"]), [500, 0]);
    assert_eq!(status(with_line(b"Transfer-Encoding: chunked, \xe9")), 400);
}

#[test]
fn the_most_specific_media_range_decides() {
    for (accept, weights) in [
        ("", [0, 0, 0]),
        ("*/*", [1000, 1000, 1000]),
        ("a/b;q=0, */*", [0, 1000, 1000]),
        ("*/*, A/B ; q=0", [0, 1000, 1000]),
        ("a/*;q=0.2, */*;q=0.1, a/b;q=0.3", [300, 200, 100]),
        ("a/*;q=0, */*", [0, 0, 1000]),
        ("a/b;q=0.25;x=y, a/b;x=y;Q=0.75", [750, 0, 0]),
        // An invalid weight is ignored.
        ("a/b;q=1.5, a/c;q=0.1234, d/e;q=0.12a", [1000, 1000, 1000]),
        // These are not media ranges.
        ("*, a*, a/, /*, */b, a/b*", [0, 0, 0]),
    ] {
        let bytes = with_lines(&format!("Accept: {accept}\r\n"));
        assert_eq!(accepted(bytes.as_bytes()).weights(["a/b", "a/c", "d/e"]), weights, "{accept}");
    }
}

#[test]
fn unnecessary_percent_encoding_is_decoded_and_the_rest_is_kept() {
    for (encoded, decoded) in [
        ("/v2/%71uinistry", "/v2/quinistry"),
        ("/%7Euser%2D%5F%2e", "/~user-_."),
        ("/a%2Fb%2fc", "/a%2Fb%2fc"),
        ("/%00%0d%0A%20%25%3F", "/%00%0d%0A%20%25%3F"),
        ("/%c3%a9", "/%c3%a9"),
    ] {
        let bytes = format!("GET {encoded} HTTP/1.1\r\nHost: x\r\n\r\n");
        let request = accepted(bytes.as_bytes());
        assert_eq!((&*request.path, request.target), (decoded, encoded));
    }
}
