#!/usr/bin/env bash
# Builds this tree for other processors, and checks that each program is a quine there, too.
#
#     tests/targets.sh [FOLDER [STEP...]]
#
# It needs a Debian machine, root, curl and debootstrap; the step `docker` and the last part of `siblings` need
# Docker. FOLDER (by default /var/tmp/quinistry-targets) keeps what is slow to make. Delete it to begin anew. The
# steps, all of them if none is named:
#
#     chroot    make a Debian sid in FOLDER with Rust, C compilers and C libraries; done once
#     build     build the program for each target
#     quine     run each program, have it packed by its child and so on: four generations, one digest
#     suite     run the test suite of the program for x86-64 with musl
#     siblings  pack the program for amd64 with that for arm64, and the reverse: one digest
#     docker    have Docker run the image for arm64
#     table     print sizes, start-up times and memory
#
# The commands that build are the README's. They need what rustup brings for a target, which Debian has for glibc but
# not for musl: there the standard library is built from source, and the C library beside it is Debian's. Programs for
# other processors run by QEMU's user mode emulation.
#
# Deliberately absent: other hosts than x86-64; speed, of which an emulator tells nothing.
set -euo pipefail
export LC_ALL=C

# A name for people, Rust's name of the target, and what cargo is told besides.
BUILDS=(
    'x86_64 gnu|x86_64-unknown-linux-gnu|'
    'x86_64 musl|x86_64-unknown-linux-musl|'
    'x86_64 musl, no backtrace|x86_64-unknown-linux-musl|-Z build-std=std,panic_abort -Z build-std-features='
    'x86_64 musl, immediate abort|x86_64-unknown-linux-musl|-Z build-std=std,panic_abort -Z build-std-features=
        -Z panic-immediate-abort --config profile.release.panic="immediate-abort"'
    'aarch64 gnu|aarch64-unknown-linux-gnu|'
    'aarch64 musl|aarch64-unknown-linux-musl|'
    'armv7 gnu|armv7-unknown-linux-gnueabihf|'
    'armv7 musl|armv7-unknown-linux-musleabihf|'
    'riscv64 gnu|riscv64gc-unknown-linux-gnu|'
    'riscv64 musl|riscv64gc-unknown-linux-musl|'
)
STEPS=(chroot build quine suite siblings docker table)

# How Debian's tools for the processor of a target begin their names.
tuple() {
    case $1 in
        x86_64-*) echo x86_64-linux-gnu ;;
        aarch64-*) echo aarch64-linux-gnu ;;
        armv7-*) echo arm-linux-gnueabihf ;;
        riscv64gc-*) echo riscv64-linux-gnu ;;
    esac
}

step() { printf '\n=== %s (%ss)\n' "$*" "$SECONDS"; }

fail() {
    echo "targets.sh: $*" >&2
    exit 1
}

# --- The chroot

# Runs a command in the chroot, with an environment of its own but for what leads out of this machine.
in_chroot() {
    local variables=(PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
        SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt CARGO_TARGET_DIR=/build
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
        CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_LINKER=arm-linux-gnueabihf-gcc
        CARGO_TARGET_RISCV64GC_UNKNOWN_LINUX_GNU_LINKER=riscv64-linux-gnu-gcc)
    local name
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        if [ -n "${!name:-}" ]; then variables+=("$name=${!name}"); fi
    done
    # Descriptor 9 is the lock, see main. A test of descriptors would notice it.
    chroot "$root" env --ignore-environment --chdir=/src "${variables[@]}" "$@" 9>&-
}

# The machine's own mirror, as apt knows it.
mirror() {
    # shellcheck disable=SC2016 # These are apt's variables.
    apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL)' 'Created-By: Packages' |
        awk '$2 == "Debian" && $3 == "Debian" { print $1; exit }'
}

