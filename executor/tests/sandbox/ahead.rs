//! Processes that are made before there is a command for them.

use std::time::{Duration, Instant};

use rbuild_executor::spec::{Limits, Network, Security, SecurityOptions, Users};
use rbuild_executor::{Exec, Exit};
use rustix::process::Signal;

use crate::kit::{Kit, Outcome, command, equal, holds, shell};

/// Processes that have this one for a parent, and whether they have ended.
fn children() -> std::io::Result<Vec<(i32, bool)>> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.filter_map(Result::ok) {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let mut fields = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split(' ')
            .skip(1);
        let (state, parent) = (fields.next(), fields.next());
        if parent == Some(own.as_str()) {
            found.push((pid, state == Some("Z")));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Begins one, and waits until it is there and waits itself.
fn begin(kit: &Kit, users: Users) -> Result<Option<i32>, crate::kit::Failed> {
    // The second spawner is not what is looked for.
    kit.plain(shell("true")).ok()?;
    kit.executor.host().end_sandbox();
    let before = children()?;
    kit.executor.host().begin_sandbox(users);
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let new = children()?
            .into_iter()
            .find(|child| !before.contains(child));
        if let Some((pid, _)) = new {
            return Ok(Some(pid));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(None)
}

/// All that a command can see of what it is given.
const LOOK: &str = r#"
id; umask; pwd; hostname; env | sort; ls -ln /dev /dev/pts /dev/shm /dev/mqueue /proc/self/fd | sed 's/:\[.*//; s/[A-Z][a-z][a-z] .*:[0-9][0-9]//'
mounts=$(cut -d' ' -f5- /proc/self/mountinfo | sed 's/master:[0-9]*//; s#/[^ ]*tmp[^ ]*##g; s/lowerdir.*//; s/upperdir.*//'); echo "$mounts" | head -n 1; echo "$mounts" | sort
grep -v -e ctxt -e SigQ -e Vm -e Rss -e Mems -e Cpus -e '^Pid' -e '^NSpid' -e '^PPid' /proc/self/status; cat /proc/self/limits /proc/self/uid_map /proc/self/gid_map /proc/self/cgroup
for parent in / /proc /proc/sys /sys; do test -w $parent && echo $parent; done; cat /proc/sys/kernel/hostname; readlink /proc/1/root /proc/1/cwd; stat -c %a /proc/1/environ
ls /proc/acpi /proc/scsi /sys/firmware; cat /proc/kcore | wc -c; df -k /dev/shm | tail -n 1; cat /proc/net/dev | cut -d: -f1
"#;

/// Commands with this and that, each of which is to find the same with a process that was made ahead and without.
fn variants() -> Vec<(&'static str, Exec)> {
    let with = |change: &dyn Fn(&mut Exec)| {
        let mut exec = shell(LOOK);
        change(&mut exec);
        exec
    };
    vec![
        ("usual", shell(LOOK)),
        ("host network", with(&|exec| exec.network = Network::Host)),
        ("a user", with(&|exec| exec.user = "user".to_owned())),
        ("read-only", with(&|exec| exec.read_only_root = true)),
        ("insecure", with(&|exec| exec.security = Security::Insecure)),
        (
            "the machine's users",
            with(&|exec| exec.users = Users::Host),
        ),
        ("init", with(&|exec| exec.init = true)),
        (
            "limits",
            with(&|exec| {
                exec.limits = Limits {
                    shm_size: Some(1 << 20),
                    ulimits: vec![("nofile".to_owned(), 64, 128)],
                    ..Limits::default()
                };
            }),
        ),
        (
            "options",
            with(&|exec| {
                exec.options = SecurityOptions {
                    no_new_privileges: true,
                    sysctls: vec![("kernel.msgmax".to_owned(), "4096".to_owned())],
                    ..SecurityOptions::default()
                };
                exec.capabilities_drop = vec!["CHOWN".to_owned()];
            }),
        ),
        (
            "unmasked",
            with(&|exec| {
                exec.options = SecurityOptions {
                    unmasked: true,
                    ..SecurityOptions::default()
                };
            }),
        ),
    ]
}

pub(crate) fn likeness(kit: &Kit) -> Outcome {
    for ((name, exec), (_, again)) in variants().into_iter().zip(variants()) {
        kit.executor.host().end_sandbox();
        let plain = kit.plain(again);
        kit.executor.host().begin_sandbox(exec.users);
        let ahead = kit.plain(exec);
        let same = plain.result.is_ok() == ahead.result.is_ok();
        holds(same, format!("{name}: {:?}", ahead.stderr))?;
        equal(&plain.stderr, &ahead.stderr)?;
        for (plain, ahead) in plain.stdout.lines().zip(ahead.stdout.lines()) {
            holds(
                plain == ahead,
                format!("{name}: {plain:?} became {ahead:?}"),
            )?;
        }
        equal(&plain.stdout, &ahead.stdout)?;
        holds(plain.stdout.lines().count() > 40, "little was seen")?;
    }
    Ok(())
}

/// It becomes the command, is gone with it, and another follows only where that was said.
pub(crate) fn one_each(kit: &Kit) -> Outcome {
    let Some(pid) = begin(kit, Users::Own)? else {
        return kit.skip("processes made ahead", "none is made here");
    };
    let before = children()?;
    let ran = kit.plain(command(&["/bin/true"]));
    ran.ok()?;
    let after = children()?;
    holds(
        !after.iter().any(|(child, _)| *child == pid) && after.len() + 1 == before.len(),
        format!("{before:?} became {after:?}"),
    )?;
    let followed = Exec {
        followed: true,
        alone: true,
        ..command(&["/bin/true"])
    };
    kit.plain(followed).ok()?;
    kit.plain(shell("test $$ = 1")).ok()?;
    let at_last = children()?;
    holds(at_last == after, format!("{after:?} became {at_last:?}"))
}

/// One that nobody needs goes when that is said, or when a command comes that it does not suit.
pub(crate) fn unneeded(kit: &Kit) -> Outcome {
    let insecure = Exec {
        security: Security::Insecure,
        ..command(&["/bin/true"])
    };
    for exec in [None, Some(insecure)] {
        let Some(pid) = begin(kit, Users::Own)? else {
            return kit.skip("processes made ahead", "none is made here");
        };
        match exec {
            Some(exec) => drop(kit.plain(exec)),
            None => kit.executor.host().end_sandbox(),
        }
        let left = children()?;
        holds(
            !left.iter().any(|(child, _)| *child == pid),
            format!("{pid} is left of {left:?}"),
        )?;
    }
    Ok(())
}

/// Killed while it waits, it is replaced by another.
pub(crate) fn killed(kit: &Kit) -> Outcome {
    for pause in [0, 1, 5, 20] {
        let Some(pid) = begin(kit, Users::Own)? else {
            return kit.skip("processes made ahead", "none is made here");
        };
        std::thread::sleep(Duration::from_millis(pause));
        let pid = rustix::process::Pid::from_raw(pid).ok_or("no pid")?;
        rustix::process::kill_process(pid, Signal::KILL)?;
        // Dying takes a moment, in which it may still be given a task.
        let dead = || children().is_ok_and(|all| all.contains(&(pid.as_raw_pid(), true)));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !dead() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let ran = kit.plain(shell("exit 3"));
        holds(
            matches!(
                ran.result,
                Err(rbuild_executor::sandbox::ExecError::Failed(Exit::Code(3)))
            ),
            format!("{:?}", ran.result),
        )?;
        holds(
            !children()?
                .iter()
                .any(|(child, _)| *child == pid.as_raw_pid()),
            "it is left",
        )?;
    }
    Ok(())
}

/// In a process of its own, which is then killed.
pub(crate) fn victim(kit: &Kit) -> Outcome {
    let pid = begin(kit, Users::Own)?;
    println!("{}", pid.unwrap_or_default());
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

/// With the builder goes what it had made ahead.
pub(crate) fn dies_with_the_builder(kit: &Kit) -> Outcome {
    use std::io::BufRead as _;
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .env(crate::AHEAD_ROLE, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let pid: i32 = line.trim().parse()?;
    child.kill()?;
    child.wait()?;
    if pid == 0 {
        return kit.skip("processes made ahead", "none is made here");
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        // Whoever inherits it may take its time to bury it.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(format!("{pid} outlives the builder").into())
}
