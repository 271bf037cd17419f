//! Which of a build's snapshots become a layer each, and which become one together: `--squash`, and the number of
//! layers that an image may have.

use std::collections::HashSet;
use std::ops::Range;

use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::{ChainId, SnapshotId, Store};
use rbuild_image::config::History;
use rbuild_image::layer::{LayerOptions, merged, of_known};
use rbuild_solver::{Graph, VertexId};

use crate::assemble::{Form, Solved};
use crate::lower::{HistoryEntry, LoweredImage};
use crate::op::Op;
use crate::request::Squash;
use crate::{Error, Result};

/// Docker refuses images with more layers than this, and the kernel mounts that need more directories than about so
/// many.
pub(crate) const LAYERS_LIMIT: usize = 125;

/// The vertices whose results come to be layers of what `targets` give.
pub(crate) fn spine(
    graph: &Graph<Op>,
    targets: impl IntoIterator<Item = VertexId>,
) -> HashSet<VertexId> {
    let mut spine = HashSet::new();
    let mut open: Vec<VertexId> = targets.into_iter().collect();
    while let Some(vertex) = open.pop() {
        if !spine.insert(vertex) {
            continue;
        }
        let below = match graph.operation(vertex) {
            Op::Exec(exec) => usize::from(exec.base),
            Op::File(file) => usize::from(file.base),
            Op::Merge => usize::MAX,
            Op::Image(_) | Op::Context(_) | Op::Http(_) | Op::Git(_) => 0,
        };
        open.extend(graph.inputs(vertex).into_iter().take(below));
    }
    spine
}

/// Neighbouring snapshots that become one layer, bottom first. Every snapshot is in one of them.
pub(crate) fn groups(solved: &Solved<'_>, form: &Form) -> Vec<Range<usize>> {
    let count = solved.layers.len();
    let first = match form.squash {
        Squash::No => count,
        Squash::Own => solved.image.base_layers,
        Squash::All => 0,
        Squash::Stage => first_layer_from(solved.image, solved.image.stage_line),
        Squash::FromLine(line) => first_layer_from(solved.image, line),
    };
    let first = first.min(count);
    let mut groups: Vec<Range<usize>> = (0..first).map(|place| place..place + 1).collect();
    if first < count {
        groups.push(first..count);
    }
    let sizes: Vec<u64> = solved.layers.iter().map(|layer| layer.size_bytes).collect();
    let own = solved.image.base_layers.min(groups.len());
    limit(&mut groups, &sizes, own, form.layers_limit.max(1));
    groups
}

/// A line below which there is nothing to make one layer of is a mistake.
pub(crate) fn check(squash: Squash, images: &[LoweredImage]) -> Result<()> {
    let Squash::FromLine(wanted) = squash else {
        return Ok(());
    };
    let last = images.iter().flat_map(own_layers).max();
    if last.is_some_and(|last| wanted <= last) {
        return Ok(());
    }
    let known = match last {
        Some(last) => format!("the last that makes a layer is at line {last}"),
        None => "none makes a layer".to_owned(),
    };
    Err(Error::Usage(format!(
        "--squash=from:{wanted}: no instruction of the result from there on makes a layer; {known}"
    )))
}

/// The place of the first layer that an instruction at `line` or below it made.
fn first_layer_from(image: &LoweredImage, line: usize) -> usize {
    image.base_layers + own_layers(image).take_while(|own| *own < line).count()
}

/// Lines of the instructions that make its layers.
fn own_layers(image: &LoweredImage) -> impl Iterator<Item = usize> {
    image.history.iter().filter_map(|entry| match entry {
        HistoryEntry::Own {
            layer: true, line, ..
        } => Some(*line),
        HistoryEntry::Own { .. } | HistoryEntry::Inherited(_) => None,
    })
}

/// Merges the smallest neighbours until there are few enough. The base image's layers, which others may have already,
/// stay as they are as long as that is enough.
fn limit(groups: &mut Vec<Range<usize>>, sizes: &[u64], base: usize, limit: usize) {
    let size = |group: &Range<usize>| -> u64 {
        let sizes = sizes.get(group.clone()).unwrap_or_default();
        sizes.iter().fold(0, |sum, size| sum.saturating_add(*size))
    };
    let is_base_alone = groups.len() == base;
    while groups.len() > limit {
        // What is as it came is not ours to change.
        if is_base_alone {
            return;
        }
        let from = if groups.len() > base + 1 { base } else { 0 };
        let pairs = groups.iter().zip(groups.iter().skip(1)).enumerate();
        let smallest = pairs
            .skip(from)
            .min_by_key(|(_, (lower, upper))| size(lower).saturating_add(size(upper)));
        let Some((place, (lower, upper))) = smallest else {
            return;
        };
        let joined = lower.start..upper.end;
        groups.splice(place..place + 2, [joined]);
    }
}

