//! Looking at a Dockerfile: `--check`, `--call check|outline|targets`. None of it needs a machine that can build.

use serde_json::{Value, json};

use crate::kit::{Kit, Output};

const WARNED: &str = "FROM scratch AS Base\nFROM scratch\nMAINTAINER me\n";

fn look(dockerfile: &str, arguments: &[&str]) -> Output {
    let kit = Kit::new();
    let output = kit.build(dockerfile, arguments);
    assert!(!kit.path("store").exists(), "a store was made:\n{output}");
    output
}

fn check(dockerfile: &str) -> (i32, Value) {
    let output = look(dockerfile, &["--call=check,format=json"]);
    (output.code, serde_json::from_str(&output.stdout).unwrap())
}

fn rules(found: &Value) -> Vec<String> {
    let warnings = found["warnings"].as_array().unwrap();
    warnings
        .iter()
        .map(|one| format!("{}:{}", one["rule"].as_str().unwrap(), one["line"]))
        .collect()
}

#[test]
fn warnings_fail_only_where_the_file_says_so() {
    let (code, found) = check(WARNED);
    assert_eq!(code, 0);
    assert_eq!(
        rules(&found),
        ["StageNameCasing:1", "MaintainerDeprecated:3"]
    );
    assert_eq!(found["error"], Value::Null);
    assert_eq!(
        found["warnings"][0]["detail"],
        "Stage name 'Base' should be lowercase"
    );
    let (code, found) = check(&format!("# check=error=true\n{WARNED}"));
    assert_eq!((code, rules(&found).len()), (1, 2));
    assert_eq!(
        found["error"]["detail"],
        "lint violation found for rules: MaintainerDeprecated, StageNameCasing"
    );
    let (code, found) = check(&format!(
        "# check=skip=StageNameCasing,MaintainerDeprecated;error=true\n{WARNED}"
    ));
    assert_eq!((code, rules(&found).len()), (0, 0));
    let output = look(
        WARNED,
        &[
            "--check",
            "--build-arg=BUILDKIT_DOCKERFILE_CHECK=error=true",
        ],
    );
    assert_eq!(output.code, 1, "{output}");
}

#[test]
fn an_error_fails_the_check() {
    let (code, found) = check("FROM scratch\nCOPPY a b\n");
    assert_eq!(code, 1);
    assert_eq!(found["error"]["line"], 2);
    let output = look("FROM scratch\nCOPPY a b\n", &["--check"]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("COPY"), "{output}");
    let (code, found) = check("# check=skip\nFROM scratch\n");
    assert_eq!((code, &found["error"]["code"]), (1, &json!("bad-check")));
}

#[test]
fn the_text_of_a_check() {
    insta::assert_snapshot!(look(WARNED, &["--check"]), @r#"
    exit code: 0
    --- stdout
    Check complete, 2 warnings have been found!

    warning[StageNameCasing]: Stage name 'Base' should be lowercase
     --> context/Dockerfile:1:17
      |
    1 | FROM scratch AS Base
      |                 ^^^^
      |
    help: write `base`; other instructions find it in any case
    see https://docs.docker.com/go/dockerfile/rule/stage-name-casing/

    warning[MaintainerDeprecated]: Maintainer instruction is deprecated in favor of using label
     --> context/Dockerfile:3:1
      |
    3 | MAINTAINER me
      | ^^^^^^^^^^
      |
    help: write `LABEL org.opencontainers.image.authors="me"`
    see https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/
    --- stderr
    "#);
    insta::assert_snapshot!(look("FROM scratch\nCOPY a /\n", &["--check"]), @r#"
    exit code: 0
    --- stdout
    Check complete, no warnings found.
    --- stderr
    "#);
}

#[test]
fn sarif() {
    let output = look(WARNED, &["--call=check,format=sarif"]).success();
    let log: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), 2);
    assert_eq!(
        run["results"][1],
        json!({
            "ruleId": "MaintainerDeprecated",
            "level": "warning",
            "message": {"text": "Maintainer instruction is deprecated in favor of using label\nwrite `LABEL org.opencontainers.image.authors=\"me\"`"},
            "locations": [{"physicalLocation": {
                "artifactLocation": {"uri": "context/Dockerfile"},
                "region": {"startLine": 3, "startColumn": 1, "endLine": 3, "endColumn": 11},
            }}],
        })
    );
}

