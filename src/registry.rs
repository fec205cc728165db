//! Turns a request into its answer: the registry protocol.
//!
//! Documents: OCI distribution-spec 1.1; RFC 9110 section 12 (Accept).
//!
//! ```text
//!     GET /v2/                             is this a registry? (Also without the slash at the end)
//!     GET /v2/<name>/manifests/<reference> an index or a manifest, by tag or digest
//!     GET /v2/<name>/blobs/<digest>        a config or a layer
//!     GET /v2/<name>/tags/list             the tags
//!     GET /v2/<name>/referrers/<digest>    what refers to an index or a manifest: its bill of materials
//!     GET /v2/_catalog                     the repositories (not in the OCI's specification)
//!     GET /                                what this is, for people: a page, or a short text
//!     GET /healthz                         is the server well? (What Kubernetes calls it.) Not logged
//!     GET /metrics                         what the server has counted, for Prometheus. Not logged
//! ```
//!
//! Each of them may be a HEAD, too. OPTIONS is answered at any path, and anything else is refused. Nothing here
//! touches a socket or a file of the image, and an answer depends on the image and the request alone. Only `/`
//! and `/metrics` tell what `Vitals` knows besides: counters, the time, and the memory, for which it asks the kernel.
//!
//! ## Which manifest?
//!
//! An image has one index, and one manifest for each platform. A client that asks by digest gets those very
//! bytes. A client that asks by tag gets what it can read. The first line that fits counts:
//!
//! | the client's `Accept` has                                   | the tag stands for                 |
//! |-------------------------------------------------------------|------------------------------------|
//! | `application/vnd.oci.image.index.v1+json`                   | the index                          |
//! | `*/*`                                                       | the index                          |
//! | `application/*`                                             | the index                          |
//! | `application/vnd.docker.distribution.manifest.list.v2+json` | Docker's list                      |
//! | `application/vnd.oci.image.manifest.v1+json`                | the manifest for our platform      |
//! | `application/vnd.docker.distribution.manifest.v2+json`      | Docker's manifest for our platform |
//! | none of these, or there is no `Accept`                      | the index                          |
//!
//! A tag must lead to one digest, or a quine could not be compared with its child. Every client of today takes
//! the index. Docker's list and manifests are the same documents under other media types, and so under other
//! digests. They are for old clients that take no other types: keel, Dependabot and watchtower of some years ago.
//! "Our platform" is that of the process that answers.
//!
//! No `Accept` makes a tag answer 404 or 406. RFC 9110 section 12.5.1 lets a server disregard the field
//! if it has nothing that the client lists, and the client may still read what comes.
//!
//! ## What refers to the image
//!
//! The answer to `referrers` has the artifact that `image/artifacts.rs` makes for the digest. A client that does
//! not know this endpoint asks for the tag that the specification derives from the digest, `sha256-<hex>`. It
//! gets the same index, whatever it accepts. The list of tags does not have these tags: people and tools look
//! there for versions, and a client that wants referrers computes their tag.
//!
//! Deliberately absent: writing anything, authentication, compression on the way, and, where a tag is asked
//! for, weights in `Accept` other than 0. If a client takes several types, the table decides.

use std::borrow::Cow;

use serde_json::{Map, json};

use crate::http::conditional::{Selection, select};
use crate::http::request::{Method, Rejection, Request, TLS};
use crate::http::response::{Content, FilePart, Response, Status};
use crate::http::syntax::{PLAIN_IN_QUERY, parse_number, percent_decode};
use crate::image::artifacts::{ARTIFACT_TYPE, Artifacts, Referrer};
use crate::image::digest::{self, Digest};
use crate::image::json::to_bytes;
use crate::image::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, Image, NAME, OCI_INDEX, OCI_MANIFEST, Platform, TAGS,
    VERSION,
};
use crate::kinds::Endpoint;
use crate::metrics::{self, Vitals};
use crate::page::{self, Page};

const JSON: &str = "application/json";

