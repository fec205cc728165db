//! The page for browsers: which clients receive it, what it shows and links to, how it resists injection, and how a
//! browser renders it. The tests that render the page need chromium, and one needs tidy. Without these, they are
//! skipped.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;

use common::{Folder, Response, Server, has_tool, lossy, request, sha256, sibling, tool};
use sha2::{Digest, Sha256};

const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const CSS: &str = include_str!("../src/page.css");

/// Returns the page, requested as a browser requests it.
fn page(server: &Server) -> String {
    let response = server.ask("GET /", &[BROWSER]);
    assert_eq!(response.field("content-type"), Some("text/html; charset=utf-8"));
    String::from_utf8(response.content).expect("UTF-8")
}

/// Returns each part of the text that is between `before` and `after`.
fn between<'a>(text: &'a str, before: &'a str, after: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).filter_map(move |rest| rest.split(after).next())
}

/// Returns the text that a browser shows for HTML. Understands only the markup that the page uses.
fn shown(html: &str) -> String {
    let mut text = html.split('<').next().unwrap_or_default().to_owned();
    text.extend(html.split('<').skip(1).filter_map(|tag| tag.split('>').nth(1)));
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

#[test]
fn a_browser_receives_the_page_and_every_other_client_receives_plain_text() {
    let server = Server::start();
    for (accept, is_page) in [
        // These are from Firefox and Safari, from Chromium, and from w3m.
        (BROWSER, true),
        (
            "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,\
             */*;q=0.8,application/signed-exchange;v=b3;q=0.7",
            true,
        ),
        ("Accept: text/html, text/*;q=0.5, image/*, application/*, video/*", true),
        ("accept: TEXT/HTML", true),
        ("Accept: text/html;level=1;q=0.3, text/plain;Q=0.25", true),
        ("Accept: text/html, text/plain;q=0", true),
        // An invalid weight is ignored.
        ("Accept: text/html;q=05, text/plain;q=0.9", true),
        ("Accept: text/html;q=0.5000, text/plain;q=0.9", true),
        // These are from curl and wget, from a client without Accept, and from lynx, Docker and containerd.
        ("Accept: */*", false),
        ("X: y", false),
        ("Accept: text/html, text/plain, text/sgml, text/css, application/xhtml+xml, */*;q=0.01", false),
        ("Accept: application/vnd.docker.distribution.manifest.list.v2+json", false),
        ("Accept: application/vnd.oci.image.index.v1+json, */*", false),
        ("Accept: text/*", false),
        ("Accept: text/plain;q=0, text/*", true),
        ("Accept: text/plain;q=0, TEXT/*;q=0, */*", false),
        ("Accept: text/html;q=0", false),
        ("Accept: text/html;q=0.5, */*", false),
        ("Accept: text/html;q=0.3, text/plain;q=0.31", false),
        ("Accept:", false),
    ] {
        let response = server.ask("GET /", &[accept]);
        let (media_type, start) = if is_page {
            ("text/html; charset=utf-8", "<!DOCTYPE html>\n")
        } else {
            ("text/plain; charset=utf-8", "This is a Docker registry quine")
        };
        assert_eq!((response.status, response.field("content-type")), (200, Some(media_type)), "{accept}");
        assert!(lossy(&response.content).starts_with(start), "{accept}");
        // A cache must distinguish the page from the text.
        assert_eq!(response.field("vary"), Some("Accept"), "{accept}");
    }
}

/// Returns fields of a response that do not depend on the time.
fn lasting(response: &Response) -> Vec<Option<&str>> {
    let names = ["content-type", "vary", "cache-control", "content-security-policy", "referrer-policy"];
    names.into_iter().map(|name| response.field(name)).collect()
}

#[test]
fn the_content_security_policy_allows_nothing_but_the_style_of_the_page() {
    let server = Server::start();
    let response = server.ask("GET /", &[BROWSER]);
    let page = lossy(&response.content);
    let styles: Vec<_> = between(&page, "<style>", "</style>").collect();
    assert_eq!(styles, [CSS]);
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        base64(&Sha256::digest(CSS))
    );
    assert_eq!(response.field("content-security-policy"), Some(&*policy));
    assert_eq!(response.field("x-content-type-options"), Some("nosniff"));
    assert_eq!(response.field("referrer-policy"), Some("no-referrer"));
    assert_eq!(response.field("cache-control"), Some("no-store"));
    for word in ["<script", "javascript:", " style=", " src=", "@import", "http-equiv"] {
        assert!(!page.contains(word), "{word}");
    }
    assert_eq!(page.matches("url(").count(), page.matches("url(#").count());
    let head = server.ask("HEAD /", &[BROWSER]);
    assert_eq!((head.status, lasting(&head)), (response.status, lasting(&response)));
    assert_eq!(head.field("content-length"), None, "the page must not be generated only for its length");
}

