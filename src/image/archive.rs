//! An image to one tar, for those who have no registry to pull it from yet.
//!
//! Documents: OCI image-spec, `image-layout.md`; for `manifest.json`, what `docker save` writes.
//!
//! ```text
//!     oci-layout                      {"imageLayoutVersion": "1.0.0"}
//!     index.json                      names the image, and leads to its manifest   \  the OCI's way
//!     manifest.json                   names the image, its config and its layer     > Docker's way
//!     blobs/sha256/<manifest>         both manifests                               /
//!     blobs/sha256/<config>           \  what all lead to
//!     blobs/sha256/<layer>            /
//! ```
//!
//! One archive is both an OCI image layout and a Docker archive, since each reader looks for its own
//! file and passes over the other's. It is as deterministic as the image.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::image::tar::{self, Error};
use crate::image::{Descriptor, Document, Image, NAME, OCI_INDEX};

/// Files are for all to read, and for no one to run.
const MODE: u32 = 0o644;

/// Writes the archive of `image`, whose layer's content is `layer`.
///
/// # Errors
///
/// When reading or writing fails. The archive is then useless.
pub fn write(image: &Image, layer: &mut impl Read, archive: &mut impl Write) -> Result<(), Error> {
    let Image { manifest, oci_manifest, config, layer: descriptor, .. } = image;
    let documents = [
        ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
        ("index.json", index(image)),
        ("manifest.json", docker_index(config, descriptor)),
    ];
    for (name, json) in documents {
        append(archive, name, json.to_string().as_bytes())?;
    }
    for Document { descriptor, content } in [manifest, oci_manifest, config] {
        append(archive, &path(descriptor), content)?;
    }
    tar::append(archive, &path(descriptor), MODE, descriptor.size, layer)?;
    archive.write_all(&tar::END)?;
    Ok(())
}

fn append(archive: &mut impl Write, path: &str, mut content: &[u8]) -> Result<(), Error> {
    tar::append(archive, path, MODE, content.len() as u64, &mut content)
}

/// image-layout.md: "The blobs directory ... `<alg>/<encoded>`".
fn path(descriptor: &Descriptor) -> String {
    format!("blobs/{}", descriptor.digest.as_str().replace(':', "/"))
}

/// The index of the layout.
///
/// Field note: umoci 0.4 and skopeo 1.9 (`oci-archive:`) look for a tag, and want it to lead to an OCI
/// manifest. containerd 1.6 to 2.1 looks for its own annotation first, and takes either manifest: so
/// the canonical one has that, and no tag. (To the other it gives a name of its own making.) A kubelet
/// finds a pinned image only if containerd has it under a name with the digest, too.
fn index(image: &Image) -> Value {
    const CONTAINERD_NAME: &str = "io.containerd.image.name";
    let name = format!("docker.io/library/{NAME}");
    let pinned = format!("{name}@{}", image.manifest.descriptor.digest);
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            descriptor(&image.manifest, CONTAINERD_NAME, &(name + ":latest")),
            descriptor(&image.manifest, CONTAINERD_NAME, &pinned),
            descriptor(&image.oci_manifest, "org.opencontainers.image.ref.name", "latest"),
        ],
    })
}

fn descriptor(manifest: &Document, annotation: &str, value: &str) -> Value {
    let Descriptor { content_type, digest, size } = manifest.descriptor;
    let annotations = json!({ annotation: value });
    json!({ "mediaType": content_type, "digest": digest.as_str(), "size": size, "annotations": annotations })
}

fn docker_index(config: &Document, layer: &Descriptor) -> Value {
    json!([{
        "Config": path(&config.descriptor),
        "RepoTags": [format!("{NAME}:latest")],
        "Layers": [path(layer)],
    }])
}
