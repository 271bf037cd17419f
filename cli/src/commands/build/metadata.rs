//! What `build` tells other programs: the metadata file.

use std::time::Duration;

use rbuild_engine::explain::Explanation;
use rbuild_engine::{BuildOutcome, BuildRequest};
use serde_json::json;

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
