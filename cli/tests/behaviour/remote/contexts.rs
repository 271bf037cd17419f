//! Contexts that are no directories: archives on standard input and behind URLs.

use std::path::PathBuf;

use super::{IMAGE, files, pairs, sh, tar};
use crate::kit::Kit;
use crate::kit::programs::has;
use crate::kit::server::Server;
use crate::require_machine;

const CONTEXT: [(&str, &str); 5] = [
    ("Dockerfile", "FROM scratch\nCOPY . /\n"),
    ("other/Containerfile", "FROM scratch\nCOPY kept /only\n"),
    ("kept", "1"),
    ("dropped", "2"),
    (
        ".dockerignore",
        "dropped\nDockerfile\nother\n.dockerignore\n",
    ),
];

#[test]
fn contexts_come_from_standard_input_however_compressed() {
    require_machine!();
    let kit = Kit::new();
    let plain = tar(&CONTEXT);
    for program in ["cat", "gzip", "zstd", "xz", "bzip2"] {
        if !has(program) {
            continue;
        }
        std::fs::write(kit.path("plain"), &plain).unwrap();
        sh(&kit.path("."), &format!("{program} < plain > packed"));
        let packed = std::fs::read(kit.path("packed")).unwrap();
        let output = kit.rbuild_with_input(&["build", "-o", IMAGE[1], "-"], &packed);
        assert_eq!(
            files(&kit, output),
            pairs(&[("kept", "-644 1")]),
            "{program}"
        );
    }
    let other = ["build", "-f", "other/Containerfile", "-o", IMAGE[1], "-"];
    let output = kit.rbuild_with_input(&other, &plain);
    assert_eq!(files(&kit, output), pairs(&[("only", "-644 1")]));
    let missing = kit.rbuild_with_input(&["build", "-f", "nowhere", "-"], &plain);
    assert_eq!(missing.code, 1);
    assert!(
        missing.stderr.contains("no Dockerfile `nowhere`"),
        "{missing}"
    );
    let left: Vec<PathBuf> = std::fs::read_dir(kit.path("store/contexts"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    kit.store_is_whole();
}

#[test]
fn archives_that_are_contexts_stay_inside() {
    require_machine!();
    let kit = Kit::new();
    std::fs::write(kit.path("secret"), "FROM scratch\nLABEL secret=1\n").unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder
        .append_link(&mut header, "Dockerfile", kit.path("secret"))
        .unwrap();
    let output = kit.rbuild_with_input(&["build", "-"], &builder.into_inner().unwrap());
    assert_eq!(output.code, 1, "{output}");
    assert!(!output.stderr.contains("LABEL"), "{output}");

    // Claims a hole of a terabyte.
    sh(
        &kit.path("."),
        "truncate -s 1T hole; tar --sparse -cf bomb.tar hole; rm hole",
    );
    let bomb = std::fs::read(kit.path("bomb.tar")).unwrap();
    let output = kit.rbuild_with_input(&["build", "-"], &bomb);
    assert_eq!(output.code, 1, "{output}");
    let cut = tar(&[("Dockerfile", &"x".repeat(2000))]);
    let output = kit.rbuild_with_input(&["build", "-"], &cut[..1000]);
    assert_eq!(output.code, 1, "{output}");
    kit.store_is_whole();
}

#[test]
fn contexts_come_from_urls() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    server.text("/context.tar", tar(&CONTEXT), &["ETag: \"1\""]);
    let url = server.url("/context.tar");
    let build = |more: &[&str], url: &str| {
        let mut arguments = vec!["build", "-o", IMAGE[1]];
        arguments.extend(more);
        arguments.push(url);
        kit.rbuild(&arguments)
    };
    assert_eq!(files(&kit, build(&[], &url)), pairs(&[("kept", "-644 1")]));
    let output = build(&["-f", "other/Containerfile"], &url);
    assert_eq!(files(&kit, output), pairs(&[("only", "-644 1")]));
    assert_eq!(server.requests(), ["200 /context.tar", "304 /context.tar"]);

    server.text("/Dockerfile", "FROM scratch\nLABEL a=b\n", &[]);
    build(&[], &server.url("/Dockerfile")).success();
    let output = build(&["-f", "x"], &server.url("/Dockerfile"));
    assert_eq!(output.code, 2, "{output}");
    let output = build(&[], &server.url("/missing.tar"));
    assert!(
        output.code == 1 && output.stderr.contains("404"),
        "{output}"
    );
}

#[test]
fn named_contexts_come_from_urls() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    server.text("/context.tar", tar(&CONTEXT), &[]);
    server.text("/text", "hi", &[]);
    let dockerfile = "FROM scratch\nCOPY --from=other . /\n";
    let named = |path: &str| format!("--build-context=other={}", server.url(path));
    let output = kit.build(dockerfile, &[IMAGE[0], IMAGE[1], &named("/context.tar")]);
    assert_eq!(files(&kit, output), pairs(&[("kept", "-644 1")]));
    let output = kit.build(dockerfile, &[&named("/text")]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("no tar archive"), "{output}");
}
