//! Explains a request and its response in a sentence or two, for people who are learning the protocol. A text says what
//! the client wants, what it receives, and what it requests next.
//!
//! Documents: mainly OCI distribution-spec 1.1 and image-spec 1.1, and RFC 9110. Each text ends with the section that
//! applies.
//!
//! ```text
//!     2026-01-31T12:00:00Z Serving index: HEAD /v2/quinistry/manifests/latest 200 0 127.0.0.1:50514 "docker/28"
//!         docker asks with HEAD what the tag stands for now, and learns a digest.
//!         It then requests the content with this digest, unless it already has that content.
//!         (distribution-spec, Checking if content exists in the registry)
//! ```
//!
//! No document specifies the order of a client's requests. It was taken from the sources of moby, containerd and
//! containers/image, and confirmed with Docker 20.10.24 and 28.2.2, containerd 1.6.20, skopeo 1.9.3 and podman 4.3.1.
//! Where these clients differ, a text says only what is true of all of them.
//!
//! Limits: a text has at most two sentences, and fits 100 columns after the subject "The client". This subject replaces
//! a name that is missing, is not a token, or is longer than [`MAX_NAME`]. With the longest names, a line can exceed
//! 100 columns.
//!
//! Deliberately absent: relations between requests, because the server does not remember a client's earlier requests.

use crate::fault::Fault;
use crate::http::request::{Method, Request};
use crate::http::response::Status;
use crate::http::syntax::is_token;
use crate::image::NAME;
use crate::kinds::RequestKind;

/// The length of the longest client name that is shown: that of `go-containerregistry`, which has 20 bytes.
pub const MAX_NAME: usize = 20;

// The texts, in the order of a pull. The client's name precedes each text as its subject.

const TLS: &str = "tries HTTPS first, with a ClientHello, and learns that this port speaks plain HTTP.\n\
    If it allows plain HTTP, as docker does on localhost, it tries that. (RFC 8446 section 4.1.2)";

const BASE: &str = "asks whether this is a registry, and whether a password is required.\n\
    After 200 it continues without a password, and usually requests an image next.\n\
    (distribution-spec, Determining Support)";

const TAG_BY_HEAD: &str = "asks with HEAD what the tag stands for now, and learns a digest.\n\
    It then requests the content with this digest, unless it already has that content.\n\
    (distribution-spec, Checking if content exists in the registry)";

const MIRROR: &str = "uses this server as a mirror of the registry that \"ns\" names, and tries it first.\n\
    It continues here by digest, and requests from that registry what is missing.\n\
    (distribution-spec, Registry Proxying)";

const INDEX_BY_TAG: &str = "asks what the tag stands for now, and receives an index: one manifest per platform.\n\
    It chooses a platform, and then requests that manifest by its digest.\n\
    (distribution-spec, Pulling manifests)";

const INDEX: &str = "fetches the index by its digest, so that it can check every byte.\n\
    It chooses a platform, and then requests that manifest.\n\
    (image-spec, OCI Image Index Specification)";

const MANIFEST_BY_TAG: &str = "asks what the tag stands for now. It accepts no index, so it receives one manifest,\n\
    and then requests the config and the layers that it lacks.\n\
    (distribution-spec, Pulling manifests)";

const MANIFEST: &str = "fetches the manifest of a platform: a config and layers, each by its digest.\n\
    It then requests the config and the layers that it lacks. (image-spec, Image Manifest)";

const CONFIG: &str = "fetches the config: what to run, and the digest of each layer's uncompressed tar.\n\
    A pull compares these digests with the layers that it unpacks. (image-spec, Layer DiffID)";

const LAYER: &str = "fetches a layer, which holds files, and can check it against its digest.\n\
    The pull is over when it has every layer and the config. (distribution-spec, Pulling blobs)";

const PART: &str = "requests a part of the content: it resumes a transfer, or fetches in pieces.\n\
    It joins the parts, and compares the whole with the digest. (RFC 9110 section 14)";

const NOT_MODIFIED: &str = "has this content already, and asks whether it is still the same.\n\
    304 confirms that, and it uses what it has. (RFC 9110 section 15.4.5)";

