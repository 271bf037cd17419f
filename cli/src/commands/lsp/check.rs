//! What is wrong with an open file: what `build --check` says of it, with its directory as the context.

use std::sync::Arc;

use lsp_types::{
    CodeDescription, Diagnostic, DiagnosticRelatedInformation, DiagnosticSeverity, Location,
    NumberOrString, Range,
};
use rbuild_engine::lint::{self, rule};
use rbuild_engine::parser::Severity;
use rbuild_engine::request::{ContextLocation, DockerfileLocation};
use rbuild_engine::{BuildRequest, Error, Located};

use super::document::Document;

pub(super) fn diagnostics(document: &Document) -> Vec<Diagnostic> {
    let path = document.path();
    let directory = path.as_ref().and_then(|path| path.parent());
    let context = directory.map_or(ContextLocation::Empty, |directory| {
        ContextLocation::Directory(directory.to_path_buf())
    });
    let dockerfile = DockerfileLocation::Text {
        name: document.source.name().to_owned(),
        bytes: Arc::from(document.source.text().as_bytes()),
    };
    match lint::check(&BuildRequest::new(context, dockerfile)) {
        Ok(check) => {
            let warnings = check.warnings.into_iter().map(|warning| warning.located);
            let all = check.errors.into_iter().chain(warnings);
            all.map(|located| told(document, &located)).collect()
        }
        Err(Error::Dockerfile(mistakes)) => mistakes
            .iter()
            .map(|located| told(document, located))
            .collect(),
        // Of the context: an ignore file that cannot be read, for instance.
        Err(error) => vec![Diagnostic {
            range: Range::default(),
            severity: Some(DiagnosticSeverity::WARNING),
            source: Some("rbuild".to_owned()),
            message: error.to_string(),
            ..Diagnostic::default()
        }],
    }
}

fn told(document: &Document, located: &Located) -> Diagnostic {
    let found = &located.diagnostic;
    let mut message = found.message.clone();
    for more in std::iter::once(&found.primary.text).filter(|text| !text.is_empty()) {
        message.push_str(&format!(" ({more})"));
    }
    for help in &found.help {
        message.push_str(&format!("\nhelp: {help}"));
    }
    let related = found
        .secondary
        .iter()
        .map(|label| DiagnosticRelatedInformation {
            location: Location::new(document.uri.clone(), document.range(label.span)),
            message: label.text.clone(),
        });
    let related: Vec<_> = related.collect();
    let url = rule::find(found.code).and_then(rule::Rule::url);
    Diagnostic {
        range: document.range(found.primary.span),
        severity: Some(match found.severity {
            Severity::Error => DiagnosticSeverity::ERROR,
            Severity::Warning => DiagnosticSeverity::WARNING,
        }),
        code: Some(NumberOrString::String(found.code.to_owned())),
        code_description: url
            .and_then(|url| url.parse().ok())
            .map(|href| CodeDescription { href }),
        source: Some("rbuild".to_owned()),
        message,
        related_information: (!related.is_empty()).then_some(related),
        ..Diagnostic::default()
    }
}
