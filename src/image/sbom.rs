//! Holds the software bill of materials (SBOM): the list of crates that ship, from which a scanner finds out whether
//! one of them is known to be vulnerable.
//!
//! Documents: the specification of `CycloneDX`, version 1.5; `PARSING.md` of `cargo auditable`; RFC 1950 (zlib).
//!
//! ```text
//!     sbom.json    for clients of a registry: `artifacts` makes it refer to the image, and `quinistry sbom` prints it
//!     sbom.zlib    for scanners of files (Trivy, Syft, Grype, cargo-audit): main.rs puts it into the executable as
//!                  the section `.dep-v0`. Without it, an image of one stripped file would not name its crates
//! ```
//!
//! Both files are generated from `Cargo.lock`. A test checks both, and this command makes the test write them:
//!
//! ```text
//!     QUINISTRY_UPDATE=1 cargo test --test sbom
//! ```
//!
//! Limits: the list is accurate only for a build with this source's Cargo.lock (`cargo install --locked`). Because
//! every processor must make the same image, one list covers all processors, and therefore includes a crate that ships
//! only on some of them: `cpufeatures`, on `386`, `amd64` and `arm64`.
//!
//! Deliberately absent:
//!
//! * the standard library and the C library, whose versions the source does not know;
//! * a serial number and a time, which would differ between builds;
//! * compression of the section, whose zlib stream consists of stored blocks, because the layer is compressed anyway.

/// The media type of the document.
pub const CYCLONE_DX: &str = "application/vnd.cyclonedx+json";

/// The list as a `CycloneDX` document: JSON with one line for each crate, and one line for the crates that it uses.
pub const DOCUMENT: &[u8] = include_bytes!("sbom.json");

/// The list as `cargo auditable` writes it: JSON in a zlib stream.
pub const SECTION: [u8; include_bytes!("sbom.zlib").len()] = *include_bytes!("sbom.zlib");
