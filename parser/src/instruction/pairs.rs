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
        for word in words {
            let Some((key, value)) = split(line, word.clone()) else {
                self.no_equals(keyword, line, word);
                is_good = false;
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
                    .label("nothing stands before the `=`"),
            );
        }
        !name.is_empty()
    }

    fn no_equals(&mut self, keyword: Keyword, line: Line<'_>, word: Range<usize>) {
        let text = line.slice(word.clone());
        let name = keyword.name();
        let message = format!("`{text}` in {name} has no `=`; the form is name=value");
        let diagnostic = Diagnostic::error("missing-equals", message, line.span(word));
        self.report(if text.starts_with('#') {
            diagnostic.help("a comment needs a line of its own")
        } else if text == "=" {
            diagnostic.help("write `name=value` without blanks around the `=`")
        } else {
            diagnostic.help("a value with blanks needs quotes: name=\"two words\"")
        });
    }
}

/// Splits at the first `=`, be it in quotes or not.
fn split(line: Line<'_>, word: Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    let equals = word.start + line.slice(word.clone()).find('=')?;
    Some((word.start..equals, equals + 1..word.end))
}
