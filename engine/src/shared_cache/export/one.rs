//! One `--cache-to`: its layers and its list.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};

use rbuild_cache::{Digest, Key, Snapshot, SnapshotId, Store};
use rbuild_image::layer::{IMAGE_VARIANT, LayerOptions, in_layer, layer_here};
use rbuild_image::shared::{FOLDS, Found, LISTING_TYPE, Merge, Place, RECORDS_TYPE, State};
use rbuild_image::source::Progress;
use rbuild_image::{Descriptor, Reference};
use tokio::sync::{OnceCell, Semaphore};

use super::super::import::Lists;
use super::super::mounts::{self, Packed};
use super::super::records::{self, HexKey, KEYS_MAX, List, Record};
use super::super::{Problem, warn};
use super::lock;
use crate::event::Sink;
use crate::request::{CacheMode, CacheTo};
use crate::worker::blocking;

/// More lists than this are made one, by who adds the next.
const LISTS_MAX: usize = 8;
/// What a cache's document may list. It has a limit of 4 MiB, and an entry takes about 200 bytes.
const BLOBS_MAX: usize = 8000;
/// Lists that one says it took over.
const FOLDS_MAX: usize = 500;
const ZSTD_LEVEL: i32 = 3;

/// One `--cache-to`.
pub(crate) struct Export {
    pub(super) store: Arc<Store>,
    pub(super) events: Arc<dyn Sink>,
    pub(crate) spec: CacheTo,
    pub(super) place: Place,
    pub(super) options: LayerOptions,
    pub(super) base: Arc<OnceLock<HashSet<Digest>>>,
    pub(super) sent: Mutex<HashMap<SnapshotId, Arc<OnceCell<Sent>>>>,
    pub(super) places: Semaphore,
    /// What the cache lists already.
    pub(super) listed: OnceCell<HashSet<Digest>>,
}

/// A layer that is where it is to be.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) layer: records::Layer,
    /// It stays where its image is.
    is_base: bool,
}

impl Sent {
    /// What its place is to have.
    fn blobs(&self) -> Vec<Descriptor> {
        let layer = Some(self.layer.descriptor()).filter(|_| !self.is_base);
        let listing = self.layer.listing.as_ref();
        let listing = listing.map(|it| Descriptor::new(LISTING_TYPE, it.digest, it.size));
        layer.into_iter().chain(listing).collect()
    }
}

impl Export {
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// What a step of the plan says about it.
    pub(crate) fn describe(&self) -> String {
        match &self.place {
            Place::Registry(_) => format!("exporting the cache to the registry as {}", self.place),
            Place::Layout(_) | Place::Objects(_) => {
                format!("exporting the cache to {}", self.place)
            }
        }
    }

    /// Makes and sends the layers of a chain.
    pub(super) async fn send(&self, id: &SnapshotId, progress: &Progress) -> Result<(), Problem> {
        let (store, top) = (Arc::clone(&self.store), id.clone());
        let chain = blocking(move || store.chain(&top)).await;
        for snapshot in chain.map_err(|error| Problem::of(&error))? {
            self.one(&snapshot.id, snapshot.id == *id, progress).await?;
        }
        Ok(())
    }

    /// Makes and sends a layer, unless that was done. `is_new`: this build made it, so that whatever the cache lists
    /// may be what could not be brought from there.
    pub(super) async fn one(
        &self,
        id: &SnapshotId,
        is_new: bool,
        progress: &Progress,
    ) -> Result<Sent, Problem> {
        let cell = {
            let mut sent = lock(&self.sent);
            Arc::clone(sent.entry(id.clone()).or_default())
        };
        let sent = cell.get_or_try_init(|| async {
            let _place = self.places.acquire().await;
            self.make(id, is_new, progress).await
        });
        sent.await.cloned()
    }

