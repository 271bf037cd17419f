//! `--cache-to`: layers go as soon as their steps are done, while others run; the records that speak of them at the
//! end, when all that they speak of is there.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rbuild_cache::{Digest, Key, Snapshot, SnapshotId, Store};
use rbuild_image::compression::Compression;
use rbuild_image::layer::{IMAGE_VARIANT, LayerOptions, in_layer, layer_here, require_names};
use rbuild_image::registry::Client;
use rbuild_image::shared::{FOLDS, Found, LISTING_TYPE, Merge, Place, RECORDS_TYPE, State};
use rbuild_image::source::{Progress, Resolved};
use rbuild_image::{Descriptor, Reference};
use rbuild_solver::{Graph, VertexId};
use tokio::sync::{OnceCell, Semaphore};

use super::carried::Made;
use super::import::{Imports, Lists, There};
use super::mounts::{self, Packed};
use super::records::{self, HexKey, KEYS_MAX, List, Record};
use super::{Problem, place, warn};
use crate::event::Sink;
use crate::layering::spine;
use crate::op::Op;
use crate::request::{CacheMode, CacheTo};
use crate::worker::blocking;

/// Layers that are sent at once.
const CONCURRENT_LAYERS: usize = 4;
/// More lists than this are made one, by who adds the next.
const LISTS_MAX: usize = 8;
/// What a cache's document may list. It has a limit of 4 MiB, and an entry takes about 200 bytes.
const BLOBS_MAX: usize = 8000;
/// Lists that one says it took over.
const FOLDS_MAX: usize = 500;
const ZSTD_LEVEL: i32 = 3;

/// All caches that a build gives to.
pub(crate) struct Exports {
    store: Arc<Store>,
    lists: Arc<Lists>,
    imports: Option<Arc<Imports>>,
    each: Vec<Arc<Export>>,
    /// Digests of the layers of the images that the build begins with: whoever builds this has them from there.
    base: Arc<OnceLock<HashSet<Digest>>>,
    /// Definition keys of the vertices that are needed.
    planned: Mutex<HashMap<VertexId, Key>>,
    /// The vertices whose results become the image's layers.
    spine: Mutex<HashSet<VertexId>>,
    /// The image carries its records itself.
    is_inline: bool,
}

/// One `--cache-to`.
pub(crate) struct Export {
    store: Arc<Store>,
    events: Arc<dyn Sink>,
    pub(crate) spec: CacheTo,
    place: Place,
    options: LayerOptions,
    base: Arc<OnceLock<HashSet<Digest>>>,
    sent: Mutex<HashMap<SnapshotId, Arc<OnceCell<Sent>>>>,
    places: Semaphore,
}

/// A layer that is where it is to be.
#[derive(Debug, Clone)]
struct Sent {
    layer: records::Layer,
    /// It stays where its image is.
    is_base: bool,
}

/// What a record is to be written of.
enum Known {
    Here(rbuild_cache::record::Record, Vec<Key>),
    There(Arc<There>),
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The state is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exports {
    pub(crate) fn new(
        store: &Arc<Store>,
        client: &Client,
        events: &Arc<dyn Sink>,
        to: &[CacheTo],
        usual: Compression,
        imports: Option<Arc<Imports>>,
        lists: Arc<Lists>,
    ) -> crate::Result<Arc<Self>> {
        let base = Arc::new(OnceLock::new());
        let each = to.iter().filter_map(|spec| {
            let to = spec.place.as_ref()?;
            Some(place(client, to).map(|place| (spec, place)))
        });
        let each = each.collect::<crate::Result<Vec<_>>>()?;
        let each = each.into_iter().map(|(spec, place)| {
            let compression = match spec.compression {
                Some(choice) => crate::output::compression(choice),
                None => usual,
            };
            Arc::new(Export {
                store: Arc::clone(store),
                events: Arc::clone(events),
                place,
                spec: spec.clone(),
                options: LayerOptions {
                    compression,
                    oci_media_types: true,
                    clamp_mtime: None,
                },
                base: Arc::clone(&base),
                sent: Mutex::default(),
                places: Semaphore::new(CONCURRENT_LAYERS),
            })
        });
        Ok(Arc::new(Self {
            each: each.collect(),
            store: Arc::clone(store),
            lists,
            imports,
            base,
            planned: Mutex::default(),
            spine: Mutex::default(),
            is_inline: to.iter().any(|spec| spec.place.is_none()),
        }))
    }

    pub(crate) fn each(&self) -> &[Arc<Export>] {
        &self.each
    }

    /// Says which images the build begins with.
    pub(crate) fn set_images<'a>(&self, images: impl Iterator<Item = &'a Resolved>) {
        let layers = images.flat_map(|image| &image.manifest.layers);
        let _ = self.base.set(layers.map(|layer| layer.digest).collect());
    }

