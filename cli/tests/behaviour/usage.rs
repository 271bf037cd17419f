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
        &["run"],
        &["run", "--no-such-flag", "image"],
        &["run", "-v", "a:b:c:d", "image"],
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
fn what_cannot_be_done_yet_is_refused_by_name() {
    for (arguments, name) in [
        (
            &["build", "--cache-to", "type=local,dest=x", "context"][..],
            "--cache-to",
        ),
        (&["build", "--explain", "context"], "--explain"),
        (&["build", "--sbom=true", "context"], "--sbom"),
        (&["build", "--call=outline", "context"], "--call=outline"),
        (&["build", "--config", "file", "context"], "--config"),
        (&["build", "https://example.com/x.git"], "remote"),
    ] {
        let output = run(arguments);
        assert_eq!(output.code, 1, "{arguments:?}\n{output}");
        assert!(
            output.stderr.contains(name) && output.stderr.contains("not supported yet"),
            "{output}"
        );
    }
    let output = run(&["run", "-d", "image"]);
    assert_eq!(output.code, 125);
    assert!(
        output.stderr.contains("--detach is not supported yet"),
        "{output}"
    );
}

#[test]
fn a_missing_context_is_told_with_what_is_near() {
    insta::assert_snapshot!(run(&["build", "contxt"]), @"");
}

#[test]
fn a_missing_dockerfile_is_told_with_what_is_near() {
    let kit = Kit::new();
    kit.context(&[("Dockerfile.dev", "FROM scratch")]);
    insta::assert_snapshot!(kit.rbuild(&["context"]), @"");
    insta::assert_snapshot!(kit.rbuild(&["-f", "context/Dokerfile.dev", "context"]), @"");
}

#[test]
fn mistyped_commands_are_recognised() {
    insta::assert_snapshot!(run(&["imags"]), @"");
}

#[test]
fn bad_values_say_what_is_expected() {
    insta::assert_snapshot!(run(&["build", "-o", "type=oci,dset=x", "context"]), @"");
    insta::assert_snapshot!(run(&["build", "--network", "bridged", "context"]), @"");
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
