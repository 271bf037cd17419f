//! ARG and ENV that hold what nobody else should read: their values stay in the image's config and history.

use rbuild_parser::Diagnostic;
use rbuild_parser::ast::{Command, Text};

use super::{Subject, plain};

/// Parts of a name, between underscores, that tell a secret.
const SECRET: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// Parts that tell that it is none.
const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// How well-known credentials begin, and how long they are at least.
const CREDENTIALS: [(&str, usize, &str); 9] = [
    ("ghp_", 36, "a GitHub token"),
    ("github_pat_", 40, "a GitHub token"),
    ("gho_", 36, "a GitHub token"),
    ("glpat-", 20, "a GitLab token"),
    ("AKIA", 20, "an AWS access key"),
    ("xoxb-", 20, "a Slack token"),
    ("sk_live_", 20, "a Stripe key"),
    ("npm_", 36, "an npm token"),
    ("-----BEGIN", 20, "a private key"),
];

const HELP: &str = "hand it to the one RUN that needs it: `RUN --mount=type=secret,id=NAME,env=NAME …` and `--secret id=NAME`";

pub(super) fn names(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for (keyword, name, _) in variables(subject) {
        // Quotes around the name of an ARG are part of it.
        let plain = match keyword {
            "ENV" => plain(name, subject.file.escape).unwrap_or_default(),
            _ => name.value.clone(),
        };
        if looks_secret(&plain) {
            let message = format!(
                "Do not use ARG or ENV instructions for sensitive data ({keyword} \"{plain}\")"
            );
            found.push(Diagnostic::warning("SecretsUsedInArgOrEnv", message, name.span).help(HELP));
        }
    }
}

pub(super) fn values(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for (keyword, name, value) in variables(subject) {
        let Some(value) = value else { continue };
        let plain = value.value.trim_matches(['"', '\'']);
        let kind = CREDENTIALS
            .iter()
            .find(|(start, length, _)| plain.starts_with(start) && plain.len() >= *length);
        if let Some((_, _, kind)) = kind {
            let message = format!("the value of {keyword} `{}` looks like {kind}", name.value);
            found.push(
                Diagnostic::warning("SecretValueInArgOrEnv", message, value.span)
                    .label("everybody who has the image can read it")
                    .help("revoke it if this file was ever shared")
                    .help(HELP),
            );
        }
    }
}

/// Of stages: keyword, name and value.
fn variables<'a>(subject: &Subject<'a>) -> Vec<(&'static str, &'a Text, Option<&'a Text>)> {
    let mut found = Vec::new();
    for instruction in subject.file.stages.iter().flat_map(|stage| &stage.body) {
        match &instruction.command {
            Command::Arg(declarations) => {
                let declared = declarations
                    .iter()
                    .map(|one| ("ARG", &one.name, one.default.as_ref()));
                found.extend(declared);
            }
            Command::Env(pairs) => {
                found.extend(
                    pairs
                        .iter()
                        .map(|pair| ("ENV", &pair.key, Some(&pair.value))),
                );
            }
            _ => {}
        }
    }
    found
}

/// Whether a variable is called as secrets are.
pub(crate) fn looks_secret(name: &str) -> bool {
    has_part(name, &SECRET) && !has_part(name, &HARMLESS)
}

fn has_part(name: &str, parts: &[&str]) -> bool {
    name.split('_')
        .any(|part| parts.iter().any(|known| known.eq_ignore_ascii_case(part)))
}
