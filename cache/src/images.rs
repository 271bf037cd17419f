//! Image names, and which images the store keeps.

use crate::digest::Digest;
use crate::store::{Result, Store};

/// An image that is kept: its manifest (or index) blob, its config's digest (Docker's image ID) and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Canonical, with registry and tag (`docker.io/library/busybox:latest`); empty for an image kept by ID only.
    pub name: String,
    /// Of the manifest or index in `content/`.
    pub manifest: Digest,
    pub media_type: String,
    pub size: u64,
    /// The image ID: digest of the config (of the platform that was built or pulled).
    pub config: Digest,
    /// The topmost snapshot, where the image is unpacked. Layers may exist as snapshots only: their blobs are
    /// made when an output needs them.
    pub snapshot: Option<crate::SnapshotId>,
    /// Blobs the image needs (config, layers); collection spares them.
    pub blobs: Vec<Digest>,
    /// Unix seconds when the name was set.
    pub tagged: i64,
}

impl Store {
    /// Sets or replaces a name. What the name meant before stays as an unnamed image.
    pub fn put_image(&self, _image: &StoredImage) -> Result<()> {
        todo!()
    }

    pub fn image_by_name(&self, _name: &str) -> Result<Option<StoredImage>> {
        todo!()
    }

    /// All names that lead to an image whose ID or manifest digest begins with these hex digits.
    pub fn images_by_id(&self, _prefix: &str) -> Result<Vec<StoredImage>> {
        todo!()
    }

    pub fn images(&self) -> Result<Vec<StoredImage>> {
        todo!()
    }

    /// Takes a name away; returns what it meant.
    pub fn remove_image(&self, _name: &str, _manifest: &Digest) -> Result<Option<StoredImage>> {
        todo!()
    }
}
