//! Bringing results of other machines here: their listings, then their layers, and writing them down.

use std::sync::Arc;

use futures_util::future::try_join_all;
use rbuild_cache::tree::Tree;
use rbuild_cache::{ChainId, DiffId, Key, Snapshot};
use rbuild_image::Descriptor;
use rbuild_image::layer::IMAGE_VARIANT;
use rbuild_image::shared::LISTING_TYPE;
use rbuild_image::source::{self, From, Progress, StackLayer};

use super::super::Problem;
use super::super::records::LIST_LIMIT_BYTES;
use super::index::{Index, Layer, There};
use super::{Imports, lock};
use crate::worker::blocking;

/// Of one listing of files, not compressed.
const LISTING_LIMIT_BYTES: u64 = 256 << 20;

impl Imports {
    /// The view of a result, from the listings of its layers; `None` where they are not all there.
    pub(crate) async fn tree(&self, there: &There) -> Option<Arc<Tree>> {
        if let Some(known) = there.tree.get() {
            return Some(Arc::clone(known));
        }
        let trees = there.layers.iter().map(|(layer, _)| self.listing(layer));
        let trees = try_join_all(trees).await;
        let trees = trees
            .map_err(|problem| tracing::debug!(%problem, "a listing is not used"))
            .ok()?;
        let tree = blocking(move || {
            let layers: Vec<&Tree> = trees.iter().collect();
            Arc::new(Tree::merge(&layers))
        })
        .await;
        Some(Arc::clone(there.tree.get_or_init(|| async { tree }).await))
    }

    async fn listing(&self, layer: &Layer) -> Result<Tree, Problem> {
        let with_listing = layer
            .forms
            .iter()
            .find_map(|(number, form)| Some((self.places.get(*number)?, form.listing.clone()?)));
        let (place, listing) = with_listing.ok_or_else(|| Problem::new("there is none"))?;
        let blob = Descriptor::new(LISTING_TYPE, listing.digest, listing.size);
        let bytes = place.small(&blob, LIST_LIMIT_BYTES).await;
        let bytes = bytes.map_err(|error| Problem::of(&error))?;
        let wanted = layer.tree;
        blocking(move || {
            use std::io::Read as _;
            let mut text = Vec::new();
            zstd::Decoder::with_buffer(bytes.as_slice())
                .and_then(|it| it.take(LISTING_LIMIT_BYTES + 1).read_to_end(&mut text))
                .map_err(|error| Problem::of(&error))?;
            if text.len() as u64 > LISTING_LIMIT_BYTES {
                return Err(Problem::new("it is too long"));
            }
            let tree = Tree::decode(&text).map_err(|error| Problem::of(&error))?;
            match tree.digest() == wanted {
                true => Ok(tree),
                false => Err(Problem::new("it lists other files than its layer has")),
            }
        })
        .await
    }

    /// Brings a result here. After an error it, and all that has the same broken layer, is found no more.
    pub(crate) async fn bring(
        &self,
        there: &There,
        progress: Progress,
    ) -> Result<Option<Snapshot>, Problem> {
        if there.layers.is_empty() {
            return Ok(None);
        }
        let brought = there.here.get_or_try_init(|| async {
            let index = self.index().await;
            let mut layers = Vec::with_capacity(there.layers.len());
            for (layer, created) in &there.layers {
                let (descriptor, from, variant) = match self.base_of(layer) {
                    Some((location, descriptor)) => (
                        descriptor.clone(),
                        From::Image(location.clone()),
                        IMAGE_VARIANT.to_owned(),
                    ),
                    None => {
                        let form = self.form(index, layer, &|_| true).await;
                        let (number, form) = form.ok_or_else(|| {
                            Problem::new(format!("its layer {} is gone", layer.diff_id))
                        })?;
                        let place = self.places.get(*number);
                        let place = place.ok_or_else(|| Problem::new("its place is unknown"))?;
                        let from = From::Shared(place.clone());
                        (form.descriptor(), from, form.variant.clone())
                    }
                };
                layers.push(StackLayer {
                    descriptor,
                    diff_id: DiffId(layer.diff_id),
                    from,
                    variant,
                    created: *created,
                    tree: Some(layer.tree),
                });
            }
            let stacked = source::stack(&self.store, &self.client, layers, progress).await;
            let stacked = stacked.map_err(|error| Problem::of(&error))?;
            self.save_below(index, there, &stacked)?;
            let top = stacked.last().cloned();
            top.ok_or_else(|| Problem::new("it has no layers"))
        });
        match brought.await {
            Ok(snapshot) => {
                self.save(there, snapshot)?;
                Ok(Some(snapshot.clone()))
            }
            Err(problem) => {
                self.break_off(there);
                self.tell_unusable(there, &problem);
                Err(problem)
            }
        }
    }

