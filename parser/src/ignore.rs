//! `.dockerignore` and `--exclude` patterns with moby/patternmatcher's rules: `**`, `!`, order, parents.

/// A pattern that cannot be compiled, and the line it stands in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}: `{pattern}`")]
pub struct BadPattern {
    pub line: usize,
    pub pattern: String,
    pub message: String,
}

/// A list of patterns; the last that matches decides.
#[derive(Debug, Clone, Default)]
pub struct Patterns {}

/// What the patterns say of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No pattern matches.
    Unmatched,
    /// Excluded by the pattern of this line (from 1).
    Excluded { line: usize },
    /// Taken back in by the `!` pattern of this line.
    Reincluded { line: usize },
}

impl Patterns {
    /// Reads an ignore file: comments, blank lines, BOM, CRLF and surrounding blanks as Docker does.
    pub fn from_file(_bytes: &[u8]) -> Result<Self, BadPattern> {
        todo!()
    }

    /// From the values of `--exclude`; the line is the place in the list.
    pub fn from_list(_patterns: &[String]) -> Result<Self, BadPattern> {
        todo!()
    }

    pub fn is_empty(&self) -> bool {
        todo!()
    }

    /// `path` is relative, with `/`, without a leading `./`; its parents count too, as in `MatchesOrParentMatches`.
    pub fn verdict(&self, _path: &[u8]) -> Verdict {
        todo!()
    }

    /// Whether something below an excluded directory could be taken back in, so that it must be walked.
    pub fn may_reinclude_below(&self, _directory: &[u8]) -> bool {
        todo!()
    }
}
