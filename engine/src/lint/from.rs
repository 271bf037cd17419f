//! FROM lines: variables in the image's name, and `--platform`.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_image::{Platform, Reference};
use rbuild_parser::ast::{Command, Text};
use rbuild_parser::suggest::nearest_variable;
use rbuild_parser::{Diagnostic, expand};

use super::Subject;
use crate::lower::scope::{Scope, predefined};
use crate::lower::words::variable_span;

pub(super) fn undefined(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    let Some((scope, declared)) = globals(subject, subject.build_args) else {
        return;
    };
    for stage in &subject.file.stages {
        for text in std::iter::once(&stage.from.image).chain(&stage.from.platform) {
            let Ok(expanded) = expand::word(&text.value, subject.file.escape, &scope) else {
                continue;
            };
            let names: BTreeSet<&String> = expanded.undefined.iter().collect();
            for name in names.into_iter().filter(|name| !declared.contains(*name)) {
                let known = declared.iter().map(String::as_str).chain(scope.names());
                let near = nearest_variable(name, known);
                let suggestion =
                    near.map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
                let message = format!("FROM argument '{name}' is not declared{suggestion}");
                found.push(
                    Diagnostic::warning("UndefinedArgInFrom", message, variable_span(text, name))
                        .help(format!("declare `ARG {name}=…` before the first FROM")),
                );
            }
        }
    }
}

/// As if no build arg were given.
pub(super) fn bad_default(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    let Some((scope, _)) = globals(subject, &BTreeMap::new()) else {
        return;
    };
    for stage in &subject.file.stages {
        let image = &stage.from.image;
        let Ok(expanded) = expand::word(&image.value, subject.file.escape, &scope) else {
            return;
        };
        // A wrong name without variables is an error, and told as one.
        if image.value.contains('$') && expanded.text.parse::<Reference>().is_err() {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                image.value
            );
            found.push(
                Diagnostic::warning("InvalidDefaultArgInFrom", message, image.span)
                    .label(format!("`{}` without build args", expanded.text))
                    .help("give the ARG a default, so that the file builds without --build-arg"),
            );
        }
    }
}

pub(super) fn platforms(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    let Some((scope, _)) = globals(subject, subject.build_args) else {
        return;
    };
    for stage in &subject.file.stages {
        let Some(text) = &stage.from.platform else {
            continue;
        };
        let Ok(expanded) = expand::word(&text.value, subject.file.escape, &scope) else {
            continue;
        };
        let used: BTreeSet<&str> = expanded.used.iter().map(String::as_str).collect();
        if used.is_empty() && expanded.undefined.is_empty() {
            let name = stage.name().unwrap_or_default().to_lowercase();
            found.extend(constant_platform(&name, text, &expanded.text));
        } else if used.iter().eq(["TARGETPLATFORM"].iter())
            && expanded.undefined.is_empty()
            && scope.value("TARGETPLATFORM") == Some(expanded.text.as_str())
        {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                text.value
            );
            found.push(
                Diagnostic::warning("RedundantTargetPlatform", message, text.span)
                    .help("take the flag away"),
            );
        }
    }
}

/// A stage whose name tells its platform is meant to be for that platform only.
fn constant_platform(name: &str, text: &Text, value: &str) -> Option<Diagnostic> {
    let platform = Platform::parse(value).ok()?;
    if name.contains(&platform.os) || name.contains(&platform.architecture) {
        return None;
    }
    let message = format!("FROM --platform flag should not use constant value \"{value}\"");
    Some(
        Diagnostic::warning("FromPlatformFlagConstDisallowed", message, text.span)
            .help("take the flag away and build with --platform, or write $BUILDPLATFORM"),
    )
}

/// What FROM lines see, and the names that ARG declares before them. `None` where a default cannot be expanded.
pub(super) fn globals(
    subject: &Subject<'_>,
    build_args: &BTreeMap<String, String>,
) -> Option<(Scope, BTreeSet<String>)> {
    let host = Platform::host();
    let target = subject.platform.unwrap_or(&host);
    let mut scope = predefined(&host, target, "default", build_args);
    let mut declared = BTreeSet::new();
    for instruction in &subject.file.globals {
        let Command::Arg(declarations) = &instruction.command else {
            continue;
        };
        for declaration in declarations {
            let name = &declaration.name.value;
            declared.insert(name.clone());
            if let Some(given) = build_args.get(name) {
                scope.set(name, given.clone());
            } else if let Some(default) = &declaration.default {
                let value = expand::word(&default.value, subject.file.escape, &scope).ok()?;
                scope.set(name, value.text);
            }
        }
    }
    Some((scope, declared))
}
