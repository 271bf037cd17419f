//! Commands in real sandboxes, on a root that holds busybox: once as root, once as an ordinary user with subordinate
//! ids, once with a single id. The program runs itself again for the last two.

mod kit;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kit::{Kit, Outcome, command, describe, equal, holds, shell};
use rbuild_cache::RootDir;
use rbuild_cache::mounts::Sharing;
use rbuild_executor::host::Privilege;
use rbuild_executor::sandbox::ExecError;
use rbuild_executor::spec::{Exit, Mount, MountSource, Network};

fn main() -> std::process::ExitCode {
    if std::env::var_os(TERMINAL_ROLE).is_some() {
        return kit::alone(in_terminal);
    }
    kit::main(TESTS)
}

/// Set where this program was started by a test to run a container on its terminal.
const TERMINAL_ROLE: &str = "RBUILD_TEST_TERMINAL";

type Test = fn(&Kit) -> Outcome;

const TESTS: &[(&str, Test)] = &[
    ("output is captured, input is empty", output),
    ("large output", large_output),
    ("exit codes and signals", ends),
    ("only what was written is in the layer", layer),
    ("nothing of the sandbox is in the layer", nothing_left),
    ("an empty base", empty_base),
    ("the environment is closed", environment),
    ("users and groups", users),
    ("processes are alone", processes),
    ("background processes end with the step", background),
    ("kernel files", kernel_files),
    ("masked and read-only", masked),
    ("links in place of /proc and /sys are refused", fake_proc),
    ("devices", devices),
    ("capabilities and the filter", capabilities),
    ("descriptors", descriptors),
    ("network", network),
    ("working directories", cwd),
    ("programs that cannot run are explained", explained),
    ("mounts of every kind", mounts),
    ("mounts stay out of the layer", mounts_leave_nothing),
    ("what lies under a mount stays", under_mounts),
    ("mounts through links stay inside", through_links),
    ("refused targets", refused_targets),
    ("secrets", secrets),
    ("cache mounts", caches),
    ("writes to a snapshot's mount are dropped", snapshot_writes),
    ("many layers", many_layers),
    ("time limits", timeout),
    ("cancellation", cancelled),
    ("limits of resources", limits),
    ("a read-only root", read_only_root),
    ("an init process", init),
    ("one id under another number", one_id),
    ("sockets are forwarded", sockets),
    ("limits of memory and processes", cgroups),
    ("containers: exit codes and signals", run_signals),
    ("containers: a terminal", terminal),
    ("insecure", insecure),
    ("many at once", many_at_once),
    ("nothing is left behind", nothing_leaks),
];

fn output(kit: &Kit) -> Outcome {
    let ran = kit.sh("echo out; echo err >&2; cat; pwd; umask")?;
    equal(&ran.stdout, "out\n/\n0022\n")?;
    equal(&ran.stderr, "err\n")
}

fn large_output(kit: &Kit) -> Outcome {
    let ran = kit
        .sh("head -c 3000000 /dev/zero | tr '\\0' o; head -c 2000000 /dev/zero | tr '\\0' e >&2")?;
    holds(ran.stdout.len() == 3_000_000, ran.stdout.len())?;
    holds(ran.stderr.len() == 2_000_000, ran.stderr.len())
}

fn ends(kit: &Kit) -> Outcome {
    for (script, expected) in [
        ("exit 42", Exit::Code(42)),
        ("sh -c 'kill -9 $$'; exit $?", Exit::Code(137)),
        ("exec false", Exit::Code(1)),
    ] {
        let ran = kit.exec(Some(&kit.base), shell(script));
        match ran.result {
            Err(ExecError::Failed(exit)) if exit == expected => {}
            other => return Err(format!("{script}: {other:?}").into()),
        }
    }
    Ok(())
}

fn layer(kit: &Kit) -> Outcome {
    let ran = kit.sh("echo x > /tmp/a; rm /bin/yes; mkdir /d; echo 'more' >> /etc/group")?;
    let layer = kit.layer(&ran)?;
    equal(&layer.join(" "), "bin bin/yes d etc etc/group tmp tmp/a")?;
    // What the next step sees.
    let next = ran.result.as_ref().map_err(describe)?.id.clone();
    let seen = kit.exec(
        Some(&next),
        shell("cat /tmp/a; ls /bin/yes; tail -n1 /etc/group; ls -d /d"),
    );
    seen.ok().map(|_| ()).unwrap_or(());
    equal(&seen.stdout, "x\nmore\n/d\n")
}

fn nothing_left(kit: &Kit) -> Outcome {
    for script in [
        "true",
        "cat /etc/resolv.conf /etc/hosts /etc/hostname > /dev/null; test -d /proc/1 && test -d /sys/kernel",
    ] {
        let ran = kit.sh(script)?;
        equal(&kit.layer(&ran)?.join(" "), "")?;
    }
    let before = kit.sh("stat -c %Y / /etc")?.stdout.clone();
    std::thread::sleep(Duration::from_millis(1100));
    equal(&kit.sh("stat -c %Y / /etc")?.stdout, &before)
}

