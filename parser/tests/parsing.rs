//! What Dockerfiles parse to: a text, and the arguments of its instructions as `rbuild parse` prints them.

use rbuild_parser::ast::{Command, CommandLine, Healthcheck, TransferSource};
use rbuild_parser::{Parsed, Source, json, parse, parse_trigger};
use serde_json::{Value, json};

fn parsed(text: &str) -> (Source, Parsed) {
    let source = Source::new("Dockerfile", text.as_bytes());
    let parsed = parse(&source);
    assert!(
        parsed.diagnostics.is_empty(),
        "{text:?}: {:?}",
        parsed.diagnostics
    );
    (source, parsed)
}

/// The arguments of the instruction after `FROM a`, with `[json]` before a JSON form.
fn arguments(line: &str) -> Value {
    let (source, parsed) = parsed(&format!("FROM a\n{line}\n"));
    json::to_json(&parsed, &source)["instructions"][1]["args"].clone()
}

#[test]
fn arguments_are_taken_apart() {
    for (line, expected) in [
        ("RUN echo  a", json!(["echo  a"])),
        ("run   echo a   ", json!(["echo a"])),
        ("RUN", json!([])),
        ("RUN [\"a\", \"b c\"]", json!(["a", "b c"])),
        ("RUN [ \"a\" ,\"b\" ] ", json!(["a", "b"])),
        ("RUN []", json!([])),
        ("RUN ['a']", json!(["['a']"])),
        ("RUN [ \"a\", \"b\"", json!(["[ \"a\", \"b\""])),
        ("RUN [\"a\"] x", json!(["[\"a\"] x"])),
        ("RUN [\"a\",]", json!(["[\"a\",]"])),
        (
            "CMD [\"a\\tb\", \"\\u00e9\", \"c:\\\\d\", \"\", \"q\\\"q\"]",
            json!(["a\tb", "é", "c:\\d", "", "q\"q"]),
        ),
        (
            "CMD [\"\\ud83d\\ude00\", \"\\ud800\", \"\\/\"]",
            json!(["😀", "\u{fffd}", "/"]),
        ),
        ("CMD [\"a\tb\"]", json!(["[\"a\tb\"]"])),
        ("RUN -- --x", json!(["--x"])),
        ("RUN --network=none -- --x", json!(["--x"])),
        ("RUN --network=none [\"a\"]", json!(["a"])),
        ("ENV a=b c=d", json!(["a=b", "c=d"])),
        (
            "ENV a=\"b c\" d='e f' g=h\\ i",
            json!(["a=\"b c\"", "d='e f'", "g=h\\ i"]),
        ),
        ("ENV a b c", json!(["a", "b c"])),
        ("ENV a  \"b  c\"  ", json!(["a", "\"b  c\""])),
        ("ENV a b=c", json!(["a", "b=c"])),
        ("ENV a=", json!(["a="])),
        ("ENV a=b=c", json!(["a=b=c"])),
        ("ENV a=b\\", json!(["a=b"])),
        ("ENV a=\"it's\"", json!(["a=\"it's\""])),
        ("ENV a=<<EOT", json!(["a=<<EOT"])),
        ("LABEL \"a b\"=c", json!(["\"a b\"=c"])),
        ("LABEL a=b#c", json!(["a=b#c"])),
        ("ARG a b=c d=\"e f\"", json!(["a", "b=c", "d=\"e f\""])),
        ("EXPOSE 80  443/tcp", json!(["80", "443/tcp"])),
        ("VOLUME /a /b", json!(["/a", "/b"])),
        ("VOLUME [\"/a b\"]", json!(["/a b"])),
        ("VOLUME /a [\"/b\"]", json!(["/a", "[\"/b\"]"])),
        ("USER a b", json!(["a b"])),
        ("WORKDIR /a b", json!(["/a b"])),
        ("STOPSIGNAL $S", json!(["$S"])),
        ("MAINTAINER Some One <a@b>", json!(["Some One <a@b>"])),
        ("COPY a b /c", json!(["a", "b", "/c"])),
        ("COPY [\"a b\", \"/c\"]", json!(["a b", "/c"])),
        ("COPY --from=x --chown=\"a b\" c /d", json!(["c", "/d"])),
        ("ADD a /b", json!(["a", "/b"])),
        ("SHELL [\"/bin/sh\", \"-c\"]", json!(["/bin/sh", "-c"])),
        ("HEALTHCHECK NONE", json!(["NONE"])),
        ("HEALTHCHECK cmd  a  b", json!(["CMD", "a  b"])),
        ("HEALTHCHECK CMD [\"a\"]", json!(["CMD", "a"])),
        ("ONBUILD COPY a /b", json!(["COPY", "a", "/b"])),
        (
            "ONBUILD RUN --network=none a",
            json!(["RUN", "--network=none", "a"]),
        ),
        ("RUN a \\\n b", json!(["a  b"])),
        ("RUN a\\\nb", json!(["ab"])),
        ("RUN a \\   \n b", json!(["a  b"])),
        ("RUN a \\\n# comment\n\n   # another\n b", json!(["a  b"])),
        ("RUN a \\\\", json!(["a \\\\"])),
        ("RUN echo $((1<<3))", json!(["echo $((1<<3))"])),
        ("RUN cat <<<x", json!(["cat <<<x"])),
    ] {
        assert_eq!(arguments(line), expected, "{line:?}");
    }
}