/// The layers of all groups, made where they are not known.
pub(crate) fn layers(
    store: &Store,
    solved: &Solved<'_>,
    form: &Form,
    groups: &[Range<usize>],
) -> Result<Vec<LayerBlob>> {
    let mut layers: Vec<LayerBlob> = Vec::with_capacity(groups.len());
    // The chain ID so far; the outer `None`: a blob holds something else than its snapshot.
    let mut chain = Some(None);
    let mut stacks = Vec::new();
    // Most layers of most builds are known: all are asked for at once.
    let ids: Vec<&SnapshotId> = solved.layers.iter().map(|layer| &layer.id).collect();
    let known = store.layer_blobs(&ids)?;
    for group in groups {
        let snapshots = solved.layers.get(group.clone()).unwrap_or_default();
        let Some(top) = snapshots.last() else {
            continue;
        };
        let is_own = group.end > solved.image.base_layers;
        // The base image's layers are not ours to date.
        let clamp_mtime = solved
            .image
            .epoch
            .filter(|_| form.rewrite_timestamp && is_own);
        let options = LayerOptions {
            compression: form.compression,
            oci_media_types: form.oci_media_types,
            clamp_mtime,
        };
        let force = form.force_compression || clamp_mtime.is_some();
        let ids: Vec<SnapshotId> = snapshots.iter().map(|layer| layer.id.clone()).collect();
        let alone = known.get(group.start).filter(|_| ids.len() == 1);
        let blob = match alone.and_then(|known| of_known(known, &options, force)) {
            Some(blob) => Ok(blob),
            None => merged(store, &ids, group.start == 0, &options, force),
        };
        let blob = blob.map_err(|error| match error {
            // The step that made it was found, not run: it would have said so itself.
            rbuild_image::Error::RemovalName { .. } => {
                let lines = lines_of(solved.image, group);
                Error::Other(format!("{error} (made by {lines} of the Dockerfile)"))
            }
            error => error.into(),
        })?;
        chain = chain.filter(|_| clamp_mtime.is_none() && ids.len() == 1);
        if let Some(parent) = chain {
            let this = ChainId::of(parent, blob.diff_id);
            chain = Some(Some(this));
            if is_own {
                stacks.push((&top.id, this));
            }
        }
        layers.push(blob);
    }
    // So that a build from this image finds its layers unpacked.
    store.set_chains_once(&stacks)?;
    Ok(layers)
}

/// `line 3`, or `lines 3 to 5`: where the instructions stand that made a group of layers.
fn lines_of(image: &LoweredImage, group: &Range<usize>) -> String {
    let own = image.history.iter().filter_map(|entry| match entry {
        HistoryEntry::Own {
            layer: true, line, ..
        } => Some(*line),
        HistoryEntry::Own { .. } | HistoryEntry::Inherited(_) => None,
    });
    let above_base = |place: usize| place.saturating_sub(image.base_layers);
    let own: Vec<usize> = own
        .take(above_base(group.end))
        .skip(above_base(group.start))
        .collect();
    match (own.first(), own.last()) {
        (Some(first), Some(last)) if first != last => format!("lines {first} to {last}"),
        (Some(line), _) => format!("line {line}"),
        (None, _) => "an instruction".to_owned(),
    }
}

/// Has the history tell of as many layers as there are: of a group, the last entry has made it.
pub(crate) fn tell(history: &mut [History], groups: &[Range<usize>]) {
    let made = history.iter_mut().filter(|entry| !entry.empty_layer);
    for (place, entry) in made.enumerate() {
        // A history may have fewer entries than there are layers; nothing can be said of the rest.
        entry.empty_layer = !groups.iter().any(|group| group.end == place + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(sizes: &[u64], base: usize, most: usize) -> Vec<Range<usize>> {
        let mut groups: Vec<Range<usize>> = (0..sizes.len()).map(|one| one..one + 1).collect();
        limit(&mut groups, sizes, base, most);
        groups
    }

    #[test]
    fn the_smallest_neighbours_are_merged() {
        assert_eq!(limited(&[9, 1, 1, 9], 0, 3), [0..1, 1..3, 3..4]);
        assert_eq!(limited(&[9, 1, 1, 9], 0, 1).first(), Some(&(0..4)));
        // The base stays as long as that is enough.
        assert_eq!(limited(&[1, 1, 9, 9], 2, 3), [0..1, 1..2, 2..4]);
        assert_eq!(limited(&[1, 1, 9, 9], 2, 2), [0..2, 2..4]);
        // An image that is another's is left alone.
        assert_eq!(limited(&[1, 1, 1], 3, 2).len(), 3);
    }

    #[test]
    fn the_history_has_a_layer_for_each_group() {
        let entry = |empty_layer| History {
            empty_layer,
            ..History::default()
        };
        let mut history = [entry(false), entry(true), entry(false), entry(false)];
        tell(&mut history, &[0..1, 1..3]);
        let empty: Vec<bool> = history.iter().map(|entry| entry.empty_layer).collect();
        assert_eq!(empty, [false, true, true, false]);
    }
}
