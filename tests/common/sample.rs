//! Small images, for tests that need no real executable.
#![allow(dead_code, reason = "each test file uses only a part of this module")]

use quinistry::image::Image;
use quinistry::image::layer::{Executable, Layer};

/// The numbers by which an ELF header names the processors.
pub const AMD64: u8 = 62;
pub const ARM64: u8 = 183;

/// Returns a small file that is accepted as a static executable: a 64-bit ELF header for `machine`, one program header
/// that loads nothing, and data that compresses poorly.
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

/// Packs an executable into a layer. Returns the content of the layer and its description.
pub fn layer(executable: &[u8]) -> (Vec<u8>, Layer) {
    let mut content = Vec::new();
    let executable = Executable::check(executable, executable.len() as u64).expect("the file is an executable");
    let layer = executable.pack(&mut content).expect("the executable can be packed");
    (content, layer)
}

/// Makes an image of small executables, one for each machine. The first machine is the server's own. Returns the
/// contents of the layers, and the image.
pub fn image(machines: &[u8]) -> (Vec<Vec<u8>>, Image) {
    Image::assemble(machines.iter().map(|machine| layer(&executable(*machine))).collect())
}

/// Makes an image of one small executable, for amd64. Returns the image, and the content of its layer.
pub fn packed() -> (Image, Vec<u8>) {
    let (contents, image) = image(&[AMD64]);
    (image, contents.concat())
}