    async fn make(
        &self,
        id: &SnapshotId,
        is_new: bool,
        progress: &Progress,
    ) -> Result<Sent, Problem> {
        let (store, options) = (Arc::clone(&self.store), self.options);
        let (id, base) = (id.clone(), Arc::clone(&self.base));
        let keep = !self.spec.force_compression;
        let with_listing = self.spec.mode == CacheMode::Max;
        let made = blocking(move || {
            let from_image = store.layer_blob(&id, IMAGE_VARIANT)?;
            let is_base = |digest: &Digest| base.get().is_some_and(|base| base.contains(digest));
            let base_blob = from_image.filter(|blob| is_base(&blob.digest));
            let is_base = base_blob.is_some();
            let (blob, variant) = match base_blob {
                Some(blob) => (blob, IMAGE_VARIANT.to_owned()),
                None => layer_here(&store, &id, &options, keep)?,
            };
            let tree = in_layer(&*store.tree(&id)?);
            let listing = match with_listing {
                true => {
                    let bytes = zstd::encode_all(tree.encode().as_slice(), ZSTD_LEVEL);
                    let bytes = bytes.map_err(|source| rbuild_image::Error::Io {
                        action: "compress the listing of snapshot",
                        path: id.as_str().to_owned(),
                        source,
                    })?;
                    let digest = store.put_blob(&bytes)?;
                    Some(records::Blob {
                        digest,
                        size: bytes.len() as u64,
                    })
                }
                false => None,
            };
            let layer = records::Layer {
                diff_id: blob.diff_id.0,
                tree: HexKey(tree.digest()),
                files_size: tree.size_bytes(),
                variant,
                media_type: blob.media_type,
                digest: blob.digest,
                size: blob.size,
                listing,
            };
            Ok::<_, rbuild_image::Error>(Sent { layer, is_base })
        });
        let made = made.await.map_err(|error| Problem::of(&error))?;
        let sent = made.blobs().into_iter().map(|blob| async move {
            if !is_new && self.listed().await.contains(&blob.digest) {
                return Ok(());
            }
            let sent = self.place.send(&self.store, &blob, &[], progress).await;
            sent.map(drop).map_err(|error| Problem::of(&error))
        });
        futures_util::future::try_join_all(sent).await?;
        Ok(made)
    }

    /// Sends what was taken to be there and is not. Returns whether there was such a thing.
    pub(super) async fn catch_up(&self, progress: &Progress) -> Result<bool, Problem> {
        let sent: Vec<Sent> = {
            let sent = lock(&self.sent);
            sent.values()
                .filter_map(|cell| cell.get().cloned())
                .collect()
        };
        let mut went = false;
        for blob in sent.iter().flat_map(Sent::blobs) {
            if self.listed().await.contains(&blob.digest) {
                let sent = self.place.send(&self.store, &blob, &[], progress).await;
                went |= sent.map_err(|error| Problem::of(&error))?;
            }
        }
        Ok(went)
    }

    /// What need not be asked for: a registry takes no document before the blobs that it lists, and keeps them with it.
    /// Other places lose one without the other.
    async fn listed(&self) -> &HashSet<Digest> {
        let read = || async {
            let found = match &self.place {
                Place::Registry(_) => self.place.read().await,
                Place::Layout(_) | Place::Objects(_) => Ok(Found::Nothing),
            };
            match found {
                Ok(Found::Cache(state)) => state.blobs.iter().map(|blob| blob.digest).collect(),
                _ => HashSet::new(),
            }
        };
        self.listed.get_or_init(read).await
    }

