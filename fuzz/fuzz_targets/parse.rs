//! Parses whatever comes. Nothing may panic, every place must be one of the source, and what parses without a
//! mistake must print to something that parses to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_parser::{Severity, Source, json, parse, parse_trigger, print};
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let source = Source::new("Dockerfile", bytes);
    parse_trigger(&source);
    let parsed = parse(&source);
    for diagnostic in &parsed.diagnostics {
        let span = diagnostic.primary.span;
        assert!(source.text().get(span.start..span.end).is_some(), "{diagnostic:?}");
    }
    if parsed.diagnostics.iter().any(|one| one.severity == Severity::Error) {
        return;
    }
    let printed = print::dockerfile(&parsed.dockerfile, &source);
    let again_source = Source::new("Dockerfile", printed.as_bytes());
    let again = parse(&again_source);
    let shape = |mut tree: Value| {
        for instruction in tree["instructions"].as_array_mut().into_iter().flatten() {
            for key in ["start_line", "end_line", "original"] {
                instruction.as_object_mut().map(|fields| fields.remove(key));
            }
        }
        tree
    };
    let (before, after) = (json::to_json(&parsed, &source), json::to_json(&again, &again_source));
    assert_eq!(shape(before), shape(after), "printed: {printed:?}");
});
