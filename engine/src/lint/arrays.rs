//! Arguments that are meant to be a JSON array and are none: BuildKit takes them for something else, silently.

use rbuild_parser::ast::{Command, CommandLine, Instruction, TransferSource};
use rbuild_parser::{Diagnostic, Span};

use super::Subject;

pub(super) fn almost(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for instruction in subject.instructions {
        if instruction.json_form || !instruction.heredocs.is_empty() {
            continue;
        }
        let Some((start, end, instead)) = arguments(instruction) else {
            continue;
        };
        let span = Span::new(start, end);
        let Some((at, slip)) = slip(subject.source.slice(span)) else {
            continue;
        };
        let at = Span::new(start + at.start, start + at.end);
        let message = format!("this is no JSON array, so it is taken for {instead}");
        found.push(Diagnostic::warning("InvalidJsonArray", message, at).label(slip).help(
            "an array is written as `[\"one\", \"two\"]`: double quotes, commas between, none at the end",
        ));
    }
}

/// Where the arguments stand that could be an array, and what they are instead.
fn arguments(instruction: &Instruction) -> Option<(usize, usize, &'static str)> {
    let words = "words";
    match &instruction.command {
        Command::Cmd(CommandLine::Shell(text)) | Command::Entrypoint(CommandLine::Shell(text)) => {
            Some((text.span.start, text.span.end, "a command of the shell"))
        }
        Command::Run(run) => match &run.command {
            CommandLine::Shell(text) => {
                Some((text.span.start, text.span.end, "a command of the shell"))
            }
            CommandLine::Exec(_) => None,
        },
        Command::Copy(transfer) | Command::Add(transfer) => match transfer.sources.first()? {
            TransferSource::Path(path) => {
                Some((path.span.start, transfer.destination.span.end, words))
            }
            TransferSource::Heredoc(_) => None,
        },
        Command::Volume(paths) => Some((paths.first()?.span.start, paths.last()?.span.end, words)),
        _ => None,
    }
}

/// Finds what is wrong with something that has the shape of an array of strings: where, and in words.
/// A test of the shell (`[ "$a" = b ]`) has not.
fn slip(text: &str) -> Option<(std::ops::Range<usize>, &'static str)> {
    let mut found: Option<(std::ops::Range<usize>, &'static str)> = None;
    let mut note = |range, words| {
        found.get_or_insert((range, words));
    };
    let mut at = 1;
    let mut commas = 0;
    text.strip_prefix('[')?;
    loop {
        at += blanks(&text[at..]);
        let quote = text[at..].chars().next()?;
        let closing = match quote {
            '"' | '\'' => quote,
            '“' | '”' | '„' => '”',
            '‘' | '’' => '’',
            ']' if commas > 0 => {
                note(at..at + 1, "no comma before this");
                break;
            }
            _ => return None,
        };
        if quote != '"' {
            note(
                at..at + quote.len_utf8(),
                "strings stand in plain double quotes",
            );
        }
        at = string_end(text, at + quote.len_utf8(), closing)?;
        at += blanks(&text[at..]);
        match text[at..].chars().next() {
            Some(',') => {
                commas += 1;
                at += 1;
            }
            Some(']') => {
                let rest = text[at + 1..].trim();
                if !rest.is_empty() {
                    if commas == 0 {
                        return None;
                    }
                    note(at + 1..text.len(), "nothing may follow the array");
                }
                break;
            }
            Some('"' | '\'') => {
                note(at..at + 1, "a comma is missing before this");
                commas += 1;
            }
            None => {
                note(at.saturating_sub(1)..at, "`]` is missing after this");
                commas += 1;
                break;
            }
            _ => return None,
        }
    }
    found.filter(|_| commas > 0)
}

fn blanks(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// The place after the quote that ends a string.
fn string_end(text: &str, start: usize, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text[start..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote || (quote == '”' && matches!(c, '“' | '"')) => {
                return Some(start + at + c.len_utf8());
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::slip;

    #[test]
    fn slips_are_told_from_tests_of_the_shell() {
        for (text, wanted) in [
            (
                "['a', 'b']",
                Some((1, "strings stand in plain double quotes")),
            ),
            ("[\"a\", \"b\",]", Some((10, "no comma before this"))),
            ("[\"a\" \"b\"]", Some((5, "a comma is missing before this"))),
            ("[\"a\", \"b\"", Some((8, "`]` is missing after this"))),
            (
                "[\"a\", \"b\"] c",
                Some((10, "nothing may follow the array")),
            ),
            (
                "[“a”, “b”]",
                Some((1, "strings stand in plain double quotes")),
            ),
            ("[\"a\"", Some((3, "`]` is missing after this"))),
            ("[ \"$a\" = b ]", None),
            ("[ \"$a\" ] && b", None),
            ("[ -f x ]", None),
            ("[", None),
            ("['a']", None),
            ("a", None),
        ] {
            let found = slip(text).map(|(at, words)| (at.start, words));
            assert_eq!(found, wanted, "{text}");
        }
    }
}
