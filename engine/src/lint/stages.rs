//! Names of stages: twice the same, or one that means something already.

use std::collections::HashMap;

use rbuild_parser::Diagnostic;

use super::Subject;

pub(super) fn names(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    let mut first = HashMap::new();
    for name in subject
        .file
        .stages
        .iter()
        .filter_map(|stage| stage.from.name.as_ref())
    {
        let lower = name.value.to_lowercase();
        if ["context", "scratch"].contains(&lower.as_str()) {
            let message =
                format!("Stage name should not use the same name as reserved stage \"{lower}\"");
            found.push(
                Diagnostic::warning("ReservedStageName", message, name.span)
                    .help("give the stage another name: this one cannot be built upon"),
            );
        }
        if let Some(before) = first.get(&lower) {
            let message = format!("Duplicate stage name \"{lower}\", stage names should be unique");
            found.push(
                Diagnostic::warning("DuplicateStageName", message, name.span)
                    .secondary(*before, "first used here")
                    .help("instructions below mean this stage, those between the two the first"),
            );
        } else {
            first.insert(lower, name.span);
        }
    }
}
