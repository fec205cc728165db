//! Makes some responses wrong, by rules, so that people can test clients.
//!
//! Documents: OCI distribution-spec 1.1, "Error Codes"; RFC 9110; RFC 6750 and CNCF Distribution's "Token
//! Authentication Specification" for `auth`.
//!
//! ```text
//!     rules    = rule *( space rule )               any=503@first:1 layer=cut@first:2
//!     rule     = WHERE "=" WHAT [ "@" WHEN ]
//!     WHERE    = a name in PLACES                   the responses to make wrong
//!     WHAT     = a name in FAULTS [ ":" number ]    the fault of these responses
//!     WHEN     = "first:" number / "every:" number  which of these responses (all, if absent)
//!              / "always"
//!     number   = 1*DIGIT [ "k" ]
//! ```
//!
//! A rule applies only to a response that is not an error (its status is below 400), and only if its fault changes the
//! response. For example, `cut` never applies to a response without content. The first rule that applies makes the
//! response wrong. Because a rule counts only the responses that reach it and that its fault can change,
//! `layer=503@first:1 layer=cut@first:1` means a 503, then half of a layer, and then whole layers. Nothing is random.
//!
//! A response with a fault has another status, other fields or other content. Some faults also decide what becomes of
//! the connection: whether it persists (see [`persistence`]) or, for `reset`, how it is closed. `slow` is different: it
//! changes no response and is not counted, because it is an option of the listening socket.
//!
//! Deliberately absent:
//!
//! * faults of `/`, `/healthz` and `/metrics`, which people use to watch the server;
//! * TLS;
//! * a second host, because `redirect` and `auth` lead back to this server.

use std::borrow::Cow;

use crate::http::request::{Method, Request};
use crate::http::response::{Content, Persistence, Response, Status};
use crate::http::syntax::parse_number;
use crate::image::gzip;
use crate::kinds::RequestKind;
use crate::registry::{JSON, NO_STORE, Registry, Served, error, generated};

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

/// All kinds of requests under `/v2` whose response can be a success, except OPTIONS, which only browsers send there.
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

/// A way to make a response wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A registry, or a gateway in front of it, refuses the request with this status.
    Status(Status),
    /// The connection ends after half of the content.
    Cut,
    /// The second half of the content is never sent, although the connection stays open for another request.
    Stall,
    /// The connection is reset within the content.
    Reset,
    /// A byte of the content is wrong.
    Flip,
    /// Docker-Content-Digest is wrong.
    WrongDigest,
    /// Content-Type is wrong.
    WrongType,
    /// Content-Length is missing, so the end of the connection ends the content.
    NoLength,
    /// Range is ignored.
    NoRange,
    /// The content is at another URL.
    Redirect,
    /// The client needs a token.
    Auth,
    /// Every connection sends at a limited rate.
    Slow,
}

/// The names that WHAT may have.
pub const FAULTS: [(&str, Fault); 19] = [
    ("401", Fault::Status(Status::Unauthorized)),
    ("403", Fault::Status(Status::Forbidden)),
    ("404", Fault::Status(Status::NotFound)),
    ("429", Fault::Status(Status::TooManyRequests)),
    ("500", Fault::Status(Status::InternalServerError)),
    ("502", Fault::Status(Status::BadGateway)),
    ("503", Fault::Status(Status::ServiceUnavailable)),
    ("504", Fault::Status(Status::GatewayTimeout)),
    ("cut", Fault::Cut),
    ("stall", Fault::Stall),
    ("reset", Fault::Reset),
    ("flip", Fault::Flip),
    ("wrong-digest", Fault::WrongDigest),
    ("wrong-type", Fault::WrongType),
    ("no-length", Fault::NoLength),
    ("no-range", Fault::NoRange),
    ("redirect", Fault::Redirect),
    ("auth", Fault::Auth),
    ("slow", Fault::Slow),
];

impl Fault {
    /// Returns the name of the fault, for the log.
    pub fn name(self) -> &'static str {
        FAULTS.iter().find(|(_, fault)| *fault == self).map_or("", |(name, _)| name)
    }
}

