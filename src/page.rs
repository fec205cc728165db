//! Turns an image into what people get at `/`: a page for browsers, and a short text for every other client.
//!
//! Documents: HTML and SVG as browsers have them; Content Security Policy Level 3; WCAG 2.2 for contrast.
//!
//! ```text
//!     page.html    the template: it has a name in braces wherever something is filled in
//!     page.css     its style
//!
//!     {commands} {age} ...           differ with every request
//!     {index} {picture} {parts} ...  depend on the image alone, and are made once, at start
//! ```
//!
//! The picture shows the way from the index down to the executable. Behind it comes each of its parts with all
//! that is known of it, and after those the manifests and configs of other platforms, folded. A part has its digest for
//! an anchor. So whatever names a part by its digest is linked to it, and a click follows the protocol.
//!
//! What a client sends does not get into the page, but for its host, which is shown only if it consists of
//! characters that mean nothing to HTML and to a shell. Everything is escaped nevertheless.
//!
//! Limits: none of its own. The page of one platform has some 22 KB, that of five 70 KB.
//!
//! Deliberately absent: scripts, and everything that a browser would have to fetch. The page's policy forbids both.

use std::fmt::{self, Display, Formatter, Write};

use crate::image::digest::{Digest, START, Summary};
use crate::image::layer::Layer;
use crate::image::{BLOB, Descriptor, Document, Image, NAME, OCI_CONFIG, OCI_LAYER, PORT, Platform, VERSION};
use crate::kinds::Endpoint;
use crate::metrics::Vitals;

/// The media type of the page.
pub const HTML: &str = "text/html; charset=utf-8";

/// The fields that forbid a browser to load anything else, or to show the page inside of another.
pub const FIELDS: [(&str, &str); 3] = [
    // The one style that may be applied is that with this hash; a test computes it.
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'sha256-/Plifdx8sCvkNmLqw6V6IdSGdYSO35hn1Nr+YWOKysk='; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
];

/// Stands in the template for what differs with every request.
const HOLE: char = '\0';

/// How many of them there are.
const HOLES: usize = 6;

/// The page, but for what differs with every request.
pub struct Page {
    /// The page with its holes.
    html: String,
}

impl Page {
    /// Makes the page of an image.
    #[must_use]
    pub fn new(image: &Image) -> Self {
        let parts = parts(image);
        let (shown, others) = parts.split_at(SHOWN);
        let html = format!(
            include_str!("page.html"),
            style = include_str!("page.css"),
            commands = HOLE,
            age = HOLE,
            requests = HOLE,
            layers = HOLE,
            bytes = HOLE,
            connections = HOLE,
            index = image.index.descriptor.digest,
            picture = Picture(shown),
            parts = Sections(shown, "section", "h3"),
            others = Sections(others, "details", "summary"),
            architecture = image.platforms[image.own].architecture,
            version = VERSION,
            source = env!("CARGO_PKG_REPOSITORY"),
        );
        Self { html }
    }

    /// The page for a visitor who asked this host.
    #[must_use]
    pub fn write(&self, host: &str, vitals: &Vitals<'_>) -> Vec<u8> {
        let Vitals { metrics, clock, .. } = vitals;
        let (mut requests, mut layers) = (0, 0);
        metrics.answers().for_each(|(endpoint, _, count)| {
            requests += count;
            layers += if endpoint == Endpoint::Layer { count } else { 0 };
        });
        let commands = commands(host, "");
        let fillings: [&dyn Display; HOLES + 1] = [
            &Escaped(commands.trim_ascii_end()),
            &Age(clock.unix().saturating_sub(metrics.started)),
            &Grouped(requests),
            &Grouped(layers),
            &Grouped(metrics.content_bytes),
            &Grouped(metrics.open()),
            &"",
        ];
        let mut html = String::with_capacity(self.html.len() + 1024);
        for (piece, filling) in self.html.split(HOLE).zip(fillings) {
            let _ = write!(html, "{piece}{filling}");
        }
        html.into_bytes()
    }
}

/// The short text for every client but a browser.
#[must_use]
pub fn text(host: &str) -> String {
    let commands = commands(host, "  ");
    format!(
        "This is a Docker registry quine: it serves one image, which holds the program that serves it.\n\n{commands}"
    )
}

/// Commands that pull the image from `host`, run it, and pull it again from the container, each on a line that
/// is indented so. The container gets another port than `host` has: both may be on one machine.
#[must_use]
pub fn commands(host: &str, indent: &str) -> String {
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).unwrap_or(PORT);
    let port = port.checked_add(10).unwrap_or_else(|| port - 10);
    format!(
        "{indent}docker pull {host}/{NAME}\n\
         {indent}docker run -d --rm -p {port}:{PORT} {host}/{NAME}\n\
         {indent}docker pull localhost:{port}/{NAME}\n"
    )
}

