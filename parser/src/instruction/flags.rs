//! `--name[=value]`: which instruction knows which flags, and reading them.

use std::ops::Range;

use super::{Builder, Line};
use crate::ast::{Flag, Switch, Text};
use crate::diagnostic::Diagnostic;
use crate::keyword::Keyword;
use crate::source::Spanned;
use crate::suggest;

/// What may follow a flag's `=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A text; the flag stands once.
    Text,
    /// A text; the flag may stand several times.
    Texts,
    /// `true` or `false`, or nothing, which is `true`.
    Switch,
}

fn known(keyword: Keyword) -> &'static [(&'static str, Kind)] {
    match keyword {
        Keyword::From => &[("platform", Kind::Text)],
        Keyword::Run => &[
            ("mount", Kind::Texts),
            ("network", Kind::Text),
            ("security", Kind::Text),
            ("device", Kind::Texts),
        ],
        Keyword::Copy => &[
            ("from", Kind::Text),
            ("chown", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Switch),
            ("parents", Kind::Switch),
            ("exclude", Kind::Texts),
        ],
        Keyword::Add => &[
            ("chown", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Switch),
            ("exclude", Kind::Texts),
            ("checksum", Kind::Text),
            ("keep-git-dir", Kind::Switch),
            ("unpack", Kind::Switch),
        ],
        Keyword::Healthcheck => &[
            ("interval", Kind::Text),
            ("timeout", Kind::Text),
            ("start-period", Kind::Text),
            ("start-interval", Kind::Text),
            ("retries", Kind::Text),
        ],
        _ => &[],
    }
}

impl Keyword {
    /// The flags that it knows, and whether each needs a value.
    pub fn flags(self) -> impl Iterator<Item = (&'static str, bool)> {
        let flags = known(self).iter();
        flags.map(|(name, kind)| (*name, *kind != Kind::Switch))
    }
}

/// The flags of an instruction as written.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    pub(crate) list: Vec<Flag>,
}

impl Flags {
    /// The value of a flag. An empty one is as good as none.
    pub(crate) fn text(&self, name: &str) -> Option<Text> {
        self.texts(name)
            .into_iter()
            .find(|value| !value.value.is_empty())
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<Text> {
        self.list
            .iter()
            .filter(|flag| flag.name.value == name)
            .filter_map(|flag| flag.value.clone())
            .collect()
    }

    /// Whether the first argument may be meant for the value of a flag.
    pub(crate) fn lacks_value(&self) -> bool {
        self.list.iter().any(|flag| flag.value.is_none())
    }

    pub(crate) fn switch(&self, name: &str) -> Option<Switch> {
        let flag = self.list.iter().find(|flag| flag.name.value == name)?;
        let value = flag
            .value
            .as_ref()
            .is_none_or(|value| value.value.eq_ignore_ascii_case("true"));
        Some(Spanned::new(
            value,
            flag.value
                .as_ref()
                .map_or(flag.name.span, |value| value.span),
        ))
    }
}

impl Builder<'_, '_> {
    /// Reads the flags of a line and reports what is wrong with them.
    pub(super) fn flags(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        ranges: &[Range<usize>],
    ) -> Flags {
        let mut flags = Flags::default();
        for range in ranges {
            let flag = read(line, range.clone());
            self.check_flag(keyword, &flags, &flag, line, range.clone());
            flags.list.push(flag);
        }
        flags
    }

