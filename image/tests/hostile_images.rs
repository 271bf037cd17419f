//! Images that lie: digests, sizes, media types, indexes, archives.

mod kit;

use std::path::{Path, PathBuf};

use kit::raw::PaxArchive;
use kit::{Kit, TarFile};
use rbuild_cache::Digest;
use rbuild_image::source::{self, Location, Progress};
use rbuild_image::{Error, Platform};
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layout whose documents can be bent.
struct Bent {
    kit: Kit,
    root: PathBuf,
    manifest: Value,
}

impl Bent {
    fn new() -> Self {
        let kit = Kit::new();
        let root = kit.layout(&[TarFile::new().file("x", b"content").done()], "latest");
        let digest = Self::index_of(&root)["manifests"][0]["digest"]
            .as_str()
            .unwrap()
            .to_owned();
        let manifest =
            serde_json::from_slice(&std::fs::read(Self::path(&root, &digest)).unwrap()).unwrap();
        Self {
            kit,
            root,
            manifest,
        }
    }

    fn index_of(root: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(root.join("index.json")).unwrap()).unwrap()
    }

    fn path(root: &Path, digest: &str) -> PathBuf {
        root.join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:"))
    }

    fn blob(&self, bytes: &[u8], media_type: &str) -> Value {
        let digest = Digest::of(bytes);
        std::fs::write(Self::path(&self.root, &digest.to_string()), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    fn document(&self, document: &Value, media_type: &str) -> Value {
        self.blob(document.to_string().as_bytes(), media_type)
    }

    fn publish(&self, mut descriptor: Value) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        std::fs::write(self.root.join("index.json"), index.to_string()).unwrap();
    }

    fn layer_path(&self) -> PathBuf {
        Self::path(
            &self.root,
            self.manifest["layers"][0]["digest"].as_str().unwrap(),
        )
    }

    async fn pull(&self) -> Result<usize, Error> {
        let location = Location::OciLayout {
            path: self.root.clone(),
            tag: Some("latest".to_owned()),
            digest: None,
        };
        pull(&self.kit, &location).await
    }
}

async fn pull(kit: &Kit, location: &Location) -> Result<usize, Error> {
    let quiet: Progress = std::sync::Arc::new(|_, _, _| {});
    let resolved = source::resolve(&kit.store, &kit.client, location, &Platform::host()).await?;
    let snapshots = source::snapshots(&kit.store, &kit.client, &resolved, quiet).await?;
    Ok(snapshots.len())
}

#[tokio::test]
async fn the_straight_one() {
    assert_eq!(Bent::new().pull().await.unwrap(), 1);
}

#[tokio::test]
async fn blobs_that_are_others() {
    let edits: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |mut bytes| {
            bytes[600] ^= 1;
            bytes
        },
        |mut bytes| {
            bytes.pop();
            bytes
        },
        |bytes| [bytes, vec![0; 512]].concat(),
        |_| Vec::new(),
    ];
    for edit in edits {
        let bent = Bent::new();
        let path = bent.layer_path();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, edit(bytes)).unwrap();
        bent.pull().await.unwrap_err();
    }
}

