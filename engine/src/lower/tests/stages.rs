//! Which stages are lowered, what they begin with, and what triggers do.

use serde_json::json;

use super::super::ContextKind;
use super::{kit, layout};

/// The commands of a build's RUNs, in order.
fn runs(kit: &super::Kit) -> String {
    let history = kit.history();
    let runs: Vec<&str> = history
        .iter()
        .filter_map(|entry| {
            entry
                .strip_prefix("L RUN /bin/sh -c ")?
                .strip_suffix(" # buildkit")
        })
        .collect();
    runs.join(" ")
}

#[test]
fn only_needed_stages_are_lowered() {
    let text = "FROM nowhere AS a\nRUN a\nFROM busybox AS b\nRUN b\nFROM busybox AS c\nCOPY --from=b /x /y\nFROM nowhere";
    let dump = kit(text).target("C").dump();
    assert!(dump.contains("\"b\"]"), "{dump}");
    assert!(!dump.contains("nowhere"), "{dump}");
}

#[test]
fn equal_stages_are_one() {
    let kit = kit(
        "FROM busybox AS a\nRUN x\nFROM busybox AS b\nRUN x\nFROM scratch\nCOPY --from=a /x /a\nCOPY --from=b /x /b",
    );
    assert_eq!(kit.ok().steps.len(), 4, "{}", kit.dump());
}

#[test]
fn platforms_share_what_does_not_depend_on_them() {
    let text = "FROM --platform=$BUILDPLATFORM busybox AS build\nRUN compile\nFROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY --from=build /x /x";
    let lowered = kit(text).platforms(&["linux/amd64", "linux/arm64"]).ok();
    assert_eq!(lowered.images.len(), 2);
    assert_eq!(lowered.images[0].vertex, lowered.images[1].vertex);
    assert_eq!(lowered.steps.len(), 3);
}

#[test]
fn names() {
    for (text, expected) in [
        // The nearest stage above of that name.
        (
            "FROM busybox AS s\nRUN 1\nFROM s AS s\nRUN 2\nFROM s",
            "1 2",
        ),
        ("FROM busybox AS S\nRUN 1\nFROM s", "1"),
        (
            "ARG W=b\nFROM busybox AS a\nRUN 1\nFROM busybox AS b\nRUN 2\nFROM ${W}",
            "2",
        ),
    ] {
        assert_eq!(runs(&kit(text)), expected, "{text}");
    }
}

#[test]
fn triggers_of_an_image() {
    let base = json!({"Env": ["PATH=/bin", "N=base"], "OnBuild": ["ARG V=d", "RUN one", "workdir /$N-$V", "RUN two"]});
    let kit = kit("FROM base AS a\nRUN three\nFROM a\nRUN four")
        .image("base", base)
        .arg("V", "v");
    insta::assert_snapshot!(kit.history().join("\n"), @r"
    e ARG V=v
    L RUN |1 V=v /bin/sh -c one # buildkit
    L WORKDIR /base-v
    L RUN |1 V=v /bin/sh -c two # buildkit
    L RUN |1 V=v /bin/sh -c three # buildkit
    L RUN |1 V=v /bin/sh -c four # buildkit
    ");
    let lowered = kit.ok();
    assert_eq!(lowered.images[0].config.config.on_build, None);
    assert!(lowered.warnings.is_empty(), "{:?}", lowered.warnings);
    let names: Vec<&str> = lowered
        .steps
        .iter()
        .map(|step| step.name.as_str())
        .collect();
    assert_eq!(names[0], "[a 1/5] FROM docker.io/library/base:latest");
    assert_eq!(names[1], "[a 2/5] ONBUILD RUN one");
    assert_eq!((lowered.steps[1].start_line, names.len()), (1, 6));
}

#[test]
fn triggers_of_a_stage_run_once() {
    let kit = kit("FROM busybox AS a\nONBUILD RUN t\nFROM a AS b\nRUN own\nFROM b\nRUN last");
    assert_eq!(runs(&kit), "t own last");
    assert_eq!(kit.ok().images[0].config.config.on_build, None);
}

#[test]
fn triggers_are_recorded_in_the_parent() {
    let kit = kit("FROM busybox\nONBUILD RUN  a $X\nONBUILD COPY . /");
    let recorded = kit.ok().images[0].config.config.on_build.clone();
    assert_eq!(
        recorded,
        Some(vec!["RUN  a $X".to_owned(), "COPY . /".to_owned()])
    );
    assert_eq!(kit.history().len(), 0);
}

#[test]
fn triggers_name_stages_and_images_of_the_child() {
    let base = json!({"OnBuild": ["COPY --from=assets /a /a", "COPY --from=busybox /b /b"]});
    let kit = kit("FROM busybox AS assets\nRUN make\nFROM base").image("base", base);
    let dump = kit.dump();
    assert!(dump.contains("make"), "{dump}");
    assert_eq!(kit.history().len(), 2);
}

#[test]
fn contexts_shadow() {
    let other = json!({"Env": ["PATH=/other"]});
    for (name, text) in [
        ("busybox", "FROM docker.io/library/busybox:latest"),
        ("docker.io/library/busybox:latest", "FROM busybox"),
        ("example.com/a:1", "FROM example.com/a:1"),
        ("deps", "FROM nowhere AS Deps\nRUN exit 1\nFROM deps"),
    ] {
        let kit = kit(text)
            .context(name, layout("other"))
            .image("other", other.clone());
        let env = kit.ok().images[0].config.config.env.clone();
        assert_eq!(env, Some(vec!["PATH=/other".to_owned()]), "{text}");
    }
    let stage = kit("FROM busybox AS real\nRUN real\nFROM alias")
        .context("alias", ContextKind::Stage("real".to_owned()));
    assert_eq!(runs(&stage), "real");
}

#[test]
fn no_cache_filters() {
    let text = "FROM busybox AS a\nRUN 1\nWORKDIR /w\nFROM a AS b\nRUN 2\nCOPY f /";
    let refreshed = |filters: &[&str]| {
        let dump = kit(text).no_cache(filters).dump();
        dump.matches(" refresh").count()
    };
    assert_eq!(refreshed(&[]), 0);
    assert_eq!(refreshed(&["A"]), 2);
    assert_eq!(refreshed(&["b"]), 2);
    assert_eq!(refreshed(&["run"]), 2);
    assert_eq!(refreshed(&["2"]), 1);
    assert_eq!(refreshed(&["3-5", "nothing"]), 2);
}

#[test]
fn steps_are_counted_and_named() {
    let lowered = kit("FROM busybox\nRUN a\nENV A=1\nCOPY f /x-$A\nWORKDIR /\nWORKDIR w").ok();
    let steps: Vec<String> = lowered
        .steps
        .iter()
        .map(|step| format!("{} | {} | {}", step.start_line, step.name, step.record_step))
        .collect();
    insta::assert_snapshot!(steps.join("\n"), @r"
    1 | [1/5] FROM docker.io/library/busybox:latest | image/busybox
    4 | [internal] load build context | context/
    2 | [2/5] RUN a | linux/amd64/stage-0/RUN/1
    4 | [3/5] COPY f /x-1 | linux/amd64/stage-0/COPY/1
    6 | [4/5] WORKDIR /w | linux/amd64/stage-0/WORKDIR/1
    ");
}
