//! Packs an executable into a layer.
//!
//! Document: OCI image-spec, `layer.md`.
//!
//! A layer is a gzip member that holds a tar archive of one directory with one file. Byte by byte:
//!
//! ```text
//!     1f 8b 08 00 00000000 00 ff             gzip: no name, no time                  gzip.rs
//!     ├─ "arm64/"          0000755 …         tar: a header of 512 bytes, directory   tar.rs
//!     ├─ "arm64/quinistry" 0000755 …         tar: a header of 512 bytes, a file
//!     ├─ 7f 45 4c 46 …                       the executable                          executable.rs
//!     ├─ 00 00 00 …                          zeros to a multiple of 512, and 1024 more
//!     CRC-32, length
//! ```
//!
//! ```
//! use std::io::Read;
//!
//! use quinistry::image::layer::Executable;
//!
//! // The smallest file that passes for an executable: an ELF header for x86-64, and one program header.
//! let mut file = vec![0; 64 + 56];
//! file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
//! for (at, byte) in [(16, 2), (18, 62), (32, 64), (54, 56), (56, 1), (64, 1)] {
//!     file[at] = byte;
//! }
//! let mut content = Vec::new();
//! let executable = Executable::check(&file[..], file.len() as u64).expect("it is static");
//! let layer = executable.pack(&mut content).expect("a Vec takes everything");
//! assert_eq!(layer.architecture, "amd64");
//!
//! // Independent readers find the same bytes in the layer.
//! let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&content[..]));
//! let mut entries = archive.entries().expect("an archive").map(|entry| entry.expect("a valid header"));
//! assert_eq!(&*entries.next().expect("a directory").path_bytes(), b"amd64/");
//! let mut entry = entries.next().expect("a file");
//! assert_eq!(&*entry.path_bytes(), b"amd64/quinistry");
//! let mut unpacked = Vec::new();
//! entry.read_to_end(&mut unpacked).expect("its content");
//! assert_eq!(unpacked, file);
//! ```
//!
//! A layer has the same digest in every image, because only the executable goes into it, under paths that depend only
//! on the architecture. Each program has its own directory, and the config of each platform sets `PATH` to the
//! directory of the program for that platform. The command `quinistry` therefore runs the right program on every
//! platform.
//!
//! Limits: those of `executable` and `tar`.
//!
//! Deliberately absent: a check that the executable is this program, because an executable for another processor cannot
//! be run to find out.

use std::io::{self, Chain, Cursor, Read, Write};

use crate::image::digest::{Hashing, Summary};
use crate::image::gzip::Gzip;
use crate::image::{executable, tar};

/// The name of the file in each layer.
pub const FILE_NAME: &str = "quinistry";

/// An executable that can be in an image. Only the beginning of its file has been read so far.
pub struct Executable<R> {
    /// The architecture that the executable runs on, as `GOARCH` names it.
    pub architecture: &'static str,
    content: Chain<Cursor<Vec<u8>>, R>,
    size: u64,
}

/// The description of a packed executable, without the bytes of the layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    pub architecture: &'static str,
    /// The layer itself: the gzip member that the registry serves.
    pub blob: Summary,
    /// The tar archive in the gzip member. Its digest is the diff ID.
    pub tar: Summary,
    /// The executable in the archive.
    pub executable: Summary,
}

impl<R: Read> Executable<R> {
    /// Reads the beginning of a file of `size` bytes, and checks that it is a static executable for Linux.
    pub fn check(mut content: R, size: u64) -> io::Result<Self> {
        let mut start = Vec::new();
        content.by_ref().take(executable::ENOUGH as u64).read_to_end(&mut start)?;
        let architecture = executable::architecture(&start)?;
        Ok(Self { architecture, content: Cursor::new(start).chain(content), size })
    }

    /// Packs the executable, and writes the content of the layer to `sink` piece by piece. Fails if the file is too
    /// large for tar, or if its size has changed.
    pub fn pack(self, sink: impl Write) -> io::Result<Layer> {
        let Self { architecture, content, size } = self;
        let mut content = Hashing::new(content);
        // The tar archive is hashed for the diff ID, then compressed, and then hashed again for the digest of the blob.
        let mut archive = Hashing::new(Gzip::new(Hashing::new(sink))?);
        tar::append_directory(&mut archive, &format!("{architecture}/"))?;
        tar::append(&mut archive, &path(architecture), 0o755, size, &mut content)?;
        archive.write_all(&tar::END)?;
        let (gzip, tar) = archive.finish();
        let (_, blob) = gzip.finish()?.finish();
        let (_, executable) = content.finish();
        Ok(Layer { architecture, blob, tar, executable })
    }
}

/// Returns the path of the executable in the image, without the slash at the beginning.
pub fn path(architecture: &str) -> String {
    format!("{architecture}/{FILE_NAME}")
}
