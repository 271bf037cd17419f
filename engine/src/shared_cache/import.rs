//! `--cache-from`: which results other machines left, and bringing those whose files are needed.
//!
//! Lists of records are read once a build, while its images are looked up. A result found in one is an [`There`]: its
//! content is known, its layers are where they are. They are brought when a step works on them or an output holds
//! them, and only those that no snapshot of this store is.

mod bring;
mod index;
mod remote;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use rbuild_cache::{Digest, Ingredient, Key, Store};
use rbuild_image::Descriptor;
use rbuild_image::manifest::Document;
use rbuild_image::registry::Client;
use rbuild_image::shared::{Found, Place, State};
use rbuild_image::source::{Location, Progress, Resolved};
use tokio::sync::OnceCell;

use super::records::{self, LIST_LIMIT_BYTES, List};
use super::{Problem, carried, mounts, place, warn};
use crate::event::Sink;
use crate::op::CacheAccess;
use crate::request::CacheFrom;
use crate::worker::blocking;
pub(super) use index::Layer;
pub(crate) use index::There;
use index::{Index, add_layers};
pub(crate) use remote::{Going, Remote};

/// Lists that are read at once.
const CONCURRENT_LISTS: usize = 8;
/// A build that met so many broken results trusts its caches no more.
const BROKEN_MAX: usize = 16;

#[derive(Debug, Default)]
struct Memory {
    /// Forms of layers that are no good: (place, digest).
    broken: HashSet<(usize, Digest)>,
    /// What was said already.
    told: HashSet<String>,
    /// Nothing is found any more.
    is_given_up: bool,
}

/// The caches that a build takes from.
pub(crate) struct Imports {
    store: Arc<Store>,
    client: Client,
    events: Arc<dyn Sink>,
    places: Vec<Place>,
    /// Which cache mounts each place may fill; `None`: all.
    mounts: Vec<Option<Vec<String>>>,
    /// Those that were filled, or are being filled.
    filled: Mutex<HashMap<String, Arc<OnceCell<()>>>>,
    index: OnceCell<Index>,
    lists: Arc<Lists>,
    /// Layers of the images that this build begins with, by diff ID: they come from there.
    base: OnceLock<HashMap<Digest, (Location, Descriptor)>>,
    memory: Mutex<Memory>,
}

/// Lists that were read, so that each is read once a build.
#[derive(Debug, Default)]
pub(crate) struct Lists(Mutex<HashMap<Digest, Arc<List>>>);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The state is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lists {
    pub(super) async fn read(
        &self,
        place: &Place,
        blob: &Descriptor,
    ) -> Result<Arc<List>, Problem> {
        if let Some(known) = lock(&self.0).get(&blob.digest) {
            return Ok(Arc::clone(known));
        }
        let bytes = place.small(blob, LIST_LIMIT_BYTES).await;
        let bytes = bytes.map_err(|error| Problem::of(&error))?;
        let list = blocking(move || List::decode(&bytes)).await?;
        let list = Arc::new(list);
        lock(&self.0).insert(blob.digest, Arc::clone(&list));
        Ok(list)
    }
}

impl Imports {
    pub(crate) fn new(
        store: Arc<Store>,
        client: Client,
        events: Arc<dyn Sink>,
        from: &[CacheFrom],
        lists: Arc<Lists>,
    ) -> crate::Result<Arc<Self>> {
        let places = from.iter().map(|from| place(&client, &from.place));
        Ok(Arc::new(Self {
            places: places.collect::<crate::Result<_>>()?,
            mounts: from.iter().map(|from| from.mounts.clone()).collect(),
            filled: Mutex::default(),
            store,
            client,
            events,
            index: OnceCell::new(),
            lists,
            base: OnceLock::new(),
            memory: Mutex::default(),
        }))
    }

    /// Reads the lists, unless somebody did or does.
    pub(crate) async fn load(&self) {
        self.index().await;
    }

