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
//! A rule applies only to a success, and only if its fault changes the response. For example, `cut` never applies to a
//! response without content. The first rule that applies makes the response wrong. A rule counts each response that
//! reaches the rule and that its fault can change. So `layer=503@first:1 layer=cut@first:1` means a 503, then half of a
//! layer, and then whole layers. Nothing is random.
//!
//! A response with a fault has another status, other fields or other content. Four faults also affect the connection
//! (see [`persistence`]). `flip` needs a copy of each layer in which a byte is wrong. The server makes these copies
//! when it starts, and `slow` is an option of the listening socket, so this module makes no system call.
//!
//! Limits: none of its own.
//!
//! Deliberately absent: faults of `/`, `/healthz` and `/metrics`, by which people watch the server; TLS; and a second
//! host, so that `redirect` and `auth` lead to this server.

use std::fmt;

use crate::http::request::{Method, Request};
use crate::http::response::{Content, Persistence, Response, Status};
use crate::http::syntax::parse_number;
use crate::kinds::{Fault, RequestKind};
use crate::metrics::Vitals;
use crate::registry::{
    BLOB_UNKNOWN, DENIED, MANIFEST_UNKNOWN, NAME_UNKNOWN, Registry, Served, UNSUPPORTED, error,
};

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
    // All but those of UNTOUCHED.
    ("any", &[]),
];

/// The kinds of requests whose responses stay right: people watch the server by them, or browsers use them.
const UNTOUCHED: [RequestKind; 5] = [
    RequestKind::Welcome,
    RequestKind::Health,
    RequestKind::Metrics,
    RequestKind::Options,
    RequestKind::Token,
];

/// The path at which `auth` requires a client to request a token.
const TOKEN_PATH: &str = "/token";

/// The parameter that `redirect` adds to the query.
const REDIRECTED: &str = "redirected";

/// The digest that `wrong-digest` sends. It is well-formed, but no served content has it.
const WRONG_DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// The byte of a layer that `flip` changes: the byte of gzip's header that names the operating system (RFC 1952 section
/// 2.3.1). A client can still unpack the layer, and only the digest of the layer is wrong.
pub const FLIPPED: u64 = 9;

/// The text of `--help` about the rules.
pub const HELP: &str = "
Rules of --fault, WHERE=WHAT or WHERE=WHAT@WHEN:
  WHERE  base index manifest config layer blob tags referrers any
  WHAT   401 403 404 429 500 502 503 504: this status; 429:2 and 503:2 with Retry-After: 2
         cut stall reset: up to half of the content, then the end, nothing, a reset
         flip: a wrong byte; wrong-digest wrong-type no-length: a field is wrong or missing
         no-range: all instead of a part; redirect: 307; auth: 401 until there is a token
         slow:64k: so many bytes per second; WHERE is any
  WHEN   first:2 every:3 always, which is the default
";

/// Which of the counted responses a rule changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    Always,
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

/// The invalid element of a rule: its name in [`HELP`], and its text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong(&'static str, String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(part, text) = self;
        write!(f, "{part} cannot be {text:?}\n{HELP}")
    }
}

impl Rule {
    /// Parses a rule. The error is the name and the text of the invalid element.
    fn parse(text: &str) -> Result<Self, (&'static str, &str)> {
        let (place, rest) = split(text, '=');
        let (what, when) = split(rest.unwrap_or_default(), '@');
        let (name, number) = split(what, ':');
        let found = PLACES.iter().find(|(other, _)| *other == place);
        let (_, kinds) = found.ok_or(("WHERE", place))?;
        let fault = *Fault::ALL.iter().find(|fault| fault.name() == name).ok_or(("WHAT", name))?;
        let may_have_number =
            matches!(fault, Fault::TooManyRequests | Fault::ServiceUnavailable | Fault::Slow);
        let must_have_number = fault == Fault::Slow || number.is_some();
        let number = number.and_then(parse_count).filter(|_| may_have_number);
        if must_have_number && number.is_none() {
            return Err(("WHAT", what));
        }
        // `slow` applies to all responses, at all times. A response without a digest has no ranges.
        let is_impossible = match fault {
            Fault::Slow => place != "any" || when.is_some(),
            Fault::WrongDigest | Fault::NoRange => matches!(place, "base" | "tags"),
            _ => false,
        };
        if is_impossible {
            return Err(("WHERE=WHAT@WHEN", text));
        }
        let when = when.map_or(Some(When::Always), parse_when).ok_or(("WHEN", when.unwrap_or_default()))?;
        Ok(Self { kinds, fault, number, when, reached: 0 })
    }

    /// Whether the rule is about requests of this kind.
    fn covers(&self, kind: RequestKind) -> bool {
        self.kinds.contains(&kind) || self.kinds.is_empty() && !UNTOUCHED.contains(&kind)
    }

