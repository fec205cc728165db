//! Lists the crates that ship, and turns the list into bills of materials. From these a scanner tells whether
//! a crate is known to be vulnerable.
//!
//! Documents: the specification of `CycloneDX`, version 1.5; what `cargo auditable` embeds, as its `PARSING.md`
//! has it; RFC 1950 (zlib) and RFC 1951 (deflate).
//!
//! ```text
//!     CRATES ─┬─> SECTION     for scanners of files (Trivy, Syft, Grype, cargo-audit): main.rs puts it into
//!             │               the executable as the section `.dep-v0`
//!             └─> DOCUMENT    for clients of a registry: `artifacts` has it refer to the image, and
//!                             `quinistry sbom` prints it
//! ```
//!
//! Without the section, an image of one stripped file would tell a scanner nothing.
//!
//! Limits: the list is that of a build with this source's Cargo.lock (`cargo install --locked`). It is one list for
//! Linux on every processor, because the same image is made on all of them: `cpufeatures` ships for `386`,
//! `amd64` and `arm64` alone, and uses `libc` on `arm64` alone.
//!
//! Deliberately absent: the standard library and the C library, whose versions the source does not know; a
//! serial number and a time, which no two builds would have in common; and the compression of the section,
//! which the layer does.

/// The media type of the document.
pub const CYCLONE_DX: &str = "application/vnd.cyclonedx+json";

/// A crate that ships.
pub struct Crate {
    /// Its name on crates.io.
    pub name: &'static str,
    /// The version that Cargo.lock has.
    pub version: &'static str,
    /// Its license, as an SPDX expression.
    pub license: &'static str,
    /// The names of the crates that it uses.
    pub uses: &'static [&'static str],
}

/// Every crate whose code is in the executable. The first is this one, and the others are sorted.
pub const CRATES: &[Crate] = {
    const EITHER: &str = "MIT OR Apache-2.0";
    const fn new(
        name: &'static str,
        version: &'static str,
        license: &'static str,
        uses: &'static [&'static str],
    ) -> Crate {
        Crate { name, version, license, uses }
    }
    &[
        new(
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            env!("CARGO_PKG_LICENSE"),
            &["httparse", "libc", "miniz_oxide", "mio", "serde_json", "sha2"],
        ),
        new("adler2", "2.0.1", "0BSD OR MIT OR Apache-2.0", &[]),
        new("block-buffer", "0.12.1", EITHER, &["hybrid-array"]),
        new("cfg-if", "1.0.5", EITHER, &[]),
        new("cpufeatures", "0.3.1", EITHER, &["libc"]),
        new("crypto-common", "0.2.2", EITHER, &["hybrid-array"]),
        new("digest", "0.11.3", EITHER, &["block-buffer", "crypto-common"]),
        new("httparse", "1.10.1", EITHER, &[]),
        new("hybrid-array", "0.4.15", EITHER, &["typenum"]),
        new("itoa", "1.0.19", EITHER, &[]),
        new("libc", "0.2.191", EITHER, &[]),
        new("memchr", "2.8.3", "Unlicense OR MIT", &[]),
        new("miniz_oxide", "0.9.1", "MIT OR Zlib OR Apache-2.0", &["adler2"]),
        new("mio", "1.2.5", "MIT", &["libc"]),
        new("serde_core", "1.0.229", EITHER, &[]),
        new("serde_json", "1.0.154", EITHER, &["itoa", "memchr", "serde_core", "zmij"]),
        new("sha2", "0.11.1", EITHER, &["cfg-if", "cpufeatures", "digest"]),
        new("typenum", "1.20.1", EITHER, &[]),
        new("zmij", "1.0.23", "MIT", &[]),
    ]
};

/// The list as a `CycloneDX` document: JSON with a line for each crate, and one for what it uses.
pub const DOCUMENT: &[u8] = &{
    const TEXT: Bytes = Bytes::document();
    TEXT.exactly::<{ TEXT.length }>()
};

/// The list as `cargo auditable` writes it: JSON in a zlib stream.
pub const SECTION: [u8; PACKAGES.length + ZLIB_OVERHEAD] = Bytes::zlib(&PACKAGES).exactly();
const PACKAGES: Bytes = Bytes::packages();

/// What a zlib stream of one stored block has besides its content.
const ZLIB_OVERHEAD: usize = 2 + 5 + 4;

/// Bytes that grow at compile time, where there is no `Vec`. No text here has a character that JSON escapes.
struct Bytes {
    bytes: [u8; 16 * 1024],
    length: usize,
}

impl Bytes {
    const fn new() -> Self {
        Self { bytes: [0; 16 * 1024], length: 0 }
    }

    const fn exactly<const LENGTH: usize>(&self) -> [u8; LENGTH] {
        assert!(self.length == LENGTH);
        *self.bytes.first_chunk().expect("it is not longer than all bytes")
    }

