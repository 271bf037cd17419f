//! `# check=skip=A,B;error=true;experimental=C`, and the build arg that takes its place.

use std::collections::BTreeMap;

use rbuild_parser::suggest::nearest;
use rbuild_parser::{Diagnostic, Parsed, Span};

use super::rule;
use crate::request::is_true;

/// The build arg that replaces the directive.
const BUILD_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Which rules hold, and whether a warning is as bad as an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    skip: Names,
    experimental: Names,
    /// Warnings fail the check, and the build.
    pub error: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    list: Vec<String>,
}

impl Names {
    fn parse(value: &str) -> Self {
        Self {
            all: first_word(value) == "all",
            list: value
                .split(',')
                .map(|name| first_word(name).to_owned())
                .collect(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.all || self.list.iter().any(|known| known == name)
    }
}

/// Up to a blank: what follows is taken for a remark.
fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

impl Settings {
    /// Reads the build arg where it is given, else the directive.
    pub fn of(
        parsed: &Parsed,
        build_args: &BTreeMap<String, String>,
    ) -> Result<Self, Box<Diagnostic>> {
        let directives = &parsed.dockerfile.directives;
        let directive = directives.iter().find(|one| one.name.value == "check");
        let (text, place) = match (build_args.get(BUILD_ARG), directive) {
            (Some(given), _) => (given.as_str(), None),
            (None, Some(directive)) => (directive.value.value.as_str(), Some(directive.value.span)),
            (None, None) => return Ok(Self::default()),
        };
        Self::parse(text).map_err(|(message, help)| {
            let what = match place {
                Some(_) => "the check directive",
                None => BUILD_ARG,
            };
            let span = place.unwrap_or(Span::new(0, 0));
            Box::new(Diagnostic::error("bad-check", format!("{what}: {message}"), span).help(help))
        })
    }

    fn parse(text: &str) -> Result<Self, (String, String)> {
        let mut settings = Self::default();
        let form = || "write `skip=Rule,Rule;error=true`".to_owned();
        for part in text.split(';').filter(|_| !text.trim().is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err((format!("`{part}` is no setting"), form()));
            };
            match name.trim() {
                "skip" => settings.skip = Names::parse(value),
                "experimental" => settings.experimental = Names::parse(value),
                "error" => match first_word(value) {
                    yes if is_true(yes) => settings.error = true,
                    "0" | "f" | "F" | "false" | "FALSE" | "False" => settings.error = false,
                    other => {
                        let message = format!("`error` is true or false, not `{other}`");
                        return Err((message, form()));
                    }
                },
                other => {
                    let help = nearest(other, ["skip", "error", "experimental"])
                        .map_or_else(form, |near| format!("there is a setting `{near}`"));
                    return Err((format!("there is no setting `{other}`"), help));
                }
            }
        }
        Ok(settings)
    }

    /// Whether warnings of a rule are to be shown. As in BuildKit an experimental rule that is asked for by name is
    /// not skipped with the rest.
    pub fn shows(&self, name: &str) -> bool {
        if rule::find(name).is_some_and(|rule| rule.experimental) {
            self.experimental.has(name)
        } else {
            !self.skip.has(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives() {
        let settings = Settings::parse("skip=StageNameCasing, FromAsCasing; error=true").unwrap();
        assert!(settings.error && !settings.shows("FromAsCasing"));
        assert!(settings.shows("UndefinedVar") && !settings.shows("CopyIgnoredFile"));
        let settings = Settings::parse("skip=all;experimental=all").unwrap();
        assert!(settings.shows("CopyIgnoredFile"));
        assert!(!Settings::parse("skip=all").unwrap().shows("UndefinedVar"));
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        let settings = Settings::parse("skip=StageNameCasing here; error=true # so").unwrap();
        assert!(settings.error && !settings.shows("StageNameCasing"));
        for wrong in ["skip", "error=maybe", "skpi=all", "a=b;"] {
            assert!(Settings::parse(wrong).is_err(), "{wrong}");
        }
    }
}
