//! `--pids-limit`, whatever holds it: a cgroup, or a user namespace in which the kernel counts.

use std::process::{Command, Stdio};

use crate::kit::{Kit, Output, is_root, skipped};
use crate::require_machine;

/// Whether something holds it here; says why not.
fn is_held(kit: &Kit, test: &str) -> bool {
    let info = kit.must(&["info"]).stdout;
    let line = info.lines().find(|line| line.starts_with("PidsLimit"));
    let held = line.is_some_and(|line| line.contains("cgroups") || line.contains("namespaces"));
    if !held {
        skipped(test, &format!("nothing counts processes here: {line:?}"));
    }
    held
}

/// Starts processes until no more can be had, as three users at once, and tells how many there are then.
const BOMBS: &str = "trap 'set -- /proc/[0-9]*; [ -e $1 ] || set -- /proc/[0-9]*; echo $#; exit 0' EXIT; mkdir -m 777 /d; \
                     for u in a b c; do echo $u:x:$((1000+$#)):1000::/:/bin/sh >> /etc/passwd; set -- $@ $u; done; \
                     for u in a b c; do su $u -c \"trap ': > /d/$u' EXIT; while :; do sleep 60 & done\" 2>/dev/null & done; \
                     until [ -e /d/a ] && [ -e /d/b ] && [ -e /d/c ]; do :; done";

fn image() -> Kit {
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "app"]);
    kit
}

/// As many as `most`, or fewer by those that failed and ended.
fn check(output: &Output, most: u64) {
    let count: u64 = output.stdout.trim().parse().unwrap_or(0);
    assert!(
        count <= most && count + 4 >= most,
        "{count} of {most}: {output}"
    );
}

#[test]
fn processes_of_all_users_are_counted_together() {
    require_machine!();
    let kit = image();
    if !is_held(&kit, "processes_of_all_users_are_counted_together") {
        return;
    }
    for most in [20, 33] {
        let limit = format!("--pids-limit={most}");
        let run = |more: &[&str]| {
            let arguments = [&["run", "--rm", &limit], more, &["app", "sh", "-c", BOMBS]].concat();
            check(&kit.rbuild(&arguments), most);
        };
        run(&[]);
        run(&["--network=none"]);
        run(&["--network=host"]);
        run(&["--privileged"]);
        run(&["--init"]);
        let built = kit.build(
            &format!("FROM busybox\nRUN {BOMBS}\nRUN id -u\n"),
            &["--no-cache", &limit],
        );
        let counted = built.stderr.lines().find_map(|line| {
            let word = line.split_whitespace().last()?;
            word.parse::<u64>().ok().filter(|count| *count + 4 >= most)
        });
        assert!(
            built.code == 0 && counted.is_some_and(|count| count <= most),
            "{counted:?} of {most}: {built}"
        );
    }
    kit.store_is_whole();
}

/// The command alone, which can neither start another nor have more by any limit of its own.
#[test]
fn one_process_is_one() {
    require_machine!();
    let kit = image();
    if !is_held(&kit, "one_process_is_one") {
        return;
    }
    let script = "sleep 1 & echo two";
    let run = |limit: &str| {
        let limit = format!("--pids-limit={limit}");
        kit.rbuild(&["run", "--rm", &limit, "app", "sh", "-c", script])
    };
    let output = run("1");
    assert!(
        output.code != 0 && output.stderr.contains("can't fork"),
        "{output}"
    );
    let output = run("4");
    assert_eq!(output.stdout, "two\n", "{output}");
}