/// The field that says which protocol this is. Field note: containers/image and older Docker clients do
/// not take a server for a registry without it. They read it from errors, too.
const SHARED: &str = "Docker-Distribution-Api-Version: registry/2.0\r\n";

/// The fields of every response under `/v2`: the same, and those that let a page of any other origin read the
/// response (Fetch Standard, "HTTP responses"). Field note: user interfaces for registries run in a browser, on an
/// origin of their own.
const SHARED_UNDER_V2: &str = "Docker-Distribution-Api-Version: registry/2.0\r\n\
    Access-Control-Allow-Origin: *\r\n\
    Access-Control-Expose-Headers: Docker-Content-Digest, Link, OCI-Filters-Applied\r\n";

/// Everything but GET, HEAD and OPTIONS is refused, at every path.
const ALLOWED: &str = "GET, HEAD, OPTIONS";

/// What a browser asks by OPTIONS before it sends a request with other fields than a plain one has (Fetch Standard,
/// "CORS-preflight fetch"). It keeps the response for a day at most; Chromium for two hours.
const PREFLIGHT: &[u8] = b"Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n\
    Access-Control-Allow-Headers: Accept, Authorization, Cache-Control, If-None-Match, Range\r\n\
    Access-Control-Max-Age: 86400\r\n";

/// Values of Cache-Control (RFC 9111 section 5.2.2, RFC 8246): for what has the digest that the client asked for, for
/// what may differ tomorrow, and for what is true at this moment alone. Field note: Varnish 7.1 keeps what has none
/// of them for two minutes, health checks included.
const IMMUTABLE: &str = "max-age=31536000, immutable";
const NO_CACHE: &str = "no-cache";
const NO_STORE: &str = "no-store";

/// The error codes of the distribution-spec that a read-only registry has a use for.
#[derive(Clone, Copy)]
enum ErrorCode {
    BlobUnknown,
    Denied,
    DigestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unsupported,
    /// Field note: not in the specification's list. It is what the reference implementation answers to a
    /// page size that is no number.
    PaginationNumberInvalid,
}

impl ErrorCode {
    fn name(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unsupported => "UNSUPPORTED",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
        }
    }
}

/// The image, made ready to be served.
pub struct Registry {
    /// The indexes and manifests. What a tag may stand for comes first, in the order of [`Choice`]: the
    /// index and Docker's list, then the two manifests of our own platform.
    manifests: Vec<Resource>,
    /// The configs and layers.
    blobs: Vec<Resource>,
    /// The digest of each index and manifest that something refers to, and where among the manifests the index
    /// of its referrers is.
    referrers: Vec<(Digest, usize)>,
    /// The index of the referrers of anything else.
    no_referrers: Resource,
    /// The page that shows all of it to people.
    page: Page,
}

/// An answer, and what it is about.
pub struct Answer<'a> {
    /// What the client asked for.
    pub endpoint: Endpoint,
    /// What the client gets.
    pub response: Response<'a>,
}

impl<'a> Answer<'a> {
    fn other(response: Response<'a>) -> Self {
        Self { endpoint: Endpoint::Other, response }
    }

    /// What the log says is being done. `None` if it says nothing.
    #[must_use]
    pub fn label(&self) -> Option<&'static str> {
        let is_refusal = self.response.status.is_error() && self.endpoint != Endpoint::Tls;
        if is_refusal { Some("Refusing") } else { self.endpoint.label() }
    }
}

/// What a tag may stand for.
#[derive(Clone, Copy)]
enum Choice {
    Index,
    DockerList,
    Manifest,
    DockerManifest,
}

/// Content that is served by its digest.
struct Resource {
    digest: Digest,
    endpoint: Endpoint,
    /// The fields of a 200, made once: where the digest was asked for, and where a tag or subject was.
    fields: [Vec<u8>; 2],
    content: Content<'static>,
}

