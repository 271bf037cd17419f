//! A cache that is damaged or lies costs time, and nothing else.

use std::path::{Path, PathBuf};

use rbuild_engine::cache::Digest;
use serde_json::Value;

use crate::kit::programs::{has, registry, run};
use crate::kit::server::Server;
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

/// Another file of the same length.
fn spoil(layer: &Path) {
    let mut bytes = std::fs::read(layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(layer, bytes).unwrap();
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

/// Each page of it says that there is another.
#[test]
fn a_listing_without_end_is_given_up() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    let page = "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>caches</Name>\
        <Prefix>x</Prefix><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated>\
        <NextContinuationToken>more</NextContinuationToken></ListBucketResult>";
    server.text("/caches/", page, &[]);
    let cache = format!(
        "type=s3,bucket=caches,region=r,name=x,use_path_style=true,access_key_id=a,secret_access_key=b,\
         endpoint_url={}",
        server.url("")
    );
    let output = kit.must_build("FROM busybox\nRUN echo hi\n", &["--cache-from", &cache]);
    assert!(output.stderr.contains("does not end"), "{output}");
    assert!(server.requests().len() > 50);
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

/// Blobs that a cache in a registry lists are not asked for one by one; where one is gone, whoever has it sends it again.
#[test]
fn a_registry_gets_again_what_it_lost() {
    require_machine!();
    if !has("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let server = registry(&kit.path("served"));
    let name = format!("127.0.0.1:{}/cache:all", server.port);
    let to = format!("type=registry,ref={name},mode=max");
    kit.must_build(DOCKERFILE, &["--cache-to", &to]);
    let blobs = run(
        "find",
        &[&kit.path("served").display().to_string(), "-name", "data"],
    );
    let is_layer = |path: &&str| std::fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]);
    let layers: Vec<&str> = blobs.lines().filter(is_layer).collect();
    assert_eq!(layers.len(), 3, "{blobs}");
    for layer in layers {
        std::fs::remove_file(layer).unwrap();
    }
    // Its steps are cached here, all but the last.
    let more = format!("{DOCKERFILE}RUN echo more > /more\n");
    kit.must_build(&more, &["--cache-to", &to]);
    let found = fresh(
        &kit,
        &more,
        &["--cache-from", &name, "-o", "type=oci,dest=image.tar"],
    );
    assert_eq!(ran(&found), [""; 0], "{found}");
}

#[test]
fn a_layer_that_was_cut_or_changed_is_a_miss() {
    require_machine!();
    let (kit, blobs) = made();
    for layer in of(&blobs, "image.layer") {
        spoil(layer);
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
fn what_runs_beside_a_broken_layer_runs_once() {
    require_machine!();
    let (kit, blobs) = made();
    for layer in of(&blobs, "image.layer") {
        spoil(layer);
    }
    // The layer is wanted when the other command has said its word long ago; begun again, it would say it again.
    let dockerfile = format!(
        "{}FROM busybox AS wait\nRUN sleep 0.7; echo > /wait\n\
         FROM made AS uses\nCOPY --from=wait /wait /\n\
         FROM busybox AS other\nRUN echo ran-$((40+2)); sleep 2; echo > /slow\n\
         FROM uses\nCOPY --from=other /slow /\n",
        DOCKERFILE.replace("FROM busybox", "FROM busybox AS made")
    );
    let flags = ["--cache-from", "type=local,src=cache", "-j", "4"];
    let output = fresh(&kit, &dockerfile, &flags);
    assert!(output.stderr.contains("is not used"), "{output}");
    assert_eq!(output.stderr.matches("ran-42").count(), 1, "{output}");
    kit.store_is_whole();
}

/// Nobody needs the files of a layer that is only passed on; its bytes are looked at all the same.
#[test]
fn a_broken_layer_that_is_to_be_pushed_is_made_again() {
    require_machine!();
    if !has("docker-registry") {
        return;
    }
    for is_gone in [false, true] {
        let (kit, blobs) = made();
        let layers = of(&blobs, "image.layer");
        for layer in &layers {
            match is_gone {
                true => std::fs::remove_file(layer).unwrap(),
                false => spoil(layer),
            }
        }
        let server = registry(&kit.path("served"));
        let name = format!("127.0.0.1:{}/pushed", server.port);
        let flags = ["--cache-from", "type=local,src=cache", "-t", &name];
        let flags = [&flags[..], &["--push"]].concat();
        let output = fresh(&kit, DOCKERFILE, &flags);
        assert_eq!(ran(&output).len(), 3, "{output}");
        assert!(output.stderr.contains("is not used"), "{output}");
        let other = Kit::new();
        let said = other.must(&["run", "--rm", &name, "cat", "/both"]);
        assert_eq!(said.stdout, "one\ntwo\n");
    }
}

/// The digests are right, and what is said of a layer's files is not.
#[test]
fn a_record_that_lies_about_its_files_is_a_miss() {
    require_machine!();
    let (kit, blobs) = made();
    let [list] = of(&blobs, "cache.records")[..] else {
        panic!("one list");
    };
    let text = zstd::decode_all(std::fs::read(list).unwrap().as_slice()).unwrap();
    let mut records: Value = serde_json::from_slice(&text).unwrap();
    let chains = records["records"].as_array().unwrap().iter();
    let longest = chains.map(|record| record["chain"].as_array().unwrap());
    let longest = longest.max_by_key(|chain| chain.len()).unwrap();
    let top = longest.last().unwrap()[0].as_u64().unwrap();
    records["layers"][top as usize]["tree"] = "00".repeat(32).into();

    let directory = list.parent().unwrap();
    let write = |descriptor: &mut Value, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(directory.join(digest.hex()), bytes).unwrap();
        descriptor["digest"] = digest.to_string().into();
        descriptor["size"] = bytes.len().into();
    };
    let text = serde_json::to_vec(&records).unwrap();
    let lie = zstd::encode_all(text.as_slice(), 3).unwrap();
    let path = kit.path("cache/index.json");
    let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let digest: Digest = index["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let manifest = std::fs::read(directory.join(digest.hex())).unwrap();
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let mut blobs = manifest["layers"].as_array_mut().unwrap().iter_mut();
    let is_list = |blob: &&mut Value| {
        blob["mediaType"]
            .as_str()
            .unwrap()
            .contains("cache.records")
    };
    write(blobs.find(is_list).unwrap(), &lie);
    write(
        &mut index["manifests"][0],
        &serde_json::to_vec(&manifest).unwrap(),
    );
    std::fs::write(&path, serde_json::to_vec(&index).unwrap()).unwrap();

    let output = build(&kit);
    assert_eq!(ran(&output), ["RUN cat /one /two > /both"], "{output}");
    assert!(
        output.stderr.contains("is not used, and its step runs"),
        "{output}"
    );
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
