//! Small images, for tests that need no real executable.
#![allow(dead_code, reason = "no test uses all of it")]

use quinistry::image::Image;
use quinistry::image::layer::{Executable, Layer};

/// ELF's machine numbers.
pub const AMD64: u8 = 62;
pub const ARM64: u8 = 183;

/// Returns a small file that is accepted as a static executable: a 64-bit ELF header for this machine, one program
/// header that loads nothing, and data that stays large when compressed.
pub fn executable(machine: u8) -> Vec<u8> {
    let mut file = vec![0; 64 + 56];
    file[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    for (at, byte) in [(16, 2), (18, machine), (32, 64), (54, 56), (56, 1), (64, 1)] {
        file[at] = byte;
    }
    let mut state = 1_u32;
    file.extend((0..40_000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28) as u8
    }));
    file
}

/// Packs an executable. Returns the content and the description of the layer.
pub fn layer(executable: &[u8]) -> (Vec<u8>, Layer) {
    let mut content = Vec::new();
    let executable = Executable::check(executable, executable.len() as u64).expect("it is one");
    let layer = executable.pack(&mut content).expect("it packs");
    (content, layer)
}

/// Makes an image of such executables, one for each machine. The first is for the server's own platform. Returns the
/// contents of the layers, and the image.
pub fn image(machines: &[u8]) -> (Vec<Vec<u8>>, Image) {
    Image::assemble(machines.iter().map(|machine| layer(&executable(*machine))).collect())
}

/// Makes an image of one such executable. Returns the image, and the content of its layer.
pub fn packed() -> (Image, Vec<u8>) {
    let (contents, image) = image(&[AMD64]);
    (image, contents.concat())
}
