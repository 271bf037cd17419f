//! `--security-opt seccomp=FILE`: what a profile says, seen from inside a container.

use std::path::Path;
use std::process::Command;

use crate::kit::{Kit, skipped};
use crate::require_machine;

fn kit_with(profiles: &[(&str, &str)]) -> Kit {
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "app"]);
    for (name, text) in profiles {
        std::fs::write(kit.path(name), text).unwrap();
    }
    kit
}

/// A profile that allows everything but what `rule` is about.
fn but(rule: &str) -> String {
    format!(r#"{{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}] }}"#)
}

const NO_MKDIR: &str = r#"{ "names": ["mkdir", "mkdirat", "of_no_kernel"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }"#;
/// `truncate -s` sets lengths beyond 32 bits.
const NO_LARGE_FILES: &str = r#"{ "names": ["ftruncate"], "action": "SCMP_ACT_ERRNO", "errnoRet": 27,
    "args": [{ "index": 1, "value": 4294967296, "op": "SCMP_CMP_GT" }] }"#;

fn runtimes(kit: &Kit, test: &str) -> Vec<Option<&'static str>> {
    let mut runtimes = vec![None];
    if kit.must(&["info"]).stdout.contains("with one id") {
        skipped(test, "with one id, only rbuild's own sandbox knows users");
    } else if Command::new("crun").arg("--version").output().is_ok() {
        runtimes.push(Some("crun"));
    } else {
        skipped(test, "there is no crun on this machine");
    }
    runtimes
}

/// Runs `command` under a profile, with more flags: its exit code, and what it printed.
fn run(kit: &Kit, profile: &str, flags: &[&str], command: &[&str]) -> (i32, String, String) {
    let option = format!("seccomp={}", kit.path(profile).display());
    let mut arguments = vec!["run", "--rm", "--security-opt", &option];
    arguments.extend(flags);
    arguments.push("app");
    arguments.extend(command);
    let output = kit.rbuild(&arguments);
    (output.code, output.stdout, output.stderr)
}

