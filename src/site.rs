//! Chooses the response to each request: that of the registry, or one about the server itself. Handles the methods, and
//! applies conditions and ranges.
//!
//! Documents: RFC 9110 section 9 (methods) and section 13 (conditions); the Fetch Standard.
//!
//! ```text
//!     GET /v2/...                          the registry (see `registry`)
//!     GET /                                a description of the server: a page for a browser, else a short text
//!     GET /healthz                         the health check, named as in Kubernetes (not logged)
//!     GET /metrics                         the server's counters, for Prometheus (not logged)
//! ```
//!
//! Every path allows GET, HEAD and OPTIONS, and every other method is refused. The page at `/` and the text at
//! `/metrics` also report the state of the server (`Vitals`). All other responses depend only on the image and the
//! request.

use crate::http::conditional::{Selection, select};
use crate::http::request::{Method, Rejection, Request, TLS};
use crate::http::response::{Content, Response, Status};
use crate::image::{Image, VERSION};
use crate::kinds::RequestKind;
use crate::metrics::{self, Vitals};
use crate::page::{self, Page};
use crate::registry::{NO_STORE, Registry, Served, error, generated, unsupported};
use crate::welcome;

/// The field that names the protocol. Field note: containers/image and older Docker clients accept a server as a
/// registry only if it sends this field, which they also read from errors.
const SHARED: &str = "Docker-Distribution-Api-Version: registry/2.0\r\n";

/// The fields of every response under `/v2`: [`SHARED`], and the fields that let a page of any other origin read the
/// response (Fetch Standard, "HTTP responses"). Field note: user interfaces for registries run in a browser, on an
/// origin of their own.
const SHARED_UNDER_V2: &str = "Docker-Distribution-Api-Version: registry/2.0\r\n\
    Access-Control-Allow-Origin: *\r\n\
    Access-Control-Expose-Headers: Docker-Content-Digest, Link, OCI-Filters-Applied\r\n";

/// The methods that every path allows.
const ALLOWED: &str = "GET, HEAD, OPTIONS";

/// The fields of the response to a preflight (Fetch Standard, "CORS-preflight fetch"), which name the methods and
/// fields that a page of another origin may use. A browser may cache this response for a day, although Chromium caches
/// it for only two hours.
const PREFLIGHT: &[u8] = b"Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n\
    Access-Control-Allow-Headers: Accept, Authorization, Cache-Control, If-None-Match, Range\r\n\
    Access-Control-Max-Age: 86400\r\n";

/// Returns the fields that every response for this path has, whether it is an error or not.
pub fn shared_fields(path: &str) -> &'static str {
    if is_under_v2(path) { SHARED_UNDER_V2 } else { SHARED }
}

