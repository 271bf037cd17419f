//! Each rule: where it speaks, and where it keeps silent.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::rule::{self, RULES};
use super::{CHECKS, Check, check};
use crate::request::{
    Attestations, BuildRequest, ContextLocation, DockerfileLocation, NetworkChoice, NoCache,
};

fn request(text: &str, context: ContextLocation) -> BuildRequest {
    BuildRequest {
        context,
        dockerfile: DockerfileLocation::Text {
            name: "Dockerfile".to_owned(),
            bytes: Arc::from(text.as_bytes()),
        },
        tags: Vec::new(),
        target: None,
        platforms: Vec::new(),
        build_args: BTreeMap::new(),
        labels: Vec::new(),
        annotations: Vec::new(),
        contexts: Vec::new(),
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        no_cache: NoCache::No,
        pull: false,
        secrets: Vec::new(),
        ssh: Vec::new(),
        network: NetworkChoice::Default,
        reach: None,
        users: rbuild_executor::spec::Users::Own,
        hosts: Vec::new(),
        dns: rbuild_executor::spec::Dns::default(),
        allow: Vec::new(),
        limits: rbuild_executor::spec::Limits::default(),
        attestations: Attestations::default(),
        outputs: Vec::new(),
        squash: crate::request::Squash::No,
        max_layers: None,
        jobs: None,
        source_date_epoch: None,
        keep_failed: false,
    }
}

fn names(check: &Check) -> String {
    let warnings: Vec<String> = check
        .warnings
        .iter()
        .map(|warning| format!("{}:{}", warning.located.diagnostic.code, warning.line))
        .collect();
    let errors = check
        .errors
        .iter()
        .map(|error| format!("{} {}", error.diagnostic.code, error.diagnostic.message));
    warnings
        .into_iter()
        .chain(errors)
        .collect::<Vec<_>>()
        .join(" ")
}

fn found(text: &str) -> String {
    names(&check(&request(text, ContextLocation::Empty)).unwrap())
}

