//! Checks whether arbitrary bytes are an executable that can be packed, and packs some of those that are accepted.
//! Neither step may panic. Other implementations of gzip and tar must find the same bytes in the layer, and every
//! digest must be right.
//!
//! The square of the first byte of the input is the number of bytes that are read at a time. If that byte is 254 or
//! 255, the announced size is one byte too large or too small. The rest of the input is the file.
//!
//! Packing takes far longer than checking, so only about one input in 64 is packed: those whose bytes add up to a
//! multiple of 64. If a single byte decided this, the fuzzer would copy that byte to other inputs, and soon most inputs
//! would be packed.
#![no_main]

use std::io::{self, Read};

use flate2::bufread::GzDecoder;
use libfuzzer_sys::fuzz_target;
use quinistry::image::digest::{Digest, START};
use quinistry::image::layer::{Executable, path};
use quinistry::image::{Document, Image};
use tar::Archive;

/// A file that returns at most `step` bytes at a time.
struct Pieces<'a> {
    file: &'a [u8],
    step: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.step);
        self.file.read(&mut buffer[..count])
    }
}

/// Decompresses a layer with zlib, which shares no code with the compressor under test.
fn decompress(layer: &[u8]) -> Vec<u8> {
    let (mut decoder, mut archive) = (GzDecoder::new(layer), Vec::new());
    decoder.read_to_end(&mut archive).expect("a gzip member whose length and CRC are right");
    assert!(decoder.into_inner().is_empty(), "nothing follows the member");
    archive
}

/// Extracts the only file from an archive, in which it must follow its directory.
fn extract(archive: &[u8], architecture: &str) -> Vec<u8> {
    assert_eq!(archive.len() % 512, 0, "an archive has whole blocks");
    let (mut archive, mut file) = (Archive::new(archive), Vec::new());
    let mut entries = archive.entries().expect("an archive");
    let directory = entries.next().expect("there is an entry").expect("its header is valid");
    assert!(directory.header().entry_type().is_dir());
    let mut entry = entries.next().expect("there is another entry").expect("its header is valid");
    assert_eq!(&*entry.path_bytes(), path(architecture).as_bytes());
    assert_eq!(entry.header().mode().ok(), Some(0o755));
    entry.read_to_end(&mut file).expect("the content is complete");
    assert!(entries.next().is_none(), "there are only two entries");
    file
}

/// Checks the digest and size of a document, and that it contains these digests.
fn check(document: &Document, named: &[&Digest]) {
    let Document { descriptor, content } = document;
    assert!(descriptor.digest == Digest::of(content) && descriptor.size == content.len() as u64);
    let text = str::from_utf8(content).expect("JSON is UTF-8");
    assert!(named.iter().all(|digest| text.contains(&format!("\"{digest}\""))), "a digest is missing: {text}");
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, file)) = bytes.split_first() else { return };
    let size = file.len() as u64;
    let announced = match first {
        254 => size + 1,
        255 => size.saturating_sub(1),
        _ => size,
    };
    let (pieces, mut content) = (Pieces { file, step: usize::from(first).pow(2).max(1) }, Vec::new());
    let checked = Executable::check(pieces, announced);
    let sum = bytes.iter().fold(0, |sum: u8, &byte| sum.wrapping_add(byte));
    let Some(executable) = checked.ok().filter(|_| sum % 64 == 0) else { return };
    let Ok(layer) = executable.pack(&mut content) else { return };
    assert_eq!(announced, size, "a file of another size was packed");

    let (architecture, archive) = (layer.architecture, decompress(&content));
    assert!(extract(&archive, architecture) == file, "the file has changed");
    for (summary, bytes) in [(layer.blob, &content[..]), (layer.tar, &archive), (layer.executable, file)] {
        assert!(summary.digest == Digest::of(bytes) && summary.size == bytes.len() as u64);
        let count = bytes.len().min(START);
        assert!(summary.start[..count] == bytes[..count], "the first bytes are wrong");
    }
    let (_, image) = Image::assemble(vec![((), layer)]);
    let (platform, blob) = (&image.platforms[0], &image.platforms[0].layer.blob.digest);
    check(&platform.config, &[&Digest::of(&archive)]);
    for manifest in [&platform.manifest, &platform.docker_manifest] {
        check(manifest, &[&platform.config.descriptor.digest, blob]);
    }
    check(&image.index, &[&platform.manifest.descriptor.digest]);
    check(&image.docker_list, &[&platform.docker_manifest.descriptor.digest]);
});
