//! Holds the image that the fuzz targets serve: it is for two platforms.

#[path = "../../tests/common/sample.rs"]
mod sample;

use std::sync::LazyLock;

use quinistry::http::response::FilePart;
use quinistry::registry::Registry;

pub static SERVED: LazyLock<Served> = LazyLock::new(Served::new);

pub struct Served {
    pub registry: Registry,
    layers: Vec<Vec<u8>>,
    digests: [(&'static [u8], String); 6],
}

impl Served {
    fn new() -> Self {
        let (layers, image) = sample::image(&[sample::AMD64, sample::ARM64]);
        let other = &image.platforms[1];
        let digests = [
            (&b"@list"[..], image.docker_list.descriptor.digest),
            (b"@index", image.oci_index.descriptor.digest),
            (b"@manifest", other.docker_manifest.descriptor.digest),
            (b"@oci", other.oci_manifest.descriptor.digest),
            (b"@config", other.config.descriptor.digest),
            (b"@layer", image.layers[1].digest),
        ];
        let digests = digests.map(|(name, digest)| (name, digest.to_string()));
        Self { registry: Registry::new(image), layers, digests }
    }

    pub fn layer(&self, part: &FilePart) -> &[u8] {
        &self.layers[part.file][part.range.start as usize..part.range.end as usize]
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