fn is_under_v2(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

/// All that is served: the registry, and the page that shows the image.
pub struct Site {
    pub registry: Registry,
    page: Page,
}

impl Site {
    /// Prepares an image to be served.
    pub fn new(image: Image) -> Self {
        Self { page: Page::new(&image), registry: Registry::new(image) }
    }

    /// Responds to bytes that are not an acceptable request.
    pub fn refuse(rejection: &Rejection) -> Served<'static> {
        let response = error(rejection.status, "UNSUPPORTED", rejection.reason, "");
        let response = if rejection.is_head { response.without_content() } else { response };
        let kind = if *rejection == TLS { RequestKind::Tls } else { RequestKind::Unreadable };
        Served::new(kind, response)
    }

    /// Responds to a request. Only the responses of `/` and `/metrics` use `vitals`.
    pub fn respond(&self, request: &Request<'_>, vitals: &Vitals<'_>) -> Served<'_> {
        let mut served = match request.method {
            Method::Get | Method::Head => {
                let Served { kind, response } = self.route(request, vitals);
                Served::new(kind, meet_conditions(request, response))
            }
            // Field note: HAProxy 2.6 sends `OPTIONS / HTTP/1.0` and Apache 2.4 `OPTIONS * HTTP/1.0` every few seconds
            // to see whether a server is alive.
            Method::Options => {
                let (kind, fields) = if is_under_v2(&request.path) {
                    (RequestKind::Options, PREFLIGHT)
                } else {
                    (RequestKind::Health, &[][..])
                };
                // RFC 9110 section 8.6: MUST NOT send Content-Length in a 204.
                let response = Response::new(Status::NoContent, fields, Content::NONE);
                Served::new(kind, response.with("Allow", ALLOWED))
            }
            // RFC 9110 section 15.5.6: MUST send Allow. Field note: after a refusal with UNSUPPORTED, podman 4.3
            // repeats the push three times, which takes 4 s. DENIED ends the push at once, as it does with podman 5.8,
            // docker and skopeo.
            Method::Connect | Method::Other => {
                let message = "this registry is read-only: it serves one image, itself, and accepts no pushes";
                let response = error(Status::MethodNotAllowed, "DENIED", message, &request.path);
                Served::new(RequestKind::Other, response.with("Allow", ALLOWED))
            }
            // RFC 9110 section 9.1: SHOULD respond to an unrecognized method with 501.
            Method::Unrecognized => {
                Served::new(RequestKind::Other, unsupported(Status::NotImplemented, "no such method", request))
            }
        };
        if request.method == Method::Head {
            // RFC 9110 section 9.3.2: SHOULD send the fields of the response to GET.
            served.response = served.response.without_content();
        }
        served
    }

    /// Responds to a GET, or to a HEAD as if it were a GET.
    fn route(&self, request: &Request<'_>, vitals: &Vitals<'_>) -> Served<'_> {
        match &*request.path {
            "/" => Served::new(RequestKind::Welcome, self.welcome(request, vitals)),
            "/healthz" => {
                let response = generated(Status::Ok, "text/plain", NO_STORE, b"ok\n".to_vec());
                Served::new(RequestKind::Health, response)
            }
            "/metrics" => {
                let text = vitals.to_text(VERSION, self.registry.digest());
                let response = generated(Status::Ok, metrics::MEDIA_TYPE, NO_STORE, text.into_bytes());
                Served::new(RequestKind::Metrics, response)
            }
            _ => self.registry.respond(request),
        }
    }

    /// Describes the server, in a page or in a short text.
    fn welcome(&self, request: &Request<'_>, vitals: &Vitals<'_>) -> Response<'static> {
        let host = welcome::host(request.authority);
        // Browsers prefer HTML, unlike curl and other clients that accept `*/*`.
        let [html, plain] = request.weights(["text/html", "text/plain"]);
        let is_page = html > plain;
        let fields = if is_page { page::FIELDS } else { welcome::FIELDS };
        let mut response = Response::new(Status::Ok, fields, Content::NONE);
        if request.method == Method::Head {
            // RFC 9110 section 9.3.2: MAY omit fields that are determined only while generating the content, so the
            // page need not be written to determine Content-Length.
            return response;
        }
        let text = if is_page { self.page.write(host, vitals) } else { welcome::text(host) };
        response.content = Content::bytes(text.into_bytes());
        let length = response.content.len().to_string();
        response.with("Content-Length", &length)
    }
}

/// Applies the conditions and the range of a GET or HEAD. Returns the whole response, a part of its content, a response
/// without content, or an error.
fn meet_conditions<'a>(request: &Request<'_>, response: Response<'a>) -> Response<'a> {
    if response.status != Status::Ok {
        // RFC 9110 section 13.2.1: MUST ignore conditions if the response would not be a 2xx without them.
        return response;
    }
    match select(request, &response) {
        Selection::Whole => response,
        Selection::Part(range) => response.part(range),
        Selection::NotModified => {
            // RFC 9110 section 15.4.5: MUST send Cache-Control, ETag and Vary of the 200; SHOULD NOT send fields that
            // describe the content.
            const ABOUT_CONTENT: [&str; 4] =
                ["Content-Type", "Content-Length", "Docker-Content-Digest", "Accept-Ranges"];
            let mut response = response.without(&ABOUT_CONTENT);
            (response.status, response.content) = (Status::NotModified, Content::NONE);
            response
        }
        Selection::PreconditionFailed => {
            unsupported(Status::PreconditionFailed, "the content has no entity tag that If-Match lists", request)
        }
        Selection::Unsatisfiable => {
            let message = "the range begins past the end of the content, ends before it begins, or is empty";
            error(Status::RangeNotSatisfiable, "SIZE_INVALID", message, &request.path)
                .with("Content-Range", &format!("bytes */{}", response.content.len()))
        }
    }
}
