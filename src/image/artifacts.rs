//! Builds the artifacts that refer to an image: a bill of materials for the index and each manifest.
//!
//! Documents: OCI image-spec, `manifest.md`, section "Guidelines for Artifact Usage"; distribution-spec,
//! "Listing Referrers".
//!
//! ```text
//!     the index or    subject
//!     a manifest   <─────────── manifest ──> config: {}
//!     of the image               ^     └───> layer: the CycloneDX document
//!                                │
//!                    index of the subject's referrers
//! ```
//!
//! An artifact refers to its subject by digest, but the subject does not refer to the artifact, so the image is the
//! same with and without artifacts. An archive of the image has no artifacts.
//!
//! A client asks for the referrers of the digest that it has, which may be that of the index or that of a manifest. The
//! index and each manifest therefore have an artifact of their own. The artifacts differ in the subject, and share the
//! config and the layer.
//!
//! Deliberately absent: referrers of an artifact; and those of Docker's form of an index or manifest, because the
//! clients that read only Docker's form are older than referrers.

use serde_json::json;

use crate::image::digest::Digest;
use crate::image::sbom::{self, CYCLONE_DX};
use crate::image::{Descriptor, Document, Image, OCI, OCTET_STREAM, index, manifest};

/// All artifacts that refer to an image, and the documents that the artifacts share.
pub struct Artifacts {
    /// The config of every artifact. An artifact must have one.
    pub config: Document,
    /// The layer of every artifact: the bill of materials.
    pub bill: Document,
    /// The artifact of the index, and the artifact of each manifest.
    pub referrers: Vec<Referrer>,
    /// The empty index, which is the list of referrers of any other content.
    pub no_referrers: Document,
}

/// The artifact that refers to the index or to a manifest.
pub struct Referrer {
    /// The digest of the index or the manifest.
    pub subject: Digest,
    /// The manifest of the artifact.
    pub manifest: Document,
    /// The index of the referrers of the subject, of which this artifact is the only entry.
    pub index: Document,
}

impl Artifacts {
    pub fn of(image: &Image) -> Self {
        let config = Document::json(OCTET_STREAM, &json!({}));
        let bill = Document::new(OCTET_STREAM, sbom::DOCUMENT.to_vec());
        // Configs are documents as well, but no artifact refers to a config.
        let subjects = image.documents().filter(|document| document.descriptor.content_type != OCTET_STREAM);
        let referrers = subjects.map(|subject| Referrer::new(&subject.descriptor, &config, &bill)).collect();
        let no_referrers = Document::json(OCI.index, &index(OCI.index, vec![]));
        Self { config, bill, referrers, no_referrers }
    }
}

impl Referrer {
    fn new(subject: &Descriptor, config: &Document, bill: &Document) -> Self {
        let config = config.descriptor.to_json("application/vnd.oci.empty.v1+json");
        let mut layer = bill.descriptor.to_json(CYCLONE_DX);
        // The name of the file, for a client that writes the layer to a file.
        layer["annotations"] = json!({ "org.opencontainers.image.title": "quinistry.cdx.json" });
        let mut manifest = manifest(OCI.manifest, config, vec![layer]);
        manifest["artifactType"] = CYCLONE_DX.into();
        manifest["subject"] = subject.to_json(subject.content_type);
        let manifest = Document::json(OCI.manifest, &manifest);

        let mut entry = manifest.descriptor.to_json(OCI.manifest);
        // "The descriptors MUST include an artifactType field" (Listing Referrers).
        entry["artifactType"] = CYCLONE_DX.into();
        let index = Document::json(OCI.index, &index(OCI.index, vec![entry]));
        Self { subject: subject.digest, manifest, index }
    }
}
