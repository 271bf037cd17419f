//! What tests build with: a store in a temporary directory, tars and layouts written by other code than ours.
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod fake;
pub(crate) mod raw;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rbuild_cache::{Digest, Store};
use rbuild_image::registry::{Client, Options};

/// Whether a program is here; says so where it is not.
pub(crate) fn installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        println!("SKIPPED: `{program}` is not installed");
    }
    found
}

/// Bytes that do not compress.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 7_u64 + length as u64;
    std::iter::repeat_with(|| random(&mut state) as u8)
        .take(length)
        .collect()
}

pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1);
    *state >> 33
}

pub(crate) struct Kit {
    directory: tempfile::TempDir,
    pub(crate) store: Arc<Store>,
    pub(crate) client: Client,
}

impl Kit {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        Self {
            directory,
            store: Arc::new(store),
            client: Client::new(Options::default()),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An OCI layout of one image with these layers, uncompressed.
    pub(crate) fn layout(&self, layers: &[Vec<u8>], tag: &str) -> PathBuf {
        let root = self.path("layout");
        write_layout(&root, layers, tag);
        root
    }
}

pub(crate) fn write_layout(root: &Path, layers: &[Vec<u8>], tag: &str) {
    std::fs::create_dir_all(root.join("blobs/sha256")).unwrap();
    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let blob = |bytes: &[u8], kind: &str| {
        let digest = Digest::of(bytes);
        std::fs::write(root.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        let media_type = format!("application/vnd.oci.image.{kind}");
        serde_json::json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    };
    let descriptors: Vec<_> = layers.iter().map(|tar| blob(tar, "layer.v1.tar")).collect();
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|tar| Digest::of(tar).to_string())
        .collect();
    let architecture = rbuild_image::Platform::host().architecture;
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = blob(config.to_string().as_bytes(), "config.v1+json");
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": descriptors});
    let mut manifest = blob(manifest.to_string().as_bytes(), "manifest.v1+json");
    manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": tag});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(root.join("index.json"), index.to_string()).unwrap();
}

/// Tars by the `tar` crate's own writer.
pub(crate) struct TarFile(tar::Builder<Vec<u8>>);

impl TarFile {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header
    }

    pub(crate) fn file(mut self, path: &str, bytes: &[u8]) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
        self.0.append_data(&mut header, path, bytes).unwrap();
        self
    }

    pub(crate) fn directory(mut self, path: &str, mode: u32) -> Self {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        self.0
            .append_data(&mut header, path, std::io::empty())
            .unwrap();
        self
    }

    pub(crate) fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    pub(crate) fn hard_link(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Link, 0o644, 0);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}