    pub(super) fn tell_unusable(&self, there: &There, problem: &Problem) {
        let step = &there.record.step;
        self.tell(format!(
            "a cached result of `{step}` is not used, and its step runs: {problem}"
        ));
    }

    /// The lowest layer that did not come is the one to blame: those above wait for it.
    fn break_off(&self, there: &There) {
        let mut chain = None;
        for (layer, _) in &there.layers {
            let this = ChainId::of(chain, DiffId(layer.diff_id));
            chain = Some(this);
            let is_here = matches!(
                self.store.snapshot_by_chain(&this),
                Ok(Some(snapshot)) if snapshot.tree == layer.tree
            );
            if !is_here {
                let forms = layer
                    .forms
                    .iter()
                    .map(|(number, form)| (*number, form.digest));
                lock(&self.memory).broken.extend(forms);
                return;
            }
        }
        // Whatever went wrong, the next attempt would fail as well.
        lock(&self.memory).is_given_up = true;
    }

    /// Where an image's last step was found, those below it were not asked for, and they are here now: written down,
    /// they are found by a build whose last step is another, and the image can carry them again.
    fn save_below(&self, index: &Index, there: &There, stack: &[Snapshot]) -> Result<(), Problem> {
        for below in &index.carried {
            let count = below.layers.len();
            let mut both = below.layers.iter().zip(&there.layers);
            let is_below = count <= there.layers.len()
                && both.all(|((one, _), (other, _))| Arc::ptr_eq(one, other));
            if !is_below || std::ptr::eq(below.as_ref(), there) {
                continue;
            }
            let snapshot = count.checked_sub(1).and_then(|place| stack.get(place));
            for key in &below.record.keys {
                let known = self
                    .store
                    .lookup(key.0)
                    .map_err(|error| Problem::of(&error))?;
                if known.is_none() {
                    self.store
                        .save(&[key.0], &local_record(below, key.0, snapshot))
                        .map_err(|error| Problem::of(&error))?;
                }
            }
        }
        Ok(())
    }

    /// Writes down what was brought under the keys by which it was found: the next build finds it here.
    fn save(&self, there: &There, snapshot: &Snapshot) -> Result<(), Problem> {
        let mut asked = lock(&there.asked);
        if asked.is_saved {
            return Ok(());
        }
        let key = asked.keys.first().copied().unwrap_or(there.content);
        let record = local_record(there, key, Some(snapshot));
        self.store
            .save(&asked.keys, &record)
            .map_err(|error| Problem::of(&error))?;
        asked.is_saved = true;
        Ok(())
    }
}

fn local_record(
    there: &There,
    key: Key,
    snapshot: Option<&Snapshot>,
) -> rbuild_cache::record::Record {
    rbuild_cache::record::Record {
        key,
        snapshot: snapshot.map(|snapshot| snapshot.id.clone()),
        extra: Vec::new(),
        step: there.record.step.clone(),
        ingredients: there.record.ingredients.clone(),
        created: there.record.created,
        duration_ms: there.record.duration_ms,
    }
}
