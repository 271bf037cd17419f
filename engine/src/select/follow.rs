//! Following links inside a tree, as a process in a chroot would.

use std::collections::VecDeque;

use rbuild_cache::tree::{Kind, Tree};

use super::names;
use super::pattern::join;

/// As BuildKit's own limit.
pub(crate) const LINK_LIMIT: usize = 255;

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowError {
    /// The path that is not there, links followed so far.
    Missing(Vec<u8>),
    TooManyLinks,
}

impl FollowError {
    /// The error of the source `pattern`, of which `path` is the path before links are followed.
    pub(super) fn of(self, tree: &Tree, pattern: &str, path: Vec<u8>) -> super::Error {
        match self {
            Self::Missing(followed) => super::Error::Missing {
                pattern: pattern.to_owned(),
                nearest: names::nearest_in_tree(tree, &followed),
                path,
            },
            Self::TooManyLinks => super::Error::TooManyLinks {
                pattern: pattern.to_owned(),
            },
        }
    }
}

/// Returns the real path of what the names lead to. A link at the end is followed too.
pub(super) fn follow(tree: &Tree, names: &[Vec<u8>]) -> Result<Vec<u8>, FollowError> {
    let mut todo: VecDeque<Vec<u8>> = names.iter().cloned().collect();
    let mut real: Vec<u8> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                let parent = real.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                real.truncate(parent);
                continue;
            }
            _ => {}
        }
        let here = join(&real, &name);
        match tree.get(&here) {
            Some(entry) if entry.kind == Kind::Symlink => {
                links += 1;
                if links > LINK_LIMIT {
                    return Err(FollowError::TooManyLinks);
                }
                if entry.target.starts_with(b"/") {
                    real.clear();
                }
                for name in entry.target.split(|byte| *byte == b'/').rev() {
                    todo.push_front(name.to_vec());
                }
            }
            // What is below a file is missing at the next name.
            Some(_) => real = here,
            None => {
                let rest: Vec<Vec<u8>> = todo.into();
                let path = rest.iter().fold(here, |path, name| join(&path, name));
                return Err(FollowError::Missing(path));
            }
        }
    }
    Ok(real)
}