/// Returns the host to show to a client that asked this one: `localhost:8080`, unless Docker can pull from it.
///
/// RFC 3986 allows names with characters that mean something to a shell, such as `;` and `$(`. Docker's grammar has
/// none of them, and no name that begins with a hyphen, which a command would take for an option. Docker also takes
/// a single word for a namespace of Docker Hub.
///
/// ```text
///     host      = component *( "." component ) [ ":" 1*DIGIT ]
///     component = alphanumeric [ *( alphanumeric / "-" ) alphanumeric ]
/// ```
///
/// Field note: newer versions of Docker take an IPv6 address in brackets, 20.10 does not. A shell may take the
/// brackets for a pattern.
#[must_use]
pub fn host(authority: Option<&str>) -> &str {
    let is_component = |component: &str| {
        let is_plain = component.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        is_plain && !component.is_empty() && !component.starts_with('-') && !component.ends_with('-')
    };
    let can_be_pulled_from = |host: &&str| {
        let (name, port) = host.split_once(':').unwrap_or((host, "0"));
        let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let is_registry = host.contains(['.', ':']) || *host == "localhost";
        is_registry && is_port && name.split('.').all(is_component)
    };
    authority.filter(can_be_pulled_from).unwrap_or("localhost:8080")
}

/// Something that the page shows.
struct Part<'a> {
    kind: &'static Kind,
    /// The platform that it is for. It is empty for an index, which is for all.
    architecture: &'static str,
    digest: &'a Digest,
    size: u64,
    /// The first bytes.
    start: &'a [u8],
    media_type: &'static str,
    /// The endpoint that has it. It is empty for what is inside of a layer.
    endpoint: &'static str,
    /// The content, if it is a document.
    content: &'a [u8],
}

struct Kind {
    name: &'static str,
    about: &'static str,
    /// The class of its colour.
    class: &'static str,
    /// Where the middle of its square is.
    x: u64,
}

static INDEX: Kind = Kind {
    name: "Index",
    about: "Which manifest is for which platform? Its digest is the digest of the image.",
    class: "document",
    x: AXIS,
};
static MANIFEST: Kind = Kind {
    name: "Manifest",
    about: "What is the image for one platform made of?",
    class: "document",
    x: AXIS,
};
static CONFIG: Kind = Kind {
    name: "Config",
    about: "How is it run? The config also names each layer by its diff ID: the digest that the layer has before \
            it is compressed.",
    class: "document",
    x: BRANCH,
};
static LAYER: Kind = Kind {
    name: "Layer",
    about: "The files, packed and compressed. This is nearly all that a pull transfers.",
    class: "layer",
    x: AXIS,
};
static TAR: Kind = Kind {
    name: "Tar",
    about: "What the layer is when it is unpacked. Its digest is the diff ID.",
    class: "tar",
    x: AXIS,
};
static EXECUTABLE: Kind = Kind {
    name: "Executable",
    about: "The one file in the layer: a static program, and if it is for this machine, the one that serves this page.",
    class: "program",
    x: AXIS,
};

/// How many parts are in the picture: those of the way to our own executable, one of each kind.
const SHOWN: usize = 6;

/// All parts. The first [`SHOWN`] are those of the picture.
fn parts(image: &Image) -> Vec<Part<'_>> {
    let Image { index, platforms, own, .. } = image;
    let mut parts = Vec::new();
    add_document(&INDEX, "", index, &mut parts);
    add_platform(image, *own, &mut parts);
    for place in (0..platforms.len()).filter(|place| place != own) {
        add_platform(image, place, &mut parts);
    }
    parts
}

fn add_platform<'a>(image: &'a Image, place: usize, parts: &mut Vec<Part<'a>>) {
    let Platform { architecture, config, manifest, .. } = &image.platforms[place];
    let Layer { blob, tar, executable, .. } = &image.layers[place];
    add_document(&MANIFEST, architecture, manifest, parts);
    add_document(&CONFIG, architecture, config, parts);
    for (kind, media_type, endpoint, summary) in
        [(&LAYER, OCI_LAYER, "blobs", blob), (&TAR, "tar", "", tar), (&EXECUTABLE, "ELF", "", executable)]
    {
        let Summary { digest, size, start } = summary;
        let (size, content) = (*size, &[][..]);
        parts.push(Part { kind, architecture, digest, size, start, media_type, endpoint, content });
    }
}

