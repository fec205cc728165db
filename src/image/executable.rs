//! Turns the first bytes of an executable into the architecture it runs on, or into the reason why it
//! cannot be in an image.
//!
//! Document: System V ABI (gABI), chapters 4 "Object Files" and 5 "Program Loading".
//!
//! ```text
//!     offset, 32 / 64 bits wide
//!          0   e_ident: 7f 45 4c 46, class, data encoding, version, OS ABI
//!         16   e_type: ET_EXEC, or ET_DYN for what can be loaded anywhere
//!         18   e_machine
//!      28/32   e_phoff: where the program headers are
//!      42/54   e_phentsize: how large each is;  their first word is p_type
//!      44/56   e_phnum: how many there are
//! ```
//!
//! Our image holds no loader and no shared library. A dynamically linked program names its loader in a
//! program header of type `PT_INTERP`. Started in such an image, it would fail with a bare "no such file
//! or directory": so it is refused here, with the reason.
//!
//! Limits: the program headers have to be in the first 4096 bytes.
//!
//! Deliberately absent: the sections, which are at the end of the file and which a program may lack. For
//! `arm` the version of the architecture is there alone (`.ARM.attributes`); [`ARM_VARIANT`] says what is
//! done without it.

use std::fmt;

/// How much of the file [`architecture`] wants to see. Linkers put the program headers right behind
/// the 64 bytes of the file header; a dozen of 56 bytes each is common.
pub const ENOUGH: usize = 4096;

/// The variant that every `arm` executable is said to be for: version 7 of the architecture, as Debian's
/// armhf and the targets that Rust calls armv7. A program for version 6, such as the first Raspberry Pi's,
/// runs there, too. But a client on a machine of version 6 does not find it in the index, and has to ask for
/// its manifest by digest.
pub const ARM_VARIANT: &str = "v7";

/// Why a file cannot be in an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Not an ELF file for Linux, or one cut short.
    NotLinuxElf,
    /// An ELF file for a processor that Go, and so the image specification, has no name for.
    UnknownMachine(u16),
    /// It needs a loader, and so shared libraries.
    DynamicallyLinked,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinuxElf => f.write_str("this is not an executable for Linux (an ELF file)"),
            Self::UnknownMachine(machine) => {
                write!(f, "this executable is for a machine without a name in images (e_machine {machine})")
            }
            Self::DynamicallyLinked => f.write_str(
                "this executable is dynamically linked, and the image has no libraries for it. Build it \
                 statically:\n    \
                 RUSTFLAGS='-C target-feature=+crt-static' cargo build --release\n\
                 (the .cargo/config.toml of the source tree does that for a plain `cargo build`)",
            ),
        }
    }
}

impl std::error::Error for Error {}

/// Reads the architecture, as `GOARCH` names it, from the first [`ENOUGH`] bytes of an executable, or
/// all there are. The operating system is always Linux.
///
/// # Errors
///
/// When the file could not run in an image of its own.
pub fn architecture(start: &[u8]) -> Result<&'static str, Error> {
    let elf = Elf::new(start).ok_or(Error::NotLinuxElf)?;
    if elf.has_interpreter().ok_or(Error::NotLinuxElf)? {
        return Err(Error::DynamicallyLinked);
    }
    elf.architecture()
}

struct Elf<'a> {
    bytes: &'a [u8],
    wide: bool,
    little_endian: bool,
}

