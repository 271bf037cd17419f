//! `rbuild run`: which command runs, with what, and how its end is told.

use std::collections::BTreeSet;
use std::io::Write;

use crate::kit::Kit;
use crate::require_machine;

/// A kit whose store has the image `app`, with these instructions on top of busybox.
fn image(instructions: &str) -> Kit {
    let kit = Kit::new();
    kit.must_build(&format!("FROM busybox\n{instructions}\n"), &["-t", "app"]);
    kit
}

#[test]
fn entrypoint_and_cmd_make_the_command_line() {
    require_machine!();
    let shell = r#"["sh", "-c", "echo \"$@\"", "x"]"#;
    for (entrypoint, cmd, given, expected) in [
        ("", r#"["echo", "cmd"]"#, &[][..], "cmd"),
        ("", r#"["echo", "cmd"]"#, &["echo", "given"], "given"),
        ("", "echo $((1 + 1))", &[], "2"),
        (shell, r#"["a", "b"]"#, &[], "a b"),
        (shell, r#"["a", "b"]"#, &["c"], "c"),
        (shell, "", &[], ""),
        ("echo shell", r#"["ignored"]"#, &["ignored"], "shell"),
    ] {
        let mut instructions = String::new();
        if !entrypoint.is_empty() {
            instructions.push_str(&format!("ENTRYPOINT {entrypoint}\n"));
        }
        if !cmd.is_empty() {
            instructions.push_str(&format!("CMD {cmd}\n"));
        }
        let kit = image(&instructions);
        let arguments: Vec<&str> = ["run", "--rm", "app"]
            .iter()
            .chain(given)
            .copied()
            .collect();
        let output = kit.must(&arguments);
        assert_eq!(
            output.stdout.trim_end(),
            expected,
            "{instructions}{given:?}"
        );
    }
}

#[test]
fn flags_replace_what_the_image_says() {
    require_machine!();
    let kit = image("ENV A=image\nWORKDIR /tmp\nENTRYPOINT [\"false\"]");
    let sh = |flags: &[&str], script: &str| {
        let mut arguments = vec!["run", "--rm", "--entrypoint", "sh"];
        arguments.extend(flags);
        arguments.extend(["app", "-c", script]);
        kit.must(&arguments).stdout
    };
    assert_eq!(sh(&[], "echo $A; pwd; id -u"), "image\n/tmp\n0\n");
    assert_eq!(sh(&["-e", "A=flag"], "echo $A"), "flag\n");
    assert_eq!(sh(&["-w", "/etc"], "pwd"), "/etc\n");
    assert_eq!(
        sh(&["-u", "user"], "id -u; echo $HOME"),
        "1000\n/home/user\n"
    );
    assert_eq!(sh(&["-u", "7:8"], "id -u; id -g"), "7\n8\n");
    assert_eq!(sh(&["-h", "box"], "hostname"), "box\n");
    assert_eq!(
        sh(
            &["--add-host", "db:10.0.0.2"],
            "grep -w db /etc/hosts | tr -s '\\t' ' '"
        ),
        "10.0.0.2 db\n"
    );
    assert_eq!(
        sh(&["--tmpfs", "/scratch"], "touch /scratch/a && ls /scratch"),
        "a\n"
    );
    assert_eq!(
        sh(&["--read-only"], "touch /a 2>/dev/null || echo refused"),
        "refused\n"
    );
    assert_eq!(sh(&["--network", "none"], "ls /sys/class/net"), "lo\n");
}

#[test]
fn a_step_has_the_name_servers_that_are_asked_for() {
    require_machine!();
    let kit = Kit::new();
    let seen = |flags: &[&str]| {
        let fixed = ["--network=none", "--no-cache", "-t", "seen"];
        kit.must_build(
            "FROM busybox\nRUN cat /etc/resolv.conf > /seen\n",
            &[&fixed, flags].concat(),
        );
        kit.must(&["run", "--rm", "--network=none", "seen", "cat", "/seen"])
            .stdout
    };
    let flags = [
        "--dns=192.0.2.1",
        "--dns=2001:db8::1",
        "--dns-search=example.org",
        "--dns-opt=ndots:2",
    ];
    let shown = seen(&flags);
    let shown: BTreeSet<&str> = shown.lines().collect();
    assert_eq!(
        shown,
        BTreeSet::from([
            "nameserver 192.0.2.1",
            "nameserver 2001:db8::1",
            "search example.org",
            "options ndots:2"
        ])
    );
    assert!(!seen(&[]).contains("192.0.2.1"));
    let refused = kit.rbuild(&["build", "--dns=dns.example.org", "context"]);
    assert_eq!(refused.code, 2, "{refused}");
}

#[test]
fn a_directory_and_a_file_are_not_mounted_on_each_other() {
    require_machine!();
    let kit = image("");
    kit.context(&[("d/f", "hi\n")]);
    let (directory, file) = (kit.path("context/d"), kit.path("context/d/f"));
    let run = |volume: String, command: &[&str]| {
        let mut arguments = vec!["run", "--rm", "-v", &volume, "app"];
        arguments.extend(command);
        kit.rbuild(&arguments)
    };
    for name in ["hosts", "resolv.conf", "hostname"] {
        let refused = run(format!("{}:/etc/{name}", directory.display()), &["true"]);
        assert_eq!(refused.code, 125, "{refused}");
        let expected = format!("mount a directory at /etc/{name}, which is a file");
        assert!(refused.stderr.contains(&expected), "{refused}");
        let own = run(
            format!("{}:/etc/{name}", file.display()),
            &["cat", &format!("/etc/{name}")],
        );
        assert_eq!(own.success().stdout, "hi\n");
    }
    let refused = run(format!("{}:/etc", file.display()), &["true"]);
    assert!(
        refused
            .stderr
            .contains("mount a file at /etc, which is a directory"),
        "{refused}"
    );
    let whole = run(format!("{}:/etc:ro", directory.display()), &["ls", "/etc"]);
    assert_eq!(whole.success().stdout, "f\n");
    let cached = kit.build(
        "FROM busybox\nRUN --mount=type=cache,target=/etc,readonly test -z \"$(ls /etc)\"\n\
         RUN --mount=type=cache,target=/etc/hosts true\n",
        &[],
    );
    let expected = "mount a directory at /etc/hosts, which is a file";
    assert!(cached.stderr.contains(expected), "{cached}");
    assert!(cached.stderr.contains("Dockerfile:3"), "{cached}");
}

#[test]
fn arguments_after_the_image_belong_to_the_command() {
    require_machine!();
    let kit = image("");
    let output = kit.must(&["run", "app", "echo", "--rm", "-v", "--", "-h"]);
    assert_eq!(output.stdout, "--rm -v -- -h\n");
}

#[test]
fn the_end_of_the_command_is_the_exit_code() {
    require_machine!();
    let kit = image("RUN touch /plain && printf '#!/no/such\\n' > /script && chmod +x /script");
    for (command, code) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["true"], 0),
        (&["/no/such/command"], 127),
        (&["no-such-command"], 127),
        (&["/plain"], 126),
        (&["/etc"], 126),
    ] {
        let arguments: Vec<&str> = ["run", "--rm", "app"]
            .iter()
            .chain(command)
            .copied()
            .collect();
        let output = kit.rbuild(&arguments);
        assert_eq!(output.code, code, "{command:?}\n{output}");
    }
    // PID 1 ignores what it has no handler for: it is the init's child that the signal ends.
    let killed = kit.rbuild(&["run", "--init", "app", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(killed.code, 143, "{killed}");
    // As of a variable that a script has not set.
    kit.must(&[
        "run",
        "--rm",
        "--cidfile",
        "",
        "--runtime",
        "",
        "app",
        "true",
    ]);
    kit.must(&["create", "--cidfile", "", "--name", "empty", "app"]);
    kit.must(&["rm", "empty"]);
    // What the init was told to do is not for those in there to read.
    let told = "cat /proc/1/comm; tr '\\0' '\\n' < /proc/1/cmdline | sed '/^$/d'";
    let init = kit.must(&[
        "run", "--rm", "--init", "-e", "A=b", "app", "sh", "-c", told,
    ]);
    assert_eq!(init.stdout, "rbuild-init\nrbuild\n");
    let missing_interpreter = kit.rbuild(&["run", "app", "/script"]);
    assert!(
        [126, 127].contains(&missing_interpreter.code),
        "{missing_interpreter}"
    );
    assert!(
        missing_interpreter.stderr.contains("/no/such"),
        "{missing_interpreter}"
    );
    let missing_image = kit.rbuild(&["run", "oci:nowhere"]);
    assert_eq!(missing_image.code, 125, "{missing_image}");
}

#[test]
fn standard_input_is_connected_only_where_asked() {
    require_machine!();
    let kit = image("");
    let output = kit.rbuild_with_input(&["run", "-i", "app", "cat"], b"through\n");
    assert_eq!((output.code, output.stdout.as_str()), (0, "through\n"));
    let output = kit.rbuild_with_input(&["run", "app", "cat"], b"through\n");
    assert_eq!((output.code, output.stdout.as_str()), (0, ""));
}

#[test]
fn volumes_reach_the_host_and_nothing_else_is_left() {
    require_machine!();
    let kit = image("");
    let volume = format!("{}:/v", kit.path("volume").display());
    kit.must(&[
        "run",
        "-v",
        &volume,
        "app",
        "sh",
        "-c",
        "echo hi > /v/f; echo gone > /etc/f",
    ]);
    assert_eq!(
        std::fs::read_to_string(kit.path("volume/f")).unwrap(),
        "hi\n"
    );
    let read_only = format!("{volume}:ro");
    assert_ne!(
        kit.rbuild(&["run", "-v", &read_only, "app", "touch", "/v/g"])
            .code,
        0
    );
    assert_eq!(kit.rbuild(&["run", "app", "test", "-e", "/etc/f"]).code, 1);
    kit.store_is_whole();
}

#[test]
fn signals_are_forwarded_to_the_command() {
    require_machine!();
    let kit = image("");
    let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = kit
        .command(["run", "app", "sh", "-c", script])
        .spawn()
        .unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    crate::robustness::signal(&child, "TERM");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut rest).unwrap();
    let output = kit.finish(child);
    assert_eq!((output.code, rest.as_str()), (9, "caught\n"), "{output}");
}

#[test]
fn the_environment_comes_from_files_and_flags() {
    require_machine!();
    let kit = image("");
    let mut file = std::fs::File::create(kit.path("env")).unwrap();
    file.write_all(b"# comment\nA=file\nB=file\n").unwrap();
    let output = kit.must(&[
        "run",
        "--env-file",
        "env",
        "-e",
        "B=flag",
        "app",
        "sh",
        "-c",
        "echo $A $B",
    ]);
    assert_eq!(output.stdout, "file flag\n");
}
