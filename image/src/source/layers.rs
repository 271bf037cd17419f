//! Layers: from where they are into the content store, and from there into snapshots.
//!
//! Every layer is fetched and unpacked on its own, all at the same time within limits: a layer's directory needs
//! nothing of the layers below it. Committing goes from the bottom up, and what a layer left open (parents that it
//! implies, links to files below) is settled then.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use rbuild_cache::arrival::ArrivingBlob;
use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::{
    ActiveSnapshot, ChainId, DiffId, Key, KeyWriter, RootDir, Snapshot, SnapshotId, Store,
};

use super::walk::Origin;
use super::{Location, Progress, Resolved, blocking};
use crate::layer::{self, IMAGE_VARIANT};
use crate::manifest::{Descriptor, OCI_LAYER};
use crate::registry::Client;
use crate::shared::Place;
use crate::unpack::{self, Unpacked};
use crate::{Error, Result};

/// Layers that are moved or unpacked at once.
const CONCURRENT_LAYERS: usize = 4;

/// What a file of a layer usually has at least, compressed.
const FILE_BYTES: u64 = 8 << 10;

/// What the largest layer may have, compressed. Nothing that is real is near.
const LAYER_LIMIT_BYTES: u64 = 1 << 40;

pub(super) async fn fetch(
    store: &Arc<Store>,
    origin: &Origin,
    blobs: Vec<Descriptor>,
    progress: Progress,
) -> Result<()> {
    let mut jobs = futures_util::stream::iter(blobs)
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
    stack(store, client, layers, progress).await
}

/// A layer of a stack that is to be here.
#[derive(Debug, Clone)]
pub struct StackLayer {
    pub descriptor: Descriptor,
    pub diff_id: DiffId,
    pub from: From,
    /// How its bytes were made ([`crate::layer::LayerOptions::variant`]).
    pub variant: String,
    /// When the step that made it was done; 0 for layers of images.
    pub created: i64,
    /// What its files must come to; `None` where nobody said.
    pub tree: Option<Key>,
}

/// Where a layer's blob is, unless it is in the store.
#[derive(Debug, Clone)]
pub enum From {
    Image(Location),
    Shared(Place),
}

/// See [`super::stack`].
pub(super) async fn stack(
    store: &Arc<Store>,
    client: &Client,
    layers: Vec<StackLayer>,
    progress: Progress,
) -> Result<Vec<Snapshot>> {
    let mut chains: Vec<ChainId> = Vec::with_capacity(layers.len());
    for layer in &layers {
        chains.push(ChainId::of(chains.last().copied(), layer.diff_id));
    }
    let Some(top) = chains.last().copied() else {
        return Ok(Vec::new());
    };
    let wanted: Vec<Option<Key>> = layers.iter().map(|layer| layer.tree).collect();
    let known = {
        let (store, chains, wanted) = (Arc::clone(store), chains.clone(), wanted.clone());
        move || {
            let stack = known(&store, &chains)?;
            for (snapshot, wanted) in stack.iter().zip(&wanted) {
                require_tree(&store, snapshot, *wanted)?;
            }
            Ok(stack)
        }
    };
    let done = blocking(known.clone()).await?;
    if done.len() == layers.len() {
        return Ok(done);
    }
    let local = Arc::clone(store);
    // Among processes and stages one unpacks an image; the others then find it.
    let lock = blocking(move || {
        let key = KeyWriter::new("unpack-image.v1")
            .field("chain", top.0.to_string())
            .finish();
        Ok(local.lock_key(key)?)
    })
    .await?;
    let mut done = blocking(known).await?;
    let missing: Vec<(StackLayer, ChainId)> =
        layers.into_iter().zip(chains).skip(done.len()).collect();
    if missing.is_empty() {
        return Ok(done);
    }
    let mut origins: Vec<(Location, Origin)> = Vec::new();
    let mut jobs = Vec::new();
    for (layer, chain) in missing {
        let origin = match &layer.from {
            From::Shared(place) => Origin::Shared(place.clone()),
            From::Image(location) => match origins.iter().find(|(known, _)| known == location) {
                Some((_, origin)) => origin.clone(),
                None => {
                    let origin = Origin::again(store, client, location).await?;
                    origins.push((location.clone(), origin.clone()));
                    origin
                }
            },
        };
        jobs.push((layer, chain, origin));
    }
    let mut unpacked = futures_util::stream::iter(jobs)
        .map(|(layer, chain, origin)| {
            let (store, progress) = (store.clone(), progress.clone());
            async move {
                let (active, unpacked) = bring_unpacked(&store, &origin, &layer, &progress).await?;
                Ok::<_, Error>((layer, chain, active, unpacked))
            }
        })
        // In order: a layer that is ready waits in the buffer for those below it.
        .buffered(CONCURRENT_LAYERS);
    while let Some(result) = unpacked.next().await {
        let (layer, chain, active, unpacked) = result?;
        let (store, parent) = (Arc::clone(store), done.last().map(|below| below.id.clone()));
        let snapshot = blocking(move || {
            let snapshot = commit(&store, parent.as_ref(), active, &unpacked, layer)?;
            store.set_chain(&snapshot.id, &chain)?;
            Ok(snapshot)
        });
        done.push(snapshot.await?);
    }
    drop(lock);
    Ok(done)
}

