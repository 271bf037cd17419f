//! Several neighbouring snapshots of a chain as one layer, which means on what lies below what they mean together.

use std::io::Write;
use std::sync::Arc;

use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::tree::Tree;
use rbuild_cache::{RootDir, SnapshotId, Store};

use super::entries::{Archive, EntryWriter};
use super::{LayerOptions, layer, open_root, write_blob};
use crate::Result;
use crate::tarfile::writer::Writer;

/// Returns the layer that `group` (bottom first) makes together, made if it is not known yet. `on_nothing`: nothing
/// lies below, so that there is nothing to remove or to hide. Blocking.
pub fn merged(
    store: &Store,
    group: &[SnapshotId],
    on_nothing: bool,
    options: &LayerOptions,
    force: bool,
) -> Result<LayerBlob> {
    let top = match group {
        [one] => return layer(store, one, options, force),
        several => several.last(),
    };
    let Some(top) = top else {
        return Err(crate::Error::NotFound("a layer of nothing".to_owned()));
    };
    // The top's chain is fixed: with the number of snapshots it is known which are merged.
    let whole = if on_nothing { ".whole" } else { "" };
    let variant = format!("merged{}{whole}.{}", group.len(), options.variant());
    if let Some(mut blob) = store.layer_blob(top, &variant)? {
        options.media_type().clone_into(&mut blob.media_type);
        return Ok(blob);
    }
    let trees: Vec<Arc<Tree>> = group
        .iter()
        .map(|id| store.tree(id))
        .collect::<Result<_, _>>()?;
    let roots: Vec<RootDir> = group
        .iter()
        .map(|id| open_root(store, id))
        .collect::<Result<_>>()?;
    let borrowed: Vec<&Tree> = trees.iter().map(AsRef::as_ref).collect();
    let entries = Tree::stack(&borrowed);
    let total = entries.iter().map(|(_, entry)| entry.size).sum();
    let write = |output: &mut dyn Write| -> Result<()> {
        let archive = if on_nothing {
            Archive::BottomLayer
        } else {
            Archive::Layer
        };
        let mut writer = EntryWriter::new(Writer::new(output), options.clamp_mtime, archive);
        for (number, entry) in &entries {
            if on_nothing && entry.kind == rbuild_cache::tree::Kind::Whiteout {
                continue;
            }
            if let Some(root) = roots.get(*number) {
                writer.write(entry, root, *number)?;
            }
        }
        writer.finish()
    };
    let blob = write_blob(store, top.as_str(), options, total, write)?;
    store.set_layer_blob(top, &variant, &blob)?;
    Ok(blob)
}
