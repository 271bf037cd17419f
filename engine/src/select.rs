//! What COPY and ADD name: from patterns as written to the entries of a tree that are copied, and to their digest.
//!
//! Works on a [`Tree`] alone (of a build context, or the merged view of a snapshot): no file is opened. The rules
//! are BuildKit's: paths start at the root of the tree and never leave it; links on the way and the named one
//! itself are followed inside of it; wildcards are Go's `filepath.Match`, one segment each; with `--parents` they are
//! those of ignore files. Where things land is decided in `rbuild_executor::file`. Start at [`select`].

mod follow;
mod key;
pub(crate) mod names;
pub(crate) mod parents;
pub(crate) mod pattern;
#[cfg(test)]
pub(crate) mod tests;
mod wildcard;

use rbuild_cache::Key;
use rbuild_cache::tree::{Entry, Kind, Tree};
use rbuild_executor::file::Source;
use rbuild_parser::ignore::{Patterns, Verdict};

pub use follow::FollowError;
pub(crate) use follow::LINK_LIMIT;
use parents::ParentsError;
use pattern::Pattern;

/// What is to be selected.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Patterns as written, variables expanded, escapes kept.
    pub sources: &'a [String],
    /// `--exclude`, relative to each source directory. They leave out nothing that is named itself.
    pub excludes: &'a Patterns,
    /// `--parents`: paths are kept, from the root or from what follows `/./`.
    pub parents: bool,
    /// False where a path is just a path: the source of a bind mount.
    pub wildcards: bool,
}

/// What was selected, in the order of copying.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Empty where wildcards match nothing.
    pub sources: Vec<Source>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A source that is not there. `path` names it without wildcards, before any link is followed: ask the context
    /// why it is missing.
    #[error("`{pattern}` was not found{}", names::hint(.nearest))]
    Missing {
        pattern: String,
        path: Vec<u8>,
        /// Names in the same directory that look like it, with their directory.
        nearest: Vec<String>,
    },
    #[error(
        "`{pattern}` cannot be followed: more than {} links, or a circle of them",
        follow::LINK_LIMIT
    )]
    TooManyLinks { pattern: String },
    #[error("`{pattern}` is not a valid pattern: {message}")]
    BadPattern { pattern: String, message: String },
}

/// Selects entries of `tree`.
pub fn select(tree: &Tree, request: &Request<'_>) -> Result<Selection, Error> {
    let mut sources = Vec::new();
    for written in request.sources {
        let pattern = Pattern::parse(written, request.parents, request.wildcards);
        for found in wildcard::matches(tree, written, &pattern.base)? {
            let path = follow::follow(tree, &found)
                .map_err(|error| error.of(tree, written, found.join(&b'/')))?;
            match &pattern.kept {
                Some(kept) => match parents::source(tree, path, kept, request.excludes) {
                    Ok(source) => sources.push(source),
                    // Wildcards before the pivot stand for what has something to keep.
                    Err(ParentsError::Missing(_)) if pattern.has_wildcard_base() => {}
                    Err(error) => return Err(error.of(tree, written)),
                },
                None => {
                    let name = found.last().cloned().unwrap_or_default();
                    sources.push(source(tree, path, name, request.excludes));
                }
            }
        }
    }
    Ok(Selection { sources })
}

/// Whether a path as written has a `..` that the root swallows.
pub(crate) fn climbs_out(path: &str) -> bool {
    let mut depth = 0_usize;
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

impl Selection {
    /// The content digest: equal selections copy equal things. Names are in it as far as they matter, times and
    /// everything outside of the selection are not.
    pub fn key(&self) -> Key {
        key::of(&self.sources)
    }
}

/// A file, or a directory with what is below it and not excluded.
fn source(tree: &Tree, path: Vec<u8>, name: Vec<u8>, excludes: &Patterns) -> Source {
    let mut below = tree.below(&path).iter();
    let top = match below.as_slice().first() {
        Some(entry) if entry.path == path => {
            below.next();
            entry.clone()
        }
        _ => root_entry(path.clone()),
    };
    let mut selected = Selected::new(top);
    if excludes.is_empty() {
        selected.entries.extend(below.cloned());
    } else {
        let prefix = path.len() + usize::from(!path.is_empty());
        selected.filter(
            below.as_slice(),
            prefix,
            &|relative| match excludes.verdict(relative) {
                Verdict::Excluded { .. } => Take {
                    this: false,
                    below: excludes.may_reinclude_below(relative),
                },
                Verdict::Unmatched | Verdict::Reincluded { .. } => Take {
                    this: true,
                    below: true,
                },
            },
        );
    }
    selected.into_source(path, name)
}

/// Trees need not list their root.
fn root_entry(path: Vec<u8>) -> Entry {
    Entry {
        mode: 0o755,
        ..Entry::new(path, Kind::Directory)
    }
}

/// What a filter says of an entry.
struct Take {
    this: bool,
    /// Whether anything below could be taken.
    below: bool,
}

/// Entries taken so far, and the directories that wait for something below them to be taken.
struct Selected {
    entries: Vec<Entry>,
    implied: Vec<usize>,
}

impl Selected {
    fn new(top: Entry) -> Self {
        Self {
            entries: vec![top],
            implied: Vec::new(),
        }
    }

    /// Takes of `entries` (in tree order) what `take` says; `prefix` bytes of each path are not shown to it.
    /// Directories that are not taken themselves come along as soon as something below them is.
    fn filter(&mut self, entries: &[Entry], prefix: usize, take: &dyn Fn(&[u8]) -> Take) {
        let mut waiting: Vec<&Entry> = Vec::new();
        let mut rest = entries;
        while let Some((entry, after)) = rest.split_first() {
            rest = after;
            while waiting.last().is_some_and(|directory| {
                !rbuild_cache::tree::is_at_or_below(&entry.path, &directory.path)
            }) {
                waiting.pop();
            }
            let decision = take(entry.path.get(prefix..).unwrap_or_default());
            if decision.this {
                for directory in waiting.drain(..) {
                    self.implied.push(self.entries.len());
                    self.entries.push(directory.clone());
                }
                self.entries.push(entry.clone());
            } else if entry.kind == Kind::Directory {
                if decision.below {
                    waiting.push(entry);
                } else {
                    let below = rest.partition_point(|other| {
                        rbuild_cache::tree::is_at_or_below(&other.path, &entry.path)
                    });
                    rest = rest.get(below..).unwrap_or_default();
                }
            }
        }
    }

    fn into_source(self, path: Vec<u8>, name: Vec<u8>) -> Source {
        Source {
            path,
            name,
            entries: self.entries,
            implied: self.implied,
        }
    }
}