impl Registry {
    /// Makes an image ready to be served.
    #[must_use]
    pub fn new(image: Image) -> Self {
        let page = Page::new(&image);
        let artifacts = Artifacts::of(&image);
        let Image { index, docker_list, mut platforms, layers, own } = image;
        let mut manifests = vec![
            Resource::document(Endpoint::Index, index),
            Resource::document(Endpoint::DockerList, docker_list),
        ];
        let mut blobs = Vec::new();
        platforms.swap(0, own);
        for Platform { config, manifest, docker_manifest, .. } in platforms {
            manifests.push(Resource::document(Endpoint::Manifest, manifest));
            manifests.push(Resource::document(Endpoint::DockerManifest, docker_manifest));
            blobs.push(Resource::document(Endpoint::Config, config));
        }
        for (file, layer) in layers.into_iter().enumerate() {
            let content = Content::File(FilePart { file, range: 0..layer.blob.size });
            blobs.push(Resource::new(Endpoint::Layer, Descriptor::of(&layer), content));
        }
        let mut referrers = Vec::new();
        for Referrer { subject, manifest, index } in artifacts.referrers {
            manifests.push(Resource::document(Endpoint::Artifact, manifest));
            referrers.push((subject, manifests.len()));
            manifests.push(Resource::document(Endpoint::Referrers, index));
        }
        for document in [artifacts.config, artifacts.bill] {
            blobs.push(Resource::document(Endpoint::Artifact, document));
        }
        let no_referrers = Resource::document(Endpoint::Referrers, artifacts.no_referrers);
        Self { manifests, blobs, referrers, no_referrers, page }
    }

