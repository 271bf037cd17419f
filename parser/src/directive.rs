//! Parser directives: `# syntax=`, `# escape=`, `# check=` before anything else in the file.

use crate::ast::{Directive, Escape, Text};
use crate::diagnostic::Diagnostic;
use crate::source::{Span, Spanned};

const NAMES: [&str; 3] = ["syntax", "escape", "check"];

/// Whether one of the comment lines at the top of a file is `# rbuild: ext=1`. Blank lines may stand between them.
pub(crate) fn extended(text: &str) -> bool {
    text.lines()
        .map(str::trim)
        .take_while(|line| line.is_empty() || line.starts_with('#'))
        .filter_map(|line| line.trim_start_matches('#').trim().strip_prefix("rbuild:"))
        .any(|settings| {
            settings
                .split([' ', '\t', ',', ';'])
                .any(|setting| setting == "ext=1")
        })
}

/// The directives seen so far. They end at the first line that is none.
#[derive(Debug, Default)]
pub(crate) struct Directives {
    list: Vec<Directive>,
    escape: Escape,
    closed: bool,
}

impl Directives {
    pub(crate) fn escape(&self) -> Escape {
        self.escape
    }

    pub(crate) fn into_list(self) -> Vec<Directive> {
        self.list
    }

    /// Says that something else than a comment was read.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Looks at a comment line (with its `#`, at offset `start`); returns whether it is a directive.
    pub(crate) fn read(&mut self, line: &str, start: usize) -> Result<bool, Box<Diagnostic>> {
        if self.closed {
            return Ok(false);
        }
        // `#!/usr/bin/env rbuild` in the first line makes a Dockerfile executable; directives may follow.
        if start == 0 && line.starts_with("#!") {
            return Ok(true);
        }
        let Some((name, value)) = split(line, start) else {
            self.closed = true;
            return Ok(false);
        };
        let lower = name.value.to_ascii_lowercase();
        if !NAMES.contains(&lower.as_str()) {
            self.closed = true;
            return Ok(false);
        }
        let name = Spanned::new(lower, name.span);
        if let Some(first) = self
            .list
            .iter()
            .find(|directive| directive.name.value == name.value)
        {
            return Err(Box::new(
                Diagnostic::error(
                    "duplicate-directive",
                    format!("only one `{}` directive can be used", name.value),
                    name.span,
                )
                .label("given again here")
                .secondary(first.name.span, "first given here")
                .help("remove one of them"),
            ));
        }
        if name.value == "escape" {
            self.escape = escape(&value)?;
        }
        self.list.push(Directive { name, value });
        Ok(true)
    }
}

fn escape(value: &Text) -> Result<Escape, Box<Diagnostic>> {
    match value.value.as_str() {
        "\\" => Ok(Escape::Backslash),
        "`" => Ok(Escape::Backtick),
        other => Err(Box::new(
            Diagnostic::error(
                "bad-escape",
                format!("`{other}` cannot be the escape character"),
                value.span,
            )
            .label("neither ` nor \\")
            .help("the escape directive takes a backslash (the default) or a backtick"),
        )),
    }
}

/// `# name = value`: name of letters and digits, blanks around either allowed.
fn split(line: &str, start: usize) -> Option<(Text, Text)> {
    let body = line.strip_prefix('#')?;
    let name_at = line.len() - body.trim_start().len();
    let body = line.get(name_at..)?;
    let (name, value) = body.split_once('=')?;
    let value_at = line.len() - value.trim_start().len();
    let (name, value) = (name.trim_end(), value.trim());
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    if !is_name || value.is_empty() {
        return None;
    }
    let place = |at: usize, text: &str| Span::new(start + at, start + at + text.len());
    let name = Spanned::new(name.to_owned(), place(name_at, name));
    Some((name, Spanned::new(value.to_owned(), place(value_at, value))))
}
