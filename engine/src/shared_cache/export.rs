//! `--cache-to`: layers go as soon as their steps are done, while others run; the records that speak of them at the
//! end, when all that they speak of is there.

mod one;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rbuild_cache::{Digest, Key, Snapshot, SnapshotId, Store};
use rbuild_image::Descriptor;
use rbuild_image::compression::Compression;
use rbuild_image::layer::{LayerOptions, require_names};
use rbuild_image::registry::Client;
use rbuild_image::shared::LISTING_TYPE;
use rbuild_image::source::{Progress, Resolved};
use rbuild_solver::{Graph, VertexId};
use tokio::sync::{OnceCell, Semaphore};

use super::carried::Made;
use super::import::{Imports, Lists, There};
use super::records::List;
use super::{Problem, place, warn};
use crate::event::Sink;
use crate::layering::spine;
use crate::op::Op;
use crate::request::{CacheMode, CacheTo};
use crate::worker::blocking;
pub(crate) use one::Export;

/// Layers that are sent at once.
const CONCURRENT_LAYERS: usize = 4;

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
                listed: OnceCell::new(),
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
        futures_util::future::try_join_all(
            ids.into_iter().map(|id| export.one(id, false, progress)),
        )
        .await?;
        for (_, record, keys, chain) in snapshots {
            export.add(&mut list, &record, &keys, &chain).await?;
        }
        let mut whole = List::default();
        whole.absorb(&list);
        let published = export.publish(&self.lists, whole.clone(), progress).await;
        if published.is_err() && export.catch_up(progress).await? {
            return export.publish(&self.lists, whole, progress).await;
        }
        published
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
