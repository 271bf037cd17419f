//! Arguments: what is refused, how, and with which exit code. Needs no machine.

use crate::kit::{Kit, Output};

fn run(arguments: &[&str]) -> Output {
    Kit::new().rbuild(arguments)
}

#[test]
fn unknown_and_misused_flags_are_usage_errors() {
    for arguments in [
        &["build", "--no-such-flag", "."][..],
        &["--no-such-flag", "."],
        &["build"],
        &["build", "a", "b"],
        &["build", "--output", "type=what", "context"],
        &["build", "--output", "type=oci,dest=x,no=1", "context"],
        &["build", "--secret", "src=x", "context"],
        &["build", "--platform", "not/a/real/platform", "context"],
        &["build", "--tag", "UPPER", "context"],
        &["build", "--memory", "lots", "context"],
        &["build", "--jobs", "0", "context"],
        &["build", "--allow", "everything", "context"],
        &["build", "-f", "-", "-"],
        &["create", "--no-such-flag", "image"],
        &["events"],
        &["swarm", "init"],
        &["images", "--format", "{{.ID"],
        &["images", "--filter", "what=1"],
        &["no-such-command", "argument"],
    ] {
        let output = run(arguments);
        assert_eq!(output.code, 2, "{arguments:?}\n{output}");
        assert!(!output.stderr.is_empty(), "{arguments:?} says nothing");
    }
}

#[test]
fn of_run_and_exec_no_code_of_the_command_is_taken() {
    for arguments in [
        &["run"][..],
        &["run", "--no-such-flag", "image"],
        &["run", "-v", "a:b:c:d", "image"],
        &["container", "run", "--no-such-flag", "image"],
        &["exec", "container"],
        &["exec", "-e", "", "container", "true"],
    ] {
        let output = run(arguments);
        assert_eq!(output.code, 125, "{arguments:?}\n{output}");
    }
}

#[test]
fn a_word_that_is_no_command_is_told_from_a_wrong_argument_of_build() {
    let output = run(&["runn", "-it", "image"]);
    assert_eq!(output.code, 2, "{output}");
    assert_eq!(
        output.stderr,
        "error: `runn` is neither a command nor a build context\n\
         help: there is a command `run`\n\
         help: `rbuild --help` lists the commands\n"
    );
    for arguments in [&["build", "runn", "-x"][..], &[".", "-x"], &["-x", "runn"]] {
        let output = run(arguments);
        assert_eq!(output.code, 2, "{output}");
        assert!(!output.stderr.contains("neither"), "{output}");
    }
}

#[test]
fn what_cannot_be_done_yet_is_refused_by_name() {
    for (arguments, name) in [
        (
            &["build", "--cache-to", "type=gha", "context"][..],
            "--cache-to",
        ),
        (
            &["build", "--sbom=generator=x", "context"],
            "--sbom with `generator=`",
        ),
    ] {
        let output = run(arguments);
        assert_eq!(output.code, 1, "{arguments:?}\n{output}");
        assert!(
            output.stderr.contains(name) && output.stderr.contains("not supported yet"),
            "{output}"
        );
    }
    let output = run(&["run", "--runtime", "/no/such/crun", "image"]);
    assert_eq!(output.code, 125);
    assert!(
        output.stderr.contains("--runtime `/no/such/crun`"),
        "{output}"
    );
}

