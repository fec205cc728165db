//! Builds a container image from executables, one for each architecture.
//!
//! Documents: OCI image-spec (`image-index.md`, `manifest.md`, `config.md`, `descriptor.md`); for old clients, Docker's
//! "Image Manifest Version 2, Schema 2", which defines the same documents under other media types.
//!
//! An image is a tree of content. Each document refers to the content below it by the digests of that content:
//!
//! ```text
//!     index: which manifest is for which platform; its digest is "the digest of the image"
//!       │
//!       ├─ amd64 ─> manifest ──> config: run /amd64/quinistry --with /arm64/quinistry
//!       │             ├────────> layer: gzip( tar( amd64/quinistry )) <────────┐
//!       │             └────────> layer: gzip( tar( arm64/quinistry )) <─────┐  │
//!       │                                                                   │  │
//!       └─ arm64 ─> manifest ──> config: run /arm64/quinistry --with /amd64/quinistry
//!                     ├─────────────────────────────────────────────────────│──┘
//!                     └─────────────────────────────────────────────────────┘
//! ```
//!
//! A client that knows the digest of the index can check every byte of the tree, but needs only the index and the
//! branch of one platform.
//!
//! The documents are JSON, which is abridged here:
//!
//! ```text
//!     index      {"manifests": [{"digest": "sha256:…", "platform": {"architecture": "amd64", "os": "linux"}}, …]}
//!     manifest   {"config": {"digest": "sha256:…"}, "layers": [{"digest": "sha256:…"}, …]}
//!     config     {"architecture": "amd64", "config": {"Entrypoint": ["/amd64/quinistry", …]},
//!                 "rootfs": {"diff_ids": ["sha256:…", …]}}
//! ```
//!
//! The image of every platform has *all* layers, because a program that came with only the executable for its own
//! processor could not serve an image for another processor. With all layers, ordered by architecture, a child on any
//! platform finds every executable that its parent had. It then computes the same layers, configs, manifests and index,
//! so the image has the same digest in every generation and on every platform. The images of the platforms differ only
//! in the config, which states the architecture and which file to run.
//!
//! Because the executables and the source determine every byte of the documents, all executables must be built from one
//! source, and with one `SOURCE_DATE_EPOCH`. The rules that keep this true are in `lib.rs`, under "What must not
//! change".
//!
//! The index and the manifests are in the OCI's form. Because some old clients read only Docker's form, the image also
//! has Docker's list and manifests, which refer to the same configs and layers, but have other media types and so other
//! digests. For a tag, `registry` serves them only to such clients, and no document of the OCI's form refers to them.
//!
//! Limits: one executable for each architecture, and therefore one variant of `arm`.
//!
//! Deliberately absent: a signature, because a child could serve only a signature that is in its image, and no
//! signature can be inside the content that it signs.

use serde_json::{Value, json};

use crate::clock;
use crate::image::digest::Digest;
use crate::image::layer::Layer;

pub mod archive;
pub mod artifacts;
pub mod digest;
pub mod executable;
pub mod gzip;
pub mod json;
pub mod layer;
pub mod sbom;
pub mod tar;

/// The name of the repository and of the program.
pub const NAME: &str = layer::FILE_NAME;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The tags of the image, in the sorted order that `tags/list` requires.
pub const TAGS: [&str; 2] = [VERSION, "latest"];

/// The port that the image exposes, and the default port of the server.
pub const PORT: u16 = 8080;

/// The user and the group in the config: not root, and by number, because Kubernetes' `runAsNonRoot` requires a number.
/// By convention, distroless images use 65532.
const USER: &str = "65532:65532";

/// The media types of one image format.
pub struct Format {
    pub index: &'static str,
    pub manifest: &'static str,
    pub config: &'static str,
    pub layer: &'static str,
}

impl Format {
    /// Builds the index, which has one manifest for each platform.
    fn build_index(&self, platforms: &[Platform], manifest: fn(&Platform) -> &Document) -> Document {
        let entry = |of: &Platform| {
            let mut entry = manifest(of).descriptor.to_json(self.manifest);
            entry["platform"] = platform(of.layer.architecture);
            entry
        };
        Document::json(self.index, &index(self.index, platforms.iter().map(entry).collect()))
    }

    fn build_manifest(&self, config: &Document, layers: &[Layer]) -> Document {
        let config = config.descriptor.to_json(self.config);
        let layers = layers.iter().map(|layer| Descriptor::of(layer).to_json(self.layer));
        Document::json(self.manifest, &manifest(self.manifest, config, layers.collect()))
    }
}

pub const OCI: Format = Format {
    index: "application/vnd.oci.image.index.v1+json",
    manifest: "application/vnd.oci.image.manifest.v1+json",
    config: "application/vnd.oci.image.config.v1+json",
    layer: "application/vnd.oci.image.layer.v1.tar+gzip",
};

/// The media types of Docker, which calls an index a manifest list.
pub const DOCKER: Format = Format {
    index: "application/vnd.docker.distribution.manifest.list.v2+json",
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    config: "application/vnd.docker.container.image.v1+json",
    layer: "application/vnd.docker.image.rootfs.diff.tar.gzip",
};

/// The Content-Type of every blob. Indexes and manifests are served with their own media types.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// A reference to content (image-spec, `descriptor.md`).
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// The Content-Type with which the registry serves the content.
    pub content_type: &'static str,
    pub digest: Digest,
    /// The length of the content in bytes.
    pub size: u64,
}

impl Descriptor {
    pub fn of(layer: &Layer) -> Self {
        Self { content_type: OCTET_STREAM, digest: layer.blob.digest, size: layer.blob.size }
    }

    /// Returns this descriptor as JSON. The media type depends on the format of the document that contains it.
    fn to_json(self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest.as_str(), "size": self.size })
    }
}