    fn check_flag(
        &mut self,
        keyword: Keyword,
        before: &Flags,
        flag: &Flag,
        line: Line<'_>,
        range: Range<usize>,
    ) {
        let name = flag.name.value.as_str();
        let instruction = keyword.name();
        let Some((_, kind)) = known(keyword).iter().find(|(known, _)| *known == name) else {
            self.unknown_flag(keyword, flag);
            return;
        };
        if *kind != Kind::Texts
            && let Some(first) = before.list.iter().find(|first| first.name.value == name)
        {
            let message = format!("the flag `--{name}` of {instruction} can be given only once");
            self.report(
                Diagnostic::error("duplicate-flag", message, flag.name.span)
                    .label("given again here")
                    .secondary(first.name.span, "first given here"),
            );
        }
        match (kind, &flag.value) {
            (Kind::Text | Kind::Texts, None) => {
                let message = format!("the flag `--{name}` of {instruction} needs a value");
                let value = value_behind_blank(keyword, line.slice(range.end..line.text.len()));
                let value = value.unwrap_or("…");
                self.report(
                    Diagnostic::error("missing-flag-value", message, line.span(range)).help(
                        format!("the value follows an equals sign: `--{name}={value}`"),
                    ),
                );
            }
            (Kind::Switch, Some(value)) if !is_boolean(&value.value) => {
                let message = format!(
                    "the flag `--{name}` is true or false, not `{}`",
                    value.value
                );
                let span = if value.value.is_empty() {
                    line.span(range)
                } else {
                    value.span
                };
                self.report(Diagnostic::error("bad-flag-value", message, span));
            }
            _ => {}
        }
    }

    fn unknown_flag(&mut self, keyword: Keyword, flag: &Flag) {
        let name = &flag.name.value;
        let instruction = keyword.name();
        let message = format!("{instruction} has no flag `--{name}`");
        let mut diagnostic = Diagnostic::error("unknown-flag", message, flag.name.span);
        let names = || known(keyword).iter().map(|(name, _)| *name);
        if let Some(near) = suggest::nearest(name, names()) {
            diagnostic = diagnostic.help(format!("did you mean `--{near}`?"));
        } else if keyword == Keyword::Add && name == "from" {
            diagnostic = diagnostic.help("files come out of another stage by `COPY --from`");
        } else if known(keyword).is_empty() {
            diagnostic = diagnostic.help(format!(
                "{instruction} has no flags; put `--` before arguments that begin with two dashes"
            ));
        } else {
            let names: Vec<String> = names().map(|name| format!("--{name}")).collect();
            diagnostic = diagnostic.help(format!("{instruction} knows {}", names.join(", ")));
        }
        self.report(diagnostic);
    }
}

/// What is meant for the value of a flag that has none, where enough words are left without it.
fn value_behind_blank(keyword: Keyword, rest: &str) -> Option<&str> {
    let mut words = rest.split_whitespace();
    let next = words.next().filter(|next| !next.starts_with("--"))?;
    let is_value = match keyword {
        Keyword::From => words
            .next()
            .is_some_and(|word| !word.eq_ignore_ascii_case("as")),
        Keyword::Copy | Keyword::Add => words.filter(|word| !word.starts_with("--")).count() > 1,
        Keyword::Healthcheck => next.starts_with(|c: char| c.is_ascii_digit()),
        _ => next.contains('='),
    };
    is_value.then_some(next)
}

fn is_boolean(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false")
}

/// Takes quotes and escapes off a flag and splits it at its first `=`.
fn read(line: Line<'_>, range: Range<usize>) -> Flag {
    let start = range.start + 2;
    let raw = line.slice(start..range.end);
    let mut name = String::new();
    // The value so far, and where it begins.
    let mut value: Option<(String, usize)> = None;
    let mut quote = None;
    let mut characters = raw.char_indices();
    while let Some((at, c)) = characters.next() {
        let c = match (c, quote) {
            ('\\', _) => match characters.next() {
                Some((_, escaped)) => escaped,
                None => break,
            },
            ('"' | '\'', None) => {
                quote = Some(c);
                continue;
            }
            (c, Some(open)) if c == open => {
                quote = None;
                continue;
            }
            ('=', _) if value.is_none() => {
                value = Some((String::new(), start + at + 1));
                continue;
            }
            (c, _) => c,
        };
        value.as_mut().map_or(&mut name, |(value, _)| value).push(c);
    }
    let name_end = value
        .as_ref()
        .map_or(range.end, |(_, value_at)| value_at - 1);
    Flag {
        name: Spanned::new(name, line.span(range.start..name_end)),
        value: value.map(|(value, at)| Spanned::new(value, line.span(at..range.end))),
    }
}
