//! Comments right above a stage or an ARG that describe it.

use rbuild_parser::ast::{Command, Instruction};
use rbuild_parser::{Diagnostic, Source};

use super::Subject;

pub(super) fn form(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for instruction in subject.instructions {
        let (keyword, names): (_, Vec<String>) = match &instruction.command {
            Command::From(from) => (
                "FROM",
                from.name
                    .iter()
                    .map(|name| name.value.to_lowercase())
                    .collect(),
            ),
            Command::Arg(declarations) => (
                "ARG",
                declarations
                    .iter()
                    .map(|one| one.name.value.clone())
                    .collect(),
            ),
            _ => continue,
        };
        let (Some(first), Some(comment)) =
            (names.first(), above(subject.source, instruction).last())
        else {
            continue;
        };
        let word = comment.split(' ').next().unwrap_or_default();
        if names.iter().any(|name| name == word) {
            continue;
        }
        let example = if names.len() > 1 { "<arg_key>" } else { first };
        let message =
            format!("Comment for {keyword} should follow the format: `# {example} <description>`");
        found.push(
            Diagnostic::warning(
                "InvalidDefinitionDescription",
                message,
                instruction.keyword.span,
            )
            .help("where it is no description, put an empty line or an empty comment below it"),
        );
    }
}

/// What a comment right above says of a name: `# name what it is for`.
pub(super) fn of(source: &Source, instruction: &Instruction, name: &str) -> Option<String> {
    above(source, instruction).iter().find_map(|comment| {
        let rest = comment.strip_prefix(name)?;
        let description = rest.strip_prefix(' ')?.trim();
        Some(description.to_owned())
    })
}

/// The comments of the lines directly above.
fn above<'i>(source: &Source, instruction: &'i Instruction) -> &'i [String] {
    let lines = (1..instruction.start_line)
        .rev()
        .take_while(|line| source.line(*line).trim_start().starts_with('#'))
        .count();
    let comments = &instruction.comments;
    comments
        .get(comments.len().saturating_sub(lines)..)
        .unwrap_or_default()
}
