//! Determines which architecture an executable is for, or why the executable cannot be in an image.
//!
//! Document: System V ABI (gABI), chapters 4 "Object Files" and 5 "Program Loading".
//!
//! ```text
//!     offset (in a 32-bit / 64-bit file)
//!          0   e_ident: 7f 45 4c 46, class, data encoding, version, OS ABI
//!         16   e_type: ET_EXEC, or ET_DYN if it can be loaded anywhere
//!         18   e_machine
//!      28/32   e_phoff: where the program headers are
//!      42/54   e_phentsize: the size of a program header, whose first word is p_type
//!      44/56   e_phnum: the number of program headers
//! ```
//!
//! [`architecture`] refuses a dynamically linked program, which names its loader in a program header of type
//! `PT_INTERP`. The image holds no loader and no shared library, so such a program would fail in the image with only
//! "no such file or directory". The refusal states the reason.
//!
//! Limits: the program headers must be in the first 4096 bytes.
//!
//! Deliberately absent: reading the sections. They are at the end of the file, and a program may have none. The version
//! of the architecture of an `arm` executable therefore remains unknown, because only the section `.ARM.attributes`
//! records it (see [`ARM_VARIANT`]).

use std::io;

/// The number of bytes at the start of the file that [`architecture`] needs. It is ample, because linkers put the
/// program headers (a dozen of 56 bytes is common) immediately after the file header, which has 52 or 64 bytes.
pub const ENOUGH: usize = 4096;

/// The variant of every `arm` executable: version 7 of the architecture, as for Debian's armhf and the targets that
/// Rust calls armv7. A program for version 6, as for the first Raspberry Pi, also runs on version 7. But a client on a
/// machine of version 6 finds no matching platform in the index, and must request the manifest by digest.
pub const ARM_VARIANT: &str = "v7";

const NOT_LINUX_ELF: &str = "this is not an executable for Linux (an ELF file)";

const NO_PROGRAM_HEADERS: &str = "the program headers of this executable are not in its first 4096 bytes";

const DYNAMICALLY_LINKED: &str = "this executable is dynamically linked, and the image has no libraries for it. Build it \
    statically:\n    RUSTFLAGS='-C target-feature=+crt-static' cargo build --release\n\
    (the .cargo/config.toml of the source tree does that for a plain `cargo build`)";

/// Returns the architecture of an executable, as `GOARCH` names it. `start` is the first [`ENOUGH`] bytes of the file,
/// or all bytes of a shorter file. Fails if these bytes are not the start of a static executable for Linux on a
/// supported architecture.
pub fn architecture(start: &[u8]) -> io::Result<&'static str> {
    let elf = Elf::new(start).ok_or_else(|| io::Error::other(NOT_LINUX_ELF))?;
    let (Some(machine), Some(has_interpreter)) = (elf.half(18), elf.has_interpreter()) else {
        return Err(io::Error::other(NO_PROGRAM_HEADERS));
    };
    if has_interpreter {
        return Err(io::Error::other(DYNAMICALLY_LINKED));
    }
    Ok(match (machine, elf.wide, elf.little_endian) {
        (3, false, true) => "386",      // EM_386
        (21, true, true) => "ppc64le",  // EM_PPC64
        (22, true, false) => "s390x",   // EM_S390
        (40, false, true) => "arm",     // EM_ARM
        (62, true, true) => "amd64",    // EM_X86_64
        (183, true, true) => "arm64",   // EM_AARCH64
        (243, true, true) => "riscv64", // EM_RISCV
        (258, true, true) => "loong64", // EM_LOONGARCH
        _ => {
            let reason = "this executable is for a processor that this program does not support";
            return Err(io::Error::other(format!("{reason} (e_machine {machine})")));
        }
    })
}

struct Elf<'a> {
    bytes: &'a [u8],
    wide: bool,
    little_endian: bool,
}