/// Encodes bytes in base64 (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |chunk: &[u8]| {
        let bits = chunk.iter().chain(&[0; 2]).take(3).fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        let digit = |index: usize| match index {
            index if index <= chunk.len() => char::from(DIGITS[bits >> (18 - 6 * index) & 63]),
            _ => '=',
        };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(encode).collect()
}

#[test]
fn every_link_leads_to_what_it_names() {
    let folder = Folder::new("links");
    for arguments in [&[][..], &["--with", &sibling(&folder)]] {
        let server = Server::start_with(arguments);
        let page = page(&server);
        let ids: Vec<_> = between(&page, " id=\"", "\"").collect();
        let mut digests = 0;
        for link in between(&page, " href=\"", "\"") {
            if let Some(anchor) = link.strip_prefix('#') {
                assert_eq!(ids.iter().filter(|id| **id == anchor).count(), 1, "{anchor}");
            } else if link.starts_with('/') {
                let response = server.ask(&format!("GET {link}"), &[BROWSER]);
                assert_eq!(response.status, 200, "{link}");
                if let Some((path, digest)) = link.rsplit_once('/')
                    && (path.ends_with("manifests") || path.ends_with("blobs"))
                    && digest != "latest"
                {
                    assert_eq!(digest, sha256(&response.content), "{link}");
                    digests += 1;
                }
            } else {
                let others = ["data:image/svg+xml,", env!("CARGO_PKG_REPOSITORY")];
                assert!(others.iter().any(|other| link.starts_with(other)), "{link}");
            }
        }
        // The index, and for each platform a manifest, a config and a layer.
        let platforms = server.layers().len();
        assert_eq!(digests, 1 + 3 * platforms);
        // Every digest in a document is such a link.
        for text in between(&page, "<pre><code>{", "</code></pre>") {
            assert_eq!(text.matches("\"sha256:").count(), 0, "{text}");
        }
    }
}

/// Returns what the page shows about a part of the image, as a map from each term to its description.
fn facts(part: &str) -> BTreeMap<String, String> {
    let terms = between(part, "<dt>", "</dt>").map(str::to_owned);
    terms.zip(between(part, "<dd>", "</dd>").map(shown)).collect()
}