fn add_document<'a>(
    kind: &'static Kind,
    architecture: &'static str,
    document: &'a Document,
    parts: &mut Vec<Part<'a>>,
) {
    let Document { descriptor: Descriptor { content_type, digest, size }, content } = document;
    let (media_type, endpoint) = match *content_type {
        BLOB => (OCI_CONFIG, "blobs"),
        other => (other, "manifests"),
    };
    let start = &content[..START];
    parts.push(Part { kind, architecture, digest, size: *size, start, media_type, endpoint, content });
}

/// All that is known of each part, in such elements with such titles.
struct Sections<'a>(&'a [Part<'a>], &'static str, &'static str);

impl Display for Sections<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(parts, element, title) = self;
        for part in *parts {
            let Part { kind, architecture, digest, size, start, media_type, endpoint, content } = part;
            let Kind { name, about, .. } = kind;
            let of = if architecture.is_empty() { "" } else { " for " };
            write!(
                f,
                "<{element} class=\"part\" id=\"{digest}\"><{title}>{name}{of}{architecture}</{title}>\n\
                 <p>{about}</p>\n<dl class=\"facts\"><dt>Digest</dt><dd><code>{digest}</code></dd>\
                 <dt>Size</dt><dd>{} bytes</dd><dt>Type</dt><dd><code>{media_type}</code></dd>\
                 <dt>Begins</dt><dd><code>{}\u{a0} {}</code></dd><dt>Served</dt><dd>",
                Grouped(*size),
                Hex(start),
                Ascii(start)
            )?;
            if endpoint.is_empty() {
                f.write_str("inside of the layer")?;
            } else {
                let path = format_args!("/v2/{NAME}/{endpoint}");
                write!(f, "<a href=\"{path}/{digest}\"><code>GET {path}/{digest:.15}…</code></a>")?;
            }
            f.write_str("</dd></dl>\n")?;
            if !content.is_empty() {
                writeln!(f, "<pre><code>{}</code></pre>", Linked(content))?;
            }
            writeln!(f, "</{element}>")?;
        }
        Ok(())
    }
}

/// The text of a document. Each digest in it is a link to the part that has it.
struct Linked<'a>(&'a [u8]);

impl Display for Linked<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // What is between two quotes is a text, and no text in a document has a quote itself.
        for (index, piece) in str::from_utf8(self.0).unwrap_or_default().split('"').enumerate() {
            f.write_str(if index == 0 { "" } else { "\"" })?;
            let piece = Escaped(piece);
            if piece.0.starts_with("sha256:") {
                write!(f, "<a href=\"#{piece}\">{piece}</a>")?;
            } else {
                piece.fmt(f)?;
            }
        }
        Ok(())
    }
}

/// Bytes in hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { " " })?;
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Bytes as ASCII, with a point in the place of each that cannot be seen.
struct Ascii<'a>(&'a [u8]);

impl Display for Ascii<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            match byte {
                // A space that no browser takes away.
                b' ' => f.write_char('\u{a0}')?,
                0x21..0x7f => escape(char::from(*byte), f)?,
                _ => f.write_char('.')?,
            }
        }
        Ok(())
    }
}

/// From one part of the picture to the next. Its units are about a pixel each.
const ROW: u64 = 108;
/// Where the middle of the squares is, and where that of the config.
const AXIS: u64 = 56;
const BRANCH: u64 = 92;
/// The side of the largest square.
const SIDE: u64 = 84;
/// The radius of the ring around a square that is too small to see.
const RING: u64 = 8;

/// The way from the index to the executable. Each part is a link to what the page says of it.
struct Picture<'a>(&'a [Part<'a>]);

impl Display for Picture<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let largest = self.0.iter().map(|part| part.size).max().unwrap_or(1);
        // An area is as large as the number of bytes. Sides are in hundredths: a fraction without floating point.
        let side = |row: usize| (self.0[row].size * (100 * SIDE).pow(2) / largest).isqrt();
        let sides: [u64; SHOWN] = std::array::from_fn(side);
        let height = ROW * SHOWN as u64 - 20;
        write!(
            f,
            "<svg viewBox=\"0 10 384 {height}\" aria-label=\"The way from the index to the executable\">\
             <marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
             markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path class=\"head\" d=\"M0 0l8 4-8 4z\"/></marker>"
        )?;
        draw_arrows(f, sides)?;
        for (row, part) in self.0.iter().enumerate() {
            draw(f, part, middle(row), sides[row])?;
        }
        f.write_str("</svg>")
    }
}