    /// Adds a record of what is here.
    pub(super) async fn add(
        &self,
        list: &mut List,
        record: &rbuild_cache::record::Record,
        keys: &[Key],
        chain: &[Snapshot],
    ) -> Result<(), Problem> {
        let quiet: Progress = Arc::new(|_, _, _| {});
        let mut one = List::default();
        for snapshot in chain {
            one.layers
                .push(self.one(&snapshot.id, false, &quiet).await?.layer);
        }
        one.records.push(Record {
            keys: keys.iter().take(KEYS_MAX).map(|key| HexKey(*key)).collect(),
            chain: chain
                .iter()
                .enumerate()
                .map(|(place, snapshot)| (place, snapshot.created))
                .collect(),
            step: record.step.clone(),
            ingredients: record.ingredients.clone(),
            created: record.created,
            duration_ms: record.duration_ms,
        });
        list.absorb(&one);
        Ok(())
    }

    /// Copies a blob from another place.
    pub(super) async fn copy(
        &self,
        from: &Place,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<(), Problem> {
        let mounts = match (from, &self.place) {
            (Place::Registry(from), Place::Registry(to)) => {
                shared_registry(from.reference(), to.reference())
            }
            _ => Vec::new(),
        };
        let sent = self.place.send(&self.store, blob, &mounts, progress).await;
        let Err(error) = sent else { return Ok(()) };
        if self.store.has_blob(&blob.digest) {
            return Err(Problem::of(&error));
        }
        from.bring(&self.store, blob, progress)
            .await
            .map_err(|error| Problem::of(&error))?;
        let sent = self.place.send(&self.store, blob, &mounts, progress).await;
        sent.map(drop).map_err(|error| Problem::of(&error))
    }

    /// Writes down what is new in a list.
    pub(super) async fn publish(
        &self,
        lists: &Arc<Lists>,
        list: List,
        progress: &Progress,
    ) -> Result<(), Problem> {
        let there = match self
            .place
            .read()
            .await
            .map_err(|error| Problem::of(&error))?
        {
            Found::Cache(state) => state,
            // What an image's name means is told by who writes.
            Found::Nothing | Found::Foreign(_) | Found::Image(_) => State::default(),
        };
        let (known, _) = self.known(lists, &there.blobs).await;
        let mut new = list.without(&known);
        for id in &mounts::named(&self.store, &self.spec.mounts).await? {
            let there = known.mounts.iter().find(|mount| mount.id == *id);
            let packed = mounts::pack(&self.store, id, there.map(|mount| mount.content)).await;
            match packed
                .map_err(|problem| Problem::new(format!("cache mount `{id}`: {problem}")))?
            {
                Packed::Same => {}
                Packed::Missing => warn(
                    &self.events,
                    format!(
                        "there is no cache mount `{id}` that could go to {}",
                        self.place
                    ),
                ),
                Packed::New(mount) => {
                    let blob = mount.descriptor();
                    let sent = self.place.send(&self.store, &blob, &[], progress).await;
                    sent.map_err(|error| Problem::of(&error))?;
                    new.mounts.push(mount);
                }
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let ours = self.send_list(&new, None, progress).await?;
        let base = self.base.get().cloned().unwrap_or_default();
        let blobs = blobs_of(&new, &base);
        let writer = Writer {
            export: self,
            lists,
            ours: ours.clone(),
            blobs,
            progress,
        };
        let published = self.place.publish(&self.store, &ours.digest, &writer).await;
        published.map_err(|error| Problem::of(&error))
    }

    /// What the lists there hold, and how many of them could not be read.
    async fn known(&self, lists: &Lists, blobs: &[Descriptor]) -> (List, usize) {
        let (mut known, mut unread) = (List::default(), 0);
        for blob in blobs.iter().filter(|blob| blob.media_type == RECORDS_TYPE) {
            match lists.read(&self.place, blob).await {
                Ok(list) => known.absorb(&list),
                Err(problem) => {
                    unread += 1;
                    tracing::debug!(%problem, "a list of records is passed over");
                }
            }
        }
        (known, unread)
    }

    async fn send_list(
        &self,
        list: &List,
        folds: Option<String>,
        progress: &Progress,
    ) -> Result<Descriptor, Problem> {
        let bytes = list.encode().map_err(|error| Problem::of(&error))?;
        let (store, size) = (Arc::clone(&self.store), bytes.len() as u64);
        let digest = blocking(move || store.put_blob(&bytes)).await;
        let digest = digest.map_err(|error| Problem::of(&error))?;
        let mut blob = Descriptor::new(RECORDS_TYPE, digest, size);
        if let Some(folds) = folds {
            blob.annotations = Some([(FOLDS.to_owned(), folds)].into());
        }
        let sent = self.place.send(&self.store, &blob, &[], progress).await;
        sent.map_err(|error| Problem::of(&error))?;
        Ok(blob)
    }
}

/// Where a blob may be mounted from.
fn shared_registry(from: &Reference, to: &Reference) -> Vec<String> {
    match from.registry == to.registry {
        true => vec![from.repository.clone()],
        false => Vec::new(),
    }
}

/// The blobs that a list speaks of and that its place has.
fn blobs_of(list: &List, base: &HashSet<Digest>) -> Vec<Descriptor> {
    let mut blobs = Vec::new();
    for layer in &list.layers {
        if !base.contains(&layer.digest) {
            blobs.push(layer.descriptor());
        }
        if let Some(listing) = &layer.listing {
            blobs.push(Descriptor::new(LISTING_TYPE, listing.digest, listing.size));
        }
    }
    for mount in &list.mounts {
        blobs.push(mount.descriptor());
    }
    blobs
}

/// Adds one list to those that are there; makes many lists one.
struct Writer<'a> {
    export: &'a Export,
    lists: &'a Lists,
    ours: Descriptor,
    blobs: Vec<Descriptor>,
    progress: &'a Progress,
}

impl Writer<'_> {
    fn beside(&self, there: &[Descriptor]) -> Vec<Descriptor> {
        let mut all = there.to_vec();
        all.extend(self.blobs.iter().cloned());
        all.push(self.ours.clone());
        all
    }
}

impl Merge for Writer<'_> {
    async fn merge(&self, there: &[Descriptor]) -> rbuild_image::Result<Vec<Descriptor>> {
        let is_list = |blob: &&Descriptor| blob.media_type == RECORDS_TYPE;
        let lists: Vec<&Descriptor> = there.iter().filter(is_list).collect();
        if lists.len() < LISTS_MAX && there.len() + self.blobs.len() < BLOBS_MAX {
            return Ok(self.beside(there));
        }
        let failed = |problem: Problem| rbuild_image::Error::Io {
            action: "add to the cache",
            path: self.export.place.to_string(),
            source: std::io::Error::other(problem.to_string()),
        };
        let (mut known, unread) = self.export.known(self.lists, there).await;
        // What could not be read now may be readable for others.
        if unread > 0 && lists.len() < 4 * LISTS_MAX && there.len() < BLOBS_MAX {
            return Ok(self.beside(there));
        }
        known.keep_newest(BLOBS_MAX / 2);
        let mut folds: Vec<String> = lists.iter().map(|list| list.digest.to_string()).collect();
        // And what those took over, so that nobody brings it back.
        for list in &lists {
            let earlier = list.annotation(FOLDS).unwrap_or_default().split(',');
            folds.extend(earlier.filter(|it| !it.is_empty()).map(str::to_owned));
        }
        folds.truncate(FOLDS_MAX);
        let folded = self
            .export
            .send_list(&known, Some(folds.join(",")), self.progress)
            .await
            .map_err(failed)?;
        // What is listed there stays only where a record still speaks of it; layers of base images never were.
        let listed: HashSet<Digest> = there.iter().map(|blob| blob.digest).collect();
        let mut all: Vec<Descriptor> = blobs_of(&known, &HashSet::new())
            .into_iter()
            .filter(|blob| listed.contains(&blob.digest))
            .collect();
        all.push(folded);
        all.extend(self.blobs.iter().cloned());
        all.push(self.ours.clone());
        Ok(all)
    }
}