const OUTLINED: &str = "\
# BASE is what all of it stands on
ARG BASE=busybox
ARG UNUSED
FROM golang:1 AS other
ARG OTHER=1

# build makes the program
FROM $BASE AS build
# VERSION of the program
ARG VERSION=1.0
RUN --mount=type=secret,id=token,required=true --mount=type=ssh \\
    --mount=type=cache,target=/root/.cache make $VERSION

FROM scratch
COPY --from=build /out /
";

#[test]
fn an_outline() {
    crate::require_machine!();
    insta::assert_snapshot!(look(OUTLINED, &["--call=outline", "--target=build", "--build-arg=VERSION=2"]), @r#"
    exit code: 0
    --- stdout
    TARGET:        build
    DESCRIPTION:   makes the program

    BUILD ARG   VALUE     DESCRIPTION
    BASE        busybox   is what all of it stands on
    VERSION     2         of the program

    SECRET   REQUIRED
    token    true

    SSH       REQUIRED
    default

    CACHE MOUNT    TARGET
    /root/.cache   /root/.cache
    --- stderr
    "#);
    let output = look(OUTLINED, &["--call=outline,format=json"]).success();
    let outline: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(outline["name"], Value::Null);
    assert_eq!(
        outline["secrets"],
        json!([{"name": "token", "required": true, "line": 11}])
    );
    assert_eq!(outline["args"][0]["value"], "busybox");
    let output = look(OUTLINED, &["--call=outline", "--target=biuld"]);
    assert_eq!(output.code, 1);
    assert!(
        output.stderr.contains("there is a stage `build`"),
        "{output}"
    );
}

/// The last ARG of a name is in force; one of before FROM counts where it reaches the target.
#[test]
fn arguments_of_an_outline() {
    let file = "\
ARG A=1
ARG B=$A
ARG IDLE=1
# C first
ARG C=1
FROM scratch
ARG B
# C of the stage
ARG C=2 D=3
ARG D=4 TARGETARCH
";
    let listed = |arguments: &[&str]| {
        let output = look(file, &[&["--call=outline,format=json"], arguments].concat()).success();
        let outline: Value = serde_json::from_str(&output.stdout).unwrap();
        let args = outline["args"].as_array().unwrap().clone();
        args.iter()
            .map(|arg| {
                let text = |key: &str| arg[key].as_str().unwrap_or("-").to_owned();
                let line = &arg["line"];
                format!(
                    "{line} {}={} {}",
                    text("name"),
                    text("value"),
                    text("description")
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        listed(&[]),
        ["1 A=1 -", "2 B=1 -", "9 C=2 of the stage", "10 D=4 -"]
    );
    assert_eq!(
        listed(&["--build-arg=B=5", "--build-arg=TARGETARCH=x"]),
        [
            "7 B=5 -",
            "9 C=2 of the stage",
            "10 D=4 -",
            "10 TARGETARCH=x -"
        ]
    );
}

#[test]
fn targets() {
    crate::require_machine!();
    insta::assert_snapshot!(look(OUTLINED, &["--call=targets"]), @r#"
    exit code: 0
    --- stdout
    TARGET      BASE       DESCRIPTION
    other       golang:1
    build       $BASE      makes the program
    (default)   scratch
    --- stderr
    "#);
    let output = look(OUTLINED, &["--call=targets,format=json"]).success();
    let found: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        found["targets"][1],
        json!({"name": "build", "default": false, "description": "makes the program", "base": "$BASE", "platform": null, "line": 8})
    );
}

#[test]
fn what_is_wrong_within_a_stage_keeps_nobody_from_listing_them() {
    let names = |file: &str| {
        let found = look(file, &["--call=targets,format=json"]).success().stdout;
        let found: Value = serde_json::from_str(&found).unwrap();
        let targets = found["targets"].as_array().unwrap().iter();
        let names = targets.map(|target| target["name"].as_str().unwrap_or("-").to_owned());
        names.collect::<Vec<_>>().join(" ")
    };
    for line in [
        "RUN --mount=type=what true",
        "ENV a=${b",
        "COPY \"a b\" /",
        "COPY --from=$c / /",
        "COPY --from=nowhere / /",
        "ENV a",
        "WHAT ever",
        "RUN --what true",
    ] {
        let file = format!("FROM $base AS a\n{line}\nFROM ${{x AS b\nFROM a\n");
        assert_eq!(names(&file), "a b -", "{line}");
    }
    for file in [
        "FORM a AS a\nFROM b\n",
        "FROM a AS a\nFRM b\n",
        "FROM a AS 0a\n",
        "FROM a b\n",
        "ARG a\n",
        "RUN true\nFROM a\n",
        "FROM a AS a\nRUN <<E\nFROM b AS b\n",
        "# escape=x\nFROM a\n",
    ] {
        let output = look(file, &["--call=targets"]);
        assert_eq!(output.code, 1, "{file}: {output}");
        assert!(output.stderr.contains("error["), "{file}: {output}");
    }
}

#[test]
fn an_outline_needs_what_its_target_needs() {
    let file = "FROM a AS a\nARG X=1\nFROM a AS b\nRUN --mount=type=what true\nENV a\n";
    let output = look(file, &["--call=outline,format=json", "--target=a"]).success();
    let outline: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(outline["args"][0]["name"], "X");
    let output = look(file, &["--call=outline", "--target=b"]);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stderr.contains("error[bad-mount]"), "{output}");
    assert!(output.stderr.contains("error[missing-value]"), "{output}");
}

#[test]
fn misused_calls() {
    for arguments in [
        &["--call=chekc"][..],
        &["--call=check,format=xml"],
        &["--call=outline,format=sarif"],
        &["--call=build", "--check"],
        &["--call=targets", "--check"],
        &["--call=build,format=json"],
    ] {
        let output = look(WARNED, arguments);
        assert_eq!(output.code, 2, "{output}");
    }
}

#[test]
fn a_build_tells_its_warnings_once() {
    crate::require_machine!();
    let kit = Kit::new();
    let output = kit.must_build(WARNED, &["--platform=linux/amd64,linux/arm64"]);
    let count = output.stderr.matches("MaintainerDeprecated").count();
    assert_eq!(count, 1, "{output}");
    let output = kit.build(&format!("# check=error=true\n{WARNED}"), &[]);
    assert_eq!(output.code, 1);
    assert!(
        output
            .stderr
            .contains("lint violation found for rules: MaintainerDeprecated, StageNameCasing"),
        "{output}"
    );
}

#[test]
fn a_build_that_fails_tells_its_warnings_before_the_error() {
    crate::require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "a")]);
    let dockerfile = format!("{WARNED}COPY b /\n");
    let output = kit.build(&dockerfile, &[]);
    assert_eq!(output.code, 1, "{output}");
    let warning = output.stderr.find("warning[MaintainerDeprecated]");
    let error = output.stderr.find("error[");
    assert!(warning.is_some() && warning < error, "{output}");
    assert_eq!(output.stderr.matches("warning[").count(), 2, "{output}");
    let quiet = kit.build(&dockerfile, &["--quiet"]);
    assert!(!quiet.stderr.contains("warning["), "{quiet}");
    assert!(quiet.stderr.contains("error["), "{quiet}");
}