fn empty_base(kit: &Kit) -> Outcome {
    let ran = kit.exec(None, command(&["/nothing"]));
    let text = ran
        .result
        .err()
        .map_or_else(String::new, |error| describe(&error));
    holds(
        text.contains("`/nothing`") && text.contains("no such file"),
        text,
    )
}

fn environment(kit: &Kit) -> Outcome {
    let mut exec = command(&["env"]);
    exec.env.push(b"A=b c".to_vec());
    let ran = kit.exec(Some(&kit.base), exec);
    equal(&ran.ok()?.stdout, "PATH=/usr/bin:/bin\nA=b c\nHOME=/root\n")?;
    let mut exec = command(&["env"]);
    exec.env = vec![b"HOME=/mine".to_vec()];
    equal(
        &kit.exec(Some(&kit.base), exec).ok()?.stdout,
        "HOME=/mine\n",
    )
}

fn users(kit: &Kit) -> Outcome {
    if kit.privilege() == Privilege::SingleId {
        return kit.skip("users", "there is one id only");
    }
    for (user, expected) in [
        ("", "0 0 0 /root"),
        ("daemon", "1 1 1 /usr/sbin"),
        ("user", "1000 1000 1000 500 /home/user"),
        ("4242", "4242 0 0 /"),
        ("5:6", "5 6 6 /"),
        ("user:500", "1000 500 500 /home/user"),
    ] {
        let mut exec = shell("echo $(id -u) $(id -g) $(id -G) $HOME; touch /tmp/$(id -u)");
        exec.user = user.to_owned();
        let base = kit
            .sh("chmod 1777 /tmp")?
            .result
            .map_err(|error| describe(&error))?;
        let ran = kit.exec(Some(&base.id), exec);
        equal(&ran.ok()?.stdout, &format!("{expected}\n"))?;
    }
    let mut exec = shell("true");
    exec.user = "ghost".to_owned();
    let error = kit.exec(Some(&kit.base), exec).result.err();
    holds(
        matches!(error, Some(ExecError::User(_))),
        format!("{error:?}"),
    )?;
    let mut exec = shell("id -G");
    exec.groups = vec!["extra".into(), "77".into()];
    equal(&kit.exec(Some(&kit.base), exec).ok()?.stdout, "0 77 500\n")
}

fn processes(kit: &Kit) -> Outcome {
    let ran = kit.sh("echo $$; ls -d /proc/[0-9]* | wc -l; cat /proc/1/cmdline | tr '\\0' ' ' | cut -c1-10; hostname; cut -d: -f3 /proc/self/cgroup | sort -u")?;
    let lines: Vec<&str> = ran.stdout.lines().collect();
    holds(lines.first() == Some(&"1"), &ran.stdout)?;
    holds(
        lines
            .get(1)
            .and_then(|n| n.parse::<u32>().ok())
            .is_some_and(|n| n <= 4),
        &ran.stdout,
    )?;
    equal(&lines[2..].join("|"), "/bin/sh -c|rbuild|/")
}

fn background(kit: &Kit) -> Outcome {
    let start = Instant::now();
    let ran =
        kit.sh("(setsid sleep 60; echo late) & (trap '' TERM HUP; sleep 61) & echo started")?;
    equal(&ran.stdout, "started\n")?;
    holds(
        start.elapsed() < Duration::from_secs(5),
        "waited for the background",
    )
}

fn kernel_files(kit: &Kit) -> Outcome {
    let ran = kit.sh("grep -E ' (/proc|/sys|/dev|/dev/shm|/dev/pts|/dev/mqueue) ' /proc/self/mountinfo | cut -d' ' -f5,6 | sort")?;
    for line in ran.stdout.lines() {
        let (place, options) = line.split_once(' ').ok_or("a line without options")?;
        let needed: &[&str] = match place {
            "/proc" | "/dev/shm" | "/dev/mqueue" => &["rw", "nosuid", "nodev", "noexec"],
            "/sys" => &["ro", "nosuid", "nodev", "noexec"],
            _ => &["nosuid", "noexec"],
        };
        let options: Vec<&str> = options.split(',').collect();
        holds(
            needed.iter().all(|option| options.contains(option)),
            &ran.stdout,
        )?;
    }
    holds((5..=7).contains(&ran.stdout.lines().count()), &ran.stdout)?;
    let ran = kit.sh("grep -cE ' - (ext4|xfs|btrfs|9p|virtiofs|fuse) ' /proc/self/mountinfo; cat /proc/self/mountinfo | head -n1 | cut -d' ' -f5; cd /..; pwd; ls -d bin; readlink /proc/1/root")?;
    equal(&ran.stdout, "0\n/\n/\nbin\n/\n")?;
    let ran = kit.sh("cat /etc/hosts /etc/hostname; echo x >> /etc/hosts || echo refused")?;
    holds(
        ran.stdout.contains("localhost") && ran.stdout.ends_with("rbuild\nrefused\n"),
        &ran.stdout,
    )
}

