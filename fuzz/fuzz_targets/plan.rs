//! Plans whatever parses: lowers it for one platform and for two, on an odd base image with triggers, checks, outlines and draws
//! it. Nothing may panic or loop, every step must stand in the file, and every operation must have a key.
//!
//! Lines before the one that is `--` are the base's triggers.

#![no_main]

use std::collections::HashMap;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rbuild_cache::Digest;
use rbuild_engine::lower::{Attempt, ImageNeed, Options, attempt};
use rbuild_engine::request::{BuildRequest, ContextLocation, DockerfileLocation};
use rbuild_engine::lint;
use rbuild_image::source::Resolved;
use rbuild_image::{Descriptor, ImageConfig, Manifest, Platform};
use rbuild_parser::{Severity, Source};
use rbuild_solver::Operation as _;
use serde_json::json;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let (triggers, file) = text.split_once("\n--\n").unwrap_or(("", &text));
    let mut request = BuildRequest::new(
        ContextLocation::Empty,
        DockerfileLocation::Text { name: "Dockerfile".to_owned(), bytes: file.as_bytes().into() },
    );
    for target in [None, Some("a".to_owned())] {
        request.target = target;
        let _ = lint::check(&request);
        let _ = lint::outline(&request);
        let _ = lint::targets(&request);
        let _ = lint::graph(&request);
    }
    let source = Arc::new(Source::new("Dockerfile", file.as_bytes()));
    let parsed = rbuild_parser::parse(&source);
    if parsed.diagnostics.iter().any(|one| one.severity == Severity::Error) {
        return;
    }
    let platform = |text| Platform::parse(text).unwrap();
    let mut options = Options::new(platform("linux/amd64"));
    for platforms in [vec![], vec![platform("linux/amd64"), platform("linux/arm64/v8")]] {
        options.platforms = platforms;
        let mut images = HashMap::new();
        // Each turn adds an image that was not known, and a file of this size does not name many.
        for turn in 0.. {
            assert!(turn < 2000, "asks for images without an end");
            match attempt(&source, &parsed, &options, &images) {
                Err(mistakes) => {
                    assert!(!mistakes.is_empty());
                    break;
                }
                Ok(Attempt::Needs(needs)) => {
                    assert!(!needs.is_empty());
                    for (need, _) in needs {
                        let image = Arc::new(image(&need, triggers));
                        assert!(images.insert(need, image).is_none(), "asks twice");
                    }
                }
                Ok(Attempt::Lowered(lowered)) => {
                    for step in &lowered.steps {
                        assert!(step.source.text().get(step.span.start..step.span.end).is_some());
                        assert!(step.start_line <= step.end_line);
                    }
                    for vertex in lowered.needed() {
                        lowered.graph.operation(vertex).describe().finish();
                    }
                    break;
                }
            }
        }
    }
});

/// A base of which much is odd.
fn image(need: &ImageNeed, triggers: &str) -> Resolved {
    let digest = Digest::of(need.name.as_bytes());
    let descriptor = Descriptor::new("", digest, 0);
    let config: ImageConfig = serde_json::from_value(json!({
        "architecture": need.platform.architecture,
        "os": need.platform.os,
        "config": {
            "OnBuild": triggers.lines().take(8).collect::<Vec<_>>(),
            "Env": ["A", "=x", "B=1", "PATH"],
            "WorkingDir": "../x",
            "Shell": [],
            "User": ":",
        },
        "rootfs": {"type": "layers", "diff_ids": [digest]},
        "history": [{"created_by": "a layer"}],
    }))
    .unwrap();
    Resolved {
        location: need.location.clone(),
        digest,
        root: descriptor.clone(),
        indexes: Vec::new(),
        descriptor: descriptor.clone(),
        manifest: Manifest {
            schema_version: 2,
            media_type: None,
            config: descriptor,
            layers: Vec::new(),
            annotations: None,
        },
        config,
        platform: need.platform.clone(),
    }
}
