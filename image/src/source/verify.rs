//! Layers of archives held against their images' configs when they are loaded: from then on they have a name, and may be
//! saved and pushed again without ever being unpacked here.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::sync::Arc;

use futures_util::StreamExt;
use rbuild_cache::{DiffId, Digest, Store};
use sha2::Digest as _;

use super::blocking;
use super::layers::is_layer;
use super::walk;
use crate::compression::{Bounded, Limits};
use crate::manifest::{CONFIG_LIMIT_BYTES, Descriptor, Manifest};
use crate::{Error, Result};

/// Layers that are read at once.
const CONCURRENT_LAYERS: usize = 4;

const BUFFER_BYTES: usize = 256 << 10;

/// The layers of images whose blobs are in the store, each with what it must be without compression.
pub(super) async fn layers_of(
    store: &Arc<Store>,
    images: &[Manifest],
) -> Result<Vec<(Descriptor, DiffId)>> {
    let (store, images) = (Arc::clone(store), images.to_vec());
    blocking(move || {
        let mut layers: Vec<(Descriptor, DiffId)> = Vec::new();
        for manifest in &images {
            let bytes = store.read_blob(&manifest.config.digest, CONFIG_LIMIT_BYTES)?;
            let config = walk::parse_config(&bytes, manifest)?;
            let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
            layers.extend(
                manifest
                    .layers
                    .iter()
                    .cloned()
                    .zip(diff_ids.into_iter().map(DiffId)),
            );
        }
        Ok(layers)
    })
    .await
}

/// Reads layers, and fails where one is not what its image's config says. One without compression was read when it came.
pub(super) async fn layers(store: &Arc<Store>, layers: Vec<(Descriptor, DiffId)>) -> Result<()> {
    // Many images may have a layer in common.
    let mut known = HashSet::new();
    let doubtful = layers.into_iter().filter(|(descriptor, diff_id)| {
        descriptor.digest != diff_id.0
            && is_layer(&descriptor.media_type)
            && known.insert((descriptor.digest, *diff_id))
    });
    let mut jobs = futures_util::stream::iter(doubtful)
        .map(|(descriptor, diff_id)| {
            let store = Arc::clone(store);
            blocking(move || layer(&store, &descriptor, diff_id))
        })
        .buffer_unordered(CONCURRENT_LAYERS);
    while let Some(result) = jobs.next().await {
        result?;
    }
    Ok(())
}

fn layer(store: &Store, descriptor: &Descriptor, diff_id: DiffId) -> Result<()> {
    let bad = |reason: String| Error::BadArchive {
        what: format!("layer {}", descriptor.digest),
        reason,
    };
    let file = store.open_blob(&descriptor.digest)?;
    let unreadable = |error: std::io::Error| bad(error.to_string());
    let reader = Bounded::new(Box::new(file), Limits::default()).map_err(unreadable)?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let mut hasher = sha2::Sha256::new();
    loop {
        let bytes = reader.fill_buf().map_err(unreadable)?;
        if bytes.is_empty() {
            break;
        }
        hasher.update(bytes);
        let length = bytes.len();
        reader.consume(length);
    }
    let found = Digest::from_bytes(hasher.finalize().into());
    if found == diff_id.0 {
        return Ok(());
    }
    Err(bad(format!(
        "its digest without compression is {found}, its image's config says {}",
        diff_id.0
    )))
}