fn masked(kit: &Kit) -> Outcome {
    let ran = kit.sh(
        "for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/interrupts; do test ! -e $f || test ! -s $f || { cat $f | head -c1 | wc -c; }; done
         ls -A /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v : | grep .
         for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/drop_caches /proc/irq/default_smp_affinity; do if echo 1 2>/dev/null > $f; then echo wrote $f; fi; done
         mkdir /sys/x 2>/dev/null && echo made; mount -t tmpfs none /tmp 2>/dev/null && echo mounted; true",
    )?;
    holds(
        !ran.stdout.contains("wrote") && !ran.stdout.contains("m"),
        &ran.stdout,
    )?;
    holds(ran.stdout.lines().all(|line| line == "0"), &ran.stdout)
}

fn fake_proc(kit: &Kit) -> Outcome {
    for name in ["proc", "sys", "dev"] {
        let base = kit.sh(&format!(
            "mkdir /elsewhere; ln -s /elsewhere /new; rmdir /{name} 2>/dev/null; true"
        ))?;
        drop(base);
        let snapshot = kit.snapshot_with(|root| {
            std::os::unix::fs::symlink("tmp", root.join(name)).map(|()| root.join(name))
        })?;
        let error = kit.exec(Some(&snapshot), shell("true")).result.err();
        let text = error.map_or_else(String::new, |error| describe(&error));
        holds(text.contains("not a link"), format!("{name}: {text}"))?;
    }
    Ok(())
}

fn devices(kit: &Kit) -> Outcome {
    let ran = kit.sh("ls /dev | tr '\\n' ' '; for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; head -c 2 /dev/zero | wc -c; echo x > /dev/null; echo x > /dev/full || echo full; echo s > /dev/shm/f")?;
    equal(
        &ran.stdout,
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 2\nfull\n",
    )?;
    if kit.privilege() == Privilege::Root {
        let ran = kit.sh("mknod /n c 1 3 && mknod /b b 8 0 && chmod 666 /n /b; cat /n && echo opened; cat /b && echo opened; true")?;
        equal(&ran.stdout, "")?;
        equal(&kit.layer(&ran)?.join(" "), "b n")?;
    }
    Ok(())
}

fn capabilities(kit: &Kit) -> Outcome {
    let ran = kit.sh("grep -E '^(Cap|Seccomp:|NoNew)' /proc/self/status | tr '\\t\\n' '  '; unshare -m true 2>/dev/null && echo unshared; unshare -U true 2>/dev/null && echo unshared; true")?;
    equal(
        &ran.stdout,
        "CapInh: 0000000000000000 CapPrm: 00000000a80425fb CapEff: 00000000a80425fb CapBnd: 00000000a80425fb CapAmb: 0000000000000000 NoNewPrivs: 0 Seccomp: 2 ",
    )?;
    let mut exec = shell("grep CapEff /proc/self/status");
    exec.capabilities_add = vec!["SYS_ADMIN".into()];
    exec.capabilities_drop = vec!["ALL".into()];
    equal(
        &kit.exec(Some(&kit.base), exec).ok()?.stdout,
        "CapEff:\t0000000000200000\n",
    )?;
    if kit.privilege() != Privilege::SingleId {
        let mut exec =
            shell("grep -E 'Cap(Prm|Eff)' /proc/self/status | sort -u | cut -f2 | sort -u");
        exec.user = "user".into();
        equal(
            &kit.exec(Some(&kit.base), exec).ok()?.stdout,
            "0000000000000000\n",
        )?;
    }
    Ok(())
}

fn descriptors(kit: &Kit) -> Outcome {
    // `ls` itself holds one for the directory.
    equal(&kit.sh("exec ls /proc/self/fd")?.stdout, "0\n1\n2\n3\n")?;
    equal(&kit.sh("readlink /proc/self/fd/0")?.stdout, "/dev/null\n")
}

fn network(kit: &Kit) -> Outcome {
    let ran = kit.sh("grep -c : /proc/net/dev; cat /sys/class/net/lo/operstate; ls /sys/class/net | grep -vxE 'lo|(sit|tunl|ip6tnl|gre|gretap|erspan|ip_vti|ip6_vti|ip6gre|teql)0'; nc -w 1 127.0.0.1 9 </dev/null; true")?;
    let lines: Vec<&str> = ran.stdout.lines().collect();
    holds(lines.len() == 2, &ran.stdout)?;
    let mut exec = shell(
        "ls /sys/class/net; readlink /proc/self/ns/net; ls -d /sys/kernel; mkdir /sys/x || true",
    );
    exec.network = Network::Host;
    let ran = kit.exec(Some(&kit.base), exec);
    let own = std::fs::read_link("/proc/self/ns/net")?;
    holds(
        ran.ok()?.stdout.contains(&own.display().to_string()),
        &ran.stdout,
    )?;
    let mut exec = shell("readlink /proc/self/ns/net");
    exec.network = Network::Process(std::process::id());
    let ran = kit.exec(Some(&kit.base), exec);
    // The network of a host belongs to the host's root only.
    if kit.privilege() == Privilege::Root {
        equal(ran.ok()?.stdout.trim(), &own.display().to_string())?;
    }
    Ok(())
}

