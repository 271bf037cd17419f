//! `KEY=VALUE` lists: ENV, LABEL and ARG.

use std::ops::Range;

use super::{BLANKS, Builder, Line};
use crate::ast::{ArgDeclaration, Pair};
use crate::diagnostic::Diagnostic;
use crate::grammar::Arguments;
use crate::keyword::Keyword;

impl Builder<'_, '_> {
    /// ENV and LABEL: `KEY=VALUE ..`, or the old `KEY rest of the line`.
    pub(super) fn pairs(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        arguments: Arguments,
    ) -> Option<Vec<Pair>> {
        let words = self.some_words(keyword, line, arguments)?;
        let first = words.first()?.clone();
        // The first word decides: without `=` the line is in the old form.
        if !line.slice(first.clone()).contains('=') {
            return self.old_pair(keyword, line, first.start);
        }
        let mut is_good = true;
        let mut pairs = Vec::with_capacity(words.len());
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if let Some(closing) = self.split_braces(line, &word, words.as_slice()) {
                words.by_ref().take(closing).for_each(drop);
                is_good = false;
                continue;
            }
            let Some((key, value)) = split(line, word.clone()) else {
                is_good = false;
                let after = words.as_slice();
                let is_spaced = after
                    .first()
                    .is_some_and(|next| line.slice(next.clone()) == "=");
                if line.slice(word.clone()).starts_with('#') {
                    let comment = word.start..line.text.len();
                    self.no_equals(keyword, line, comment);
                    break;
                } else if is_spaced {
                    let end = after
                        .get(1)
                        .or(after.first())
                        .map_or(word.end, |last| last.end);
                    self.no_equals(keyword, line, word.start..end);
                    words.by_ref().take(2).for_each(drop);
                } else {
                    // Further words without `=` belong to the same value.
                    let more = after
                        .iter()
                        .take_while(|word| split(line, (*word).clone()).is_none())
                        .take_while(|word| !line.slice((*word).clone()).starts_with('#'))
                        .count();
                    let end = more.checked_sub(1).and_then(|last| after.get(last));
                    let end = end.map_or(word.end, |last| last.end);
                    self.no_equals(keyword, line, word.start..end);
                    words.by_ref().take(more).for_each(drop);
                }
                continue;
            };
            is_good &= self.name_is_given(keyword, line, key.clone(), word);
            self.check_word(line, key.clone());
            self.check_word(line, value.clone());
            pairs.push(Pair {
                key: line.text(key),
                value: line.text(value),
                legacy: false,
            });
        }
        is_good.then_some(pairs)
    }

    fn old_pair(&mut self, keyword: Keyword, line: Line<'_>, start: usize) -> Option<Vec<Pair>> {
        let rest = line.slice(start..line.text.len());
        let Some(key_length) = rest.find(BLANKS) else {
            let name = keyword.name();
            let message = format!("{name} must have two arguments, a name and a value");
            self.report(
                Diagnostic::error("missing-value", message, line.span(start..line.text.len()))
                    .label("no value follows")
                    .help(format!(
                        "write `{name} {rest}=value`; `{name} {rest}=` gives it an empty one"
                    )),
            );
            return None;
        };
        let value_start = line.text.len() - rest[key_length..].trim_start_matches(BLANKS).len();
        let (key, value) = (start..start + key_length, value_start..line.text.len());
        self.check_word(line, key.clone());
        self.check_word(line, value.clone());
        Some(vec![Pair {
            key: line.text(key),
            value: line.text(value),
            legacy: true,
        }])
    }

    /// ARG: `NAME[=DEFAULT] ..`.
    pub(super) fn declarations(
        &mut self,
        line: Line<'_>,
        arguments: Arguments,
    ) -> Option<Vec<ArgDeclaration>> {
        let words = self.some_words(Keyword::Arg, line, arguments)?;
        let mut is_good = true;
        let mut declarations = Vec::with_capacity(words.len());
        for word in words {
            let Some((name, default)) = split(line, word.clone()) else {
                self.check_word(line, word.clone());
                declarations.push(ArgDeclaration {
                    name: line.text(word),
                    default: None,
                });
                continue;
            };
            is_good &= self.name_is_given(Keyword::Arg, line, name.clone(), word);
            self.check_word(line, default.clone());
            declarations.push(ArgDeclaration {
                name: line.text(name),
                default: Some(line.text(default)),
            });
        }
        is_good.then_some(declarations)
    }

    /// Finds a `${…}` that blanks have torn into several words, and returns how many words after the first it goes
    /// on for.
    fn split_braces(
        &mut self,
        line: Line<'_>,
        word: &Range<usize>,
        after: &[Range<usize>],
    ) -> Option<usize> {
        let at = line.slice(word.clone()).rfind("${")?;
        if line.is_trigger
            || line
                .slice(word.start + at..word.end)
                .contains(['}', '"', '\''])
        {
            return None;
        }
        let closing = after
            .iter()
            .position(|next| line.slice(next.clone()).contains('}'))?;
        let last = after.get(closing)?;
        let end = last.start + line.slice(last.clone()).find('}')? + 1;
        let braces = word.start + at..end;
        let written = line.slice(braces.clone());
        let quoted = format!("{}\"{written}\"", line.slice(word.start..braces.start));
        let message = format!("the blanks in `{written}` end the word: it has no closing `}}`");
        let diagnostic = Diagnostic::error("bad-expansion", message, line.span(braces));
        self.report(diagnostic.help(format!("put it in quotes: {quoted}")));
        Some(closing + 1)
    }

    fn name_is_given(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        name: Range<usize>,
        word: Range<usize>,
    ) -> bool {
        if name.is_empty() {
            let message = format!("a name of {} cannot be blank", keyword.name());
            self.report(
                Diagnostic::error("blank-name", message, line.span(word))
                    .label("nothing stands before the `=`")
                    .help("write `name=value` without a blank before the `=`"),
            );
        }
        !name.is_empty()
    }

    fn no_equals(&mut self, keyword: Keyword, line: Line<'_>, word: Range<usize>) {
        let text = line.slice(word.clone());
        let name = keyword.name();
        let diagnostic =
            |message: String| Diagnostic::error("missing-equals", message, line.span(word.clone()));
        self.report(if text.starts_with('#') {
            diagnostic(format!("a comment cannot follow the arguments of {name}"))
                .help("a comment needs a line of its own")
        } else if let Some((left, right)) = text.split_once(" = ") {
            diagnostic(format!(
                "blanks around `=` part `{text}` into several words"
            ))
            .help(format!(
                "write `{}={}`",
                left.trim_end(),
                right.trim_start()
            ))
        } else {
            let before = line.text[..word.start].trim_end();
            let pair = before
                .rsplit([' ', '\t'])
                .next()
                .and_then(|pair| pair.split_once('='));
            let swallowed = swallowed(&line.text[..word.end]);
            let plain = |text: &str| !text.contains(['"', '\'', '\\']);
            let help = match pair {
                Some((key, value))
                    if plain(value) && plain(text) && !key.is_empty() && !value.is_empty() =>
                {
                    format!("a value with blanks needs quotes: `{key}=\"{value} {text}\"`")
                }
                _ => "a value with blanks needs quotes: name=\"two words\"".to_owned(),
            };
            let diagnostic = diagnostic(format!(
                "`{text}` in {name} has no `=`; the form is name=value"
            ));
            match swallowed {
                Some(quote) => diagnostic.secondary(
                    line.span(quote..quote + 1),
                    "this quote is closed by the one that is meant to open the next value",
                ),
                None => diagnostic.help(help),
            }
        });
    }
}

/// Splits at the first `=`, be it in quotes or not.
fn split(line: Line<'_>, word: Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    let equals = word.start + line.slice(word.clone()).find('=')?;
    Some((word.start..equals, equals + 1..word.end))
}

/// Where a quote stands that was not closed: what closes it follows an `=`, as quotes do that open a value.
fn swallowed(text: &str) -> Option<usize> {
    let mut open = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (open, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (None, '"') => open = Some(at),
            (Some(start), '"') if text[start + 1..at].ends_with('=') => return Some(start),
            (Some(_), '"') => open = None,
            _ => {}
        }
    }
    None
}
