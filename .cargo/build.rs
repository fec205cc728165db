//! Leaves the tables for unwinding out of the release binary: 6 % of every pull.
//!
//! The binary aborts when it panics, and never unwinds. But the linker keeps the tables, because the standard library and
//! the C library bring theirs, and a debugger could use them. Tests do unwind. Cargo has no flags for one profile, so
//! `.cargo/config.toml` cannot have these.
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
