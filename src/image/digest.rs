//! Computes digests, the names by which a registry knows content.
//!
//! Document: OCI image-spec, `descriptor.md`, section "Digests".
//!
//! ```text
//!     digest = algorithm ":" encoded          sha256:1f3c…
//! ```
//!
//! This registry computes only `sha256` digests. A digest of another algorithm, even if it is well-formed, therefore
//! matches no content.
//!
//! Deliberately absent: the hash as bytes, because a digest is only compared and copied, as text.

use std::fmt;
use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

/// The length of `sha256:` and 64 hexadecimal digits.
const LENGTH: usize = "sha256:".len() + 64;

/// A sha256 digest, as the text that every client and every document uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest([u8; LENGTH]);

impl Digest {
    /// Computes the digest of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self::from_hash(&Sha256::digest(content).into())
    }

    fn from_hash(hash: &[u8; 32]) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = *b"sha256:................................................................";
        for (pair, byte) in text["sha256:".len()..].chunks_exact_mut(2).zip(hash) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("from_hash writes ASCII only")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Returns whether `text` follows the grammar of a digest. If the algorithm is `sha256` or `sha512`, the encoded hash
/// must also have its fixed length and be in lower case (image-spec, "Registered algorithms").
///
/// ```text
///     digest              = algorithm ":" encoded
///     algorithm           = algorithm-component *( algorithm-separator algorithm-component )
///     algorithm-component = 1*[a-z0-9]
///     algorithm-separator = "+" / "." / "_" / "-"
///     encoded             = 1*[a-zA-Z0-9=_-]
/// ```
pub fn is_well_formed(text: &str) -> bool {
    let Some((algorithm, encoded)) = text.split_once(':') else {
        return false;
    };
    let length = match algorithm {
        "sha256" => 64,
        "sha512" => 128,
        _ => {
            let is_component = |c: &str| !c.is_empty() && c.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9'));
            let is_encoded = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-');
            return algorithm.split(['+', '.', '_', '-']).all(is_component)
                && !encoded.is_empty()
                && encoded.bytes().all(is_encoded);
        }
    };
    encoded.len() == length && encoded.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The number of leading bytes that a [`Summary`] keeps: one line of a hex dump.
pub const START: usize = 16;

/// The digest, length and first bytes of content that has passed through [`Hashing`].
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    pub digest: Digest,
    /// The length of the content in bytes.
    pub size: u64,
    /// The first bytes, for people to look at, followed by zeros if the content has fewer bytes.
    pub start: [u8; START],
}

/// Wraps a sink or a source, and summarizes the bytes that pass through, so that content is read only once.
pub struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    size: u64,
    start: [u8; START],
}

impl<T> Hashing<T> {
    pub fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new(), size: 0, start: [0; START] }
    }

    /// Returns the sink or source, and the summary of all bytes that have passed through.
    pub fn finish(self) -> (T, Summary) {
        let Self { inner, hasher, size, start } = self;
        (inner, Summary { digest: Digest::from_hash(&hasher.finalize().into()), size, start })
    }

    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        let known = self.size.min(START as u64) as usize;
        for (kept, byte) in self.start[known..].iter_mut().zip(bytes) {
            *kept = *byte;
        }
        self.size += bytes.len() as u64;
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_well_known_one() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        assert!(is_well_formed(empty));
    }

    #[test]
    fn hashing_a_stream_in_pieces_equals_hashing_it_whole() {
        let mut hashing = Hashing::new(Vec::new());
        for piece in [&b"pull it, "[..], b"", b"run it, pull it again"] {
            hashing.write_all(piece).expect("a Vec takes everything");
        }
        let (bytes, Summary { digest, size, start }) = hashing.finish();
        assert_eq!(bytes, b"pull it, run it, pull it again");
        assert_eq!((digest, size), (Digest::of(&bytes), 30));
        assert_eq!(&start, b"pull it, run it,");
    }

    #[test]
    fn what_is_read_is_summed_up_as_what_is_written() {
        let mut hashing = Hashing::new(&b"short"[..]);
        let mut read = [0; 3];
        while hashing.read(&mut read).expect("a slice can be read") > 0 {}
        let (rest, Summary { digest, size, start }) = hashing.finish();
        assert_eq!((rest, digest, size), (&b""[..], Digest::of(b"short"), 5));
        assert_eq!(&start, b"short\0\0\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn the_grammar_is_strict_for_registered_algorithms_and_open_for_others() {
        let hex = "0123456789abcdef".repeat(4);
        for good in [format!("sha256:{hex}"), format!("sha512:{hex}{hex}"), "blake3+x.y:A=_-".into()] {
            assert!(is_well_formed(&good), "{good}");
        }
        for bad in [
            "",
            "sha256",
            "sha256:",
            "latest",
            ":abc",
            "sha256:abc",
            "SHA256:abc",
            "a..b:c",
            "+a:b",
            "x:a b",
            "x:é",
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{hex}0"),
            &format!("sha512:{hex}"),
        ] {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }
}
