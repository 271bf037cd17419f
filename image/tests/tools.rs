//! Other tools read what this crate writes, and this crate reads what they write.

mod kit;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kit::{Kit, TarFile, installed};
use rbuild_cache::Store;
use rbuild_image::compression::Compression;
use rbuild_image::export::{self, Sink};
use rbuild_image::layer::{self, LayerOptions};
use rbuild_image::manifest::Descriptor;
use rbuild_image::source::{self, Location, Resolved};
use rbuild_image::{Platform, store_image};

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An image with what layers can hold, made of layers that this crate writes.
async fn image(kit: &Kit, compression: Compression, oci: bool) -> (Descriptor, Resolved) {
    let lower = TarFile::new()
        .directory("etc", 0o755)
        .file("etc/a", b"a")
        .file("etc/gone", b"x")
        .directory("hidden", 0o755)
        .file("hidden/old", b"old")
        .done();
    let upper = TarFile::new()
        .file("etc/.wh.gone", b"")
        .file("hidden/.wh..wh..opq", b"")
        .file("hidden/new", b"new")
        .file(
            &format!("long/{}/{}", "d".repeat(120), "f".repeat(200)),
            b"long",
        )
        .hard_link("hidden/link", "hidden/new")
        .symlink("s", "etc/a")
        .done();
    let layout = kit.layout(&[lower, upper], "latest");
    let resolved = resolve(
        kit,
        Location::OciLayout {
            path: layout,
            tag: None,
            digest: None,
        },
    )
    .await;
    let snapshots = source::snapshots(&kit.store, &kit.client, &resolved, Arc::new(|_, _, _| {}))
        .await
        .unwrap();
    let options = LayerOptions {
        compression,
        oci_media_types: oci,
        clamp_mtime: None,
    };
    let layers: Vec<_> = snapshots
        .iter()
        .map(|snapshot| layer::layer(&kit.store, &snapshot.id, &options, true).unwrap())
        .collect();
    let (manifest, _) =
        store_image::write(&kit.store, &resolved.config, &layers, &[], oci).unwrap();
    (manifest, resolved)
}

async fn resolve(kit: &Kit, location: Location) -> Resolved {
    source::resolve(&kit.store, &kit.client, &location, &Platform::host())
        .await
        .unwrap()
}

async fn paths(kit: &Kit, location: Location) -> Vec<String> {
    let resolved = resolve(kit, location).await;
    let snapshots = source::snapshots(&kit.store, &kit.client, &resolved, Arc::new(|_, _, _| {}))
        .await
        .unwrap();
    let tree = kit
        .store
        .merged_tree(&snapshots.last().unwrap().id)
        .unwrap();
    tree.entries
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.path).into_owned())
        .collect()
}

