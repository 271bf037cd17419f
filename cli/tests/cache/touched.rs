//! What a build of which everything is cached touches of its context: what COPY and ADD name, and nothing twice.

use std::collections::BTreeSet;
use std::process::Command;

use crate::kit::{Kit, skipped};
use crate::require_machine;

const DOCKERFILE: &str = "\
FROM busybox
COPY one.txt /
COPY src /src
RUN cat /one.txt
";

/// Paths below the context that the build opens or looks up, as strace tells them.
fn touched(kit: &Kit, test: &str) -> Option<BTreeSet<String>> {
    let log = kit.path("strace");
    let mut build = kit.command(kit.build_arguments(DOCKERFILE, &["-o", "type=cacheonly"]));
    let mut command = Command::new("strace");
    command
        .args([
            "-f",
            "-y",
            "-e",
            "trace=openat,openat2,statx,newfstatat,read,pread64",
        ])
        .arg("-o")
        .arg(&log)
        .arg(build.get_program())
        .args(build.get_args())
        .current_dir(kit.path(""))
        .env("RBUILD_ROOT", kit.path("store"));
    build.env_clear();
    let traced = command.output();
    if !traced.is_ok_and(|output| output.status.success()) {
        skipped(test, "strace cannot trace here");
        return None;
    }
    let context = format!("{}/", kit.path("context").display());
    let text = std::fs::read_to_string(&log).unwrap();
    let mut paths = BTreeSet::new();
    for line in text.lines().filter(|line| !line.contains("ENOENT")) {
        let Some((_, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let name = call.split('(').next().unwrap_or_default();
        // `read(9</context/file>, …`, `openat2(7</context>, "file", …`
        let directory = call.split('<').nth(1).and_then(|it| it.split('>').next());
        let given = call.split('"').nth(1);
        let path = match (name, directory, given) {
            ("read" | "pread64", Some(file), _) => format!("read {file}"),
            ("read" | "pread64", None, _) => continue,
            (_, _, Some(given)) if given.starts_with('/') => given.to_owned(),
            (_, Some(directory), Some(given)) => format!("{directory}/{given}"),
            _ => continue,
        };
        if let Some((before, below)) = path.split_once(&context) {
            paths.insert(format!("{before}{below}"));
        }
    }
    Some(paths)
}

#[test]
fn a_cached_build_looks_at_what_is_named_and_reads_nothing() {
    require_machine!();
    let test = "a_cached_build_looks_at_what_is_named_and_reads_nothing";
    let kit = Kit::new();
    kit.context(&[
        ("one.txt", "1"),
        ("two.txt", "2"),
        ("src/a", "a"),
        ("src/deep/b", "b"),
        ("src/ignored/c", "c"),
        ("elsewhere/d", "d"),
        (".dockerignore", "src/ignored\n"),
    ]);
    // Older than the clock's tick.
    std::thread::sleep(std::time::Duration::from_millis(60));
    for _ in 0..2 {
        kit.must_build(DOCKERFILE, &["-o", "type=cacheonly"]);
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
    let Some(touched) = touched(&kit, test) else {
        return;
    };
    let about = |word: &str| touched.iter().any(|path| path.contains(word));
    assert!(
        about("one.txt") && about("src/a") && about("src/deep/b"),
        "{touched:#?}"
    );
    for word in ["two.txt", "elsewhere", "src/ignored/", "src/ignored/c"] {
        assert!(!about(word), "{word}: {touched:#?}");
    }
    // Nothing is read to be hashed. (A lint looks at the first bytes of single files, for scripts with CRLF.)
    let read: Vec<&String> = touched
        .iter()
        .filter(|it| it.starts_with("read "))
        .collect();
    let known = ["read Dockerfile", "read .dockerignore", "read one.txt"];
    assert!(
        read.iter().all(|path| known.contains(&path.as_str())),
        "{read:#?}"
    );
}
