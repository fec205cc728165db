//! Holds the Kubernetes manifests in `k8s/`, which run the image, and pins them to the digest of an image.
//!
//! Documents: the Kubernetes API, apps/v1 `DaemonSet`; for references by digest, distribution-spec, "Pulling
//! manifests".
//!
//! Unlike a tag, a digest always names the same image. A node that runs a pinned pod therefore runs exactly this
//! program, wherever the node got the image.
//!
//! Deliberately absent: a YAML parser, because the manifests are part of the source, and only the values of two keys
//! change.

use std::fmt::Write;

use crate::image::Image;

/// Runs the image that the node already has, or gets from a mirror. The server listens on port 5000.
pub const PARENT: &str = include_str!("../k8s/parent.yaml");

/// Runs the image from the parent on the same node. The server listens on port 5001.
pub const CHILD: &str = include_str!("../k8s/child.yaml");

/// Pins a manifest to the digest of an image, and to nodes of the architectures of the image. All other lines, comments
/// included, stay as they are.
pub fn pin(manifest: &str, image: &Image) -> String {
    let digest = image.index.descriptor.digest;
    let architectures: Vec<_> = image.platforms.iter().map(|platform| platform.layer.architecture).collect();
    let mut pinned = String::new();
    for line in manifest.lines() {
        let (key, value) = line.split_once(": ").unwrap_or((line, ""));
        match key.trim_ascii_start() {
            "image" => writeln!(pinned, "{key}: {value}@{digest}"),
            // The manifest has one list of values: the architectures of the nodes.
            "values" => writeln!(pinned, "{key}: [{}]", architectures.join(", ")),
            _ => writeln!(pinned, "{line}"),
        }
        .expect("a String takes everything");
    }
    pinned
}