    /// Counts a response, and returns whether the rule applies to this response.
    fn applies(&mut self) -> bool {
        self.reached += 1;
        match self.when {
            When::Always => true,
            When::First(count) => self.reached <= count,
            When::Every(count) => self.reached.is_multiple_of(count),
        }
    }
}

fn parse_when(text: &str) -> Option<When> {
    let (word, count) = split(text, ':');
    match (word, count.and_then(parse_count)) {
        ("first", Some(count)) => Some(When::First(count)),
        ("every", Some(count)) => Some(When::Every(count)),
        _ => (text == "always").then_some(When::Always),
    }
}

/// Splits a text at the first separator, if the text has one.
fn split(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator).map_or((text, None), |(before, behind)| (before, Some(behind)))
}

/// Parses a number that is at least 1. The suffix `k` multiplies the number by 1024.
fn parse_count(text: &str) -> Option<u64> {
    let (digits, unit) = text.strip_suffix('k').map_or((text, 1), |digits| (digits, 1024));
    parse_number(digits)?.checked_mul(unit).filter(|count| *count > 0)
}

/// Returns whether the connection persists after a response. `wanted` applies if the fault does not decide.
pub fn persistence(fault: Option<Fault>, wanted: Persistence) -> Persistence {
    match fault {
        // The connection stays open even if the client asked to close it, because closing would make the stall a `cut`.
        Some(Fault::Stall) => Persistence::Implied,
        Some(Fault::Cut | Fault::Reset | Fault::NoLength) => Persistence::Close,
        _ => wanted,
    }
}

/// The rules that make responses wrong.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Faults {
    rules: Vec<Rule>,
    /// The text of each rule, and the number of responses that the rule has changed, for the metrics.
    pub counts: Vec<(String, u64)>,
    /// The number of layers. If [`Faults::flips`], the transport has a copy of each layer behind all the layers, and in
    /// each copy the byte [`FLIPPED`] is wrong.
    pub layers: usize,
}

impl Faults {
    /// Adds rules that are separated by spaces.
    ///
    /// # Errors
    ///
    /// If a rule is invalid or occurs twice, or if a second rule limits the rate.
    pub fn add(&mut self, rules: &str) -> Result<(), Wrong> {
        for text in rules.split(' ').filter(|text| !text.is_empty()) {
            let rule = match Rule::parse(text) {
                // A connection has only one rate.
                Ok(rule) if rule.fault == Fault::Slow && self.rate().is_some() => {
                    Err(("a second rate", text))
                }
                // The metrics of two equal rules would have one name.
                Ok(_) if self.counts.iter().any(|(other, _)| other == text) => Err(("a second rule", text)),
                parsed => parsed,
            };
            self.rules.push(rule.map_err(|(part, text)| Wrong(part, text.to_owned()))?);
            self.counts.push((text.to_owned(), 0));
        }
        Ok(())
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule needs copies of the layers.
    pub fn flips(&self) -> bool {
        self.rules.iter().any(|rule| rule.fault == Fault::Flip)
    }

    /// Returns the number of bytes that a connection may send in a second, if a rule limits this number.
    pub fn rate(&self) -> Option<u64> {
        self.rules.iter().find(|rule| rule.fault == Fault::Slow)?.number
    }

    /// Responds to a request, with a fault if a rule applies.
    pub fn respond<'r>(
        &mut self,
        registry: &'r Registry,
        request: &Request<'_>,
        vitals: &Vitals<'_>,
    ) -> Served<'r> {
        let Self { rules, counts, layers } = self;
        let vitals = &Vitals { faults: counts, ..*vitals };
        let served = registry.respond(request, vitals);
        if served.response.status.is_error() {
            let has_tokens = rules.iter().any(|rule| rule.fault == Fault::Auth);
            let is_token = has_tokens && request.method == Method::Get && request.path == TOKEN_PATH;
            return if is_token { token() } else { served };
        }
        let applies = |rule: &mut Rule| {
            rule.covers(served.kind)
                && makes_a_difference(rule.fault, request, &served.response)
                && rule.applies()
        };
        let Some(index) = rules.iter_mut().position(applies) else { return served };
        let rule = &rules[index];
        let mut served = match rule.fault {
            Fault::NoRange => registry.whole(request, vitals),
            _ => spoil(rule, *layers, request, served),
        };
        served.fault = Some(rule.fault);
        counts[index].1 += 1;
        served
    }
}

/// Returns the field that a fault changes, and its wrong value. The value is empty if the fault removes the field.
fn wrong_field(fault: Fault) -> Option<(&'static str, &'static str)> {
    match fault {
        Fault::WrongDigest => Some(("Docker-Content-Digest", WRONG_DIGEST)),
        Fault::WrongType => Some(("Content-Type", "text/html")),
        Fault::NoLength => Some(("Content-Length", "")),
        _ => None,
    }
}