/// Formats bytes as the page does.
fn dump(bytes: &[u8]) -> String {
    let hex: Vec<_> = bytes[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let ascii = bytes[..16].iter().map(|&byte| match byte {
        b' ' => '\u{a0}',
        byte if byte.is_ascii_graphic() => byte.into(),
        _ => '.',
    });
    format!("{}\u{a0} {}", hex.join(" "), ascii.collect::<String>())
}

#[test]
fn the_page_shows_the_digest_the_size_and_the_first_bytes_of_each_part_of_the_image() {
    let server = Server::start();
    let page = page(&server);
    let picture = between(&page, "<svg viewBox", "</svg>").next().expect("the page has a picture");
    let mut inside = BTreeMap::new();
    let mut count = 0;
    for part in page.split(" class=\"part\" id=\"").skip(1) {
        let digest = part.split('"').next().expect("the end of the ID");
        let facts = facts(part);
        let content = match between(part, "href=\"/", "\"").next() {
            Some(path) if facts["Served"].starts_with("GET ") => server.ask(&format!("GET /{path}"), &[]).content,
            _ => inside.remove(digest).expect("the content is in the layer"),
        };
        assert_eq!((&*sha256(&content), &*facts["Digest"]), (digest, digest));
        assert_eq!(facts["Size"].replace(',', ""), format!("{} bytes", content.len()));
        assert_eq!(facts["First bytes"], dump(&content));
        let bytes = between(part, "<dt>First bytes</dt>", "</dd>").next().expect("the part shows its bytes");
        assert!(!bytes.contains('"'), "a quote is escaped: {bytes}");
        if content.starts_with(b"{") {
            let text = between(part, "<pre><code>", "</code></pre>").next().expect("the part shows its text");
            assert_eq!(shown(text), lossy(&content));
        } else if content.starts_with(b"\x1f\x8b") {
            let mut archive = Vec::new();
            std::io::copy(&mut flate2::read::GzDecoder::new(&content[..]), &mut archive).expect("a member");
            inside.insert(sha256(&archive), archive);
            let executable = std::fs::read(env!("CARGO_BIN_EXE_quinistry")).expect("the executable");
            inside.insert(sha256(&executable), executable);
        }
        if count < 6 {
            let link = format!("<a href=\"#{digest}\"");
            let drawn = between(picture, &link, "</a>").next().expect("the part is in the picture");
            let text: String = shown(drawn).split_whitespace().collect();
            let bytes: String = facts["First bytes"].split_whitespace().take(16).collect();
            assert!(text.contains(&digest[..27]) && text.contains(&bytes[..16]), "{text}");
            assert!(drawn.contains(&facts["Size"]));
        }
        count += 1;
    }
    assert_eq!((count, inside.len()), (6, 0), "index, manifest, config, layer, tar, executable");
}

#[test]
fn the_squares_of_the_picture_are_to_scale() {
    let server = Server::start();
    let page = page(&server);
    let picture = between(&page, "<svg viewBox", "</svg>").next().expect("the page has a picture");
    let mut scales = Vec::new();
    for part in between(picture, "<a href", "</a>") {
        let size = between(part, "text-anchor=\"end\">", " bytes").next().expect("a size").replace(',', "");
        let square = between(part, "<rect class=\"", "/>").nth(1).expect("a square, after the area to click");
        let number = |name| between(square, name, "\"").next().and_then(|number| number.parse::<f64>().ok());
        let (width, height) = (number(" width=\""), number(" height=\""));
        assert_eq!(width, height);
        scales.push((width.expect("a number"), size.parse::<f64>().expect("a number")));
    }
    assert_eq!(scales.len(), 6);
    let (widest, most) = scales[5];
    for (other, other_size) in scales {
        // Sides are written in hundredths.
        let expected = (other_size / most).sqrt() * widest;
        assert!((other - expected).abs() <= 0.02, "{other} is not {expected}");
    }
}

#[test]
fn nothing_that_a_client_sends_can_change_the_commands_or_the_markup() {
    let server = Server::start();
    let ask = |target: &str, host: &str, accept: &str| {
        let mut client = server.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{accept}\r\n\r\n"));
        client.response_to("GET")
    };
    for accept in [BROWSER, "Accept: */*"] {
        for (host, is_shown) in [
            ("registry.example", true),
            ("192.0.2.1:5000", true),
            ("localhost", true),
            ("registry-1.example", true),
            // Docker 20.10 refuses these names, and a command would mistake the first one for an option.
            ("-v.example", false),
            ("registry-.example", false),
            ("registry..example", false),
            ("registry.example.", false),
            ("[2001:db8::1]:5000", false),
            // Docker would look for `intranet/quinistry` in Docker Hub.
            ("intranet", false),
            // Names that RFC 3986 allows, but that mean something else in a shell or a browser.
            ("$(reboot)", false),
            ("a;reboot:80", false),
            ("a&reboot&lt", false),
            ("'a'", false),
            ("a*", false),
            ("%3Cscript%3E", false),
            ("a_b~!", false),
            ("a,b=c+d", false),
            ("localhost:", false),
        ] {
            let response = ask("/", host, accept);
            let text = lossy(&response.content);
            assert_eq!(response.status, 200, "{host}");
            assert_eq!(text.contains(&format!("docker pull {host}/quinistry\n")), is_shown, "{host}");
            assert_eq!(text.contains("docker pull localhost:8080/quinistry\n"), !is_shown, "{host}");
            assert!(is_shown || host == "localhost:" || !text.contains(host), "{host}");
        }
        // A target may also contain a host and a query.
        let response = ask("http://$(reboot)/?%3Cscript%3Ealert(1)", "localhost", accept);
        assert_eq!(response.status, 200);
        for word in ["reboot", "alert", "%3Cscript"] {
            assert!(!lossy(&response.content).contains(word), "{word}");
        }
        // All commands have the same host, in the same form.
        let response = ask("/", "127.0.0.1:5000", accept);
        assert!(lossy(&response.content).contains("docker pull 127.0.0.1:5010/quinistry\n"));
        for host in ["<script>", "a\"b", "a b", "a`b`", "a\\b", "a|b"] {
            assert_eq!(ask("/", host, accept).status, 400, "{host}");
        }
        // An error is JSON even for browsers.
        for target in ["/'onload='alert(1)", "/%3Cscript%3E", "/v2/&lt;img/manifests/x"] {
            assert_eq!(ask(target, "localhost", accept).field("content-type"), Some("application/json"));
        }
    }
}

#[test]
fn the_figures_on_the_page_are_up_to_date() {
    let server = Server::start();
    let figures = || facts(between(&page(&server), "<dl class=\"figures\">", "</dl>").next().expect("a list"));
    let before = figures();
    assert!(before["Running for"].ends_with(" s"), "{before:?}");
    assert_eq!((&*before["Responses"], &*before["Layers requested"]), ("0", "0"));
    assert_eq!((&*before["Bytes of content sent"], &*before["Open connections"]), ("0", "1"));
    let mut client = server.connect_idle();
    let (digest, size) = server.layer();
    let line = format!("GET /v2/quinistry/blobs/{digest}");
    client.send(request(&line, &[]));
    client.response_to(&line);
    let after = figures();
    assert_eq!(after["Layers requested"], "1");
    // The page, the base, the manifest and the layer.
    assert_eq!(after["Responses"], "4");
    let number = |text: &str| text.replace(',', "").parse::<usize>().expect("a number");
    assert!(number(&after["Bytes of content sent"]) > size);
    assert!(number(&after["Open connections"]) >= 2);
}

/// Returns the colors of both schemes: light, then dark.
fn colors() -> [BTreeMap<&'static str, [f64; 3]>; 2] {
    let mut roots = between(CSS, ":root {", "}");
    [(); 2].map(|()| {
        let root = roots.next().expect("there are two");
        let declarations = root.split(';').filter_map(|line| line.trim().strip_prefix("--")?.split_once(": #"));
        let color = |(name, hex): (&'static str, &str)| {
            let channel = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
            (name, [0, 2, 4].map(|at| f64::from(channel(at)) / 255.0))
        };
        declarations.map(color).collect()
    })
}

/// Returns the contrast ratio of two colors, as WCAG 2.2 defines it.
fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let luminance = |color: [f64; 3]| {
        let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
        let [red, green, blue] = color.map(linear);
        0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05
    };
    let (one, other) = (luminance(one), luminance(other));
    one.max(other) / one.min(other)
}