/// Small content, with its descriptor.
pub struct Document {
    pub descriptor: Descriptor,
    pub content: Vec<u8>,
}

impl Document {
    fn new(content_type: &'static str, content: Vec<u8>) -> Self {
        let descriptor = Descriptor { content_type, digest: Digest::of(&content), size: content.len() as u64 };
        Self { descriptor, content }
    }

    fn json(content_type: &'static str, json: &Value) -> Self {
        Self::new(content_type, json::to_bytes(json))
    }
}

/// The image: everything but the bytes of its layers.
pub struct Image {
    /// The index. Its digest is the digest of the image.
    pub index: Document,
    /// Docker's form of the index, for old clients.
    pub docker_list: Document,
    /// The platforms, ordered by architecture.
    pub platforms: Vec<Platform>,
    /// The position in `platforms` of the platform that this process runs on.
    pub own: usize,
}

/// The image for one platform.
pub struct Platform {
    /// The layer with the executable for this platform.
    pub layer: Layer,
    pub config: Document,
    pub manifest: Document,
    /// Docker's form of the manifest, with the same config and layers.
    pub docker_manifest: Document,
}

impl Image {
    /// Builds an image from one layer for each architecture. The first layer must hold the executable of this process.
    /// `C` is the content of a layer, or a handle to the content, and is moved but never read. Returns the contents in
    /// the order of [`Image::platforms`], and the image.
    pub fn assemble<C>(mut packed: Vec<(C, Layer)>) -> (Vec<C>, Self) {
        let own = packed[0].1.architecture;
        packed.sort_unstable_by_key(|(_, layer)| layer.architecture);
        let (contents, layers): (Vec<C>, Vec<Layer>) = packed.into_iter().unzip();
        let own = layers.iter().position(|layer| layer.architecture == own);
        let platforms: Vec<_> = layers.iter().map(|layer| Platform::new(layer, &layers)).collect();
        let image = Self {
            index: OCI.build_index(&platforms, |platform| &platform.manifest),
            docker_list: DOCKER.build_index(&platforms, |platform| &platform.docker_manifest),
            own: own.expect("the first layer is one of them"),
            platforms,
        };
        (contents, image)
    }

    /// Iterates over the documents to which the digest of the image leads: the index, and the manifest and config of
    /// each platform.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        let of_platforms = self.platforms.iter().flat_map(|platform| [&platform.manifest, &platform.config]);
        std::iter::once(&self.index).chain(of_platforms)
    }
}

impl Platform {
    fn new(layer: &Layer, layers: &[Layer]) -> Self {
        let config = Document::json(OCTET_STREAM, &config(layer.architecture, layers));
        Self {
            layer: *layer,
            manifest: OCI.build_manifest(&config, layers),
            docker_manifest: DOCKER.build_manifest(&config, layers),
            config,
        }
    }
}

/// Returns the fields that describe a platform in indexes and configs. Only `arm` needs a variant.
fn platform(architecture: &str) -> Value {
    let mut platform = json!({ "architecture": architecture, "os": "linux" });
    if architecture == "arm" {
        platform["variant"] = executable::ARM_VARIANT.into();
    }
    platform
}

/// Builds the config of a platform, which the runtime reads and `docker inspect` shows.
fn config(architecture: &str, layers: &[Layer]) -> Value {
    let created = clock::rfc3339(clock::BUILT);
    let program = format!("/{}", layer::path(architecture));
    let seconds = |s: u64| s * 1_000_000_000; // Docker counts in nanoseconds.
    let mut runtime = json!({
        // With this path, `docker exec CONTAINER quinistry ...` finds the program for this platform.
        "Env": [format!("PATH=/{architecture}")],
        "ExposedPorts": { format!("{PORT}/tcp"): {} },
        // Field note: the image-spec only reserves this field, which Docker defines and honors. containerd ignores it,
        // and podman 4.3 and 5.8 take it only from Docker's form of a manifest.
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
    });
    let others = layers.iter().filter(|layer| layer.architecture != architecture);
    let with = others.flat_map(|other| ["--with".into(), format!("/{}", layer::path(other.architecture))]);
    runtime["Entrypoint"] = std::iter::once(program).chain(with).collect();

    // config.md: the history has one entry for each layer, and one for each step that made no layer. There are no such
    // steps here.
    let history = |layer: &Layer| {
        let made_by = format!("{NAME} packed {}", layer::path(layer.architecture));
        json!({ "created": created, "created_by": made_by })
    };
    // "The rootfs key references the layer content addresses used by the image. This makes the image config hash depend
    // on the filesystem hash." (config.md) A diff ID is the digest of the tar archive, and not of the compressed layer.
    // No runtime unpacks an image with a wrong diff ID.
    let mut rootfs = json!({ "type": "layers" });
    rootfs["diff_ids"] = layers.iter().map(|layer| layer.tar.digest.as_str()).collect();

    let mut config = platform(architecture);
    config["created"] = created.as_str().into();
    config["config"] = runtime;
    config["rootfs"] = rootfs;
    config["history"] = layers.iter().map(history).collect();
    config
}

/// Builds a manifest. Here and elsewhere in this file, a value is moved into the object by an assignment to its key,
/// because `json!` would copy it.
fn manifest(media_type: &str, config: Value, layers: Vec<Value>) -> Value {
    let mut manifest = json!({ "schemaVersion": 2, "mediaType": media_type });
    manifest["config"] = config;
    manifest["layers"] = layers.into();
    manifest
}

fn index(media_type: &str, manifests: Vec<Value>) -> Value {
    let mut index = json!({ "schemaVersion": 2, "mediaType": media_type });
    index["manifests"] = manifests.into();
    index
}
