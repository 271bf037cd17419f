//! A cache that is damaged or lies costs time, and nothing else.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::kit::{Archive, Kit, Output};
use crate::places::{fresh, ran};
use crate::require_machine;

const DOCKERFILE: &str = "\
FROM busybox
RUN echo one > /one
RUN echo two > /two
RUN cat /one /two > /both
";

/// A kit with a cache directory, and the blobs that its document lists: (media type, file).
fn made() -> (Kit, Vec<(String, PathBuf)>) {
    let kit = Kit::new();
    fresh(
        &kit,
        DOCKERFILE,
        &["--cache-to", "type=local,dest=cache,mode=max"],
    );
    let cache = kit.path("cache");
    let read =
        |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let file = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        cache
            .join("blobs/sha256")
            .join(digest.strip_prefix("sha256:").unwrap())
    };
    let index = read(&cache.join("index.json"));
    let manifest = read(&file(&index["manifests"][0]));
    let layers = manifest["layers"].as_array().unwrap();
    let layers = layers.iter().map(|layer| {
        let media_type = layer["mediaType"].as_str().unwrap().to_owned();
        (media_type, file(layer))
    });
    let layers = layers.collect();
    (kit, layers)
}

fn of<'a>(blobs: &'a [(String, PathBuf)], part: &str) -> Vec<&'a Path> {
    let of = blobs
        .iter()
        .filter(|(media_type, _)| media_type.contains(part));
    of.map(|(_, file)| file.as_path()).collect()
}

/// Builds with the cache; the result must be right.
fn build(kit: &Kit) -> Output {
    let flags = [
        "--cache-from",
        "type=local,src=cache",
        "-o",
        "type=oci,dest=image.tar",
    ];
    let output = fresh(kit, DOCKERFILE, &flags);
    let image = Archive::read(&kit.path("image.tar"));
    let both = &image.files["both"];
    assert!(both.ends_with("one\ntwo"), "{both}: {output}");
    kit.store_is_whole();
    output
}

#[test]
fn a_layer_that_is_gone_is_a_miss() {
    require_machine!();
    let (kit, blobs) = made();
    for layer in of(&blobs, "image.layer") {
        std::fs::remove_file(layer).unwrap();
    }
    let output = build(&kit);
    assert_eq!(ran(&output).len(), 3, "{output}");
    assert!(
        output.stderr.contains("is not used: its layer sha256:"),
        "{output}"
    );
    // A writer who has it puts it back.
    let flags = ["--cache-to", "type=local,dest=cache,mode=max"];
    fresh(&kit, DOCKERFILE, &flags);
    let output = build(&kit);
    assert_eq!(ran(&output), [""; 0], "{output}");
}

#[test]
fn a_layer_that_was_cut_or_changed_is_a_miss() {
    require_machine!();
    let (kit, blobs) = made();
    for layer in of(&blobs, "image.layer") {
        let mut bytes = std::fs::read(layer).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(layer, bytes).unwrap();
    }
    let output = build(&kit);
    assert_eq!(ran(&output).len(), 3, "{output}");
    assert!(
        output.stderr.contains("is not used, and its step runs:"),
        "{output}"
    );

    let (kit, blobs) = made();
    for layer in of(&blobs, "image.layer") {
        let bytes = std::fs::read(layer).unwrap();
        std::fs::write(layer, &bytes[..bytes.len() / 2]).unwrap();
    }
    let output = build(&kit);
    assert_eq!(ran(&output).len(), 3, "{output}");
}

#[test]
fn lists_that_make_no_sense_are_passed_over() {
    require_machine!();
    let (kit, blobs) = made();
    let [list] = of(&blobs, "cache.records")[..] else {
        panic!("one list");
    };
    let bytes = std::fs::read(list).unwrap();
    std::fs::write(list, &bytes[..bytes.len() - 1]).unwrap();
    let output = build(&kit);
    assert_eq!(ran(&output).len(), 3, "{output}");
    assert!(output.stderr.contains("a part of the cache"), "{output}");

    // The document itself.
    for text in ["", "{}", "[]", "{\"schemaVersion\":2,\"manifests\":[{}]}"] {
        std::fs::write(kit.path("cache/index.json"), text).unwrap();
        let output = build(&kit);
        assert_eq!(ran(&output).len(), 3, "{output}");
        assert!(output.stderr.contains("is not used"), "{text}: {output}");
    }
}
