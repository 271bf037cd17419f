//! What a command gets and what it leaves: output, ends, layers, users, programs that cannot run.

use rbuild_executor::sandbox::ExecError;
use rbuild_executor::spec::Exit;
use std::time::Duration;

use crate::kit::{Kit, Outcome, command, describe, equal, holds, shell};

pub(crate) fn output(kit: &Kit) -> Outcome {
    let ran = kit.sh("echo out; echo err >&2; cat; pwd; umask")?;
    equal(&ran.stdout, "out\n/\n0022\n")?;
    equal(&ran.stderr, "err\n")
}

pub(crate) fn large_output(kit: &Kit) -> Outcome {
    let ran = kit
        .sh("head -c 3000000 /dev/zero | tr '\\0' o; head -c 2000000 /dev/zero | tr '\\0' e >&2")?;
    holds(ran.stdout.len() == 3_000_000, ran.stdout.len())?;
    holds(ran.stderr.len() == 2_000_000, ran.stderr.len())
}

pub(crate) fn ends(kit: &Kit) -> Outcome {
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

pub(crate) fn layer(kit: &Kit) -> Outcome {
    let ran = kit.sh("echo x > /tmp/a; rm /bin/yes; mkdir /d; echo 'more' >> /etc/group")?;
    let layer = kit.layer(&ran)?;
    equal(&layer.join(" "), "bin bin/yes d etc etc/group tmp tmp/a")?;
    // What the next step sees.
    let next = ran.result.as_ref().map_err(describe)?.id.clone();
    let seen = kit.exec(
        Some(&next),
        shell("cat /tmp/a; ls /bin/yes; tail -n1 /etc/group; ls -d /d"),
    );
    equal(&seen.stdout, "x\nmore\n/d\n")
}

pub(crate) fn nothing_left(kit: &Kit) -> Outcome {
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

pub(crate) fn empty_base(kit: &Kit) -> Outcome {
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

pub(crate) fn environment(kit: &Kit) -> Outcome {
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

pub(crate) fn users(kit: &Kit) -> Outcome {
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

/// Everybody sees and leaves the same; with one id it is emulated.
pub(crate) fn owners(kit: &Kit) -> Outcome {
    let ran = kit.sh(
        "umask 022; chmod 1777 /tmp; touch /f && chown 5:6 /f && chmod 4755 /f && chown :7 /f; stat -c '%a %u %g' /f
         ln -s f /l && chown -h 8:9 /l && mv /l /m; stat -c '%u %g' /m
         mkdir /g && chown 0:50 /g && chmod 2775 /g && touch /g/f && mkdir /g/d; stat -c '%a %u %g' /g/f /g/d
         chown -R user:500 /g; stat -c '%u %g' /g/d; cp -a /g /h; stat -c '%a %u %g' /h /h/f
         su user -c 'id -u; id -G; touch /tmp/mine; stat -c %u /tmp/mine'",
    );
    let ran = ran?;
    equal(
        &ran.stdout,
        "755 5 7\n8 9\n644 0 50\n2755 0 50\n1000 500\n2775 1000 500\n644 1000 500\n1000\n1000 500\n1000\n",
    )?;
    let top = ran.result.map_err(|error| describe(&error))?.id;
    let tree = kit.store().tree(&top)?;
    for (path, uid, gid, mode) in [
        ("f", 5, 7, 0o755),
        ("m", 8, 9, 0o777),
        ("g/d", 1000, 500, 0o2755),
        ("h/f", 1000, 500, 0o644),
        ("tmp/mine", 1000, 1000, 0o644),
    ] {
        let entry = tree.get(path.as_bytes()).ok_or(path)?;
        let found = (entry.uid, entry.gid, entry.mode);
        holds(found == (uid, gid, mode), format!("{path}: {found:?}"))?;
        holds(entry.xattrs.is_empty(), path)?;
    }
    // What was written is there for the next command, and for one that is somebody else's.
    let mut exec = shell(
        "stat -c '%u %g' /f /m; touch /tmp/x; echo no > /etc/passwd || echo refused; chown 0 /tmp/x || echo kept
         stat -c %u /tmp/x; grep CapEff /proc/self/status",
    );
    exec.user = "user".into();
    equal(
        &kit.exec(Some(&top), exec).ok()?.stdout,
        "5 7\n8 9\nrefused\nkept\n1000\nCapEff:\t0000000000000000\n",
    )
}

pub(crate) fn cwd(kit: &Kit) -> Outcome {
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

pub(crate) fn explained(kit: &Kit) -> Outcome {
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

pub(crate) fn many_layers(kit: &Kit) -> Outcome {
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