fn cwd(kit: &Kit) -> Outcome {
    let mut exec = shell("pwd; touch f");
    exec.cwd = "/a/b".into();
    let ran = kit.exec(Some(&kit.base), exec);
    equal(&ran.ok()?.stdout, "/a/b\n")?;
    equal(&kit.layer(&ran)?.join(" "), "a a/b a/b/f")?;
    for path in ["/proc/self/fd/3", "/proc/self/cwd", "/proc/1/root"] {
        let mut exec = shell("pwd");
        exec.cwd = path.into();
        holds(kit.exec(Some(&kit.base), exec).result.is_err(), path)?;
    }
    Ok(())
}

fn explained(kit: &Kit) -> Outcome {
    let base = kit.sh(
        "printf '#!/bin/sh\\r\\necho\\r\\n' > /crlf; printf '#!/bin/zsh\\n' > /zsh; echo hi > /plain; cp /plain /text; : > /empty; chmod 755 /crlf /zsh /text /empty",
    )?;
    let base = base.result.map_err(|error| describe(&error))?.id;
    for (argv, words, missing) in [
        ("/no/such/program", "no such file", true),
        ("nothing", "not found in PATH", true),
        ("/bin", "directory", false),
        ("/plain", "not executable", false),
        ("/crlf", "carriage return", true),
        ("/zsh", "/bin/zsh", true),
        ("/text", "#!", false),
        ("/empty", "empty", false),
        ("/bin/busybox/x", "not a directory", true),
    ] {
        match kit.exec(Some(&base), command(&[argv])).result {
            Err(ExecError::NotExecutable {
                program,
                explanation,
                not_found,
            }) => {
                holds(
                    explanation.contains(words) && not_found == missing && program == argv,
                    format!("{argv}: {explanation}, {not_found}"),
                )?;
            }
            other => return Err(format!("{argv}: {other:?}").into()),
        }
    }
    Ok(())
}

fn mount(target: &str, source: MountSource) -> Mount {
    Mount {
        target: target.into(),
        read_only: false,
        source,
    }
}

fn tmpfs(target: &str) -> Mount {
    mount(
        target,
        MountSource::Tmpfs {
            size: Some(1 << 20),
            mode: 0o1777,
        },
    )
}

fn secret(target: &str, text: &str) -> Mount {
    mount(
        target,
        MountSource::Secret {
            data: Arc::from(text.as_bytes()),
            mode: 0o400,
            uid: 0,
            gid: 0,
        },
    )
}

fn with_mounts(script: &str, mounts: Vec<Mount>) -> rbuild_executor::Exec {
    let mut exec = shell(script);
    exec.mounts = mounts;
    exec
}

fn mounts(kit: &Kit) -> Outcome {
    let other =
        kit.sh("mkdir -p /src/in; echo deep > /src/in/f; echo top > /src/g; ln -s in/f /src/link")?;
    let other = other.result.map_err(|error| describe(&error))?.id;
    let host = tempfile::tempdir()?;
    std::fs::write(host.path().join("h"), "host\n")?;
    let snapshot = |path: &str| MountSource::Snapshot {
        snapshot: Some(other.clone()),
        path: path.into(),
    };
    let mut read_only = mount("/m", snapshot("/src"));
    read_only.read_only = true;
    let mut file = mount("/file/f", snapshot("src/link"));
    file.read_only = true;
    let directory = mount(
        "/h",
        MountSource::Directory {
            root: Arc::new(RootDir::open_ambient(host.path())?),
            path: "/".into(),
        },
    );
    let exec = with_mounts(
        "cat /m/in/f /m/g /file/f /h/h; echo w > /h/new; touch /m/x 2>/dev/null && echo wrote; dd if=/dev/zero of=/t/big bs=1024 count=4096 2>/dev/null && echo big; stat -c %a /t; touch /t/sub/f; ls /t/sub; grep ' /t ' /proc/mounts | cut -d' ' -f3",
        vec![read_only, file, directory, tmpfs("/t"), tmpfs("/t/sub")],
    );
    let ran = kit.exec(Some(&kit.base), exec);
    equal(&ran.ok()?.stdout, "deep\ntop\ndeep\nhost\n1777\nf\ntmpfs\n")?;
    equal(&std::fs::read_to_string(host.path().join("new"))?, "w\n")?;
    equal(&kit.layer(&ran)?.join(" "), "")?;
    let missing = with_mounts("true", vec![mount("/m", snapshot("/nothing"))]);
    let text = kit
        .exec(Some(&kit.base), missing)
        .result
        .err()
        .map_or_else(String::new, |error| describe(&error));
    holds(text.contains("/nothing") && text.contains("/m"), text)
}

