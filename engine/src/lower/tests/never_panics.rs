//! Whatever stands in a file: lowering gives a build or mistakes, and never panics.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use rbuild_parser::Source;

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn lowering(lines in prop::collection::vec(line(), 0..14), target in prop::option::of("[ab01]")) {
        let text = format!("FROM scratch AS a\n{}\nEOF\n", lines.join("\n"));
        let source = Arc::new(Source::new("Dockerfile", text.as_bytes()));
        let parsed = rbuild_parser::parse(&source);
        let mut options = kit("").options;
        options.target = target;
        let none = HashMap::new();
        let _ = images_needed(&source, &parsed, &options, &none);
        if let Ok(lowered) = lower(&source, &parsed, &options, &none) {
            dump::dump(&lowered);
        }
    }
}