impl<'a> Elf<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        // e_ident: magic, class, data encoding, version, OS ABI. The last is ELFOSABI_NONE (0) from most linkers, and
        // ELFOSABI_GNU (3) with a static glibc.
        let [0x7f, b'E', b'L', b'F', class @ 1..=2, data @ 1..=2, 1, 0 | 3, ..] = *bytes else {
            return None;
        };
        let elf = Self { bytes, wide: class == 2, little_endian: data == 1 };
        // e_type: ET_EXEC, or ET_DYN for static PIE.
        matches!(elf.half(16)?, 2 | 3).then_some(elf)
    }

    /// Returns whether a program header names a loader, or `None` if the headers are not in the bytes.
    fn has_interpreter(&self) -> Option<bool> {
        const PT_INTERP: u32 = 3;
        let (table, entry_size, count) = if self.wide {
            (self.field(32).map(u64::from_le_bytes)?, self.half(54)?, self.half(56)?)
        } else {
            (self.word(28)?.into(), self.half(42)?, self.half(44)?)
        };
        let table = usize::try_from(table).ok()?;
        for index in 0..usize::from(count) {
            if self.word(table.checked_add(index * usize::from(entry_size))?)? == PT_INTERP {
                return Some(true);
            }
        }
        Some(false)
    }

    fn half(&self, offset: usize) -> Option<u16> {
        self.field(offset).map(u16::from_le_bytes)
    }

    fn word(&self, offset: usize) -> Option<u32> {
        self.field(offset).map(u32::from_le_bytes)
    }

    /// Returns the bytes at this offset, in little-endian order.
    fn field<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut field: [u8; N] = self.bytes.get(offset..)?.first_chunk().copied()?;
        if !self.little_endian {
            field.reverse();
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit little-endian ELF file for `machine` with one program header of the type `segment`.
    fn elf(machine: u16, segment: u32) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
        file[16] = 3;
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64..68].copy_from_slice(&segment.to_le_bytes());
        file
    }

    fn outcome(file: &[u8]) -> Result<&'static str, String> {
        architecture(file).map_err(|error| error.to_string())
    }

    #[test]
    fn static_executables_have_an_architecture_in_go_terms() {
        for (machine, architecture) in [(62, "amd64"), (183, "arm64"), (243, "riscv64")] {
            assert_eq!(outcome(&elf(machine, 1)), Ok(architecture));
        }
        let unknown = outcome(&elf(2, 1)).expect_err("no such machine");
        assert!(unknown.contains("(e_machine 2)"), "{unknown}");
    }

    #[test]
    fn a_big_endian_file_is_read_in_its_own_order() {
        let mut file = vec![0; 64 + 56];
        file[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 2, 1, 0]);
        for (at, byte) in [(17, 2), (19, 22), (39, 64), (55, 56), (57, 1), (67, 1)] {
            file[at] = byte;
        }
        assert_eq!(outcome(&file), Ok("s390x"));
        file[67] = 3;
        assert_eq!(outcome(&file), Err(DYNAMICALLY_LINKED.into()));
    }

    #[test]
    fn a_loader_is_refused_with_the_way_to_build_without() {
        let error = outcome(&elf(62, 3)).expect_err("PT_INTERP");
        assert!(error.contains("dynamically linked") && error.contains("+crt-static"), "{error}");
    }

    #[test]
    fn anything_else_is_refused_however_it_is_cut() {
        let whole = elf(62, 1);
        for end in 0..68 {
            let reason = outcome(&whole[..end]).expect_err("it is cut");
            assert!([NOT_LINUX_ELF, NO_PROGRAM_HEADERS].contains(&&*reason), "cut at {end}: {reason}");
        }
        assert_eq!(outcome(b"#!/bin/sh\n"), Err(NOT_LINUX_ELF.into()));
        let mut wild = whole;
        wild[32..40].fill(0xff);
        assert_eq!(outcome(&wild), Err(NO_PROGRAM_HEADERS.into()));
    }
}