/// Makes an unpacked layer known, with the blob that it was.
fn commit(
    store: &Store,
    parent: Option<&SnapshotId>,
    active: ActiveSnapshot,
    unpacked: &Unpacked,
    layer: StackLayer,
) -> Result<Snapshot> {
    let root = open_upper(&active)?;
    let below = parent.map(|id| store.merged_tree(id)).transpose()?;
    unpack::settle(store, &root, unpacked, parent, below.as_deref())?;
    let snapshot = active.commit_written(parent, layer.created, &unpacked.written)?;
    require_tree(store, &snapshot, layer.tree)?;
    let blob = LayerBlob {
        digest: layer.descriptor.digest,
        size: layer.descriptor.size,
        media_type: layer.descriptor.media_type,
        diff_id: layer.diff_id,
    };
    store.set_layer_blob(&snapshot.id, &layer.variant, &blob)?;
    Ok(snapshot)
}

/// Holds a snapshot's files against what was said of them.
fn require_tree(store: &Store, snapshot: &Snapshot, wanted: Option<Key>) -> Result<()> {
    let Some(wanted) = wanted.filter(|wanted| *wanted != snapshot.tree) else {
        return Ok(());
    };
    let tree = store.tree(&snapshot.id)?;
    if layer::in_layer(&tree).digest() == wanted {
        return Ok(());
    }
    Err(Error::BadDocument {
        document: "the record of a layer".to_owned(),
        reason: format!(
            "the layer's files come to {}, it says {wanted}",
            snapshot.tree
        ),
    })
}

fn described(resolved: &Resolved) -> Result<Vec<StackLayer>> {
    let diff_ids = resolved
        .config
        .rootfs
        .diff_ids
        .as_deref()
        .unwrap_or_default();
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
            Ok(StackLayer {
                descriptor: descriptor.clone(),
                diff_id: DiffId(*diff_id),
                from: From::Image(resolved.location.clone()),
                variant: IMAGE_VARIANT.to_owned(),
                created: 0,
                tree: None,
            })
        })
        .collect()
}

/// Whether a media type is that of a layer.
pub fn is_layer(media_type: &str) -> bool {
    [
        OCI_LAYER,
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
        // A chain with a gap (something was collected in between, or a layer is gone) is as good as none.
        if let Ok(stack) = store.chain(&snapshot.id)
            && stack.len() == index + 1
            && stack.iter().all(|layer| store.has_layer(layer))
        {
            return Ok(stack);
        }
    }
    Ok(Vec::new())
}

