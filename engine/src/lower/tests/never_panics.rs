//! Whatever stands in a file: lowering gives a build or mistakes, and never panics.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use rbuild_parser::Source;
use rbuild_solver::Operation as _;
use serde_json::json;

use super::super::{dump, images_needed, lower};
use super::kit;

/// Lines that look like a Dockerfile's, with odd words in them.
fn line() -> impl Strategy<Value = String> {
    let keyword = prop::sample::select(vec![
        "FROM",
        "RUN",
        "COPY",
        "ADD",
        "ARG",
        "ENV",
        "LABEL",
        "EXPOSE",
        "VOLUME",
        "USER",
        "WORKDIR",
        "CMD",
        "ENTRYPOINT",
        "SHELL",
        "HEALTHCHECK",
        "STOPSIGNAL",
        "ONBUILD RUN",
        "ONBUILD COPY",
        "MAINTAINER",
    ]);
    let word = prop::sample::select(vec![
        "scratch",
        "a",
        "b",
        "AS",
        "AS a",
        "AS b",
        "0",
        "1",
        "-1",
        "$A",
        "${A:-b}",
        "${B:?}",
        "A=1",
        "B=$A",
        "=",
        "/",
        "..",
        "/x/",
        "--from=a",
        "--from=$A",
        "--from=1",
        "--mount=from=b,target=/m",
        "--mount=type=cache,target=c",
        "--mount=type=secret,id=s,env=S",
        "--link",
        "--parents",
        "--chmod=u+x",
        "--chown=$A",
        "[\"a\"]",
        "[",
        "<<EOF",
        "https://e.com/x",
        "git@e.com:x",
        "80-90/udp",
        "99999",
        "NONE",
        "CMD",
        "--interval=1s",
        "'",
        "\"",
        "\\",
        "ü",
        "--platform=$TARGETPLATFORM",
        "--platform=x",
    ]);
    (keyword, prop::collection::vec(word, 0..5))
        .prop_map(|(keyword, words)| format!("{keyword} {}", words.join(" ")))
}

/// Lowers as a build does, with an odd image to stand on, and writes down what comes out.
fn attempt(text: &str, triggers: &[String], target: Option<String>, platforms: &[&str]) {
    let config = json!({
        "OnBuild": triggers,
        "Env": ["A", "=x", "B=1", "PATH"],
        "WorkingDir": "../x",
        "Shell": [],
        "User": ":",
    });
    let mut kit = kit("").image("base", config).platforms(platforms);
    kit.options.target = target;
    let source = Arc::new(Source::new("Dockerfile", text.as_bytes()));
    let parsed = rbuild_parser::parse(&source);
    let mut images = HashMap::new();
    while let Ok(needs) = images_needed(&source, &parsed, &kit.options, &images) {
        let before = images.len();
        for (need, _) in needs {
            if let Some(resolved) = kit.resolve(&need) {
                images.insert(need, Arc::new(resolved));
            }
        }
        if images.len() == before {
            break;
        }
    }
    if let Ok(lowered) = lower(&source, &parsed, &kit.options, &images) {
        dump::dump(&lowered);
        for step in &lowered.steps {
            lowered.graph.operation(step.vertex).describe().finish();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_looks_like_a_dockerfile(
        lines in prop::collection::vec(line(), 0..14),
        triggers in prop::collection::vec(line(), 0..3),
        target in prop::option::of("[ab01]"),
    ) {
        let text = format!("FROM base AS a\n{}\nEOF\n", lines.join("\n"));
        attempt(&text, &triggers, target, &["linux/amd64", "linux/arm64"]);
    }

    #[test]
    fn what_does_not(text in "(?s).{0,200}", trigger in ".{0,40}") {
        attempt(&text, &[], None, &[]);
        attempt(&format!("FROM base\n{text}"), &[trigger], None, &[]);
    }
}