# Gives the chroot what this machine needs to reach its mirror. Installing certificates overwrites the bundle, so
# this is done before and after.
give_settings() {
    cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
    apt-config dump | grep -E '^Acquire::(Check-|https?::|Retries|ForceIPv)' \
        >"$root/etc/apt/apt.conf.d/90machine" || true
    mkdir -p "$root/etc/ssl/certs"
    local bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
    if [ -f "$bundle" ]; then cp --dereference "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"; fi
}

# The mounts are in a namespace of this script's (see the end), and so end with it.
mount_folders() {
    mkdir -p "$root/src" "$root/build"
    mount --bind /proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --bind "$tree" "$root/src"
    mount -o remount,bind,ro "$root/src"
    # What was built last may be of another tree, and of a later time than the files of this one.
    rm -rf "$root/build/"{,*/}{release,debug}/.fingerprint/quinistry-*
}

make_chroot() {
    local from
    from=$(mirror)
    [ -n "$from" ] || fail 'apt knows no Debian mirror; try apt-get update'
    rm -rf --one-file-system "$root"
    debootstrap --variant=minbase sid "$root" "$from" >"$folder/debootstrap.log" ||
        fail "see $folder/debootstrap.log"
    give_settings
    mount_folders
    local foreign
    for foreign in arm64 armhf riscv64; do in_chroot dpkg --add-architecture "$foreign"; done
    in_chroot apt-get update -qq
    in_chroot apt-get install -qq -y --no-install-recommends rustc cargo rust-src lld musl-tools ca-certificates \
        gcc-{aarch64-linux-gnu,arm-linux-gnueabihf,riscv64-linux-gnu} libc6-dev-{arm64,armhf,riscv64}-cross \
        qemu-user procps curl iproute2 >"$folder/install.log"
    give_settings
    add_foreign_packages
    # rustup has it under this name.
    ln -s ld.lld "$root/usr/bin/rust-lld"
    local target
    for target in x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf \
        riscv64gc-unknown-linux-musl; do
        add_c_library "$target"
        add_standard_library "$target"
    done
    touch "$root/complete"
}

