//! Reads OCI layouts in directories, by their bytes.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

pub(crate) struct Layout(pub(crate) PathBuf);

impl Layout {
    /// Unpacks an archive beside itself.
    pub(crate) fn of_archive(archive: &Path) -> Self {
        let directory = archive.with_extension("unpacked");
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        let unpacked = Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(&directory)
            .status();
        assert!(unpacked.unwrap().success());
        Self(directory)
    }

    pub(crate) fn index(&self) -> Value {
        let bytes = std::fs::read(self.0.join("index.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// The first entry of `index.json`.
    pub(crate) fn top(&self) -> Value {
        self.index()["manifests"][0].clone()
    }

    pub(crate) fn document(&self, descriptor: &Value) -> Value {
        let digest = descriptor["digest"].as_str().unwrap();
        let path = self.0.join("blobs").join(digest.replace(':', "/"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// Manifest and config of the only image.
    pub(crate) fn image(&self) -> (Value, Value) {
        let manifest = self.document(&self.top());
        let config = self.document(&manifest["config"]);
        (manifest, config)
    }
}
