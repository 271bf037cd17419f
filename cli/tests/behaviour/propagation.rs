//! Mounts that are made while a container runs, and whom they reach: `-v …:rslave`, `bind-propagation=shared`.
//!
//! The scripts run in a mount namespace of their own, which stands for the host's; for an ordinary user in a user
//! namespace, whose root it is there. `$D` is a shared mount with the directories `before`, on which something is
//! mounted, `later` and `inner`; `$P` is on a private one.

use std::process::{Command, Stdio};

use crate::kit::{Kit, Output, is_root, programs, skipped};
use crate::require_machine;

/// Who starts containers on the host of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    /// Its root.
    Root,
    /// Somebody without any right over its mounts.
    Ordinary,
}

const HOST: &str = r#"
set -eu
mount --make-rprivate /
mkdir host && mount -t tmpfs host host
D=$PWD/host/shared P=$PWD/host/private
mkdir "$D" "$P" && mount -t tmpfs shared "$D" && mount --make-shared "$D"
(cd "$D" && mkdir before later inner) && mount -t tmpfs before "$D/before"
chmod 755 . && chmod 1777 "$D" "$D/later"
come() { mount -t tmpfs later "$D/later" && touch "$D/later/file"; }
go() { umount "$D/later"; }
here() { grep -F " $D/" /proc/self/mountinfo | cut -d' ' -f5 | sed "s#$D/##" | sort | tr '\n' ' '; echo; }
cannot() { if $as "$rbuild" "$@" 2>&1; then echo 'it could'; fi; }
in_it() { $as "$rbuild" exec it "$@"; }
see() { in_it sh -c 'cd /; echo $(ls -d */later/* */inner/* 2>/dev/null)'; }
travelling() {
    in_it cut -d' ' -f5,7 /proc/self/mountinfo | grep -E 'master:|shared:' | cut -d: -f1 | sort | tr '\n' ' '; echo
}
"#;

