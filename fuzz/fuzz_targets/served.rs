//! The image that the fuzz targets serve.

#[path = "../../tests/common/sample.rs"]
mod sample;

use std::ops::Range;
use std::sync::LazyLock;

use quinistry::registry::Registry;

pub static SERVED: LazyLock<Served> = LazyLock::new(Served::new);

pub struct Served {
    pub registry: Registry,
    layer: Vec<u8>,
    digests: [(&'static [u8], String); 4],
}

impl Served {
    fn new() -> Self {
        let (image, layer) = sample::packed();
        let digests = [
            (&b"@manifest"[..], image.manifest.descriptor.digest.to_string()),
            (b"@oci", image.oci_manifest.descriptor.digest.to_string()),
            (b"@config", image.config.descriptor.digest.to_string()),
            (b"@layer", image.layer.digest.to_string()),
        ];
        Self { registry: Registry::new(image), layer, digests }
    }

    pub fn layer(&self, part: Range<u64>) -> &[u8] {
        &self.layer[part.start as usize..part.end as usize]
    }

    /// Puts digests where the input has names for them: a fuzzer would never guess one.
    pub fn with_digests(&self, bytes: &[u8]) -> Vec<u8> {
        let mut filled = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some((first, more)) = rest.split_first() {
            match self.digests.iter().find(|(name, _)| rest.starts_with(name)) {
                Some((name, digest)) => {
                    filled.extend_from_slice(digest.as_bytes());
                    rest = &rest[name.len()..];
                }
                None => {
                    filled.push(*first);
                    rest = more;
                }
            }
        }
        filled
    }
}