    /// Says what the image is made from.
    pub(crate) fn set_targets(&self, graph: &Graph<Op>, targets: &[VertexId]) {
        *lock(&self.spine) = spine(graph, targets.iter().copied());
    }

    pub(crate) fn planned(&self, vertex: VertexId, key: Key) {
        lock(&self.planned).insert(vertex, key);
    }

    /// A step is done: its layer goes on its way. What fails is tried again, and told, at the end.
    pub(crate) fn made(&self, vertex: VertexId, snapshot: &Snapshot) {
        let in_image = lock(&self.spine).contains(&vertex);
        for export in &self.each {
            if export.spec.mode == CacheMode::Max || in_image {
                let (export, id) = (Arc::clone(export), snapshot.id.clone());
                tokio::spawn(async move {
                    let quiet: Progress = Arc::new(|_, _, _| {});
                    if let Err(problem) = export.send(&id, &quiet).await {
                        tracing::debug!(%problem, "a layer did not reach the cache yet");
                    }
                });
            }
        }
    }

    /// Sends what is missing, and the records. `tops`: the contents of the roots that the image holds.
    pub(crate) async fn finish(
        &self,
        export: &Arc<Export>,
        graph: &Graph<Op>,
        held: &HashSet<Key>,
        progress: &Progress,
    ) -> Result<(), Problem> {
        let mut list = List::default();
        let mut snapshots = Vec::new();
        let mut told = HashSet::new();
        for (vertex, key) in self.steps(graph) {
            let Some(found) = self.result(key).await? else {
                continue;
            };
            match found {
                Known::Here(record, keys) => {
                    let chain = match &record.snapshot {
                        Some(id) => self.store.chain(id).map_err(|error| Problem::of(&error))?,
                        None => Vec::new(),
                    };
                    let is_held = chain.last().is_none_or(|top| held.contains(&top.content));
                    if (export.spec.mode == CacheMode::Max || is_held)
                        && self.can_go(export, &chain, &mut told).await?
                    {
                        snapshots.push((vertex, record, keys, chain));
                    }
                }
                Known::There(there) => {
                    if export.spec.mode == CacheMode::Max || held.contains(&there.content) {
                        self.pass_on(export, &there, &mut list, progress).await?;
                    }
                }
            }
        }
        // Several at once, in an order that lets the steps of one chain share what is sent.
        let mut ids: Vec<&SnapshotId> = Vec::new();
        for (_, _, _, chain) in &snapshots {
            for snapshot in chain {
                if !ids.contains(&&snapshot.id) {
                    ids.push(&snapshot.id);
                }
            }
        }
        futures_util::future::try_join_all(ids.into_iter().map(|id| export.one(id, progress)))
            .await?;
        for (_, record, keys, chain) in snapshots {
            export.add(&mut list, &record, &keys, &chain).await?;
        }
        let mut whole = List::default();
        whole.absorb(&list);
        export.publish(&self.lists, whole, progress).await
    }

    /// Whether layers can hold what a chain has; says once of each snapshot why not. A stage that is only copied from
    /// may have what no layer can hold.
    async fn can_go(
        &self,
        export: &Export,
        chain: &[Snapshot],
        told: &mut HashSet<SnapshotId>,
    ) -> Result<bool, Problem> {
        let (store, ids) = (
            Arc::clone(&self.store),
            chain.iter().map(|it| it.id.clone()),
        );
        let ids: Vec<SnapshotId> = ids.collect();
        let refused = blocking(move || {
            for id in ids {
                match require_names(&*store.tree(&id)?) {
                    Ok(()) => {}
                    Err(reason) => return Ok(Some((id, reason))),
                }
            }
            Ok::<_, rbuild_cache::Error>(None)
        });
        let refused = refused.await.map_err(|error| Problem::of(&error))?;
        let Some((id, reason)) = refused else {
            return Ok(true);
        };
        if told.insert(id) {
            warn(
                &export.events,
                format!(
                    "the step that makes it, and those that build on it, are not in {}: {reason}",
                    export.place
                ),
            );
        }
        Ok(false)
    }

    /// The results that an image of this build may carry; `None` where that was not asked for.
    pub(crate) async fn carried(&self, graph: &Graph<Op>) -> Result<Option<Vec<Made>>, Problem> {
        if !self.is_inline {
            return Ok(None);
        }
        let mut all = Vec::new();
        for (_, key) in self.steps(graph) {
            let (content, step) = match self.result(key).await? {
                None => continue,
                Some(Known::There(there)) => (there.content, there.record.step.clone()),
                Some(Known::Here(record, _)) => {
                    let chain = match &record.snapshot {
                        Some(id) => self.store.chain(id).map_err(|error| Problem::of(&error))?,
                        None => Vec::new(),
                    };
                    let content = chain.last().map(|top| top.content);
                    let content = content.unwrap_or_else(crate::worker::empty_root_content);
                    (content, record.step)
                }
            };
            all.push(Made { key, content, step });
        }
        Ok(Some(all))
    }

