//! Implements the registry protocol: responds to GET.
//!
//! Documents: OCI distribution-spec 1.1; RFC 9110 section 12 (Accept).
//!
//! ```text
//!     GET /v2/                             the check for a registry (also without the trailing slash)
//!     GET /v2/<name>/manifests/<reference> an index or a manifest, by tag or digest
//!     GET /v2/<name>/blobs/<digest>        a config or a layer
//!     GET /v2/<name>/tags/list             the tags
//!     GET /v2/<name>/referrers/<digest>    the referrers of an index or a manifest (its bill of materials)
//!     GET /v2/_catalog                     the repositories (not in the OCI's specification)
//! ```
//!
//! A response depends only on the image and the request. This module touches neither sockets nor layer files, because a
//! response only names the part of a file that is to be sent. `site` handles the other methods, conditions and ranges.
//!
//! Deliberately absent: pushes, authentication and content coding.
//!
//! # Which manifest?
//!
//! An image has one index, and one manifest for each platform. A request by digest receives the bytes with this digest.
//! A request by tag receives the document in the first row that matches:
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
//! A client can see that a parent and its child serve the same image only if both give it the same digest. They do,
//! because every current client accepts the index. Docker's list and manifests are the same documents under other media
//! types, and therefore have other digests. They exist only for old clients that accept no other types (such as old
//! versions of keel, Dependabot and watchtower). "Our platform" is the platform of the running process.
//!
//! No value of `Accept` causes a 404 or a 406. RFC 9110 section 12.5.1 lets a server disregard the field if the server
//! has no type that the client lists, and the client may be able to read the index nevertheless.
//!
//! For a tag, the weights in `Accept` are ignored, except that a weight of 0 means that the client does not accept the
//! type.
//!
//! # What refers to the image
//!
//! The response to `referrers` lists the artifact that `image/artifacts.rs` builds for the digest. A client that does
//! not know this endpoint requests the tag that the specification derives from the digest, `sha256-<hex>`, and receives
//! the same index. The list of tags omits these tags, because people and tools read versions from the list, and because
//! a client that wants referrers computes the tag.
//!
//! # Example
//!
//! ```
//! use quinistry::http::request::parse;
//! use quinistry::http::response::Status;
//! use quinistry::image::Image;
//! use quinistry::image::layer::Executable;
//! use quinistry::registry::Registry;
//!
//! # // The smallest file that passes for an executable: an ELF header with one program header.
//! # let mut executable = vec![0; 64 + 56];
//! # executable[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
//! # for (at, byte) in [(16, 2), (18, 62), (32, 64), (54, 56), (56, 1), (64, 1)] {
//! #     executable[at] = byte;
//! # }
//! // An executable becomes a layer, the layer an image, and the image a registry.
//! let executable = Executable::check(&executable[..], executable.len() as u64).expect("it is static");
//! let mut content = Vec::new();
//! let layer = executable.pack(&mut content).expect("a Vec takes everything");
//! let (_, image) = Image::assemble(vec![(content, layer)]);
//! let digest = image.index.descriptor.digest.to_string();
//! let registry = Registry::new(image);
//!
//! // The tag stands for the index.
//! let head = b"GET /v2/quinistry/manifests/latest HTTP/1.1\r\nHost: localhost:8080\r\n\r\n";
//! let (request, _) = parse(head).expect("valid").expect("complete");
//! let response = registry.respond(&request).response;
//! assert_eq!(response.status, Status::Ok);
//! assert_eq!(response.field("Docker-Content-Digest"), Some(digest.as_bytes()));
//! let index: serde_json::Value = serde_json::from_slice(&response.content.bytes).expect("it is JSON");
//! assert_eq!(index["manifests"][0]["platform"]["architecture"], "amd64");
//! ```

use std::borrow::Cow;

use serde_json::{Map, json};

use crate::http::request::Request;
use crate::http::response::{Content, FilePart, Response, Status};
use crate::http::syntax::parse_number;
use crate::image::artifacts::{Artifacts, Referrer};
use crate::image::digest::{self, Digest};
use crate::image::json::to_bytes;
use crate::image::sbom::CYCLONE_DX;
use crate::image::{DOCKER, Descriptor, Document, Image, NAME, OCI, Platform, TAGS};
use crate::kinds::RequestKind;

pub const JSON: &str = "application/json";

// Values of Cache-Control (RFC 9111 section 5.2.2, RFC 8246). Field note: if a response has none of these values,
// Varnish 7.1 caches it for two minutes, even if it is the response to a health check.

/// For content that the client requested by its digest.
const IMMUTABLE: &str = "max-age=31536000, immutable";
/// For content that must be validated before each reuse.
const NO_CACHE: &str = "no-cache";
/// For content that must not be stored.
pub const NO_STORE: &str = "no-store";

