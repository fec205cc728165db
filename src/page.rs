//! Turns an image into the page that browsers get at `/`.
//!
//! Documents: HTML and SVG as browsers implement them; Content Security Policy Level 3; WCAG 2.2 for contrast.
//!
//! ```text
//!     page.html    the template, with a name in braces for each value
//!     page.css     the style of the page
//!
//!     {warning} {commands} {age} ... can differ for each request
//!     {index} {picture} {parts} ...  depend on the image alone, and are made once, at start
//! ```
//!
//! The picture shows six objects, from the index to the executable. It is followed by a section for each of these
//! objects, and a folded section for each object of another platform. The anchor of a section is the digest of its
//! object. Each mention of that digest in a document links to the section, so that a reader who clicks follows the
//! protocol.
//!
//! The only bytes from a client that reach the page are those of the requested host, and only if `welcome` finds that
//! Docker can pull from that host. The page escapes them nevertheless.
//!
//! The page is about 20 KB for an image with one platform, and 70 KB for one with five.
//!
//! Deliberately absent: scripts, and everything that a browser would have to fetch, which the page's policy forbids.

use std::fmt::Write as _;

use crate::image::digest::{Digest, START, Summary};
use crate::image::layer::Layer;
use crate::image::{Descriptor, Document, Image, NAME, OCI, OCTET_STREAM, Platform, VERSION};
use crate::kinds::RequestKind;
use crate::metrics::Vitals;
use crate::welcome::commands;

/// The fields of the page, except Content-Length. The policy allows only the style with this hash, which a test
/// computes, and images in `data:` URLs, such as the icon. It forbids a browser to load anything else, or to show the
/// page inside another page.
pub const FIELDS: &[u8] = b"Content-Type: text/html; charset=utf-8\r\n\
    Cache-Control: no-store\r\nVary: Accept\r\n\
    Content-Security-Policy: default-src 'none'; \
    style-src 'sha256-hQ57lHvhsEgJNlbhGJlEQ19k05XNPfWd9wVS4ui7rpM='; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n";

/// The sections of the page that depend on the image alone.
pub struct Page {
    index: Digest,
    architecture: &'static str,
    picture: String,
    parts: String,
    others: String,
}

impl Page {
    /// Makes the page of an image.
    pub fn new(image: &Image) -> Self {
        let parts = parts(image);
        let (shown, others) = parts.split_at(SHOWN);
        Self {
            index: image.index.descriptor.digest,
            architecture: image.platforms[image.own].layer.architecture,
            picture: picture(shown),
            parts: sections(shown, "section", "h3"),
            others: sections(others, "details", "summary"),
        }
    }

    /// Returns the page for a request to this host.
    pub fn write(&self, host: &str, vitals: &Vitals<'_>) -> String {
        let Vitals { metrics, clock, faults, .. } = vitals;
        let line = |command: &str| format!("<code>{}\n</code>", escape(command));
        let (mut requests, mut layers) = (0, 0);
        metrics.responses().for_each(|(endpoint, _, count)| {
            requests += count;
            layers += if endpoint == RequestKind::Layer { count } else { 0 };
        });
        format!(
            include_str!("page.html"),
            style = include_str!("page.css"),
            warning = warning(faults),
            commands = commands(host, "").lines().map(line).collect::<String>(),
            age = age(clock.unix.saturating_sub(metrics.started)),
            requests = grouped(requests),
            layers = grouped(layers),
            bytes = grouped(metrics.content_bytes),
            connections = grouped(metrics.open()),
            index = self.index,
            picture = self.picture,
            parts = self.parts,
            others = self.others,
            architecture = self.architecture,
            version = VERSION,
            source = env!("CARGO_PKG_REPOSITORY"),
        )
    }
}

