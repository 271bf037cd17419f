//! Stacking trees as overlayfs stacks their directories.
//!
//! Two neighbours of a chain merge into one layer that means the same as both, marks kept; so the whole chain is
//! merged in a balanced way, in time proportional to its entries times the logarithm of its length. Marks are
//! resolved at the very end.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{Entry, Kind, Tree, is_at_or_below, path_order};

#[derive(Clone, Copy)]
struct Item<'a> {
    entry: &'a Entry,
    opaque: bool,
    /// Which tree of the chain it is from: hard link numbers are a tree's own.
    layer: usize,
}

pub(super) fn merge(chain: &[&Tree]) -> Tree {
    view(stacked(chain))
}

/// The entries of one layer that means the same as all of them, with the place in the chain that each is from. Marks
/// stay, for what lies below.
pub(super) fn entries(chain: &[&Tree]) -> Vec<(usize, Entry)> {
    let own = |item: Item<'_>| {
        let mut entry = item.entry.clone();
        entry.opaque = item.opaque;
        (item.layer, entry)
    };
    stacked(chain).into_iter().map(own).collect()
}

fn stacked<'a>(chain: &[&'a Tree]) -> Vec<Item<'a>> {
    let mut layers: Vec<Vec<Item<'_>>> = chain
        .iter()
        .enumerate()
        .map(|(layer, tree)| {
            let item = |entry| Item {
                entry,
                opaque: Entry::is_opaque(entry),
                layer,
            };
            tree.entries.iter().map(item).collect()
        })
        .collect();
    while layers.len() > 1 {
        let mut next = Vec::with_capacity(layers.len().div_ceil(2));
        let mut pairs = layers.into_iter();
        while let Some(lower) = pairs.next() {
            next.push(match pairs.next() {
                Some(upper) => stack(&lower, &upper),
                None => lower,
            });
        }
        layers = next;
    }
    layers.pop().unwrap_or_default()
}

impl Entry {
    fn is_opaque(&self) -> bool {
        self.opaque && self.kind == Kind::Directory
    }
}

/// One layer that means the same as `upper` on `lower`.
fn stack<'a>(lower: &[Item<'a>], upper: &[Item<'a>]) -> Vec<Item<'a>> {
    let mut out = Vec::with_capacity(lower.len() + upper.len());
    let mut rest = lower;
    for &item in upper {
        let path = item.entry.path.as_slice();
        let before = rest
            .partition_point_from_start(|low| path_order(&low.entry.path, path) == Ordering::Less);
        let (less, mut after) = rest.split_at_checked(before).unwrap_or((rest, &[]));
        out.extend_from_slice(less);
        let mut merged = item;
        let same = after.first().filter(|low| low.entry.path == path).copied();
        if let Some(low) = same {
            after = after.get(1..).unwrap_or_default();
            if item.entry.kind == Kind::Directory {
                // A directory on something else hides what lies deeper at that path; so does an opaque one that
                // shows through.
                merged.opaque |= low.opaque || low.entry.kind != Kind::Directory;
            }
        }
        if item.entry.kind != Kind::Directory || item.opaque {
            let hidden =
                after.partition_point_from_start(|low| is_at_or_below(&low.entry.path, path));
            after = after.get(hidden..).unwrap_or_default();
        }
        out.push(merged);
        rest = after;
    }
    out.extend_from_slice(rest);
    out
}

/// Finds the end of a run that is short as a rule: by steps that double, then by halving.
trait Gallop<T> {
    fn partition_point_from_start(&self, holds: impl Fn(&T) -> bool) -> usize;
}

impl<T> Gallop<T> for [T] {
    fn partition_point_from_start(&self, holds: impl Fn(&T) -> bool) -> usize {
        let mut step = 1;
        let mut start = 0;
        while let Some(item) = self.get(start + step - 1) {
            if !holds(item) {
                break;
            }
            start += step;
            step *= 2;
        }
        let end = (start + step - 1).min(self.len());
        let window = self.get(start..end).unwrap_or_default();
        start + window.partition_point(holds)
    }
}

/// Drops the marks and gives hard links numbers that are unique in the view.
fn view(items: Vec<Item<'_>>) -> Tree {
    let mut links: HashMap<(usize, u32), u32> = HashMap::new();
    for item in &items {
        if item.entry.hard_link != 0 {
            *links.entry((item.layer, item.entry.hard_link)).or_default() += 1;
        }
    }
    // A name whose other names are hidden is a file of its own.
    links.retain(|_, names| *names > 1);
    let mut numbers: HashMap<(usize, u32), u32> = HashMap::with_capacity(links.len());
    let mut entries = Vec::with_capacity(items.len());
    for item in items {
        if item.entry.kind == Kind::Whiteout {
            continue;
        }
        let mut entry = item.entry.clone();
        entry.opaque = false;
        let group = (item.layer, entry.hard_link);
        entry.hard_link = if links.contains_key(&group) {
            let next = u32::try_from(numbers.len() + 1).unwrap_or(u32::MAX);
            *numbers.entry(group).or_insert(next)
        } else {
            0
        };
        entries.push(entry);
    }
    Tree { entries }
}
