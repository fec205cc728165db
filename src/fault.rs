//! Makes some responses wrong, by rules, so that people can test clients.
//!
//! Documents: OCI distribution-spec 1.1, "Error Codes"; RFC 9110; RFC 6750 and CNCF Distribution's "Token
//! Authentication Specification" for `auth`.
//!
//! ```text
//!     rules    = rule *( space rule )               any=503@first:1 layer=cut@first:2
//!     rule     = WHERE "=" WHAT [ "@" WHEN ]
//!     WHERE    = a name in PLACES                   the responses to make wrong
//!     WHAT     = a name of Fault [ ":" number ]     the fault of these responses
//!     WHEN     = "first:" number / "every:" number  which of these responses (all, if absent)
//!              / "always"
//!     number   = 1*DIGIT [ "k" ]
//! ```
//!
//! A rule applies only to a response that is not an error (its status is below 400), and only if its fault changes the
//! response. For example, `cut` never applies to a response without content. The first rule that applies makes the
//! response wrong. A rule counts each response that reaches the rule and that its fault can change. So
//! `layer=503@first:1 layer=cut@first:1` means a 503, then half of a layer, and then whole layers. Nothing is random.
//!
//! A response with a fault has another status, other fields or other content. Some faults also decide whether the
//! connection persists (see [`persistence`]), `reset` also changes how the connection is closed, and `slow` is an
//! option of the listening socket.
//!
//! Limits: none of its own.
//!
//! Deliberately absent: faults of `/`, `/healthz` and `/metrics`, by which people watch the server; TLS; and a second
//! host, so that `redirect` and `auth` lead to this server.

use std::borrow::Cow;

use crate::clock::Clock;
use crate::http::request::{Method, Request};
use crate::http::response::{Content, Persistence, Response, Status};
use crate::http::syntax::parse_number;
use crate::image::gzip;
use crate::kinds::{Fault, RequestKind};
use crate::metrics::{Metrics, Vitals};
use crate::registry::{BLOB_UNKNOWN, DENIED, MANIFEST_UNKNOWN, NAME_UNKNOWN, Registry, Served, error};

/// The names that WHERE may have, and the kinds of requests that each name stands for.
pub const PLACES: [(&str, &[RequestKind]); 9] = [
    ("base", &[RequestKind::Base]),
    ("index", &[RequestKind::Index, RequestKind::DockerList]),
    ("manifest", &[RequestKind::Manifest, RequestKind::DockerManifest]),
    ("config", &[RequestKind::Config]),
    ("layer", &[RequestKind::Layer]),
    ("blob", &[RequestKind::Config, RequestKind::Layer]),
    ("tags", &[RequestKind::Tags]),
    ("referrers", &[RequestKind::Referrers, RequestKind::Artifact]),
    ("any", &ANY),
];

/// All kinds of requests under `/v2` whose response can be a success, except OPTIONS, which only browsers send.
const ANY: [RequestKind; 11] = [
    RequestKind::Base,
    RequestKind::Catalog,
    RequestKind::Tags,
    RequestKind::Referrers,
    RequestKind::Artifact,
    RequestKind::Index,
    RequestKind::DockerList,
    RequestKind::Manifest,
    RequestKind::DockerManifest,
    RequestKind::Config,
    RequestKind::Layer,
];

/// The path at which `auth` requires a client to request a token.
const TOKEN_PATH: &str = "/token";

/// The parameter that `redirect` adds to the query.
const REDIRECTED: &str = "redirected";

/// The digest that `wrong-digest` sends. It is well-formed, but no served content has it.
const WRONG_DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// The header of a layer after `flip`. Its last byte, which names the operating system, is wrong (RFC 1952 section
/// 2.3.1). A client can still unpack the layer, and only the digest of the layer is wrong.
static FLIPPED: [u8; gzip::HEADER.len()] = {
    let mut header = gzip::HEADER;
    header[gzip::HEADER.len() - 1] ^= 1;
    header
};

/// The text of `--help` about the rules.
pub const HELP: &str = include_str!("fault.txt");

/// Which of the counted responses a rule changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    First(u64),
    Every(u64),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Rule {
    kinds: &'static [RequestKind],
    fault: Fault,
    number: Option<u64>,
    when: When,
    /// The number of responses that have reached the rule and that its fault can change.
    reached: u64,
}