/// Whether a fault changes this response.
fn makes_a_difference(fault: Fault, request: &Request<'_>, response: &Response<'_>) -> bool {
    if let Some((name, _)) = wrong_field(fault) {
        return response.field(name).is_some();
    }
    match fault {
        Fault::Cut | Fault::Stall | Fault::Reset => !response.content.is_empty(),
        Fault::Flip => match &response.content {
            Content::Bytes(bytes) => !bytes.is_empty(),
            Content::File(part) => part.range.contains(&FLIPPED),
        },
        Fault::NoRange => response.status == Status::PartialContent,
        Fault::Redirect => !request.query.is_some_and(|query| query.ends_with(REDIRECTED)),
        Fault::Auth => !request.field_lines("authorization").any(is_bearer),
        Fault::Slow => false,
        _ => true,
    }
}

/// Whether credentials are a token. RFC 9110 section 11.1: the name of a scheme is case-insensitive.
fn is_bearer(credentials: &str) -> bool {
    credentials.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer "))
}

/// Applies the fault of a rule to a right response.
fn spoil<'r>(rule: &Rule, layers: usize, request: &Request<'_>, served: Served<'r>) -> Served<'r> {
    let Served { kind, mut response, .. } = served;
    match rule.fault {
        Fault::Cut | Fault::Stall | Fault::Reset => {
            let half = response.content.len() / 2;
            response.content = response.content.part(0..half);
        }
        Fault::Flip => match &mut response.content {
            Content::Bytes(bytes) => {
                let middle = bytes.len() / 2;
                bytes.to_mut()[middle] ^= 1;
            }
            Content::File(part) => part.file += layers,
        },
        fault => match wrong_field(fault) {
            Some((name, "")) => response = response.without(&[name]),
            Some((name, value)) => response = response.without(&[name]).with(name, value),
            None => return refuse(rule, request, kind, response.shared),
        },
    }
    Served::new(kind, response)
}

/// Returns the kind that a request has if the content that it names does not exist.
fn unknown(kind: RequestKind, request: &Request<'_>) -> RequestKind {
    match kind {
        RequestKind::Artifact if request.path.contains("/blobs/") => RequestKind::UnknownBlob,
        RequestKind::Base | RequestKind::Catalog => RequestKind::Other,
        RequestKind::Artifact
        | RequestKind::Index
        | RequestKind::DockerList
        | RequestKind::Manifest
        | RequestKind::DockerManifest => RequestKind::UnknownManifest,
        RequestKind::Config | RequestKind::Layer => RequestKind::UnknownBlob,
        other => other,
    }
}

/// Returns a redirection or an error, in the words of registries and gateways, instead of the requested content.
fn refuse(rule: &Rule, request: &Request<'_>, kind: RequestKind, shared: &'static str) -> Served<'static> {
    let kind = if rule.fault == Fault::NotFound { unknown(kind, request) } else { kind };
    let (status, code, message) = match (rule.fault, kind) {
        (Fault::Forbidden, _) => (Status::Forbidden, DENIED, "access is denied"),
        (Fault::NotFound, RequestKind::UnknownManifest) => {
            (Status::NotFound, MANIFEST_UNKNOWN, "no such manifest")
        }
        (Fault::NotFound, RequestKind::UnknownBlob) => (Status::NotFound, BLOB_UNKNOWN, "no such blob"),
        (Fault::NotFound, RequestKind::Other) => {
            (Status::NotFound, UNSUPPORTED, "there is nothing at this path")
        }
        (Fault::NotFound, _) => (Status::NotFound, NAME_UNKNOWN, "no such repository"),
        (Fault::TooManyRequests, _) => (Status::TooManyRequests, "TOOMANYREQUESTS", "too many requests"),
        // Field note: the specification does not list the next two codes. The reference implementation has them.
        (Fault::InternalServerError, _) => (Status::InternalServerError, "UNKNOWN", "unknown error"),
        (Fault::ServiceUnavailable, _) => (Status::ServiceUnavailable, "UNAVAILABLE", "unavailable"),
        // A gateway does not know the registry's error codes.
        (Fault::BadGateway, _) => (Status::BadGateway, "", "502 Bad Gateway"),
        (Fault::GatewayTimeout, _) => (Status::GatewayTimeout, "", "504 Gateway Time-out"),
        (Fault::Redirect, _) => (Status::TemporaryRedirect, "", "307 Temporary Redirect"),
        _ => (Status::Unauthorized, "UNAUTHORIZED", "authentication required"),
    };
    let mut response = match code {
        // Errors of nginx have this form.
        "" => Response::generated(status, "text/html", format!("<html><h1>{message}</h1></html>\n").into()),
        code => error(status, code, message, &request.path),
    };
    if let Some((name, value)) = field_of_refusal(rule, request) {
        response = response.with(name, &value);
    }
    response.shared = shared;
    if request.method == Method::Head {
        // RFC 9110 section 9.3.2: MUST NOT send content.
        response.content = Content::NONE;
    }
    Served::new(kind, response)
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
