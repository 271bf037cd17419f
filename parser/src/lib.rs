//! Dockerfile text to syntax tree and diagnostics. Pure: text in, values out; opens no file, reads no environment.
//!
//! The way of a line: [`lines`] applies the parser directives, joins continuations and collects heredocs into
//! logical lines; [`grammar`] (pest) parses one logical line into a typed [`ast::Instruction`]; words stay raw,
//! with their quotes and variables, until [`expand`] is asked to expand them. [`ignore`] and [`glob`] are Docker's
//! pattern rules; [`mount`] reads the value of `RUN --mount`. Start at [`parse`].

pub mod ast;
pub mod diagnostic;
pub mod expand;
pub mod glob;
pub mod ignore;
pub mod mount;
pub mod source;

pub use diagnostic::{Diagnostic, Severity};
pub use source::{Position, Source, Span, Spanned};

/// What [`parse`] yields: always a tree, with whatever is wrong beside it.
#[derive(Debug, Clone)]
pub struct Parsed {
    pub dockerfile: ast::Dockerfile,
    /// Everything wrong with the file, in the order of its lines. A build must not start if one is an error.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parses a whole Dockerfile. Never fails and never panics; wrong lines become [`ast::Command::Invalid`].
pub fn parse(_source: &Source) -> Parsed {
    todo!()
}

/// Parses one instruction that stands alone, as the triggers of an image config's `OnBuild` do.
/// Spans are offsets into `source`.
pub fn parse_trigger(_source: &Source) -> Parsed {
    todo!()
}