/// Returns a warning with the rules that make responses wrong, or nothing if there are no rules.
fn warning(faults: &[(String, u64)]) -> String {
    if faults.is_empty() {
        return String::new();
    }
    let mut text = "\n<p class=\"text\"><strong>Some responses of this server are wrong on purpose, to test \
                    clients.</strong> Its rules, and the number of responses that each has made wrong:</p>\n\
                    <pre><code>"
        .to_owned();
    for (rule, count) in faults {
        let _ = writeln!(text, "{rule}  {count}");
    }
    text + "</code></pre>"
}

/// An object that the page shows: a document, or a layer, its tar or its executable.
struct Object<'a> {
    name: &'static str,
    about: &'static str,
    /// The class that determines the color of the object.
    class: &'static str,
    /// The platform of the object; empty for the index, which is for all platforms.
    architecture: &'static str,
    digest: &'a Digest,
    size: u64,
    /// The first bytes of the object.
    start: &'a [u8],
    media_type: &'static str,
    /// The endpoint that serves the object; empty for an object inside a layer.
    endpoint: &'static str,
    /// The content of a document; empty for any other object.
    content: &'a [u8],
}

const INDEX: &str = "Which manifest is for which platform? The digest of the index is the digest of the image.";
const MANIFEST: &str = "What is the image for one platform made of?";
const CONFIG: &str = "How is it run? The config also names each layer by its diff ID: the digest that the layer has \
    before it is compressed.";
const LAYER: &str = "The executable, packed and compressed. The layers are nearly all that a pull transfers.";
const TAR: &str = "The layer before it is compressed. Its digest is the diff ID.";
const EXECUTABLE: &str = "The one file in the layer: a static program. The program for this machine serves this page.";

/// The number of objects in the picture: the index, and the objects of the platform of this process.
const SHOWN: usize = 6;

/// Returns all objects. The first [`SHOWN`] are the objects of the picture.
fn parts(image: &Image) -> Vec<Object<'_>> {
    let Image { index, platforms, own, .. } = image;
    let mut parts = vec![document("Index", INDEX, "", index)];
    let others = (0..platforms.len()).filter(|place| place != own);
    for place in std::iter::once(*own).chain(others) {
        let Platform { layer: Layer { architecture, blob, tar, executable }, config, manifest, .. } = &platforms[place];
        parts.extend([
            document("Manifest", MANIFEST, architecture, manifest),
            document("Config", CONFIG, architecture, config),
            Object { endpoint: "blobs", ..packed("Layer", LAYER, "layer", OCI.layer, architecture, blob) },
            packed("Tar", TAR, "tar", "tar", architecture, tar),
            packed("Executable", EXECUTABLE, "program", "ELF", architecture, executable),
        ]);
    }
    parts
}

fn document<'a>(
    name: &'static str,
    about: &'static str,
    architecture: &'static str,
    Document { descriptor: Descriptor { content_type, digest, size }, content }: &'a Document,
) -> Object<'a> {
    let (media_type, endpoint) = match *content_type {
        OCTET_STREAM => (OCI.config, "blobs"),
        other => (other, "manifests"),
    };
    let (class, size, start) = ("document", *size, &content[..START]);
    Object { name, about, class, architecture, digest, size, start, media_type, endpoint, content }
}

/// Returns an object that results from packing a layer: the layer, its tar or its executable. `endpoint` is empty, and
/// the caller sets it for the layer.
fn packed<'a>(
    name: &'static str,
    about: &'static str,
    class: &'static str,
    media_type: &'static str,
    architecture: &'static str,
    Summary { digest, size, start }: &'a Summary,
) -> Object<'a> {
    let (size, endpoint, content) = (*size, "", &[][..]);
    Object { name, about, class, architecture, digest, size, start, media_type, endpoint, content }
}

/// A document with at least this many bytes is folded.
const LONG: usize = 600;

