#!/usr/bin/env bash
# Takes screenshots of the page at `/`, beginning with its section on the image, and writes them beside this script:
# page-light.png and page-dark.png. A screenshot has two pixels in each direction for every pixel of the page, for
# screens with a high resolution. The script needs Cargo, and Debian's chromium, curl and pngquant.
set -euo pipefail
cd "$(dirname "$0")"
cargo build --quiet --release
work=$(mktemp -d)
../../target/release/quinistry --listen localhost:8080 2>"$work/log" &
server=$!
trap 'kill "$server"; rm -rf "$work"' EXIT
until grep -q 'Listening on' "$work/log"; do sleep 0.1; kill -0 "$server"; done
# A browser does not scroll for a screenshot, so Chromium shows a copy of the page without the part above the image.
curl --silent --fail --header 'Accept: text/html' http://localhost:8080/ |
    sed 's|</style>|header, .pair { display: none; } body { padding-top: 0; } main h2 { margin-top: 1.5rem; }&|' >"$work/page.html"
for scheme in dark light; do
    # In this setting of Chromium, dark is 0 and light is 1.
    setting=$([ "$scheme" = dark ] && echo 0 || echo 1)
    TMPDIR=$work HOME=$work chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=640,998 \
        --force-device-scale-factor=2 --user-data-dir="$work/profile" --blink-settings=preferredColorScheme="$setting" \
        --screenshot="$work/$scheme.png" "file://$work/page.html" 2>"$work/browser" || { cat "$work/browser"; exit 1; }
    # The edges of the text are blended with the background, so 16 colors are needed.
    pngquant --force --nofs --output "page-$scheme.png" 16 "$work/$scheme.png"
done
