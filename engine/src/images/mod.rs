//! The images of the store: finding and naming them. `list`: Docker's `images`; `remove`: `rmi`; `describe`: `history`
//! and `inspect`; `transfer`: `save`, `load`, `import` and `pull`; `usage`: what
//! room they take; `push`; `join`: indexes over images that are in
//! registries.

pub(crate) mod compare;
mod describe;
mod join;
mod layers;
mod list;
pub(crate) mod push;
mod remove;
pub(crate) mod roots;
mod sign;
pub(crate) mod transfer;
mod usage;

pub use compare::{ConfigDifference, ImageDifferences};
pub use join::{Joined, Member, Platform as MemberPlatform};
pub use layers::{LayerFile, LayerSummary};
pub use list::{ImageFilter, ImageSummary, check_pattern};
pub use push::Pushed;
pub use remove::{PrunedImages, Removed};
pub use usage::{ImageUse, ImagesUsage};

use rbuild_cache::images::StoredImage;
use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::{ChainId, DiffId, Digest, Snapshot, SnapshotId, Store};
use rbuild_image::compression::Compression;
use rbuild_image::layer::{LayerOptions, layer};
use rbuild_image::manifest::{DOCKER_INDEX, Index, OCI_INDEX};
use rbuild_image::{ImageConfig, Manifest, Platform, Reference, store_image};
use serde::Serialize;

use crate::worker::now;
use crate::{Engine, Error, Result};

/// Of a manifest, an index or a config.
const DOCUMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;

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
    /// By name, ID, ID prefix or digest.
    pub fn find_image(&self, name: &str) -> Result<StoredImage> {
        let not_found = || Error::NoImage(name.to_owned());
        if let Ok(reference) = name.parse::<Reference>() {
            let found = match reference.digest {
                None => self.store().image_by_name(&reference.canonical())?,
                Some(digest) => {
                    let images = self.store().images_by_id(&digest.to_string())?;
                    images.into_iter().find(|image| image.manifest == digest)
                }
            };
            if let Some(image) = found {
                return Ok(image);
            }
        }
        let mut found = self.store().images_by_id(name)?;
        let image = found.pop().ok_or_else(not_found)?;
        if found.iter().any(|other| other.config != image.config) {
            return Err(Error::Usage(format!(
                "`{name}` is the beginning of several images' IDs: write more of it"
            )));
        }
        Ok(image)
    }

    /// Gives an image of the store another name, which another image may have had.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<()> {
        let image = self.find_image(source)?;
        Ok(self.store().put_image(&StoredImage {
            name: target.canonical(),
            tagged: now(),
            ..image
        })?)
    }

    pub(crate) fn config_of(&self, image: &StoredImage) -> Result<ImageConfig> {
        self.document(&image.config)
    }

    fn document<T: serde::de::DeserializeOwned>(&self, digest: &Digest) -> Result<T> {
        let bytes = self.store().read_blob(digest, DOCUMENT_BYTES_MAX)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::Image(rbuild_image::Error::BadDocument {
                document: digest.to_string(),
                reason: error.to_string(),
            })
        })
    }

    /// The manifest whose config the image's ID is.
    fn manifest_of(&self, image: &StoredImage) -> Result<Manifest> {
        if image.media_type != OCI_INDEX && image.media_type != DOCKER_INDEX {
            return self.document(&image.manifest);
        }
        let index: Index = self.document(&image.manifest)?;
        for descriptor in index.manifests.iter().filter(|it| !it.is_attestation()) {
            // Of an index, only some platforms may be here.
            if self.store().has_blob(&descriptor.digest) {
                let manifest: Manifest = self.document(&descriptor.digest)?;
                if manifest.config.digest == image.config {
                    return Ok(manifest);
                }
            }
        }
        Err(Error::NoImage(image.config.to_string()))
    }

    /// The topmost snapshot, where the image is unpacked.
    fn top_of(&self, image: &StoredImage) -> Result<Option<SnapshotId>> {
        match &image.snapshot {
            Some(top) => Ok(Some(top.clone())),
            None => top(self.store(), &self.config_of(image)?),
        }
    }

    /// Bytes of each layer, bottom first.
    fn sizes(&self, image: &StoredImage) -> Result<Vec<u64>> {
        let layers = self.layers_of(image)?.into_iter();
        Ok(layers.map(|(_, bytes)| bytes).collect())
    }

    /// Each layer, bottom first, by a name that it has in every image, and its bytes: of its files where it is unpacked,
    /// else of its blob.
    fn layers_of(&self, image: &StoredImage) -> Result<Vec<(String, u64)>> {
        if let Some(top) = self.top_of(image)?
            && let Ok(chain) = self.store().chain(&top)
        {
            let layer = |layer: Snapshot| (layer.id.as_str().to_owned(), layer.size_bytes);
            return Ok(chain.into_iter().map(layer).collect());
        }
        let layers = self.manifest_of(image)?.layers.into_iter();
        Ok(layers
            .map(|layer| (layer.digest.to_string(), layer.size))
            .collect())
    }
}

/// The layers of a chain as they are kept here: not made smaller first. Blocking.
pub(crate) fn layers_here(store: &Store, chain: &[Snapshot]) -> Result<Vec<LayerBlob>> {
    let options = LayerOptions {
        compression: Compression::None,
        oci_media_types: true,
        clamp_mtime: None,
    };
    let layers = chain
        .iter()
        .map(|snapshot| layer(store, &snapshot.id, &options, false));
    Ok(layers.collect::<Result<_, _>>()?)
}

/// Keeps an image that was made of `top` and what is below it, under a name where it has one. Returns its ID. Blocking.
pub(crate) fn keep_made(
    store: &Store,
    config: &ImageConfig,
    layers: &[LayerBlob],
    top: SnapshotId,
    name: Option<&Reference>,
) -> Result<Digest> {
    let (descriptor, config) = store_image::write(store, config, layers, &[], true)?;
    store.put_image(&StoredImage {
        name: name.map(Reference::canonical).unwrap_or_default(),
        manifest: descriptor.digest,
        media_type: descriptor.media_type,
        size: descriptor.size,
        config: config.digest,
        snapshot: Some(top),
        blobs: layers.iter().map(|layer| layer.digest).collect(),
        tagged: now(),
    })?;
    store.sync()?;
    Ok(config.digest)
}

/// The snapshot of an image's layers, where they are unpacked.
fn top(store: &Store, config: &ImageConfig) -> Result<Option<SnapshotId>> {
    let diff_ids = config.rootfs.diff_ids.iter().flatten();
    let chain = diff_ids.fold(None, |below, diff_id| {
        Some(ChainId::of(below, DiffId(*diff_id)))
    });
    match chain {
        Some(chain) => Ok(store.snapshot_by_chain(&chain)?.map(|top| top.id)),
        None => Ok(None),
    }
}

/// As people write a canonical name.
fn familiar(name: &str) -> String {
    name.parse::<Reference>()
        .map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}