const MANIFEST_BY_HEAD: &str = "asks with HEAD whether a manifest with this digest is here, and learns its size.\n\
    A client that pulls then fetches it, and a client that pushes need not send it.\n\
    (distribution-spec, Checking if content exists in the registry)";

const BLOB_BY_HEAD: &str = "asks with HEAD whether this blob is here, and learns its size.\n\
    A client that pulls then fetches the blob, and a client that pushes need not send it.\n\
    (distribution-spec, Checking if content exists in the registry)";

const TAGS: &str = "asks which tags there are.\n\
    It lists them, or chooses one and then requests it. (distribution-spec, Listing Tags)";

const REFERRERS: &str = "asks what refers to a manifest, such as a signature or a bill of materials.\n\
    It receives an index, and then requests what it needs. (distribution-spec, Listing Referrers)";

const ARTIFACT: &str = "requests a part of an artifact that refers to the image: its manifest, or a blob.\n\
    After the manifest it requests the blob that it wants: here, a bill of materials.\n\
    (image-spec, Guidelines for Artifact Usage)";

const CATALOG: &str = "asks which repositories there are, as a search does.\n\
    It can then ask for the tags of one. (Docker Registry HTTP API V2, Listing Repositories)";

const WELCOME: &str = "asks what this is, as a browser does.\n\
    The response shows how to pull the image. (RFC 9110 section 9.3.1)";

const OPTIONS: &str = "asks which methods and fields are allowed, as a browser does for a page.\n\
    The response names them, and the browser then requests what the page needs.\n\
    (RFC 9110 section 9.3.7)";

const PUSH: &str = "wants to push, but this registry accepts no images.\n\
    After 405 with the code DENIED, the push ends at once. (distribution-spec, Push)";

// The texts for errors.

const NO_MANIFEST: &str = "requests a manifest that is not here.\n\
    After 404 a pull ends or tries another registry, and a push then sends the manifest.\n\
    (distribution-spec, Pulling manifests)";

const NO_REFERRERS_TAG: &str = "looks for a signature or the like, under a tag that is derived from a digest.\n\
    404 means that there is none. (distribution-spec, Referrers Tag Schema)";

const NO_BLOB: &str = "requests a blob that is not here.\n\
    After 404 a pull ends or tries another registry, and a push then sends the blob.\n\
    (distribution-spec, Pulling blobs)";

const NO_REPOSITORY: &str = "requests something from a repository that is not here.\n\
    The only one is quinistry, in any namespace. (distribution-spec, Error Codes)";

const NO_DIGEST: &str = "uses a malformed digest: the form is algorithm:hash.\n\
    After 400 it should not repeat the request. (image-spec, Digests)";

const NO_NUMBER: &str = "requests a part of a list, but \"n\" is not a number of entries.\n\
    After 400 it should not repeat the request. (distribution-spec, Listing Tags)";

const NO_PATH: &str = "requests a path that does not exist here.\n\
    404 means that nothing is served at this path. (RFC 9110 section 15.5.5)";

const METHOD: &str = "uses a method that no path here allows, and is refused.\n\
    405 names the methods that it may use: GET, HEAD and OPTIONS. (RFC 9110 section 15.5.6)";

const NOT_KNOWN: &str = "uses a method or a transfer coding that this server does not know.\n\
    501 means that no path here supports it. (RFC 9110 section 15.6.2)";

const NOT_SATISFIABLE: &str = "requests a range of bytes that the content does not have.\n\
    416 states the length of the content, so it can correct the range. (RFC 9110 section 15.5.17)";

const PRECONDITION: &str = "wants the content only if If-Match lists its entity tag, which is not the case.\n\
    After 412 it can repeat the request without If-Match. (RFC 9110 section 15.5.13)";

const UNREADABLE: &str = "sends something that is not a request, or that could be understood in two ways.\n\
    It is refused with 400, and the connection ends. (RFC 9110 section 15.5.1)";

const TOO_LONG: &str = "sends a request line or a head that exceeds the limits of this server.\n\
    It is refused, and the connection ends. (RFC 9110 section 15.5.15, RFC 6585 section 5)";

const TOO_SLOW: &str = "began a request but did not finish it in time.\n\
    After 408 the connection ends, and the client must connect again. (RFC 9110 section 15.5.9)";

