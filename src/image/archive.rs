//! Turns an image into one tar archive, for those who have no registry to pull it from yet.
//!
//! Documents: OCI image-spec, `image-layout.md`; for `manifest.json`, what `docker save` writes.
//!
//! ```text
//!     oci-layout                      {"imageLayoutVersion": "1.0.0"}
//!     index.json                      names the image, and leads to its index      \  the OCI's way
//!     manifest.json                   names the image, its config and its layers    > Docker's way
//!     blobs/sha256/<index>            \                                            /
//!     blobs/sha256/<manifest>          \  all that the registry serves;
//!     blobs/sha256/<config>            /  both ways lead there
//!     blobs/sha256/<layer>            /
//! ```
//!
//! One archive is both an OCI image layout and a Docker archive, because each reader looks for its own
//! file and ignores the other's. The archive is as deterministic as the image.
//!
//! Docker's way knows no index. It leads to the image for this process's platform.
//!
//! Limits: those of `tar`.
//!
//! Deliberately absent: reading such an archive.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::image::json::to_bytes;
use crate::image::tar::{self, Error};
use crate::image::{Descriptor, Document, Image, NAME, OCI_INDEX, index, insert};

/// Every user may read the files, and none may run them.
const MODE: u32 = 0o644;

/// Writes the archive of `image`. `contents` are those of its layers, in their order.
///
/// # Errors
///
/// When reading or writing fails. The archive is then useless.
pub fn write<R: Read>(
    image: &Image,
    contents: impl IntoIterator<Item = R>,
    archive: &mut impl Write,
) -> Result<(), Error> {
    let documents = [
        ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
        ("index.json", layout_index(image)),
        ("manifest.json", docker_images(image)),
    ];
    for (name, json) in documents {
        append(archive, name, &to_bytes(&json))?;
    }
    for Document { descriptor, content } in image.documents() {
        append(archive, &path(descriptor), content)?;
    }
    for (descriptor, mut content) in image.layers.iter().map(Descriptor::of).zip(contents) {
        tar::append(archive, &path(&descriptor), MODE, descriptor.size, &mut content)?;
    }
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

/// The index of the layout: it leads to the image's own index, under each name that a reader looks for.
///
/// Field note: three entries are the fewest that suit every reader.
///
/// * containerd 1.6 to 2.1 takes one name from an entry, from an annotation of its own. A kubelet asks
///   containerd for `NAME:TAG`, so the canonical index has an entry with that name.
/// * For a pinned image a kubelet asks for `NAME@DIGEST`, so the canonical index has a second entry.
/// * umoci 0.4 and skopeo 1.9 (`oci-archive:FILE:latest`) look for a tag, and only among the OCI's media
///   types. So the OCI index is the third entry. containerd gets it under its own digest.
fn layout_index(image: &Image) -> Value {
    const CONTAINERD: &str = "io.containerd.image.name";
    const OCI_TAG: &str = "org.opencontainers.image.ref.name";
    let name = format!("docker.io/library/{NAME}");
    let pinned = |document: &Document| format!("{name}@{}", document.descriptor.digest);
    let entries = vec![
        entry(&image.docker_list, json!({ CONTAINERD: format!("{name}:latest") })),
        entry(&image.docker_list, json!({ CONTAINERD: pinned(&image.docker_list) })),
        entry(&image.oci_index, json!({ CONTAINERD: pinned(&image.oci_index), OCI_TAG: "latest" })),
    ];
    index(OCI_INDEX, entries)
}

fn entry(document: &Document, annotations: Value) -> Value {
    let mut entry = document.descriptor.to_json(document.descriptor.content_type);
    insert(&mut entry, "annotations", annotations);
    entry
}

/// The list of images in a Docker archive.
fn docker_images(image: &Image) -> Value {
    let config = path(&image.platforms[image.own].config.descriptor);
    let mut entry = json!({ "Config": config, "RepoTags": [format!("{NAME}:latest")] });
    insert(&mut entry, "Layers", image.layers.iter().map(Descriptor::of).map(|layer| path(&layer)).collect());
    vec![entry].into()
}
