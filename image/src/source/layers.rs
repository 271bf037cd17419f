//! Layers: from where they are into the content store, and from there into snapshots.
//!
//! Every layer is fetched and unpacked on its own, all at the same time within limits: a layer's directory needs
//! nothing of the layers below it. Committing goes from the bottom up, and what a layer left open (parents that it
//! implies, links to files below) is settled then.

use std::sync::Arc;

use futures_util::StreamExt;
use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::{ActiveSnapshot, ChainId, DiffId, Digest, KeyWriter, RootDir, Snapshot, Store};

use super::walk::Origin;
use super::{Progress, Resolved, blocking};
use crate::layer::IMAGE_VARIANT;
use crate::manifest::Descriptor;
use crate::registry::Client;
use crate::unpack::{self, Unpacked};
use crate::{Error, Result};

/// Layers that are moved or unpacked at once.
const CONCURRENT_LAYERS: usize = 4;

/// What the largest layer may have, compressed. Nothing that is real is near.
const LAYER_LIMIT_BYTES: u64 = 1 << 40;

pub(super) async fn fetch(
    store: &Arc<Store>,
    client: &Client,
    resolved: &Resolved,
    progress: Progress,
) -> Result<()> {
    let origin = Origin::again(store, client, &resolved.location).await?;
    let mut jobs = futures_util::stream::iter(resolved.manifest.layers.clone())
        .map(|descriptor| {
            let (store, origin, progress) = (store.clone(), origin.clone(), progress.clone());
            async move { bring(&store, &origin, &descriptor, &progress).await }
        })
        .buffer_unordered(CONCURRENT_LAYERS);
    while let Some(result) = jobs.next().await {
        result?;
    }
    Ok(())
}

pub(super) async fn snapshots(
    store: &Arc<Store>,
    client: &Client,
    resolved: &Resolved,
    progress: Progress,
) -> Result<Vec<Snapshot>> {
    let layers = described(resolved)?;
    let Some(top) = layers.last() else {
        return Ok(Vec::new());
    };
    let (top, local) = (top.chain, Arc::clone(store));
    let chains: Vec<ChainId> = layers.iter().map(|layer| layer.chain).collect();
    let known = {
        let (local, chains) = (Arc::clone(store), chains.clone());
        blocking(move || known(&local, &chains)).await?
    };
    if known.len() == layers.len() {
        return Ok(known);
    }
    // Among processes and stages one unpacks an image; the others then find it.
    let lock = blocking(move || {
        let key = KeyWriter::new("unpack-image.v1")
            .field("chain", top.0.to_string())
            .finish();
        Ok(local.lock_key(key)?)
    })
    .await?;
    let mut done = {
        let local = Arc::clone(store);
        blocking(move || self::known(&local, &chains)).await?
    };
    let missing: Vec<Described> = layers.iter().skip(done.len()).cloned().collect();
    if missing.is_empty() {
        return Ok(done);
    }
    let origin = Origin::again(store, client, &resolved.location).await?;
    let mut unpacked = futures_util::stream::iter(missing)
        .map(|layer| {
            let (store, origin, progress) = (store.clone(), origin.clone(), progress.clone());
            async move {
                bring(&store, &origin, &layer.descriptor, &progress).await?;
                let (active, open) = {
                    let (store, layer) = (store.clone(), layer.clone());
                    blocking(move || unpack(&store, &layer)).await?
                };
                Ok::<_, Error>((layer, active, open))
            }
        })
        // In order: a layer that is ready waits in the buffer for those below it.
        .buffered(CONCURRENT_LAYERS);
    while let Some(result) = unpacked.next().await {
        let (layer, active, open) = result?;
        let (store, parent) = (Arc::clone(store), done.last().map(|below| below.id.clone()));
        let snapshot = blocking(move || {
            let root = open_upper(&active)?;
            let below = parent
                .as_ref()
                .map(|id| store.merged_tree(id))
                .transpose()?;
            unpack::settle(&store, &root, &open, parent.as_ref(), below.as_deref())?;
            let snapshot = active.commit(parent.as_ref(), 0)?;
            let blob = LayerBlob {
                digest: layer.descriptor.digest,
                size: layer.descriptor.size,
                media_type: layer.descriptor.media_type,
                diff_id: layer.diff_id,
            };
            store.set_layer_blob(&snapshot.id, IMAGE_VARIANT, &blob)?;
            store.set_chain(&snapshot.id, &layer.chain)?;
            Ok(snapshot)
        })
        .await?;
        done.push(snapshot);
    }
    drop(lock);
    Ok(done)
}

