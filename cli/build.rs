//! How the release binary is linked, so that a short command does not begin with what it does not need.
//!
//! A position-independent executable begins by writing 39,000 addresses into 155 pages of its own: a fifth of the time
//! of a short command. This one has its addresses from the linker.
//!
//! The C library and the compiler's own, which unwinds stacks, are shared ones by default, which a loader finds, maps and
//! binds by name each time. Where their archives are there, they are linked in. The standard library asks for `c`, `m`
//! and `gcc_s`: what the linker finds under those names first leads to the archives.
//!
//! A page of code is read in with its neighbours when it is first needed, and those of a short command lie all over the
//! program. The linker lays the functions that such commands go through together (`hot.txt`).

use std::path::{Path, PathBuf};
use std::process::Command;

/// Of the C library: from here on it looks names up without loading other libraries, when it is told so
/// (`names.rs` of rbuild-image).
const FIRST_WITHOUT_MODULES: u32 = 34;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=hot.txt");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|it| it == value);
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    // Who asks for that has it linked as they said.
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        return;
    }
    link_with("-no-pie");
    let is_this_machine = std::env::var("HOST").ok() == std::env::var("TARGET").ok();
    let directory = std::env::var_os("OUT_DIR").map(PathBuf::from);
    let Some(directory) = directory.filter(|_| is_this_machine) else {
        return;
    };
    match together(&directory) {
        Some(script) => link_with(&format!("-Wl,-T,{}", script.display())),
        // It works, and is slower.
        None => println!("cargo:warning=the linker does not lay the functions of hot.txt together"),
    }
    if !is("CARGO_CFG_TARGET_ENV", "gnu") {
        return;
    }
    if archive("libgcc_eh.a").is_none() || !leads(&directory, "gcc_s", "-lgcc_eh -lgcc") {
        return;
    }
    link_with(&format!("-L{}", directory.display()));
    // Of another run, when there were archives; mostly there are none.
    for script in ["libc.so", "libm.so"] {
        let _ = std::fs::remove_file(directory.join(script));
    }
    if let (Some(c), Some(m)) = (archive("libc.a"), archive("libm.a"))
        && minor_version().is_some_and(|minor| minor >= FIRST_WITHOUT_MODULES)
        && leads(&directory, "c", &format!("{c} -lgcc_eh -lgcc"))
        && leads(&directory, "m", &m)
    {
        println!("cargo:rerun-if-changed={c}");
        link_with("-static");
    }
}

/// The program alone: neither tests nor benchmarks.
fn link_with(argument: &str) {
    println!("cargo:rustc-link-arg-bin=rbuild={argument}");
}

/// The script that adds a section of the hot functions before the others, when the linker knows what to do with it.
fn together(directory: &Path) -> Option<PathBuf> {
    let names = std::fs::read_to_string("hot.txt").ok()?;
    let mut script = "SECTIONS {\n  .text.hot : {\n".to_owned();
    for group in names.split("\n#").skip(1) {
        let names = group.lines().skip(1);
        let sections: String = names.map(|name| format!(" .text.{name}\n")).collect();
        script += &format!("*({sections})\n");
    }
    script += "  }\n} INSERT BEFORE .text;\n";
    let [of, program, probe] = ["hot.ld", "probe.rs", "probe"].map(|name| directory.join(name));
    std::fs::write(&of, script).ok()?;
    std::fs::write(&program, "fn main() {}\n").ok()?;
    let mut compiler = Command::new(std::env::var_os("RUSTC")?);
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    compiler.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        compiler
            .arg("-C")
            .arg(format!("linker={}", linker.display()));
    }
    compiler.arg("-Clink-arg=-no-pie");
    compiler.arg(format!("-Clink-arg=-Wl,-T,{}", of.display()));
    compiler.arg("-o").args([&probe, &program]);
    let links = compiler.output().ok()?.status.success();
    let runs = links && Command::new(&probe).status().ok()?.success();
    runs.then_some(of)
}

/// Where the C compiler, which links, has a library.
fn archive(name: &str) -> Option<String> {
    let output = Command::new("cc")
        .arg(format!("-print-file-name={name}"))
        .output();
    let path = String::from_utf8(output.ok()?.stdout).ok()?;
    let path = path.trim();
    Path::new(path).is_absolute().then(|| path.to_owned())
}

/// Has a library's name lead to others, which may need each other. Returns whether it does.
fn leads(directory: &Path, name: &str, others: &str) -> bool {
    let script = format!("GROUP({others})\n");
    std::fs::write(directory.join(format!("lib{name}.so")), script).is_ok()
}

/// Of the C library.
fn minor_version() -> Option<u32> {
    let output = Command::new("cc")
        .args([
            "-E",
            "-dM",
            "-include",
            "features.h",
            "-x",
            "c",
            "/dev/null",
        ])
        .output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    let minor = text
        .lines()
        .find_map(|line| line.strip_prefix("#define __GLIBC_MINOR__ "))?;
    minor.trim().parse().ok()
}
