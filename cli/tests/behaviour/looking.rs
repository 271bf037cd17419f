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
    insta::assert_snapshot!(look(OUTLINED, &["--call=outline", "--target=build", "--build-arg=VERSION=2"]), @r#"
    exit code: 0
    --- stdout
    TARGET:        build
    DESCRIPTION:   makes the program

    BUILD ARG   VALUE     DESCRIPTION
    BASE        busybox   is what all of it stands on
    UNUSED
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

#[test]
fn targets() {
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
