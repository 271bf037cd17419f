//! Mistakes: where they are shown, in which words, and that all of them are.

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_parser::Source;
use serde_json::json;

use super::super::{ContextKind, images_needed, lower};
use super::{kit, platform};

#[test]
fn mistakes() {
    for (text, expected) in [
        (
            "ARG BASE\nFROM $BASE",
            "2:6 empty-base: the base image `$BASE` is empty after expansion (ARG BASE has no value: give it a default, or --build-arg BASE=…)",
        ),
        (
            "ARG BASE=x\nFROM $BAES",
            "2:6 empty-base: the base image `$BAES` is empty after expansion (no ARG before the first FROM declares `BAES`; there is `BASE`)",
        ),
        (
            "FROM --platform=$NOPE scratch",
            "1:17 empty-platform: the platform `$NOPE` is empty after expansion (declare `ARG NOPE=…` before the first FROM)",
        ),
        (
            "FROM busybox AS builder\nFROM scratch\nCOPY --from=bulider /a /b",
            "3:13 unknown-stage: no stage or image named `bulider` (there is a stage `builder`, line 1)",
        ),
        (
            "FROM busybox AS one\nCOPY --from=later /a /b\nFROM busybox AS later\nFROM one",
            "2:13 stage-comes-later: stage `later` comes later, in line 3 (a stage can only use stages above it: move it up)",
        ),
        (
            "FROM busybox AS me\nCOPY --from=me /a /b",
            "2:13 circular-stages: stage `me` copies from itself",
        ),
        (
            "FROM busybox\nCOPY --from=2 /a /b",
            "2:13 unknown-stage: there is no stage number 2 (stages are counted from 0; the last one is 0)",
        ),
        (
            "FROM busybox\nRUN --mount=from=later,target=/m true\nFROM busybox AS later\nFROM busybox\nCOPY --from=0 /a /b",
            "2:13 stage-comes-later: stage `later` comes later, in line 3 (a stage can only use stages above it: move it up)",
        ),
        (
            "FROM busybox\nRUN --mount=type=tmpfs,target=${X:-/} true",
            "2:13 bad-mount: the root directory cannot be the target of a mount (`target=/`)",
        ),
        (
            "FROM busybox\nRUN --mount=target=/a${X true",
            "2:22 bad-expansion: `${X` has no closing `}` (write `${X}`)",
        ),
        // As a whole: over several lines its places are not those of the value.
        (
            "FROM busybox\nRUN --mount=target=\\\n/a${X true",
            "2:13 bad-expansion: `${X` has no closing `}` (write `${X}`)",
        ),
        (
            "FROM busybox\nRUN --mount=type=tmpfs,target=. true",
            "2:13 bad-mount: the root is no target for a mount (give a directory below it as `target`)",
        ),
        (
            "FROM busybox\nSTOPSIGNAL SIGQIUT",
            "2:12 bad-signal: `SIGQIUT` is not a signal (did you mean `SIGQUIT`?)",
        ),
        (
            "ARG TAG\nFROM busybox:$TAG",
            "2:6 bad-image-name: `busybox:` is not a valid image name: after its `:` there is no tag (ARG TAG has no value: give it a default, or --build-arg TAG=…)",
        ),
        (
            "FROM busybox:",
            "1:6 bad-image-name: `busybox:` is not a valid image name: after its `:` there is no tag (take the `:` away, or write a tag after it)",
        ),
        (
            "FROM --platform=linux/$ARCH busybox",
            "1:17 bad-platform: bad platform: `linux/` is not a platform: write os/architecture or os/architecture/variant, for instance linux/arm64 (declare `ARG ARCH=…` before the first FROM)",
        ),
        (
            "FROM busybox\nRUN --mount=type=cache true",
            "2:13 bad-mount: a mount without a target is at WORKDIR, which is the root here (give `target=/path`, or set WORKDIR before)",
        ),
        (
            "FROM scratch\nADD --checksum=sha256:x <<EOF /x\nEOF",
            "2:16 checksum-of-several: --checksum is for one URL or git repository",
        ),
        (
            "FROM scratch\nCOPY http://example.com/f /x",
            "2:6 copy-of-url: COPY cannot take a URL as its source (use ADD)",
        ),
        (
            "FROM scratch\nCOPY --chmod=9 f /x",
            "2:14 bad-chmod: --chmod: `9` is not a mode: an octal mode goes from 0 to 7777",
        ),
        (
            "FROM scratch\nSTOPSIGNAL SIGFOO",
            "2:12 bad-signal: `SIGFOO` is not a signal (write a name such as SIGTERM, or a number)",
        ),
        (
            "FROM busybox\nRUN --device=x true",
            "2:14 no-devices: RUN --device is not supported (take the flag away, or run the command in a container of its own)",
        ),
        (
            "ARG V=1\nFROM scratch\nLABEL a=${V:?gone}",
            "3:9 bad-expansion: V: gone (`V` is unset: it gets a value from an ENV or ARG above, or from --build-arg where an ARG declares it) (`V` is declared before FROM; declare it again in this stage with `ARG V`)",
        ),
    ] {
        assert_eq!(kit(text).errors(), [expected], "{text}");
    }
}