#[tokio::test]
async fn documents_that_lie() {
    type Bend = Box<dyn Fn(&Bent)>;
    let bends: Vec<(&str, Bend)> = vec![
        (
            "a layer's size",
            Box::new(|bent| {
                for by in [-1, 1] {
                    let mut manifest = bent.manifest.clone();
                    let size = manifest["layers"][0]["size"].as_i64().unwrap();
                    manifest["layers"][0]["size"] = json!(size + by);
                    bent.publish(bent.document(&manifest, MANIFEST));
                }
            }),
        ),
        (
            "another diff ID",
            Box::new(|bent| {
                let config = json!({"architecture": Platform::host().architecture, "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"other").to_string()]}});
                let mut manifest = bent.manifest.clone();
                manifest["config"] =
                    bent.document(&config, "application/vnd.oci.image.config.v1+json");
                bent.publish(bent.document(&manifest, MANIFEST));
            }),
        ),
        (
            "fewer layers",
            Box::new(|bent| {
                let mut manifest = bent.manifest.clone();
                let layer = manifest["layers"][0].clone();
                manifest["layers"] = json!([layer, layer]);
                bent.publish(bent.document(&manifest, MANIFEST));
            }),
        ),
        (
            "manifest and index",
            Box::new(|bent| {
                let mut manifest = bent.manifest.clone();
                manifest["manifests"] = json!([]);
                bent.publish(bent.document(&manifest, INDEX));
            }),
        ),
        (
            "media types disagree",
            Box::new(|bent| {
                let mut manifest = bent.manifest.clone();
                manifest["mediaType"] = json!(INDEX);
                bent.publish(bent.document(&manifest, MANIFEST));
            }),
        ),
        (
            "not an image",
            Box::new(|bent| {
                let mut manifest = bent.manifest.clone();
                manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
                bent.publish(bent.document(&manifest, MANIFEST));
            }),
        ),
        (
            "a path for a digest",
            Box::new(|bent| {
                let mut manifest = bent.manifest.clone();
                manifest["config"]["digest"] = json!("sha256:../../../../etc/passwd");
                bent.publish(bent.document(&manifest, MANIFEST));
            }),
        ),
        (
            "deep JSON",
            Box::new(|bent| {
                let text = format!(
                    r#"{{"schemaVersion":2,"config":{}{}}}"#,
                    "[".repeat(100_000),
                    "]".repeat(100_000)
                );
                bent.publish(bent.blob(text.as_bytes(), MANIFEST));
            }),
        ),
        (
            "a chain of indexes",
            Box::new(|bent| {
                let mut descriptor = bent.document(&bent.manifest, MANIFEST);
                for _ in 0..300 {
                    descriptor = bent.document(
                        &json!({"schemaVersion": 2, "manifests": [descriptor]}),
                        INDEX,
                    );
                }
                bent.publish(descriptor);
            }),
        ),
        (
            "an index of itself",
            Box::new(|bent| {
                let digest = format!("sha256:{}", "c".repeat(64));
                let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": INDEX, "digest": digest, "size": 300}]});
                std::fs::write(Bent::path(&bent.root, &digest), index.to_string()).unwrap();
                bent.publish(
                    json!({"mediaType": INDEX, "digest": digest, "size": index.to_string().len()}),
                );
            }),
        ),
        (
            "a manifest too large",
            Box::new(|bent| {
                let mut text = bent.manifest.to_string().into_bytes();
                text.resize(5 << 20, b' ');
                bent.publish(bent.blob(&text, MANIFEST));
            }),
        ),
        (
            "a blob is a link",
            Box::new(|bent| {
                let path = bent.layer_path();
                let outside = bent.kit.path("outside");
                std::fs::rename(&path, &outside).unwrap();
                std::os::unix::fs::symlink(&outside, &path).unwrap();
            }),
        ),
    ];
    for (what, bend) in bends {
        let bent = Bent::new();
        bend(&bent);
        assert!(bent.pull().await.is_err(), "{what}");
    }
}

#[tokio::test]
async fn the_platform_decides() {
    let bent = Bent::new();
    let mut own = bent.document(&bent.manifest, MANIFEST);
    own["platform"] = json!({"os": "linux", "architecture": Platform::host().architecture});
    let mut other = own.clone();
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let mut attestation = own.clone();
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let index = json!({"schemaVersion": 2, "manifests": [attestation, other, own]});
    bent.publish(bent.document(&index, INDEX));
    assert_eq!(bent.pull().await.unwrap(), 1);
    let location = Location::OciLayout {
        path: bent.root.clone(),
        tag: None,
        digest: None,
    };
    let wanted = Platform::parse("freebsd/riscv64").unwrap();
    let error = source::resolve(&bent.kit.store, &bent.kit.client, &location, &wanted)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("freebsd/riscv64")
            && text.contains("linux/s390x")
            && !text.contains("unknown"),
        "{text}"
    );
}

#[tokio::test]
async fn archives_that_name_what_is_outside() {
    let kit = Kit::new();
    let outside = kit.path("outside.tar");
    let layer = TarFile::new().file("host", b"secret").done();
    std::fs::write(&outside, &layer).unwrap();
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]}});
    let up = kit::raw::up(&outside.display().to_string());
    let path = outside.display().to_string();
    for (name, link) in [
        (&up, None),
        (&path, None),
        (&"layer.tar".to_owned(), Some(&path)),
    ] {
        let manifest = json!([{"Config": "c.json", "RepoTags": ["evil:1"], "Layers": [name]}]);
        let mut tar = PaxArchive::new()
            .file("c.json", config.to_string().as_bytes())
            .file("manifest.json", manifest.to_string().as_bytes());
        if let Some(target) = link {
            tar = tar.symlink("layer.tar", target);
        }
        let archive = kit.path("load.tar");
        std::fs::write(&archive, tar.end()).unwrap();
        let location = Location::DockerArchive {
            path: archive,
            tag: None,
        };
        let error = pull(&kit, &location).await.unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{error}");
    }
    let layout = PaxArchive::new()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", br#"{"schemaVersion":2,"manifests":[]}"#)
        .symlink("blobs", "/")
        .file("../../pwn", b"x")
        .end();
    let archive = kit.path("oci.tar");
    std::fs::write(&archive, layout).unwrap();
    let location = Location::OciArchive {
        path: archive,
        tag: None,
    };
    pull(&kit, &location).await.unwrap_err();
}

