//! The images of the store: listing, names, history, saving and loading. Docker's `images`, `tag`, `rmi`,
//! `history`, `inspect`, `save`, `load`, `import`, `pull`.

use std::io::Read;
use std::path::Path;

use rbuild_cache::Digest;
use rbuild_cache::images::StoredImage;
use rbuild_image::Platform;
use rbuild_image::export::Sink;
use serde::Serialize;

use crate::{Engine, Result};

/// A row of `images`.
#[derive(Debug, Clone, Serialize)]
pub struct ImageSummary {
    /// `<none>` for unnamed images.
    pub repository: String,
    pub tag: String,
    pub id: Digest,
    /// Of the manifest or index.
    pub digest: Digest,
    /// RFC 3339, as the config says.
    pub created: Option<String>,
    /// Of the unpacked layers, in bytes.
    pub size: u64,
}

/// A row of `history`, newest first.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryRow {
    /// `<missing>` but for the newest.
    pub id: String,
    pub created: Option<String>,
    pub created_by: String,
    pub size: u64,
    pub comment: String,
}

/// What `rmi` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    Untagged(String),
    Deleted(Digest),
}

/// `import`
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// `name:tag`
    pub reference: Option<rbuild_image::Reference>,
    /// Dockerfile instructions that change the config (`--change`).
    pub changes: Vec<String>,
    pub message: String,
    pub platform: Option<Platform>,
}

impl Engine {
    pub fn images(&self) -> Result<Vec<ImageSummary>> {
        todo!()
    }

    /// By name, ID, ID prefix or digest.
    pub fn find_image(&self, _name: &str) -> Result<StoredImage> {
        todo!()
    }

    pub fn tag(&self, _source: &str, _target: &rbuild_image::Reference) -> Result<()> {
        todo!()
    }

    pub fn remove_image(&self, _name: &str, _force: bool) -> Result<Vec<Removed>> {
        todo!()
    }

    pub fn image_history(&self, _name: &str) -> Result<Vec<HistoryRow>> {
        todo!()
    }

    /// The object that `docker image inspect` prints for an image.
    pub fn inspect_image(&self, _name: &str) -> Result<serde_json::Value> {
        todo!()
    }

    /// A Docker archive (that is an OCI layout too).
    pub fn save(&self, _names: &[String], _sink: Sink<'_>) -> Result<()> {
        todo!()
    }

    /// From a Docker or OCI archive; returns the names set, or IDs where there are none.
    pub async fn load(&self, _archive: &Path) -> Result<Vec<String>> {
        todo!()
    }

    /// A root file system tar (compressed or not) as an image of one layer.
    pub fn import(&self, _tar: &mut (dyn Read + Send), _request: &ImportRequest) -> Result<Digest> {
        todo!()
    }

    /// Returns the name and the digest of what was pulled.
    pub async fn pull(
        &self,
        _reference: &rbuild_image::Reference,
        _platform: Option<&Platform>,
    ) -> Result<Digest> {
        todo!()
    }
}
