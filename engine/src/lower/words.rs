//! Expanding words with what holds in a stage, and what to say when that fails.

use std::ops::Range;

use rbuild_parser::ast::Text;
use rbuild_parser::expand::{self, ExpandError, Expanded};
use rbuild_parser::suggest::nearest_variable;
use rbuild_parser::{Diagnostic, Span};

use super::lowering::{Lowering, Outcome, Site};
use super::state::State;

impl Lowering<'_> {
    /// Expands one word with what holds in a stage.
    pub(crate) fn word(&mut self, state: &State, site: Site<'_>, text: &Text) -> Outcome<String> {
        match expand::word(&text.value, self.file.escape, &state.scope) {
            Ok(expanded) => {
                self.warn_of_undefined(state, site, text, &expanded);
                Ok(expanded.text)
            }
            Err(error) => Err(Box::new(self.explain(
                state,
                expansion_mistake(text, &error),
                &text.value,
            ))),
        }
    }

    /// Adds what a variable's absence may be owed to.
    fn explain(&self, state: &State, mistake: Diagnostic, raw: &str) -> Diagnostic {
        let forgotten =
            self.target.global_names.iter().find(|name| {
                state.scope.value(name).is_none() && raw.contains(&format!("{{{name}"))
            });
        match forgotten {
            Some(name) => mistake.help(format!(
                "`{name}` is declared before FROM; declare it again in this stage with `ARG {name}`"
            )),
            None => mistake,
        }
    }

    pub(crate) fn warn_of_undefined(
        &mut self,
        state: &State,
        site: Site<'_>,
        text: &Text,
        expanded: &Expanded,
    ) {
        if state.tentative {
            return;
        }
        for name in &expanded.undefined {
            if state.declares(name) {
                continue;
            }
            let near = nearest_variable(name, state.scope.names());
            let may_be_inherited = self.options.assumed
                && state.base_layers > 0
                && !self.target.global_names.contains(name)
                && often_set(name, near.is_some());
            if may_be_inherited {
                continue;
            }
            let suggestion =
                near.map_or_else(String::new, |near| format!(" (did you mean ${near}?)"));
            let mut warning = Diagnostic::warning(
                "UndefinedVar",
                format!("Usage of undefined variable '${name}'{suggestion}"),
                variable_span(text, name),
            );
            if self.target.global_names.contains(name) {
                warning = warning.help(format!(
                    "`{name}` is declared before FROM; declare it again in this stage with `ARG {name}`"
                ));
            } else if near.is_none() {
                warning = warning.help(format!(
                    "declare it with `ARG {name}`, or put `\\` before the `$` to keep it"
                ));
            }
            self.warning_at(site, warning);
        }
    }
}

impl Lowering<'_> {
    /// A command that uses an ARG of before FROM, which is not set in the stage, gets nothing for it.
    pub(crate) fn warn_of_globals(&mut self, state: &State, site: Site<'_>, script: &str) {
        if state.tentative || !script.contains('$') {
            return;
        }
        let mut names: Vec<String> = self.target.global_names.iter().cloned().collect();
        names.sort_unstable();
        for name in names {
            let is_known = state.scope.value(&name).is_some() || state.declares(&name);
            if is_known || !uses(script, &name) || sets(script, &name) {
                continue;
            }
            let text = self.file.source.slice(site.instruction.span);
            let forms = [format!("${name}"), format!("${{{name}")];
            let place = forms
                .iter()
                .find_map(|form| Some((text.find(form.as_str())?, form.len())))
                .filter(|_| site.blame.is_none());
            let span = place.map_or(site.shown().keyword.span, |(at, length)| {
                let start = site.instruction.span.start + at;
                Span::new(start, start + length)
            });
            self.warning_at(
                site,
                Diagnostic::warning(
                    "ArgBeforeFromNotVisible",
                    format!("`{name}` is not set here: its ARG stands before FROM"),
                    span,
                )
                .help(format!("declare it again in this stage with `ARG {name}`")),
            );
        }
    }
}

/// Whether a script has `$NAME` or `${NAME` where a shell puts in the value.
fn uses(script: &str, name: &str) -> bool {
    let literal = single_quoted(script);
    script.match_indices('$').any(|(at, _)| {
        if literal.iter().any(|range| range.contains(&at)) {
            return false;
        }
        let rest = &script[at + 1..];
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        rest.strip_prefix(name).is_some_and(|after| {
            !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        })
    })
}

/// What stands in single quotes and is another program's: text of R, awk or perl. After `-c` it is for a shell again.
fn single_quoted(script: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut double = false;
    let mut chars = script.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => {
                chars.next();
            }
            '"' => double = !double,
            '\'' if !double => {
                let end = chars.find(|(_, char)| *char == '\'').map(|(end, _)| end);
                let last = script[..at].split_ascii_whitespace().next_back();
                let for_a_shell = last.is_some_and(|word| {
                    word.starts_with('-') && !word.starts_with("--") && word.ends_with('c')
                });
                if let (Some(end), false) = (end, for_a_shell) {
                    ranges.push(at..end);
                }
            }
            _ => {}
        }
    }
    ranges
}

/// Whether a script may set a variable itself.
fn sets(script: &str, name: &str) -> bool {
    script.match_indices(name).any(|(at, _)| {
        let rest = &script[at + name.len()..];
        let before = script[..at].chars().next_back();
        rest.starts_with('=') && before != Some('$')
    }) || script.contains(&format!("read {name}"))
        || script.contains(&format!("for {name} "))
}

/// Whether images often bring a variable of this name. What is near to one that is set is rather a slip.
fn often_set(name: &str, has_near: bool) -> bool {
    const NAMES: [&str; 6] = ["GOPATH", "LANG", "LANGUAGE", "LC_ALL", "PGDATA", "PG_MAJOR"];
    let is_likely = name.ends_with("_HOME") || name.ends_with("_VERSION");
    NAMES.contains(&name) || (is_likely && !has_near)
}

/// The place of a variable within a raw word that stands in the source as it is; the whole word otherwise.
pub(crate) fn variable_span(text: &Text, name: &str) -> Span {
    let in_place = text.span.end.saturating_sub(text.span.start) == text.value.len();
    let forms = [format!("${name}"), format!("${{{name}")];
    let found = forms
        .iter()
        .filter_map(|form| Some((text.value.find(form.as_str())?, form.len())))
        .min();
    match found {
        Some((at, length)) if in_place => {
            Span::new(text.span.start + at, text.span.start + at + length)
        }
        _ => text.span,
    }
}

/// The place within a raw word, where it stands in the source as it is; the whole word otherwise.
pub(crate) fn expansion_mistake(text: &Text, error: &ExpandError) -> Diagnostic {
    let in_place = text.span.end.saturating_sub(text.span.start) == text.value.len();
    let span = if in_place && error.offset < text.value.len() {
        Span::new(text.span.start + error.offset, text.span.end)
    } else {
        text.span
    };
    error.diagnostic(span)
}