const VERSION: &str = "speaks a version of HTTP that this server does not speak.\n\
    It is refused with 505, and the connection ends. (RFC 9110 section 15.6.6)";

// The texts for faults. Each says what the client receives, and what a good client does next.

const DENIED: &str = "is refused, whatever password it sends.\n\
    After 401 or 403 it does not retry on its own. (RFC 9110 section 15.5)";

const CHALLENGE: &str = "needs a token, and learns where to get one: at /token.\n\
    It gets a token there, and then repeats this request with the token. (RFC 6750 section 3)";

const TOKEN_FOR_ANYONE: &str = "requests a token after a 401, and receives one, as anyone does.\n\
    It then repeats the request that was refused, with the token. (RFC 6750 section 2.1)";

const LATER: &str = "is told that this fails for now, or that it sends too many requests.\n\
    It waits as long as Retry-After says, or backs off on its own, and then tries again.\n\
    (RFC 9110 section 10.2.3)";

const CUT: &str = "receives up to half of the content, and then the end of the connection, or a reset.\n\
    It notices from Content-Length, and requests the rest, or everything again. (RFC 9112 section 8)";

const STALL: &str = "receives half of the content, and then nothing, on a connection that stays open.\n\
    After a timeout of its own it closes the connection, and tries again. (RFC 9112 section 9.5)";

const MISMATCH: &str = "receives content with a wrong byte, or a head with a wrong digest.\n\
    It computes the digest itself, and keeps nothing that does not match. (image-spec, Digests)";

const WRONG_TYPE: &str = "receives the right content with a wrong Content-Type.\n\
    It refuses a manifest of a type that it did not list in Accept.\n\
    (distribution-spec, Pulling manifests)";

const NO_LENGTH: &str = "receives content without its length: the end of the connection ends it.\n\
    It compares what it has with the size and digest that it knows. (RFC 9112 section 6.3)";

const NO_RANGE: &str = "requests a part of the content and receives all of it, because Range may be ignored.\n\
    It notices from the 200, and skips what it has, or starts again. (RFC 9110 section 14.2)";

const REDIRECT: &str = "is redirected to another URL.\n\
    It repeats the request there, without credentials if that is another host.\n\
    (RFC 9110 section 15.4.8)";

/// Returns the client's name and the text for a response that is logged. `request` is `None` if the bytes were not a
/// request.
pub fn explain<'a>(
    request: Option<&Request<'a>>,
    kind: RequestKind,
    status: Status,
    fault: Option<Fault>,
) -> [&'a str; 2] {
    let text = match (fault.and_then(explain_fault), request) {
        (Some(text), _) => text,
        (_, Some(request)) if status == Status::Ok => explain_success(request, kind),
        _ => explain_other(request, kind, status),
    };
    [request.and_then(name).unwrap_or("The client"), text]
}

/// Returns the text for a fault, or `None` if the status of the response explains the fault.
fn explain_fault(fault: Fault) -> Option<&'static str> {
    match fault {
        Fault::Auth => Some(CHALLENGE),
        Fault::Cut | Fault::Reset => Some(CUT),
        Fault::Stall => Some(STALL),
        Fault::Flip | Fault::WrongDigest => Some(MISMATCH),
        Fault::WrongType => Some(WRONG_TYPE),
        Fault::NoLength => Some(NO_LENGTH),
        Fault::NoRange => Some(NO_RANGE),
        Fault::Status(_) | Fault::Redirect | Fault::Slow => None,
    }
}

/// Returns the client's own name. RFC 9110 section 10.1.5: the first product is the client.
fn name<'a>(request: &Request<'a>) -> Option<&'a str> {
    let product = request.fields.lines("user-agent").next()?.split(['/', ' ']).next()?;
    Some(product).filter(|name| is_token(name) && name.len() <= MAX_NAME)
}