/// A layer with all that identifies it.
#[derive(Debug, Clone)]
struct Described {
    descriptor: Descriptor,
    diff_id: DiffId,
    chain: ChainId,
}

fn described(resolved: &Resolved) -> Result<Vec<Described>> {
    let diff_ids = resolved
        .config
        .rootfs
        .diff_ids
        .as_deref()
        .unwrap_or_default();
    let mut chain = None;
    resolved
        .manifest
        .layers
        .iter()
        .zip(diff_ids)
        .map(|(descriptor, diff_id)| {
            if !is_layer(&descriptor.media_type) {
                let media_type = crate::error::shown(descriptor.media_type.as_bytes());
                return Err(Error::BadDocument {
                    document: resolved.digest.to_string(),
                    reason: format!("`{media_type}` is not the media type of a layer"),
                });
            }
            let diff_id = DiffId(*diff_id);
            let id = ChainId::of(chain, diff_id);
            chain = Some(id);
            Ok(Described {
                descriptor: descriptor.clone(),
                diff_id,
                chain: id,
            })
        })
        .collect()
}

fn is_layer(media_type: &str) -> bool {
    [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ]
    .iter()
    .any(|known| media_type.starts_with(known))
}

/// The longest part of a stack that is here, bottom first.
fn known(store: &Store, chains: &[ChainId]) -> Result<Vec<Snapshot>> {
    for (index, chain) in chains.iter().enumerate().rev() {
        let Some(snapshot) = store.snapshot_by_chain(chain)? else {
            continue;
        };
        // A chain with a gap (something was collected in between) is as good as none.
        if let Ok(stack) = store.chain(&snapshot.id)
            && stack.len() == index + 1
        {
            return Ok(stack);
        }
    }
    Ok(Vec::new())
}

/// Brings one blob into the content store.
async fn bring(
    store: &Arc<Store>,
    origin: &Origin,
    descriptor: &Descriptor,
    progress: &Progress,
) -> Result<()> {
    let (size, digest) = (descriptor.size, descriptor.digest);
    let name = digest.to_string();
    let here = {
        let store = Arc::clone(store);
        blocking(move || Ok(store.blob_size(&digest).ok())).await?
    };
    if let Some(here) = here {
        if here != size {
            return Err(rbuild_cache::Error::SizeMismatch {
                digest,
                expected: size,
                actual: here,
            }
            .into());
        }
        progress(&name, size, size);
        return Ok(());
    }
    if size > LAYER_LIMIT_BYTES {
        return Err(Error::BadDocument {
            document: name,
            reason: format!("a layer of {size} bytes is none"),
        });
    }
    match origin {
        Origin::Store => Err(Error::NotFound(name)),
        Origin::Layout(layout) => {
            let (layout, store, progress) =
                (Arc::clone(layout), Arc::clone(store), Arc::clone(progress));
            blocking(move || {
                let (mut reader, _) = layout.blob(&digest)?;
                let mut ingest = store.ingest()?;
                progress(&name, 0, size);
                ingest.write_from(&mut reader, size)?;
                ingest.commit(Some(&digest), Some(size))?;
                progress(&name, size, size);
                Ok(())
            })
            .await
        }
        Origin::Registry(client, reference) => {
            client.blob(store, reference, descriptor, progress).await
        }
    }
}

fn unpack(store: &Store, layer: &Described) -> Result<(ActiveSnapshot, Unpacked)> {
    let digest: Digest = layer.descriptor.digest;
    let what = format!("layer {digest}");
    let blob = store.open_blob(&digest)?;
    let active = store.prepare()?;
    let root = open_upper(&active)?;
    let open = unpack::layer(Box::new(blob), &root, unpack::Limits::default(), &what)?;
    if open.diff_id != layer.diff_id {
        return Err(Error::BadArchive {
            what,
            reason: format!(
                "its digest without compression is {}, its image's config says {}",
                open.diff_id.0, layer.diff_id.0
            ),
        });
    }
    Ok((active, open))
}

fn open_upper(active: &ActiveSnapshot) -> Result<RootDir> {
    RootDir::open_ambient(active.upper()).map_err(|source| Error::Io {
        action: "open",
        path: active.upper().display().to_string(),
        source,
    })
}
