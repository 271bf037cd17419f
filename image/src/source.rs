//! Where an image comes from, and what is known of it once its documents are here and verified.

use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::{Digest, Snapshot, Store};

use crate::Result;
use crate::config::ImageConfig;
use crate::manifest::{Descriptor, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::Client;

/// Names an image wherever it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// An OCI layout directory; picked by tag, by digest, or the only one there is.
    OciLayout {
        path: PathBuf,
        tag: Option<String>,
        digest: Option<Digest>,
    },
    /// The same in a tar.
    OciArchive {
        path: PathBuf,
        tag: Option<String>,
    },
    /// `docker save`'s tar.
    DockerArchive {
        path: PathBuf,
        tag: Option<String>,
    },
    Registry(Reference),
    /// A manifest or index already in the content store.
    Stored(Digest),
}

/// An image's documents, for one platform. Its layers may still be elsewhere.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub location: Location,
    /// Of the manifest (not of an index that led to it): what pins the image.
    pub digest: Digest,
    pub descriptor: Descriptor,
    pub manifest: Manifest,
    pub config: ImageConfig,
    pub platform: Platform,
}

/// Called with (what, bytes done, bytes in all).
pub type Progress = Arc<dyn Fn(&str, u64, u64) + Send + Sync>;

/// Finds an image and brings its manifest and config into the store, verified. The manifest's layers are not moved.
pub async fn resolve(
    _store: &Arc<Store>,
    _client: &Client,
    _location: &Location,
    _platform: &Platform,
) -> Result<Resolved> {
    todo!()
}

/// Brings what is missing of the layers into the store and unpacks it. Returns the snapshots, bottom first: one for
/// each layer. Layers that are there, by chain ID, are neither fetched nor unpacked.
pub async fn snapshots(
    _store: &Arc<Store>,
    _client: &Client,
    _resolved: &Resolved,
    _progress: Progress,
) -> Result<Vec<Snapshot>> {
    todo!()
}

/// Brings the layers' blobs into the content store without unpacking.
pub async fn fetch(
    _store: &Arc<Store>,
    _client: &Client,
    _resolved: &Resolved,
    _progress: Progress,
) -> Result<()> {
    todo!()
}
