#!/usr/bin/env bash
# Builds this tree for other processors, and checks that each program is a quine.
#
#     tests/targets.sh [DIRECTORY [STEP...]]
#
# It needs a Debian machine, root, curl and debootstrap. The step `docker` and the last part of `siblings` also need
# Docker. DIRECTORY (by default /var/tmp/quinistry-targets) keeps what is slow to build. Delete it to start over. The
# steps are as follows. By default, all are run.
#
#     chroot    install a Debian sid in DIRECTORY with Rust, C compilers and C libraries (done once)
#     build     build the program for each target
#     quine     run each program, pull and run its image, and so on: four generations have one digest
#     suite     run the test suite of the program for x86-64 with musl
#     siblings  pack the program for amd64 with that for arm64, and vice versa: both have one digest
#     docker    run the image for arm64 with Docker
#     table     print sizes, start-up times and memory
#
# The build commands are those of the README. They need a standard library for each target. rustup has all of these
# libraries, but Debian has only those for glibc. So those for musl are built from source, with Debian's musl. Programs
# for other processors run in QEMU's user mode emulation.
#
# Deliberately absent: hosts other than x86-64, and speed, which an emulator does not show.
set -euo pipefail
export LC_ALL=C

# A name, Rust's name of the target, and additional arguments for cargo.
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

# Prints the prefix of Debian's tools for a target.
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

# Runs a command in the chroot with a clean environment, except for the proxy settings.
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
    # Descriptor 9 is the lock (see main). It must not be inherited, because a test checks the open descriptors.
    chroot "$root" env --ignore-environment --chdir=/src "${variables[@]}" "$@" 9>&-
}

# Prints the mirror that this machine's apt uses.
mirror() {
    # shellcheck disable=SC2016 # These are apt's variables.
    apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL)' 'Created-By: Packages' |
        awk '$2 == "Debian" && $3 == "Debian" { print $1; exit }'
}

# Copies to the chroot the settings with which this machine reaches its mirror. Installing ca-certificates overwrites
# the bundle of certificates, so this function is called before and after.
copy_settings() {
    cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
    apt-config dump | grep -E '^Acquire::(Check-|https?::|Retries|ForceIPv)' \
        >"$root/etc/apt/apt.conf.d/90machine" || true
    mkdir -p "$root/etc/ssl/certs"
    local bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
    if [ -f "$bundle" ]; then cp --dereference "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"; fi
}

# The mounts are in the script's own namespace (see the end), and so end with the script.
mount_folders() {
    mkdir -p "$root/src" "$root/build"
    mount --bind /proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --bind "$tree" "$root/src"
    mount -o remount,bind,ro "$root/src"
    # The last build may be of another tree, but newer than the files of this tree. Then cargo would not build this
    # tree.
    rm -rf "$root/build/"{,*/}{release,debug}/.fingerprint/quinistry-*
}

make_chroot() {
    local from
    from=$(mirror)
    [ -n "$from" ] || fail 'apt knows no Debian mirror; try apt-get update'
    rm -rf --one-file-system "$root"
    debootstrap --variant=minbase sid "$root" "$from" >"$folder/debootstrap.log" ||
        fail "see $folder/debootstrap.log"
    copy_settings
    mount_folders
    local foreign
    for foreign in arm64 armhf riscv64; do in_chroot dpkg --add-architecture "$foreign"; done
    in_chroot apt-get update -qq
    in_chroot apt-get install -qq -y --no-install-recommends rustc cargo rust-src lld musl-tools ca-certificates \
        gcc-{aarch64-linux-gnu,arm-linux-gnueabihf,riscv64-linux-gnu} libc6-dev-{arm64,armhf,riscv64}-cross \
        qemu-user procps curl iproute2 >"$folder/install.log"
    copy_settings
    add_foreign_packages
    # The targets for musl call the linker by the name that it has in rustup.
    ln -s ld.lld "$root/usr/bin/rust-lld"
    local target
    for target in x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf \
        riscv64gc-unknown-linux-musl; do
        add_c_library "$target"
        add_standard_library "$target"
    done
    touch "$root/complete"
}

# Unpacks packages of other architectures, which cannot be installed beside the native ones.
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

# Creates the directory in which rustc looks for the libraries of a static program for musl. LLVM's libunwind is built
# for glibc, and needs two of its checked functions.
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