#[test]
fn every_text_and_shape_has_enough_contrast_in_both_schemes() {
    for colors in colors() {
        for (front, least) in [
            ("ink", 4.5),
            ("quiet", 4.5),
            ("link", 4.5),
            ("document", 3.0),
            ("layer", 3.0),
            ("tar", 3.0),
            ("program", 3.0),
        ] {
            for back in ["paper", "shade"] {
                let ratio = contrast(colors[front], colors[back]);
                assert!(ratio >= least, "{front} on {back}: {ratio}");
            }
        }
    }
}

#[test]
fn tidy_finds_no_error_in_the_page() {
    if !has_tool("tidy", &["--version"]) {
        return;
    }
    let folder = Folder::new("tidy");
    let path = folder.path("page.html");
    for arguments in [&[][..], &["--with", &sibling(&folder)]] {
        let page = page(&Server::start_with(arguments));
        std::fs::write(&path, page).expect("the file can be written");
        let output = tool("tidy").args(["-quiet", "-errors", &path]).output().expect("the command starts");
        let said = lossy(&output.stderr);
        // tidy mistakes a link in SVG for an HTML element, and calls one of its attributes proprietary.
        let is_wrong = |line: &&str| !line.contains("<a> proprietary attribute");
        assert_eq!(said.lines().find(is_wrong), None, "{said}");
    }
}