impl Rule {
    /// Parses a rule. The error is the name and the text of the invalid element.
    fn parse(text: &str) -> Result<Self, (&'static str, &str)> {
        let (place, rest) = text.split_once('=').unwrap_or((text, ""));
        let (what, when) = rest.split_once('@').unwrap_or((rest, "always"));
        let (_, kinds) = PLACES.iter().find(|(name, _)| *name == place).ok_or(("WHERE", place))?;
        let (name, number) = parse_term(what).ok_or(("WHAT", what))?;
        let fault = *Fault::ALL.iter().find(|fault| fault.name() == name).ok_or(("WHAT", what))?;
        let has_right_number = match fault {
            Fault::Slow => number.is_some(),
            Fault::TooManyRequests | Fault::ServiceUnavailable => true,
            _ => number.is_none(),
        };
        if !has_right_number {
            return Err(("WHAT", what));
        }
        let when = match parse_term(when) {
            Some(("first", Some(count))) => When::First(count),
            Some(("every", Some(count))) => When::Every(count),
            Some(("always", None)) => When::Every(1),
            _ => return Err(("WHEN", when)),
        };
        // All connections have the same rate, at all times.
        if fault == Fault::Slow && (place, when) != ("any", When::Every(1)) {
            return Err(("a rule of slow", text));
        }
        Ok(Self { kinds, fault, number, when, reached: 0 })
    }

    /// Counts a response, and returns whether the rule applies to this response.
    fn applies(&mut self) -> bool {
        self.reached += 1;
        match self.when {
            When::First(count) => self.reached <= count,
            When::Every(count) => self.reached.is_multiple_of(count),
        }
    }
}

/// Parses a word that a number may follow.
fn parse_term(text: &str) -> Option<(&str, Option<u64>)> {
    match text.split_once(':') {
        Some((word, number)) => Some((word, Some(parse_count(number)?))),
        None => Some((text, None)),
    }
}

/// Parses a number that is at least 1. The suffix `k` multiplies the number by 1024.
fn parse_count(text: &str) -> Option<u64> {
    let (digits, unit) = text.strip_suffix('k').map_or((text, 1), |digits| (digits, 1024));
    parse_number(digits)?.checked_mul(unit).filter(|count| *count > 0)
}

/// The rules that make responses wrong.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Faults {
    rules: Vec<Rule>,
    /// The text of each rule, and the number of responses that the rule has changed, for the metrics.
    pub counts: Vec<(String, u64)>,
}

impl Faults {
    /// Adds rules that are separated by spaces.
    ///
    /// # Errors
    ///
    /// If a rule is invalid or occurs twice, or if a second rule limits the rate. The error is a message.
    pub fn add(&mut self, rules: &str) -> Result<(), String> {
        for text in rules.split_ascii_whitespace() {
            let rule = Rule::parse(text)
                .map_err(|(element, text)| format!("{element} cannot be {text:?}\n\n{HELP}"))?;
            // Two equal rules would have one name in the metrics, and all connections have one rate.
            let is_second_rate = rule.fault == Fault::Slow && self.rate().is_some();
            if is_second_rate || self.counts.iter().any(|(other, _)| other == text) {
                return Err(format!("there is already a rule like {text}"));
            }
            self.rules.push(rule);
            self.counts.push((text.to_owned(), 0));
        }
        Ok(())
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns the number of bytes that a connection may send in a second, if a rule limits this number.
    pub fn rate(&self) -> Option<u64> {
        self.rules.iter().find(|rule| rule.fault == Fault::Slow)?.number
    }

    /// Responds to a request, with a fault if a rule applies. The last three arguments are those of [`Vitals`].
    pub fn respond<'r>(
        &mut self,
        registry: &'r Registry,
        request: &Request<'_>,
        metrics: &Metrics,
        clock: &Clock,
        dropped_lines: u64,
    ) -> Served<'r> {
        let Self { rules, counts } = self;
        let mut served = registry.respond(request, &Vitals { metrics, clock, dropped_lines, faults: counts });
        if served.response.status.is_error() {
            let has_tokens = rules.iter().any(|rule| rule.fault == Fault::Auth);
            let is_token = has_tokens && request.method == Method::Get && request.path == TOKEN_PATH;
            return if is_token { token() } else { served };
        }
        for (rule, (_, count)) in rules.iter_mut().zip(counts) {
            let wrong = spoil(served.response.clone(), request, rule, registry);
            if rule.kinds.contains(&served.kind) && wrong != served.response && rule.applies() {
                (served.response, served.fault) = (wrong, Some(rule.fault));
                *count += 1;
                break;
            }
        }
        served
    }
}

/// Returns whether the connection persists after a response. `wanted` applies if the fault does not decide.
pub fn persistence(fault: Option<Fault>, wanted: Persistence) -> Persistence {
    match fault {
        // The client waits for the other half, and the server for the next request. The connection stays open even if
        // the client asked to close it, because closing would make the stall a `cut`.
        Some(Fault::Stall) => Persistence::Implied,
        Some(Fault::Cut | Fault::Reset | Fault::NoLength) => Persistence::Close,
        _ => wanted,
    }
}

