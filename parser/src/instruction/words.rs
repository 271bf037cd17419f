//! Arguments that are words: one, some, or an array of them; and what is wrong in a word.

use std::ops::Range;

use super::{Builder, Line};
use crate::ast::Text;
use crate::diagnostic::Diagnostic;
use crate::expand;
use crate::grammar::{self, Arguments};
use crate::keyword::Keyword;
use crate::source::Spanned;

impl Builder<'_, '_> {
    /// The rest of the line as one argument.
    pub(super) fn single(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        arguments: Arguments,
    ) -> Option<Text> {
        let Arguments::Text(range) = arguments else {
            self.missing_arguments(keyword, line, "exactly one argument");
            return None;
        };
        if keyword != Keyword::Maintainer {
            self.check_word(line, range.clone());
        }
        Some(line.text(range))
    }

    pub(super) fn words(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        arguments: Arguments,
    ) -> Option<Vec<Text>> {
        let words = self.some_words(keyword, line, arguments)?;
        self.check_words(keyword, line, &words);
        Some(words.into_iter().map(|word| line.text(word)).collect())
    }

    pub(super) fn volume(&mut self, line: Line<'_>, arguments: Arguments) -> Option<Vec<Text>> {
        let paths = match &arguments {
            Arguments::Exec(strings) => self.checked_strings(line, strings),
            _ => self.words_or_array(Keyword::Volume, line, arguments)?,
        };
        if paths.is_empty() {
            self.missing_arguments(Keyword::Volume, line, "at least one path");
            return None;
        }
        let mut is_good = true;
        for path in paths.iter().filter(|path| path.value.trim().is_empty()) {
            is_good = false;
            let message = "VOLUME cannot take an empty path";
            self.report(Diagnostic::error("empty-volume", message, path.span).label("empty"));
        }
        let trimmed = |path: Text| Spanned::new(path.value.trim().to_owned(), path.span);
        is_good.then(|| paths.into_iter().map(trimmed).collect())
    }

    /// Words, in an instruction that also takes an array: an array of something else than strings is refused.
    pub(super) fn words_or_array(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        arguments: Arguments,
    ) -> Option<Vec<Text>> {
        if let Arguments::Words(words) = &arguments {
            let start = words.first().map_or(0, |first| first.start);
            self.strings_only(line, start..line.text.len())?;
        }
        self.words(keyword, line, arguments)
    }

    pub(super) fn some_words(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        arguments: Arguments,
    ) -> Option<Vec<Range<usize>>> {
        match arguments {
            Arguments::Words(words) if !words.is_empty() => Some(words),
            _ => {
                self.missing_arguments(keyword, line, "at least one argument");
                None
            }
        }
    }

    /// As [`Self::check_word`], of words that were split at blanks whatever quotes stood around those.
    pub(super) fn check_words(&mut self, keyword: Keyword, line: Line<'_>, words: &[Range<usize>]) {
        let mut rest = words;
        while let Some((word, after)) = rest.split_first() {
            rest = after;
            let text = line.slice(word.clone());
            let opened = expand::check(text, self.reader.escape())
                .err()
                .and_then(|error| {
                    let quote = text.get(error.offset..)?.chars().next()?;
                    matches!(quote, '"' | '\'').then_some((error.offset, quote))
                });
            let closing = opened.and_then(|(offset, quote)| {
                let place = after
                    .iter()
                    .position(|word| line.slice(word.clone()).contains(quote))?;
                Some((offset, quote, place))
            });
            let Some((offset, quote, place)) = closing.filter(|_| !line.is_trigger) else {
                self.check_word(line, word.clone());
                continue;
            };
            let Some(last) = after.get(place) else {
                continue;
            };
            let within = line.slice(last.clone()).find(quote).unwrap_or(0);
            let quoted = word.start + offset..last.start + within + 1;
            let mistake = Diagnostic::error(
                "quoted-blank",
                format!(
                    "quotes hold no words together here: {} splits at blanks first",
                    keyword.name()
                ),
                line.span(quoted),
            )
            .label("this is not one word");
            self.report(match keyword {
                Keyword::Copy | Keyword::Add | Keyword::Volume => mistake.help(format!(
                    "paths with blanks are written as an array: `{}`",
                    as_array(keyword, line, words)
                )),
                _ => mistake.help("write the words without the quotes"),
            });
            rest = after.get(place + 1..).unwrap_or_default();
        }
    }

    /// Looks for mistakes in a word that no value of a variable can mend.
    pub(super) fn check_word(&mut self, line: Line<'_>, range: Range<usize>) {
        // A trigger's words are looked at when it runs.
        if line.is_trigger {
            return;
        }
        if let Err(error) = expand::check(line.slice(range.clone()), self.reader.escape()) {
            let at = (range.start + error.offset).min(range.end);
            let span = line.span(at..range.end);
            self.report(error.diagnostic(span));
        }
    }

    /// JSON strings that are expanded later, with what is wrong in them.
    pub(super) fn checked_strings(
        &mut self,
        line: Line<'_>,
        strings: &[Range<usize>],
    ) -> Vec<Text> {
        let texts = json_strings(line, strings);
        for text in texts.iter().filter(|_| !line.is_trigger) {
            if let Err(error) = expand::check(&text.value, self.reader.escape()) {
                self.report(error.diagnostic(text.span));
            }
        }
        texts
    }
}

/// The array that words with quotes around blanks are meant to be.
fn as_array(keyword: Keyword, line: Line<'_>, words: &[Range<usize>]) -> String {
    let mut strings: Vec<String> = Vec::new();
    let mut open: Option<char> = None;
    for word in words {
        let text = line.slice(word.clone());
        let bare = text.replace(['"', '\''], "");
        match (open, strings.last_mut()) {
            (Some(_), Some(last)) => {
                last.push(' ');
                last.push_str(&bare);
            }
            _ => strings.push(bare),
        }
        for c in text.chars().filter(|c| matches!(c, '"' | '\'')) {
            open = match open {
                None => Some(c),
                Some(quote) if quote == c => None,
                open => open,
            };
        }
    }
    let strings: Vec<String> = strings
        .into_iter()
        .map(|string| serde_json::Value::from(string).to_string())
        .collect();
    format!("{} [{}]", keyword.name(), strings.join(", "))
}

/// JSON strings as what they stand for.
pub(super) fn json_strings(line: Line<'_>, strings: &[Range<usize>]) -> Vec<Text> {
    let text = |range: &Range<usize>| {
        Spanned::new(
            grammar::unquote_json(line.slice(range.clone())),
            line.span(range.clone()),
        )
    };
    strings.iter().map(text).collect()
}