#[test]
fn the_target() {
    let text = "FROM busybox AS build\nFROM busybox";
    assert_eq!(
        kit(text).target("1").errors(),
        [
            "2:1 unknown-target: no stage is called `1`, which --target asks for (--target takes the name of a stage, not its number) (there are the stages `build`)"
        ]
    );
    assert_eq!(
        kit(text).target("biuld").errors(),
        [
            "2:1 unknown-target: no stage is called `biuld`, which --target asks for (there is a stage `build`)"
        ]
    );
}

#[test]
fn all_in_one_run() {
    let text = "ARG X\nFROM Bad//Name AS a\nFROM busybox\nEXPOSE http\nSTOPSIGNAL no\nCOPY --from=7 a b\nRUN --mount=type=tmpfs,target=${X:-/} --mount=from=8,target=/x true\nFROM $X";
    let mut errors = kit(text).target("a").errors();
    errors.sort();
    // Stages that are not needed count for their FROM lines and stage numbers only.
    assert_eq!(errors.len(), 3, "{errors:?}");
    let text = text.replace("\nFROM $X", "");
    let errors = kit(&text).errors();
    let codes: Vec<&str> = errors
        .iter()
        .filter_map(|error| error.split([' ', ':']).nth(2))
        .collect();
    assert_eq!(
        codes,
        ["bad-image-name", "bad-port", "bad-signal", "unknown-stage"]
    );
}

#[test]
fn triggers_blame_the_from_line() {
    let base = json!({"OnBuild": ["COPY --from=9 a b", "FROM x", "NONSENSE", "STOPSIGNAL no"]});
    let errors = kit("# comment\n\nFROM base\nRUN true")
        .image("base", base)
        .errors();
    assert_eq!(errors.len(), 4, "{errors:?}");
    assert!(
        errors.iter().all(|error| error.starts_with("3:1 ")),
        "{errors:?}"
    );
    let errors = kit("FROM busybox AS a\nONBUILD STOPSIGNAL no\nFROM a").errors();
    assert!(errors[0].starts_with("3:1 bad-signal"), "{errors:?}");
}

#[test]
fn contexts_that_name_stages() {
    let kit =
        kit("FROM busybox AS a\nFROM alias").context("alias", ContextKind::Stage("b".to_owned()));
    assert!(kit.errors()[0].contains("no stage `b`"));
    let kit = super::kit("FROM alias AS a").context("alias", ContextKind::Stage("a".to_owned()));
    assert!(kit.errors()[0].contains("needs itself"));
}

#[test]
fn what_an_unknown_image_may_explain_is_not_reported() {
    // `S` is set by the image: the first round must not take it for empty.
    let kit = kit("# rbuild: ext=1\nFROM env\nCOPY --from=${S:?} /x /y\nSTOPSIGNAL $G")
        .image("env", json!({"Env": ["S=busybox", "G=TERM"]}));
    kit.ok();
}