/// Dockerfile and what is found: `Rule:line …`.
const CASES: &[(&str, &str)] = &[
    ("FROM scratch AS Base", "StageNameCasing:1"),
    ("FROM scratch AS base", ""),
    ("FROM scratch\nCOPY ['a', '/b']", "InvalidJsonArray:2"),
    ("FROM scratch\nRUN [ \"$a\" = b ]", ""),
    ("FROM scratch\nRUN [ 'a' ]", ""),
    (
        "FROM scratch\nENTRYPOINT [\"a\"",
        "JSONArgsRecommended:2 InvalidJsonArray:2",
    ),
    ("FROM scratch\nRUN [\"a\" \"b\"]", "InvalidJsonArray:2"),
    (
        "ARG V=1\nFROM scratch\nRUN echo $V",
        "ArgBeforeFromNotVisible:3",
    ),
    ("ARG V=1\nFROM scratch\nARG V\nRUN echo $V", ""),
    ("ARG V=1\nFROM scratch\nRUN V=2; echo ${V}", ""),
    ("ARG V=1\nFROM scratch\nRUN echo $VX", ""),
    (
        "ARG v=1\nFROM scratch\nRUN R -e 'cat(\"it\", R.Version()$v)'",
        "",
    ),
    (
        "ARG V=1\nFROM scratch\nRUN echo \"it's $V\"",
        "ArgBeforeFromNotVisible:3",
    ),
    (
        "ARG V=1\nFROM scratch\nRUN su me -c 'echo $V'",
        "ArgBeforeFromNotVisible:3",
    ),
    (
        "ARG v=1\nFROM scratch\nSHELL [\"powershell.exe\", \"-Command\"]\nRUN echo $v",
        "",
    ),
    ("ARG V=1\nFROM scratch\nENV V=3\nRUN echo $V", ""),
    ("FROM scratch\nCOPY a b --from=x", "FlagAfterArguments:2"),
    (
        "FROM scratch\nADD [\"a\", \"--chown=1\", \"/b\"]",
        "UseCopyInsteadOfAdd:2 FlagAfterArguments:2",
    ),
    ("FROM scratch\nCOPY -- a --b /", ""),
    ("FROM scratch\nCOPY --link a -- /", ""),
    (
        "FROM scratch\nRUN make \\\n  --mount=type=cache,target=/x",
        "FlagAfterArguments:3",
    ),
    (
        "FROM scratch\nRUN x && y --security=insecure",
        "FlagAfterArguments:2",
    ),
    ("FROM scratch\nRUN make \\\n# --mount=type=cache\n  all", ""),
    (
        "FROM scratch\nRUN echo 'a --mount=type=cache,target=/x'",
        "",
    ),
    (
        "FROM scratch\nRUN docker run --mount=type=bind,src=/a,dst=/b c",
        "",
    ),
    ("FROM scratch\nRUN unshare --mount=/a --network=none b", ""),
    (
        "FROM scratch\nONBUILD COPY a b --from=x",
        "FlagAfterArguments:2",
    ),
    (
        "FROM scratch\nHEALTHCHECK CMD --timeout=3s curl x",
        "FlagAfterArguments:2",
    ),
    (
        "FROM scratch\nHEALTHCHECK CMD curl x --interval=5s",
        "FlagAfterArguments:2",
    ),
    ("FROM scratch\nHEALTHCHECK CMD wget --timeout=3 x", ""),
    ("FROM scratch\nCOPY ../a /", "CopyOutsideContext:2"),
    ("FROM scratch\nCOPY b/../a /", ""),
    ("FROM scratch\nCOPY src\\a.c /", "BackslashInPath:2"),
    ("FROM scratch\nCOPY a\\*b /", ""),
    ("FROM scratch as base", "FromAsCasing:1"),
    ("from scratch AS base", "FromAsCasing:1"),
    ("FROM scratch \\\n  as base", "FromAsCasing:1"),
    ("from scratch as base", ""),
    // The keyword is the other rule's business.
    (
        "From scratch as base\nCOPY a b",
        "ConsistentInstructionCasing:1",
    ),
    (
        "FROM scratch\ncopy a /\nCOPY b /",
        "ConsistentInstructionCasing:2",
    ),
    (
        "FROM scratch\ncopy a /\ncopy b /",
        "ConsistentInstructionCasing:1",
    ),
    ("FROM scratch\nCOPY a \\\n\n /", "NoEmptyContinuation:4"),
    ("FROM scratch\nCOPY a \\\n# comment\n /", ""),
    (
        "FROM scratch AS a\nFROM scratch AS A",
        "StageNameCasing:2 DuplicateStageName:2",
    ),
    ("FROM scratch AS a\nFROM scratch AS b", ""),
    ("FROM scratch AS context", "ReservedStageName:1"),
    ("FROM scratch AS scratch2", ""),
    ("FROM scratch\nCMD echo hi", "JSONArgsRecommended:2"),
    ("FROM scratch\nENTRYPOINT echo hi", "JSONArgsRecommended:2"),
    ("FROM scratch\nCMD [\"echo\"]", ""),
    ("FROM scratch\nSHELL [\"/bin/sh\"]\nCMD echo hi", ""),
    (
        "FROM scratch AS a\nSHELL [\"/bin/sh\"]\nFROM a\nCMD echo hi",
        "",
    ),
    (
        "ARG B=a\nFROM scratch AS a\nSHELL [\"/bin/sh\"]\nFROM $B\nCMD echo hi",
        "",
    ),
    ("FROM scratch\nMAINTAINER me", "MaintainerDeprecated:2"),
    ("FROM scratch\nLABEL maintainer=me", ""),
    (
        "ARG VERSION=1\nFROM busybox:$VERSOIN",
        "InvalidDefaultArgInFrom:2 UndefinedArgInFrom:2 bad",
    ),
    ("ARG TAG=1\nFROM busybox:${TAG}", ""),
    ("ARG TAG\nFROM busybox:${TAG:-1}", ""),
    (
        "ARG IMAGE\nFROM $IMAGE\n",
        "InvalidDefaultArgInFrom:2 empty",
    ),
    ("FROM scratch\nWORKDIR app", "WorkdirRelativePath:2"),
    ("FROM scratch\nWORKDIR /app\nWORKDIR sub", ""),
    ("FROM scratch AS a\nWORKDIR /app\nFROM a\nWORKDIR sub", ""),
    ("FROM alpine AS base\nCOPY $foo .", "UndefinedVar:2"),
    ("FROM alpine AS base\nARG foo\nCOPY $foo .", ""),
    ("FROM alpine\nENV PATH=$PAHT:/x", "UndefinedVar:2"),
    ("FROM scratch\nCOPY <<EOF /x\n$foo\nEOF", "UndefinedVar:2"),
    ("FROM scratch\nCOPY <<'EOF' /x\n$foo\nEOF", ""),
    (
        "FROM scratch\nRUN --mount=type=cache,target=/x,id=$foo a",
        "UndefinedVar:2",
    ),
    ("FROM scratch\nCOPY --exclude=$foo a /", ""),
    // What an error may be owed to is told beside it.
    ("FROM scratch\nSTOPSIGNAL $foo", "UndefinedVar:2 bad-signal"),
    ("FROM golang\nENV PATH=$GOPATH/bin:$PATH", ""),
    ("FROM scratch\nENV A=$GOPATH", "UndefinedVar:2"),
    (
        "FROM alpine AS unneeded\nCOPY \\\n $foo .\nFROM scratch",
        "UndefinedVar:2",
    ),
    (
        "FROM scratch\nCMD [\"a\"]\nCMD [\"b\"]",
        "MultipleInstructionsDisallowed:2",
    ),
    (
        "FROM scratch\nHEALTHCHECK NONE\nHEALTHCHECK CMD [\"b\"]\nENTRYPOINT [\"a\"]",
        "MultipleInstructionsDisallowed:2",
    ),
    ("FROM scratch AS a\nCMD [\"a\"]\nFROM a\nCMD [\"b\"]", ""),
    (
        "FROM scratch\nENV a b\nLABEL c d",
        "LegacyKeyValueFormat:2 LegacyKeyValueFormat:3",
    ),
    ("FROM scratch\nENV a=b", ""),
    (
        "FROM --platform=$TARGETPLATFORM alpine",
        "RedundantTargetPlatform:1",
    ),
    ("FROM --platform=$BUILDPLATFORM alpine", ""),
    (
        "FROM --platform=$TARGETPLATFORM$X alpine",
        "UndefinedArgInFrom:1",
    ),
    (
        "FROM --platform=linux/amd64 alpine AS base",
        "FromPlatformFlagConstDisallowed:1",
    ),
    ("FROM --platform=linux/amd64 alpine AS build_amd64", ""),
    (
        "FROM scratch\nARG AWS_SECRET_ACCESS_KEY\nENV token=x",
        "SecretsUsedInArgOrEnv:2 SecretsUsedInArgOrEnv:3",
    ),
    ("FROM scratch\nENV \"token\"=x", "SecretsUsedInArgOrEnv:2"),
    (
        "FROM scratch\nARG PUBLIC_KEY\nENV TOKEN_FILE=x KEYBOARD=y",
        "",
    ),
    (
        "FROM scratch\nENV A=ghp_0123456789abcdefghijABCDEFGHIJ0123456789",
        "SecretValueInArgOrEnv:2",
    ),
    ("FROM scratch\nENV A=ghp_short", ""),
    (
        "# check=experimental=all\n\n# what\nFROM scratch AS a\n# B is\nARG A\n# A is\nARG A",
        "InvalidDefinitionDescription:4 InvalidDefinitionDescription:6",
    ),
    (
        "# check=experimental=all\n\n# a is\nFROM scratch AS a\n# free\n\nARG A",
        "",
    ),
    ("# what\nFROM scratch AS a", ""),
    ("FROM scratch\nEXPOSE 80/TCP", "ExposeProtoCasing:2"),
    (
        "FROM scratch\nEXPOSE 127.0.0.1:80:80",
        "ExposeInvalidFormat:2",
    ),
    ("FROM scratch\nEXPOSE 80/tcp 90-91/udp", ""),
    ("FROM scratch\nEXPOSE :80 ::81", ""),
    ("FROM alpine\nRUN apt-get update", "AptGetUpdateAlone:2"),
    (
        "FROM alpine\nRUN set -e; DEBIAN_FRONTEND=x /usr/bin/apt -q update && rm -f x",
        "AptGetUpdateAlone:2",
    ),
    (
        "FROM alpine\nRUN apt-get update && apt-get install -y x",
        "",
    ),
    ("FROM alpine\nRUN apt-get update && ./install.sh", ""),
    (
        "FROM alpine\nRUN apt-get update\nRUN apt-get install -y x",
        "AptGetUpdateAlone:2",
    ),
    // What is installed is fresh all the same.
    (
        "FROM alpine\nRUN apt-get update\nRUN apt-get -q update && apt-get install -y x",
        "",
    ),
    (
        "FROM alpine\nRUN apt update\nRUN apt update && apt install x\nRUN apt install y",
        "AptGetUpdateAlone:2",
    ),
    (
        "FROM alpine\nRUN <<EOF\nset -e\napt-get update\napt-get install -y x\nEOF",
        "",
    ),
    (
        "FROM alpine\nRUN --mount=type=cache,target=/var/lib/apt apt-get update",
        "",
    ),
    (
        "FROM alpine\nRUN <<EOF\nfalse\ntrue\nEOF",
        "HeredocContinuesAfterError:2",
    ),
    ("FROM alpine\nRUN <<EOF\nset -ex\nfalse\ntrue\nEOF", ""),
    (
        "FROM alpine\nRUN <<EOF\n#!/usr/bin/env python3\na\nb\nEOF",
        "",
    ),
    (
        "FROM alpine\nRUN <<EOF\n#!/bin/sh\na\nb\nEOF",
        "HeredocContinuesAfterError:2",
    ),
    ("FROM alpine\nRUN <<EOF\na && \\\n b\nEOF", ""),
    (
        "FROM alpine\nRUN <<EOF\nx=1 y=2\nexport z=3\necho a > /b\nlast\nEOF",
        "",
    ),
    (
        "FROM alpine\nRUN <<EOF\necho $(first)\nlast\nEOF",
        "HeredocContinuesAfterError:2",
    ),
    (
        "FROM alpine\nRUN <<EOF\nx=1 first\nlast\nEOF",
        "HeredocContinuesAfterError:2",
    ),
    (
        "FROM alpine\nSHELL [\"/bin/bash\", \"-ec\"]\nRUN <<EOF\na\nb\nEOF",
        "",
    ),
    ("FROM scratch\nADD app /app", "UseCopyInsteadOfAdd:2"),
    (
        "FROM scratch\nADD app.tar.gz /app\nADD https://e.com/x /x\nADD *.x /y/",
        "",
    ),
    (
        "FROM scratch\nWORKDIR /app # comment",
        "CommentAfterInstruction:2",
    ),
    (
        "FROM scratch\nRUN a && \\\n  b # comment \\\n  && c",
        "CommentAfterInstruction:3",
    ),
    ("FROM scratch\nRUN a # comment", ""),
    ("FROM scratch\nRUN echo 'a # b' \\\n # comment\n b", ""),
    (
        "FROM scratch\nCMD [\"a\"] # comment",
        "JSONArgsRecommended:2 CommentAfterInstruction:2",
    ),
    ("FROM scratch\nCOPY a #b /", ""),
    ("FROM scratch\nRUN a &amp;&amp; b", "HtmlEntity:2"),
    (
        "FROM scratch\nRUN echo \u{201c}a\u{201d}",
        "TypographicQuote:2",
    ),
    ("FROM scratch\nRUN ls \u{2013}l", "TypographicDash:2"),
    (
        "FROM scratch\r\nRUN <<EOF\r\na\r\nEOF\r\n",
        "CrlfScriptCopied:2",
    ),
    ("FROM scratch\nCOPY <<EOF /x\na\r\nEOF\n", ""),
    ("# check=skip=all\nFROM scratch AS B\nMAINTAINER me", ""),
    (
        "# check=skip=StageNameCasing\nFROM scratch AS B\nMAINTAINER me",
        "MaintainerDeprecated:3",
    ),
    ("FROM scratch\nRUN --network=host true", ""),
    (
        "FROM scratch\nCOPY --from=later a b\nFROM scratch AS later",
        "stage-comes",
    ),
];