/// The types that a tag may stand for, in the order of the table above.
const TAGGED: [&str; 4] = [OCI.index, DOCKER.index, OCI.manifest, DOCKER.manifest];

/// An image that is ready to be pulled.
pub struct Registry {
    /// The indexes and manifests. Those that a tag may stand for come first, in the order of [`TAGGED`].
    manifests: Vec<Resource>,
    /// The configs and layers.
    blobs: Vec<Resource>,
    /// For each index and manifest that has referrers: its digest, and the position in `manifests` of the index that
    /// lists its referrers.
    referrers: Vec<(Digest, usize)>,
    /// The empty index, for a digest without referrers.
    no_referrers: Resource,
}

/// A response, and the kind of its request.
pub struct Served<'a> {
    pub kind: RequestKind,
    pub response: Response<'a>,
}

impl<'a> Served<'a> {
    pub fn new(kind: RequestKind, response: Response<'a>) -> Self {
        Self { kind, response }
    }

    /// Returns the label for the log, or `None` if the response is not logged.
    pub fn label(&self) -> Option<&'static str> {
        let is_refusal = self.response.status.is_error() && self.kind != RequestKind::Tls;
        if is_refusal { Some("Refusing") } else { self.kind.text() }
    }
}

/// Content that is served by its digest.
struct Resource {
    digest: Digest,
    kind: RequestKind,
    /// The fields of a 200 to a request by digest, which the registry builds once.
    fields_by_digest: Vec<u8>,
    /// The fields of a 200 to a request by tag, or for the referrers of a digest.
    fields_by_name: Vec<u8>,
    content: Content<'static>,
}

impl Registry {
    /// Prepares an image to be served.
    pub fn new(image: Image) -> Self {
        let artifacts = Artifacts::of(&image);
        let Image { index, docker_list, mut platforms, own } = image;
        let mut manifests = vec![
            Resource::document(RequestKind::Index, index),
            Resource::document(RequestKind::DockerList, docker_list),
        ];
        let mut blobs = Vec::new();
        for (file, Platform { layer, .. }) in platforms.iter().enumerate() {
            let content = Content::file(FilePart { file, range: 0..layer.blob.size });
            blobs.push(Resource::new(RequestKind::Layer, Descriptor::of(layer), content));
        }
        platforms.swap(0, own);
        for Platform { config, manifest, docker_manifest, .. } in platforms {
            manifests.push(Resource::document(RequestKind::Manifest, manifest));
            manifests.push(Resource::document(RequestKind::DockerManifest, docker_manifest));
            blobs.push(Resource::document(RequestKind::Config, config));
        }
        let mut referrers = Vec::new();
        for Referrer { subject, manifest, index } in artifacts.referrers {
            manifests.push(Resource::document(RequestKind::Artifact, manifest));
            referrers.push((subject, manifests.len()));
            manifests.push(Resource::document(RequestKind::Referrers, index));
        }
        for document in [artifacts.config, artifacts.bill] {
            blobs.push(Resource::document(RequestKind::Artifact, document));
        }
        let no_referrers = Resource::document(RequestKind::Referrers, artifacts.no_referrers);
        Self { manifests, blobs, referrers, no_referrers }
    }

