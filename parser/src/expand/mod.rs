//! Word expansion as Dockerfiles know it: quotes, the escape character, `$name`, `${name}` and its modifiers
//! (`:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` `//`). Rules: Dockerfile reference, "Environment replacement",
//! and what BuildKit does where the reference is silent.
//!
//! Bounded: `${` nests at most [`DEEPEST`] times, a word expands to at most [`LONGEST`] bytes.

mod error;
mod lexer;
mod pattern;
mod splitter;

pub use error::ExpandError;
pub(crate) use lexer::Lexer;

use crate::ast::Escape;

/// How deep `${` may nest.
pub const DEEPEST: usize = 100;

/// The most bytes that a word may expand to.
pub const LONGEST: usize = 1024 * 1024;

/// Looks variables up.
pub trait Variables {
    /// Returns the value of a variable, or `None` where it is not set.
    fn get(&self, name: &str) -> Option<String>;
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

/// Expands to one word: quotes removed, nothing split. Also for `COPY`/`ADD` sources: as in BuildKit, escapes come off
/// before patterns are matched, so `star\*name` is a wildcard then, and `[*]` is the way to a literal star.
pub fn word(raw: &str, escape: Escape, variables: &dyn Variables) -> Result<Expanded, ExpandError> {
    Lexer::new(raw, escape, variables).whole()
}

/// Expands to several words: an unquoted blank, also one out of a variable, splits.
pub fn words(
    raw: &str,
    escape: Escape,
    variables: &dyn Variables,
) -> Result<Vec<String>, ExpandError> {
    let words = Lexer::new(raw, escape, variables).words()?;
    Ok(words.into_iter().map(|word| word.text).collect())
}

/// Expands variables only, as in heredoc bodies: quotes stay, `\$` is `$`. Bodies always escape with a backslash,
/// whatever the file's escape directive says.
pub fn text(
    raw: &str,
    _escape: Escape,
    variables: &dyn Variables,
) -> Result<Expanded, ExpandError> {
    let mut lexer = Lexer::new(raw, Escape::Backslash, variables);
    lexer.options.keep_quotes_as_text = true;
    lexer.whole()
}

/// Finds the mistakes that a word has whatever its variables hold: quotes and braces that do not end, modifiers
/// that do not exist.
pub fn check(raw: &str, escape: Escape) -> Result<(), ExpandError> {
    if raw.contains(['\'', '"', '$']) {
        word(raw, escape, &AllSet)?;
    }
    Ok(())
}

/// Every variable is there, so that `${name:?}` does not complain.
struct AllSet;

impl Variables for AllSet {
    fn get(&self, _name: &str) -> Option<String> {
        Some("x".to_owned())
    }
}
