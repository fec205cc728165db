#!/usr/bin/env bash
# Shows the page at `/` to a browser, and writes what it shows: page-light.png and page-dark.png, beside this script.
# It needs the release build, and Debian's chromium and pngquant.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
../../target/release/quinistry --listen 127.0.0.1:8080 2>"$work/log" &
server=$!
trap 'kill "$server"; rm -rf "$work"' EXIT
until grep -q 'Listening on' "$work/log"; do sleep 0.1; kill -0 "$server"; done
for scheme in dark light; do
    # In this setting, dark is 0 and light is 1.
    setting=$([ "$scheme" = dark ] && echo 0 || echo 1)
    TMPDIR=$work HOME=$work chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,1272 \
        --user-data-dir="$work/profile" --blink-settings=preferredColorScheme="$setting" \
        --screenshot="$work/$scheme.png" http://localhost:8080/ 2>"$work/browser" || { cat "$work/browser"; exit 1; }
    # Text has soft edges, so it takes some colours.
    pngquant --force --nofs --output "page-$scheme.png" 16 "$work/$scheme.png"
done
