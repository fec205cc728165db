//! The image that the fuzz targets serve, which is for two platforms.
#![allow(dead_code, reason = "each target uses only a part of this module")]

#[path = "../../tests/common/sample.rs"]
mod sample;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use quinistry::clock::Clock;
use quinistry::http::response::FilePart;
use quinistry::image::artifacts::Artifacts;
use quinistry::site::Site;

/// The registry, which is made once for all inputs.
pub static SERVED: LazyLock<Served> = LazyLock::new(Served::new);

/// The time of every request.
pub static CLOCK: LazyLock<Clock> = LazyLock::new(|| Clock::at(Instant::now(), Duration::ZERO));

/// A registry, its layers, and the names that stand for digests in an input.
pub struct Served {
    pub site: Site,
    layers: Vec<Vec<u8>>,
    digests: [(&'static [u8], String); 8],
}

impl Served {
    fn new() -> Self {
        let (layers, image) = sample::image(&[sample::AMD64, sample::ARM64]);
        let (other, artifacts) = (&image.platforms[1], Artifacts::of(&image));
        let digests = [
            (&b"@index"[..], image.index.descriptor.digest),
            (b"@list", image.docker_list.descriptor.digest),
            (b"@manifest", other.manifest.descriptor.digest),
            (b"@old", other.docker_manifest.descriptor.digest),
            (b"@config", other.config.descriptor.digest),
            (b"@layer", image.platforms[1].layer.blob.digest),
            (b"@artifact", artifacts.referrers[0].manifest.descriptor.digest),
            (b"@bill", artifacts.bill.descriptor.digest),
        ];
        let digests = digests.map(|(name, digest)| (name, digest.to_string()));
        Self { site: Site::new(image), layers, digests }
    }

    /// Returns the part of a layer that a response sends.
    pub fn layer(&self, part: &FilePart) -> &[u8] {
        &self.layers[part.file][part.range.start as usize..part.range.end as usize]
    }

    /// Replaces names such as `@index` in the input with digests, which a fuzzer would never guess.
    pub fn with_digests(&self, bytes: &[u8]) -> Vec<u8> {
        let (mut filled, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
        while let Some(at) = rest.iter().position(|&byte| byte == b'@') {
            let (before, marked) = rest.split_at(at);
            let named = self.digests.iter().find(|(name, _)| marked.starts_with(name));
            let (filling, length) = named.map_or((&b"@"[..], 1), |(name, digest)| (digest.as_bytes(), name.len()));
            filled.extend_from_slice(before);
            filled.extend_from_slice(filling);
            rest = &marked[length..];
        }
        filled.extend_from_slice(rest);
        filled
    }
}