#[test]
fn a_context_is_listed_with_what_is_ignored_and_why() {
    let kit = Kit::new();
    kit.context(&[
        (
            ".dockerignore",
            "# c\nmodules\n**/*.log\n!keep.log\n*/*/*.tmp\n",
        ),
        ("Dockerfile", "FROM scratch\n"),
        ("keep.log", "1"),
        ("other.log", "1"),
        ("modules/a/b", "1"),
        ("src/a.c", "12"),
        ("src/deep/b.tmp", "1"),
    ]);
    let context = kit.path("context").display().to_string();
    let list = |arguments: &[&str]| {
        let arguments = [&["context", "ls", &context], arguments].concat();
        kit.must(&arguments)
    };
    let paths = list(&["--format", "{{.Path}} {{.Size}}"]).stdout;
    let expected = ".dockerignore 41B\nDockerfile 13B\nkeep.log 1B\nsrc/a.c 2B\nsrc/deep/ -\n";
    assert_eq!(paths, expected);
    let kept = list(&["--why", "--format", "{{.Path}} {{.Rule}}"]).stdout;
    assert!(
        kept.contains("keep.log .dockerignore:4 !keep.log\n"),
        "{kept}"
    );
    insta::assert_snapshot!(list(&["--ignored", "--why"]), @r"
    exit code: 0
    --- stdout
    SIZE      PATH             DECIDED BY
    -         modules/         .dockerignore:2 modules
    1B        other.log        .dockerignore:3 **/*.log
    1B        src/deep/b.tmp   .dockerignore:5 */*/*.tmp
    --- stderr
    5 entries of 57B in the context; 3 entries ignored, directories counted as one
    ");
    let own = kit.path("context/Dockerfile.dockerignore");
    std::fs::write(own, "*\n!src\n").unwrap();
    assert_eq!(
        list(&["--format", "{{.Path}}"]).stdout,
        "src/a.c\nsrc/deep/b.tmp\n"
    );
    assert!(!kit.path("store").exists(), "a store was made");
}

#[test]
fn a_graph_is_drawn_in_every_form() {
    let kit = Kit::new();
    let dockerfile =
        "FROM scratch AS a\nCOPY Dockerfile /a\nFROM scratch\nCOPY --link --from=a /a \"/b\"\n";
    kit.context(&[("Dockerfile", dockerfile)]);
    let context = kit.path("context").display().to_string();
    let graph = |format: &str| kit.must(&["graph", "--format", format, &context]).stdout;
    insta::assert_snapshot!(graph("dot"), @r##"
    digraph build {
      rankdir=LR;
      node [shape=box, style="rounded,filled", fontname="monospace"];
      v0 [label="[internal] load build context", fillcolor="#f4f4f4"];
      v1 [label="[a 1/1] COPY Dockerfile /a", fillcolor="#f4f4f4"];
      v2 [label="[stage-1 1/1] COPY --link --from=a /a /b", fillcolor="#f4f4f4"];
      v0 -> v1;
      v1 -> v2;
    }
    "##);
    insta::assert_snapshot!(graph("mermaid"), @r#"
    flowchart LR
      v0["[internal] load build context"]
      v1["[a 1/1] COPY Dockerfile /a"]
      v2["[stage-1 1/1] COPY --link --from=a /a /b"]
      v0 --> v1
      v1 --> v2
    "#);
    let json: Value = serde_json::from_str(&graph("json")).unwrap();
    assert_eq!(json["vertices"][1]["line"], 2);
    assert_eq!(json["vertices"][1]["state"], Value::Null);
    assert_eq!(json["results"], json!([2]));
    assert!(graph("svg").starts_with("<svg "));
    assert!(graph("html").contains("<title>Build graph</title>"));
    assert!(!kit.path("store").exists(), "a store was made");
    if crate::kit::machine_can("a_graph_is_drawn_in_every_form") {
        kit.must(&["build", "-q", &context]);
        let json: Value = serde_json::from_str(&graph("json")).unwrap();
        assert_eq!(json["vertices"][1]["state"], "ran");
        assert!(json["vertices"][1]["duration_ms"].is_u64());
    }
}

#[test]
fn a_graph_is_told_in_buildkits_words() {
    let kit = Kit::new();
    let dockerfile = "FROM scratch\nCOPY Dockerfile /a\n";
    kit.context(&[("Dockerfile", dockerfile), (".dockerignore", "*.log\n")]);
    let context = kit.path("context").display().to_string();
    // What it comes to byte by byte is held in the engine's tests.
    let graph = kit.must(&["llb", &context]).stdout;
    for word in [
        "local://context",
        "[\"*.log\"]",
        "[1/1] COPY Dockerfile /a",
        dockerfile,
    ] {
        assert!(graph.contains(word), "{word} is missing in {graph}");
    }
    for wrong in ["--output=x", "--platform=linux/amd64,linux/arm64"] {
        let output = kit.rbuild(&["llb", wrong, &context]);
        assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{output}");
    }
}

#[test]
fn a_dockerfile_is_put_into_style() {
    let kit = Kit::new();
    kit.context(&[("Dockerfile", "from scratch as a\n\n\ncopy x y  \n")]);
    let file = kit.path("context/Dockerfile").display().to_string();
    let output = kit.rbuild(&["fmt", "--check", &file]);
    assert_eq!((output.code, output.stdout), (1, format!("{file}\n")));
    kit.must(&["fmt", &file]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, "FROM scratch AS a\n\nCOPY x y\n");
    let output = kit.must(&["fmt", "--check", &file]);
    assert_eq!(output.stdout, "");
    let output = kit.rbuild_with_input(&["fmt", "-"], b"from a\ncoppy b\n");
    assert_eq!((output.code, output.stdout.as_str()), (1, ""));
    assert!(output.stderr.contains("COPY"), "{output}");
}