    /// The needed vertices that have records, inputs first, with their definition keys.
    fn steps(&self, graph: &Graph<Op>) -> Vec<(VertexId, Key)> {
        let mut steps: Vec<(VertexId, Key)> = lock(&self.planned)
            .iter()
            .map(|(vertex, key)| (*vertex, *key))
            .filter(|(vertex, _)| {
                matches!(
                    graph.operation(*vertex),
                    Op::Exec(_) | Op::File(_) | Op::Merge
                )
            })
            .collect();
        steps.sort_unstable_by_key(|(vertex, _)| *vertex);
        steps
    }

    async fn result(&self, key: Key) -> Result<Option<Known>, Problem> {
        let store = Arc::clone(&self.store);
        let here = blocking(move || {
            let Some(record) = store.lookup(key)? else {
                return Ok(None);
            };
            let keys = store.keys_beside(key)?;
            Ok::<_, rbuild_cache::Error>(Some((record, keys)))
        });
        let here = here.await.map_err(|error| Problem::of(&error))?;
        Ok(match here {
            Some((record, keys)) => Some(Known::Here(record, keys)),
            None => {
                let there = self.imports.as_ref().and_then(|imports| imports.peek(key));
                there.map(Known::There)
            }
        })
    }

    /// A result that is in another cache, and not here: its layers go from there, and through here only where they
    /// must.
    async fn pass_on(
        &self,
        export: &Arc<Export>,
        there: &There,
        list: &mut List,
        progress: &Progress,
    ) -> Result<(), Problem> {
        let Some(imports) = &self.imports else {
            return Ok(());
        };
        let mut one = List::default();
        for (layer, _) in &there.layers {
            let Some((number, form)) = layer.forms.first() else {
                return Ok(());
            };
            let is_base = self
                .base
                .get()
                .is_some_and(|base| base.contains(&form.digest));
            if let Some(from) = imports.place(*number)
                && !is_base
                && from.to_string() != export.place.to_string()
            {
                export
                    .copy(from, &form.descriptor(), progress)
                    .await
                    .map_err(|problem| Problem::new(format!("layer {}: {problem}", form.digest)))?;
                if let Some(listing) = &form.listing {
                    let listing = Descriptor::new(LISTING_TYPE, listing.digest, listing.size);
                    export.copy(from, &listing, progress).await?;
                }
            }
            one.layers.push(form.clone());
        }
        let chain = (0..one.layers.len()).zip(&there.layers);
        let mut record = there.record.clone();
        record.chain = chain
            .map(|(place, (_, created))| (place, *created))
            .collect();
        one.records.push(record);
        list.absorb(&one);
        Ok(())
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
    async fn send(&self, id: &SnapshotId, progress: &Progress) -> Result<(), Problem> {
        let (store, top) = (Arc::clone(&self.store), id.clone());
        let chain = blocking(move || store.chain(&top)).await;
        for snapshot in chain.map_err(|error| Problem::of(&error))? {
            self.one(&snapshot.id, progress).await?;
        }
        Ok(())
    }

    /// Makes and sends a layer, unless that was done.
    async fn one(&self, id: &SnapshotId, progress: &Progress) -> Result<Sent, Problem> {
        let cell = {
            let mut sent = lock(&self.sent);
            Arc::clone(sent.entry(id.clone()).or_default())
        };
        let sent = cell.get_or_try_init(|| async {
            let _place = self.places.acquire().await;
            self.make(id, progress).await
        });
        sent.await.cloned()
    }

    async fn make(&self, id: &SnapshotId, progress: &Progress) -> Result<Sent, Problem> {
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
        if !made.is_base {
            self.place
                .send(&self.store, &made.layer.descriptor(), &[], progress)
                .await
                .map_err(|error| Problem::of(&error))?;
        }
        if let Some(listing) = &made.layer.listing {
            let listing = Descriptor::new(LISTING_TYPE, listing.digest, listing.size);
            self.place
                .send(&self.store, &listing, &[], progress)
                .await
                .map_err(|error| Problem::of(&error))?;
        }
        Ok(made)
    }

    /// Adds a record of what is here.
    async fn add(
        &self,
        list: &mut List,
        record: &rbuild_cache::record::Record,
        keys: &[Key],
        chain: &[Snapshot],
    ) -> Result<(), Problem> {
        let quiet: Progress = Arc::new(|_, _, _| {});
        let mut one = List::default();
        for snapshot in chain {
            one.layers.push(self.one(&snapshot.id, &quiet).await?.layer);
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
    async fn copy(
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
    async fn publish(
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
        for id in &self.spec.mounts {
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