fn mounts_leave_nothing(kit: &Kit) -> Outcome {
    let all = || {
        vec![
            tmpfs("/new/deep/dir"),
            secret("/other/file", "s"),
            tmpfs("/bin/here"),
        ]
    };
    let ran = kit.exec(Some(&kit.base), with_mounts("true", all()));
    ran.ok()?;
    equal(&kit.layer(&ran)?.join(" "), "")?;
    let ran = kit.exec(
        Some(&kit.base),
        with_mounts("touch /new/kept; chmod 700 /other", all()),
    );
    ran.ok()?;
    equal(&kit.layer(&ran)?.join(" "), "new new/kept")
}

fn under_mounts(kit: &Kit) -> Outcome {
    let base =
        kit.sh("touch /empty; mkdir -p /edir/sub /full; echo 1 > /full/f; ln -s /edir /ln")?;
    let base = base.result.map_err(|error| describe(&error))?.id;
    let exec = with_mounts(
        "test -s /empty && test -d /edir/sub && touch /ln/x",
        vec![
            secret("/empty", "s"),
            tmpfs("/edir"),
            tmpfs("/full"),
            tmpfs("/ln/sub"),
        ],
    );
    let ran = kit.exec(Some(&base), exec);
    ran.ok()?;
    let after = ran.result.as_ref().map_err(describe)?.id.clone();
    let seen = kit.exec(
        Some(&after),
        shell("stat -c '%s' /empty; ls /edir; cat /full/f"),
    );
    equal(&seen.ok()?.stdout, "0\nsub\n1\n")
}

fn through_links(kit: &Kit) -> Outcome {
    let outside = tempfile::tempdir()?;
    let target = outside.path().display();
    let base = kit.sh(&format!(
        "ln -s {target} /ln; ln -s ../../../../../..{target} /rel; ln -s /proc /p; ln -s / /r"
    ))?;
    let base = base.result.map_err(|error| describe(&error))?.id;
    for place in ["/ln/f", "/rel/g"] {
        let ran = kit.exec(
            Some(&base),
            with_mounts(
                "cat /ln/* /rel/* 2>/dev/null | head -n1",
                vec![secret(place, "s\n")],
            ),
        );
        equal(&ran.ok()?.stdout, "s\n")?;
        equal(&kit.layer(&ran)?.join(" "), "")?;
    }
    holds(
        std::fs::read_dir(outside.path())?.next().is_none(),
        "something was made outside",
    )?;
    for place in ["/p", "/p/sys", "/r"] {
        let text = kit
            .exec(Some(&base), with_mounts("true", vec![tmpfs(place)]))
            .result
            .err()
            .map_or_else(String::new, |error| describe(&error));
        holds(text.contains("target"), format!("{place}: {text}"))?;
    }
    Ok(())
}

fn refused_targets(kit: &Kit) -> Outcome {
    for place in ["/", "/proc", "/proc/sys", "/tmp/..", "/dev"] {
        let text = kit
            .exec(Some(&kit.base), with_mounts("true", vec![tmpfs(place)]))
            .result
            .err()
            .map_or_else(String::new, |error| describe(&error));
        holds(text.contains("target"), format!("{place}: {text}"))?;
    }
    Ok(())
}

fn secrets(kit: &Kit) -> Outcome {
    let exec = with_mounts(
        "cat /run/secrets/a; stat -c '%a %u %g %s' /run/secrets/a; echo x >> /run/secrets/a 2>/dev/null; cat /run/secrets/a > /copy; rm -f /copy",
        vec![secret("/run/secrets/a", "top\n")],
    );
    let ran = kit.exec(Some(&kit.base), exec);
    equal(&ran.ok()?.stdout, "top\n400 0 0 4\n")?;
    equal(&kit.layer(&ran)?.join(" "), "")
}

