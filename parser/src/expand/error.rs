//! Why a word cannot be expanded, and what to do about it.

use super::LONGEST;
use crate::diagnostic::Diagnostic;
use crate::source::Span;

/// Why a word could not be expanded. `offset` is a byte offset into the word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpandError {
    pub message: String,
    pub offset: usize,
    label: &'static str,
    help: Option<String>,
}

impl ExpandError {
    pub(super) fn new(message: impl Into<String>, offset: usize) -> Self {
        Self {
            message: message.into(),
            offset,
            label: "",
            help: None,
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// A quote that is not closed; `kind` names it.
    pub(super) fn quote(kind: &str, offset: usize) -> Self {
        Self {
            label: "opened here",
            ..Self::new(format!("the {kind} quote has no closing quote"), offset)
                .help("close it, or put the escape character before it")
        }
    }

    /// A `${` that is not closed, at `offset` of the word.
    pub(super) fn unclosed(raw: &str, offset: usize) -> Self {
        let rest = raw.get(offset..).unwrap_or_default();
        let rest = rest.lines().next().unwrap_or_default();
        let message = format!("`{}` has no closing `}}`", excerpt(rest));
        // As far as it surely belongs to the braces.
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\''));
        let begun = rest.get(..end.unwrap_or(rest.len())).unwrap_or(rest);
        let closed = match begun.strip_prefix("${") {
            None | Some("") => "${NAME}".to_owned(),
            Some(_) => format!("{begun}}}"),
        };
        Self::new(message, offset).help(format!("write `{closed}`"))
    }

    /// What stands between a name and `}` is nothing that is known there.
    pub(super) fn modifier(written: &str, name: &str, offset: usize) -> Self {
        let message = format!("`{written}` is no modifier that `${{{name}…}}` knows");
        let default = if written.ends_with('=') {
            format!("`${{{name}:-word}}` puts in a default; ")
        } else {
            String::new()
        };
        Self::new(message, offset).help(format!(
            "{default}there are `:-` `:+` `:?` `-` `+` `?` `#` `##` `%` `%%` `/` and `//`"
        ))
    }

    /// `${name:?why}` where there is no value. `state` says how far: unset, or empty.
    pub(super) fn missing(name: &str, state: &str, why: &str, offset: usize) -> Self {
        let message = if why.is_empty() {
            format!("{name}: is not allowed to be {state}")
        } else {
            format!("{name}: {why}")
        };
        Self::new(message, offset).help(format!(
            "`{name}` is {state}: it gets a value from an ENV or ARG above, or from --build-arg where an ARG declares it"
        ))
    }

    pub(super) fn too_much(offset: usize) -> Self {
        let message = format!("the word expands to more than {LONGEST} bytes");
        Self::new(message, offset)
    }

    pub(super) fn too_expensive(offset: usize) -> Self {
        Self::new("the pattern or its value is too long to be matched", offset)
    }

    /// To be shown at `span`.
    pub fn diagnostic(&self, span: Span) -> Diagnostic {
        let mut diagnostic =
            Diagnostic::error("bad-expansion", self.message.clone(), span).label(self.label);
        diagnostic.help.extend(self.help.clone());
        diagnostic
    }
}

/// The beginning of a text, short enough for a message.
pub(super) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(24) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}