/// What is loaded gets a name, and may be saved again without ever being unpacked.
#[tokio::test]
async fn loading_reads_layers() {
    let kit = Kit::new();
    let layer = TarFile::new().file("x", b"content").done();
    let other = TarFile::new().file("x", b"another").done();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]},
    });
    let listed = json!([{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l.tar"]}]);
    for (bytes, is_it) in [
        (layer.clone(), true),
        (gzip(&layer), true),
        (other.clone(), false),
        (gzip(&other), false),
        (gzip(&gzip(&layer)), false),
        (gzip(&layer)[..60].to_vec(), false),
        (config.to_string().into_bytes(), false),
        (Vec::new(), false),
    ] {
        let archive = PaxArchive::new()
            .file("c.json", config.to_string().as_bytes())
            .file("manifest.json", listed.to_string().as_bytes())
            .file("l.tar", &bytes)
            .end();
        let path = kit.path("docker.tar");
        std::fs::write(&path, archive).unwrap();
        let location = Location::DockerArchive { path, tag: None };
        assert_eq!(
            gather(&kit, &location).await.is_ok(),
            is_it,
            "{} bytes",
            bytes.len()
        );
    }
}

#[tokio::test]
async fn loading_a_layout_reads_layers() {
    for (compress, wrong) in [(false, true), (true, true), (false, false), (true, false)] {
        let bent = Bent::new();
        let layer = TarFile::new().file("x", b"content").done();
        let of = match wrong {
            true => Digest::of(b"another"),
            false => Digest::of(&layer),
        };
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [of.to_string()]},
        });
        let mut manifest = bent.manifest.clone();
        manifest["config"] = bent.document(&config, "application/vnd.oci.image.config.v1+json");
        manifest["layers"][0] = match compress {
            true => bent.blob(&gzip(&layer), "application/vnd.oci.image.layer.v1.tar+gzip"),
            false => bent.blob(&layer, "application/vnd.oci.image.layer.v1.tar"),
        };
        bent.publish(bent.document(&manifest, MANIFEST));
        let location = Location::OciLayout {
            path: bent.root.clone(),
            tag: None,
            digest: None,
        };
        let loaded = gather(&bent.kit, &location).await;
        assert_eq!(loaded.is_err(), wrong, "{compress}: {loaded:?}");
    }
}

async fn gather(kit: &Kit, location: &Location) -> Result<(), Error> {
    let quiet: Progress = std::sync::Arc::new(|_, _, _| {});
    let all = source::Platforms::All;
    source::gather(&kit.store, &kit.client, location, &all, quiet)
        .await
        .map(drop)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