    const fn push(&mut self, bytes: &[u8]) {
        self.bytes.split_at_mut(self.length).1.split_at_mut(bytes.len()).0.copy_from_slice(bytes);
        self.length += bytes.len();
    }

    const fn push_texts(&mut self, mut texts: &[&str]) {
        while let [text, rest @ ..] = texts {
            self.push(text.as_bytes());
            texts = rest;
        }
    }

    const fn push_number(&mut self, number: usize) {
        if number > 9 {
            self.push_number(number / 10);
        }
        self.push(&[b'0' + (number % 10) as u8]);
    }

    const fn document() -> Self {
        let mut json = Self::new();
        json.push(b"{\n\"bomFormat\": \"CycloneDX\",\n\"specVersion\": \"1.5\",\n\"version\": 1,\n");
        json.push(b"\"metadata\": {\"component\": ");
        json.push_component(0, "application");
        json.push(b"},\n\"components\": [");
        let mut place = 1;
        while place < CRATES.len() {
            json.push(if place == 1 { b"\n" } else { b",\n" });
            json.push_component(place, "library");
            place += 1;
        }
        json.push(b"\n],\n\"dependencies\": [");
        place = 0;
        while place < CRATES.len() {
            json.push(if place == 0 { b"\n" } else { b",\n" });
            json.push_dependencies(place);
            place += 1;
        }
        json.push(b"\n]\n}\n");
        json
    }

    const fn push_component(&mut self, place: usize, kind: &str) {
        let Crate { name, version, license, .. } = CRATES[place];
        self.push_texts(&["{\"type\": \"", kind, "\", \"bom-ref\": "]);
        self.push_purl(place);
        self.push_texts(&[", \"name\": \"", name, "\", \"version\": \"", version, "\", \"purl\": "]);
        self.push_purl(place);
        self.push_texts(&[", \"licenses\": [{\"expression\": \"", license, "\"}]}"]);
    }

    const fn push_dependencies(&mut self, place: usize) {
        self.push(b"{\"ref\": ");
        self.push_purl(place);
        self.push(b", \"dependsOn\": [");
        let uses = CRATES[place].uses;
        let mut at = 0;
        while at < uses.len() {
            self.push(if at == 0 { b"" } else { b", " });
            self.push_purl(place_of(uses[at]));
            at += 1;
        }
        self.push(b"]}");
    }

    /// The package URL, by which advisories name a crate (purl-spec, type "cargo").
    const fn push_purl(&mut self, place: usize) {
        self.push_texts(&["\"pkg:cargo/", CRATES[place].name, "@", CRATES[place].version, "\""]);
    }

    /// A package names those that it uses by their places in the list.
    const fn packages() -> Self {
        let mut json = Self::new();
        json.push(b"{\"packages\":[");
        let mut place = 0;
        while place < CRATES.len() {
            let Crate { name, version, uses, .. } = CRATES[place];
            json.push(if place == 0 { b"" } else { b"," });
            json.push_texts(&["{\"name\":\"", name, "\",\"version\":\"", version, "\",\"source\":\""]);
            json.push(if place == 0 { b"local\",\"root\":true" } else { b"crates.io\"" });
            let mut at = 0;
            while at < uses.len() {
                json.push(if at == 0 { b",\"dependencies\":[" } else { b"," });
                json.push_number(place_of(uses[at]));
                at += 1;
            }
            json.push(if at == 0 { b"}" } else { b"]}" });
            place += 1;
        }
        json.push(b"]}");
        json
    }

    const fn zlib(content: &Self) -> Self {
        let mut stream = Self::new();
        // RFC 1950 section 2.2: deflate with a window of 32 KiB; the two bytes are a multiple of 31.
        stream.push(&[0x78, 0x01]);
        // RFC 1951 section 3.2.4: the last block, which is stored; its length, and the complement of that.
        let length = content.length as u16;
        stream.push(&[1]);
        stream.push(&length.to_le_bytes());
        stream.push(&(!length).to_le_bytes());
        // RFC 1950 section 8.2: Adler-32.
        let (mut a, mut b, mut at) = (1, 0, 0);
        while at < content.length {
            stream.push(&[content.bytes[at]]);
            a = (a + content.bytes[at] as u32) % 65521;
            b = (b + a) % 65521;
            at += 1;
        }
        stream.push(&(b << 16 | a).to_be_bytes());
        stream
    }
}

/// Where a crate is in the list.
const fn place_of(name: &str) -> usize {
    let mut place = 0;
    while !is_same(CRATES[place].name.as_bytes(), name.as_bytes()) {
        place += 1;
    }
    place
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    match (a, b) {
        ([], []) => true,
        ([a, more_a @ ..], [b, more_b @ ..]) => *a == *b && is_same(more_a, more_b),
        _ => false,
    }
}