#[test]
fn backticks_escape_where_asked() {
    let (source, parsed) =
        parsed("# escape=`\nFROM a\nENV A=c:\\dir\\ B=x`\"y C=`\nd E=f` g\nRUN a `\n  b\\\n");
    let printed = json::to_json(&parsed, &source);
    assert_eq!(printed["directives"], json!({"escape": "`"}));
    assert_eq!(
        printed["instructions"][1]["args"],
        json!(["A=c:\\dir\\", "B=x`\"y", "C=d", "E=f` g"])
    );
    assert_eq!(printed["instructions"][2]["args"], json!(["a   b\\"]));
}

#[test]
fn flags_keep_their_values_without_quotes() {
    let (source, parsed) = parsed(
        "FROM a\nRUN --mount=type=bind,\\\"source=a,b\\\",target=/m --mount='type=tmpfs,target=/a b' true\nCOPY --link --chmod=644 a /b\n",
    );
    let printed = json::to_json(&parsed, &source);
    assert_eq!(
        printed["instructions"][1]["flags"],
        json!([
            "--mount=type=bind,\"source=a,b\",target=/m",
            "--mount=type=tmpfs,target=/a b"
        ])
    );
    assert_eq!(
        printed["instructions"][2]["flags"],
        json!(["--link", "--chmod=644"])
    );
    let Command::Copy(copy) = &parsed.dockerfile.instructions[2].command else {
        panic!("no COPY")
    };
    assert!(copy.link.as_ref().is_some_and(|link| link.value));
    assert_eq!(source.slice(copy.chmod.as_ref().unwrap().span), "644");
}

