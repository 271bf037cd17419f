//! Go's `path/filepath.Match`, which `COPY` and `ADD` wildcards follow: `*` `?` `[a-z]` `[^a]` and backslash escapes,
//! none of which cross a `/`. Works on bytes: file names need not be UTF-8.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Returns whether `name` as a whole matches.
pub fn matches(_pattern: &[u8], _name: &[u8]) -> Result<bool, BadPattern> {
    todo!()
}

/// Whether a pattern has wildcards at all.
pub fn has_wildcards(_pattern: &[u8]) -> bool {
    todo!()
}
