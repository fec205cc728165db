//! Leaves the tables for unwinding out of the release binary, which makes every pull 6 % smaller.
//!
//! The binary aborts when it panics, so it never unwinds. However, the linker keeps the tables, because the standard
//! library and the C library bring theirs, and a debugger could use them. Tests do unwind, so only the release profile
//! may have these flags. `.cargo/config.toml` cannot set flags for a single profile, but this script can.
//!
//! Deliberately absent: doing the same for musl, whose startup files may refer to the tables.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=.cargo");
    let is = |variable, value: &str| env::var(variable).is_ok_and(|found| found == value);
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        println!("cargo::rustc-link-arg-bins=-T{}/.cargo/build.ld", env!("CARGO_MANIFEST_DIR"));
    }
}