#[test]
fn heredocs_are_collected() {
    let (source, parsed) = parsed(
        "FROM a\nRUN cat <<A > /a && tr a-z A-Z <<'B' > /b\nv is $V\nA\nquoted $V\nB\nCOPY f <<-one <<two /dir/\n\t1\n\t\tx\n\tone\n2\ntwo\nRUN <<EOF\r\nhi\r\nEOF\r\nRUN true\n",
    );
    let printed = json::to_json(&parsed, &source);
    let instructions = &printed["instructions"];
    assert_eq!(
        instructions[1]["heredocs"],
        json!([
            {"name": "A", "content": "v is $V\n", "expand": true, "strip_tabs": false},
            {"name": "B", "content": "quoted $V\n", "expand": false, "strip_tabs": false},
        ])
    );
    assert_eq!(
        (&instructions[1]["start_line"], &instructions[1]["end_line"]),
        (&json!(2), &json!(6))
    );
    assert_eq!(
        instructions[2]["args"],
        json!(["f", "<<-one", "<<two", "/dir/"])
    );
    assert_eq!(instructions[2]["heredocs"][0]["content"], "1\nx\n");
    assert_eq!(instructions[3]["heredocs"][0]["content"], "hi\r\n");
    let scripts: Vec<bool> = parsed
        .dockerfile
        .instructions
        .iter()
        .filter_map(|one| {
            if let Command::Run(run) = &one.command {
                Some(run.script)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(scripts, [false, true, false]);
    let Command::Copy(copy) = &parsed.dockerfile.instructions[2].command else {
        panic!("no COPY")
    };
    assert!(matches!(copy.sources[1], TransferSource::Heredoc(0)));
}

#[test]
fn triggers_keep_their_text() {
    let (_, parsed) = parsed(
        "FROM a\nONBUILD COPY   a    \"b\"   \\\n   c\nONBUILD   RUN <<E\n\tx\nE\nonbuild CMD [\"x\",  \"y\"]  \n",
    );
    let triggers: Vec<&str> = parsed
        .dockerfile
        .instructions
        .iter()
        .filter_map(|one| {
            if let Command::Onbuild(onbuild) = &one.command {
                Some(onbuild.trigger.value.as_str())
            } else {
                None
            }
        })
        .collect();
    assert_eq!(
        triggers,
        [
            "COPY   a    \"b\"      c",
            "RUN <<E\n\tx\nE",
            "CMD [\"x\",  \"y\"]  "
        ]
    );
    for trigger in triggers {
        let parsed = parse_trigger(&Source::new("trigger", trigger.as_bytes()));
        assert!(
            parsed.diagnostics.is_empty(),
            "{trigger:?}: {:?}",
            parsed.diagnostics
        );
        assert_eq!(parsed.dockerfile.instructions.len(), 1);
    }
    for wrong in ["FROM x", "RUN a\nRUN b", ""] {
        assert!(
            !parse_trigger(&Source::new("trigger", wrong.as_bytes()))
                .diagnostics
                .is_empty(),
            "{wrong:?}"
        );
    }
}

#[test]
fn directives_stand_at_the_top() {
    let directives = |text: &str| {
        let (source, parsed) = parsed(text);
        json::to_json(&parsed, &source)["directives"].clone()
    };
    assert_eq!(
        directives("#  EsCaPe  =  `  \nFROM a\n"),
        json!({"escape": "`"})
    );
    assert_eq!(
        directives("# syntax=docker/dockerfile:1\n# check=skip=all;error=true\nFROM a\n"),
        json!({"syntax": "docker/dockerfile:1", "check": "skip=all;error=true"})
    );
    assert_eq!(directives("# a comment\n# escape=`\nFROM a\n"), json!({}));
    assert_eq!(directives("\n# escape=`\nFROM a\n"), json!({}));
    assert_eq!(directives("# other=x\n# escape=`\nFROM a\n"), json!({}));
    assert_eq!(
        directives("#!/usr/bin/env rbuild\n# escape=`\nFROM a\n"),
        json!({"escape": "`"})
    );
    assert_eq!(
        directives("\u{feff}# escape=`\r\nFROM a\r\n"),
        json!({"escape": "`"})
    );
}

#[test]
fn words_know_their_places() {
    let (source, parsed) =
        parsed("FROM a\nCOPY --chown=1 \\\n  # comment\n  one \\\n\n  tw\\\no /x\n");
    let copy_instruction = &parsed.dockerfile.instructions[1];
    let Command::Copy(copy) = &copy_instruction.command else {
        panic!("no COPY")
    };
    let place = |source_path: &TransferSource| match source_path {
        TransferSource::Path(path) => {
            let position = source.position(path.span.start);
            (
                path.value.clone(),
                position.line,
                position.column,
                source.slice(path.span).to_owned(),
            )
        }
        TransferSource::Heredoc(_) => panic!("no heredoc here"),
    };
    assert_eq!(
        place(&copy.sources[0]),
        ("one".to_owned(), 4, 3, "one".to_owned())
    );
    assert_eq!(
        place(&copy.sources[1]),
        ("two".to_owned(), 6, 3, "tw\\\no".to_owned())
    );
    assert_eq!(source.slice(copy.destination.span), "/x");
    assert_eq!(copy_instruction.empty_continuation_line, Some(5));
    assert_eq!(
        (copy_instruction.start_line, copy_instruction.end_line),
        (2, 7)
    );
}

#[test]
fn comments_above_are_kept() {
    let (_, parsed) =
        parsed("# syntax=x\n# base the base\n\n# more\nFROM a AS base\n# gone\n#\n# left\nARG x\n");
    assert_eq!(
        parsed.dockerfile.instructions[0].comments,
        ["base the base", "more"]
    );
    assert_eq!(parsed.dockerfile.instructions[1].comments, ["left"]);
}

#[test]
fn healthchecks_and_commands_have_two_forms() {
    let (_, parsed) =
        parsed("FROM a\nHEALTHCHECK --interval=1m --retries=3 CMD [\"x\"]\nENTRYPOINT x y\n");
    let Command::Healthcheck(Healthcheck::Check {
        command,
        interval,
        retries,
        timeout,
        ..
    }) = &parsed.dockerfile.instructions[1].command
    else {
        panic!("no HEALTHCHECK")
    };
    assert!(matches!(command, CommandLine::Exec(words) if words.len() == 1));
    assert_eq!(interval.as_ref().unwrap().value, "1m");
    assert_eq!(retries.as_ref().unwrap().value, "3");
    assert!(timeout.is_none());
    assert!(
        matches!(&parsed.dockerfile.instructions[2].command, Command::Entrypoint(CommandLine::Shell(text)) if text.value == "x y")
    );
}

#[test]
fn limits_are_reported() {
    let codes = |text: String| -> Vec<&'static str> {
        parse(&Source::new("Dockerfile", text.as_bytes()))
            .diagnostics
            .iter()
            .map(|one| one.code)
            .collect()
    };
    assert_eq!(
        codes(format!("FROM a\nENV A={}\n", "x".repeat(65_529))),
        Vec::<&str>::new()
    );
    assert_eq!(
        codes(format!("FROM a\nENV A={}\n", "x".repeat(65_530))),
        ["line-too-long"]
    );
    let long = format!(
        "FROM a\nCOPY x{}\n",
        format!(" \\\n{}", "y ".repeat(30_000)).repeat(18)
    );
    assert_eq!(codes(long), ["instruction-too-long"]);
    assert_eq!(codes(" ".repeat(16 * 1024 * 1024 + 1)), ["file-too-large"]);
}

#[test]
fn a_tree_can_be_printed() {
    let (source, parsed) =
        parsed("# escape=`\nFROM a AS b\nRUN --network=none x `\n  y\nCMD [\"z\"]\n");
    assert_eq!(
        json::to_tree(&parsed, &source),
        "# escape = `\nFROM  line 2\n├─ \"a\"\n├─ \"AS\"\n└─ \"b\"\nRUN  line 3-4\n├─ --network=none\n└─ \"x   y\"\nCMD  line 5 (JSON form)\n└─ \"z\"\n"
    );
}

#[test]
#[ignore = "takes long without optimisation"]
fn words_and_instructions_are_limited() {
    for line in [
        format!("COPY {}\n", "y ".repeat(30_000)).repeat(68),
        "RUN\n".repeat(250_000),
    ] {
        let source = Source::new("Dockerfile", format!("FROM a\n{line}").as_bytes());
        let codes: Vec<&str> = parse(&source)
            .diagnostics
            .iter()
            .map(|one| one.code)
            .collect();
        assert_eq!(codes, ["file-too-large"]);
    }
}