fn caches(kit: &Kit) -> Outcome {
    let seed =
        kit.sh("mkdir -p /s/in; echo seed > /s/in/f; chmod 4711 /s/in/f; ln -s f /s/in/l")?;
    let seed = seed.result.map_err(|error| describe(&error))?.id;
    let cache = |path: &str, read_only| -> Result<Mount, kit::Failed> {
        Ok(Mount {
            target: "/c".into(),
            read_only,
            source: MountSource::Cache {
                mount: kit.store().cache_mount("c", Sharing::Shared)?,
                from: Some((Some(seed.clone()), PathBuf::from("/s"))),
                path: path.into(),
                mode: 0o750,
                uid: 0,
                gid: 0,
            },
        })
    };
    let ran = kit.exec(
        Some(&kit.base),
        with_mounts(
            "cat /c/in/l; stat -c '%a' /c /c/in/f; echo more > /c/in/g",
            vec![cache("/", false)?],
        ),
    );
    equal(&ran.ok()?.stdout, "seed\n750\n4711\n")?;
    equal(&kit.layer(&ran)?.join(" "), "")?;
    let ran = kit.exec(
        Some(&kit.base),
        with_mounts(
            "ls /c; touch /c/x 2>/dev/null || echo ro",
            vec![cache("in", true)?],
        ),
    );
    equal(&ran.ok()?.stdout, "f\ng\nl\nro\n")
}

fn snapshot_writes(kit: &Kit) -> Outcome {
    let source = || {
        mount(
            "/w",
            MountSource::Snapshot {
                snapshot: Some(kit.base.clone()),
                path: "/etc".into(),
            },
        )
    };
    let ran = kit.exec(
        Some(&kit.base),
        with_mounts(
            "echo changed > /w/passwd; cat /w/passwd; rm /w/group",
            vec![source()],
        ),
    );
    equal(&ran.ok()?.stdout, "changed\n")?;
    let ran = kit.exec(Some(&kit.base), with_mounts("ls /w", vec![source()]));
    equal(&ran.ok()?.stdout, "group\npasswd\n")
}

fn many_layers(kit: &Kit) -> Outcome {
    let mut top = kit.base.clone();
    for index in 0..300 {
        let active = kit.store().prepare()?;
        std::fs::write(active.upper().join("layer"), index.to_string())?;
        std::fs::write(active.upper().join(format!("l{index}")), "")?;
        top = active.commit(Some(&top), 0)?.id;
    }
    let ran = kit.exec(Some(&top), shell("cat /layer; ls / | grep -c '^l[0-9]'"));
    equal(&ran.ok()?.stdout, "299300\n")
}

fn timeout(kit: &Kit) -> Outcome {
    let mut exec = shell("trap '' TERM INT; sleep 60 & wait; sleep 60");
    exec.timeout = Some(Duration::from_millis(200));
    let start = Instant::now();
    let result = kit.exec(Some(&kit.base), exec).result;
    holds(
        matches!(result, Err(ExecError::Failed(Exit::TimedOut))),
        format!("{result:?}"),
    )?;
    holds(
        start.elapsed() < Duration::from_secs(2),
        "took too long to stop",
    )
}

fn cancelled(kit: &Kit) -> Outcome {
    let cancel = tokio_util::sync::CancellationToken::new();
    let stopper = cancel.clone();
    kit.runtime.spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stopper.cancel();
    });
    let start = Instant::now();
    let result = kit
        .exec_until(
            Some(&kit.base),
            shell("trap '' TERM INT; sleep 60; sleep 60"),
            cancel,
        )
        .result;
    holds(
        matches!(result, Err(ExecError::Cancelled)),
        format!("{result:?}"),
    )?;
    holds(
        start.elapsed() < Duration::from_secs(2),
        "took too long to stop",
    )?;
    // Dropped in the middle.
    let exec = shell("sleep 60");
    let dropped = kit.runtime.block_on(async {
        let run = kit.executor.exec(
            Some(&kit.base),
            exec,
            rbuild_executor::Stdio::Capture(Arc::new(|_, _| {})),
            tokio_util::sync::CancellationToken::new(),
        );
        tokio::time::timeout(Duration::from_millis(200), run).await
    });
    holds(dropped.is_err(), "ended by itself")
}

fn limits(kit: &Kit) -> Outcome {
    let mut exec = shell("ulimit -Sn; ulimit -c; ulimit -f");
    exec.limits.ulimits = vec![
        ("nofile".into(), 100, 200),
        ("fsize".into(), 512 * 10, 512 * 20),
    ];
    equal(
        &kit.exec(Some(&kit.base), exec).ok()?.stdout,
        "100\n0\n10\n",
    )?;
    let mut exec = shell("true");
    exec.limits.ulimits = vec![("wings".into(), 1, 2)];
    holds(
        kit.exec(Some(&kit.base), exec).result.is_err(),
        "an unknown limit was accepted",
    )?;
    let mut exec = shell("df -k /dev/shm | tail -n1 | tr -s ' ' | cut -d' ' -f2");
    exec.limits.shm_size = Some(8 << 20);
    equal(&kit.exec(Some(&kit.base), exec).ok()?.stdout, "8192\n")
}

fn read_only_root(kit: &Kit) -> Outcome {
    let mut exec = with_mounts(
        "touch /x 2>/dev/null && echo wrote; touch /t/y /dev/shm/z && echo ok",
        vec![tmpfs("/t")],
    );
    exec.read_only_root = true;
    equal(&kit.exec(Some(&kit.base), exec).ok()?.stdout, "ok\n")
}

