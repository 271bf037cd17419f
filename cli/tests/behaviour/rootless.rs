//! As an ordinary user. Run by root, the test takes the user `nobody`'s place, which has no subordinate ids.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use crate::kit::{Kit, is_root, skipped};
use crate::require_machine;

const ORDINARY: u32 = 65534;

#[test]
fn an_ordinary_user_builds_and_runs() {
    require_machine!();
    if !is_root() {
        skipped(
            "an_ordinary_user_builds_and_runs",
            "the other tests are run by an ordinary user already",
        );
        return;
    }
    let kit = Kit::new();
    let context = kit.path("context");
    let kit_directory = context.parent().unwrap();
    // A copy of the binary, because the user may not enter the directory that it was built in.
    let binary = kit.path("rbuild");
    std::fs::copy(env!("CARGO_BIN_EXE_rbuild"), &binary).unwrap();
    std::fs::set_permissions(&binary, PermissionsExt::from_mode(0o755)).unwrap();
    let dockerfile = "FROM busybox\nRUN id -u > /id && touch /x && chown 7:8 /x && stat -c %u:%g /x >> /id\nCMD [\"cat\", \"/id\"]\n";
    let arguments = kit.build_arguments(dockerfile, &["-t", "app"]);
    std::os::unix::fs::chown(kit_directory, Some(ORDINARY), Some(ORDINARY)).unwrap();
    let run = |arguments: &[String]| {
        let mut command = kit.command(["unused"]);
        let mut ordinary = std::process::Command::new(&binary);
        ordinary.args(arguments).env_clear();
        for (name, value) in command.get_envs() {
            ordinary.env(name, value.unwrap_or_default());
        }
        command = ordinary;
        command
            .current_dir(kit_directory)
            .uid(ORDINARY)
            .gid(ORDINARY);
        command.stdin(std::process::Stdio::null());
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        kit.finish(command.spawn().unwrap())
    };
    let probe = std::process::Command::new("unshare")
        .args(["--user", "true"])
        .uid(ORDINARY)
        .gid(ORDINARY)
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skipped(
            "an_ordinary_user_builds_and_runs",
            "ordinary users may make no user namespaces here",
        );
        return;
    }
    run(&arguments).success();
    let output = run(&["run", "--rm", "app"].map(str::to_owned)).success();
    assert_eq!(output.stdout, "0\n7:8\n", "{output}");
    let output = run(&["store", "check"].map(str::to_owned)).success();
    assert_eq!(output.stdout, "The store is whole.\n", "{output}");
}
