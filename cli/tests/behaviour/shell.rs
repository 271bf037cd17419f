//! A shell where a step broke (`--on-error shell`), and before or after a step (`debug`).

use crate::kit::Kit;
use crate::pty::Pty;
use crate::require_machine;

fn in_terminal(kit: &Kit, arguments: impl IntoIterator<Item = String>) -> Pty {
    Pty::spawn(&kit.command(arguments), (30, 90))
}

/// A line for the shell, and what it makes appear. Busybox asks the terminal where it is when it awaits a line.
#[track_caller]
fn ask(pty: &mut Pty, line: &str, shown: &str) {
    pty.wait_for(AWAITS);
    pty.ask(line, shown);
}

#[track_caller]
fn leave(pty: &mut Pty, line: &str) {
    pty.wait_for(AWAITS);
    pty.type_in(&format!("{line}\n"));
}

const AWAITS: &str = "\u{1b}[6n";

fn build(kit: &Kit, dockerfile: &str) -> Pty {
    in_terminal(kit, kit.build_arguments(dockerfile, &["--on-error=shell"]))
}

/// The arguments of `debug STEP …` for what [`Kit::build_arguments`] wrote.
fn debug(kit: &Kit, dockerfile: &str, more: &[&str]) -> Vec<String> {
    let build = kit.build_arguments(dockerfile, &[]);
    let mut arguments = vec!["debug".to_owned()];
    arguments.extend(more.iter().map(|&word| word.to_owned()));
    arguments.extend(build.into_iter().skip(1));
    arguments
}

const BROKEN: &str = "FROM busybox
ENV COLOUR=green
WORKDIR /work
RUN chown 1234 /work
USER 1234
RUN --mount=type=cache,target=/cache,uid=1234 --mount=type=secret,id=word,uid=1234 \\
    echo half > done && echo mine > /cache/mine && false
";

#[test]
fn a_shell_opens_in_what_the_failed_command_left() {
    require_machine!();
    let kit = Kit::new();
    std::fs::write(kit.path("word"), "s3cret").unwrap();
    let arguments = kit.build_arguments(BROKEN, &["--on-error=shell", "--secret=id=word,src=word"]);
    let mut pty = in_terminal(&kit, arguments);
    pty.wait_for("exited with code 1");
    pty.wait_for("nothing that is changed in it is kept");
    ask(
        &mut pty,
        "cat done; pwd; id -u; echo =$COLOUR=",
        "half\n/work\n1234\n=green=",
    );
    ask(
        &mut pty,
        "cat /cache/mine; cat /run/secrets/word; echo .",
        "mine\ns3cret.",
    );
    ask(&mut pty, "stty size; echo $TERM", "30 90\nxterm");
    pty.wait_for(AWAITS);
    pty.resize(40, 100);
    pty.ask("stty size", "40 100\n");
    ask(
        &mut pty,
        "echo changed > done; echo changed > /cache/mine; cat done",
        "changed",
    );
    leave(&mut pty, "exit 7");
    let (code, _) = pty.finish();
    assert_eq!(code, 1);
    // Neither the layer nor the cache mount has anything of it.
    let mended = BROKEN
        .replace("&& false", "&& cat /cache/mine")
        .replace("echo mine > /cache/mine", "ls -a");
    let output = kit.must_build(&mended, &["--secret=id=word,src=word"]);
    assert!(
        output.stderr.contains("mine") && !output.stderr.contains("changed"),
        "{output}"
    );
    kit.store_is_whole();
}