# Builds the standard library for a target, and copies it to where rustc looks for it. As in Rust's own build,
# everything can unwind except the crate `panic_abort`, which must not.
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

# These print the path of the program of a build, and the path of the emulator for a target that needs one.
program() { echo "$folder/programs/${1// /-}"; }
emulator() {
    case $1 in
        aarch64-*) echo "$root/usr/bin/qemu-aarch64" ;;
        armv7-*) echo "$root/usr/bin/qemu-arm" ;;
        riscv64gc-*) echo "$root/usr/bin/qemu-riscv64" ;;
    esac
}

# Calls a function for each build, with the build's name, its target and its additional arguments for cargo.
for_each_build() {
    local build name target arguments
    for build in "${BUILDS[@]}"; do
        IFS='|' read -r -d '' name target arguments <<<"$build" || true
        # shellcheck disable=SC2086 # These are several arguments.
        "$1" "$name" "$target" $arguments
    done
}

build() {
    local name=$1 target=$2 unstable=''
    echo "$name"
    # Without RUSTC_BOOTSTRAP, only a nightly toolchain accepts -Z.
    if [[ $* == *-Z* ]]; then unstable=RUSTC_BOOTSTRAP=1; fi
    in_chroot ${unstable:+env "$unstable"} cargo build --quiet --release --locked --target "${@:2}"
    cp "$root/build/$target/release/quinistry" "$(program "$name")"
}

# Starts a program on a free port. Sets `server`, `port` and `start_ms`, the time from the start until it logs that it
# listens.
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

# Prints the digest that the tag stands for at the server on a port.
digest_at() {
    curl --silent --show-error --fail --head --retry 30 --retry-delay 1 --retry-all-errors \
        "http://127.0.0.1:$1/v2/quinistry/manifests/latest" |
        sed -n 's/^docker-content-digest: \(.*\)\r$/\1/Ip'
}

# Pulls the image for a server's own platform into a directory. The first digest in a manifest is that of the config,
# and the others are those of the layers.
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

# Runs a program with --with, so that its image includes another program. The first argument is the other program, and
# the rest is the command. Sets `digest`. The program must print, save and serve the same digest.
carry() {
    local other=$1 index
    shift
    digest=$("$@" digest --with "$other")
    digest=${digest#*@}
    index=$("$@" save --with "$other" | tar --extract --to-stdout index.json)
    [[ $index == *"$digest"* ]] || fail "$* prints $digest but saves another digest"
    start_server "$@" --with "$other"
    [ "$(digest_at "$port")" = "$digest" ] || fail "$* prints $digest but serves another digest"
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
    echo "amd64 with arm64, and vice versa: $digest"
    run_in_docker "$amd64" --with "$arm64"
}

# --- Docker

FORMAT=/proc/sys/fs/binfmt_misc/quinistry-aarch64

# Makes the kernel run programs for arm64 with the emulator. Containers do not have the emulator's file, so flag F
# opens it now.
register_emulator() {
    [ -e "${FORMAT%/*}/register" ] || mount -t binfmt_misc binfmt_misc "${FORMAT%/*}"
    unregister_emulator
    # The start of a 64-bit little-endian ELF executable for EM_AARCH64, and a mask of the bits that must match.
    local magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    echo ":${FORMAT##*/}:M::$magic:$mask:$(emulator aarch64-):F" >"${FORMAT%/*}/register"
}

unregister_emulator() {
    if [ -e "$FORMAT" ]; then echo -1 >"$FORMAT"; fi
}

# Starts a server with the given command, and makes Docker pull and run its image for arm64. The container must serve
# the same digest, and Docker pulls from it.
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

# Prints a row of the table. The time is the median of eleven starts. The time and the memory are omitted for an
# emulator.
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
        chroot) ;; # main creates it before any step.
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
        copy_settings
        mount_folders
    else
        step 'the chroot'
        make_chroot
    fi
    local name
    for name in "${STEPS[@]}"; do run_step "$name"; done
    step 'everything passed'
}

[ "$(id --user)" = 0 ] || fail 'only root can make a chroot'
for tool in debootstrap curl; do command -v "$tool" >/dev/null || fail "$tool is missing"; done
# The script runs in its own mount namespace, so that no mount remains however it ends.
if [ -z "${QUINISTRY_TARGETS:-}" ]; then QUINISTRY_TARGETS=1 exec unshare --mount -- bash "$0" "$@"; fi
main "$@"
