//! An executable to a container image.
//!
//! Documents: OCI image-spec (`manifest.md`, `config.md`, `layer.md`); for the canonical manifest,
//! Docker's "Image Manifest Version 2, Schema 2", of which the OCI's is a copy under other names.
//!
//! An image is three kinds of content, each named by the digest of its bytes:
//!
//! ```text
//!     manifest ── the digest of this one is "the digest of the image"
//!        │
//!        ├── config: how to run it; lists the layers once more, by diff ID
//!        │
//!        └── layer: gzip( tar( /quinistry ) )
//!             │           └── its digest is the diff ID
//!             └── its digest names the blob
//! ```
//!
//! So whoever knows one digest can check every byte below it, and so the quine is safe: the
//! executable determines the tar, the tar the layer, the layer the config and the manifest. No
//! clock, path, user, map order or random seed has a say (keys in JSON are sorted), and a child
//! that packs the same executable gets the same digests.
//!
//! The layer is the one large thing. It streams from the executable into a sink of the caller's,
//! through two hashes and the compressor, and never stands in memory.
//!
//! Deliberately absent: more than one layer or platform; for those one would write an index.

use std::fmt;
use std::io::{self, Read, Write};

use serde_json::{Value, json};

use crate::clock;
use crate::image::digest::{DiffId, Digest, Hashing};
use crate::image::gzip::Gzip;

pub mod archive;
pub mod digest;
pub mod executable;
pub mod gzip;
pub mod tar;

/// The name of the repository, of the file in the layer and of the process.
pub const NAME: &str = "quinistry";

/// The version of the program, and the tag beside `latest`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The tags of the image, sorted as `tags/list` must have them.
pub const TAGS: [&str; 2] = [VERSION, "latest"];

/// The port that the image exposes and the server listens on unless told otherwise.
pub const PORT: u16 = 8080;

/// Not root, and numeric, so that Kubernetes' `runAsNonRoot` can tell. 65532 is what distroless
/// images made the custom.
const USER: &str = "65532:65532";

/// When the image says it was made, in seconds since the epoch: a time that the builder may fix for
/// all builds, or none. See <https://reproducible-builds.org/specs/source-date-epoch/>.
const CREATED: u64 = match option_env!("SOURCE_DATE_EPOCH") {
    None => 0,
    Some(text) => match u64::from_str_radix(text, 10) {
        Ok(seconds) => seconds,
        Err(_) => panic!("SOURCE_DATE_EPOCH has to be a number of seconds"),
    },
};

/// The media types of one image format.
struct Format {
    manifest: &'static str,
    config: &'static str,
    layer: &'static str,
}

const DOCKER: Format = Format {
    manifest: DOCKER_MANIFEST,
    config: "application/vnd.docker.container.image.v1+json",
    layer: "application/vnd.docker.image.rootfs.diff.tar.gzip",
};

const OCI: Format = Format {
    manifest: OCI_MANIFEST,
    config: "application/vnd.oci.image.config.v1+json",
    layer: "application/vnd.oci.image.layer.v1.tar+gzip",
};

/// The media type of the canonical manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The media type of the manifest for those who take no other.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The media type of an image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A blob is bytes to the registry; what they mean, the manifest says.
const BLOB: &str = "application/octet-stream";

/// What there is to know of some content without having it (image-spec, `descriptor.md`).
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// The Content-Type with which the registry serves the content. In a manifest a blob has a media
    /// type besides, which depends on the manifest's format.
    pub content_type: &'static str,
    /// The digest of the content.
    pub digest: Digest,
    /// The length of the content in bytes.
    pub size: u64,
}

impl Descriptor {
    /// This descriptor in a manifest, under the media type that its format has for it.
    fn to_json(self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest.as_str(), "size": self.size })
    }
}

/// Small content, with its descriptor.
pub struct Document {
    /// What the content is.
    pub descriptor: Descriptor,
    /// The content itself.
    pub content: Vec<u8>,
}

impl Document {
    fn new(content_type: &'static str, json: &Value) -> Self {
        // Indented, because people look at it with curl; bytes are what counts to a digest.
        let content = serde_json::to_vec_pretty(json).expect("a Value has string keys only");
        let descriptor =
            Descriptor { content_type, digest: Digest::of(&content), size: content.len() as u64 };
        Self { descriptor, content }
    }
}

