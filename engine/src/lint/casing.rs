//! Upper and lower case: stage names, AS beside FROM, keywords.

use rbuild_parser::{Diagnostic, Keyword, Span};

use super::Subject;

pub(super) fn stage_names(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for name in subject
        .file
        .stages
        .iter()
        .filter_map(|stage| stage.from.name.as_ref())
    {
        let lower = name.value.to_lowercase();
        if name.value != lower {
            let message = format!("Stage name '{}' should be lowercase", name.value);
            found.push(
                Diagnostic::warning("StageNameCasing", message, name.span).help(format!(
                    "write `{lower}`; other instructions find it in any case"
                )),
            );
        }
    }
}

/// A keyword in mixed case is the other rule's business.
pub(super) fn from_and_as(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for stage in &subject.file.stages {
        let Some(name) = &stage.from.name else {
            continue;
        };
        let from = &stage.instruction.keyword.value;
        let expected = if is_lower(from) {
            "as"
        } else if is_upper(from) {
            "AS"
        } else {
            continue;
        };
        // What stands between the image and the name is AS, and maybe line ends.
        let between = Span::new(stage.from.image.span.end, name.span.start);
        let text = subject.source.slice(between);
        let Some(at) = text.find(['a', 'A']) else {
            continue;
        };
        let span = Span::new(between.start + at, between.start + at + 2);
        let written = subject.source.slice(span);
        if written.eq_ignore_ascii_case("as") && written != expected {
            let message = format!("'{written}' and '{from}' keywords' casing do not match");
            found.push(
                Diagnostic::warning("FromAsCasing", message, span)
                    .help(format!("write `{expected}`")),
            );
        }
    }
}

pub(super) fn keywords(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    let keywords = || {
        subject
            .file
            .stages
            .iter()
            .flat_map(|stage| std::iter::once(stage.instruction).chain(stage.body.iter().copied()))
            .map(|instruction| &instruction.keyword)
            .filter(|keyword| Keyword::find(&keyword.value).is_some())
    };
    let lower = keywords()
        .filter(|keyword| is_lower(&keyword.value))
        .count();
    let upper = keywords()
        .filter(|keyword| is_upper(&keyword.value) && !is_lower(&keyword.value))
        .count();
    let (is_right, casing): (fn(&str) -> bool, _) = if lower > upper {
        (is_lower, "lowercase")
    } else {
        (is_upper, "uppercase")
    };
    for keyword in keywords().filter(|keyword| !is_right(&keyword.value)) {
        let message = format!(
            "Command '{}' should match the case of the command majority ({casing})",
            keyword.value
        );
        found.push(
            Diagnostic::warning("ConsistentInstructionCasing", message, keyword.span).help(
                format!(
                    "write `{}`",
                    if lower > upper {
                        keyword.value.to_lowercase()
                    } else {
                        keyword.value.to_uppercase()
                    }
                ),
            ),
        );
    }
}

fn is_lower(text: &str) -> bool {
    !text.chars().any(|c| c.is_ascii_uppercase())
}

fn is_upper(text: &str) -> bool {
    !text.chars().any(|c| c.is_ascii_lowercase())
}