# Unpacks packages of other architectures, which cannot be installed beside our own.
add_foreign_packages() {
    local llvm architecture
    llvm=$(in_chroot rustc --version --verbose | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    mkdir "$root/opt/packages"
    for architecture in amd64 arm64 armhf riscv64; do
        in_chroot env --chdir=/opt/packages apt-get download -qq -o APT::Sandbox::User=root \
            {libstd-rust-dev,musl-dev,"libunwind-$llvm-dev"}:"$architecture"
    done
    local package
    for package in "$root/opt/packages/"*; do
        in_chroot dpkg --extract "${package#"$root"}" /opt/foreign
    done
    in_chroot sh -c 'ln -s /opt/foreign/usr/lib/rustlib/[ar]*-gnu* /usr/lib/rustlib/'
}

# Makes the folder in which rustc looks for what it links a static program for musl with. LLVM's libunwind is built
# for glibc and its checked functions, of which it needs two.
add_c_library() {
    local target=$1 tuple libraries=/opt/foreign/usr/lib
    tuple=$(tuple "$target")
    cat >"$root/opt/checked.c" <<'END'
#include <stdarg.h>
#include <stdio.h>
int __vfprintf_chk(FILE *file, int flag, const char *format, va_list list) { return vfprintf(file, format, list); }
int __vsnprintf_chk(char *to, size_t length, int flag, size_t size, const char *format, va_list list) {
    return vsnprintf(to, length, format, list);
}
END
    in_chroot sh -euc "
        mkdir -p /usr/lib/rustlib/$target/lib/self-contained
        cd /usr/lib/rustlib/$target/lib/self-contained
        cp $libraries/${tuple/gnu/musl}/*.[ao] $libraries/$tuple/libunwind.a .
        for part in crtbegin crtbeginS crtend crtendS; do cp \$($tuple-gcc -print-file-name=\$part.o) .; done
        $tuple-gcc -O2 -U_FORTIFY_SOURCE -c /opt/checked.c -o checked.o
        ar rs libunwind.a checked.o"
}

# Builds the standard library for a target and puts it where rustc looks for one. As in Rust's own build, everything
# can unwind but the crate `panic_abort`, which must not.
add_standard_library() {
    local target=$1
    mkdir -p "$root/opt/library/src"
    touch "$root/opt/library/src/lib.rs"
    printf '[package]\nname = "library"\n[profile.release]\ncodegen-units = 1\n' >"$root/opt/library/Cargo.toml"
    cat >"$root/opt/library/rustc" <<'END'
#!/bin/sh
case " $* " in *' --crate-name panic_abort '*) set -- "$@" -C panic=abort ;; esac
exec "$@"
END
    chmod +x "$root/opt/library/rustc"
    in_chroot env --chdir=/opt/library RUSTC_BOOTSTRAP=1 RUSTC_WRAPPER=/opt/library/rustc RUSTFLAGS='-C embed-bitcode=yes' \
        cargo build --quiet --release --target "$target" --target-dir target \
        -Z build-std=std,panic_abort,proc_macro,test
    cp "$root/opt/library/target/$target/release/deps/"*.rlib "$root/usr/lib/rustlib/$target/lib"
    rm "$root/usr/lib/rustlib/$target/lib/"liblibrary-*
}

# --- Programs

# Where the program of a build is, and by what it runs.
program() { echo "$folder/programs/${1// /-}"; }
emulator() {
    case $1 in
        aarch64-*) echo "$root/usr/bin/qemu-aarch64" ;;
        armv7-*) echo "$root/usr/bin/qemu-arm" ;;
        riscv64gc-*) echo "$root/usr/bin/qemu-riscv64" ;;
    esac
}

# Calls a function with each build: its name, its target, and what else cargo is told.
for_each_build() {
    local build name target arguments
    for build in "${BUILDS[@]}"; do
        IFS='|' read -r -d '' name target arguments <<<"$build" || true
        # shellcheck disable=SC2086 # Several arguments.
        "$1" "$name" "$target" $arguments
    done
}

build() {
    local name=$1 target=$2 unstable=''
    echo "$name"
    # Only a nightly toolchain knows -Z; this is how others are told to.
    if [[ $* == *-Z* ]]; then unstable=RUSTC_BOOTSTRAP=1; fi
    in_chroot ${unstable:+env "$unstable"} cargo build --quiet --release --locked --target "${@:2}"
    cp "$root/build/$target/release/quinistry" "$(program "$name")"
}

# Starts a program on a free port, and sets `server`, `port` and `start_ms`: from its start to the line that says
# that it listens.
start_server() {
    local began=${EPOCHREALTIME/./} line log said=''
    exec {log}< <(exec "$@" --listen 127.0.0.1:0 2>&1 9>&-)
    server=$!
    while read -r -t 30 line <&"$log"; do
        if [[ $line =~ 'Listening on 127.0.0.1:'([0-9]+) ]]; then
            port=${BASH_REMATCH[1]}
            start_ms=$(((${EPOCHREALTIME/./} - began) / 1000))
            exec {log}<&-
            return
        fi
        said+=$line$'\n'
    done
    fail "$* did not start: $said"
}

stop_server() {
    kill "$server"
    wait "$server" || true
    server=
}

# The digest of what the tag stands for, at the server on a port.
digest_at() {
    curl --silent --show-error --fail --head --retry 30 --retry-delay 1 --retry-all-errors \
        "http://127.0.0.1:$1/v2/quinistry/manifests/latest" |
        sed -n 's/^docker-content-digest: \(.*\)\r$/\1/Ip'
}

# Pulls the image of a server's own platform into a folder: the first digest in a manifest is the config's, and
# the others are the layers'.
pull() {
    local url=http://127.0.0.1:$1/v2/quinistry into=$2 manifest layer
    manifest=$(curl --silent --fail --header 'Accept: application/vnd.docker.distribution.manifest.v2+json' \
        "$url/manifests/latest")
    mkdir -p "$into"
    for layer in $(grep --only-matching 'sha256:[0-9a-f]*' <<<"$manifest" | tail -n +2); do
        curl --silent --fail --output "$into.layer" "$url/blobs/$layer"
        echo "${layer#sha256:}  $into.layer" | sha256sum --check --quiet
        tar --extract --file "$into.layer" --directory "$into"
    done
}

check_quine() {
    local name=$1 program generation digest first='' emulator
    emulator=$(emulator "$2")
    program=$(program "$name")
    for generation in 1 2 3 4; do
        start_server ${emulator:+"$emulator"} "$program"
        digest=$(digest_at "$port")
        [ "${first:=$digest}" = "$digest" ] || fail "$name: generation $generation serves $digest, not $first"
        pull "$port" "$work/$name.$generation"
        stop_server
        # The layer holds one file.
        program=$(find "$work/$name.$generation" -type f)
        cmp "$(program "$name")" "$program"
    done
    echo "$name: $first, four times"
}

run_suite() {
    in_chroot cargo test --quiet --no-fail-fast --locked --target x86_64-unknown-linux-musl
}

# Has a program, which the arguments start, carry another one. Sets `digest`, which has to be the same whether it is
# printed, saved or served.
carry() {
    local other=$1 index
    shift
    digest=$("$@" digest --with "$other")
    digest=${digest#*@}
    index=$("$@" save --with "$other" | tar --extract --to-stdout index.json)
    [[ $index == *"$digest"* ]] || fail "$* prints $digest and saves another one"
    start_server "$@" --with "$other"
    [ "$(digest_at "$port")" = "$digest" ] || fail "$* prints $digest and serves another one"
    stop_server
}

check_siblings() {
    local amd64 arm64 emulator digest ours
    amd64=$(program 'x86_64 musl')
    arm64=$(program 'aarch64 musl')
    emulator=$(emulator aarch64-)
    carry "$arm64" "$amd64"
    ours=$digest
    carry "$amd64" "$emulator" "$arm64"
    [ "$ours" = "$digest" ] || fail "amd64 with arm64 is $ours, arm64 with amd64 is $digest"
    echo "amd64 with arm64, and the reverse: $digest"
    run_in_docker "$amd64" --with "$arm64"
}

# --- Docker

FORMAT=/proc/sys/fs/binfmt_misc/quinistry-aarch64

# Has the kernel run programs for arm64 by the emulator, also in containers, which do not see its file: hence flag F,
# which opens it now.
register_emulator() {
    [ -e "${FORMAT%/*}/register" ] || mount -t binfmt_misc binfmt_misc "${FORMAT%/*}"
    unregister_emulator
    # The start of an ELF file, 64 bits, little-endian, executable, EM_AARCH64; and which bits of it count.
    local magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    echo ":${FORMAT##*/}:M::$magic:$mask:$(emulator aarch64-):F" >"${FORMAT%/*}/register"
}

unregister_emulator() {
    if [ -e "$FORMAT" ]; then echo -1 >"$FORMAT"; fi
}

# Has Docker pull the image for arm64 from the server that these arguments start, and run it. Then asks the container
# for the same digest, and has Docker pull from it.
run_in_docker() {
    local digest image
    register_emulator
    start_server "$@"
    digest=$(digest_at "$port")
    docker pull --quiet --platform linux/arm64 "localhost:$port/quinistry@$digest" >/dev/null
    images+=("localhost:$port/quinistry@$digest")
    container=$(docker run --detach --platform linux/arm64 --read-only --cap-drop ALL --publish 127.0.0.1::8080 \
        "localhost:$port/quinistry@$digest")
    stop_server
    port=$(docker port "$container" 8080/tcp) || fail "the container ended: $(docker logs "$container" 2>&1)"
    port=${port##*:}
    [ "$(digest_at "$port")" = "$digest" ] || fail "the container does not serve $digest"
    image=localhost:$port/quinistry@$digest
    docker pull --quiet --platform linux/arm64 "$image" >/dev/null
    images+=("$image")
    echo "Docker runs $digest for arm64, and the container serves it"
    docker rm --force "$container" >/dev/null
    container=
    unregister_emulator
}

check_docker() {
    run_in_docker "$(emulator aarch64-)" "$(program 'aarch64 musl')"
}

# --- The table

# A row of the table. The time is the median of eleven starts. What an emulator takes says nothing of the program.
measure() {
    local name=$1 program layer times=() memory=- time=-
    program=$(program "$name")
    if [ -n "$(emulator "$2")" ]; then
        start_server "$(emulator "$2")" "$program"
    else
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            start_server "$program"
            times+=("$start_ms")
            stop_server
        done
        start_server "$program"
        times+=("$start_ms")
        time=$(printf '%s\n' "${times[@]}" | sort -n | sed -n 6p)
        memory=$(awk '$1 == "VmRSS:" { print $2 }' "/proc/$server/status")
    fi
    pull "$port" "$work/$name.measured"
    stop_server
    layer=$(stat --format %s "$work/$name.measured.layer")
    printf '| %s | %s | %s | %s | %s |\n' "$name" "$(stat --format %s "$program")" "$layer" "$time" "$memory"
}

print_table() {
    # shellcheck disable=SC2016 # These are dpkg's variables.
    echo "$(date --utc +%F); $(in_chroot rustc --version); $(in_chroot dpkg-query --show --showformat \
        '${Package} ${Version}; ' musl-dev libc6-dev lld qemu-user)$(uname -sr);" \
        "$(sed -n 's/^model name\s*: //p;T;q' /proc/cpuinfo)"
    printf '\n| target | binary, bytes | layer, bytes | start, ms | resident, kB |\n|---|---:|---:|---:|---:|\n'
    for_each_build measure
}

# --- The steps

clean_up() {
    if [ -n "$server" ]; then kill "$server" || true; fi
    if [ -n "$container" ]; then docker rm --force "$container" >/dev/null || true; fi
    if [ ${#images[@]} -gt 0 ]; then docker rmi "${images[@]}" >/dev/null || true; fi
    unregister_emulator
    rm -rf "$work"
}

run_step() {
    step "$1"
    case $1 in
        chroot) ;; # Made before the first step, whichever that is.
        build) for_each_build build ;;
        quine) for_each_build check_quine ;;
        suite) run_suite ;;
        siblings) check_siblings ;;
        docker) check_docker ;;
        table) print_table ;;
        *) fail "the steps are ${STEPS[*]}" ;;
    esac
}

main() {
    folder=$(realpath --canonicalize-missing "${1:-/var/tmp/quinistry-targets}")
    tree=$(realpath "$(dirname "$0")/..")
    root=$folder/sid
    server=
    container=
    images=()
    if [ $# -gt 1 ]; then STEPS=("${@:2}"); fi
    mkdir -p "$folder/programs"
    exec 9>"$folder/lock"
    flock --nonblock 9 || fail "$folder is in use by another run"
    work=$(mktemp --directory)
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    if [ -e "$root/complete" ]; then
        give_settings
        mount_folders
    else
        step 'the chroot'
        make_chroot
    fi
    local name
    for name in "${STEPS[@]}"; do run_step "$name"; done
    step 'all is well'
}

[ "$(id --user)" = 0 ] || fail 'only root can make a chroot'
for tool in debootstrap curl; do command -v "$tool" >/dev/null || fail "it needs $tool"; done
# In a mount namespace of its own, so that no mount is left behind however this ends.
if [ -z "${QUINISTRY_TARGETS:-}" ]; then QUINISTRY_TARGETS=1 exec unshare --mount -- bash "$0" "$@"; fi
main "$@"
