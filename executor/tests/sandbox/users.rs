//! Who the users of root's commands are on the machine: nobody, unless it is asked otherwise, and nothing that is
//! written tells the difference.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use rbuild_cache::tree::Kind;
use rbuild_executor::host::Privilege;
use rbuild_executor::network::Private;
use rbuild_executor::spec::{Network, Users};

use crate::kit::{Kit, Outcome, describe, equal, holds, shell};
use crate::mounts::{directory, tmpfs, with_mounts};

/// Whether commands here can be in a user namespace of their own.
fn is_possible(kit: &Kit) -> Result<bool, String> {
    if kit.privilege() != Privilege::Root {
        return Ok(false);
    }
    let features = kit.executor.features();
    let found = features.iter().find(|(name, _)| *name == "UserNamespace");
    match found {
        Some((_, Ok(_))) => Ok(true),
        Some((_, Err(why))) => {
            println!("SKIPPED (Root) a user namespace: {why}");
            Ok(false)
        }
        None => Err("nothing is said of user namespaces".to_owned()),
    }
}

pub(crate) fn namespace(kit: &Kit) -> Outcome {
    if !is_possible(kit)? {
        return Ok(());
    }
    let script = "readlink /proc/self/ns/user; id -u; cat /proc/self/uid_map; : > /proc/1/oom_score_adj && echo ok; chown 0 /dev/null 2>/dev/null && echo changed; true";
    let own = std::fs::read_link("/proc/self/ns/user")?
        .display()
        .to_string();
    let ran = kit.sh(script)?;
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let [namespace, uid, map @ .., last] = lines.as_slice() else {
        return Err(ran.stdout.into());
    };
    holds(
        *namespace != own && *uid == "0" && *last == "ok",
        &ran.stdout,
    )?;
    for line in map {
        let numbers: Vec<u32> = line.split_whitespace().flat_map(str::parse).collect();
        holds(numbers.len() == 3 && numbers[1] >= 100_000, line)?;
    }
    let mut exec = shell("readlink /proc/self/ns/user");
    exec.users = Users::Host;
    let ran = kit.exec(Some(&kit.base), exec);
    equal(ran.ok()?.stdout.trim(), &own)
}

/// What a layer tells of everything but times.
fn told(kit: &Kit, users: Users, script: &str) -> Result<(String, String), crate::kit::Failed> {
    let mut exec = with_mounts(script, vec![tmpfs("/mnt")]);
    exec.users = users;
    let ran = kit.exec(Some(&kit.base), exec);
    let snapshot = ran.ok()?.result.as_ref().map_err(describe)?;
    let tree = kit.store().tree(&snapshot.id)?;
    let mut told = String::new();
    for entry in &tree.entries {
        told.push_str(&format!(
            "{} {:?} {:o} {}:{} {} {:?} {:?}\n",
            String::from_utf8_lossy(&entry.path),
            entry.kind,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.device,
            entry.content,
            entry.xattrs,
        ));
    }
    let device = |name: &[u8]| tree.get(name).map(|entry| entry.kind);
    let devices = (device(b"x/c13"), device(b"x/um"));
    if devices != (Some(Kind::CharDevice), Some(Kind::BlockDevice)) {
        return Err(format!("{devices:?}").into());
    }
    Ok((told, ran.stdout))
}

