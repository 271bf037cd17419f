//! Names that look like one that is not there.

use rbuild_cache::tree::{Kind, Tree};

use super::wildcard::{children, name_of};

const NEAREST_LIMIT: usize = 3;

/// `; did you mean …?`, or nothing.
pub(crate) fn hint(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        names => {
            let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            format!("; did you mean {}?", quoted.join(" or "))
        }
    }
}

/// Of the first name of `path` that is not in the tree: its neighbours that look like it.
pub(crate) fn nearest_in_tree(tree: &Tree, path: &[u8]) -> Vec<String> {
    let mut directory: &[u8] = b"";
    let mut end = 0;
    loop {
        let rest = path.get(end..).unwrap_or_default();
        let length = rest
            .iter()
            .position(|byte| *byte == b'/')
            .unwrap_or(rest.len());
        let here = path.get(..end + length).unwrap_or_default();
        match tree.get(here) {
            Some(entry) if entry.kind == Kind::Directory && end + length < path.len() => {
                directory = here;
                end += length + 1;
            }
            Some(_) => return Vec::new(),
            None => {
                let missing = rest.get(..length).unwrap_or_default();
                let names = children(tree, directory).map(name_of);
                return nearest(missing, names)
                    .into_iter()
                    .map(|name| {
                        let path = super::pattern::join(directory, &name);
                        String::from_utf8_lossy(&path).into_owned()
                    })
                    .collect();
            }
        }
    }
}

/// The names that differ least from `missing`, best first: other case, or a few letters.
pub(crate) fn nearest<'a>(missing: &[u8], names: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let wanted = String::from_utf8_lossy(missing).to_lowercase();
    let limit = (wanted.chars().count() / 3).clamp(1, 3);
    let mut found: Vec<(usize, Vec<u8>)> = names
        .filter_map(|name| {
            let candidate = String::from_utf8_lossy(name).to_lowercase();
            let distance = distance(&wanted, &candidate, limit)?;
            Some((distance, name.to_vec()))
        })
        .collect();
    found.sort();
    found.truncate(NEAREST_LIMIT);
    found.into_iter().map(|(_, name)| name).collect()
}

/// Letters to insert, remove or replace, if at most `limit`.
fn distance(one: &str, other: &str, limit: usize) -> Option<usize> {
    let one: Vec<char> = one.chars().collect();
    let other: Vec<char> = other.chars().collect();
    if one.len().abs_diff(other.len()) > limit {
        return None;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, a) in one.iter().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        let mut next = vec![left];
        for (above, b) in row.iter().skip(1).zip(&other) {
            left = (left + 1)
                .min(above + 1)
                .min(diagonal + usize::from(a != b));
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().filter(|distance| *distance <= limit)
}