    /// Says which images the build begins with.
    pub(crate) fn set_images<'a>(&self, images: impl Iterator<Item = &'a Resolved>) {
        let mut base = HashMap::new();
        for image in images {
            let diff_ids = image.config.rootfs.diff_ids.iter().flatten();
            for (layer, diff_id) in image.manifest.layers.iter().zip(diff_ids) {
                base.insert(*diff_id, (image.location.clone(), layer.clone()));
            }
        }
        let _ = self.base.set(base);
    }

    async fn index(&self) -> &Index {
        self.index
            .get_or_init(|| async {
                let read = self.places.iter().map(|place| self.read(place));
                let read = join_all(read).await;
                let mut index = Index::default();
                let mut layers = HashMap::new();
                let mut lists = Vec::new();
                for (number, (state, found)) in read.into_iter().enumerate() {
                    index.states.push(state);
                    for list in found {
                        add_layers(&mut layers, number, &list);
                        lists.push((number, list));
                    }
                }
                let layers: HashMap<(Digest, Key), Arc<Layer>> = layers
                    .into_iter()
                    .map(|(key, layer)| (key, Arc::new(layer)))
                    .collect();
                for (number, list) in lists {
                    index.add(&list, &layers);
                    let wanted = self.mounts.get(number).and_then(Option::as_ref);
                    for mount in &list.mounts {
                        let is_of = |id: &String| CacheAccess::is_directory_of(&mount.id, id);
                        if wanted.is_none_or(|wanted| wanted.iter().any(is_of)) {
                            index.add_mount(number, mount);
                        }
                    }
                }
                index.sort();
                index
            })
            .await
    }

    async fn read(&self, place: &Place) -> (Option<State>, Vec<Arc<List>>) {
        let refuse = |reason: &dyn std::fmt::Display| {
            self.tell(format!("the cache {place} is not used: {reason}"));
            (None, Vec::new())
        };
        let state = match place.read().await {
            Ok(Found::Cache(state)) => state,
            Ok(Found::Nothing) => return refuse(&"there is nothing under this name yet"),
            Ok(Found::Foreign(whose)) => {
                return refuse(&format!(
                    "it was written by {whose}, whose keys mean nothing here; `--cache-to` replaces it"
                ));
            }
            Ok(Found::Image(document)) => return self.of_image(place, &document).await,
            Err(error) => return refuse(&Problem::of(&error)),
        };
        let lists: Vec<_> =
            futures_util::stream::iter(state.records().cloned().collect::<Vec<_>>())
                .map(|blob| async move { self.lists.read(place, &blob).await })
                .buffered(CONCURRENT_LISTS)
                .collect()
                .await;
        let mut read = Vec::new();
        for list in lists {
            match list {
                Ok(list) => read.push(list),
                Err(problem) => self.tell(format!(
                    "a part of the cache {place} is not used: {problem}"
                )),
            }
        }
        (Some(state), read)
    }

    /// What an image carries itself; its layers are the image's.
    async fn of_image(
        &self,
        place: &Place,
        document: &Document,
    ) -> (Option<State>, Vec<Arc<List>>) {
        let found = place.carried(document).await;
        if found.is_empty() {
            self.tell(format!(
                "the cache {place} is not used: it is an image that carries no records; \
                 `--cache-to type=inline` has it carry them"
            ));
            return (None, Vec::new());
        }
        let (mut state, mut lists) = (State::default(), Vec::new());
        for found in found {
            let read = found
                .map_err(|error| Problem::of(&error))
                .and_then(|found| {
                    let layers = found.layers.iter().map(|(blob, _)| blob.clone());
                    let layers: Vec<Descriptor> = layers.collect();
                    Ok((carried::read(found)?, layers))
                });
            match read {
                Ok((list, layers)) => {
                    state.blobs.extend(layers);
                    lists.push(Arc::new(list));
                }
                Err(problem) => self.tell(format!("the cache {place} is not used: {problem}")),
            }
        }
        (Some(state), lists)
    }

    fn tell(&self, message: String) {
        if lock(&self.memory).told.insert(message.clone()) {
            warn(&self.events, message);
        }
    }

    /// Looks a key up. What it leads to is there, as far as one can tell without fetching it.
    pub(crate) async fn lookup(&self, key: Key) -> Option<Arc<There>> {
        let index = self.index().await;
        for there in index.results.get(&key).into_iter().flatten() {
            if self.is_usable(index, there).await {
                let mut asked = lock(&there.asked);
                if !asked.keys.contains(&key) && !asked.is_saved {
                    asked.keys.push(key);
                }
                drop(asked);
                return Some(Arc::clone(there));
            }
        }
        None
    }

    /// As [`Imports::lookup`], of what has been read, and without a word.
    pub(super) fn peek(&self, key: Key) -> Option<Arc<There>> {
        let index = self.index.get()?;
        let broken = &lock(&self.memory).broken;
        let good = |layer: &Layer| {
            let form = |(number, form): &(usize, records::Layer)| {
                !broken.contains(&(*number, form.digest))
            };
            self.base_of(layer).is_some() || layer.forms.iter().any(form)
        };
        let found = index.results.get(&key)?.iter();
        let mut found = found.filter(|there| there.layers.iter().all(|(layer, _)| good(layer)));
        found.next().cloned()
    }

    async fn is_usable(&self, index: &Index, there: &There) -> bool {
        {
            let memory = lock(&self.memory);
            if memory.is_given_up || memory.broken.len() > BROKEN_MAX {
                return false;
            }
        }
        for (layer, _) in &there.layers {
            if self.base_of(layer).is_none() && self.form(index, layer, &|_| true).await.is_none() {
                let step = &there.record.step;
                self.tell(format!(
                    "a cached result of `{step}` is not used: its layer {} is gone",
                    layer
                        .forms
                        .first()
                        .map_or(layer.diff_id, |(_, form)| form.digest)
                ));
                return false;
            }
        }
        true
    }

    fn base_of(&self, layer: &Layer) -> Option<&(Location, Descriptor)> {
        self.base.get()?.get(&layer.diff_id)
    }

    /// The first form that is there, of those whose variant is meant.
    async fn form<'a>(
        &self,
        index: &Index,
        layer: &'a Layer,
        is_meant: &(impl Fn(&str) -> bool + Sync),
    ) -> Option<&'a (usize, records::Layer)> {
        for form in layer.forms.iter().filter(|(_, it)| is_meant(&it.variant)) {
            let (number, blob) = form;
            if lock(&self.memory).broken.contains(&(*number, blob.digest)) {
                continue;
            }
            let listed = index.states.get(*number).and_then(Option::as_ref);
            if !listed.is_some_and(|state| state.has(&blob.digest)) {
                continue;
            }
            let place = self.places.get(*number)?;
            match place.has(&blob.descriptor()).await {
                Ok(true) => return Some(form),
                Ok(false) => {
                    lock(&self.memory).broken.insert((*number, blob.digest));
                }
                Err(error) => {
                    self.tell(format!("the cache {place}: {}", Problem::of(&error)));
                    lock(&self.memory).broken.insert((*number, blob.digest));
                }
            }
        }
        None
    }

    /// Makes `another` lead to what `existing` was found to lead to. False where that is nothing of a cache, or is
    /// here by now.
    pub(crate) fn alias(&self, existing: Key, another: Key) -> bool {
        let found = self
            .index
            .get()
            .and_then(|index| index.results.get(&existing));
        for there in found.into_iter().flatten() {
            let mut asked = lock(&there.asked);
            if asked.keys.contains(&existing) {
                if !asked.is_saved && !asked.keys.contains(&another) {
                    asked.keys.push(another);
                }
                return !asked.is_saved;
            }
        }
        false
    }

    /// What steps of this kind were made of, the newest first.
    pub(crate) fn ingredients_of_step(&self, step: &str) -> Vec<Vec<Ingredient>> {
        let found = self.index.get().and_then(|index| index.steps.get(step));
        let found = found.into_iter().flatten();
        found
            .map(|there| there.record.ingredients.clone())
            .collect()
    }

    /// Fills a cache mount that a cache has and this store has not. One that cannot be filled stays empty.
    pub(crate) async fn fill_mount(&self, id: &str, progress: &Progress) {
        let Some((number, mount)) = self.index().await.mounts.get(id) else {
            return;
        };
        let Some(place) = self.places.get(*number) else {
            return;
        };
        let filled = Arc::clone(lock(&self.filled).entry(id.to_owned()).or_default());
        let filling = || async {
            if let Err(problem) = mounts::unpack(&self.store, place, mount, progress).await {
                self.tell(format!(
                    "the cache mount `{id}` of the cache {place} is not used: {problem}"
                ));
            }
        };
        filled.get_or_init(filling).await;
    }

    /// Where a form of a layer is.
    pub(super) fn place(&self, number: usize) -> Option<&Place> {
        self.places.get(number)
    }
}

impl records::Layer {
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest, self.size)
    }
}