impl<'a> Elf<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        // e_ident: magic, class, data encoding, version, OS ABI.
        let [0x7f, b'E', b'L', b'F', class @ 1..=2, data @ 1..=2, 1, os_abi, ..] = *bytes else {
            return None;
        };
        // ELFOSABI_NONE is what most linkers write; ELFOSABI_GNU appears with a static glibc.
        let (is_linux, elf) =
            (matches!(os_abi, 0 | 3), Self { bytes, wide: class == 2, little_endian: data == 1 });
        let is_executable = matches!(elf.half(16)?, 2 | 3); // e_type: ET_EXEC, or ET_DYN for static PIE
        (is_linux && is_executable).then_some(elf)
    }

    fn architecture(&self) -> Result<&'static str, Error> {
        Ok(match (self.half(18).ok_or(Error::NotLinuxElf)?, self.wide, self.little_endian) {
            (3, false, true) => "386",      // EM_386
            (21, true, true) => "ppc64le",  // EM_PPC64
            (22, true, false) => "s390x",   // EM_S390
            (40, false, true) => "arm",     // EM_ARM
            (62, true, true) => "amd64",    // EM_X86_64
            (183, true, true) => "arm64",   // EM_AARCH64
            (243, true, true) => "riscv64", // EM_RISCV
            (258, true, true) => "loong64", // EM_LOONGARCH
            (machine, ..) => return Err(Error::UnknownMachine(machine)),
        })
    }

    /// Whether a program header asks for a loader; `None` if the headers are out of sight.
    fn has_interpreter(&self) -> Option<bool> {
        const PT_INTERP: u32 = 3;
        let (table, entry_size, count) = if self.wide {
            (self.double(32)?, self.half(54)?, self.half(56)?)
        } else {
            (self.word(28)?.into(), self.half(42)?, self.half(44)?)
        };
        let table = usize::try_from(table).ok()?;
        for index in 0..usize::from(count) {
            let entry = table.checked_add(index * usize::from(entry_size))?;
            if self.word(entry)? == PT_INTERP {
                return Some(true);
            }
        }
        Some(false)
    }

    fn field<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut field: [u8; N] = self.bytes.get(offset..)?.first_chunk().copied()?;
        if !self.little_endian {
            field.reverse();
        }
        Some(field)
    }

    fn half(&self, offset: usize) -> Option<u16> {
        self.field(offset).map(u16::from_le_bytes)
    }

    fn word(&self, offset: usize) -> Option<u32> {
        self.field(offset).map(u32::from_le_bytes)
    }

    fn double(&self, offset: usize) -> Option<u64> {
        self.field(offset).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit little-endian ELF file for `machine` with one program header of `segment` type.
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

    #[test]
    fn static_executables_have_an_architecture_in_go_terms() {
        for (machine, architecture) in [(62, "amd64"), (183, "arm64"), (243, "riscv64")] {
            assert_eq!(super::architecture(&elf(machine, 1)), Ok(architecture));
        }
        assert_eq!(architecture(&elf(2, 1)), Err(Error::UnknownMachine(2)));
    }

    #[test]
    fn a_big_endian_file_is_read_in_its_own_order() {
        let mut file = vec![0; 64 + 56];
        file[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 2, 1, 0]);
        for (at, byte) in [(17, 2), (19, 22), (39, 64), (55, 56), (57, 1), (67, 1)] {
            file[at] = byte;
        }
        assert_eq!(architecture(&file), Ok("s390x"));
        file[67] = 3;
        assert_eq!(architecture(&file), Err(Error::DynamicallyLinked));
    }

    #[test]
    fn a_loader_is_refused_with_the_way_to_build_without() {
        let error = architecture(&elf(62, 3)).expect_err("PT_INTERP");
        assert_eq!(error, Error::DynamicallyLinked);
        assert!(error.to_string().contains("+crt-static"));
    }

    #[test]
    fn anything_else_is_not_an_executable_however_it_is_cut() {
        let whole = elf(62, 1);
        for end in 0..68 {
            assert_eq!(architecture(&whole[..end]), Err(Error::NotLinuxElf), "cut at {end}");
        }
        assert_eq!(architecture(b"#!/bin/sh\n"), Err(Error::NotLinuxElf));
        let mut wild = whole;
        wild[32..40].fill(0xff);
        assert_eq!(architecture(&wild), Err(Error::NotLinuxElf));
    }
}
