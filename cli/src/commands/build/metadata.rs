//! What `build` tells other programs: the metadata file and the JSON of `--call check,format=json`.

use std::time::Duration;

use rbuild_engine::explain::Explanation;
use rbuild_engine::parser::{Severity, Source};
use rbuild_engine::{self as engine, BuildOutcome, BuildRequest, Located};
use serde_json::{Value, json};

use crate::error::Result;
use crate::exit::Exit;
use crate::stdio;

/// All names that the result gets, as people write them, in the order given.
pub(crate) fn names(request: &BuildRequest) -> Vec<String> {
    let of_outputs = request.outputs.iter().flat_map(|output| &output.names);
    let mut names: Vec<String> = Vec::new();
    for reference in request.tags.iter().chain(of_outputs) {
        let name = reference.canonical();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The document of `--metadata-file`.
pub(crate) fn document(
    outcome: &BuildOutcome,
    explanation: Option<&Explanation>,
    names: &[String],
    took: Duration,
) -> Vec<u8> {
    let mut document = json!({
        "rbuild.build": {
            "steps": outcome.steps,
            "cached": outcome.cached,
            "duration_seconds": took.as_secs_f64(),
        },
    });
    if let Some(explanation) = explanation
        && let Some(build) = document["rbuild.build"].as_object_mut()
    {
        build.insert("explain".to_owned(), json!(explanation));
    }
    if let (Some(image), Some(object)) = (&outcome.image, document.as_object_mut()) {
        object.insert("containerimage.config.digest".to_owned(), json!(image.id));
        object.insert(
            "containerimage.descriptor".to_owned(),
            json!(image.descriptor),
        );
        object.insert("containerimage.digest".to_owned(), json!(image.digest));
        if !names.is_empty() {
            object.insert("image.name".to_owned(), names.join(",").into());
        }
    }
    format!("{document:#}\n").into_bytes()
}

/// `{"warnings":[{"rule","line","detail"}],"error":null}`
pub(crate) fn print_check(outcome: engine::Result<BuildOutcome>) -> Result<Exit> {
    let (found, exit) = match outcome {
        Ok(outcome) => (outcome.warnings, Exit::Success),
        Err(engine::Error::Dockerfile(found)) => (found, Exit::Failed),
        Err(other) => return Err(other.into()),
    };
    let line = |located: &Located| {
        let source: &Source = &located.source;
        source.position(located.diagnostic.primary.span.start).line
    };
    let warnings: Vec<Value> = found
        .iter()
        .filter(|located| located.diagnostic.severity == Severity::Warning)
        .map(|located| {
            json!({
                "rule": located.diagnostic.code,
                "line": line(located),
                "detail": located.diagnostic.message,
            })
        })
        .collect();
    let error = found
        .iter()
        .find(|located| located.diagnostic.severity == Severity::Error)
        .map(|located| {
            json!({
                "code": located.diagnostic.code,
                "line": line(located),
                "detail": located.diagnostic.message,
            })
        });
    stdio::out(format!(
        "{}\n",
        json!({ "warnings": warnings, "error": error })
    ));
    Ok(exit)
}