    /// Responds to a GET, or to a HEAD as if it were a GET, and ignores conditions and ranges.
    pub fn respond(&self, request: &Request<'_>) -> Served<'_> {
        let unknown = || unsupported(Status::NotFound, "there is nothing at this path", request);
        match &*request.path {
            "/v2" | "/v2/" => Served::new(RequestKind::Base, generated(Status::Ok, JSON, NO_CACHE, b"{}".to_vec())),
            "/v2/_catalog" => Served::new(RequestKind::Catalog, list("repositories", &[NAME], None, request)),
            path => self.member(path, request).unwrap_or_else(|| Served::new(RequestKind::Other, unknown())),
        }
    }

    /// Responds to `/v2/<name>/<collection>/<reference>`, or returns `None` for any other path. The path is split at
    /// its last two slashes, because a name may contain slashes.
    fn member(&self, path: &str, request: &Request<'_>) -> Option<Served<'_>> {
        let (rest, reference) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
        let (name, collection) = rest.rsplit_once('/')?;
        let name = check_name(name);
        let (kind_of_error, result) = match collection {
            "manifests" => (RequestKind::UnknownManifest, name.and_then(|_| self.manifest(reference, request))),
            "blobs" => (RequestKind::UnknownBlob, name.and_then(|_| self.blob(reference))),
            "tags" if reference == "list" => {
                let list = |name| Served::new(RequestKind::Tags, list("tags", &TAGS, Some(name), request));
                (RequestKind::Tags, name.map(list))
            }
            "referrers" => (RequestKind::Referrers, name.and_then(|_| self.referrers(reference, request))),
            _ => return None,
        };
        Some(result.unwrap_or_else(|response| Served::new(kind_of_error, response)))
    }

    /// Responds to a request for a manifest (distribution-spec, "Pulling manifests").
    fn manifest(&self, reference: &str, request: &Request<'_>) -> Result<Served<'_>, Response<'static>> {
        let unknown = ("MANIFEST_UNKNOWN", "no such manifest");
        if reference.contains(':') {
            // A digest selects the content, whatever Accept lists.
            let resource = find(&self.manifests, reference).map(Resource::by_digest);
            return resource.ok_or_else(|| not_found(unknown, reference));
        }
        let resource = if TAGS.contains(&reference) {
            // The first type in the table that the client accepts wins.
            let first = request.weights(TAGGED).iter().position(|weight| *weight > 0);
            Some(self.manifests[first.unwrap_or(0)].by_name())
        } else {
            // distribution-spec, "Referrers Tag Schema".
            let hash = reference.strip_prefix("sha256-");
            hash.and_then(|hash| self.referrers_of(&format!("sha256:{hash}"))).map(Resource::by_name)
        };
        // Field note: cosign requests the tag `sha256-<hex>.sig` for a signature and, like every other client, expects
        // a 404 if the tag does not exist.
        resource.ok_or_else(|| error(Status::NotFound, unknown.0, unknown.1, reference))
    }

    /// Lists the referrers of a digest (distribution-spec, "Listing Referrers"). If there are none, the response is an
    /// empty list, because after a 404 the client would request the referrers tag.
    fn referrers(&self, digest: &str, request: &Request<'_>) -> Result<Served<'_>, Response<'static>> {
        if !digest::is_well_formed(digest) {
            return Err(invalid(digest));
        }
        // A client may encode the slash of a media type, and `parameter` decodes it.
        let filter = request.parameter("artifactType");
        let is_wanted = filter.as_deref().is_none_or(|wanted| wanted == CYCLONE_DX);
        let index = self.referrers_of(digest).filter(|_| is_wanted);
        let mut served = index.unwrap_or(&self.no_referrers).by_name();
        if filter.is_some() {
            // "If filtering is requested and applied, the response MUST include" this field.
            served.response = served.response.with("OCI-Filters-Applied", "artifactType");
        }
        Ok(served)
    }

    /// Returns the digest of the image.
    pub fn digest(&self) -> &str {
        self.manifests[0].digest.as_str()
    }

    /// Returns the index that lists the referrers of the subject with this digest.
    fn referrers_of(&self, digest: &str) -> Option<&Resource> {
        let (_, place) = self.referrers.iter().find(|(subject, _)| subject.as_str() == digest)?;
        Some(&self.manifests[*place])
    }

    /// Responds to a request for a blob (distribution-spec, "Pulling blobs").
    fn blob(&self, digest: &str) -> Result<Served<'_>, Response<'static>> {
        // Field note: a manifest is not served as a blob, because containerd would store such a manifest without a
        // media type and fail later.
        let resource = find(&self.blobs, digest).map(Resource::by_digest);
        resource.ok_or_else(|| not_found(("BLOB_UNKNOWN", "no such blob"), digest))
    }
}

/// Checks the name of a repository. The last component must be `quinistry`, but any namespace may precede it. A client
/// that uses this server as a mirror requests `library/quinistry`, or a name in another namespace of the mirrored
/// registry.
fn check_name(name: &str) -> Result<&str, Response<'static>> {
    let (code, message) = if !name.split('/').all(is_name_component) {
        ("NAME_INVALID", "not a name that a repository can have")
    } else if name.rsplit('/').next() != Some(NAME) {
        ("NAME_UNKNOWN", "this registry has one repository: quinistry")
    } else {
        return Ok(name);
    };
    Err(error(Status::NotFound, code, message, name))
}

/// Checks a component of a name: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` (distribution-spec, "Pulling manifests").
fn is_name_component(component: &str) -> bool {
    let is_alphanumeric = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let mut runs = component.as_bytes().chunk_by(|a, b| is_alphanumeric(a) == is_alphanumeric(b));
    let is_word = |run: Option<&[u8]>| run.is_some_and(|run| is_alphanumeric(&run[0]));
    let is_separator = |run: &[u8]| matches!(run, b"." | b"_" | b"__") || run.iter().all(|&byte| byte == b'-');
    // Words and separators alternate, and the first run and the last run, which may be the same run, must be words.
    is_word(runs.next())
        && runs.next_back().is_none_or(|run| is_word(Some(run)))
        && runs.all(|run| is_word(Some(run)) || is_separator(run))
}

fn find<'a>(resources: &'a [Resource], digest: &str) -> Option<&'a Resource> {
    resources.iter().find(|resource| resource.digest.as_str() == digest)
}

