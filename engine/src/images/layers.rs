//! `image layers`: what each layer of an image adds, what of it nobody sees, and which instruction made it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use rbuild_cache::tree::{Kind, Tree};
use rbuild_image::Platform;
use serde::Serialize;

use crate::compare::{Change, shown};
use crate::worker::blocking;
use crate::{Engine, Error, Result};

/// A layer, bottom first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerSummary {
    /// Diff ID.
    pub id: String,
    pub created_by: String,
    pub created: Option<String>,
    /// Of its files, in bytes.
    pub size: u64,
    /// Bytes of its files that a layer above replaces or removes.
    pub wasted: u64,
    pub added: usize,
    pub changed: usize,
    pub removed: usize,
    pub files: Vec<LayerFile>,
}

/// A path that a layer has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerFile {
    pub path: String,
    pub change: Change,
    pub size: u64,
    /// A layer above replaces or removes it.
    pub hidden: bool,
}

impl Engine {
    /// The layers of an image, bottom first. `image` as for `run`.
    pub async fn image_layers(
        &self,
        image: &str,
        platform: Option<&Platform>,
    ) -> Result<Vec<LayerSummary>> {
        let root = self.image_root(image, platform).await?;
        let store = Arc::clone(self.store());
        blocking(move || {
            let trees = root.chain.iter().map(|link| store.tree(&link.id));
            let trees: Vec<Arc<Tree>> = trees.collect::<Result<_, _>>()?;
            let mut layers = summaries(&trees);
            let history = root.config.history.iter();
            let made = history.filter(|entry| !entry.empty_layer);
            for (layer, entry) in layers.iter_mut().zip(made) {
                layer.created_by = entry.created_by.clone().unwrap_or_default();
                layer.created.clone_from(&entry.created);
            }
            let ids = root.config.rootfs.diff_ids.unwrap_or_default();
            for (layer, id) in layers.iter_mut().zip(ids) {
                layer.id = id.to_string();
            }
            Ok::<_, Error>(layers)
        })
        .await
    }
}

fn summaries(trees: &[Arc<Tree>]) -> Vec<LayerSummary> {
    // Which layer a path is seen of at the end, and what is seen on the way up.
    let mut seen: BTreeSet<&[u8]> = BTreeSet::new();
    let mut layers = Vec::with_capacity(trees.len());
    let mut owner: HashMap<&[u8], usize> = HashMap::new();
    for (number, tree) in trees.iter().enumerate() {
        let mut layer = LayerSummary {
            id: String::new(),
            created_by: String::new(),
            created: None,
            size: tree.size_bytes(),
            wasted: 0,
            added: 0,
            changed: 0,
            removed: 0,
            files: Vec::new(),
        };
        // What a layer removes, it removes before it adds.
        for entry in tree.entries.iter().filter(|it| it.opaque) {
            remove_below(&mut seen, &mut owner, &entry.path);
        }
        for entry in tree.entries.iter().filter(|it| !it.path.is_empty()) {
            let path = entry.path.as_slice();
            let (change, size) = match entry.kind {
                Kind::Whiteout => {
                    seen.remove(path);
                    owner.remove(path);
                    remove_below(&mut seen, &mut owner, path);
                    layer.removed += 1;
                    (Change::Removed, 0)
                }
                kind => {
                    let size = if kind == Kind::File { entry.size } else { 0 };
                    let is_new = seen.insert(path);
                    owner.insert(path, number);
                    // What was a directory and is none any more hides what was in it.
                    if !is_new && kind != Kind::Directory {
                        remove_below(&mut seen, &mut owner, path);
                    }
                    // Layers list directories again because of what is in them: that is no change.
                    match (is_new, kind) {
                        (true, _) => layer.added += 1,
                        (false, Kind::Directory) => continue,
                        (false, _) => layer.changed += 1,
                    }
                    (
                        if is_new {
                            Change::Added
                        } else {
                            Change::Changed
                        },
                        size,
                    )
                }
            };
            layer.files.push(LayerFile {
                path: shown(path),
                change,
                size,
                hidden: false,
            });
        }
        layers.push(layer);
    }
    for (number, (layer, tree)) in layers.iter_mut().zip(trees).enumerate() {
        let mut counted = HashSet::new();
        let mut hidden = HashSet::new();
        for entry in tree.entries.iter().filter(|it| it.kind == Kind::File) {
            if owner.get(entry.path.as_slice()) == Some(&number) {
                // One name that is seen keeps the bytes of all of them.
                counted.insert(entry.hard_link);
            } else {
                hidden.insert(shown(&entry.path));
            }
        }
        for entry in tree.entries.iter().filter(|it| it.kind == Kind::File) {
            let is_hidden = owner.get(entry.path.as_slice()) != Some(&number);
            if is_hidden && (entry.hard_link == 0 || counted.insert(entry.hard_link)) {
                layer.wasted += entry.size;
            }
        }
        for file in &mut layer.files {
            file.hidden = hidden.contains(&file.path);
        }
    }
    layers
}

fn remove_below<'a>(
    seen: &mut BTreeSet<&'a [u8]>,
    owner: &mut HashMap<&'a [u8], usize>,
    path: &[u8],
) {
    let start = match path {
        b"" => Vec::new(),
        path => [path, b"/"].concat(),
    };
    let range = (Bound::Included(start.as_slice()), Bound::Unbounded);
    let below: Vec<&[u8]> = seen
        .range::<[u8], _>(range)
        .copied()
        .take_while(|one| one.starts_with(&start))
        .collect();
    for one in below {
        seen.remove(one);
        owner.remove(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_cache::tree::Entry;

    fn tree(entries: &[(&str, Kind, u64)]) -> Arc<Tree> {
        let entry = |(path, kind, size): &(&str, Kind, u64)| Entry {
            size: *size,
            ..Entry::new((*path).into(), *kind)
        };
        let mut tree = Tree {
            entries: entries.iter().map(entry).collect(),
        };
        tree.sort();
        Arc::new(tree)
    }

    #[test]
    fn what_later_layers_hide_is_wasted() {
        let trees = [
            tree(&[
                ("a", Kind::File, 10),
                ("d", Kind::Directory, 0),
                ("d/x", Kind::File, 5),
                ("k", Kind::File, 1),
            ]),
            tree(&[("a", Kind::File, 20), ("n", Kind::File, 2)]),
            tree(&[("a", Kind::Whiteout, 0), ("d", Kind::Whiteout, 0)]),
        ];
        let found = summaries(&trees);
        let figures: Vec<_> = found
            .iter()
            .map(|it| (it.size, it.wasted, it.added, it.changed, it.removed))
            .collect();
        assert_eq!(
            figures,
            [(16, 15, 4, 0, 0), (22, 20, 1, 1, 0), (0, 0, 0, 0, 2)]
        );
        let hidden: Vec<&str> = found[0]
            .files
            .iter()
            .filter(|it| it.hidden)
            .map(|it| &*it.path)
            .collect();
        assert_eq!(hidden, ["/a", "/d/x"]);
    }
}
