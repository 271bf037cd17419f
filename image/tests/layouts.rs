//! Whole ways: a layout comes in, is unpacked, goes out again.

mod kit;

use std::sync::Arc;

use kit::{Kit, TarFile};
use rbuild_image::compression::Compression;
use rbuild_image::export::{self, Sink};
use rbuild_image::layer::{self, LayerOptions};
use rbuild_image::source::{self, Location};
use rbuild_image::{Platform, store_image};

fn gzip() -> LayerOptions {
    LayerOptions {
        compression: Compression::default(),
        oci_media_types: true,
        clamp_mtime: None,
    }
}

#[tokio::test]
async fn a_layout_comes_in_and_goes_out() {
    let kit = Kit::new();
    let lower = TarFile::new()
        .directory("etc", 0o755)
        .file("etc/a", b"lower")
        .file("etc/gone", b"x")
        .directory("opaque", 0o700)
        .file("opaque/old", b"old")
        .done();
    let upper = TarFile::new()
        .file("etc/.wh.gone", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"new")
        .hard_link("etc/b", "etc/a")
        .done();
    let layout = kit.layout(&[lower, upper], "latest");
    let location = Location::OciLayout {
        path: layout,
        tag: Some("latest".to_owned()),
        digest: None,
    };
    let resolved = source::resolve(&kit.store, &kit.client, &location, &Platform::host())
        .await
        .unwrap();
    assert_eq!(resolved.platform, Platform::host());
    let quiet: source::Progress = Arc::new(|_, _, _| {});
    let snapshots = source::snapshots(&kit.store, &kit.client, &resolved, quiet.clone())
        .await
        .unwrap();
    assert_eq!(snapshots.len(), 2);
    let top = &snapshots.last().unwrap().id;
    let tree = kit.store.merged_tree(top).unwrap();
    let paths: Vec<String> = tree
        .entries
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.path).into_owned())
        .collect();
    assert_eq!(paths, ["", "etc", "etc/a", "etc/b", "opaque", "opaque/new"]);
    assert_eq!(
        tree.get(b"opaque").unwrap().mode,
        0o700,
        "an implied directory keeps its mode"
    );
    assert_eq!(
        tree.get(b"etc/b").unwrap().size,
        5,
        "a link to a lower file is that file"
    );

    let again = source::snapshots(&kit.store, &kit.client, &resolved, quiet)
        .await
        .unwrap();
    assert_eq!(again, snapshots);

    let blobs: Vec<_> = snapshots
        .iter()
        .map(|snapshot| layer::layer(&kit.store, &snapshot.id, &gzip(), false).unwrap())
        .collect();
    assert_eq!(
        blobs[0].digest, resolved.manifest.layers[0].digest,
        "known layers stay"
    );
    let (manifest, _) =
        store_image::write(&kit.store, &resolved.config, &blobs, &[], true).unwrap();
    let out = kit.path("out.tar");
    export::oci_archive(&kit.store, &manifest, &["x:1".to_owned()], Sink::File(&out)).unwrap();
    let first = std::fs::read(&out).unwrap();
    export::oci_archive(&kit.store, &manifest, &["x:1".to_owned()], Sink::File(&out)).unwrap();
    assert_eq!(first, std::fs::read(&out).unwrap());

    let archive = Location::OciArchive {
        path: out,
        tag: Some("1".to_owned()),
    };
    let back = source::resolve(&kit.store, &kit.client, &archive, &Platform::host())
        .await
        .unwrap();
    assert_eq!(back.digest, manifest.digest);
}

#[tokio::test]
async fn the_same_content_is_the_same_layer_anywhere() {
    let mut digests = Vec::new();
    for _ in 0..2 {
        let kit = Kit::new();
        let tar = TarFile::new()
            .directory("d", 0o755)
            .file("d/f", &vec![7; 3 << 20])
            .file("d/g", b"x")
            .hard_link("d/h", "d/g")
            .symlink("s", "d/f")
            .done();
        let layout = kit.layout(&[tar], "latest");
        let location = Location::OciLayout {
            path: layout,
            tag: None,
            digest: None,
        };
        let resolved = source::resolve(&kit.store, &kit.client, &location, &Platform::host())
            .await
            .unwrap();
        let snapshots =
            source::snapshots(&kit.store, &kit.client, &resolved, Arc::new(|_, _, _| {}))
                .await
                .unwrap();
        let mut made = Vec::new();
        for compression in [
            Compression::default(),
            Compression::Zstd { level: 3 },
            Compression::None,
        ] {
            let options = LayerOptions {
                compression,
                ..gzip()
            };
            made.push(layer::layer(&kit.store, &snapshots[0].id, &options, true).unwrap());
        }
        assert_eq!(made[0].diff_id, made[1].diff_id);
        assert_eq!(made[2].diff_id.0, made[2].digest);
        digests.push(made);
    }
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn what_we_write_is_what_the_specification_says() {
    use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
    let kit = Kit::new();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["A=b"], "Cmd": ["sh"], "Labels": {"k": "v"}, "ExposedPorts": {"80/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "CMD", "empty_layer": true}],
    });
    let config: rbuild_image::ImageConfig = serde_json::from_value(config).unwrap();
    let bytes = b"layer";
    let layer = rbuild_cache::snapshot::LayerBlob {
        digest: kit.store.put_blob(bytes).unwrap(),
        size: bytes.len() as u64,
        media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
        diff_id: rbuild_cache::DiffId(rbuild_cache::Digest::of(bytes)),
    };
    let annotations = [("a".to_owned(), "b".to_owned())];
    let (manifest, config) =
        rbuild_image::store_image::write(&kit.store, &config, &[layer], &annotations, true)
            .unwrap();
    let index = rbuild_image::store_image::write_index(
        &kit.store,
        std::slice::from_ref(&manifest),
        &annotations,
        true,
    )
    .unwrap();
    let read = |digest| kit.store.read_blob(digest, 1 << 20).unwrap();
    let index = ImageIndex::from_reader(&read(&index.digest)[..]).unwrap();
    assert_eq!(index.manifests().len(), 1);
    assert_eq!(
        index.manifests()[0].digest().to_string(),
        manifest.digest.to_string()
    );
    let manifest = ImageManifest::from_reader(&read(&manifest.digest)[..]).unwrap();
    assert_eq!(
        manifest.config().digest().to_string(),
        config.digest.to_string()
    );
    assert_eq!(manifest.layers()[0].size(), bytes.len() as u64);
    let config = ImageConfiguration::from_reader(&read(&config.digest)[..]).unwrap();
    assert_eq!(config.rootfs().diff_ids().len(), 1);
    let history = config.history().as_ref().unwrap();
    assert_eq!(history[0].created_by().as_deref(), Some("CMD"));
}
