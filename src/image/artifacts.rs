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
//!                    index of what refers to that digest
//! ```
//!
//! The image knows nothing of them: an artifact has the digest of its subject, and not the reverse. So the
//! image is the same with and without them, and so is an archive, which has none.
//!
//! A client asks for what refers to the digest that it has, which may be that of the index or of a manifest. So
//! each of these has an artifact of its own. They differ in the subject, and share the config and the layer.
//!
//! Deliberately absent: what refers to an artifact, or to Docker's form of an index or manifest. The clients that
//! read that form alone are older than referrers.

use serde_json::json;

use crate::image::digest::Digest;
use crate::image::sbom::{self, CYCLONE_DX};
use crate::image::{BLOB, Descriptor, Document, Image, OCI_INDEX, OCI_MANIFEST, index, insert, manifest};

/// The type of the artifacts, for which a client may filter: that of the document in them.
pub const ARTIFACT_TYPE: &str = CYCLONE_DX;

/// All that refers to an image, with its parts.
pub struct Artifacts {
    /// The config of every artifact. An artifact must have one.
    pub config: Document,
    /// The layer of every artifact: the bill of materials.
    pub bill: Document,
    /// The artifact of the index, and that of each manifest.
    pub referrers: Vec<Referrer>,
    /// The index of the referrers of anything else, which is empty.
    pub no_referrers: Document,
}

/// The artifact that refers to the index or to a manifest.
pub struct Referrer {
    /// The digest of the index or the manifest.
    pub subject: Digest,
    /// The manifest of the artifact.
    pub manifest: Document,
    /// The index of all that refers to the subject, which is this artifact.
    pub index: Document,
}

impl Artifacts {
    pub fn of(image: &Image) -> Self {
        let config = Document::json(BLOB, &json!({}));
        let bill = Document::new(BLOB, sbom::DOCUMENT.to_vec());
        // A config is also a document, but nothing refers to it.
        let subjects = image.documents().filter(|document| document.descriptor.content_type != BLOB);
        let referrers = subjects.map(|subject| Referrer::new(&subject.descriptor, &config, &bill)).collect();
        let no_referrers = Document::json(OCI_INDEX, &index(OCI_INDEX, vec![]));
        Self { config, bill, referrers, no_referrers }
    }
}

impl Referrer {
    fn new(subject: &Descriptor, config: &Document, bill: &Document) -> Self {
        let config = config.descriptor.to_json("application/vnd.oci.empty.v1+json");
        let mut layer = bill.descriptor.to_json(CYCLONE_DX);
        // The name of the file, for a client that writes the layer to one.
        insert(&mut layer, "annotations", json!({ "org.opencontainers.image.title": "quinistry.cdx.json" }));
        let mut manifest = manifest(OCI_MANIFEST, config, vec![layer]);
        insert(&mut manifest, "artifactType", ARTIFACT_TYPE.into());
        insert(&mut manifest, "subject", subject.to_json(subject.content_type));
        let manifest = Document::json(OCI_MANIFEST, &manifest);

        let mut entry = manifest.descriptor.to_json(OCI_MANIFEST);
        // "The descriptors MUST include an artifactType field" (Listing Referrers).
        insert(&mut entry, "artifactType", ARTIFACT_TYPE.into());
        let index = Document::json(OCI_INDEX, &index(OCI_INDEX, vec![entry]));
        Self { subject: subject.digest, manifest, index }
    }
}