fn init(kit: &Kit) -> Outcome {
    let mut exec =
        shell("echo $$; (sleep 0.1 & exec true) ; sleep 0.3; ps -o pid,stat | grep -c Z; exit 3");
    exec.init = true;
    let ran = kit.exec(Some(&kit.base), exec);
    holds(
        matches!(ran.result, Err(ExecError::Failed(Exit::Code(3)))),
        format!("{:?}", ran.result),
    )?;
    equal(&ran.stdout, "2\n0\n")
}

fn one_id(kit: &Kit) -> Outcome {
    if kit.privilege() != Privilege::SingleId {
        return Ok(());
    }
    let mut exec = shell(
        "echo $(id -u) $(id -g) $HOME; touch /tmp/f; stat -c %u /tmp/f; grep CapEff /proc/self/status",
    );
    exec.user = "user".into();
    let ran = kit.exec(Some(&kit.base), exec);
    equal(
        &ran.ok()?.stdout,
        "1000 1000 /home/user\n1000\nCapEff:\t0000000000000000\n",
    )?;
    // What package managers do.
    let ran = kit.sh("touch /f && chown 5:6 /f && chown -R user /tmp && su user -c 'id -u' && mknod /n c 1 3 && chgrp 7 /f && echo ok")?;
    holds(ran.stdout.ends_with("ok\n"), &ran.stdout)
}

fn sockets(kit: &Kit) -> Outcome {
    use std::io::{Read, Write};
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("agent");
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    let served = std::thread::spawn(move || -> std::io::Result<String> {
        let (mut connection, _) = listener.accept()?;
        let mut text = [0; 5];
        connection.read_exact(&mut text)?;
        connection.write_all(b"world")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    });
    let socket = mount(
        "/run/agent",
        MountSource::Socket {
            path,
            mode: 0o600,
            uid: 0,
            gid: 0,
        },
    );
    // busybox has no client for it, so this process connects through the sandbox's root.
    let client = std::thread::spawn(|| -> Option<String> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            let connected = std::fs::read_dir("/proc")
                .ok()?
                .filter_map(Result::ok)
                .find_map(|entry| {
                    std::os::unix::net::UnixStream::connect(entry.path().join("root/run/agent"))
                        .ok()
                });
            if let Some(mut connection) = connected {
                connection.write_all(b"hello").ok()?;
                let mut text = String::new();
                connection.read_to_string(&mut text).ok()?;
                return Some(text);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    });
    let ran = kit.exec(
        Some(&kit.base),
        with_mounts("stat -c '%F %a' /run/agent; sleep 1", vec![socket]),
    );
    equal(&ran.ok()?.stdout, "socket 600\n")?;
    let answer = client.join().map_err(|_| "the client panicked")?;
    holds(answer.as_deref() == Some("world"), format!("{answer:?}"))?;
    equal(&served.join().map_err(|_| "the server panicked")??, "hello")?;
    equal(&kit.layer(&ran)?.join(" "), "")
}

fn cgroups(kit: &Kit) -> Outcome {
    let mut exec = shell("head -c 200000000 /dev/zero | tail -c 199999999 > /dev/null");
    exec.limits.memory = Some(32 << 20);
    exec.limits.memory_swap = Some(32 << 20);
    match kit.exec(Some(&kit.base), exec).result {
        Err(ExecError::Failed(Exit::OutOfMemory)) => {}
        Err(ref error @ ExecError::Setup { .. }) if kit.privilege() != Privilege::Root => {
            let text = describe(error);
            holds(text.contains("cgroup") && text.contains("memory"), text)?;
            return kit.skip("limits by cgroups", "no cgroup is delegated to this user");
        }
        other => return Err(format!("{:?}", other.map_err(|error| describe(&error))).into()),
    }
    let mut exec = shell("for i in $(seq 40); do sleep 5 & done 2>&1; echo unreachable");
    exec.limits.pids = Some(16);
    let ran = kit.exec(Some(&kit.base), exec);
    holds(
        ran.stdout.contains("fork") || ran.stderr.contains("fork"),
        format!("{} {}", ran.stdout, ran.stderr),
    )?;
    let left = |path: &str| {
        std::fs::read_dir(path).map_or(0, |entries| {
            entries
                .filter_map(Result::ok)
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("rbuild-"))
                .count()
        })
    };
    holds(
        left("/sys/fs/cgroup/memory") + left("/sys/fs/cgroup/pids") + left("/sys/fs/cgroup") == 0,
        "a cgroup is left",
    )
}

fn run(kit: &Kit, exec: rbuild_executor::Exec) -> Result<Exit, ExecError> {
    kit.runtime.block_on(kit.executor.run(
        Some(&kit.base),
        exec,
        rbuild_executor::Stdio::Inherit { interactive: false },
        tokio_util::sync::CancellationToken::new(),
    ))
}

