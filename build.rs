//! Lays the functions that a call of the plugin runs beside each other in the release binary.
//!
//! They are a tenth of the program's text, and lie all over it else: each call, a process of two milliseconds, would map
//! nearly all of it piece by piece, at some microseconds for each of its page faults. `.cargo/order` has their names, by
//! `e2e/bench/order`. A name that is not there (another compiler gives others) costs nothing but its place.
//!
//! Only the linker that rustup's toolchains bring for this target, and link with by default since 1.90, knows the option:
//! where there is none of it, or another was chosen, the program is as good, and somewhat slower to start.

#![allow(clippy::disallowed_methods, reason = "not the program: it asks the compiler where it lives")]
#![allow(clippy::print_stdout, reason = "how a build script speaks to cargo")]

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=.cargo/order");
    let var = |key: &str| env::var(key).unwrap_or_default();
    if var("PROFILE") != "release" || var("TARGET") != "x86_64-unknown-linux-gnu" {
        return;
    }
    let flags = var("CARGO_ENCODED_RUSTFLAGS");
    if ["fuse-ld", "linker"].iter().any(|other| flags.contains(other)) || !var("RUSTC_LINKER").is_empty() {
        return;
    }
    let order = PathBuf::from(var("CARGO_MANIFEST_DIR")).join(".cargo/order");
    if own_linker(&var("RUSTC"), &var("HOST")) && order.exists() {
        println!("cargo:rustc-link-arg-bins=-Wl,--symbol-ordering-file={}", order.display());
        println!("cargo:rustc-link-arg-bins=-Wl,--no-warn-symbol-ordering");
    }
}

/// Whether the toolchain has a linker of its own.
fn own_linker(rustc: &str, host: &str) -> bool {
    let Ok(said) = Command::new(rustc).args(["--print", "sysroot"]).output() else { return false };
    let sysroot = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    PathBuf::from(sysroot).join("lib/rustlib").join(host).join("bin/gcc-ld/ld.lld").exists()
}