    /// Answers bytes that are not a request, or not one that this server can answer.
    #[must_use]
    pub fn refuse(rejection: &Rejection) -> Answer<'static> {
        let mut response = error(rejection.status, ErrorCode::Unsupported, rejection.reason, "");
        if rejection.is_head {
            // RFC 9110 section 9.3.2: MUST NOT send content in answer to HEAD.
            response.content = Content::NONE;
        }
        response.shared = SHARED;
        let endpoint = if *rejection == TLS { Endpoint::Tls } else { Endpoint::Unreadable };
        Answer { endpoint, response }
    }

    /// Answers a request. `vitals` are for an answer about the server itself.
    #[must_use]
    pub fn answer(&self, request: &Request<'_>, vitals: &Vitals<'_>) -> Answer<'_> {
        let is_under_v2 = request.path == "/v2" || request.path.starts_with("/v2/");
        let mut answer = match request.method {
            Method::Get | Method::Head => {
                let Answer { endpoint, response } = self.route(request, vitals);
                Answer { endpoint, response: meet_conditions(request, response) }
            }
            // Field note: HAProxy 2.6 sends `OPTIONS / HTTP/1.0` and Apache 2.4 `OPTIONS * HTTP/1.0` every few seconds
            // to see whether a server is alive.
            Method::Options => {
                let (endpoint, fields) =
                    if is_under_v2 { (Endpoint::Options, PREFLIGHT) } else { (Endpoint::Health, &[][..]) };
                // RFC 9110 section 8.6: MUST NOT send Content-Length in a 204.
                let response = Response::new(Status::NoContent, fields, Content::NONE);
                Answer { endpoint, response: response.with("Allow", ALLOWED) }
            }
            // RFC 9110 section 15.5.6: MUST send Allow. Field note: podman 4.3 repeats a push that is refused with
            // UNSUPPORTED three times, which takes 4 s. DENIED ends it at once, as it does with podman 5.8, docker and
            // skopeo.
            Method::Connect | Method::Other => {
                let message = "this registry is read-only: it serves one image, itself, and takes none";
                let response = error(Status::MethodNotAllowed, ErrorCode::Denied, message, &request.path);
                Answer::other(response.with("Allow", ALLOWED))
            }
            // RFC 9110 section 9.1: SHOULD answer an unrecognized method with 501.
            Method::Unrecognized => Answer::other(refuse(Status::NotImplemented, "no such method", request)),
        };
        answer.response.shared = if is_under_v2 { SHARED_UNDER_V2 } else { SHARED };
        if request.method == Method::Head {
            // RFC 9110 section 9.3.2: MUST NOT send content; the fields are those of the GET.
            answer.response.content = Content::NONE;
        }
        answer
    }

    fn route(&self, request: &Request<'_>, vitals: &Vitals<'_>) -> Answer<'_> {
        let (endpoint, response) = match &*request.path {
            "/" => (Endpoint::Welcome, self.welcome(request, vitals)),
            "/healthz" => (Endpoint::Health, Response::new(Status::Ok, HEALTH, HEALTH_CONTENT)),
            "/metrics" => (Endpoint::Metrics, self.metrics(vitals)),
            "/v2" | "/v2/" => (Endpoint::Base, Response::new(Status::Ok, BASE, BASE_CONTENT)),
            "/v2/_catalog" => (Endpoint::Catalog, list("repositories", &[NAME], None, request)),
            path => match path.strip_prefix("/v2/").and_then(split_path) {
                Some((name, collection, reference)) => {
                    return self.member(name, collection, reference, request);
                }
                None => (Endpoint::Other, refuse(Status::NotFound, "there is nothing at this path", request)),
            },
        };
        Answer { endpoint, response }
    }

    /// Answers `/v2/<name>/<collection>/<reference>`.
    fn member(
        &self,
        name: &str,
        collection: Collection,
        reference: &str,
        request: &Request<'_>,
    ) -> Answer<'_> {
        let wrong_name = refuse_name(name);
        let (endpoint, response) = match (collection, wrong_name) {
            (Collection::Manifests, None) => return self.manifest(reference, request),
            (Collection::Blobs, None) => return self.blob(reference),
            (Collection::Tags, None) => (Endpoint::Tags, list("tags", &TAGS, Some(name), request)),
            (Collection::Referrers, None) => (Endpoint::Referrers, self.referrers(reference, request)),
            (Collection::Manifests, Some(error)) => (Endpoint::UnknownManifest, error),
            (Collection::Blobs, Some(error)) => (Endpoint::UnknownBlob, error),
            (Collection::Tags, Some(error)) => (Endpoint::Tags, error),
            (Collection::Referrers, Some(error)) => (Endpoint::Referrers, error),
        };
        Answer { endpoint, response }
    }

    /// distribution-spec, "Pulling manifests".
    fn manifest(&self, reference: &str, request: &Request<'_>) -> Answer<'_> {
        let unknown = |response| Answer { endpoint: Endpoint::UnknownManifest, response };
        if reference.contains(':') {
            if !digest::is_well_formed(reference) {
                return unknown(invalid_digest(reference));
            }
            // A digest names the content, so Accept has no say.
            if let Some(resource) = find(&self.manifests, reference) {
                return resource.by_digest();
            }
        } else if TAGS.contains(&reference) {
            return self.manifests[choose(request) as usize].by_name();
        } else if let Some(index) = reference.strip_prefix("sha256-").and_then(|hash| self.referrers_of(hash))
        {
            // distribution-spec, "Referrers Tag Schema".
            return index.by_name();
        }
        // Field note: cosign looks for signatures under the tag `sha256-<hex>.sig`. Like every other client, it
        // expects a 404 if a tag is unknown.
        unknown(error(Status::NotFound, ErrorCode::ManifestUnknown, "no such manifest", reference))
    }

    /// distribution-spec, "Listing Referrers". If nothing refers to a digest, the answer is an empty index: a 404
    /// would make the client look for a tag instead.
    fn referrers(&self, digest: &str, request: &Request<'_>) -> Response<'_> {
        if !digest::is_well_formed(digest) {
            return invalid_digest(digest);
        }
        let filter = parameter(request, "artifactType");
        let is_wanted = filter.as_deref().is_none_or(|wanted| wanted == ARTIFACT_TYPE);
        let index =
            digest.strip_prefix("sha256:").filter(|_| is_wanted).and_then(|hash| self.referrers_of(hash));
        let response = index.unwrap_or(&self.no_referrers).by_name().response;
        if filter.is_some() {
            // "If filtering is requested and applied, the response MUST include" this field.
            response.with("OCI-Filters-Applied", "artifactType")
        } else {
            response
        }
    }

    /// The index of what refers to the subject with this hash.
    fn referrers_of(&self, hash: &str) -> Option<&Resource> {
        let is_subject = |digest: &Digest| digest.as_str().strip_prefix("sha256:") == Some(hash);
        let (_, place) = self.referrers.iter().find(|(subject, _)| is_subject(subject))?;
        Some(&self.manifests[*place])
    }

    /// distribution-spec, "Pulling blobs".
    fn blob(&self, digest: &str) -> Answer<'_> {
        let unknown = |response| Answer { endpoint: Endpoint::UnknownBlob, response };
        if !digest::is_well_formed(digest) {
            return unknown(invalid_digest(digest));
        }
        // Field note: a manifest is not served as a blob. containerd, if it gets one that way, keeps it
        // in its cache without a media type and fails later.
        match find(&self.blobs, digest) {
            Some(resource) => resource.by_digest(),
            None => unknown(error(Status::NotFound, ErrorCode::BlobUnknown, "no such blob", digest)),
        }
    }

    /// What this is, as a page or as a short text.
    fn welcome(&self, request: &Request<'_>, vitals: &Vitals<'_>) -> Response<'static> {
        let host = page::host(request.authority);
        let (media_type, content, fields) = if prefers_page(request) {
            (page::HTML, self.page.write(host, vitals), &page::FIELDS[..])
        } else {
            ("text/plain; charset=utf-8", page::text(host).into_bytes(), &[][..])
        };
        // RFC 9110 section 12.5.5.
        let response = generated(Status::Ok, media_type, NO_STORE, content).with("Vary", "Accept");
        fields.iter().fold(response, |response, (name, value)| response.with(name, value))
    }

    fn metrics(&self, vitals: &Vitals<'_>) -> Response<'static> {
        let digest = self.manifests[Choice::Index as usize].digest.as_str();
        generated(Status::Ok, metrics::MEDIA_TYPE, NO_STORE, vitals.to_text(VERSION, digest).into_bytes())
    }
}