/// Brings a layer here and unpacks it, while it comes if it does.
async fn bring_unpacked(
    store: &Arc<Store>,
    origin: &Origin,
    layer: &StackLayer,
    progress: &Progress,
) -> Result<(ActiveSnapshot, Unpacked)> {
    let descriptor = &layer.descriptor;
    let is_here = {
        let (store, digest) = (Arc::clone(store), descriptor.digest);
        blocking(move || Ok(store.has_blob(&digest))).await?
    };
    let mut early = None;
    if is_here {
        bring(store, origin, descriptor, progress).await?;
    } else {
        let (expected, arriving) = store.expect_blob(&descriptor.digest, descriptor.size);
        let unpacking = beside(store, layer, arriving);
        let bringing = async move {
            let brought = bring(store, origin, descriptor, progress).await;
            // Whoever unpacks what arrives must not wait if nothing is to arrive.
            brought.map(|()| expected.was_the_blob())
        };
        let (was_the_blob, unpacked) = tokio::join!(bringing, unpacking);
        if was_the_blob? {
            early = unpacked;
        }
    }
    if let Some(unpacked) = early {
        return unpacked;
    }
    let (store, layer) = (Arc::clone(store), layer.clone());
    // Who is not waited for any more stops: a thread cannot be dropped as a future is.
    let wanted = Wanted::default();
    let still = Arc::clone(&wanted.0);
    blocking(move || {
        let file = store.open_blob(&layer.descriptor.digest)?;
        let blob = WhileWanted {
            file,
            wanted: still,
        };
        unpack(&store, &layer, Box::new(blob))
    })
    .await
}

/// Unpacks what arrives, on a thread of its own: one of the pool would wait for what others of the pool bring. `None`
/// if there can be no thread.
async fn beside(
    store: &Arc<Store>,
    layer: &StackLayer,
    arriving: ArrivingBlob,
) -> Option<Result<(ActiveSnapshot, Unpacked)>> {
    let (store, layer) = (Arc::clone(store), layer.clone());
    let (done, result) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("unpack".to_owned());
    let work = move || {
        let _ = done.send(unpack(&store, &layer, Box::new(arriving)));
    };
    thread.spawn(work).ok()?;
    result.await.ok()
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
                let mut ingest = store.ingest_expected(&digest)?;
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
        Origin::Shared(place) => place.bring(store, descriptor, progress).await,
    }
}

/// Says to a thread, by being dropped, that its result is not wanted any more.
struct Wanted(Arc<AtomicBool>);

impl Default for Wanted {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A file that ends in an error when nobody wants it any more.
struct WhileWanted {
    file: File,
    wanted: Arc<AtomicBool>,
}

impl Read for WhileWanted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !self.wanted.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("it was cancelled"));
        }
        self.file.read(buffer)
    }
}

fn unpack(
    store: &Store,
    layer: &StackLayer,
    blob: Box<dyn Read + Send>,
) -> Result<(ActiveSnapshot, Unpacked)> {
    let what = format!("layer {}", layer.descriptor.digest);
    // How many files there are is not known before they are here.
    let files = layer.descriptor.size / FILE_BYTES;
    let active = store.prepare_for(usize::try_from(files).unwrap_or(usize::MAX))?;
    let root = open_upper(&active)?;
    let unpacked = unpack::layer(blob, &root, unpack::Limits::default(), &what)?;
    if unpacked.diff_id != layer.diff_id {
        return Err(Error::BadArchive {
            what,
            reason: format!(
                "its digest without compression is {}, its image's config says {}",
                unpacked.diff_id.0, layer.diff_id.0
            ),
        });
    }
    Ok((active, unpacked))
}

fn open_upper(active: &ActiveSnapshot) -> Result<RootDir> {
    RootDir::open_ambient(active.upper()).map_err(|source| Error::Io {
        action: "open",
        path: active.upper().display().to_string(),
        source,
    })
}