/// Runs Chromium without a window. Returns its standard output and its log.
fn chromium(folder: &Folder, scheme: &str, size: (u32, u32), arguments: &[&str]) -> (String, String) {
    let mut command = tool("chromium");
    let profile = format!("--user-data-dir={}", folder.path("profile"));
    let scheme = format!("--blink-settings=preferredColorScheme={}", u8::from(scheme == "light"));
    let window = format!("--window-size={},{}", size.0, size.1);
    // The sandbox does not work for root, and the page is trusted.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-breakpad", "--hide-scrollbars"]);
    command.args(["--enable-logging=stderr", &profile, &scheme, &window]).args(arguments);
    let output = command.env("TMPDIR", &folder.0).env("HOME", &folder.0).output().expect("the command starts");
    let (stdout, stderr) = (lossy(&output.stdout), lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    (stdout.into_owned(), stderr.into_owned())
}

const SCHEMES: [&str; 2] = ["light", "dark"];
/// The widths of a phone and of a desktop, in pixels.
const WIDTHS: [u32; 2] = [390, 1280];

#[test]
fn a_browser_shows_the_page_and_logs_no_error() {
    if !has_tool("chromium", &["--version"]) {
        return;
    }
    let (server, folder) = (Server::start(), Folder::new("browser"));
    let mut pictures = Vec::new();
    for scheme in SCHEMES {
        for width in WIDTHS {
            let path = folder.path("page.png");
            let screenshot = format!("--screenshot={path}");
            let url = format!("http://{}/", server.address);
            let (_, log) = chromium(&folder, scheme, (width, 900), &[&screenshot, &url]);
            assert!(!log.contains("CONSOLE"), "{log}");
            let picture = std::fs::read(&path).expect("a screenshot");
            // A PNG file has its width at a fixed offset.
            assert_eq!(picture[16..20], width.to_be_bytes());
            assert!(!pictures.contains(&picture), "no two screenshots may be the same");
            pictures.push(picture);
        }
    }
    assert!(server.log().contains("Serving welcome"));
}

/// A page of another origin that sends requests to a registry, and lists the outcomes in its title. The outcome of a
/// request is the status, the digest and the link that the page can read, and the length of the content, or else the
/// name of the error.
const READ: &str = r#"<!DOCTYPE html><title></title><script>
const ask = (method, path, fields = {}) => {
  const request = new XMLHttpRequest();
  try {
    request.open(method, 'REGISTRY' + path, false);
    for (const name in fields) request.setRequestHeader(name, fields[name]);
    request.send();
  } catch (error) { return error.name; }
  const seen = ['docker-content-digest', 'link'].map(name => request.getResponseHeader(name) || '-');
  return [request.status, ...seen, request.responseText.length].join(' ');
};
const asked = {
  Accept: 'application/vnd.oci.image.index.v1+json', Authorization: 'Basic eDp5',
  'Cache-Control': 'no-cache', 'If-None-Match': '"x"', Range: 'bytes=0-9',
};
document.title = [
  ask('GET', '/v2/'), ask('GET', '/v2/quinistry/manifests/latest', asked),
  ask('HEAD', '/v2/quinistry/manifests/latest'), ask('GET', '/v2/quinistry/tags/list?n=1'),
  ask('GET', '/v2/quinistry/manifests/nonesuch').slice(0, 3), ask('POST', '/v2/').slice(0, 3),
  ask('DELETE', '/v2/quinistry/manifests/latest'), ask('GET', '/v2/', { 'X-Other': 'y' }),
  ask('GET', '/'), ask('GET', '/healthz'), ask('GET', '/metrics'),
].join('|');
</script>"#;

#[test]
fn a_page_of_another_origin_can_read_responses_under_v2_and_no_others() {
    if !has_tool("chromium", &["--version"]) {
        return;
    }
    let (server, folder) = (Server::start(), Folder::new("origin"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let other = format!("http://{}/", listener.local_addr().expect("the listener is bound"));
    let html = READ.replace("REGISTRY", &format!("http://{}", server.address));
    // This thread serves the page until the test ends.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n{html}");
        }
    });
    let (html, log) = chromium(&folder, "light", (800, 600), &["--dump-dom", &other]);
    let result = between(&html, "<title>", "</title>").next().expect("a title");
    let accept = "Accept: application/vnd.oci.image.index.v1+json";
    let digest = |field| {
        let response = server.ask("HEAD /v2/quinistry/manifests/latest", &[field]);
        response.field("docker-content-digest").expect("a digest").to_owned()
    };
    let link = server.ask("GET /v2/quinistry/tags/list?n=1", &[]);
    let expected = [
        "200 - - 2".to_owned(),
        format!("206 {} - 10", digest(accept)),
        format!("200 {} - 0", digest("Accept: */*")),
        format!("200 - {} {}", link.field("link").expect("a link"), link.content.len()),
        "404".to_owned(),
        "405".to_owned(),
        // The browser refuses these: a method and a field that are not allowed, and paths that are not under /v2.
        ["NetworkError"; 5].join("|"),
    ];
    assert_eq!(result.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"), expected.join("|"), "{log}");
}

/// A script that measures a copy of the page, which has no policy against scripts. The title becomes the scheme, the
/// widths of the window and of the page, the lowest contrast of any text, the number of links that can take the focus,
/// the number of all links, and a list of problems.
const MEASURE: &str = r"<script>
const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const luminance = color => {
  const [r, g, b] = color.match(/\d+/g).map(Number).map(channel);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
};
const background = e => {
  const color = getComputedStyle(e).backgroundColor;
  return color === 'rgba(0, 0, 0, 0)' ? background(e.parentElement) : color;
};
let lowest = 99, wrong = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let text; (text = texts.nextNode()); ) {
  const e = text.parentElement;
  if (!text.data.trim() || e.localName === 'script' || !e.checkVisibility()) continue;
  const style = getComputedStyle(e), svg = e.closest('svg');
  const [front, back] = [svg ? style.fill : style.color, background(e)].map(luminance);
  lowest = Math.min(lowest, Math.max(front, back) / Math.min(front, back));
  const box = e.getBoundingClientRect(), room = svg ? svg.getBoundingClientRect().right : innerWidth;
  if (box.right > room + 0.5) wrong.push('too wide: ' + text.data);
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  if (parseFloat(style.fontSize) * scale < 12) wrong.push('too small: ' + text.data);
}
const links = [...document.querySelectorAll('a, summary')].filter(e => e.checkVisibility());
const focused = links.filter(e => (e.focus(), document.activeElement === e)).length;
const names = [...document.querySelectorAll('svg a')].map(e => e.getAttribute('aria-label'));
if (names.some(name => !name)) wrong.push('a link without a name');
// On a small desktop, the map must stay visible beside the text.
const map = document.querySelector('figure');
if (innerWidth > 1024 && (getComputedStyle(map).position !== 'sticky' || map.offsetHeight > 752)) wrong.push('the map does not stay visible');
const levels = [...document.querySelectorAll('h1, h2, h3')].map(e => +e.localName[1]);
if (levels.some((level, i) => level > (levels[i - 1] || 0) + 1)) wrong.push('a level of headings is left out');
const scheme = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
const result = [scheme, innerWidth, document.documentElement.scrollWidth, lowest.toFixed(2), focused, links.length, ...wrong];
parent.document.title = result.join('|');
</script>";