impl Resource {
    fn document(kind: RequestKind, document: Document) -> Self {
        Self::new(kind, document.descriptor, Content::bytes(document.content))
    }

    fn new(kind: RequestKind, descriptor: Descriptor, content: Content<'static>) -> Self {
        let Descriptor { content_type, digest, size } = descriptor;
        // The digest is a strong validator, because equal digests mean equal bytes.
        let fields = |cache: &str| {
            format!(
                "Content-Type: {content_type}\r\nContent-Length: {size}\r\nDocker-Content-Digest: {digest}\r\n\
                 Accept-Ranges: bytes\r\nETag: \"{digest}\"\r\nCache-Control: {cache}\r\n"
            )
        };
        // RFC 9110 section 12.5.5: the document that a tag stands for depends on Accept. An index of referrers does
        // not, but Vary does no harm there.
        let by_name = fields(NO_CACHE) + "Vary: Accept\r\n";
        Self {
            digest,
            kind,
            fields_by_digest: fields(IMMUTABLE).into_bytes(),
            fields_by_name: by_name.into_bytes(),
            content,
        }
    }

    fn by_digest(&self) -> Served<'_> {
        self.serve(&self.fields_by_digest)
    }

    fn by_name(&self) -> Served<'_> {
        self.serve(&self.fields_by_name)
    }

    fn serve<'a>(&'a self, fields: &'a [u8]) -> Served<'a> {
        let Content { bytes, part } = &self.content;
        let content = Content { bytes: Cow::Borrowed(bytes), part: part.clone() };
        Served::new(self.kind, Response::new(Status::Ok, fields, content))
    }
}

/// Returns a response with entries of a sorted list, as the distribution-spec requires for tags ("Listing Tags"). `n`
/// is the maximum number of entries to return, and `last` is the last entry that the client has.
fn list(key: &str, all: &[&str], name: Option<&str>, request: &Request<'_>) -> Response<'static> {
    let n = request.parameter("n");
    let Some(number) = n.as_deref().map_or(Some(u64::MAX), parse_number) else {
        let message = "n must be a number of entries";
        // Field note: the reference implementation has this code, which the specification lacks.
        return error(Status::BadRequest, "PAGINATION_NUMBER_INVALID", message, &n.unwrap_or_default());
    };
    // The response begins after "last", which need not be an entry itself.
    let last = request.parameter("last").unwrap_or_default();
    let rest: Vec<&str> = all.iter().copied().filter(|entry| *entry > &*last).collect();
    let listed = &rest[..rest.len().min(usize::try_from(number).unwrap_or(usize::MAX))];

    let mut content = Map::new();
    content.insert(key.into(), listed.into());
    if let Some(name) = name {
        content.insert("name".into(), name.into());
    }
    let response = generated(Status::Ok, JSON, NO_CACHE, to_bytes(&content.into()));
    match listed.last() {
        // distribution-spec, "Listing Tags": with n=0, the response lists nothing, and MUST NOT have a Link.
        Some(last) if listed.len() < rest.len() => {
            let link = format!("<{}?n={number}&last={last}>; rel=\"next\"", request.path);
            response.with("Link", &link)
        }
        _ => response,
    }
}

/// Returns a response with generated content.
pub fn generated(status: Status, media_type: &str, cache: &str, content: Vec<u8>) -> Response<'static> {
    Response::generated(status, media_type, content).with("Cache-Control", cache)
}

/// Returns an error in the form of the distribution-spec ("Error Codes"): a body may have any format, but JSON MUST
/// have this shape. `code` is one of the codes of the specification, or one that only the reference implementation has.
/// Without Cache-Control, a cache may store some errors (RFC 9110 section 15.1) for longer than their cause lasts.
pub fn error(status: Status, code: &str, message: &str, detail: &str) -> Response<'static> {
    let errors = json!({ "errors": [{ "code": code, "message": message, "detail": detail }] });
    generated(status, JSON, NO_STORE, to_bytes(&errors))
}

pub fn unsupported(status: Status, message: &str, request: &Request<'_>) -> Response<'static> {
    error(status, "UNSUPPORTED", message, &request.path)
}

/// Returns the error for a digest that no content has, or that violates the grammar.
fn not_found((code, message): (&str, &str), digest: &str) -> Response<'static> {
    if digest::is_well_formed(digest) { error(Status::NotFound, code, message, digest) } else { invalid(digest) }
}

/// Returns the error for a digest that violates the grammar.
fn invalid(digest: &str) -> Response<'static> {
    let message = "a digest is an algorithm, a colon and an encoded hash";
    error(Status::BadRequest, "DIGEST_INVALID", message, digest)
}