const BASE: &[u8] = b"Content-Type: application/json\r\nContent-Length: 2\r\nCache-Control: no-cache\r\n";
const BASE_CONTENT: Content = Content::Bytes(Cow::Borrowed(b"{}"));

const HEALTH: &[u8] = b"Content-Type: text/plain\r\nContent-Length: 3\r\nCache-Control: no-store\r\n";
const HEALTH_CONTENT: Content = Content::Bytes(Cow::Borrowed(b"ok\n"));

#[derive(Clone, Copy)]
enum Collection {
    Manifests,
    Blobs,
    Tags,
    Referrers,
}

/// `<name>/<collection>/<reference>`; the slashes in front of and behind the collection are the last.
fn split_path(path: &str) -> Option<(&str, Collection, &str)> {
    let (rest, reference) = path.rsplit_once('/')?;
    let (name, collection) = rest.rsplit_once('/')?;
    let collection = match collection {
        "manifests" => Collection::Manifests,
        "blobs" => Collection::Blobs,
        "tags" if reference == "list" => Collection::Tags,
        "referrers" => Collection::Referrers,
        _ => return None,
    };
    Some((name, collection, reference))
}

/// The repository is `quinistry`, in any namespace: a client that takes us for a mirror asks for
/// `library/quinistry`, or for another namespace that the mirrored registry has.
fn refuse_name(name: &str) -> Option<Response<'static>> {
    let error = |code, message| Some(error(Status::NotFound, code, message, name));
    if !name.split('/').all(is_name_component) {
        error(ErrorCode::NameInvalid, "not a name that a repository can have")
    } else if name.rsplit('/').next() != Some(NAME) {
        error(ErrorCode::NameUnknown, "this registry has one repository: quinistry")
    } else {
        None
    }
}

