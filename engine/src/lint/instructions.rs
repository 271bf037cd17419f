//! Single instructions: forms that are out of date, that do something else than they seem, or that undo one another.

use rbuild_parser::ast::{Command, CommandLine, Instruction, Pair};
use rbuild_parser::{Diagnostic, Keyword, Span, expand};

use super::Subject;
use super::from::globals;

pub(super) fn empty_continuation(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for instruction in subject.instructions {
        if let Some(line) = instruction.empty_continuation_line {
            let start = subject.source.line_span(line).start;
            found.push(
                Diagnostic::warning(
                    "NoEmptyContinuation",
                    "Empty continuation line",
                    Span::new(start, start),
                )
                .secondary(instruction.keyword.span, "within this instruction")
                .help("take the line out, or make it a comment"),
            );
        }
    }
}

/// A shell between the runtime and the program swallows signals. Where SHELL was given, that was wanted.
pub(super) fn json_arguments(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    let mut has_shell = Vec::with_capacity(subject.file.stages.len());
    let scope = globals(subject, subject.build_args).map(|(scope, _)| scope);
    for (index, stage) in subject.file.stages.iter().enumerate() {
        let name = &stage.from.image.value;
        let expanded = scope.as_ref().and_then(|scope| {
            let expanded = expand::word(name, subject.file.escape, scope).ok()?;
            Some(expanded.text)
        });
        let base = expanded.and_then(|name| subject.file.stage_in_lower_case(&name, index));
        let mut shell = base.and_then(|base| has_shell.get(base).copied()) == Some(true);
        for instruction in &stage.body {
            match &instruction.command {
                Command::Shell(_) => shell = true,
                Command::Cmd(CommandLine::Shell(text))
                | Command::Entrypoint(CommandLine::Shell(text))
                    if !shell =>
                {
                    let keyword = &instruction.keyword.value;
                    let message = format!(
                        "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
                    );
                    found.push(
                        Diagnostic::warning("JSONArgsRecommended", message, text.span)
                            .help(as_json(keyword, &text.value)),
                    );
                }
                _ => {}
            }
        }
        has_shell.push(shell);
    }
}

/// Simple words as the array they would be.
fn as_json(keyword: &str, text: &str) -> String {
    let is_simple = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || " -_./:=,@+".contains(c));
    if !is_simple {
        return format!("write `{keyword} [\"program\", \"argument\"]`");
    }
    let words: Vec<String> = text
        .split_whitespace()
        .map(|word| format!("\"{word}\""))
        .collect();
    format!("write `{keyword} [{}]`", words.join(", "))
}

/// The earlier one is shown: it is the one without effect.
pub(super) fn used_once(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for stage in &subject.file.stages {
        for kind in [Keyword::Cmd, Keyword::Entrypoint, Keyword::Healthcheck] {
            let mut before: Option<&Instruction> = None;
            let same = stage.body.iter().filter(|instruction| {
                Keyword::find(&instruction.keyword.value) == Some(kind)
                    && !matches!(instruction.command, Command::Invalid)
            });
            for instruction in same {
                if let Some(before) = before {
                    let message = format!(
                        "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                        instruction.keyword.value
                    );
                    found.push(
                        Diagnostic::warning(
                            "MultipleInstructionsDisallowed",
                            message,
                            before.keyword.span,
                        )
                        .label("has no effect")
                        .secondary(instruction.keyword.span, "this one takes its place")
                        .help("take it out"),
                    );
                }
                before = Some(instruction);
            }
        }
    }
}

pub(super) fn maintainer(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for instruction in subject.instructions {
        if let Command::Maintainer(author) = &instruction.command {
            found.push(
                Diagnostic::warning(
                    "MaintainerDeprecated",
                    "Maintainer instruction is deprecated in favor of using label",
                    instruction.keyword.span,
                )
                .help(format!(
                    "write `LABEL org.opencontainers.image.authors=\"{}\"`",
                    author.value.trim_matches('"')
                )),
            );
        }
    }
}

pub(super) fn legacy_pairs(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for (instruction, pair) in pairs(subject).filter(|(_, pair)| pair.legacy) {
        let keyword = &instruction.keyword.value;
        let message = format!(
            "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
        );
        let span = Span::new(pair.key.span.start, pair.value.span.end);
        // `NAME = value`: the `=` is meant to be one.
        let value = pair
            .value
            .value
            .strip_prefix('=')
            .map_or(pair.value.value.as_str(), |value| value.trim_start());
        let quote = if value.contains([' ', '\t']) && !value.starts_with(['"', '\'']) {
            "\""
        } else {
            ""
        };
        found.push(
            Diagnostic::warning("LegacyKeyValueFormat", message, span).help(format!(
                "write `{keyword} {}={quote}{value}{quote}`",
                pair.key.value.trim_end_matches(':')
            )),
        );
    }
}

/// ENV and LABEL.
pub(super) fn pairs<'a>(
    subject: &Subject<'a>,
) -> impl Iterator<Item = (&'a Instruction, &'a Pair)> + use<'a> {
    subject.instructions.iter().flat_map(|instruction| {
        let pairs = match &instruction.command {
            Command::Env(pairs) | Command::Label(pairs) => pairs.as_slice(),
            _ => &[],
        };
        pairs.iter().map(move |pair| (instruction, pair))
    })
}