/// What a command finds is not changed by being counted: its own limits, its ids, its rights over its network.
#[test]
fn a_counted_command_finds_what_others_do() {
    require_machine!();
    let kit = image();
    if !is_held(&kit, "a_counted_command_finds_what_others_do") {
        return;
    }
    let script = "grep processes /proc/self/limits; ulimit -n; cat /proc/self/uid_map | wc -l; id; grep Cap /proc/self/status; hostname; \
                  timeout 1 nc -l -p 80; echo $?; touch /x && chown 7:8 /x && stat -c %u:%g /x; \
                  ls /dev /proc/self; ip addr show lo | grep inet";
    let run = |more: &[&str]| {
        let arguments = [
            &["run", "--rm", "--hostname=h"],
            more,
            &["app", "sh", "-c", script],
        ]
        .concat();
        kit.rbuild(&arguments)
    };
    for more in [
        &[][..],
        &["--user=1000:1000"],
        &["--ulimit=nproc=50:60"],
        &["--cap-drop=ALL"],
        &["--network=none", "--cap-add=NET_ADMIN"],
    ] {
        let usual = run(more);
        let counted = run(&[more, &["--pids-limit=64"]].concat());
        assert_eq!(
            (counted.code, &counted.stdout, &counted.stderr),
            (usual.code, &usual.stdout, &usual.stderr),
            "{more:?}"
        );
    }
}

/// A container that runs, and is taken away with this.
struct Running<'k>(&'k Kit);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.rbuild(&["rm", "-f", "cc"]);
    }
}

#[test]
fn what_enters_a_container_counts() {
    require_machine!();
    let kit = image();
    if !is_held(&kit, "what_enters_a_container_counts") {
        return;
    }
    for (network, more) in [
        ("--network=default", &[][..]),
        ("--network=none", &["--user=1000"]),
        ("--network=host", &["--privileged"]),
    ] {
        let started = [
            "run",
            "-d",
            "--name=cc",
            network,
            "--pids-limit=4",
            "app",
            "sleep",
            "600",
        ];
        kit.must(&started);
        let _running = Running(&kit);
        let script = "exec 3>&1 >/dev/null; sleep 60 2>/dev/null 3>&- & sleep 60 2>/dev/null 3>&- & echo three >&3; sleep 60 & echo four >&3";
        let arguments = [&["exec"], more, &["cc", "sh", "-c", script]].concat();
        let output = kit.rbuild(&arguments);
        assert!(
            output.stdout == "three\n" && output.stderr.contains("can't fork"),
            "{network} {more:?}: {output}"
        );
        let inspected = kit.must(&["inspect", "cc"]).stdout;
        assert!(inspected.contains("\"PidsLimit\": 4"), "{inspected}");
        let updated = kit.rbuild(&["update", "--pids-limit=5", "cc"]);
        let by_namespace = kit
            .must(&["info"])
            .stdout
            .contains("PidsLimit: user namespaces");
        assert!(
            (updated.code != 0) == by_namespace
                && updated.stderr.contains("stop it") == by_namespace,
            "{updated}"
        );
    }
}

/// Root, where no cgroup can be made: its commands' user namespace counts; those that have the machine's users are
/// refused.
#[test]
fn root_without_cgroups_counts_too() {
    require_machine!();
    const NAME: &str = "root_without_cgroups_counts_too";
    if !is_root() {
        skipped(NAME, "the other tests are run by an ordinary user already");
        return;
    }
    let kit = image();
    let run = |arguments: &[&str]| {
        let rbuild = kit.command(arguments);
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c"])
            .arg("umount -R -l /sys/fs/cgroup && exec \"$0\" \"$@\"")
            .arg(rbuild.get_program())
            .args(rbuild.get_args())
            .env_clear()
            .current_dir(kit.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, value) in rbuild.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        kit.finish(command.spawn().unwrap())
    };
    let info = run(&["info"]).success().stdout;
    let line = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.unwrap_or_default().to_owned()
    };
    if !line("UserNamespace").contains("of commands") {
        skipped(NAME, &line("UserNamespace"));
        return;
    }
    assert!(line("PidsLimit").contains("namespaces"), "{info}");
    check(
        &run(&["run", "--rm", "--pids-limit=20", "app", "sh", "-c", BOMBS]),
        20,
    );
    for more in ["--userns=host", "--privileged"] {
        let output = run(&["run", "--rm", "--pids-limit=20", more, "app", "true"]);
        assert!(
            output.code != 0 && output.stderr.contains("the machine's"),
            "{more}: {output}"
        );
    }
}