/// distribution-spec, "Pulling manifests": `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_name_component(component: &str) -> bool {
    let is_alphanumeric = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
    let mut separators = component.split(|c: char| c.is_ascii() && is_alphanumeric(c as u8));
    // "a1-b" is split at its letters and digits into "", "", "-", "". The first and the last piece have to
    // be empty, and the others separators. The empty component is one piece: it has no last.
    let (first, last) = (separators.next(), separators.next_back());
    let is_separator = |s: &str| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-');
    first == Some("") && last == Some("") && separators.all(is_separator)
}

fn find<'a>(resources: &'a [Resource], digest: &str) -> Option<&'a Resource> {
    resources.iter().find(|resource| resource.digest.as_str() == digest)
}

/// Decides what a tag stands for: see "Which manifest?". The first type that the client takes counts.
fn choose(request: &Request<'_>) -> Choice {
    const CHOICES: [(&str, Choice); 4] = [
        (OCI_INDEX, Choice::Index),
        (DOCKER_LIST, Choice::DockerList),
        (OCI_MANIFEST, Choice::Manifest),
        (DOCKER_MANIFEST, Choice::DockerManifest),
    ];
    let weights = request.weights(CHOICES.map(|(media_type, _)| media_type));
    let first = weights.iter().position(|weight| *weight > 0);
    first.map_or(Choice::Index, |place| CHOICES[place].1)
}

impl Resource {
    fn document(endpoint: Endpoint, document: Document) -> Self {
        Self::new(endpoint, document.descriptor, Content::Bytes(document.content.into()))
    }

    fn new(endpoint: Endpoint, descriptor: Descriptor, content: Content<'static>) -> Self {
        let Descriptor { content_type, digest, size } = descriptor;
        // The digest is a strong validator: it says that the content is the same to the byte.
        let fields = |cache: &str| {
            format!(
                "Content-Type: {content_type}\r\nContent-Length: {size}\r\nDocker-Content-Digest: {digest}\r\n\
                 Accept-Ranges: bytes\r\nETag: \"{digest}\"\r\nCache-Control: {cache}\r\n"
            )
        };
        // RFC 9110 section 12.5.5: what a tag stands for depends on Accept.
        let fields = [fields(IMMUTABLE), fields(NO_CACHE) + "Vary: Accept\r\n"];
        Self { digest, endpoint, fields: fields.map(String::into_bytes), content }
    }

    fn by_digest(&self) -> Answer<'_> {
        self.answer(&self.fields[0])
    }

    fn by_name(&self) -> Answer<'_> {
        self.answer(&self.fields[1])
    }

    fn answer<'a>(&'a self, fields: &'a [u8]) -> Answer<'a> {
        let content = match &self.content {
            Content::Bytes(bytes) => Content::Bytes(Cow::Borrowed(bytes)),
            Content::File(part) => Content::File(part.clone()),
        };
        Answer { endpoint: self.endpoint, response: Response::new(Status::Ok, fields, content) }
    }
}

/// Turns the response to GET or HEAD into one with a part of the content, or with the reason why there is none to
/// send, if the request has conditions or a range.
fn meet_conditions<'a>(request: &Request<'_>, response: Response<'a>) -> Response<'a> {
    if response.status != Status::Ok {
        // RFC 9110 section 13.2.1: MUST ignore conditions if the response would not be a 2xx without them.
        return response;
    }
    match select(request, &response) {
        Selection::Whole => response,
        Selection::Part(range) => response.part(range),
        Selection::NotModified => {
            // RFC 9110 section 15.4.5: MUST send Cache-Control, ETag and Vary of the 200; SHOULD NOT send what
            // describes the content.
            const ABOUT_CONTENT: [&str; 4] =
                ["Content-Type", "Content-Length", "Docker-Content-Digest", "Accept-Ranges"];
            let mut response = response.without(&ABOUT_CONTENT);
            (response.status, response.content) = (Status::NotModified, Content::NONE);
            response
        }
        Selection::PreconditionFailed => {
            refuse(Status::PreconditionFailed, "the content has another entity tag", request)
        }
        Selection::Unsatisfiable => {
            let message = "the range begins behind the end of the content, or ends before its beginning";
            error(Status::RangeNotSatisfiable, ErrorCode::SizeInvalid, message, &request.path)
                .with("Content-Range", &format!("bytes */{}", response.content.len()))
        }
    }
}

