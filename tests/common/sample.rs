//! A small image, for what needs one but not a whole executable.

use quinistry::image::{self, Image};

/// The smallest file that passes for a static executable: a 64-bit ELF header for amd64, one
/// program header that loads nothing, and something that deflate does not shrink to nothing.
pub fn executable() -> Vec<u8> {
    let mut file = vec![0; 64 + 56];
    file[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    for (at, byte) in [(16, 2), (18, 62), (32, 64), (54, 56), (56, 1), (64, 1)] {
        file[at] = byte;
    }
    let mut state = 1_u32;
    file.extend((0..40_000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28) as u8
    }));
    file
}

/// The image of that executable, and its layer.
pub fn packed() -> (Image, Vec<u8>) {
    let (executable, mut layer) = (executable(), Vec::new());
    let image = image::pack(&executable[..], executable.len() as u64, &mut layer).expect("it packs");
    (image, layer)
}
