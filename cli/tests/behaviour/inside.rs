//! Inside of a container.

use std::process::Command;

use crate::emulated::ACL;
use crate::kit::programs::{has, run_in};
use crate::kit::{Kit, Output, skipped};
use crate::require_machine;

/// Where a part of /proc is masked, as in every container: a user namespace gets no new one then.
const MASKED: &str =
    "mount -t tmpfs none /proc/irq && exec unshare --user --map-root-user --mount \"$0\" \"$@\"";

fn masked(kit: &Kit, arguments: &[String]) -> Output {
    inside(kit, MASKED, arguments)
}

/// Runs rbuild by a script in a user namespace with one id.
fn inside(kit: &Kit, script: &str, arguments: &[String]) -> Output {
    let plain = kit.command(arguments);
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
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

fn can(test: &str, script: &str, why: &str) -> bool {
    let probe = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg("true")
        .output();
    let can = probe.is_ok_and(|output| output.status.success());
    if !can {
        skipped(test, why);
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
    const WHY: &str = "nothing can be mounted in /proc of a user namespace here";
    if !can(TEST, MASKED, WHY) {
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

/// Where no namespaces can be made, as root of a container with all it has, and as somebody who may nothing.
const FORBIDDEN: [&str; 2] = [
    "cd /proc/sys/user && for limit in max_*_namespaces; do echo 0 > $limit; done && cd - > /dev/null && exec \"$0\" \"$@\"",
    "cd /proc/sys/user && for limit in max_*_namespaces; do echo 0 > $limit; done && echo 1 > max_user_namespaces && \
     cd - > /dev/null && exec unshare --user --map-user=1000 --map-group=1000 \"$0\" \"$@\"",
];

#[test]
fn without_namespaces_images_are_made_of_files_alone() {
    const TEST: &str = "without_namespaces_images_are_made_of_files_alone";
    const WHY: &str = "limits of namespaces cannot be set here";
    require_machine!();
    if !FORBIDDEN.iter().all(|script| can(TEST, script, WHY)) {
        return;
    }
    let kit = Kit::new();
    kit.context(&[
        ("a", "a"),
        ("d/one/two", "two"),
        ("d/one/three", "three"),
        ("archive/etc/below/x", "x"),
        ("acl", ACL),
    ]);
    for (path, mode) in [
        ("d/one/three", 0o444),
        ("d/one", 0o555),
        ("archive/etc/below", 0o500),
    ] {
        let path = kit.path("context").join(path);
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    if has("perl") {
        let script = "perl acl set archive/etc/below/x u::4 u:1234:6 g::0 m::6 o::0 && \
                      perl acl default archive/etc u::7 g::5 g:1234:7 m::7 o::0";
        run_in(&kit.path("context"), "sh", &["-c", script]);
    }
    let tar = Command::new("tar")
        .args([
            "--xattrs",
            "--xattrs-include=*",
            "--owner=7",
            "--group=8",
            "-C",
            "context/archive",
            "-cf",
            "context/a.tar",
            ".",
        ])
        .current_dir(kit.path("context").parent().unwrap())
        .status();
    assert!(tar.unwrap().success());
    let dockerfile = "FROM busybox AS base\nCOPY --chown=5:6 a /etc/dir/a\nCOPY d /etc/dir/\n\
        COPY --chmod=0444 --chown=5 a /etc/dir/b\nCOPY a /etc/dir/b\nCOPY a /etc/dir/one/new\n\
        WORKDIR /work/here\n\
        FROM base\nADD a.tar /\nCOPY --from=base /etc /etc2\nCOPY a /etc2/dir/one/two\n\
        COPY <<END /etc/passwd\njoe:x:33:44::/:/bin/sh\nEND\nCOPY --chown=joe a /work/here/joe\n";
    let digest = |store: &str, script: Option<&str>| {
        let more = [
            "-q",
            "-t=app",
            "--build-arg=SOURCE_DATE_EPOCH=1700000000",
            "--output=type=image,rewrite-timestamp=true",
        ];
        let mut arguments = vec!["--root".to_owned(), store.to_owned()];
        arguments.extend(kit.build_arguments(dockerfile, &more));
        let output = match script {
            Some(script) => inside(&kit, script, &arguments),
            None => kit.finish(kit.command(&arguments).spawn().unwrap()),
        };
        output.success().stdout
    };
    let usual = digest("usual", None);
    assert!(usual.starts_with("sha256:"), "{usual}");
    for (index, script) in FORBIDDEN.iter().enumerate() {
        let store = format!("forbidden-{index}");
        let rbuild = |arguments: &[&str]| {
            let mut all = words(&["--root", &store]);
            all.extend(words(arguments));
            inside(&kit, script, &all)
        };
        let info = rbuild(&["info"]).success();
        assert!(
            info.stdout.contains("\nPrivilege: without namespaces\n"),
            "{info}"
        );
        assert_eq!(digest(&store, Some(script)), usual, "{script}");
        for arguments in [
            &["images"][..],
            &["image", "inspect", "app"],
            &["history", "app"],
            &["tag", "app", "other"],
            &["save", "-o", "saved.tar", "app"],
            &["rmi", "app"],
            &["load", "-i", "saved.tar"],
            &["du"],
            &["build", "--check", "context"],
        ] {
            rbuild(arguments).success();
        }
        let refused = rbuild(&["run", "--rm", "other", "true"]);
        assert_eq!(refused.code, 125, "{refused}");
        assert!(
            refused
                .stderr
                .contains("commands need root of the container"),
            "{refused}"
        );
        std::fs::write(kit.path("context/Run"), "FROM other\nRUN true\n").unwrap();
        let refused = rbuild(&["build", "-f", "context/Run", "context"]);
        assert_eq!(refused.code, 1, "{refused}");
        assert!(
            refused
                .stderr
                .contains("commands need root of the container"),
            "{refused}"
        );
        let check = rbuild(&["store", "check"]).success();
        assert_eq!(check.stdout, "The store is whole.\n");
        rbuild(&["prune", "-af"]).success();
    }
}

/// As a container's own files are.
const ON_OVERLAY: &str = "mkdir lower upper work store && \
    mount -t overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work none store && exec \"$0\" \"$@\"";
/// The same again.
const ON_IT_AGAIN: &str = "mount -t overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work none store && \
    exec \"$0\" \"$@\"";

#[test]
fn a_store_on_an_overlay_is_seen_beforehand() {
    const TEST: &str = "a_store_on_an_overlay_is_seen_beforehand";
    require_machine!();
    let trial = "d=$(mktemp -d) && mkdir $d/l $d/u $d/w && \
        mount -t overlay -o userxattr,lowerdir=$d/l,upperdir=$d/u,workdir=$d/w none $d/l && exec \"$0\"";
    if !can(
        TEST,
        trial,
        "no overlay can be mounted in a user namespace here",
    ) {
        return;
    }
    let kit = Kit::new();
    let info = inside(&kit, ON_OVERLAY, &words(&["info"])).success();
    let line = info
        .stdout
        .lines()
        .find(|line| line.starts_with("Overlay: "));
    let line = line.unwrap_or_default();
    assert!(
        line.starts_with("Overlay: none: ")
            && line.contains("is on an overlay itself")
            && line.contains("RBUILD_ROOT"),
        "{info}"
    );
    let arguments = kit.build_arguments("FROM busybox\nRUN true\n", &[]);
    let output = inside(&kit, ON_IT_AGAIN, &arguments);
    assert_eq!(output.code, 1, "{output}");
    let root = kit.path("store");
    let warning = format!(
        "commands will have no root: `{}` is on an overlay itself",
        root.display()
    );
    assert!(output.stderr.contains(&warning), "{output}");
    let (before, _) = output.stderr.split_once("#2 ").unwrap_or_default();
    assert!(before.contains(&warning), "told too late: {output}");
    assert!(
        output
            .stderr
            .contains("caused by: cannot bring the layers of a root together: `"),
        "{output}"
    );
    // What needs no root is done.
    let arguments = kit.build_arguments("FROM busybox\nENV A=b\n", &["-t", "app"]);
    let output = inside(&kit, ON_IT_AGAIN, &arguments).success();
    assert!(!output.stderr.contains("overlay"), "{output}");
}
