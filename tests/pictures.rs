//! Draws the two pictures in the README, and checks that the files are up to date.
//!
//! A picture is an SVG without scripts and fonts. It is shown as an image on pages that may be light or dark, so it
//! has its own background, and colors for both.
//!
//! The command `QUINISTRY_DRAW=1 cargo test --test pictures` writes the files again.

mod common;

use std::fmt::Write as _;

use common::{README, Server};
use serde_json::Value;

const STYLE: &str = "<style>\
    .back{fill:#fff}.line{stroke:#8c959f;fill:#8c959f}.strong{fill:#1f2328}.weak{fill:#59636e}\
    .ask{stroke:#0969da;fill:#0969da}.answer{stroke:#1a7f37;fill:#1a7f37}.box{fill:#0969da}.file{fill:#8250df}\
    .tar{fill:#8a6d3b}.inside{fill:#fff}\
    text{stroke:none}.code{font-family:ui-monospace,monospace}\
    @media(prefers-color-scheme:dark){.back{fill:#0d1117}.strong{fill:#e6edf3}.weak{fill:#9198a1}\
    .ask{stroke:#58a6ff;fill:#58a6ff}.answer{stroke:#3fb950;fill:#3fb950}.box{fill:#58a6ff}.file{fill:#bc8cff}\
    .tar{fill:#c3a56b}.inside{fill:#0d1117}}\
    </style>\n";

/// An SVG under construction.
struct Picture(String);

impl Picture {
    fn new(width: f64, height: f64, label: &str) -> Self {
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
             font-size=\"13\" role=\"img\" aria-label=\"{label}\">\n{STYLE}\
             <rect class=\"back\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\n"
        ))
    }

    fn put(&mut self, element: &str) {
        self.0 += element;
        self.0.push('\n');
    }

    /// Adds a line of text. `more` has further attributes, each preceded by a space.
    fn text(&mut self, (x, y): (f64, f64), class: &str, more: &str, text: &str) {
        let text = text.replace('<', "&lt;");
        self.put(&format!("<text x=\"{x}\" y=\"{y}\" class=\"{class}\"{more}>{text}</text>"));
    }

    /// Adds an arrow along these points.
    fn arrow(&mut self, class: &str, more: &str, points: &[(f64, f64)]) {
        let mut path = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            write!(path, "{command}{x} {y}").expect("a String takes everything");
        }
        self.put(&format!("<path class=\"{class}\" d=\"{path}\" style=\"fill:none\"{more}/>"));
        let [.., (from_x, from_y), (x, y)] = *points else { panic!("an arrow has two ends") };
        let angle = (y - from_y).atan2(x - from_x).to_degrees();
        self.put(&format!(
            "<path class=\"{class}\" d=\"M0 0l-8 -4v8z\" transform=\"translate({x} {y}) rotate({angle})\"/>"
        ));
    }

    /// Compares the picture with its file. If `QUINISTRY_DRAW` is set, writes the file first.
    fn compare(mut self, name: &str) {
        self.put("</svg>");
        let path = format!("{}/tests/pictures/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("QUINISTRY_DRAW").is_some() {
            std::fs::write(&path, &self.0).expect("our own file");
        }
        let file = std::fs::read_to_string(&path).expect("the file is in the repository");
        assert!(file == self.0, "{path} is out of date, and QUINISTRY_DRAW=1 writes it again:\n{}", self.0);
    }
}

/// For each step, what the client wants to know, its request, and what it receives. Names such as `<index>` stand for
/// digests.
const PULL: [[&str; 3]; 6] = [
    ["Is this a registry?", "GET /v2/", "yes, and it asks for no password"],
    ["What does the tag stand for today?", "HEAD /v2/quinistry/manifests/latest", "sha256:<index>"],
    ["Which manifest is for us?", "GET /v2/quinistry/manifests/sha256:<index>", "a list of manifests"],
    ["What is the image made of?", "GET /v2/quinistry/manifests/sha256:<manifest>", "a config and a layer"],
    ["How is it run?", "GET /v2/quinistry/blobs/sha256:<config>", "the command, the user, the platform"],
    ["What are its files?", "GET /v2/quinistry/blobs/sha256:<layer>", "a compressed tar, with the program"],
];