pub(crate) fn same_layers(kit: &Kit) -> Outcome {
    if !is_possible(kit)? {
        return Ok(());
    }
    let script = "set -e; mkdir /x; cd /x
        for i in 0 1 65534 65535 65536 100000 2147483646 2147483648 4000000000; do
            echo $i > f$i; chown $i:$i f$i; mkdir -m 2751 d$i; chown $i:1 d$i; touch d$i/in; ln -s no l$i; chown -h $i:7 l$i
        done
        cp /bin/busybox s; chmod 4755 s; cp s t; chown 5:6 t; chmod 6711 t; ln s h
        mknod c13 c 1 3; mknod -m 640 b80 b 8 0; chown 5:6 b80; mkfifo p; chown 3:4 p
        mkdir -m 2775 g; chown 0:50 g; mknod g/n c 5 1; (umask 077; mknod um b 1 5); mknod /mnt/n c 1 3
        chown 4:4 /bin/busybox; rm /bin/tty; chmod 700 /root; mv /tmp /moved; mkdir -m 1777 /tmp
        mkdir closed; chmod 0 closed; chown 9 closed; mknod closed/n c 1 3; stat -c '%n %F %a %u:%g %t:%T' * /mnt/n
        mknod whiteout c 0 0 2>/dev/null || echo none
        su user -s /bin/sh -c 'mknod /tmp/n c 1 3 2>/dev/null || echo not a user'; stat -c %u:%g /etc/passwd";
    let own = told(kit, Users::Own, script)?;
    let host = told(kit, Users::Host, script)?;
    equal(&own.1, &host.1)?;
    equal(&own.0, &host.0)?;
    holds(
        own.0
            .contains("x/f4000000000 File 644 4000000000:4000000000"),
        &own.0,
    )
}

pub(crate) fn directories(kit: &Kit) -> Outcome {
    if !is_possible(kit)? {
        return Ok(());
    }
    let shared = tempfile::tempdir()?;
    let path = |name: &str| shared.path().join(name);
    std::fs::write(path("theirs"), "")?;
    std::os::unix::fs::chown(path("theirs"), Some(1000), Some(100_000))?;
    let script = "stat -c %u:%g /m/theirs; touch /m/new; chown 1000:7 /m/new; mknod /m/n c 1 3 2>/dev/null && echo a device; readlink /proc/self/ns/user";
    let ran = kit.exec(
        Some(&kit.base),
        with_mounts(script, vec![directory("/m", shared.path())?]),
    );
    let own = std::fs::read_link("/proc/self/ns/user")?;
    let lines: Vec<&str> = ran.ok()?.stdout.lines().collect();
    // No device where others could find it.
    holds(
        lines.len() == 2 && lines.first() == Some(&"1000:100000"),
        &ran.stdout,
    )?;
    holds(lines.last() != own.to_str().as_ref(), &ran.stdout)?;
    let new = std::fs::metadata(path("new"))?;
    holds((new.uid(), new.gid()) == (1000, 7), format!("{new:?}"))?;
    // What cannot be shown with mapped ids is shown as it is.
    let ran = kit.exec(
        Some(&kit.base),
        with_mounts(
            "readlink /proc/self/ns/user; stat -c %u /m",
            vec![directory("/m", "/sys".as_ref())?],
        ),
    );
    equal(&ran.ok()?.stdout, &format!("{}\n0\n", own.display()))
}

pub(crate) fn network(kit: &Kit) -> Outcome {
    let script = "nc -l -p 80 -e true & sleep 0.2; nc 127.0.0.1 80 < /dev/null && echo bound; ls /sys/class/net | grep -c eth0";
    let private = Private::start(kit.executor.host(), Users::Own);
    let Ok(private) = private else {
        return kit.skip("rights over a private network", "there is none here");
    };
    let mut exec = shell(script);
    exec.network = Network::Private(Arc::new(private));
    let ran = kit.exec(Some(&kit.base), exec);
    equal(&ran.ok()?.stdout, "bound\n1\n")
}

pub(crate) fn limits(kit: &Kit) -> Outcome {
    if !is_possible(kit)? {
        return Ok(());
    }
    let may = rustix::thread::capabilities(None)?.effective;
    if !may.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        return kit.skip("limits that are raised", "root lacks CAP_SYS_RESOURCE here");
    }
    let mut exec = shell("ulimit -Hl; ulimit -Hr; ulimit -Sn; ulimit -Hu");
    let limit = |name: &str, value: u64| (name.to_owned(), value, value);
    exec.limits.ulimits = vec![
        limit("memlock", u64::MAX),
        limit("rtprio", 50),
        limit("nofile", 600_000),
    ];
    let own = kit.exec(Some(&kit.base), exec);
    let mut exec = shell("ulimit -Hu");
    exec.users = Users::Host;
    let host = kit.exec(Some(&kit.base), exec);
    // What was not asked for is the caller's.
    let expected = format!("unlimited\n50\n600000\n{}", host.ok()?.stdout);
    equal(&own.ok()?.stdout, &expected)
}
