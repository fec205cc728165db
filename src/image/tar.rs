//! Writes a tar archive.
//!
//! Document: POSIX.1-2017, `pax` utility, section "ustar Interchange Format".
//!
//! ```text
//!     archive = entry* END             entry = header, content, zeros to a multiple of 512
//!
//!     header, 512 bytes: the offset, length and name of each field. Numbers are octal digits in
//!     ASCII, terminated by a NUL
//!
//!         0 100 name        136  12 mtime       257  6 magic       329   8 devmajor
//!       100   8 mode        148   8 chksum      263  2 version     337   8 devminor
//!       108   8 uid         156   1 typeflag    265 32 uname       345 155 prefix
//!       116   8 gid         157 100 linkname    297 32 gname       500  12 zeros
//!       124  12 size
//! ```
//!
//! Every entry belongs to user and group 0 and was modified at time 0, so an archive does not depend on where or when
//! it was made.
//!
//! Limits: a path of 100 bytes, and a file of 8 GiB less one byte.
//!
//! Deliberately absent: links, and the extensions (pax, GNU) that long paths and larger files need.

use std::io::{self, Read, Write};

/// The size of a block: a header fills one, and content is padded to a whole number of them.
pub const BLOCK: usize = 512;

/// The end of an archive: two blocks of zeros.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The greatest size that the eleven octal digits of the size field can express: 8 GiB less one byte.
const MAX_SIZE: u64 = 0o777_7777_7777;

/// The longest path that fits the name field. A longer path would need the prefix field.
const MAX_NAME: usize = 100;

// The values of the typeflag field.
const REGULAR_FILE: u8 = b'0';
const DIRECTORY: u8 = b'5';

/// Appends a file: its header, exactly `size` bytes of `content`, and padding. The content is copied piece by piece, so
/// that a large file takes no more memory than a small one. After an error the archive is useless.
pub fn append(archive: &mut impl Write, path: &str, mode: u32, size: u64, content: &mut impl Read) -> io::Result<()> {
    if size > MAX_SIZE {
        let reason = format!("a file has {size} bytes, more than the {MAX_SIZE} that ustar can express");
        return Err(io::Error::other(reason));
    }
    archive.write_all(&header(path, REGULAR_FILE, mode, size))?;
    if io::copy(&mut content.by_ref().take(size), archive)? != size || content.read(&mut [0])? != 0 {
        let reason = format!("a file no longer has the {size} bytes it had when reading began");
        return Err(io::Error::other(reason));
    }
    let padding = size.next_multiple_of(BLOCK as u64) - size;
    archive.write_all(&END[..padding as usize])
}

/// Appends a directory that everyone may enter. Its path must end with a slash.
pub fn append_directory(archive: &mut impl Write, path: &str) -> io::Result<()> {
    archive.write_all(&header(path, DIRECTORY, 0o755, 0))
}

fn header(path: &str, kind: u8, mode: u32, size: u64) -> [u8; BLOCK] {
    assert!(path.len() <= MAX_NAME, "every path is the program's own, and short");
    let mut header = [0; BLOCK];
    header[..path.len()].copy_from_slice(path.as_bytes());
    octal(&mut header[100..108], mode.into());
    octal(&mut header[108..116], 0); // uid
    octal(&mut header[116..124], 0); // gid
    octal(&mut header[124..136], size);
    octal(&mut header[136..148], 0); // mtime
    header[156] = kind; // typeflag
    header[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut header[329..337], 0); // devmajor
    octal(&mut header[337..345], 0); // devminor

    // The checksum is the sum of all bytes of the header, with spaces in place of the checksum field.
    header[148..156].fill(b' ');
    let checksum = header.iter().map(|&byte| u64::from(byte)).sum();
    octal(&mut header[148..156], checksum);
    header
}

/// Writes `value` in octal digits that fill `field` up to the terminating NUL.
fn octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (value % 8) as u8;
        value /= 8;
    }
    field[digits] = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_independent_reader_finds_the_file_that_was_written() {
        for size in [0, 1, 511, 512, 513, 70_000] {
            let content = vec![b'q'; size];
            let mut archive = Vec::new();
            append(&mut archive, "quinistry", 0o755, size as u64, &mut &content[..]).expect("it fits");
            archive.extend_from_slice(&END);
            assert_eq!(archive.len() % BLOCK, 0);

            let mut reader = tar::Archive::new(&archive[..]);
            let mut entries = reader.entries().expect("an archive");
            let mut entry = entries.next().expect("one entry").expect("a valid header");
            let header = entry.header();
            assert_eq!(header.as_ustar().map(|h| h.typeflag), Some(*b"0"));
            assert_eq!(header.path().expect("a path").to_str(), Some("quinistry"));
            assert_eq!(header.mode().expect("a mode"), 0o755);
            assert_eq!((header.uid().expect("a uid"), header.gid().expect("a gid")), (0, 0));
            assert_eq!(header.mtime().expect("a time"), 0);
            let mut read = Vec::new();
            entry.read_to_end(&mut read).expect("the content");
            assert_eq!(read, content);
            assert!(entries.next().is_none());
        }
    }

    #[test]
    fn an_independent_reader_finds_a_directory_that_all_may_enter() {
        let mut archive = Vec::new();
        append_directory(&mut archive, "amd64/").expect("it fits");
        let mut reader = tar::Archive::new(&archive[..]);
        let entry = reader.entries().expect("an archive").next().expect("one entry").expect("a valid header");
        assert!(entry.header().entry_type().is_dir());
        assert_eq!(entry.header().path().expect("a path").to_str(), Some("amd64/"));
        assert_eq!((entry.header().mode().expect("a mode"), entry.size()), (0o755, 0));
    }

    #[test]
    fn a_file_that_changes_or_that_ustar_cannot_express_is_an_error() {
        for (size, reason) in [(2, "no longer"), (4, "no longer"), (MAX_SIZE + 1, "ustar")] {
            let outcome = append(&mut Vec::new(), "x", 0o644, size, &mut &b"abc"[..]);
            assert!(outcome.expect_err("the size is wrong").to_string().contains(reason));
        }
        assert_eq!(header("x", REGULAR_FILE, 0o644, MAX_SIZE)[124..136], *b"77777777777\0");
        assert_eq!(header(&"x".repeat(100), REGULAR_FILE, 0o644, 0)[99..101], *b"x0");
    }
}