/// Runs a script; `None` where this machine has no such host or user.
fn on_host(test: &str, user: User, flags: &str, script: &str) -> Option<Output> {
    let kit = Kit::new();
    let (namespaces, user) = match (is_root(), user) {
        (true, User::Root) => ("-m", ""),
        (true, User::Ordinary) => ("-m", "setpriv --reuid=4242 --regid=4242 --clear-groups --"),
        (false, User::Root) => ("-Urm", ""),
        // There is one id only: it keeps nothing but the right to give that to a namespace of its own.
        (false, User::Ordinary) => (
            "-Urm",
            "setpriv --bounding-set=-all,+setfcap --inh-caps=-all --",
        ),
    };
    let wanted = format!("unshare {namespaces} {user} unshare -Ur true");
    let can = Command::new("sh").args(["-c", &wanted]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        skipped(test, &format!("`{wanted}` fails here"));
        return None;
    }
    let rbuild = kit.command([""; 0]);
    // Where somebody else can reach them, too.
    let mut make = "mkdir -m 777 user && { ln \"$rbuild\" user/rbuild 2>/dev/null || cp \"$rbuild\" user/rbuild; }\n\
                    export rbuild=$PWD/user/rbuild RBUILD_ROOT=$PWD/user/store HOME=$PWD/user\n"
        .to_owned();
    let arguments = kit.build_arguments("FROM busybox", &["-q", "-t", "app"]);
    for argument in &arguments {
        if let Some(layout) = argument.split("oci-layout://").nth(1) {
            let layout = layout.trim_end_matches(":latest");
            make.push_str(&format!(
                "cp -r '{layout}' user/base && chmod -R a+rX user/base\n"
            ));
        }
    }
    make.push_str(
        "$as \"$rbuild\" build -q -t app --build-context=busybox=oci-layout://$PWD/user/base:latest context >/dev/null\n",
    );
    let mut command = Command::new("unshare");
    command
        .args([namespaces, "sh", "-c", &format!("{HOST}{make}{script}")])
        .env_clear()
        .envs(
            rbuild
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .envs([("as", user), ("flags", flags)])
        .env("rbuild", rbuild.get_program())
        .current_dir(kit.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Some(kit.finish(command.spawn().unwrap()))
}

/// A container sees what comes and goes below its `rslave` directory, and below no other.
const RECEIVES: &str = r#"
$as "$rbuild" run -d --name it $flags -v "$D:/slave:$propagation" -v "$D:/private" --tmpfs /memory \
    --mount "type=bind,src=$D,dst=/explicit,ro,bind-propagation=private" app sleep 600 >/dev/null
travelling
come; see; travelling
go; see
$as "$rbuild" inspect -f '{{range .Mounts}}{{.Destination}}={{.Propagation}} {{end}}' it
$as "$rbuild" stop -t 0 it >/dev/null
$as "$rbuild" start it >/dev/null
come; see; go
$as "$rbuild" run -d --name other --volumes-from it app sleep 600 >/dev/null
in_it() { $as "$rbuild" exec other "$@"; }
come; see
$as "$rbuild" rm -f it other >/dev/null
here
"#;

fn receives(test: &str, user: User, flags: &str) {
    for propagation in ["rslave", "slave"] {
        let script = format!("propagation={propagation}\n{RECEIVES}");
        let Some(output) = on_host(test, user, flags, &script) else {
            return;
        };
        let expected = format!(
            "/slave master /slave/before master \n\
             slave/later/file\n\
             /slave master /slave/before master /slave/later master \n\
             \n\
             /slave={propagation} /private=rprivate /explicit=private \n\
             slave/later/file\n\
             slave/later/file\n\
             before later \n"
        );
        assert_eq!(output.stdout, expected, "{user:?} {flags} {output}");
    }
}

#[test]
fn slaves_receive_what_the_host_mounts() {
    require_machine!();
    let test = "slaves_receive_what_the_host_mounts";
    for user in [User::Root, User::Ordinary] {
        receives(test, user, "");
    }
    receives(test, User::Root, "--privileged");
}

#[test]
fn slaves_receive_under_another_runtime() {
    require_machine!();
    let test = "slaves_receive_under_another_runtime";
    if !is_root() {
        skipped(
            test,
            "root of a namespace with one id starts no other runtime",
        );
        return;
    }
    for runtime in ["crun", "runc"] {
        if programs::has(runtime) {
            receives(test, User::Root, &format!("--runtime {runtime}"));
        }
    }
}

/// Nothing travels to a container that does not ask for it.
#[test]
fn other_containers_receive_nothing() {
    require_machine!();
    let script = r#"
$as "$rbuild" run -d --name it -v "$D:/x" -v "$D:/y:rprivate" app sleep 600 >/dev/null
travelling; come; see
$as "$rbuild" rm -f it >/dev/null
"#;
    for user in [User::Root, User::Ordinary] {
        let test = "other_containers_receive_nothing";
        if let Some(output) = on_host(test, user, "", script) {
            assert_eq!(output.stdout, "\n\n", "{user:?} {output}");
        }
    }
}

const SHARES: &str = r#"
$as "$rbuild" run -d --name it $flags --cap-add SYS_ADMIN -v "$D:/shared:rshared" -v "$D:/slave:rslave" \
    --mount "type=bind,src=$D,dst=/private" app sleep 600 >/dev/null
travelling
come; see; go; see
in_it mount -t tmpfs mine /shared/inner; in_it touch /shared/inner/file
here; see; ls "$D/inner"
in_it mount -t tmpfs mine /slave/later; in_it mount -t tmpfs mine /private/later
here
in_it umount /shared/inner
here
$as "$rbuild" restart -t 0 it >/dev/null
in_it mount -t tmpfs mine /shared/inner
$as "$rbuild" rm -f it >/dev/null
here
"#;

#[test]
fn peers_send_to_the_host_too() {
    require_machine!();
    let test = "peers_send_to_the_host_too";
    let mut all = vec!["", "--privileged"];
    let runtimes = ["--runtime crun", "--runtime runc"];
    all.extend(
        runtimes
            .iter()
            .filter(|flags| is_root() && programs::has(flags.trim_start_matches("--runtime "))),
    );
    for flags in all {
        let Some(output) = on_host(test, User::Root, flags, SHARES) else {
            return;
        };
        let expected = "/shared shared /shared/before shared /slave master /slave/before master \n\
                        shared/later/file slave/later/file\n\
                        \n\
                        before inner \n\
                        shared/inner/file slave/inner/file\n\
                        file\n\
                        before inner \n\
                        before \n\
                        before inner \n";
        assert_eq!(output.stdout, expected, "{flags} {output}");
    }
}

#[test]
fn what_cannot_travel_is_refused() {
    require_machine!();
    let test = "what_cannot_travel_is_refused";
    let script = r#"
cannot run --rm -v "$P:/x:rslave" app true
cannot run --rm --mount "type=bind,src=$P,dst=/x,bind-propagation=shared" app true
cannot run --rm -v "$D:/x:rshared" app true
"#;
    for user in [User::Root, User::Ordinary] {
        let Some(output) = on_host(test, user, "", script) else {
            return;
        };
        let host = output.stdout.split('`').nth(1).unwrap_or_default();
        let host = host.trim_end_matches("/private");
        let told = |what: &str, on: &str, kind: &str, then: &str| {
            format!(
                "error: cannot set up the sandbox: mount `{host}/{what}` at `/x`\n  caused by: path `{host}/{what}` is \
                 mounted on `{host}{on}` but it is not a {kind} mount; {then}\n"
            )
        };
        let way = format!("the host's root can make it one: `mount --make-shared {host}`");
        let slaves = "to the processes of an ordinary user the kernel shows the host's mounts as slaves, which receive \
                      mounts and send none; with `rslave` the host's arrive in the container";
        let mut expected = told("private", "", "shared or slave", &way);
        if user == User::Root {
            expected += &told("private", "", "shared", &way);
            expected += "it could\n";
        } else {
            expected += &told("private", "", "shared", slaves);
            expected += &told("shared", "/shared", "shared", slaves);
        }
        assert_eq!(output.stdout, expected, "{user:?} {output}");
    }
}

/// `--mount`'s `bind-recursive`: whether what is mounted below a directory already is there, and can be written to.
#[test]
fn mounts_below_are_left_out_or_stay_writable() {
    require_machine!();
    let test = "mounts_below_are_left_out_or_stay_writable";
    let script = r#"
chmod 1777 "$D/before"
look() {
    $as "$rbuild" run --rm $flags --mount "type=bind,src=$D,dst=/x${1-}" app sh -c '
        for d in later before; do touch /x/$d/new 2>/dev/null && echo $d; done; grep -c " /x/" /proc/self/mountinfo
    ' 2>&1 | sed "s#$D#D#" | tr '\n' ' '
    [ ! -e "$D/before/new" ] || { echo -n 'on it '; rm "$D/before/new"; }
    rm -f "$D/later/new"; echo
}
look; look ,readonly; look ,readonly,bind-recursive=writable
look ,readonly,bind-recursive=readonly,bind-propagation=rprivate
look ,bind-recursive=disabled; look ,readonly,bind-nonrecursive,bind-propagation=rslave
"#;
    let mut all = vec![(User::Root, ""), (User::Ordinary, "")];
    let runtimes = ["--runtime crun", "--runtime runc"];
    all.extend(
        runtimes
            .iter()
            .filter(|flags| is_root() && programs::has(flags.trim_start_matches("--runtime ")))
            .map(|flags| (User::Root, *flags)),
    );
    for (user, flags) in all {
        let Some(output) = on_host(test, user, flags, script) else {
            return;
        };
        let mut expected = "later before 1 on it \n1 \nbefore 1 on it \n1 \n".to_owned();
        expected += &match user {
            User::Root => "later before 0 \n0 \n".to_owned(),
            User::Ordinary => ["a directory", "`D`"]
                .map(|what| {
                    let at = if what == "`D`" { "`/x`" } else { "/x" };
                    format!(
                        "error: cannot set up the sandbox: mount {what} at {at}   caused by: something is mounted below \
                         it, and what that hides is the machine's root's to see: mount all of it, or a directory that \
                         nothing is mounted below \n"
                    )
                })
                .concat(),
        };
        assert_eq!(output.stdout, expected, "{user:?} {flags} {output}");
    }
}

/// What is mounted later is as the host mounts it, devices and all, from which a container is kept by its cgroup, of
/// either version. Where there is none, the machine's root gets no such mount.
#[test]
fn devices_that_come_later_are_not_opened() {
    require_machine!();
    let test = "devices_that_come_later_are_not_opened";
    if !is_root() {
        skipped(test, "only root can be the machine's");
        return;
    }
    let script = r#"
try() {
    $as "$rbuild" run -d --name it "$@" -v "$D:/x:rslave" app sleep 600 >/dev/null
    come
    mknod -m 666 "$D/later/loop" b 7 0
    in_it head -c 1 /x/later/loop 2>&1 || true
    go
    $as "$rbuild" rm -f it >/dev/null
}
try_all() { for one in --userns=host --network=host --device=/dev/fuse; do try $one; done; }
try
try_all
# Without version 1, and then without any.
if umount /sys/fs/cgroup/devices 2>/dev/null; then try_all; fi
umount -lR /sys/fs/cgroup
$as "$rbuild" run --rm --userns=host -v "$D:/x:rslave" app true 2>&1 | tail -n 1 | cut -d, -f1
"#;
    let Some(output) = on_host(test, User::Root, "", script) else {
        return;
    };
    let kept = "head: /x/later/loop: Operation not permitted\n";
    let version_1 = std::path::Path::new("/sys/fs/cgroup/devices").exists();
    let expected = format!(
        "{}  caused by: what the \
         host mounts there later comes with the devices in it\n",
        kept.repeat(if version_1 { 7 } else { 4 })
    );
    assert_eq!(output.stdout, expected, "{output}");
}
