//! How the release binary is linked, so that a short command does not begin with what it does not need.
//!
//! A position-independent executable begins by writing 39,000 addresses into 155 pages of its own: a fifth of the time
//! of a short command. This one has its addresses from the linker.
//!
//! The compiler's own library, which unwinds stacks, is a shared one by default, and asks the processor what it can
//! do when it is loaded. In a virtual machine each question ends in the hypervisor. The part of it that is needed is
//! linked in.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|it| it == value);
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") {
        println!("cargo:rustc-link-arg-bin=rbuild=-no-pie");
        let is_this_machine = std::env::var("HOST").ok() == std::env::var("TARGET").ok();
        if is("CARGO_CFG_TARGET_ENV", "gnu") && is_this_machine && has("libgcc_eh.a") {
            link_unwinder();
        }
    }
}

/// Whether the C compiler, which links, has a library.
fn has(library: &str) -> bool {
    let named = Command::new("cc")
        .arg(format!("-print-file-name={library}"))
        .output();
    named.is_ok_and(|named| Path::new(String::from_utf8_lossy(&named.stdout).trim()).is_absolute())
}

/// The standard library asks for `gcc_s`: what the linker finds under that name first leads to the archives.
fn link_unwinder() {
    let Some(directory) = std::env::var_os("OUT_DIR").map(PathBuf::from) else {
        return;
    };
    let script = "INPUT(-lgcc_eh -lgcc)\n";
    if std::fs::write(directory.join("libgcc_s.so"), script).is_ok() {
        println!("cargo:rustc-link-search=native={}", directory.display());
    }
}