#[test]
fn a_profile_replaces_the_filter() {
    require_machine!();
    let (mkdir, large) = (but(NO_MKDIR), but(NO_LARGE_FILES));
    let kill = but(r#"{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL" }"#);
    let log = but(r#"{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_LOG" }"#);
    let kit = kit_with(&[
        ("mkdir.json", &mkdir),
        ("large.json", &large),
        ("kill.json", &kill),
        ("log.json", &log),
    ]);
    for runtime in runtimes(&kit, "a_profile_replaces_the_filter") {
        for more in [
            &[][..],
            &["--user", "1000"],
            &["--security-opt", "no-new-privileges"],
        ] {
            let mut flags = more.to_vec();
            flags.extend(runtime.iter().flat_map(|name| ["--runtime", name]));
            let (code, _, errors) = run(&kit, "mkdir.json", &flags, &["mkdir", "/dev/shm/a"]);
            assert_eq!(code, 1, "{flags:?} {errors}");
            assert!(
                errors.contains("No space left on device"),
                "{flags:?} {errors}"
            );
            let script = "truncate -s 4294967296 /dev/shm/a; truncate -s 4294967297 /dev/shm/b";
            let (code, _, errors) = run(&kit, "large.json", &flags, &["sh", "-c", script]);
            assert_eq!(code, 1, "{flags:?} {errors}");
            assert!(
                errors.contains("/dev/shm/b") && errors.contains("File too large"),
                "{errors}"
            );
            assert!(!errors.contains("/dev/shm/a"), "{errors}");
            let (code, ..) = run(&kit, "kill.json", &flags, &["mkdir", "/dev/shm/a"]);
            assert_eq!(code, 159, "{flags:?}");
            let (code, ..) = run(&kit, "log.json", &flags, &["mkdir", "/dev/shm/a"]);
            assert_eq!(code, 0, "{flags:?}");
        }
    }
    // Also with all capabilities, and of what enters later.
    let (code, ..) = run(
        &kit,
        "kill.json",
        &["--privileged"],
        &["mkdir", "/dev/shm/a"],
    );
    assert_eq!(code, 159);
    let option = format!("seccomp={}", kit.path("mkdir.json").display());
    let sleeper = [
        "run",
        "-d",
        "--name",
        "box",
        "--security-opt",
        &option,
        "app",
        "sleep",
        "100",
    ];
    kit.must(&sleeper);
    std::fs::remove_file(kit.path("mkdir.json")).unwrap();
    for flags in [&[][..], &["--privileged"], &["--user", "7"]] {
        let mut arguments = vec!["exec"];
        arguments.extend(flags);
        arguments.extend(["box", "mkdir", "/dev/shm/a"]);
        let output = kit.rbuild(&arguments);
        assert!(
            output.stderr.contains("No space left on device"),
            "{output}"
        );
    }
    let shown = kit.must(&[
        "inspect",
        "--format",
        "{{json .HostConfig.SecurityOpt}}",
        "box",
    ]);
    assert!(shown.stdout.contains("of_no_kernel"), "{shown}");
    // The file may be gone, as the profile is kept.
    kit.must(&["restart", "-t", "0", "box"]);
    let output = kit.rbuild(&["exec", "box", "mkdir", "/dev/shm/a"]);
    assert!(
        output.stderr.contains("No space left on device"),
        "{output}"
    );
    kit.must(&["rm", "-f", "box"]);
}

/// The one that podman and buildah use; the files of an image change owners under it as without.
#[test]
fn the_usual_profile_of_others_can_be_used() {
    require_machine!();
    const USUAL: &str = "/usr/share/containers/seccomp.json";
    if !Path::new(USUAL).exists() {
        return skipped(
            "the_usual_profile_of_others_can_be_used",
            "containers-common is not installed",
        );
    }
    let kit = kit_with(&[]);
    std::fs::copy(USUAL, kit.path("usual.json")).unwrap();
    let script = "mkdir /a && chown 3:4 /a && stat -c %u:%g /a; unshare -m true || echo refused";
    for runtime in runtimes(&kit, "the_usual_profile_of_others_can_be_used") {
        let flags: Vec<&str> = runtime
            .iter()
            .flat_map(|name| ["--runtime", name])
            .collect();
        let (code, printed, errors) = run(&kit, "usual.json", &flags, &["sh", "-c", script]);
        assert_eq!((code, printed.as_str()), (0, "3:4\nrefused\n"), "{errors}");
    }
}

#[test]
fn what_is_wrong_with_a_profile_is_said() {
    let unknown = "{ \"defaultAction\": \"SCMP_ACT_ALLOW\",\n  \"syscalls\": [{ \"names\": [\"dup\"], \"action\": \"SCMP_ACT_NO\" }] }";
    let nothing = r#"{ "defaultAction": "SCMP_ACT_ERRNO" }"#;
    let asks = but(r#"{ "names": ["dup"], "action": "SCMP_ACT_NOTIFY" }"#);
    let kit = Kit::new();
    for (name, text) in [("unknown.json", unknown), ("asks.json", &asks)] {
        std::fs::write(kit.path(name), text).unwrap();
    }
    for (name, expected) in [
        (
            "missing.json",
            "error: cannot read the seccomp profile `FILE`\n  caused by: No such file or directory (os error 2)\n",
        ),
        (
            "unknown.json",
            "error: the seccomp profile `FILE`, line 2, column 58: unknown variant `SCMP_ACT_NO`, expected one of ",
        ),
        (
            "asks.json",
            "error: the seccomp profile `FILE`, syscalls[0].action: calls that wait for an answer of another program cannot be had\n",
        ),
    ] {
        let (code, _, errors) = run(&kit, name, &[], &["true"]);
        assert_eq!(code, 125, "{errors}");
        let expected = expected.replace("FILE", &kit.path(name).display().to_string());
        assert!(errors.starts_with(&expected), "{errors}");
    }
    require_machine!();
    let kit = kit_with(&[("nothing.json", nothing)]);
    let (code, _, errors) = run(&kit, "nothing.json", &[], &["true"]);
    assert_eq!(code, 125, "{errors}");
    assert!(
        errors.contains("`capset` is refused, without which no command starts: allow it"),
        "{errors}"
    );
}
