//! Wildcards over a tree, one segment each.

use rbuild_cache::tree::{Entry, Kind, Tree, is_at_or_below};
use rbuild_parser::glob::Glob;

use super::Error;
use super::follow::follow;
use super::pattern::Segment;

/// Returns the paths, as names, that the segments name, in tree order. Literal ones need not be there; links are
/// followed only before the first wildcard.
pub(super) fn matches(
    tree: &Tree,
    written: &str,
    segments: &[Segment],
) -> Result<Vec<Vec<Vec<u8>>>, Error> {
    let literal = segments
        .iter()
        .position(|segment| matches!(segment, Segment::Wildcard(_)))
        .unwrap_or(segments.len());
    let (start, patterns) = segments.split_at(literal);
    let start: Vec<Vec<u8>> = start.iter().map(|name| name.bytes().to_vec()).collect();
    if patterns.is_empty() {
        return Ok(vec![start]);
    }
    let patterns = patterns
        .iter()
        .map(|pattern| Glob::new(pattern.bytes()))
        .collect::<Result<Vec<Glob>, _>>()
        .map_err(|error| Error::BadPattern {
            pattern: written.to_owned(),
            message: error.to_string(),
        })?;
    // Nothing matches in a directory that is not there.
    let Ok(directory) = follow(tree, &start) else {
        return Ok(Vec::new());
    };
    let mut level: Vec<Vec<u8>> = vec![directory];
    for (depth, pattern) in patterns.iter().enumerate() {
        let is_last = depth + 1 == patterns.len();
        let mut next = Vec::new();
        for directory in &level {
            for child in children(tree, directory) {
                let name = name_of(child);
                if (is_last || child.kind == Kind::Directory) && pattern.is_match(name) {
                    next.push(child.path.clone());
                }
            }
        }
        level = next;
    }
    Ok(level
        .into_iter()
        .map(|path| {
            path.split(|byte| *byte == b'/')
                .map(<[u8]>::to_vec)
                .collect()
        })
        .collect())
}

/// The entries directly in a directory.
pub(super) fn children<'a>(
    tree: &'a Tree,
    directory: &[u8],
) -> impl Iterator<Item = &'a Entry> + use<'a> {
    let mut rest = tree.below(directory);
    // The directory itself.
    if rest.first().is_some_and(|entry| entry.path == directory) {
        rest = rest.get(1..).unwrap_or_default();
    }
    std::iter::from_fn(move || {
        let (child, after) = rest.split_first()?;
        let below = after.partition_point(|entry| is_at_or_below(&entry.path, &child.path));
        rest = after.get(below..).unwrap_or_default();
        Some(child)
    })
}

pub(super) fn name_of(entry: &Entry) -> &[u8] {
    entry
        .path
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default()
}
