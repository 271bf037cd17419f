//! What shared caches have, as their lists say: layers, and the results that are made of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rbuild_cache::tree::Tree;
use rbuild_cache::{Digest, Key, Snapshot};
use rbuild_image::shared::State;
use rbuild_image::source;
use tokio::sync::OnceCell;

use super::remote::Remote;
use crate::shared_cache::records::{self, List};

/// A layer that somebody's record speaks of.
#[derive(Debug)]
pub(in crate::shared_cache) struct Layer {
    pub(in crate::shared_cache) diff_id: Digest,
    pub(in crate::shared_cache) tree: Key,
    /// The same files in the forms and at the places where they are.
    pub(in crate::shared_cache) forms: Vec<(usize, records::Layer)>,
}

/// A result that a shared cache has.
#[derive(Debug)]
pub(crate) struct There {
    /// Bottom first, with the time when each was made.
    pub(in crate::shared_cache) layers: Vec<(Arc<Layer>, i64)>,
    pub(in crate::shared_cache) record: records::Record,
    /// Identity of its root, as the record has it.
    pub(crate) content: Key,
    pub(super) here: OnceCell<Snapshot>,
    pub(super) tree: OnceCell<Arc<Tree>>,
    /// Its layers, where it stays where it is.
    pub(super) remote: Mutex<Option<Vec<Remote>>>,
    pub(super) asked: Mutex<Asked>,
}

/// The keys by which a result was found in this build: those that a local record of it gets.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) keys: Vec<Key>,
    pub(super) is_saved: bool,
}

/// All that the caches of a build have.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) results: HashMap<Key, Vec<Arc<There>>>,
    pub(super) steps: HashMap<String, Vec<Arc<There>>>,
    pub(super) mounts: HashMap<String, (usize, records::Mount)>,
    /// What images carry.
    pub(super) carried: Vec<Arc<There>>,
    /// What each place lists; `None` where nothing could be read.
    pub(super) states: Vec<Option<State>>,
}

impl There {
    /// The contents of the roots that it stands on, and its own.
    pub(crate) fn contents(&self) -> Vec<Key> {
        let mut contents: Vec<Key> = Vec::with_capacity(self.layers.len());
        for (layer, _) in &self.layers {
            let below = contents.last().copied();
            contents.push(rbuild_cache::snapshot::content_key(below, layer.tree));
        }
        contents
    }

    /// The view, if it was read.
    pub(crate) fn known_tree(&self) -> Option<Arc<Tree>> {
        self.tree.get().cloned()
    }

    /// The snapshot, if it was brought.
    pub(crate) fn known_snapshot(&self) -> Option<&Snapshot> {
        self.here.get()
    }
}

pub(super) fn add_layers(layers: &mut HashMap<(Digest, Key), Layer>, number: usize, list: &List) {
    for form in &list.layers {
        let layer = layers
            .entry((form.diff_id, form.tree.0))
            .or_insert_with(|| Layer {
                diff_id: form.diff_id,
                tree: form.tree.0,
                forms: Vec::new(),
            });
        if source::is_layer(&form.media_type) && !layer.forms.iter().any(|(_, it)| it == form) {
            layer.forms.push((number, form.clone()));
        }
    }
}

impl Index {
    pub(super) fn add(&mut self, list: &List, layers: &HashMap<(Digest, Key), Arc<Layer>>) {
        for record in &list.records {
            let chain = record.chain.iter().map(|(place, created)| {
                let layer = list.layers.get(*place)?;
                let layer = layers.get(&(layer.diff_id, layer.tree.0))?;
                Some((Arc::clone(layer), *created))
            });
            let Some(chain) = chain.collect::<Option<Vec<_>>>() else {
                continue;
            };
            let mut content = None;
            for (layer, _) in &chain {
                content = Some(rbuild_cache::snapshot::content_key(content, layer.tree));
            }
            let there = Arc::new(There {
                layers: chain,
                content: content.unwrap_or_else(crate::worker::empty_root_content),
                record: record.clone(),
                here: OnceCell::new(),
                tree: OnceCell::new(),
                remote: Mutex::default(),
                asked: Mutex::default(),
            });
            for key in &record.keys {
                let results = self.results.entry(key.0).or_default();
                results.push(Arc::clone(&there));
            }
            if list.is_carried {
                self.carried.push(Arc::clone(&there));
            }
            // What an image carries does not tell what its steps were made of.
            if !record.ingredients.is_empty() {
                let of_step = self.steps.entry(record.step.clone()).or_default();
                of_step.push(there);
            }
        }
    }

    /// Of several of an id the newest counts.
    pub(super) fn add_mount(&mut self, number: usize, mount: &records::Mount) {
        let known = self.mounts.get(&mount.id);
        if known.is_none_or(|(_, known)| known.created < mount.created) {
            self.mounts
                .insert(mount.id.clone(), (number, mount.clone()));
        }
    }

    /// Of several results of a key the first one made counts: what others add later changes nothing.
    pub(super) fn sort(&mut self) {
        for results in self.results.values_mut() {
            results.sort_by_key(|there| there.record.created);
        }
        for of_step in self.steps.values_mut() {
            of_step.sort_by_key(|there| std::cmp::Reverse(there.record.created));
            of_step.truncate(32);
        }
    }
}
