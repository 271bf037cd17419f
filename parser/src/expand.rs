//! Word expansion as Dockerfiles know it: quotes, the escape character, `$name`, `${name}` and its modifiers
//! (`:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` `//`). Rules: Dockerfile reference, "Environment replacement",
//! and what BuildKit does where the reference is silent.

use crate::ast::Escape;

/// Looks variables up.
pub trait Variables {
    /// Returns the value of a variable, or `None` where it is not set.
    fn get(&self, name: &str) -> Option<String>;
}

/// Why a word could not be expanded. `offset` is a byte offset into the word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpandError {
    pub message: String,
    pub offset: usize,
}

/// What an expansion gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    pub text: String,
    /// Names that were looked up and not set (for the lint rule UndefinedVar).
    pub undefined: Vec<String>,
    /// Names that were looked up.
    pub used: Vec<String>,
}

/// Expands to one word: quotes removed, nothing split.
pub fn word(
    _raw: &str,
    _escape: Escape,
    _variables: &dyn Variables,
) -> Result<Expanded, ExpandError> {
    todo!()
}

/// Expands to several words: an unquoted blank, also one out of a variable, splits.
pub fn words(
    _raw: &str,
    _escape: Escape,
    _variables: &dyn Variables,
) -> Result<Vec<String>, ExpandError> {
    todo!()
}

/// Expands variables only, as in heredoc bodies: quotes stay, `\$` is `$`.
pub fn text(
    _raw: &str,
    _escape: Escape,
    _variables: &dyn Variables,
) -> Result<Expanded, ExpandError> {
    todo!()
}

/// As [`word`], but what comes out of `COPY`/`ADD` sources and patterns keeps its escapes for the pattern matcher
/// (BuildKit's `ProcessWordWithMatches` is not meant; this is its `SkipProcessQuotes`/raw-escapes behaviour).
pub fn pattern(
    _raw: &str,
    _escape: Escape,
    _variables: &dyn Variables,
) -> Result<Expanded, ExpandError> {
    todo!()
}