/// Applies the fault of a rule to a right response. The response stays as it is if the fault cannot change it.
fn spoil<'r>(
    mut response: Response<'r>,
    request: &Request<'_>,
    rule: &Rule,
    registry: &'r Registry,
) -> Response<'r> {
    match rule.fault {
        // Content that follows a request is not read, so the connection must end after the response.
        Fault::Stall if request.has_body => {}
        Fault::Cut | Fault::Stall | Fault::Reset => {
            let half = response.content.len() / 2;
            response.content = response.content.slice(0..half);
        }
        Fault::Flip => flip(&mut response.content),
        Fault::WrongDigest => return response.replace("Docker-Content-Digest", WRONG_DIGEST),
        Fault::WrongType => return response.replace("Content-Type", "text/html"),
        Fault::NoLength => return response.without(&["Content-Length"]),
        Fault::Auth if request.field_lines("authorization").any(is_bearer) => {}
        Fault::Redirect if request.parameter(REDIRECTED).is_some() => {}
        Fault::NoRange if response.status == Status::PartialContent => {
            return registry.whole(request).unwrap_or(response);
        }
        Fault::NoRange | Fault::Slow => {}
        _ => return refusal(rule, request),
    }
    response
}

/// Changes a byte: the middle one of a document, or the last one of the header of a layer.
fn flip(content: &mut Content<'_>) {
    let Content { bytes, part } = content;
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get(middle) {
        let flipped = byte ^ 1;
        bytes.to_mut()[middle] = flipped;
    } else if part.range.contains(&(FLIPPED.len() as u64 - 1)) {
        *bytes = Cow::Borrowed(&FLIPPED[part.range.start as usize..]);
        part.range.start = FLIPPED.len() as u64;
    }
}

/// Whether credentials are a token. RFC 9110 section 11.1: the name of a scheme is case-insensitive.
fn is_bearer(credentials: &str) -> bool {
    credentials.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer "))
}

/// Returns the response of a registry, or of a gateway in front of it, that redirects or refuses the client.
fn refusal(rule: &Rule, request: &Request<'_>) -> Response<'static> {
    let path = &*request.path;
    let (status, code) = match rule.fault {
        Fault::Forbidden => (Status::Forbidden, DENIED),
        Fault::NotFound if path.contains("/blobs/") => (Status::NotFound, BLOB_UNKNOWN),
        Fault::NotFound if path.contains("/manifests/") => (Status::NotFound, MANIFEST_UNKNOWN),
        Fault::NotFound => (Status::NotFound, NAME_UNKNOWN),
        Fault::TooManyRequests => (Status::TooManyRequests, "TOOMANYREQUESTS"),
        // Field note: the specification does not list the next two codes. The reference implementation has them.
        Fault::InternalServerError => (Status::InternalServerError, "UNKNOWN"),
        Fault::ServiceUnavailable => (Status::ServiceUnavailable, "UNAVAILABLE"),
        // A gateway does not know the registry's error codes.
        Fault::BadGateway => (Status::BadGateway, ""),
        Fault::GatewayTimeout => (Status::GatewayTimeout, ""),
        Fault::Redirect => (Status::TemporaryRedirect, ""),
        _ => (Status::Unauthorized, "UNAUTHORIZED"),
    };
    let phrase = status.reason_phrase();
    let mut response = match code {
        // Errors of nginx have this form.
        "" => Response::generated(status, "text/html", format!("<html><h1>{phrase}</h1></html>\n").into()),
        code => error(status, code, phrase, path),
    };
    if let Some((name, value)) = field_of_refusal(rule, request) {
        response = response.with(name, &value);
    }
    if request.method == Method::Head {
        // RFC 9110 section 9.3.2: MUST NOT send content.
        response.content = Content::NONE;
    }
    response
}

/// Returns the field that tells the client what to do next.
fn field_of_refusal(rule: &Rule, request: &Request<'_>) -> Option<(&'static str, String)> {
    match rule.fault {
        // RFC 9110 section 15.5.2: MUST send a challenge with 401.
        Fault::Unauthorized => Some(("WWW-Authenticate", "Basic realm=\"quinistry\"".into())),
        // RFC 6750 section 3. The host is the one that the request names, and no host has a quotation mark.
        Fault::Auth => {
            let host = request.authority.unwrap_or("localhost:8080");
            let parameters = "service=\"quinistry\",scope=\"repository:quinistry:pull\"";
            let value = format!("Bearer realm=\"http://{host}{TOKEN_PATH}\",{parameters}");
            Some(("WWW-Authenticate", value))
        }
        // RFC 9110 section 10.2.2: the reference may be relative.
        Fault::Redirect => {
            let separator = if request.query.is_some() { "&" } else { "?" };
            Some(("Location", format!("{}{separator}{REDIRECTED}", request.target)))
        }
        _ => Some(("Retry-After", rule.number?.to_string())),
    }
}

/// Returns a token for any client. Field note: some clients use POST first, and use GET after the 405.
fn token() -> Served<'static> {
    let content = b"{\"token\":\"quinistry\"}".to_vec();
    let response = Response::generated(Status::Ok, "application/json", content);
    Served::new(RequestKind::Token, response.with("Cache-Control", "no-store"))
}
