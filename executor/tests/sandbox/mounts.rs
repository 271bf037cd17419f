//! Mounts of every kind, and that nothing of them stays.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rbuild_cache::RootDir;
use rbuild_cache::cache_mounts::Sharing;
use rbuild_executor::spec::{Below, Mount, MountSource, Tmpfs};

use crate::kit::{self, Kit, Outcome, describe, equal, holds, shell};

pub(crate) fn mount(target: &str, source: MountSource) -> Mount {
    Mount {
        target: target.into(),
        read_only: false,
        below: Below::Included,
        source,
    }
}

/// A directory of the host's, as `run -v` gives it.
pub(crate) fn directory(target: &str, path: &std::path::Path) -> Result<Mount, kit::Failed> {
    Ok(mount(
        target,
        MountSource::Directory {
            root: Arc::new(RootDir::open_ambient(path)?),
            path: "/".into(),
            volume: None,
        },
    ))
}

pub(crate) fn tmpfs(target: &str) -> Mount {
    mount(
        target,
        MountSource::Tmpfs(Tmpfs {
            size: Some(1 << 20),
            mode: None,
            uid: None,
            gid: None,
            inodes: None,
            no_exec: false,
        }),
    )
}

pub(crate) fn secret(target: &str, text: &str) -> Mount {
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

pub(crate) fn with_mounts(script: &str, mounts: Vec<Mount>) -> rbuild_executor::Exec {
    let mut exec = shell(script);
    exec.mounts = mounts;
    exec
}

pub(crate) fn mounts(kit: &Kit) -> Outcome {
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
            volume: None,
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

pub(crate) fn mounts_leave_nothing(kit: &Kit) -> Outcome {
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

pub(crate) fn under_mounts(kit: &Kit) -> Outcome {
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

pub(crate) fn through_links(kit: &Kit) -> Outcome {
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

pub(crate) fn refused_targets(kit: &Kit) -> Outcome {
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

pub(crate) fn secrets(kit: &Kit) -> Outcome {
    let exec = with_mounts(
        "cat /run/secrets/a; stat -c '%a %u %g %s' /run/secrets/a; echo x >> /run/secrets/a 2>/dev/null; cat /run/secrets/a > /copy; rm -f /copy",
        vec![secret("/run/secrets/a", "top\n")],
    );
    let ran = kit.exec(Some(&kit.base), exec);
    equal(&ran.ok()?.stdout, "top\n400 0 0 4\n")?;
    equal(&kit.layer(&ran)?.join(" "), "")
}

pub(crate) fn owners(kit: &Kit) -> Outcome {
    let secret = mount(
        "/s",
        MountSource::Secret {
            data: Arc::from(&b"x"[..]),
            mode: 0o440,
            uid: 7,
            gid: 8,
        },
    );
    let cache = mount(
        "/c",
        MountSource::Cache {
            mount: kit.store().cache_mount("owned", Sharing::Shared)?,
            from: Some((Some(kit.base.clone()), PathBuf::from("/etc"))),
            path: "/".into(),
            mode: Some(0o700),
            uid: Some(5),
            gid: Some(6),
            throw_away: false,
        },
    );
    let ran = kit.exec(
        Some(&kit.base),
        with_mounts("stat -c '%a %u %g' /s /c", vec![secret, cache]),
    );
    equal(&ran.ok()?.stdout, "440 7 8\n700 5 6\n")
}

pub(crate) fn caches(kit: &Kit) -> Outcome {
    let seed =
        kit.sh("mkdir -p /s/in; echo seed > /s/in/f; chmod 4711 /s/in/f; ln -s f /s/in/l")?;
    let seed = seed.result.map_err(|error| describe(&error))?.id;
    let cache = |path: &str, read_only| -> Result<Mount, kit::Failed> {
        Ok(Mount {
            target: "/c".into(),
            read_only,
            below: Below::Included,
            source: MountSource::Cache {
                mount: kit.store().cache_mount("c", Sharing::Shared)?,
                from: Some((Some(seed.clone()), PathBuf::from("/s"))),
                path: path.into(),
                mode: Some(0o750),
                uid: Some(0),
                gid: None,
                throw_away: false,
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

pub(crate) fn snapshot_writes(kit: &Kit) -> Outcome {
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

/// busybox has no client for sockets, so this process connects through the sandbox's root.
fn ask_agent() -> Option<String> {
    let connect = |process: std::fs::DirEntry| {
        let path = process.path().join("root/run/agent");
        std::os::unix::net::UnixStream::connect(path).ok()
    };
    let deadline = Instant::now() + Duration::from_secs(40);
    while Instant::now() < deadline {
        let mut processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
        if let Some(mut connection) = processes.find_map(connect) {
            connection.write_all(b"hello").ok()?;
            let mut text = String::new();
            connection.read_to_string(&mut text).ok()?;
            return Some(text);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

pub(crate) fn sockets(kit: &Kit) -> Outcome {
    let (agent, shared) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let path = agent.path().join("agent");
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
    let asked = shared.path().join("asked");
    let client = std::thread::spawn(move || {
        let answer = ask_agent();
        std::fs::write(asked, "").map(|()| answer)
    });
    let ran = kit.exec(
        Some(&kit.base),
        with_mounts(
            "stat -c '%F %a' /run/agent; until [ -e /shared/asked ]; do sleep 0.05; done",
            vec![socket, directory("/shared", shared.path())?],
        ),
    );
    equal(&ran.ok()?.stdout, "socket 600\n")?;
    let answer = client.join().map_err(|_| "the client panicked")??;
    holds(answer.as_deref() == Some("world"), format!("{answer:?}"))?;
    equal(&served.join().map_err(|_| "the server panicked")??, "hello")?;
    equal(&kit.layer(&ran)?.join(" "), "")
}
