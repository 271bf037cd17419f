//! What looking at a Dockerfile gives to other programs: JSON, and SARIF 2.1.0 for code hosts and editors.

use std::collections::BTreeSet;

use rbuild_engine::Located;
use rbuild_engine::lint::{Check, Outline, Target, rule};
use rbuild_engine::parser::{Severity, Source};
use serde_json::{Value, json};

/// `{"warnings":[{"rule","line","detail",…}],"error":null}`
pub(crate) fn check(check: &Check) -> String {
    let warnings: Vec<Value> = check
        .warnings
        .iter()
        .map(|warning| {
            let diagnostic = &warning.located.diagnostic;
            let rule = rule::find(diagnostic.code);
            let start = place(&warning.located).0;
            json!({
                "rule": diagnostic.code,
                "line": warning.line,
                "detail": diagnostic.message,
                "description": rule.map(|rule| rule.description),
                "url": rule.and_then(rule::Rule::url),
                "help": diagnostic.help,
                "start": {"line": start.line, "column": start.column},
            })
        })
        .collect();
    let error = check.errors.first().map(|located| {
        json!({
            "code": located.diagnostic.code,
            "line": place(located).0.line,
            "detail": located.diagnostic.message,
        })
    });
    line(&json!({ "warnings": warnings, "error": error }))
}

/// A log of one run; every rule that is in it is described.
pub(crate) fn sarif(check: &Check) -> String {
    let all = check
        .errors
        .iter()
        .chain(check.warnings.iter().map(|warning| &warning.located));
    let mut ids = BTreeSet::new();
    let mut results = Vec::new();
    for located in all {
        let diagnostic = &located.diagnostic;
        ids.insert(diagnostic.code);
        let (start, end) = place(located);
        let level = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut text = diagnostic.message.clone();
        for help in &diagnostic.help {
            text.push('\n');
            text.push_str(help);
        }
        results.push(json!({
            "ruleId": diagnostic.code,
            "level": level,
            "message": {"text": text},
            "locations": [{
                "physicalLocation": {
                    "artifactLocation": {"uri": uri(located.source.name())},
                    "region": {
                        "startLine": start.line,
                        "startColumn": start.column,
                        "endLine": end.line,
                        "endColumn": end.column,
                    },
                },
            }],
        }));
    }
    let rules: Vec<Value> = ids
        .into_iter()
        .map(|id| {
            let rule = rule::find(id);
            let mut value = json!({ "id": id });
            if let (Some(rule), Some(object)) = (rule, value.as_object_mut()) {
                object.insert(
                    "shortDescription".to_owned(),
                    json!({"text": rule.description}),
                );
                if let Some(url) = rule.url() {
                    object.insert("helpUri".to_owned(), url.into());
                }
            }
            value
        })
        .collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "rbuild",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

pub(crate) fn outline(outline: &Outline) -> String {
    let args: Vec<Value> = outline
        .args
        .iter()
        .map(|arg| {
            json!({
                "name": arg.name,
                "value": arg.value,
                "description": arg.description,
                "line": arg.line,
            })
        })
        .collect();
    let needed = |list: &[rbuild_engine::lint::Needed]| -> Vec<Value> {
        list.iter()
            .map(|one| json!({"name": one.name, "required": one.required, "line": one.line}))
            .collect()
    };
    let caches: Vec<Value> = outline
        .caches
        .iter()
        .map(|cache| json!({"id": cache.id, "target": cache.target, "line": cache.line}))
        .collect();
    line(&json!({
        "name": outline.name,
        "description": outline.description,
        "args": args,
        "secrets": needed(&outline.secrets),
        "ssh": needed(&outline.ssh),
        "cache": caches,
    }))
}

pub(crate) fn targets(targets: &[Target]) -> String {
    let targets: Vec<Value> = targets
        .iter()
        .map(|target| {
            json!({
                "name": target.name,
                "default": target.default,
                "description": target.description,
                "base": target.base,
                "platform": target.platform,
                "line": target.line,
            })
        })
        .collect();
    line(&json!({ "targets": targets }))
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// Where a diagnostic begins and ends; the end lies behind its last character.
fn place(
    located: &Located,
) -> (
    rbuild_engine::parser::Position,
    rbuild_engine::parser::Position,
) {
    let source: &Source = &located.source;
    let span = located.diagnostic.primary.span;
    (
        source.position(span.start),
        source.position(span.end.max(span.start)),
    )
}

/// A path as a relative or absolute reference: what has a meaning in one is escaped.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.trim_start_matches("./").bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}
