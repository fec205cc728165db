//! Implements the grammar that the parsers of HTTP's fields and targets share.
//!
//! Documents: RFC 9110 section 5.6 (tokens, lists, white space), RFC 3986 (URIs). Where a function implements a rule of
//! a grammar, its comment states the rule in ABNF (RFC 5234, and RFC 9110 section 5.6.1 for lists).
//!
//! Deliberately absent:
//!
//! * quoted strings, except for entity tags, because no client quotes a comma or a semicolon in the other fields that
//!   this server reads;
//! * `IPvFuture`, because no such address exists.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Iterates over the trimmed members of a list, and skips empty ones (RFC 9110 section 5.6.1.2). A member that is not
/// UTF-8 becomes U+FFFD, which is invalid in every list that this server uses.
///
/// ```text
///     #element = [ element ] *( OWS "," OWS [ element ] )
///     OWS      = *( SP / HTAB )                                 ; section 5.6.3
/// ```
pub fn list_members(value: &[u8]) -> impl Iterator<Item = &str> {
    let members = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let members = members.filter(|member| !member.is_empty());
    members.map(|member| str::from_utf8(member).unwrap_or("\u{fffd}"))
}

/// Iterates over the entity tags of a list. Each item is a pair: whether the tag is weak, and the opaque tag with its
/// quotes. A comma between the quotes belongs to the tag. The iteration ends where the list violates the grammar.
///
/// ```text
///     entity-tag = [ "W/" ] opaque-tag                          ; RFC 9110 section 8.8.3, case-sensitive
///     opaque-tag = DQUOTE *etagc DQUOTE
///     etagc      = %x21 / %x23-7E / obs-text                    ; neither a space nor a quote
///     obs-text   = %x80-FF
/// ```
pub fn entity_tags(mut list: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    std::iter::from_fn(move || {
        let start = list.iter().position(|byte| !b", \t".contains(byte))?;
        let tag = list[start..].strip_prefix(b"W/").unwrap_or(&list[start..]);
        let is_weak = tag.len() < list.len() - start;
        let length = tag.strip_prefix(b"\"")?.iter().position(|byte| b"\" \t".contains(byte))?;
        let (opaque, rest) = tag.split_at("\"\"".len() + length);
        list = rest.trim_ascii_start();
        let is_valid = opaque.ends_with(b"\"") && (list.is_empty() || list.starts_with(b","));
        is_valid.then_some((is_weak, opaque))
    })
}

/// Parses a number without a sign or white space. A number that is too large becomes `u64::MAX`, so that comparisons
/// with it are still right.
///
/// ```text
///     1*DIGIT
/// ```
pub fn parse_number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Returns whether the text is a host with or without a port, but without user information.
///
/// ```text
///     Host       = uri-host [ ":" port ]                        ; RFC 9110 section 7.2
///     uri-host   = "[" IPv6address "]" / IPv4address / reg-name ; RFC 3986 section 3.2.2
///     reg-name   = *( unreserved / pct-encoded / sub-delims )   ; which may be empty
///     port       = *DIGIT
/// ```
///
/// An empty host is accepted only without a colon: `:80` is refused, although the grammar allows it.
pub fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
        None => host.bytes().all(is_of_host) && is_percent_encoded(host),
    };
    is_host && port.bytes().all(|byte| byte.is_ascii_digit()) && !(host.is_empty() && text.contains(':'))
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'$'..=b'.' | b';' | b'=' | b'_' | b'~')
}

/// Returns whether two hexadecimal digits follow every percent sign.
///
/// ```text
///     pct-encoded = "%" HEXDIG HEXDIG                           ; RFC 3986 section 2.1
/// ```
pub fn is_percent_encoded(text: &str) -> bool {
    let is_octet = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    text.match_indices('%').all(|(at, _)| is_octet(&text[at + 1..]))
}

/// The characters, apart from letters and digits, that are decoded in a path: `-._~`, which are unreserved (RFC 3986
/// section 2.3), and `:` and `+`, which are reserved, but separate nothing in the paths of this registry. `/` is not
/// decoded, because `%2F` is data and not a separator.
pub const PLAIN_IN_PATH: &[u8] = b"-._~:+";

/// The characters, apart from letters and digits, that are decoded in a query: those of a path, and `/`, which
/// separates nothing in a query (RFC 3986 section 3.4).
pub const PLAIN_IN_QUERY: &[u8] = b"-._~:+/";

/// Decodes percent-encoded letters, digits and characters of `plain`, such as the colon of a digest. All other text
/// stays as it is.
pub fn percent_decode<'a>(text: &'a str, plain: &[u8]) -> Cow<'a, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut parts = text.split('%');
    let mut decoded = Cow::from(parts.next().unwrap_or_default());
    for part in parts {
        let octet = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(octet) = octet.filter(|octet| octet.is_ascii_alphanumeric() || plain.contains(octet)) {
            decoded.to_mut().push(octet.into());
            decoded += &part[2..];
        } else {
            decoded += "%";
            decoded += part;
        }
    }
    decoded
}

/// Returns whether the text is a token, such as a method or a field's name.
///
/// ```text
///     token = 1*tchar                                           ; RFC 9110 section 5.6.2
/// ```
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// Returns whether the byte is a character of a token.
///
/// ```text
///     tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" / "`" / "|" / "~"
///           / DIGIT / ALPHA
/// ```
pub fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// Returns whether the text consists of the characters of a request target: RFC 3986's reserved and unreserved
/// characters and `%`, without `#`, which begins a fragment. The RFC allows square brackets only in an IPv6 authority,
/// but a client that leaves them unencoded in a path or query is understood nevertheless.
pub fn is_target(text: &str) -> bool {
    let is_of_target = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'!' | b'$'..=b'/' | b':' | b';' | b'=' | b'?' | b'@' | b'[' | b']' | b'_' | b'~')
    };
    !text.is_empty() && text.bytes().all(is_of_target)
}