/// Where the middle of a row is, from the top.
fn middle(row: usize) -> u64 {
    row as u64 * ROW + ROW / 2
}

/// Draws a part around that height: a square with that side, in hundredths, and what is known of it.
fn draw(f: &mut Formatter<'_>, part: &Part<'_>, y: u64, side: u64) -> fmt::Result {
    let Part { digest, size, start, kind: Kind { name, class, x, .. }, .. } = part;
    let (bytes, half, (start, more)) = (Grouped(*size), Hundredths(side / 2), start.split_at(START / 2));
    write!(
        f,
        "\n<a href=\"#{digest}\" aria-label=\"{name}, {bytes} bytes\" transform=\"translate(0 {y})\">\
         <rect class=\"hit\" x=\"102\" y=\"-46\" width=\"282\" height=\"92\" rx=\"6\"/>\
         <rect class=\"{class}\" x=\"{}\" y=\"-{half}\" width=\"{width}\" height=\"{width}\"/>\
         <text class=\"name\" x=\"112\" y=\"-26\">{name}</text>\
         <text class=\"quiet\" x=\"376\" y=\"-26\" text-anchor=\"end\">{bytes} bytes</text>\
         <text class=\"mono\" x=\"112\" y=\"-7\">{digest:.27}…</text>\
         <text class=\"mono quiet\"><tspan x=\"112\" y=\"16\">{}</tspan><tspan x=\"296\">{}</tspan>\
         <tspan x=\"112\" y=\"33\">{}</tspan><tspan x=\"296\">{}</tspan></text>",
        Hundredths(100 * x - side / 2),
        Hex(start),
        Ascii(start),
        Hex(more),
        Ascii(more),
        width = Hundredths(side),
    )?;
    if side < 100 * RING {
        write!(f, "<circle class=\"ring\" cx=\"{x}\" r=\"{RING}\"/>")?;
    }
    f.write_str("</a>")
}

/// Draws the lines between the parts, which have these sides.
fn draw_arrows(f: &mut Formatter<'_>, sides: [u64; SHOWN]) -> fmt::Result {
    let half = |row: usize| RING.max(sides[row] / 200);
    let (top, bottom) = (|row| middle(row) - half(row), |row| middle(row) + half(row));
    let [index, manifest, config, layer, tar, executable] = std::array::from_fn(|row| row);
    for (from, to) in [(index, manifest), (manifest, layer), (layer, tar), (tar, executable)] {
        write!(f, "<path class=\"line\" d=\"M{AXIS} {}V{}\"/>", bottom(from), top(to))?;
    }
    // The manifest leads to the config, too, and the config by its diff ID to the tar. The executable makes the
    // index, and the circle is closed.
    write!(
        f,
        "<path class=\"line\" d=\"M{AXIS} {}q0 54 28 54\"/><path class=\"line dash\" d=\"M{BRANCH} {}V{}\"/>\
         <path class=\"line\" d=\"M{} {}h-2q-8 0-8-8V{}q0-8 8-8h36\"/>",
        middle(manifest) + ROW / 2,
        bottom(config),
        top(tar),
        AXIS - half(executable),
        middle(executable),
        middle(index) + 8,
    )
}

/// A number of hundredths.
#[derive(Clone, Copy)]
struct Hundredths(u64);

impl Display for Hundredths {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// A number with a comma before each three digits.
#[derive(Clone, Copy)]
struct Grouped(u64);

impl Display for Grouped {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.0 / 1000, self.0 % 1000) {
            (0, number) => number.fmt(f),
            (thousands, rest) => write!(f, "{},{rest:03}", Grouped(thousands)),
        }
    }
}

/// A time in seconds, in its two largest units.
struct Age(u64);

impl Display for Age {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let seconds = self.0;
        let (large, unit, small, small_unit) = match seconds {
            0..60 => return write!(f, "{seconds} s"),
            60..3600 => (seconds / 60, "min", seconds % 60, "s"),
            3600..86400 => (seconds / 3600, "h", seconds / 60 % 60, "min"),
            _ => (seconds / 86400, "d", seconds / 3600 % 24, "h"),
        };
        write!(f, "{large} {unit} {small} {small_unit}")
    }
}

/// A text in which no character has a meaning for HTML.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| escape(character, f))
    }
}

fn escape(character: char, f: &mut Formatter<'_>) -> fmt::Result {
    match character {
        '&' => f.write_str("&amp;"),
        '<' => f.write_str("&lt;"),
        '>' => f.write_str("&gt;"),
        '"' => f.write_str("&quot;"),
        other => f.write_char(other),
    }
}
