//! An explanation of a build in words: a line for each step, below it why it ran.

use rbuild_engine::explain::{ExplainedStep, Explanation, FileChange, Reason, StepOutcome};

use crate::stdio::escape_line;
use crate::table::shorten;

/// Values longer than this are cut.
const VALUE_CHARACTERS: usize = 120;
/// So much of what two long values have in common is shown before and after where they differ.
const CONTEXT_CHARACTERS: usize = 24;
/// So many reasons of earlier steps are repeated; all of them stand where they belong.
const ROOTS_MAX: usize = 3;

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
        text.push_str(&format!("  {}\n", of_step(step, reason)));
    }
    let is_indirect = |reason: &Reason| matches!(reason, Reason::Step { .. });
    if step.reasons.iter().any(is_indirect) {
        let mut roots = explanation.roots(step);
        roots.retain(|(root, _)| root.step != step.step);
        for (root, reason) in roots.iter().take(ROOTS_MAX) {
            let words = of_step(root, reason);
            text.push_str(&format!("    line {}: {words}\n", root.line));
        }
        let more = roots.len().saturating_sub(ROOTS_MAX);
        if more > 0 {
            text.push_str(&format!("    and {more} more reasons, as told there\n"));
        }
    }
    for what in &step.not_in_key {
        text.push_str(&format!(
            "  not in the key, so it runs nothing by itself: {}\n",
            escape_line(what)
        ));
    }
}

/// A reason of a step as one line. The command of a shell form is one text, not words.
fn of_step(step: &ExplainedStep, reason: &Reason) -> String {
    let words = words(reason);
    match words.strip_prefix("command, word 3") {
        Some(rest) if is_shell_form(&step.name) => format!("command{rest}"),
        _ => words,
    }
}

/// `[2/4] RUN --mount=… make`, but not `[2/4] RUN ["make"]`.
fn is_shell_form(name: &str) -> bool {
    let text = name.split_once("] ").map_or(name, |(_, text)| text);
    let mut words = text.split_whitespace().skip(1);
    words
        .find(|word| !word.starts_with("--"))
        .is_some_and(|word| !word.starts_with('['))
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
        Reason::NoCache => "asked for: --no-cache, or a --no-cache-filter that names it".to_owned(),
        Reason::Pruned => "nothing differs: its record was pruned".to_owned(),
        Reason::Changed {
            what,
            before,
            after,
        } => {
            let what = ingredient(what);
            match (before, after) {
                (Some(before), Some(after)) => {
                    let (before, after) = differing(before, after);
                    format!("{what}: `{}` is now `{}`", value(&before), value(&after))
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

/// Two values, of which those that are long lose what they have in common, but for a little around the difference.
fn differing(before: &str, after: &str) -> (String, String) {
    let (one, other): (Vec<char>, Vec<char>) = (before.chars().collect(), after.chars().collect());
    if one.len().max(other.len()) <= VALUE_CHARACTERS {
        return (before.to_owned(), after.to_owned());
    }
    let same = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let rest = one.len().min(other.len()) - same;
    let ends = one.iter().rev().zip(other.iter().rev());
    let same_end = ends.take(rest).take_while(|(a, b)| a == b).count();
    let start = same.saturating_sub(CONTEXT_CHARACTERS);
    let keep_end = same_end.min(CONTEXT_CHARACTERS);
    let cut = |text: &[char]| {
        let end = text.len() - (same_end - keep_end);
        let middle: String = text.get(start..end).unwrap_or_default().iter().collect();
        let (before, after) = (start > 0, end < text.len());
        let dots = |cut: bool| if cut { "…" } else { "" };
        format!("{}{middle}{}", dots(before), dots(after))
    };
    (cut(&one), cut(&other))
}

fn value(text: &str) -> String {
    escape_line(&shorten(text, VALUE_CHARACTERS))
}

/// The name of an ingredient as people call it.
fn ingredient(name: &str) -> String {
    let name = escape_line(name);
    match name.split_once(['.', '[']) {
        Some(("env", variable)) => format!("variable {variable}"),
        Some(("argv", place)) => format!("command, word {}", counted(place)),
        Some(("source", place)) => format!("source {}", counted(place)),
        Some(("host", host)) => format!("host {}", host.trim_end_matches(']')),
        Some(("ulimit", name)) => format!("--ulimit {}", name.trim_end_matches(']')),
        Some(("mount", rest)) => match rest.split_once("].") {
            Some((target, what)) => format!("mount of {target}: {what}"),
            None => format!("mount of {}", rest.trim_end_matches(']')),
        },
        _ if name == "cwd" => "working directory".to_owned(),
        _ if name == "shm-size" => "--shm-size".to_owned(),
        _ => name,
    }
}

/// `1]` → `2`: people count from one.
fn counted(place: &str) -> String {
    let place = place.trim_end_matches(']');
    place
        .parse()
        .map_or_else(|_| place.to_owned(), |place: usize| (place + 1).to_string())
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
        assert_eq!(ingredient("argv[2]"), "command, word 3");
        assert_eq!(ingredient("source[0]"), "source 1");
        assert_eq!(ingredient("host[a]"), "host a");
        assert_eq!(ingredient("ulimit[core]"), "--ulimit core");
        assert_eq!(ingredient("mount[/c].sharing"), "mount of /c: sharing");
        for (name, shell) in [
            ("[2/4] RUN make", true),
            ("[2/4] RUN --mount=a --b make", true),
            ("RUN --mount=a [\"make\"]", false),
        ] {
            assert_eq!(is_shell_form(name), shell, "{name}");
        }
    }

    #[test]
    fn long_values_are_cut_where_they_are_equal() {
        let long = |middle: &str| format!("{}{middle}{}", "a".repeat(300), "z".repeat(300));
        let (before, after) = differing(&long("one"), &long("other"));
        let common = ("a".repeat(23), "z".repeat(24));
        assert_eq!(before, format!("…{}one{}…", common.0, common.1));
        assert!(after.contains("other"), "{after}");
        assert_eq!(differing("a", "b"), ("a".to_owned(), "b".to_owned()));
        let (before, after) = differing("", &"x".repeat(500));
        assert_eq!((before.len(), after.len()), (0, 500));
        let (before, after) = differing(&"x".repeat(400), &"x".repeat(500));
        assert!(before.chars().count() < 60 && after.chars().count() > 100);
    }
}