/// Returns a section for each object. `element` and `title` are names of HTML elements.
fn sections(parts: &[Object<'_>], element: &str, title: &str) -> String {
    parts.iter().map(|part| section(part, element, title)).collect()
}

fn section(part: &Object<'_>, element: &str, title: &str) -> String {
    let Object { name, about, architecture, digest, size, start, media_type, endpoint, content, .. } = part;
    let of = if architecture.is_empty() { "" } else { " for " };
    let served = if endpoint.is_empty() {
        "inside the layer".into()
    } else {
        // A browser saves a blob that it cannot show, and needs a name for the file, which a blob does not have.
        let file = match *name {
            "Config" => " download=\"config.json\"",
            "Layer" => " download=\"layer.tar.gz\"",
            _ => "",
        };
        let path = format!("/v2/{NAME}/{endpoint}");
        format!("<a href=\"{path}/{digest}\"{file}><code>GET {path}/{digest:.15}…</code></a>")
    };
    let text = if content.is_empty() {
        String::new()
    } else {
        let open = if content.len() < LONG { " open" } else { "" };
        let text = linked(content);
        format!("<details{open}><summary>Content</summary><pre><code>{text}</code></pre></details>\n")
    };
    let (size, hex, ascii) = (grouped(*size), hex(start), ascii(start));
    format!(
        "<{element} class=\"part\" id=\"{digest}\"><{title}>{name}{of}{architecture}</{title}>\n\
         <p>{about}</p>\n<dl class=\"facts\"><dt>Digest</dt><dd><code>{digest}</code></dd>\
         <dt>Size</dt><dd>{size} bytes</dd><dt>Type</dt><dd><code>{media_type}</code></dd>\
         <dt>First bytes</dt><dd><code>{hex}\u{a0} {ascii}</code></dd><dt>Served</dt><dd>{served}</dd></dl>\n\
         {text}</{element}>\n"
    )
}

/// Returns the text of a document, in which each digest is a link to the section of its object.
fn linked(content: &[u8]) -> String {
    // Splitting at the quotes separates the strings, because no string of a document contains a quote.
    let mut text = String::new();
    for (index, piece) in str::from_utf8(content).unwrap_or_default().split('"').enumerate() {
        text += if index == 0 { "" } else { "\"" };
        let piece = escape(piece);
        if piece.starts_with("sha256:") {
            let _ = write!(text, "<a href=\"#{piece}\">{piece}</a>");
        } else {
            text += &piece;
        }
    }
    text
}

/// Returns bytes in hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    let mut digits = String::new();
    for byte in bytes {
        let _ = write!(digits, "{byte:02x} ");
    }
    digits.pop();
    digits
}

/// Returns bytes as ASCII, with a dot for each byte that is not printable.
fn ascii(bytes: &[u8]) -> String {
    let shown = bytes.iter().map(|byte| match byte {
        // A no-break space, because browsers collapse ordinary spaces.
        b' ' => '\u{a0}',
        0x21..0x7f => char::from(*byte),
        _ => '.',
    });
    escape(&shown.collect::<String>())
}

/// The distance from one object of the picture to the next. A unit is about a pixel.
const ROW: u64 = 92;
/// The horizontal position of the middle of every square but the config's.
const AXIS: u64 = 56;
/// The horizontal position of the middle of the config's square.
const BRANCH: u64 = 84;
/// The side of the largest square.
const SIDE: u64 = 68;
/// The radius of the ring around a square that is too small to see.
const RING: u64 = 8;