#[test]
fn a_shell_is_for_somebody_at_a_terminal() {
    require_machine!();
    let kit = Kit::new();
    let output = kit.build(BROKEN, &["--on-error=shell"]);
    assert_eq!(output.code, 1, "{output}");
    assert!(
        output.stderr.starts_with(
            "error: --on-error shell needs a terminal, and standard input and output are not one\n"
        ),
        "{output}"
    );
    let output = kit.build(BROKEN, &["--on-error=what"]);
    assert_eq!(output.code, 2, "{output}");
    let arguments = debug(&kit, BROKEN, &["6"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = kit.rbuild(&arguments);
    assert_eq!(output.code, 2, "{output}");
    assert!(
        output.stderr.contains("--before or --after is missing"),
        "{output}"
    );
}

#[test]
fn images_without_a_shell_get_tools_of_the_host() {
    require_machine!();
    let kit = Kit::new();
    let mut pty = build(&kit, "FROM scratch\nCOPY . /here/\nRUN [\"/nothing\"]\n");
    pty.wait_for("cannot execute `/nothing`");
    ask(&mut pty, "ls /here; echo $PATH", "Dockerfile\n");
    pty.wait_for(":/.rbuild");
    // They cannot be changed from in there.
    ask(&mut pty, "touch /.rbuild/x", "Read-only file system");
    leave(&mut pty, "exit");
    assert_eq!(pty.finish().0, 1);
}

#[test]
fn a_failed_copy_is_looked_at_as_well() {
    require_machine!();
    let kit = Kit::new();
    let mut pty = build(
        &kit,
        "FROM busybox\nWORKDIR /here\nRUN touch made\nCOPY missing .\n",
    );
    pty.wait_for("missing");
    ask(&mut pty, "pwd; ls", "/here\nmade\n");
    leave(&mut pty, "exit");
    assert_eq!(pty.finish().0, 1);
}

#[test]
fn a_shell_opens_before_and_after_a_step() {
    require_machine!();
    const FILE: &str = "FROM busybox AS one
RUN echo 1 > /a
RUN --mount=type=bind,source=Dockerfile,target=/seen echo 2 > /a; test -s /seen
COPY Dockerfile /copied
FROM scratch
COPY --from=one /a /b
";
    let kit = Kit::new();
    for (step, when, asked, shown, code) in [
        (
            "3",
            "--before",
            "cat /a; head -n 1 /seen",
            "1\nFROM busybox AS one\n",
            0,
        ),
        (
            "echo 2",
            "--after",
            "cat /a; head -n 1 /seen",
            "2\nFROM busybox AS one\n",
            3,
        ),
        ("4", "--before", "cat /a; ls /copied", "2\nls: /copied", 0),
        ("4", "--after", "ls -a /copied", "/copied\n", 0),
        (
            "6",
            "--before",
            "ls / | tr '\\n' ,; echo .",
            "dev,etc,proc,sys,.",
            0,
        ),
        ("6", "--after", "cat /b", "2\n", 0),
        ("1", "--after", "ls /a", "ls: /a: No such file", 0),
    ] {
        let mut pty = in_terminal(&kit, debug(&kit, FILE, &[step, when]));
        pty.wait_for(&format!("{} `", when.trim_start_matches('-')));
        pty.wait_for("leaves it\n");
        ask(&mut pty, asked, shown);
        leave(&mut pty, &format!("exit {code}"));
        let (ended, text) = pty.finish();
        assert_eq!(ended, code, "{step} {when}: {text}");
    }
    // Names that are none, or too many.
    for (step, when, why) in [
        ("nothing", "--after", "has no step `nothing`"),
        ("echo", "--after", "means several steps"),
        ("1", "--before", "nothing is before"),
    ] {
        let (code, text) = in_terminal(&kit, debug(&kit, FILE, &[step, when])).finish();
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(why), "{text}");
    }
    kit.store_is_whole();
}

#[test]
fn a_shell_ends_with_the_builder_and_the_terminal_is_as_it_was() {
    require_machine!();
    let kit = Kit::new();
    let mut pty = build(&kit, "FROM busybox\nRUN false\n");
    pty.wait_for("leaves it\n");
    ask(&mut pty, "echo up", "up\n");
    assert!(!pty.is_as_before());
    let pid = rustix::process::Pid::from_raw(pty.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let (code, text) = pty.finish();
    assert!(code == 1 || code == 130, "{code}: {text}");
}
