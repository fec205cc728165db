//! Turns an executable into a layer.
//!
//! Document: OCI image-spec, `layer.md`.
//!
//! ```text
//!     gzip( tar( arm64/            a directory for one architecture
//!                arm64/quinistry   the executable ))
//! ```
//!
//! The paths depend on the architecture alone, and only the executable goes in. So a layer has the same
//! digest in every image that it is part of, whatever other layers are there. Each program has a directory
//! of its own, and the `PATH` of a platform is one of these directories. So the command `quinistry` is, on
//! every platform, the program that runs there. Byte by byte, a layer is this:
//!
//! ```text
//!     1f 8b 08 00 00000000 00 ff             gzip: no name, no time                  gzip.rs
//!     ├─ "arm64/"          0000755 …         tar: a header of 512 bytes, a folder    tar.rs
//!     ├─ "arm64/quinistry" 0000755 …         tar: a header of 512 bytes, a file
//!     ├─ 7f 45 4c 46 …                       the executable                          executable.rs
//!     ├─ 00 00 00 …                          zeros to a multiple of 512, and 1024 more
//!     CRC-32, length
//! ```
//!
//! Limits: those of `executable` and `tar`; a file may have 8 GiB less one byte.
//!
//! Deliberately absent: running the executable, which may be for another processor. So it is not checked
//! whether it is this program.

use std::fmt;
use std::io::{self, Chain, Cursor, Read, Write};

use crate::image::digest::{Hashing, Summary};
use crate::image::gzip::Gzip;
use crate::image::{executable, tar};

/// The name of the file in each layer.
pub const FILE_NAME: &str = "quinistry";

/// An executable that can be in an image. No more than its beginning has been read.
pub struct Executable<R> {
    /// What it runs on, as `GOARCH` names it.
    pub architecture: &'static str,
    content: Chain<Cursor<Vec<u8>>, R>,
    size: u64,
}

/// A packed executable: everything but the bytes of the layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// What the executable runs on, as `GOARCH` names it.
    pub architecture: &'static str,
    /// The layer itself, which the registry serves: a gzip member.
    pub blob: Summary,
    /// The tar in it, whose digest is the diff ID.
    pub tar: Summary,
    /// The executable in that.
    pub executable: Summary,
}

/// Why an executable cannot be packed.
#[derive(Debug)]
pub enum Error {
    /// The file is not one that runs in an image.
    Executable(executable::Error),
    /// The file cannot be put into a tar archive.
    Tar(tar::Error),
    /// Reading the executable or writing the layer failed.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Executable(error) => error.fmt(f),
            Self::Tar(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<executable::Error> for Error {
    fn from(error: executable::Error) -> Self {
        Self::Executable(error)
    }
}

impl From<tar::Error> for Error {
    fn from(error: tar::Error) -> Self {
        Self::Tar(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl<R: Read> Executable<R> {
    /// Reads the beginning of an executable of `size` bytes and checks it.
    ///
    /// # Errors
    ///
    /// When it is not a static executable for Linux, or reading it fails.
    pub fn check(mut content: R, size: u64) -> Result<Self, Error> {
        let mut start = Vec::new();
        content.by_ref().take(executable::ENOUGH as u64).read_to_end(&mut start)?;
        let architecture = executable::architecture(&start)?;
        Ok(Self { architecture, content: Cursor::new(start).chain(content), size })
    }

    /// Packs it. The content of the layer streams into `sink`, so that its size costs no memory here.
    ///
    /// # Errors
    ///
    /// When tar cannot hold it, when its size is not the one that was given to [`Executable::check`],
    /// and when reading or writing fails.
    pub fn pack(self, sink: impl Write) -> Result<Layer, Error> {
        let Self { architecture, content, size } = self;
        let mut content = Hashing::new(content);
        // Read from the bottom: what the tar writer writes is hashed for the diff ID, then compressed,
        // and what comes out is hashed again for the blob's digest.
        let compressed = Hashing::new(sink);
        let mut archive = Hashing::new(Gzip::new(compressed)?);
        tar::append_directory(&mut archive, &format!("{architecture}/"))?;
        tar::append(&mut archive, &path(architecture), 0o755, size, &mut content)?;
        archive.write_all(&tar::END)?;
        let (gzip, tar) = archive.finish();
        let (_, blob) = gzip.finish()?.finish();
        let (_, executable) = content.finish();
        Ok(Layer { architecture, blob, tar, executable })
    }
}

/// Where the executable for an architecture is in the image, without the slash at the beginning.
#[must_use]
pub fn path(architecture: &str) -> String {
    format!("{architecture}/{FILE_NAME}")
}