/// Draws the objects from the index to the executable. Each object is a link to its section of the page.
fn picture(parts: &[Object<'_>]) -> String {
    let largest = parts.iter().map(|part| part.size).max().unwrap_or(1);
    // The area of a square is proportional to the size of its object. Sides are in hundredths, to avoid floating point.
    let side = |part: &Object<'_>| (part.size * (100 * SIDE).pow(2) / largest).isqrt();
    let sides: Vec<u64> = parts.iter().map(side).collect();
    let mut squares = String::new();
    for (row, part) in parts.iter().enumerate() {
        squares += &draw(part, middle(row), sides[row]);
    }
    format!(
        "<svg viewBox=\"0 4 384 {height}\" aria-label=\"The way from the index to the executable\">\
         <marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path class=\"head\" d=\"M0 0l8 4-8 4z\"/></marker>\
         {arrows}{squares}</svg>",
        height = ROW * SHOWN as u64 - 8,
        arrows = arrows(&sides),
    )
}

/// Returns the distance of the middle of a row from the top.
fn middle(row: usize) -> u64 {
    row as u64 * ROW + ROW / 2
}

/// Draws an object at the height `y`: a square with this side, in hundredths, and the facts about the object.
fn draw(part: &Object<'_>, y: u64, side: u64) -> String {
    let Object { name, class, digest, size, start, .. } = part;
    let x = if *name == "Config" { BRANCH } else { AXIS };
    let (bytes, half, (start, more)) = (grouped(*size), hundredths(side / 2), start.split_at(START / 2));
    let ring =
        if side < 100 * RING { format!("<circle class=\"ring\" cx=\"{x}\" r=\"{RING}\"/>") } else { String::new() };
    format!(
        "\n<a href=\"#{digest}\" aria-label=\"{name}, {bytes} bytes\" transform=\"translate(0 {y})\">\
         <rect class=\"hit\" x=\"102\" y=\"-46\" width=\"282\" height=\"92\" rx=\"6\"/>\
         <rect class=\"{class}\" x=\"{}\" y=\"-{half}\" width=\"{width}\" height=\"{width}\"/>\
         <text class=\"name\" x=\"112\" y=\"-26\">{name}</text>\
         <text class=\"quiet\" x=\"376\" y=\"-26\" text-anchor=\"end\">{bytes} bytes</text>\
         <text class=\"mono\" x=\"112\" y=\"-7\">{digest:.27}…</text>\
         <text class=\"mono quiet\"><tspan x=\"112\" y=\"14\">{}</tspan><tspan x=\"304\">{}</tspan>\
         <tspan x=\"112\" y=\"31\">{}</tspan><tspan x=\"304\">{}</tspan></text>{ring}</a>",
        hundredths(100 * x - side / 2),
        hex(start),
        ascii(start),
        hex(more),
        ascii(more),
        width = hundredths(side),
    )
}

/// Draws the lines between the squares, which have these sides.
fn arrows(sides: &[u64]) -> String {
    let half = |row: usize| RING.max(sides[row] / 200);
    let (top, bottom) = (|row| middle(row) - half(row), |row| middle(row) + half(row));
    let [index, manifest, config, layer, tar, executable] = std::array::from_fn(|row| row);
    let ways = [(index, manifest), (manifest, layer), (layer, tar), (tar, executable)];
    let mut straight = String::new();
    for (from, to) in ways {
        let _ = write!(straight, "<path class=\"line\" d=\"M{AXIS} {}V{}\"/>", bottom(from), top(to));
    }
    // The manifest also leads to the config, which leads to the tar by the diff ID. The last line leads from the
    // executable back to the index, which the executable makes.
    format!(
        "{straight}<path class=\"line\" d=\"M{AXIS} {}q0 46 20 46\"/><path class=\"line dash\" d=\"M{BRANCH} {}V{}\"/>\
         <path class=\"line\" d=\"M{} {}h-2q-8 0-8-8V{}q0-8 8-8h28\"/>",
        middle(manifest) + ROW / 2,
        bottom(config),
        top(tar),
        AXIS - half(executable),
        middle(executable),
        middle(index) + 8,
    )
}

/// Formats a number of hundredths as a decimal fraction.
fn hundredths(number: u64) -> String {
    format!("{}.{:02}", number / 100, number % 100)
}

/// Formats a number with a comma before each group of three digits.
fn grouped(number: u64) -> String {
    match (number / 1000, number % 1000) {
        (0, number) => number.to_string(),
        (thousands, rest) => format!("{},{rest:03}", grouped(thousands)),
    }
}

/// Formats a time in its two largest units.
fn age(seconds: u64) -> String {
    let (large, unit, small, small_unit) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3600 => (seconds / 60, "min", seconds % 60, "s"),
        3600..86400 => (seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => (seconds / 86400, "d", seconds / 3600 % 24, "h"),
    };
    format!("{large} {unit} {small} {small_unit}")
}

/// Escapes the characters that have a special meaning in HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
