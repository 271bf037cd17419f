//! What a command can see and do.

use std::time::{Duration, Instant};

use rbuild_cache::tree::Kind;
use rbuild_executor::host::Privilege;
use rbuild_executor::spec::Network;

use crate::kit::{Kit, Outcome, describe, equal, holds, shell};
use crate::mounts::{tmpfs, with_mounts};

pub(crate) fn processes(kit: &Kit) -> Outcome {
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

pub(crate) fn background(kit: &Kit) -> Outcome {
    let start = Instant::now();
    let ran =
        kit.sh("(setsid sleep 60; echo late) & (trap '' TERM HUP; sleep 61) & echo started")?;
    equal(&ran.stdout, "started\n")?;
    holds(
        start.elapsed() < Duration::from_secs(40),
        "waited for the background",
    )
}

pub(crate) fn kernel_files(kit: &Kit) -> Outcome {
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

pub(crate) fn masked(kit: &Kit) -> Outcome {
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

pub(crate) fn fake_proc(kit: &Kit) -> Outcome {
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

pub(crate) fn devices(kit: &Kit) -> Outcome {
    let ran = kit.sh("ls /dev | tr '\\n' ' '; for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; head -c 2 /dev/zero | wc -c; echo x > /dev/null; echo x > /dev/full || echo full; echo s > /dev/shm/f")?;
    equal(
        &ran.stdout,
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 2\nfull\n",
    )?;
    let ran = kit.sh("mknod -m 640 /n c 1 3 && chown 5:6 /n; cat /n && echo opened; true")?;
    equal(&ran.stdout, "")?;
    let snapshot = ran.result.as_ref().map_err(describe)?;
    let tree = kit.store().tree(&snapshot.id)?;
    let entry = tree.get(b"n").ok_or("no n")?;
    let found = (entry.kind, entry.mode, entry.uid, entry.gid, entry.device);
    let expected = (Kind::CharDevice, 0o640, 5, 6, rustix::fs::makedev(1, 3));
    holds(found == expected, format!("{found:?}"))?;
    // With subordinate ids the kernel answers for owners, and shows what stands for a device.
    if kit.privilege() != Privilege::Subordinate {
        let ran = kit.sh("mknod /n c 1 3 && chmod 666 /n; stat -c '%F %a %t:%T' /n")?;
        equal(&ran.stdout, "character special file 666 1:3\n")?;
        equal(&kit.layer(&ran)?.join(" "), "n")?;
    }
    if kit.privilege() == Privilege::Root {
        devices_of_root(kit)
    } else {
        devices_of_others(kit)
    }
}

fn devices_of_root(kit: &Kit) -> Outcome {
    let ran =
        kit.sh("mknod /b b 8 0 && chmod 666 /b; cat /b && echo opened; stat -c '%F %a %t:%T' /b")?;
    equal(&ran.stdout, "block special file 666 8:0\n")?;
    equal(&kit.layer(&ran)?.join(" "), "b")
}

/// No layer has a node of a disk; where there is none, it can be made, and not opened.
fn devices_of_others(kit: &Kit) -> Outcome {
    let script = "mkdir /dev/net; mkfifo /p
        mknod /dev/net/tun c 10 200; mknod -m 660 /dev/sda b 8 0; mknod /t/mem c 1 1; mknod /dev/shm/k b 7 0
        test -c /dev/net/tun || echo no tun
        ls -l /dev/sda | cut -c 2-10
        for d in /dev/net/tun /dev/sda /t/mem /dev/shm/k; do cat $d 2>&1; (: > $d) 2>&1; done | sed 's/.*: //' | uniq -c
        for d in 'c 10 200' 'c 10 229' 'b 1 3' 'c 4 0' 'c 1 1'; do
            mknod /x $d 2>&1; mknod /dev/shm/x $d && rm /dev/shm/x
        done | uniq -c
        mv /dev/sda /dev/sdb && rm /dev/sdb /dev/net/tun /dev/shm/k /t/mem";
    let ran = kit.exec(Some(&kit.base), with_mounts(script, vec![tmpfs("/t")]));
    equal(
        &ran.ok()?.stdout,
        "rw-rw----\n      8 Permission denied\n      5 mknod: /x: Operation not permitted\n",
    )?;
    equal(&kit.layer(&ran)?.join(" "), "p")?;
    let error = kit.exec(Some(&kit.base), shell("mknod /b b 8 0")).result;
    equal(
        &error
            .err()
            .map_or_else(String::new, |error| describe(&error)),
        "exited with code 1 after `mknod` of b 8:0 was refused",
    )
}

pub(crate) fn capabilities(kit: &Kit) -> Outcome {
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
    {
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

pub(crate) fn descriptors(kit: &Kit) -> Outcome {
    // `ls` itself holds one for the directory.
    equal(&kit.sh("exec ls /proc/self/fd")?.stdout, "0\n1\n2\n3\n")?;
    equal(&kit.sh("readlink /proc/self/fd/0")?.stdout, "/dev/null\n")
}

pub(crate) fn network(kit: &Kit) -> Outcome {
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
    exec.network = Network::Process {
        pid: std::process::id(),
        private: None,
    };
    let ran = kit.exec(Some(&kit.base), exec);
    // The network of a host belongs to the host's root only.
    if kit.privilege() == Privilege::Root {
        equal(ran.ok()?.stdout.trim(), &own.display().to_string())?;
    }
    Ok(())
}

pub(crate) fn read_only_root(kit: &Kit) -> Outcome {
    let mut exec = with_mounts(
        "touch /x 2>/dev/null && echo wrote; touch /t/y /dev/shm/z && echo ok",
        vec![tmpfs("/t")],
    );
    exec.read_only_root = true;
    equal(&kit.exec(Some(&kit.base), exec).ok()?.stdout, "ok\n")
}

pub(crate) fn insecure(kit: &Kit) -> Outcome {
    let mut exec = shell(
        "grep -E 'Seccomp:|CapEff' /proc/self/status; mount -t tmpfs none /tmp && echo mounted",
    );
    exec.security = rbuild_executor::spec::Security::Insecure;
    let ran = kit.exec(Some(&kit.base), exec);
    holds(
        // In user namespaces, a filter has to say what is asked about.
        (ran.ok()?.stdout.contains("Seccomp:\t0\n") || kit.privilege() != Privilege::Root)
            && ran.stdout.ends_with("mounted\n"),
        &ran.stdout,
    )
}
