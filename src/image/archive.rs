//! Writes an image as one tar archive, for machines that do not yet have a registry from which to pull the image.
//!
//! Documents: OCI image-spec, `image-layout.md`; for `manifest.json`, what `docker save` writes.
//!
//! ```text
//!     oci-layout                      {"imageLayoutVersion": "1.0.0"}
//!     index.json                      names the image, and leads to its index      \  the OCI's way
//!     manifest.json                   names the image, its config and its layers    > Docker's way
//!     blobs/sha256/<index>            \                                            /
//!     blobs/sha256/<manifest>          \  the image;
//!     blobs/sha256/<config>            /  both ways lead there
//!     blobs/sha256/<layer>            /
//! ```
//!
//! The archive can be an OCI image layout and a Docker archive at the same time, because the readers of each format
//! look for their own file and ignore that of the other format. The archive is as deterministic as the image.
//!
//! Because Docker's format has no index, `manifest.json` leads to the image for the platform of this process.
//!
//! Limits: those of `tar`.
//!
//! Deliberately absent: reading such an archive.

use std::io::{self, Read, Write};

use serde_json::{Value, json};

use crate::image::json::to_bytes;
use crate::image::{Descriptor, Document, Image, NAME, OCI, Platform, index, tar};

/// The mode of the files, which every user may read and nobody may run.
const MODE: u32 = 0o644;

/// Writes the archive of `image`. `contents` are the contents of its layers, in the order of `image.platforms`.
pub fn write<R: Read>(
    image: &Image,
    contents: impl IntoIterator<Item = R>,
    archive: &mut impl Write,
) -> io::Result<()> {
    let documents = [
        ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
        ("index.json", layout_index(image)),
        ("manifest.json", docker_images(image)),
    ];
    for (name, json) in documents {
        append(archive, name, &to_bytes(&json))?;
    }
    // Field note: each directory has an entry, because several readers of layouts do not make missing directories.
    for directory in ["blobs/", "blobs/sha256/"] {
        tar::append_directory(archive, directory)?;
    }
    for Document { descriptor, content } in image.documents() {
        append(archive, &path(descriptor), content)?;
    }
    for (Platform { layer, .. }, mut content) in image.platforms.iter().zip(contents) {
        let descriptor = Descriptor::of(layer);
        tar::append(archive, &path(&descriptor), MODE, descriptor.size, &mut content)?;
    }
    archive.write_all(&tar::END)
}

fn append(archive: &mut impl Write, path: &str, mut content: &[u8]) -> io::Result<()> {
    tar::append(archive, path, MODE, content.len() as u64, &mut content)
}

/// Returns the path of a blob: `blobs/<algorithm>/<encoded>` (image-layout.md).
fn path(descriptor: &Descriptor) -> String {
    format!("blobs/{}", descriptor.digest.as_str().replace(':', "/"))
}

/// Builds the index of the layout, whose one entry leads to the image's own index.
///
/// Field note: the entry has its name in two annotations, because containerd and podman read containerd's annotation,
/// whereas umoci, skopeo and oras read the OCI's. There is only one entry, because with several, skopeo and crane would
/// require the user to choose one, and Docker's containerd store would show an image without a tag. A kubelet looks for
/// a pinned image by a name with a digest. This name must be added after the import, with `ctr images tag` (see
/// `k8s/README.md`), because `ctr images import --digests --base-name NAME` adds it in containerd 1.6, but not in 2.1.
fn layout_index(image: &Image) -> Value {
    let mut entry = image.index.descriptor.to_json(OCI.index);
    let annotations = json!({
        "io.containerd.image.name": format!("docker.io/library/{NAME}:latest"),
        "org.opencontainers.image.ref.name": "latest",
    });
    entry["annotations"] = annotations;
    index(OCI.index, vec![entry])
}

/// Builds the list of images in a Docker archive.
fn docker_images(image: &Image) -> Value {
    let config = path(&image.platforms[image.own].config.descriptor);
    let mut entry = json!({ "Config": config, "RepoTags": [format!("{NAME}:latest")] });
    let layers = image.platforms.iter().map(|platform| path(&Descriptor::of(&platform.layer)));
    entry["Layers"] = layers.collect();
    vec![entry].into()
}
