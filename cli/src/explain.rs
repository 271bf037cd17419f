//! An explanation of a build in words: a line for each step, below it why it ran.

use rbuild_engine::explain::{ExplainedStep, Explanation, FileChange, Reason, StepOutcome};

use crate::stdio::escape_line;
use crate::table::shorten;

/// Values longer than this are cut.
const VALUE_CHARACTERS: usize = 120;

/// All steps.
pub(crate) fn text(explanation: &Explanation) -> String {
    steps(explanation, explanation.steps.iter())
}

/// Some steps.
pub(crate) fn steps<'a>(
    explanation: &Explanation,
    steps: impl Iterator<Item = &'a ExplainedStep>,
) -> String {
    let mut text = String::new();
    for step in steps {
        one(explanation, step, &mut text);
    }
    if text.is_empty() {
        text.push_str("The build has no steps.\n");
    }
    text
}

fn one(explanation: &Explanation, step: &ExplainedStep, text: &mut String) {
    let outcome = match step.outcome {
        StepOutcome::Cached => "cached",
        StepOutcome::Ran => "ran",
        StepOutcome::Failed => "failed",
        StepOutcome::NotReached => "not reached",
    };
    text.push_str(&format!(
        "{outcome}: #{} {} (line {})\n",
        step.step + 1,
        escape_line(&step.name),
        step.line
    ));
    for reason in &step.reasons {
        text.push_str(&format!("  {}\n", words(reason)));
    }
    let is_indirect = |reason: &Reason| matches!(reason, Reason::Step { .. });
    if step.reasons.iter().any(is_indirect) {
        for (root, reason) in explanation.roots(step) {
            if root.step != step.step {
                text.push_str(&format!("    line {}: {}\n", root.line, words(reason)));
            }
        }
    }
    for what in &step.not_in_key {
        text.push_str(&format!(
            "  not in the key, so it runs nothing by itself: {}\n",
            escape_line(what)
        ));
    }
}

/// A reason as one line.
pub(crate) fn words(reason: &Reason) -> String {
    let of = |context: &str| match context {
        "" => String::new(),
        name => format!(" of the context `{}`", escape_line(name)),
    };
    match reason {
        Reason::FirstBuild => "the first build: there is no earlier record of it".to_owned(),
        Reason::NewInstruction => "new: no earlier build has a result of it".to_owned(),
        Reason::NoCache => "asked for: --no-cache".to_owned(),
        Reason::Pruned => "nothing differs: its record was pruned".to_owned(),
        Reason::Changed {
            what,
            before,
            after,
        } => {
            let what = ingredient(what);
            match (before, after) {
                (Some(before), Some(after)) => {
                    format!("{what}: `{}` is now `{}`", value(before), value(after))
                }
                (None, Some(after)) => format!("{what} is new: `{}`", value(after)),
                (Some(before), None) => format!("{what} is gone: it was `{}`", value(before)),
                (None, None) => format!("{what} differs"),
            }
        }
        Reason::File {
            context,
            path,
            change,
            what,
        } => {
            let path = if path.is_empty() { "." } else { path };
            let file = format!("`{}`{}", escape_line(path), of(context));
            match change {
                FileChange::Added => format!("file added: {file}"),
                FileChange::Removed => format!("file removed: {file}"),
                FileChange::Changed => format!("file changed: {file}: {}", what.join(", ")),
            }
        }
        Reason::MoreFiles { context, count } => format!("and {count} more files{}", of(context)),
        Reason::Files { context } => {
            format!("what is copied of the context differs{}", of(context))
        }
        Reason::BaseImage { before, after } => match before {
            Some(before) => format!(
                "base image: `{}` is now `{}`",
                escape_line(before),
                escape_line(after)
            ),
            None => format!("the base image is another: `{}`", escape_line(after)),
        },
        Reason::Source { url } => format!("what `{}` gives differs", escape_line(url)),
        Reason::Step { step, name, line } => format!(
            "the result of #{} {} (line {line}) differs",
            step + 1,
            escape_line(name)
        ),
        Reason::Order { before, after } => format!(
            "it follows `{}` now, it followed `{}`",
            value(after),
            value(before)
        ),
    }
}

fn value(text: &str) -> String {
    escape_line(&shorten(text, VALUE_CHARACTERS))
}

/// The name of an ingredient as people call it.
fn ingredient(name: &str) -> String {
    let name = escape_line(name);
    match name.split_once(['.', '[']) {
        Some(("env", variable)) => format!("variable {variable}"),
        Some(("argv", place)) => format!("command, word {}", place.trim_end_matches(']')),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_said_with_their_roots() {
        let step = |step, name: &str, outcome, reasons| ExplainedStep {
            step,
            name: name.to_owned(),
            line: step as usize + 1,
            end_line: step as usize + 1,
            outcome,
            reasons,
            not_in_key: Vec::new(),
            duration_ms: None,
        };
        let file = Reason::File {
            context: String::new(),
            path: "a.txt".to_owned(),
            change: FileChange::Changed,
            what: vec!["content".to_owned(), "mode".to_owned()],
        };
        let above = Reason::Step {
            step: 1,
            name: "COPY a.txt /".to_owned(),
            line: 2,
        };
        let explanation = Explanation {
            dockerfile: "Dockerfile".to_owned(),
            steps: vec![
                step(0, "RUN a", StepOutcome::Cached, vec![]),
                step(1, "COPY a.txt /", StepOutcome::Ran, vec![file]),
                step(2, "RUN b", StepOutcome::Ran, vec![above]),
            ],
        };
        assert_eq!(
            text(&explanation),
            "cached: #1 RUN a (line 1)\n\
             ran: #2 COPY a.txt / (line 2)\n  \
               file changed: `a.txt`: content, mode\n\
             ran: #3 RUN b (line 3)\n  \
               the result of #2 COPY a.txt / (line 2) differs\n    \
                 line 2: file changed: `a.txt`: content, mode\n"
        );
    }

    #[test]
    fn ingredients_have_names() {
        assert_eq!(ingredient("env.A"), "variable A");
        assert_eq!(ingredient("argv[2]"), "command, word 2");
        assert_eq!(ingredient("mount[/c].sharing"), "mount[/c].sharing");
    }
}