#[test]
fn the_page_fits_a_phone_and_a_desktop_and_is_readable() {
    if !has_tool("chromium", &["--version"]) {
        return;
    }
    let folder = Folder::new("measure");
    for arguments in [&[][..], &["--with", &sibling(&folder)]] {
        // The folded parts are also measured.
        let page = page(&Server::start_with(arguments)).replace("<details", "<details open") + MEASURE;
        let page = page.replace('&', "&amp;").replace('"', "&quot;");
        for width in WIDTHS {
            // A window of Chromium is at least 500 pixels wide. A frame can be narrower.
            let html = format!(
                "<!DOCTYPE html><meta name=\"color-scheme\" content=\"light dark\">\
                 <iframe width=\"{width}\" height=\"800\" frameborder=\"0\" srcdoc=\"{page}\"></iframe>"
            );
            std::fs::write(folder.path("page.html"), html).expect("the file can be written");
            let url = format!("file://{}", folder.path("page.html"));
            for scheme in SCHEMES {
                let (html, _) = chromium(&folder, scheme, (1400, 900), &["--dump-dom", &url]);
                let result = between(&html, "<title>", "</title>").next().expect("a title");
                let parts: Vec<_> = result.split('|').collect();
                let [found, window, content, contrast, focused, links] = parts[..] else { panic!("{result}") };
                let width = &*width.to_string();
                assert_eq!((found, window, content), (scheme, width, width));
                assert!(contrast.parse::<f64>().expect("a number") >= 4.5, "{scheme}, {width}: {contrast}");
                assert_eq!(focused, links, "{scheme}, {width}");
            }
        }
    }
}
