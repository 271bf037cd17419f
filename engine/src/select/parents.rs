//! `--parents`: what is kept below a directory, with its path.

use rbuild_cache::tree::{Kind, Tree};
use rbuild_executor::file::Source;
use rbuild_parser::ignore::{Patterns, Verdict};

use super::follow::FollowError;
use super::pattern::join;
use super::{Error, Selected, Take, root_entry};

/// Why nothing can be kept.
pub(super) enum ParentsError {
    Missing(Vec<u8>),
    BadPattern(String),
}

impl ParentsError {
    pub(super) fn of(self, tree: &Tree, pattern: &str) -> Error {
        match self {
            Self::Missing(path) => FollowError::Missing(path.clone()).of(tree, pattern, path),
            Self::BadPattern(message) => Error::BadPattern {
                pattern: pattern.to_owned(),
                message,
            },
        }
    }
}

/// The directory `path` with what `kept` matches below it and their parents. Links are not followed: the pattern is
/// held against paths as they are. A pattern without wildcards must match something.
pub(super) fn source(
    tree: &Tree,
    path: Vec<u8>,
    kept: &str,
    excludes: &Patterns,
) -> Result<Source, ParentsError> {
    let bad = |error: rbuild_parser::ignore::BadPattern| ParentsError::BadPattern(error.message);
    let matcher = Patterns::from_list(&[literal_start(kept)]).map_err(bad)?;
    let everything = kept.is_empty();
    let may_match = Prefix::of(kept);
    let below = tree.below(&path);
    let (top, below) = match below.split_first() {
        Some((top, below)) if top.path == path => (top.clone(), below),
        _ => (root_entry(path.clone()), below),
    };
    if top.kind != Kind::Directory {
        return Err(ParentsError::Missing(join(&path, kept.as_bytes())));
    }
    let prefix = path.len() + usize::from(!path.is_empty());
    let mut selected = Selected::new(top);
    selected.filter(below, prefix, &|relative| {
        let is_match = everything || matches!(matcher.verdict(relative), Verdict::Excluded { .. });
        let is_excluded = matches!(excludes.verdict(relative), Verdict::Excluded { .. });
        Take {
            this: is_match && !is_excluded,
            below: (is_match || may_match.below(relative))
                && (!is_excluded || excludes.may_reinclude_below(relative)),
        }
    });
    if selected.entries.len() == 1 && may_match.is_literal && !everything {
        let wanted = join(&path, kept.as_bytes());
        if tree.get(&wanted).is_none() {
            return Err(ParentsError::Missing(wanted));
        }
    }
    Ok(selected.into_source(path, Vec::new()))
}

/// A leading `!` is part of a name here, not a negation.
fn literal_start(pattern: &str) -> String {
    if pattern.starts_with('!') {
        format!("\\{pattern}")
    } else {
        pattern.to_owned()
    }
}

/// The names that a pattern begins with before its first wildcard.
struct Prefix {
    names: Vec<Vec<u8>>,
    is_literal: bool,
}

impl Prefix {
    fn of(pattern: &str) -> Self {
        let mut names = Vec::new();
        for name in pattern.split('/') {
            if name
                .bytes()
                .any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
            {
                return Self {
                    names,
                    is_literal: false,
                };
            }
            names.push(name.as_bytes().to_vec());
        }
        Self {
            names,
            is_literal: true,
        }
    }

    /// Whether something below this directory could match.
    fn below(&self, directory: &[u8]) -> bool {
        directory
            .split(|byte| *byte == b'/')
            .zip(&self.names)
            .all(|(name, wanted)| name == wanted)
    }
}

/// The names before the first wildcard of a kept pattern: where a walk has to begin.
pub(crate) fn literal_prefix(kept: &str) -> Vec<Vec<u8>> {
    Prefix::of(kept).names
}