#[test]
fn a_missing_context_is_told_with_what_is_near() {
    insta::assert_snapshot!(run(&["build", "contxt"]), @r"
    exit code: 1
    --- stdout
    --- stderr
    error: the build context `contxt` does not exist
    help: there is `context`
    ");
}

#[test]
fn no_context_is_told_with_what_it_can_be() {
    for arguments in [
        &["build"][..],
        &["build", "-q", "-t", "x"],
        &["-t", "x"],
        &["llb"],
    ] {
        let output = run(arguments);
        assert_eq!(output.code, 2, "{output}");
        let told = "error: there is no build context: it is the last argument\nhelp: it is `.` for this directory";
        assert!(output.stderr.starts_with(told), "{output}");
    }
}

#[test]
fn a_missing_dockerfile_is_told_with_what_is_near() {
    let kit = Kit::new();
    kit.context(&[("Dockerfile.dev", "FROM scratch")]);
    insta::assert_snapshot!(kit.rbuild(&["context"]), @r"
    exit code: 1
    --- stdout
    --- stderr
    error: there is no Dockerfile `context/Dockerfile`
    help: there is `context/Dockerfile.dev`; name it with --file
    ");
    insta::assert_snapshot!(kit.rbuild(&["-f", "context/Dokerfile.dev", "context"]), @r"
    exit code: 1
    --- stdout
    --- stderr
    error: there is no Dockerfile `context/Dokerfile.dev`
    help: there is `context/Dockerfile.dev`; name it with --file
    ");
}

#[test]
fn mistyped_commands_are_recognised() {
    insta::assert_snapshot!(run(&["imags"]), @r"
    exit code: 1
    --- stdout
    --- stderr
    error: the build context `imags` does not exist
    help: there is a command `image`
    help: there is a command `images`
    ");
}

#[test]
fn bad_values_say_what_is_expected() {
    insta::assert_snapshot!(run(&["build", "-o", "type=oci,dset=x", "context"]), @r"
    exit code: 2
    --- stdout
    --- stderr
    error: --output: unknown key `dset`
    help: there is `dest`
    ");
    insta::assert_snapshot!(run(&["build", "--network", "bridged", "context"]), @r"
    exit code: 2
    --- stdout
    --- stderr
    error: --network `bridged`: there is no such network
    help: it is `default`, `none` or `host`
    ");
    for (flags, told) in [
        (
            ["--cap-add", "net_admn"],
            "error: --cap-add `net_admn`: there is no such capability\nhelp: there is `NET_ADMIN`\n",
        ),
        (
            ["--cap-drop", ""],
            "error: --cap-drop ``: there is no such capability\nhelp: it looks like `NET_ADMIN`, or is `ALL`; \
             capabilities(7) lists them\n",
        ),
        (
            ["-v", "/host:data"],
            "error: --volume `/host:data`: `data` is neither an absolute path in the container nor an option\n\
             help: it looks like `/host/dir:/target:ro` or `name:/target`\n",
        ),
    ] {
        let output = run(&["create", flags[0], flags[1], "x"]);
        assert_eq!(
            (output.code, output.stderr.as_str()),
            (2, told),
            "{flags:?}"
        );
    }
}

#[test]
fn dockerfiles_are_shown_as_they_are_understood() {
    let kit = Kit::new();
    kit.context(&[
        (
            "Dockerfile",
            "FROM scratch\nRUN --network=none echo \\\n  hi\n",
        ),
        ("bad", "FROM scratch\nNOPE\n"),
    ]);
    let json: serde_json::Value =
        serde_json::from_str(&kit.must(&["parse", "context/Dockerfile"]).stdout).unwrap();
    let run = &json["instructions"][1];
    assert_eq!(
        (&run["instruction"], &run["end_line"]),
        (&"RUN".into(), &3.into()),
        "{json}"
    );
    assert_eq!(run["flags"], serde_json::json!(["--network=none"]));
    assert!(
        kit.must(&["parse", "--format", "tree", "context/Dockerfile"])
            .stdout
            .contains("RUN")
    );
    let bad = kit.rbuild(&["parse", "context/bad"]);
    assert_eq!(bad.code, 1);
    assert!(bad.stderr.contains("context/bad:2:1"), "{bad}");
}

#[test]
fn help_and_version_are_no_failures() {
    for arguments in [
        &["--help"][..],
        &["build", "--help"],
        &["run", "--help"],
        &["image", "ls", "-h"],
        &["--version"],
        &["version"],
        &["help", "build"],
        &["completions", "bash"],
    ] {
        let output = run(arguments);
        assert_eq!(output.code, 0, "{arguments:?}\n{output}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{output}"
        );
    }
    assert_eq!(
        run(&["version", "-f", "{{.Version}}"]).stdout,
        concat!(env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(run(&[]).code, 2);
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let kit = Kit::new();
    let mut child = kit.command(["completions", "bash"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = kit.finish(child);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
}

#[test]
fn what_is_not_there_is_told_with_what_to_do() {
    let kit = Kit::new();
    let told = |arguments: &[&str]| {
        let output = kit.rbuild(arguments);
        assert_ne!(output.code, 0, "{output}");
        output.stderr
    };
    let missing = "error: there is no image `no/such` in the store\nhelp: `rbuild images` lists those that are there\n";
    for arguments in [
        &["history", "no/such"][..],
        &["rmi", "no/such"],
        &["tag", "no/such", "x"],
        &["save", "-o", "x", "no/such"],
        &["image", "inspect", "no/such"],
    ] {
        assert_eq!(told(arguments), missing, "{arguments:?}");
    }
    assert_eq!(
        told(&["inspect", "no/such"]),
        "error: there is no container, image, volume or network `no/such`\n"
    );
    // One cause, and not each layer of a client that has it.
    let unreachable = told(&["run", "127.0.0.1:1/x"]);
    assert!(
        unreachable.starts_with(
            "error: the image `127.0.0.1:1/x` is not in the store and cannot be pulled\n"
        ),
        "{unreachable}"
    );
    assert!(
        unreachable.ends_with(": cannot connect\n  caused by: Connection refused (os error 111)\n"),
        "{unreachable}"
    );
    assert_eq!(unreachable.lines().count(), 3, "{unreachable}");
}

#[test]
fn what_is_wrong_with_a_value_is_said_in_plain_words() {
    for (arguments, told) in [
        (
            &["build", "--pids-limit=x", "."][..],
            "--pids-limit `x`: expected a whole number",
        ),
        (
            &["build", "--max-layers", "0", "."],
            "--max-layers `0`: expected at least 1",
        ),
        (
            &["create", "--cpus", "two", "x"],
            "--cpus `two`: expected a number",
        ),
        (
            &["create", "--oom-score-adj=2000", "x"],
            "--oom-score-adj `2000`: expected -1000 to 1000",
        ),
        (
            &["create", "--ip", "x", "y"],
            "--ip `x`: it is no IPv4 address",
        ),
        (
            &["inspect", "--type=x", "y"],
            "--type `x`: there is no such type\nhelp: it is `container`, `image`, `volume` or `network`",
        ),
    ] {
        let output = run(arguments);
        let told = format!("error: {told}\n");
        assert_eq!(
            (output.code, output.stderr.as_str()),
            (2, told.as_str()),
            "{arguments:?}"
        );
    }
    // Nobody wrote --root: the kit has a variable.
    let missing = run(&["debug"]);
    assert!(
        missing
            .stderr
            .contains("\nUsage: rbuild debug <STEP> <CONTEXT>\n"),
        "{missing}"
    );
    let missing = run(&["debug", "--root", "x"]);
    assert!(missing.stderr.contains(" --root <DIR> "), "{missing}");
    // A command is there; it is the context that is not.
    let context = run(&["graph", "imags"]);
    assert_eq!(
        context.stderr,
        "error: the build context `imags` does not exist\n"
    );
    let context = run(&["build", "--build-context", "x=ftp://y", "."]);
    assert!(
        context
            .stderr
            .contains("help: it begins with `docker-image://`"),
        "{context}"
    );
}

#[test]
fn what_is_empty_is_none_as_where_a_script_has_not_set_it() {
    let kit = Kit::new();
    kit.context(&[("Dockerfile", "FROM scratch\nLABEL a=1\n")]);
    let flags = [
        "-f",
        "--iidfile",
        "--metadata-file",
        "--trace",
        "--annotation",
        "--build-context",
        "--cache-from",
        "--cache-to",
        "--secret",
        "--ssh",
        "--add-host",
        "--allow",
        "-o",
        "--network",
        "--call",
        "--target",
    ];
    let mut all = vec!["build", "-q"];
    for flag in flags {
        let one = kit.rbuild(&["build", "-q", flag, "", "context"]);
        assert_eq!(one.code, 0, "{flag}\n{one}");
        all.extend([flag, ""]);
    }
    all.push("context");
    kit.must(&all);
    // Nothing would be held.
    let held = kit.rbuild(&["build", "-q", "--allow-host", "", "context"]);
    assert_eq!(held.code, 2, "{held}");
    let wrong = kit.rbuild(&["build", "--annotation", "mainfest:a=b", "context"]);
    assert_eq!(wrong.code, 2, "{wrong}");
    assert!(
        wrong
            .stderr
            .starts_with("error: --annotation `mainfest:a`: there is no type `mainfest`\n"),
        "{wrong}"
    );
    kit.must(&["build", "-q", "--annotation", "org.a:b=c", "context"]);
}