#[test]
fn cases() {
    let mut wrong = Vec::new();
    for (text, expected) in CASES {
        let got = found(text);
        // An error's words are not repeated here: its code is enough.
        let is_right = if expected.is_empty() {
            got.is_empty()
        } else {
            got == *expected || (got.contains('-') && got.starts_with(expected))
        };
        if !is_right {
            wrong.push(format!("{text:?}\n  expected {expected}\n  got      {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_has_a_case() {
    let elsewhere = [
        "InvalidBaseImagePlatform",
        "CopyIgnoredFile",
        "UnusedBuildArg",
    ];
    for rule in RULES {
        let name = format!("{}:", rule.name);
        let has = CASES.iter().any(|(_, expected)| expected.contains(&name));
        assert!(has || elsewhere.contains(&rule.name), "{}", rule.name);
    }
    let unknown: Vec<_> = CHECKS
        .iter()
        .filter(|(name, _)| rule::find(name).is_none())
        .collect();
    assert!(unknown.is_empty());
    let names: HashSet<_> = CHECKS.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), CHECKS.len());
}

#[test]
fn messages_are_those_of_buildkit() {
    let request = request(
        "FROM scratch as B\nENV a b\nENV token=1\nCMD x\nCOPY $foo /\nEXPOSE 80:80\n",
        ContextLocation::Empty,
    );
    let check = check(&request).unwrap();
    let messages: Vec<&str> = check
        .warnings
        .iter()
        .map(|warning| warning.located.diagnostic.message.as_str())
        .collect();
    assert_eq!(
        messages,
        [
            "'as' and 'FROM' keywords' casing do not match",
            "Stage name 'B' should be lowercase",
            "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            "Do not use ARG or ENV instructions for sensitive data (ENV \"token\")",
            "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
            "Usage of undefined variable '$foo'",
            "EXPOSE instruction should not define an IP address or host-port mapping, found '80:80'",
        ]
    );
}

/// With a target, what is said of the other stages is what holds for the file as a whole.
#[test]
fn stages_that_a_target_does_not_need_are_idle() {
    let idle = "CMD x\nWORKDIR y\nENV a b\nARG TOKEN\nEXPOSE 80/TCP\nCMD x\n";
    let told = "MAINTAINER x\nrun b\nCOPY \\\n\n a /\n";
    let file = format!("FROM scratch AS Q\n{idle}{told}FROM scratch AS m\n");
    let mut request = request(&file, ContextLocation::Empty);
    request.target = Some("m".to_owned());
    assert_eq!(
        names(&check(&request).unwrap()),
        "StageNameCasing:1 MaintainerDeprecated:8 ConsistentInstructionCasing:9 NoEmptyContinuation:12"
    );
    request.target = Some("q".to_owned());
    assert!(names(&check(&request).unwrap()).contains("WorkdirRelativePath:3"));
}

#[test]
fn the_context_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("start.sh", "#!/bin/sh\r\necho\r\n");
    write("good.sh", "#!/bin/sh\necho\r\n");
    write(".dockerignore", "secret\n*.log\n");
    // Archives under other names, which ADD unpacks.
    write("tarred", &format!("{:\0<148}000541\0 {:\0<356}", "a", ""));
    let zipped = b"BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0";
    std::fs::write(directory.path().join("zipped"), zipped).unwrap();
    let text = "# check=experimental=CopyIgnoredFile\nFROM scratch\nCOPY start.sh ./good.sh missing /\nCOPY --from=alpine secret /\nADD <<EOF secret/x good /\nEOF\nENV S=x.log\nCOPY $S . /\nCOPY *.log /\nADD tarred zipped /\n";
    let request = request(
        text,
        ContextLocation::Directory(directory.path().to_owned()),
    );
    assert_eq!(
        names(&check(&request).unwrap()),
        "CrlfScriptCopied:3 UseCopyInsteadOfAdd:5 CopyIgnoredFile:5 CopyIgnoredFile:8 CopyIgnoredFile:9"
    );
    assert!(
        super::view(Path::new("/nonexistent"), None)
            .ignore
            .is_none()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_text_is_linted(text in "(?s).{0,200}", head in "(FROM (a|scratch)( [aA][sS] [a-zB]+)?\n)?") {
        let text = format!("# check=experimental=all\n{head}{text}");
        check(&request(&text, ContextLocation::Empty)).unwrap();
    }

    #[test]
    fn what_looks_like_a_dockerfile_is_linted(
        lines in prop::collection::vec("(FROM|COPY|ADD|RUN|ENV|ARG|CMD|WORKDIR|EXPOSE|onbuild RUN) [-a-z$=\"'#<\\\\ü\u{201c}\r\n \\[\\]:/.{}0-9]{0,20}", 0..8),
    ) {
        let text = format!("# check=experimental=all\nFROM a AS ü\n{}\nEOF\n", lines.join("\n"));
        check(&request(&text, ContextLocation::Empty)).unwrap();
    }
}