#[test]
fn epoch_and_build_args() {
    assert!(
        kit("FROM scratch")
            .arg("SOURCE_DATE_EPOCH", "soon")
            .errors()[0]
            .contains("SOURCE_DATE_EPOCH")
    );
    let lowered = kit("FROM scratch\nARG NAME\nLABEL a=$NMAE")
        .arg("NAEM", "x")
        .ok();
    let said: Vec<&str> = lowered
        .warnings
        .iter()
        .map(|one| one.diagnostic.message.as_str())
        .collect();
    assert_eq!(
        said,
        [
            "Usage of undefined variable '$NMAE'",
            "no ARG declares `NAEM`, which --build-arg gives"
        ]
    );
    assert_eq!(
        lowered.warnings[1].diagnostic.help,
        ["there is an ARG `NAME`"]
    );
}

#[test]
fn a_base_for_another_platform() {
    let kit = kit("FROM busybox").platforms(&["linux/amd64"]);
    let source = Arc::new(Source::new("Dockerfile", kit.text.as_bytes()));
    let parsed = rbuild_parser::parse(&source);
    let needs = images_needed(&source, &parsed, &kit.options, &HashMap::new()).unwrap();
    let (need, _) = needs.into_iter().next().unwrap();
    let mut resolved = kit.resolve(&need).unwrap();
    resolved.platform = platform("linux/arm64");
    let images = HashMap::from([(need, Arc::new(resolved))]);
    let lowered = lower(&source, &parsed, &kit.options, &images).unwrap();
    let warning = &lowered.warnings[0].diagnostic;
    assert_eq!(warning.code, "InvalidBaseImagePlatform");
    assert_eq!(
        warning.message,
        "Base image busybox was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build"
    );
    assert!(kit.ok().warnings.is_empty());
}

#[test]
fn variables_in_from_are_an_extension() {
    let body = "FROM busybox AS a\nFROM busybox\nARG S=a\nCOPY --from=$S /x /y\nRUN --mount=from=$S,target=/m true\n";
    let source = rbuild_parser::Source::new("Dockerfile", body.as_bytes());
    let refused = rbuild_parser::parse(&source).diagnostics;
    assert_eq!(refused.len(), 2);
    for mistake in &refused {
        assert_eq!(mistake.code, "variable-in-from");
        assert!(mistake.help[1].contains("# rbuild: ext=1"), "{mistake:?}");
    }
    let allowed = format!("# syntax=docker/dockerfile:1\n\n# rbuild: ext=1\n{body}");
    let direct = body.replace("$S", "a");
    // The first line is the base's step, which the stage that is lowered first gives its name.
    let graph = |text: &str| kit(text).dump().replace("$S", "a");
    let rest = |graph: &str| graph.split_once('\n').unwrap().1.to_owned();
    assert_eq!(rest(&graph(&allowed)), rest(&graph(&direct)));
    let unset = "# rbuild: ext=1\nFROM busybox AS a\nFROM busybox\nARG S=a\nCOPY --from=$T /x /y\nRUN --mount=from=b$T,target=/m true\n";
    let errors = kit(unset).errors();
    assert_eq!(
        errors,
        [
            "5:13 unset-in-from: `from` uses the variable `T`, which is not set (set are `S=a`) (the stages above are `a`)",
            "6:13 unset-in-from: `from` uses the variable `T`, which is not set (set are `S=a`) (the stages above are `a`)",
        ]
    );
    let late = format!("FROM scratch\n# rbuild: ext=1\n{body}");
    let late = rbuild_parser::Source::new("Dockerfile", late.as_bytes());
    assert_eq!(rbuild_parser::parse(&late).diagnostics.len(), 2);
}

#[test]
fn long_chains_of_stages() {
    let mut text = "FROM busybox AS s0\n".to_owned();
    for stage in 1..2000 {
        let from = ["busybox", &format!("s{}", stage - 1)][stage % 2].to_owned();
        text.push_str(&format!(
            "FROM {from} AS s{stage}\nCOPY --from=s{0} /a /b\nRUN --mount=from=s{0},target=/m true\n",
            stage - 1
        ));
    }
    kit(&text).ok();
    let mut text = "# rbuild: ext=1\nFROM busybox AS s0\n".to_owned();
    for stage in 1..300 {
        text.push_str(&format!(
            "FROM busybox AS s{stage}\nARG N=s{}\nCOPY --from=$N /a /b\n",
            stage - 1
        ));
    }
    assert!(kit(&text).errors()[0].contains("too deeply"));
}