/// The path at which `auth` requires a client to request a token.
const TOKEN_PATH: &str = "/token";

/// The parameter that `redirect` adds to the query.
const REDIRECTED: &str = "redirected";

/// The digest that `wrong-digest` sends, which is well-formed, but belongs to no served content.
const WRONG_DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// The header of a layer after `flip`. Its last byte, which names the operating system, is wrong (RFC 1952 section
/// 2.3.1), so that a client can still unpack the layer, and only the layer's digest is wrong.
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
        let &(_, fault) = FAULTS.iter().find(|(other, _)| *other == name).ok_or(("WHAT", what))?;
        let has_right_number = match fault {
            Fault::Slow => number.is_some(),
            Fault::Status(Status::TooManyRequests | Status::ServiceUnavailable) => true,
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
        // Because the rate is an option of the listener, it cannot depend on the request.
        if fault == Fault::Slow && (place, when) != ("any", When::Every(1)) {
            return Err(("a rule with slow", text));
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

/// Parses a number that is at least 1, which the suffix `k` multiplies by 1024.
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
    /// Fails if a rule is invalid or occurs twice, or if a second rule limits the rate. The error is a message.
    pub fn add(&mut self, rules: &str) -> Result<(), String> {
        for text in rules.split_ascii_whitespace() {
            let rule =
                Rule::parse(text).map_err(|(element, text)| format!("{element} cannot be {text:?}\n\n{HELP}"))?;
            // Two equal rules would have the same name in the metrics, and there can be only one rate, because all
            // connections share it.
            let is_second_rate = rule.fault == Fault::Slow && self.rate().is_some();
            if is_second_rate || self.counts.iter().any(|(other, _)| other == text) {
                return Err(format!("there is already a rule like {text}"));
            }
            self.rules.push(rule);
            self.counts.push((text.to_owned(), 0));
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns the number of bytes that a connection may send in a second, if a rule limits this number.
    pub fn rate(&self) -> Option<u64> {
        self.rules.iter().find(|rule| rule.fault == Fault::Slow)?.number
    }

    /// Makes a response wrong if a rule applies. If there is a rule with `auth`, also replaces the error for a GET of
    /// `/token` with a token. Returns the response and its fault.
    pub fn apply<'r>(
        &mut self,
        served: Served<'r>,
        request: &Request<'_>,
        registry: &'r Registry,
    ) -> (Served<'r>, Option<Fault>) {
        if served.response.status.is_error() {
            let has_tokens = self.rules.iter().any(|rule| rule.fault == Fault::Auth);
            let is_token = has_tokens && request.method == Method::Get && request.path == TOKEN_PATH;
            return (if is_token { token() } else { served }, None);
        }
        for (rule, (_, count)) in self.rules.iter_mut().zip(&mut self.counts) {
            if rule.kinds.contains(&served.kind) {
                let wrong = spoil(served.response.clone(), request, rule, registry);
                if wrong != served.response && rule.applies() {
                    *count += 1;
                    return (Served::new(served.kind, wrong), Some(rule.fault));
                }
            }
        }
        (served, None)
    }
}

/// Returns whether the connection persists after a response: as `wanted`, unless the fault decides otherwise.
pub fn persistence(fault: Option<Fault>, wanted: Persistence) -> Persistence {
    match fault {
        // The client waits for the other half, while the server waits for the next request. The connection stays open
        // even if the client asked to close it, because closing would turn the stall into a `cut`.
        Some(Fault::Stall) => Persistence::Implied,
        Some(Fault::Cut | Fault::Reset | Fault::NoLength) => Persistence::Close,
        _ => wanted,
    }
}

/// Applies the fault of a rule to a correct response. Returns the response unchanged if the fault cannot change it.
fn spoil<'r>(mut response: Response<'r>, request: &Request<'_>, rule: &Rule, registry: &'r Registry) -> Response<'r> {
    match rule.fault {
        // Content that follows a request is not read, so the connection must end after the response and cannot stall.
        Fault::Stall if request.has_body => {}
        Fault::Cut | Fault::Stall | Fault::Reset => {
            let half = response.content.len() / 2;
            response.content = response.content.slice(0..half);
        }
        Fault::Flip => flip(&mut response.content),
        Fault::WrongDigest => return response.replace("Docker-Content-Digest", WRONG_DIGEST),
        Fault::WrongType => return response.replace("Content-Type", "text/html"),
        Fault::NoLength => return response.without(&["Content-Length"]),
        Fault::NoRange if response.status == Status::PartialContent => {
            return registry.respond(request).response;
        }
        Fault::NoRange | Fault::Slow => {}
        // RFC 9110 section 15.5.2: MUST send a challenge with 401.
        Fault::Status(Status::Unauthorized) => {
            let challenge = "Basic realm=\"quinistry\"".to_owned();
            return refusal(request, Status::Unauthorized, Some(("WWW-Authenticate", challenge)));
        }
        Fault::Status(status) => {
            let field = rule.number.map(|seconds| ("Retry-After", seconds.to_string()));
            return refusal(request, status, field);
        }
        Fault::Auth if request.fields.lines("authorization").any(is_bearer) => {}
        // RFC 6750 section 3. The realm names the host of the request, which cannot contain a quotation mark.
        Fault::Auth => {
            let host = request.authority.unwrap_or("localhost:8080");
            let parameters = "service=\"quinistry\",scope=\"repository:quinistry:pull\"";
            let challenge = format!("Bearer realm=\"http://{host}{TOKEN_PATH}\",{parameters}");
            return refusal(request, Status::Unauthorized, Some(("WWW-Authenticate", challenge)));
        }
        Fault::Redirect if request.parameter(REDIRECTED).is_some() => {}
        // RFC 9110 section 10.2.2: the reference may be relative.
        Fault::Redirect => {
            let separator = if request.query.is_some() { "&" } else { "?" };
            let location = format!("{}{separator}{REDIRECTED}", request.target);
            return refusal(request, Status::TemporaryRedirect, Some(("Location", location)));
        }
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

/// Returns whether credentials are a token. RFC 9110 section 11.1: the name of a scheme is case-insensitive.
fn is_bearer(credentials: &str) -> bool {
    credentials.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer "))
}

/// Returns a response that refuses or redirects the client, as a registry or a gateway in front of it would send it.
/// `field` says what the client can do next.
fn refusal(request: &Request<'_>, status: Status, field: Option<(&'static str, String)>) -> Response<'static> {
    let path = &*request.path;
    let code = match status {
        Status::Unauthorized => "UNAUTHORIZED",
        Status::Forbidden => "DENIED",
        Status::NotFound if path.contains("/blobs/") => "BLOB_UNKNOWN",
        Status::NotFound if path.contains("/manifests/") => "MANIFEST_UNKNOWN",
        Status::NotFound => "NAME_UNKNOWN",
        Status::TooManyRequests => "TOOMANYREQUESTS",
        // Field note: the reference implementation has the next two codes, which the specification does not list.
        Status::InternalServerError => "UNKNOWN",
        Status::ServiceUnavailable => "UNAVAILABLE",
        // A gateway does not know the registry's error codes.
        _ => "",
    };
    let phrase = status.reason_phrase();
    let mut response = match code {
        // Errors of nginx have this form.
        "" => Response::generated(status, "text/html", format!("<html><h1>{phrase}</h1></html>\n").into()),
        code => error(status, code, phrase, path),
    };
    if let Some((name, value)) = field {
        response = response.with(name, &value);
    }
    if request.method == Method::Head { response.without_content() } else { response }
}

/// Returns a token for any client. Field note: some clients use POST first, and use GET after the 405.
fn token() -> Served<'static> {
    let content = b"{\"token\":\"quinistry\"}".to_vec();
    Served::new(RequestKind::Token, generated(Status::Ok, JSON, NO_STORE, content))
}
