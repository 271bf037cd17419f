//! Reads what was built: an OCI archive of one image.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use rbuild_engine::cache::Digest;
use rbuild_engine::image::compression;
use serde_json::Value;

/// The documents and layers of an archive, every digest checked.
pub(crate) struct Archive {
    pub(crate) config: Value,
    pub(crate) manifest: Value,
    /// Of all layers, bottom first: path → kind, mode and content, as in `-644 hi`. Whiteouts are as written.
    pub(crate) files: BTreeMap<String, String>,
    /// The same, layer by layer.
    pub(crate) layers: Vec<BTreeMap<String, String>>,
}

impl Archive {
    pub(crate) fn read(path: &Path) -> Self {
        let members = members(&std::fs::read(path).unwrap());
        let index: Value = serde_json::from_slice(&members["index.json"].1).unwrap();
        let blob = |descriptor: &Value| -> &Vec<u8> {
            let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
            let (_, bytes) = &members[&format!("blobs/sha256/{}", digest.hex())];
            assert_eq!(Digest::of(bytes), digest);
            assert_eq!(descriptor["size"], bytes.len());
            bytes
        };
        let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(blob(&manifest["config"])).unwrap();
        let mut files = BTreeMap::new();
        let mut of_layers = Vec::new();
        let diff_ids = config["rootfs"]["diff_ids"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        assert_eq!(diff_ids.len(), layers.len());
        for (descriptor, diff_id) in layers.iter().zip(diff_ids) {
            let mut tar = Vec::new();
            let compressed = Box::new(std::io::Cursor::new(blob(descriptor).clone()));
            compression::reader(compressed)
                .unwrap()
                .read_to_end(&mut tar)
                .unwrap();
            assert_eq!(Digest::of(&tar).to_string(), diff_id.as_str().unwrap());
            let members = members_text(&tar);
            files.extend(members.clone());
            of_layers.push(members);
        }
        Self {
            config,
            manifest,
            files,
            layers: of_layers,
        }
    }
}

fn members(tar: &[u8]) -> BTreeMap<String, (tar::Header, Vec<u8>)> {
    let mut members = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let path = entry.path().unwrap().display().to_string();
        members.insert(path, (entry.header().clone(), bytes));
    }
    members
}

fn members_text(tar: &[u8]) -> BTreeMap<String, String> {
    members(tar)
        .into_iter()
        .map(|(path, (header, bytes))| {
            let kind = match header.entry_type() {
                tar::EntryType::Directory => "d",
                tar::EntryType::Symlink => "l",
                tar::EntryType::Link => "h",
                _ => "-",
            };
            let content = String::from_utf8_lossy(&bytes);
            let text = format!("{kind}{:o} {content}", header.mode().unwrap());
            (
                path.trim_end_matches('/').to_owned(),
                text.trim_end().to_owned(),
            )
        })
        .collect()
}
