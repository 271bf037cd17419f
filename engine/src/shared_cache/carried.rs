//! `--cache-to type=inline`: records in the config of the image that they are of.
//!
//! They speak of nothing but the image's own layers, counted from the bottom, and of steps by their definition only:
//! so the same build writes the same bytes wherever its results come from, and an image keeps its digest. What led to
//! a step (build arguments, names of files) stays at home: images are shown to others.

use rbuild_cache::{Digest, Key, Snapshot, Store};
use rbuild_image::layer::{IMAGE_VARIANT, in_layer};
use rbuild_image::shared::Carried;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Problem;
use super::records::{self, HexKey, List};

/// Of what an image carries, as text.
const LIMIT_BYTES: usize = 2 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Records {
    layers: Vec<Layer>,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Layer {
    tree: HexKey,
    size: u64,
    created: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Step {
    key: HexKey,
    /// How many of the layers it stands on, its own among them.
    layers: usize,
    step: String,
}

/// A step's result: its definition key, its content and its words.
pub(crate) struct Made {
    pub(super) key: Key,
    pub(super) content: Key,
    pub(super) step: String,
}

/// What an image of these layers, the lowest of them a base image's, is to carry of some results. Blocking.
pub(crate) fn write(
    store: &Store,
    made: &[Made],
    layers: &[Snapshot],
    base_layers: usize,
    epoch: Option<i64>,
) -> Result<Value, Problem> {
    let mut noted = Vec::with_capacity(layers.len());
    // Roots have one identity where they were made, and another where they were unpacked.
    let (mut here, mut there) = (Vec::new(), vec![crate::worker::empty_root_content()]);
    here.extend(there.first().copied());
    let mut below = None;
    for (place, snapshot) in layers.iter().enumerate() {
        let tree = store.tree(&snapshot.id);
        let tree = in_layer(&*tree.map_err(|error| Problem::of(&error))?);
        let digest = tree.digest();
        let content = rbuild_cache::snapshot::content_key(below, digest);
        below = Some(content);
        here.push(snapshot.content);
        there.push(content);
        noted.push(Layer {
            tree: HexKey(digest),
            size: tree.size_bytes(),
            created: match place < base_layers {
                // As if it had been unpacked, wherever it was made.
                true => 0,
                false => epoch.map_or(snapshot.created, |epoch| snapshot.created.min(epoch)),
            },
        });
    }
    let mut steps: Vec<Step> = made
        .iter()
        .filter_map(|made| {
            let mut both = here.iter().zip(&there);
            let layers = both.position(|(a, b)| made.content == *a || made.content == *b)?;
            Some(Step {
                key: HexKey(made.key),
                layers,
                step: made.step.clone(),
            })
        })
        .collect();
    steps.sort_unstable_by_key(|step| (step.layers, step.key));
    steps.dedup_by_key(|step| step.key);
    let records = Records {
        layers: noted,
        steps,
    };
    let text = serde_json::to_string(&records).map_err(|error| Problem::of(&error))?;
    if text.len() > LIMIT_BYTES {
        let size = text.len();
        return Err(Problem::new(format!(
            "they would take {size} bytes, and an image's config has room for {LIMIT_BYTES}; `type=registry` has no such limit"
        )));
    }
    serde_json::to_value(&records).map_err(|error| Problem::of(&error))
}

/// What an image carries, as a list of records like any other.
pub(super) fn read(carried: Carried) -> Result<List, Problem> {
    let broken = |reason: String| {
        Problem::new(format!(
            "the records in the image's config are broken: {reason}"
        ))
    };
    let records: Records =
        serde_json::from_value(carried.records).map_err(|error| broken(error.to_string()))?;
    let (said, there) = (records.layers.len(), carried.layers.len());
    if said != there {
        return Err(broken(format!(
            "they speak of {said} layers, and the image has {there}"
        )));
    }
    let mut list = List::default();
    list.is_carried = true;
    let mut times = Vec::with_capacity(there);
    for (layer, (blob, diff_id)) in records.layers.iter().zip(&carried.layers) {
        times.push(layer.created);
        list.layers.push(form(layer, blob, *diff_id));
    }
    for step in records.steps {
        let chain = times.get(..step.layers).ok_or_else(|| {
            let layers = step.layers;
            broken(format!("a step has {layers} layers of {there}"))
        })?;
        list.records.push(records::Record {
            keys: vec![step.key],
            chain: chain.iter().copied().enumerate().collect(),
            step: step.step,
            ingredients: Vec::new(),
            created: chain.last().copied().unwrap_or_default(),
            duration_ms: 0,
        });
    }
    Ok(list)
}

fn form(layer: &Layer, blob: &rbuild_image::Descriptor, diff_id: Digest) -> records::Layer {
    records::Layer {
        diff_id,
        tree: layer.tree,
        files_size: layer.size,
        variant: IMAGE_VARIANT.to_owned(),
        media_type: blob.media_type.clone(),
        digest: blob.digest,
        size: blob.size,
        listing: None,
    }
}
