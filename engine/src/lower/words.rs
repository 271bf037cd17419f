//! Expanding words with what holds in a stage, and what to say when that fails.

use rbuild_parser::ast::Text;
use rbuild_parser::expand::{self, ExpandError, Expanded};
use rbuild_parser::suggest::nearest_variable;
use rbuild_parser::{Diagnostic, Span};

use super::build::{Lowering, Outcome, Site};
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

    fn warn_of_undefined(
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
            if state.args.iter().any(|(known, _)| known == name) {
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
    Diagnostic::error("bad-expansion", error.message.clone(), span)
}