/// Returns the digest for which each name stands.
fn digests(server: &Server) -> [(&'static str, String); 4] {
    let digest = |value: &Value| value["digest"].as_str().expect("a digest").to_owned();
    let index = server.ask("GET /v2/quinistry/manifests/latest", &[]).json();
    let manifest = digest(&index["manifests"][0]);
    let content = server.ask(&format!("GET /v2/quinistry/manifests/{manifest}"), &[]).json();
    [
        ("sha256:<index>", server.manifest_digest()),
        ("sha256:<manifest>", manifest),
        ("sha256:<config>", digest(&content["config"])),
        ("sha256:<layer>", digest(&content["layers"][0])),
    ]
}

#[test]
fn the_picture_of_a_pull_shows_the_requests_and_their_responses() {
    let server = Server::start();
    let digests = digests(&server);
    let (left, right, top, height) = (90.0, 670.0, 56.0, 66.0);
    let bottom = top + height * 6.0;
    let mut picture = Picture::new(760.0, bottom + 24.0, "A pull: six requests and their responses");
    for (x, name) in [(left, "client"), (right, "quinistry")] {
        picture.text((x, 30.0), "strong", " text-anchor=\"middle\" font-weight=\"bold\"", name);
        picture.put(&format!("<path class=\"line\" d=\"M{x} 40V{bottom}\" stroke-width=\"2\"/>"));
    }
    for ([question, request, got], number) in PULL.into_iter().zip(1_u8..) {
        let line = digests.iter().fold(request.to_owned(), |line, (name, digest)| line.replace(name, digest));
        let response = server.ask(&line, &[]);
        assert_eq!(response.status, 200, "{line}");
        if got.starts_with("sha256:") {
            assert_eq!(response.field("Docker-Content-Digest"), Some(&*digests[0].1));
        }
        let y = top + height * f64::from(number - 1);
        picture.text((left + 14.0, y + 12.0), "weak", "", &format!("{number}. {question}"));
        picture.text((left + 14.0, y + 28.0), "strong code", " font-size=\"12\"", request);
        picture.arrow("ask", "", &[(left, y + 34.0), (right, y + 34.0)]);
        let got = format!("{}: {got}", response.status);
        picture.text((right - 14.0, y + 48.0), "strong", " text-anchor=\"end\"", &got);
        picture.arrow("answer", " stroke-dasharray=\"4 3\"", &[(right, y + 54.0), (left, y + 54.0)]);
    }
    picture.compare("pull.svg");
}

/// Returns a number of bytes from the README's table of the release build, such as the size of the `layer`.
fn built(what: &str) -> u32 {
    let row = README.lines().find_map(|line| line.strip_prefix(&format!("| {what} | ")));
    let number = row.and_then(|row| row.split(' ').next()).expect("the README has it");
    number.replace(',', "").parse().expect("a number")
}

/// Returns the size of a tar archive with one file of this size and its directory: a header of one block (512 bytes)
/// for each, the file in whole blocks, and two blocks at the end.
fn archived(file: u32) -> u32 {
    (file.div_ceil(512) + 4) * 512
}

#[test]
fn the_size_of_the_tar_follows_from_the_size_of_the_program() {
    let server = Server::start();
    let layer = server.ask(&format!("GET /v2/quinistry/blobs/{}", server.layer().0), &[]).content;
    let size = std::io::copy(&mut flate2::read::GzDecoder::new(&layer[..]), &mut std::io::sink());
    let program = std::fs::metadata(env!("CARGO_BIN_EXE_quinistry")).expect("it was built").len();
    assert_eq!(u64::from(archived(program as u32)), size.expect("a gzip member"));
}

#[test]
fn the_picture_of_an_image_is_to_scale() {
    const BYTES_PER_AREA: f64 = 22.0;
    let server = Server::start();
    let steps = ["index", "manifest", "config"].map(|what| {
        let log = server.log();
        let line = log.lines().find(|line| line.trim_start().starts_with(what)).expect("the log lists the digests");
        line.split_whitespace().nth(2).and_then(|size| size.parse().ok()).expect("a size")
    });
    // Rounded to a tenth of a kilobyte, the documents have the same size in every build.
    let [index, manifest, config] = steps.map(|size: f64| (size / 100.0).round() / 10.0);
    let binary = built("binary, static glibc, x86-64");
    let [layer, tar, binary] =
        [built("layer"), archived(binary), binary].map(|bytes| (f64::from(bytes) / 1000.0).round());
    let side = |kilobytes: f64| ((kilobytes * 1000.0 / BYTES_PER_AREA).sqrt() * 10.0).round() / 10.0;

    let label = "An image, to scale: the area of each square is its number of bytes";
    let mut picture = Picture::new(836.0, 430.0, label);
    picture.text((24.0, 30.0), "strong", " font-weight=\"bold\"", label);
    for (x, y, class, name, kilobytes) in [
        (52.0, 70.0, "box", "index", index),
        (132.0, 70.0, "box", "manifest", manifest),
        (214.0, 70.0, "box", "config", config),
        (32.0, 180.0, "box", "layer", layer),
        (262.0, 136.0, "tar", "tar", tar),
        (570.0, 136.0, "file", "program", binary),
    ] {
        let side = side(kilobytes);
        picture.put(&format!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\"/>"));
        // A large square has its name inside, and a small one below.
        let is_large = side > 100.0;
        let (class, y) = if is_large { ("inside", y + side / 2.0) } else { ("strong", y + side + 18.0) };
        for (text, line) in [name, &format!("{kilobytes} kB")].into_iter().zip(0_u8..) {
            let at = (x + side / 2.0, y + 16.0 * f64::from(line));
            picture.text(at, class, " text-anchor=\"middle\"", text);
        }
    }
    draw_arrows(&mut picture, side(layer), side(tar), side(binary));
    picture.compare("image.svg");
}