fn expected() -> Vec<String> {
    let long = format!("long/{}", "d".repeat(120));
    let file = format!("{long}/{}", "f".repeat(200));
    [
        "",
        "etc",
        "etc/a",
        "hidden",
        "hidden/link",
        "hidden/new",
        "long",
        &long,
        &file,
        "s",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn skopeo_reads_and_writes() {
    if !installed("skopeo") {
        return;
    }
    for (compression, oci) in [
        (Compression::default(), true),
        (Compression::Zstd { level: 3 }, true),
        (Compression::default(), false),
        (Compression::None, false),
    ] {
        let kit = Kit::new();
        let (manifest, _) = image(&kit, compression, oci).await;
        let names = ["example.org/x:1".to_owned()];
        let ours = kit.path("ours.tar");
        export::oci_archive(&kit.store, &manifest, &names, Sink::File(&ours)).unwrap();
        let docker = kit.path("docker.tar");
        let images = [(manifest.clone(), names.to_vec())];
        export::docker_archive(&kit.store, &images, Sink::File(&docker)).unwrap();
        let directory = kit.path("directory");
        export::oci_directory(&kit.store, &manifest, &names, &directory).unwrap();
        for (number, from) in [
            format!("oci-archive:{}:1", text(&ours)),
            format!("docker-archive:{}", text(&docker)),
            format!("oci:{}:1", text(&directory)),
        ]
        .iter()
        .enumerate()
        {
            // skopeo finds only OCI's own media types in a layout.
            if !oci && !from.starts_with("docker-archive") {
                continue;
            }
            let copy = |to: String| {
                run("skopeo", &["copy", "-q", "--insecure-policy", from, &to]);
            };
            let path = kit.path(&format!("theirs{number}.tar"));
            copy(format!("oci-archive:{}:2", text(&path)));
            let tag = Some("2".to_owned());
            assert_eq!(
                paths(&kit, Location::OciArchive { path, tag }).await,
                expected()
            );
            let path = kit.path(&format!("theirs{number}"));
            copy(format!("oci:{}:2", text(&path)));
            let tag = Some("2".to_owned());
            assert_eq!(
                paths(
                    &kit,
                    Location::OciLayout {
                        path,
                        tag,
                        digest: None
                    }
                )
                .await,
                expected()
            );
            // Docker's format as skopeo writes it knows no zstd.
            if matches!(compression, Compression::Zstd { .. }) {
                continue;
            }
            let path = kit.path(&format!("docker{number}.tar"));
            copy(format!("docker-archive:{}:example.org/y:3", text(&path)));
            let tag = Some("3".to_owned());
            assert_eq!(
                paths(
                    &kit,
                    Location::DockerArchive {
                        path: path.clone(),
                        tag
                    }
                )
                .await,
                expected()
            );
            run("gzip", &["-1", text(&path)]);
            let path = kit.path(&format!("docker{number}.tar.gz"));
            assert_eq!(
                paths(&kit, Location::DockerArchive { path, tag: None }).await,
                expected()
            );
        }
        for archive in [&docker, &kit.path("docker1.tar.gz")] {
            if !archive.exists() {
                continue;
            }
            let listed = source::archived(&kit.store, archive).await.unwrap();
            let [one] = &listed[..] else {
                panic!("{listed:?}")
            };
            assert!(one.names[0].starts_with("example.org/"), "{listed:?}");
            assert_eq!(paths(&kit, one.location.clone()).await, expected());
        }
        let inspected = run(
            "skopeo",
            &["inspect", &format!("docker-archive:{}", text(&docker))],
        );
        assert!(inspected.contains("Layers"));
    }
}

#[tokio::test]
async fn umoci_reads_and_writes() {
    if !installed("umoci") {
        return;
    }
    let kit = Kit::new();
    let (manifest, _) = image(&kit, Compression::default(), true).await;
    let directory = kit.path("layout-out");
    export::oci_directory(&kit.store, &manifest, &["x:1".to_owned()], &directory).unwrap();
    let bundle = kit.path("bundle");
    run(
        "umoci",
        &[
            "unpack",
            "--image",
            &format!("{}:1", text(&directory)),
            text(&bundle),
        ],
    );
    let root = bundle.join("rootfs");
    assert!(root.join("hidden/new").exists() && !root.join("hidden/old").exists());
    assert!(root.join("etc/a").exists() && !root.join("etc/gone").exists());
    std::fs::write(root.join("added"), "by umoci").unwrap();
    std::fs::remove_file(root.join("s")).unwrap();
    run(
        "umoci",
        &[
            "repack",
            "--image",
            &format!("{}:2", text(&directory)),
            text(&bundle),
        ],
    );
    let tag = Some("2".to_owned());
    let mut wanted = expected();
    wanted.retain(|path| path != "s");
    wanted.insert(1, "added".to_owned());
    let found = paths(
        &kit,
        Location::OciLayout {
            path: directory,
            tag,
            digest: None,
        },
    )
    .await;
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn podman_reads_and_writes() {
    if !installed("podman") {
        return;
    }
    let kit = Kit::new();
    let root = kit.path("podman");
    let global = [
        "--root",
        text(&root.join("root")),
        "--runroot",
        text(&root.join("run")),
        "--storage-driver",
        "vfs",
        "--events-backend",
        "none",
        "--cgroup-manager",
        "cgroupfs",
    ]
    .map(str::to_owned);
    let podman = |arguments: &[&str]| {
        let all: Vec<&str> = global
            .iter()
            .map(String::as_str)
            .chain(arguments.iter().copied())
            .collect();
        run("podman", &all)
    };
    let (manifest, _) = image(&kit, Compression::default(), true).await;
    let docker = kit.path("docker.tar");
    let images = [(
        manifest.clone(),
        vec!["docker.io/library/ours:1".to_owned()],
    )];
    export::docker_archive(&kit.store, &images, Sink::File(&docker)).unwrap();
    let loaded = podman(&["load", "-q", "-i", text(&docker)]);
    assert!(loaded.contains("ours:1"), "{loaded}");
    let saved = kit.path("saved.tar");
    podman(&[
        "save",
        "-q",
        "--format",
        "oci-archive",
        "-o",
        text(&saved),
        "ours:1",
    ]);
    assert_eq!(
        paths(
            &kit,
            Location::OciArchive {
                path: saved,
                tag: None
            }
        )
        .await,
        expected()
    );
    let saved = kit.path("saved-docker.tar");
    podman(&[
        "save",
        "-q",
        "--format",
        "docker-archive",
        "-o",
        text(&saved),
        "ours:1",
    ]);
    assert_eq!(
        paths(
            &kit,
            Location::DockerArchive {
                path: saved,
                tag: None
            }
        )
        .await,
        expected()
    );
}

#[tokio::test]
async fn a_root_as_a_tar_and_as_a_directory() {
    let kit = Kit::new();
    let (_, resolved) = image(&kit, Compression::default(), true).await;
    let snapshots = source::snapshots(&kit.store, &kit.client, &resolved, Arc::new(|_, _, _| {}))
        .await
        .unwrap();
    let top = &snapshots.last().unwrap().id;
    let mut tar = Vec::new();
    let root = export::Root {
        snapshot: Some(top),
        epoch: Some(1_500_000_000),
        directory: None,
        documents: vec![("said.json".to_owned(), b"{}".to_vec())],
    };
    export::tar(&kit.store, std::slice::from_ref(&root), &mut tar).unwrap();
    let mut archive = tar::Archive::new(tar.as_slice());
    let mut names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 1_500_000_000);
            String::from_utf8_lossy(&entry.path_bytes())
                .trim_end_matches('/')
                .to_owned()
        })
        .collect();
    names.insert(0, String::new());
    assert_eq!(names.pop().as_deref(), Some("said.json"));
    assert_eq!(names, expected());
    let directory = kit.path("local");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("there"), "stays").unwrap();
    std::os::unix::fs::symlink("/nowhere", directory.join("etc")).unwrap();
    export::local(&kit.store, &[root], &directory, false).unwrap();
    assert_eq!(
        std::fs::read_to_string(directory.join("etc/a")).unwrap(),
        "a"
    );
    assert_eq!(
        std::fs::read_to_string(directory.join("there")).unwrap(),
        "stays"
    );
    use std::os::unix::fs::MetadataExt;
    let said = directory.join("said.json");
    assert_eq!(std::fs::metadata(&said).unwrap().mtime(), 1_500_000_000);
    assert_eq!(std::fs::read_to_string(&said).unwrap(), "{}");
    let (one, two) = (directory.join("hidden/new"), directory.join("hidden/link"));
    assert_eq!(
        std::fs::metadata(one).unwrap().ino(),
        std::fs::metadata(two).unwrap().ino()
    );
    assert_eq!(
        std::fs::metadata(directory.join("hidden")).unwrap().mtime(),
        1_500_000_000
    );
}

#[tokio::test]
async fn what_fails_leaves_nothing() {
    let kit = Kit::new();
    let (manifest, _) = image(&kit, Compression::default(), true).await;
    let bytes = std::fs::read(kit.store.blob_path(&manifest.digest)).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let layer = document["layers"][1]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let path = kit.store.blob_path(&layer);
    let mut blob = std::fs::read(&path).unwrap();
    blob[100] ^= 1;
    std::fs::write(&path, blob).unwrap();
    let directory = kit.path("out");
    std::fs::create_dir(&directory).unwrap();
    let out = directory.join("image.tar");
    std::fs::write(&out, "before").unwrap();
    // Another process: the one that wrote a blob does not hash it once more.
    let store = Store::open(&kit.path("store")).unwrap();
    let error = export::oci_archive(&store, &manifest, &[], Sink::File(&out)).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "before");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
}
