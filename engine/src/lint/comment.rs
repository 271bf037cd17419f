//! `#` within a line. The Dockerfile knows comments only on lines of their own: elsewhere the words become arguments,
//! or, in a command that goes on in the next line, the shell takes the whole rest for a comment.

use rbuild_parser::ast::{Command, CommandLine, Escape, Instruction};
use rbuild_parser::{Diagnostic, Span};

use super::Subject;

pub(super) fn after_instruction(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for instruction in subject.instructions {
        let hash = match &instruction.command {
            Command::Run(_) => swallowing(subject, instruction),
            Command::Cmd(CommandLine::Shell(text))
            | Command::Entrypoint(CommandLine::Shell(text)) => {
                if text.value.starts_with('[') {
                    first(subject, instruction, false)
                } else {
                    swallowing(subject, instruction)
                }
            }
            Command::Copy(_) | Command::Add(_) => first(subject, instruction, true),
            Command::Env(pairs) | Command::Label(pairs) if pairs.iter().any(|pair| pair.legacy) => {
                first(subject, instruction, false)
            }
            Command::Arg(_)
            | Command::Expose(_)
            | Command::Volume(_)
            | Command::User(_)
            | Command::Workdir(_)
            | Command::Stopsignal(_) => first(subject, instruction, false),
            _ => None,
        };
        let Some(at) = hash else { continue };
        let goes_to_shell = matches!(
            &instruction.command,
            Command::Run(_) | Command::Cmd(_) | Command::Entrypoint(_)
        );
        let message = if goes_to_shell {
            "this `#` makes a comment of all that follows, on the next lines too"
        } else {
            "this `#` begins no comment: the words become arguments"
        };
        found.push(
            Diagnostic::warning("CommentAfterInstruction", message, Span::new(at, at + 1))
                .help("put the comment on a line of its own"),
        );
    }
}

/// A `#` of the shell on a line that goes on in the next.
fn swallowing(subject: &Subject<'_>, instruction: &Instruction) -> Option<usize> {
    let escape = subject.file.escape;
    let mut quote = None;
    for line in instruction.start_line..logical_end(subject, instruction) {
        let text = subject.source.line(line);
        let continues = text.trim_end().ends_with(escape.character());
        if text.trim_start().starts_with('#') {
            continue;
        }
        let hash = find(text, escape, &mut quote, false);
        if let Some(at) = hash.filter(|_| continues) {
            return Some(subject.source.line_span(line).start + at);
        }
    }
    None
}

/// The first `#` that begins a word; where names may begin so, only one with a blank after it.
fn first(subject: &Subject<'_>, instruction: &Instruction, strict: bool) -> Option<usize> {
    let mut quote = None;
    for line in instruction.start_line..=logical_end(subject, instruction) {
        let text = subject.source.line(line);
        if text.trim_start().starts_with('#') {
            continue;
        }
        if let Some(at) = find(text, subject.file.escape, &mut quote, strict) {
            return Some(subject.source.line_span(line).start + at);
        }
    }
    None
}

/// The last line of an instruction without its heredocs.
pub(super) fn logical_end(subject: &Subject<'_>, instruction: &Instruction) -> usize {
    match instruction.heredocs.first() {
        Some(heredoc) => {
            let body = subject.source.position(heredoc.body_span.start).line;
            body.saturating_sub(1).max(instruction.start_line)
        }
        None => instruction.end_line,
    }
}

/// A `#` after a blank and outside quotes; `quote` is carried from line to line.
fn find(text: &str, escape: Escape, quote: &mut Option<char>, strict: bool) -> Option<usize> {
    let mut before = ' ';
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        match (*quote, c) {
            (Some(open), c) if c == open => *quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => *quote = Some(c),
            (None, c) if c == escape.character() => {
                characters.next();
            }
            (None, '#') if at > 0 && before.is_whitespace() => {
                let is_followed_by_blank = characters
                    .peek()
                    .is_none_or(|(_, next)| next.is_whitespace());
                if !strict || is_followed_by_blank {
                    return Some(at);
                }
            }
            _ => {}
        }
        before = c;
    }
    None
}