fn explain_success(request: &Request<'_>, kind: RequestKind) -> &'static str {
    // The path ends with a tag or a digest, and only a digest has a colon.
    let is_by_tag = request.path.rsplit('/').next().is_some_and(|reference| !reference.contains(':'));
    let is_head = request.method == Method::Head;
    // Field note: containerd adds `ns=docker.io` if it uses this server as a mirror of docker.io.
    let is_for_mirror = request.parameter("ns").is_some();
    let is_manifest = matches!(
        kind,
        RequestKind::Index | RequestKind::DockerList | RequestKind::Manifest | RequestKind::DockerManifest
    );
    match kind {
        _ if is_manifest && is_for_mirror && (is_head || is_by_tag) => MIRROR,
        _ if is_manifest && is_head && is_by_tag => TAG_BY_HEAD,
        _ if is_manifest && is_head => MANIFEST_BY_HEAD,
        RequestKind::Index | RequestKind::DockerList if is_by_tag => INDEX_BY_TAG,
        RequestKind::Index | RequestKind::DockerList => INDEX,
        RequestKind::Manifest | RequestKind::DockerManifest if is_by_tag => MANIFEST_BY_TAG,
        RequestKind::Manifest | RequestKind::DockerManifest => MANIFEST,
        RequestKind::Base => BASE,
        RequestKind::Config | RequestKind::Layer if is_head => BLOB_BY_HEAD,
        RequestKind::Config => CONFIG,
        RequestKind::Layer => LAYER,
        RequestKind::Tags => TAGS,
        RequestKind::Referrers => REFERRERS,
        RequestKind::Artifact => ARTIFACT,
        RequestKind::Catalog => CATALOG,
        RequestKind::Token => TOKEN_FOR_ANYONE,
        RequestKind::Welcome => WELCOME,
        // Health checks and metrics are not logged, and the other kinds do not occur with 200.
        _ => "",
    }
}

/// Explains a response other than 200.
fn explain_other(request: Option<&Request<'_>>, kind: RequestKind, status: Status) -> &'static str {
    let path = request.map_or("", |request| &request.path);
    match (status, kind) {
        // Only a 206 gets here: `explain` handles every 200, because a 200 always has a request.
        (Status::Ok | Status::PartialContent, _) => PART,
        (Status::NoContent, _) => OPTIONS,
        (Status::NotModified, _) => NOT_MODIFIED,
        (Status::BadRequest, RequestKind::Tls) => TLS,
        (Status::BadRequest, RequestKind::Tags | RequestKind::Catalog) => NO_NUMBER,
        (Status::BadRequest, RequestKind::UnknownManifest | RequestKind::UnknownBlob | RequestKind::Referrers) => {
            NO_DIGEST
        }
        (Status::BadRequest, _) => UNREADABLE,
        (Status::NotFound, RequestKind::Base | RequestKind::Catalog | RequestKind::Other) => NO_PATH,
        (Status::NotFound, RequestKind::Tags | RequestKind::Referrers) => NO_REPOSITORY,
        // The name of the repository precedes `<collection>/<reference>`.
        (Status::NotFound, _) if path.rsplit('/').nth(2) != Some(NAME) => NO_REPOSITORY,
        (Status::NotFound, _) if path.contains("/blobs/") => NO_BLOB,
        // Field note: cosign looks for the tag `sha256-<hex>.sig`, which is older than the schema.
        (Status::NotFound, _) if path.contains("/manifests/sha256-") => NO_REFERRERS_TAG,
        (Status::NotFound, _) => NO_MANIFEST,
        (Status::TemporaryRedirect, _) => REDIRECT,
        (Status::Unauthorized | Status::Forbidden, _) => DENIED,
        (
            Status::TooManyRequests
            | Status::InternalServerError
            | Status::BadGateway
            | Status::ServiceUnavailable
            | Status::GatewayTimeout,
            _,
        ) => LATER,
        (Status::MethodNotAllowed, _) => {
            let writes = |request: &Request<'_>| matches!(request.method_name, "POST" | "PUT" | "PATCH");
            if request.is_some_and(writes) && path.starts_with("/v2/") { PUSH } else { METHOD }
        }
        (Status::RequestTimeout, _) => TOO_SLOW,
        (Status::PreconditionFailed, _) => PRECONDITION,
        (Status::UriTooLong | Status::FieldsTooLarge, _) => TOO_LONG,
        (Status::RangeNotSatisfiable, _) => NOT_SATISFIABLE,
        (Status::NotImplemented, _) => NOT_KNOWN,
        (Status::VersionNotSupported, _) => VERSION,
    }
}