/// distribution-spec, "Listing Tags", for any sorted list: `n` limits the answer, and `last` is the last
/// entry that the client has seen.
fn list(key: &str, all: &[&str], name: Option<&str>, request: &Request<'_>) -> Response<'static> {
    let number = match parameter(request, "n").map(|n| (parse_number(&n), n)) {
        None => u64::MAX,
        Some((Some(number), _)) => number,
        Some((None, text)) => {
            let (status, code) = (Status::BadRequest, ErrorCode::PaginationNumberInvalid);
            return error(status, code, "n is how many entries to list", &text);
        }
    };
    // "last" is excluded, and need not be in the list itself.
    let last = parameter(request, "last").unwrap_or_default();
    let rest: Vec<&str> = all.iter().copied().filter(|entry| *entry > &*last).collect();
    let listed = &rest[..rest.len().min(usize::try_from(number).unwrap_or(usize::MAX))];

    let mut content = Map::from_iter([(key.into(), listed.into())]);
    if let Some(name) = name {
        content.insert("name".into(), name.into());
    }
    let response = generated(Status::Ok, JSON, NO_CACHE, to_bytes(&content.into()));
    match listed.last() {
        // distribution-spec, "Listing Tags": with n=0 a Link MUST NOT be there; nothing is listed then.
        Some(last) if listed.len() < rest.len() => {
            let link = format!("<{}?n={number}&last={last}>; rel=\"next\"", request.path);
            response.with("Link", &link)
        }
        _ => response,
    }
}

/// Whether a client prefers the page to the short text. Browsers do. curl and others, which take everything
/// alike, do not.
fn prefers_page(request: &Request<'_>) -> bool {
    let [html, plain] = request.weights(["text/html", "text/plain"]);
    html > plain
}

/// A parameter of the query; the first, if there are several. Unknown ones are ignored, such as the
/// `ns=docker.io` with which containerd tells a mirror whose place it takes.
fn parameter(request: &Request<'_>, name: &str) -> Option<String> {
    let mut pairs = request.query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    // A client may encode the slash of a media type.
    Some(percent_decode(value, PLAIN_IN_QUERY).into_owned())
}

/// An answer with content that was made for it.
fn generated(status: Status, media_type: &str, cache: &str, content: Vec<u8>) -> Response<'static> {
    Response::generated(status, media_type, content).with("Cache-Control", cache)
}

/// An error. distribution-spec, "Error Codes": its body may have any format, but if it is JSON, it
/// MUST be of this shape. Other paths than those of /v2 get the same. A cache may keep some errors (RFC 9110
/// section 15.1), and would have them outlive their cause.
fn error(status: Status, code: ErrorCode, message: &str, detail: &str) -> Response<'static> {
    let errors = json!({ "errors": [{ "code": code.name(), "message": message, "detail": detail }] });
    generated(status, JSON, NO_STORE, to_bytes(&errors))
}

fn refuse(status: Status, message: &str, request: &Request<'_>) -> Response<'static> {
    error(status, ErrorCode::Unsupported, message, &request.path)
}

fn invalid_digest(digest: &str) -> Response<'static> {
    let message = "a digest is an algorithm, a colon and its encoded hash";
    error(Status::BadRequest, ErrorCode::DigestInvalid, message, digest)
}