/// A packed image: everything but the bytes of its layer.
pub struct Image {
    /// The canonical manifest, Docker schema 2.
    pub manifest: Document,
    /// The OCI manifest of the same config and layer.
    pub oci_manifest: Document,
    /// The config.
    pub config: Document,
    /// The layer; the caller has its content.
    pub layer: Descriptor,
    /// What it runs on, as `GOARCH` names it.
    pub architecture: &'static str,
}

/// Why an executable could not be packed.
#[derive(Debug)]
pub enum Error {
    /// The file is not one that runs in an image of its own.
    Executable(executable::Error),
    /// The file cannot be put into a tar archive.
    Tar(tar::Error),
    /// Reading the executable or writing the layer failed.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Executable(error) => error.fmt(f),
            Self::Tar(error) => write!(f, "cannot make the layer: {error}"),
            Self::Io(error) => write!(f, "cannot make the layer: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<executable::Error> for Error {
    fn from(error: executable::Error) -> Self {
        Self::Executable(error)
    }
}

impl From<tar::Error> for Error {
    fn from(error: tar::Error) -> Self {
        Self::Tar(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Packs an executable of `size` bytes into an image. The layer's content goes to `layer`.
///
/// # Errors
///
/// When the file is no static Linux executable, when its size is not `size` or more than tar
/// holds, and when reading or writing fails.
pub fn pack(mut executable: impl Read, size: u64, layer: impl Write) -> Result<Image, Error> {
    let mut start = Vec::new();
    executable.by_ref().take(executable::ENOUGH as u64).read_to_end(&mut start)?;
    let architecture = executable::architecture(&start)?;

    // Read from the bottom: what the tar writer writes is hashed for the diff ID, then compressed,
    // and what comes out is hashed again for the blob's digest.
    let compressed = Hashing::new(layer);
    let mut archive = Hashing::new(Gzip::new(compressed)?);
    tar::append(&mut archive, NAME, 0o755, size, &mut start.chain(executable))?;
    archive.write_all(&tar::END)?;
    let (gzip, diff_id, _) = archive.finish();
    let (_, digest, layer_size) = gzip.finish()?.finish();

    let diff_id = DiffId(diff_id);
    let layer = Descriptor { content_type: BLOB, digest, size: layer_size };
    let config = Document::new(BLOB, &config(architecture, diff_id));
    Ok(Image {
        manifest: manifest(&DOCKER, &config, layer),
        oci_manifest: manifest(&OCI, &config, layer),
        config,
        layer,
        architecture,
    })
}

/// The config: what the runtime is told, and what people see with `docker inspect`.
fn config(architecture: &str, diff_id: DiffId) -> Value {
    let created = clock::rfc3339(CREATED);
    let program = format!("/{NAME}");
    let seconds = |s: u64| s * 1_000_000_000; // Docker counts in nanoseconds.
    json!({
        "architecture": architecture,
        "os": "linux",
        "created": created,
        "config": {
            "Entrypoint": [program],
            // So that `docker exec CONTAINER quinistry ...` finds it.
            "Env": ["PATH=/"],
            "ExposedPorts": { format!("{PORT}/tcp"): {} },
            // Field note: not in the OCI's list but in Docker's. Podman 4.3 honours it only in an
            // image that came by a schema 2 manifest; containerd ignores it.
            "Healthcheck": {
                "Test": ["CMD", program, "healthcheck"],
                "Interval": seconds(30),
                "Timeout": seconds(3),
                "StartPeriod": seconds(5),
                "Retries": 3,
            },
            "Labels": {
                "org.opencontainers.image.title": NAME,
                "org.opencontainers.image.description": env!("CARGO_PKG_DESCRIPTION"),
                "org.opencontainers.image.version": VERSION,
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
            },
            "StopSignal": "SIGTERM",
            "User": USER,
            "WorkingDir": "/",
        },
        // "The rootfs key references the layer content addresses used by the image. This makes the
        // image config hash depend on the filesystem hash." (config.md)
        "rootfs": { "type": "layers", "diff_ids": [diff_id.0.as_str()] },
        // config.md: one entry for each layer, and one for each step that made none.
        "history": [{ "created": created, "created_by": format!("{NAME} packed itself") }],
    })
}

fn manifest(format: &Format, config: &Document, layer: Descriptor) -> Document {
    Document::new(
        format.manifest,
        &json!({
            "schemaVersion": 2,
            "mediaType": format.manifest,
            "config": config.descriptor.to_json(format.config),
            "layers": [layer.to_json(format.layer)],
        }),
    )
}