fn run_signals(kit: &Kit) -> Outcome {
    let exit = run(kit, shell("exit 7")).map_err(|error| describe(&error))?;
    holds(exit == Exit::Code(7), format!("{exit:?}"))?;
    for init in [false, true] {
        let mut exec = shell("trap 'exit 9' TERM; while true; do sleep 0.02; done");
        exec.init = init;
        let sender = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(400));
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
        });
        let exit = run(kit, exec).map_err(|error| describe(&error))?;
        sender.join().map_err(|_| "the sender panicked")??;
        holds(exit == Exit::Code(9), format!("{exit:?}"))?;
    }
    Ok(())
}

/// In a process of its own, whose standard streams are a terminal.
fn in_terminal(kit: &Kit) -> Outcome {
    let before = rustix::termios::tcgetattr(rustix::stdio::stdin())?;
    let exit = kit.runtime.block_on(kit.executor.run(
        Some(&kit.base),
        shell("tty; stty size; test -c /dev/console && echo console; read line; echo got $line; exit 5"),
        rbuild_executor::Stdio::Terminal { interactive: true },
        tokio_util::sync::CancellationToken::new(),
    ));
    let exit = exit.map_err(|error| describe(&error))?;
    holds(exit == Exit::Code(5), format!("{exit:?}"))?;
    let after = rustix::termios::tcgetattr(rustix::stdio::stdin())?;
    holds(
        before.local_modes == after.local_modes && before.input_modes == after.input_modes,
        "the terminal was not restored",
    )?;
    println!("all well");
    Ok(())
}

fn terminal(kit: &Kit) -> Outcome {
    use rustix::pty::OpenptFlags;
    if kit.privilege() != Privilege::Root {
        return Ok(());
    }
    let master =
        rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    rustix::termios::tcsetwinsize(
        &slave,
        rustix::termios::Winsize {
            ws_row: 33,
            ws_col: 99,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )?;
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .env(TERMINAL_ROLE, "1")
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave)
        .spawn()?;
    rustix::io::write(&master, b"typed\n")?;
    let mut shown = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = rustix::io::read(&master, &mut buffer) {
        shown.extend_from_slice(&buffer[..length]);
    }
    let status = child.wait()?;
    let shown = String::from_utf8_lossy(&shown).replace('\r', "");
    for words in ["/dev/pts/0\n33 99\nconsole\n", "got typed\n", "all well"] {
        holds(status.success() && shown.contains(words), &shown)?;
    }
    Ok(())
}

fn insecure(kit: &Kit) -> Outcome {
    let mut exec = shell(
        "grep -E 'Seccomp:|CapEff' /proc/self/status; mount -t tmpfs none /tmp && echo mounted",
    );
    exec.security = rbuild_executor::spec::Security::Insecure;
    let ran = kit.exec(Some(&kit.base), exec);
    holds(
        ran.ok()?.stdout.contains("Seccomp:\t0\n") && ran.stdout.ends_with("mounted\n"),
        &ran.stdout,
    )
}

fn many_at_once(kit: &Kit) -> Outcome {
    kit.runtime.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for index in 0..24 {
            let (executor, base) = (kit.executor.clone(), kit.base.clone());
            running.spawn(async move {
                executor
                    .exec(
                        Some(&base),
                        shell(&format!("echo {index} > /f; sleep 0.05; cat /f")),
                        rbuild_executor::Stdio::Capture(Arc::new(|_, _| {})),
                        tokio_util::sync::CancellationToken::new(),
                    )
                    .await
                    .map(|_| ())
            });
        }
        while let Some(result) = running.join_next().await {
            result?.map_err(|error| describe(&error))?;
        }
        Ok(())
    })
}

fn nothing_leaks(kit: &Kit) -> Outcome {
    let count = |path: &str| std::fs::read_dir(path).map(Iterator::count);
    kit.sh("true")?;
    let before = (
        count("/proc/self/fd")?,
        std::fs::read_to_string("/proc/self/mountinfo")?,
    );
    for script in ["true", "false", "sleep 0.01"] {
        let _ = kit.exec(Some(&kit.base), shell(script));
        let _ = kit.exec(
            Some(&kit.base),
            with_mounts(script, vec![tmpfs("/t"), secret("/s", "s")]),
        );
    }
    let _ = kit.exec(Some(&kit.base), command(&["/nothing"]));
    let after = (
        count("/proc/self/fd")?,
        std::fs::read_to_string("/proc/self/mountinfo")?,
    );
    holds(
        before.0 == after.0,
        format!("{} descriptors became {}", before.0, after.0),
    )?;
    holds(before.1 == after.1, "mounts are left")?;
    let temporary = kit.store().root().join("tmp");
    let left: Vec<PathBuf> = std::fs::read_dir(&temporary)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    holds(
        left.iter().all(|path| path.is_file() || empty(path)),
        format!("{left:?}"),
    )
}

fn empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}
