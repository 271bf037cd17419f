//! Inside of a container.

use std::process::Command;

use crate::kit::{Kit, Output, skipped};
use crate::require_machine;

/// Where a part of /proc is masked, as in every container: a user namespace gets no new one then.
const MASKED: &str =
    "mount -t tmpfs none /proc/irq && exec unshare --user --map-root-user --mount \"$0\" \"$@\"";

fn masked(kit: &Kit, arguments: &[String]) -> Output {
    let plain = kit.command(arguments);
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", MASKED])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(plain.get_current_dir().unwrap())
        .env_clear()
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    kit.finish(command.spawn().unwrap())
}

fn can_mask(test: &str) -> bool {
    let probe = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", MASKED])
        .arg("true")
        .output();
    let can = probe.is_ok_and(|output| output.status.success());
    if !can {
        skipped(
            test,
            "nothing can be mounted in /proc of a user namespace here",
        );
    }
    can
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// What a command in there finds of processes that are none of its business: the names of files that it could open.
const LOOK: &str = r#"cat > /look <<'END'
self=$(readlink /proc/self)
for process in /proc/[0-9]*; do
    grep -q "^NSpid:.*[[:space:]].*[[:space:]]" $process/status 2>/dev/null && continue
    grep -q . $process/maps 2>/dev/null && echo "read: $process/maps"
    for file in environ auxv mem root/bin cwd/ fd/0 fd/1 ns/user; do
        [ -e $process/$file ] && ( : < $process/$file ) 2>/dev/null && echo "open: $process/$file"
        chown 1:1 $process/$file 2>/dev/null && echo "changed: $process/$file"
    done
    mkdir $process/root/tmp/made 2>/dev/null && echo "made: $process"
    ( : > $process/root/tmp/made-file ) 2>/dev/null && echo "made a file: $process"
done
tr '\0' ' ' < /dev/null; cat /proc/[0-9]*/cmdline | tr '\0' '\n' | grep -c '[t]oken-of-this-build'
echo looked
END
"#;

#[test]
fn where_proc_is_masked_commands_have_the_one_that_is_there_and_see_nothing_of_others() {
    const TEST: &str =
        "where_proc_is_masked_commands_have_the_one_that_is_there_and_see_nothing_of_others";
    require_machine!();
    if !can_mask(TEST) {
        return;
    }
    let kit = Kit::new();
    let info = masked(&kit, &words(&["info"])).success();
    assert!(
        info.stdout
            .contains("\nProc: the one that is here, because of what is mounted at /proc/irq"),
        "{info}"
    );
    let dockerfile = format!(
        "FROM busybox AS base\nRUN {LOOK}\nENTRYPOINT []\n\
         FROM base AS other\nARG WHAT\nRUN --mount=type=secret,id=s sleep 3; touch /other\n\
         FROM base AS one\nRUN sleep 1; sh /look > /seen\n\
         FROM base AS two\nUSER 7:8\nWORKDIR /work\nRUN sleep 1; sh /look > seen; id -u >> seen; \
         ls /proc/self/fd/0 >> seen; echo x > /dev/stderr\n\
         FROM base\nCOPY --from=other /other /\nCOPY --from=one /seen /one\nCOPY --from=two /work/seen /two\n\
         RUN sh -c 'readlink /proc/self/exe; cd /proc/self && cat comm && test -d /sys/class && test -c /dev/null'\n"
    );
    std::fs::write(kit.path("secret"), "s").unwrap();
    let arguments = kit.build_arguments(
        &dockerfile,
        &[
            "-t",
            "app",
            "--secret=id=s,src=secret",
            "--build-arg=WHAT=token-of-this-build",
        ],
    );
    masked(&kit, &arguments).success();
    let seen = masked(
        &kit,
        &words(&[
            "run",
            "--rm",
            "--network=none",
            "app",
            "cat",
            "/one",
            "/two",
        ]),
    );
    let seen = seen.success();
    assert_eq!(
        seen.stdout, "0\nlooked\n0\nlooked\n7\n/proc/self/fd/0\n",
        "{seen}"
    );
    let check = masked(&kit, &words(&["store", "check"])).success();
    assert_eq!(check.stdout, "The store is whole.\n");
}