/// Draws the arrows between the parts of an image. The arguments are the sides of the largest squares.
fn draw_arrows(picture: &mut Picture, layer: f64, tar: f64, binary: f64) {
    let (layer, tar, bottom) = (32.0 + layer, 262.0 + tar, 136.0 + binary);
    for (class, more, points, at, text) in [
        ("ask", "", &[(62.0, 73.0), (128.0, 73.0)][..], (95.0, 66.0), "digest"),
        ("ask", "", &[(142.0, 73.0), (210.0, 73.0)], (176.0, 66.0), "digest"),
        ("ask", "", &[(134.5, 118.0), (134.5, 176.0)], (160.0, 150.0), "digest"),
        ("ask", " stroke-dasharray=\"4 3\"", &[(228.0, 73.0), (386.0, 73.0), (386.0, 132.0)], (310.0, 66.0), "diff ID"),
        ("line", "", &[(layer + 4.0, 260.0), (258.0, 260.0)], (231.0, 253.0), "gunzip"),
        ("line", "", &[(tar + 4.0, 260.0), (566.0, 260.0)], (540.0, 253.0), "holds"),
        (
            "line",
            "",
            &[(694.0, bottom + 4.0), (694.0, 410.0), (14.0, 410.0), (14.0, 73.0), (48.0, 73.0)],
            (350.0, 404.0),
            "packs itself, and serves",
        ),
    ] {
        picture.arrow(class, more, points);
        picture.text(at, "weak", " text-anchor=\"middle\"", text);
    }
}
