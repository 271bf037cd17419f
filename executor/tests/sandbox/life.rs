//! How a command ends before its time, containers in the foreground, many at once, and what is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rbuild_executor::host::Privilege;
use rbuild_executor::sandbox::ExecError;
use rbuild_executor::sandbox::container::Top;
use rbuild_executor::spec::Exit;

use crate::TERMINAL_ROLE;
use crate::kit::{Kit, Outcome, command, describe, equal, holds, shell};
use crate::mounts::{directory, secret, tmpfs, with_mounts};

/// Less than the commands here take, and more than any machine.
const LONG: Duration = Duration::from_secs(40);

pub(crate) fn timeout(kit: &Kit) -> Outcome {
    let mut exec = shell("trap '' TERM INT; sleep 60 & wait; sleep 60");
    exec.timeout = Some(Duration::from_millis(200));
    let start = Instant::now();
    let result = kit.exec(Some(&kit.base), exec).result;
    holds(
        matches!(result, Err(ExecError::Failed(Exit::TimedOut))),
        format!("{result:?}"),
    )?;
    holds(start.elapsed() < LONG, "took too long to stop")
}

pub(crate) fn cancelled(kit: &Kit) -> Outcome {
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
    holds(start.elapsed() < LONG, "took too long to stop")?;
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

pub(crate) fn limits(kit: &Kit) -> Outcome {
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
    equal(&kit.exec(Some(&kit.base), exec).ok()?.stdout, "8192\n")?;
    let with_score = |score| {
        let mut exec = shell("cat /proc/self/oom_score_adj");
        exec.limits.oom_score_adj = Some(score);
        kit.exec(Some(&kit.base), exec)
    };
    equal(&with_score(600).ok()?.stdout, "600\n")?;
    // Whether the kernel lets this process spare anything at all: it may be root without the capability.
    let own = "/proc/self/oom_score_adj";
    let before = std::fs::read_to_string(own)?;
    if std::fs::write(own, "-100").is_err() {
        return kit.skip("sparing a command", "this user may spare nothing");
    }
    std::fs::write(own, before.trim())?;
    equal(&with_score(-100).ok()?.stdout, "-100\n")
}

pub(crate) fn cgroups(kit: &Kit) -> Outcome {
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
    // Of this process: others may be at work.
    let own = format!("rbuild-{}-", std::process::id());
    let left = |path: &str| {
        std::fs::read_dir(path).map_or(0, |entries| {
            entries
                .filter_map(Result::ok)
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(&own))
                .count()
        })
    };
    holds(
        left("/sys/fs/cgroup/memory") + left("/sys/fs/cgroup/pids") + left("/sys/fs/cgroup") == 0,
        "a cgroup is left",
    )
}

pub(crate) fn init(kit: &Kit) -> Outcome {
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

pub(crate) fn run(kit: &Kit, exec: rbuild_executor::Exec) -> Result<Exit, ExecError> {
    kit.runtime.block_on(kit.executor.run(
        Some(&kit.base),
        Top::Own(kit.executor.store().prepare()?),
        exec,
        rbuild_executor::Stdio::Inherit { interactive: false },
        tokio_util::sync::CancellationToken::new(),
    ))
}

pub(crate) fn run_signals(kit: &Kit) -> Outcome {
    let exit = run(kit, shell("exit 7")).map_err(|error| describe(&error))?;
    holds(exit == Exit::Code(7), format!("{exit:?}"))?;
    for init in [false, true] {
        let shared = tempfile::tempdir()?;
        let ready = shared.path().join("ready");
        let mut exec = with_mounts(
            "trap 'exit 9' TERM; touch /shared/ready; while true; do sleep 0.02; done",
            vec![directory("/shared", shared.path())?],
        );
        exec.init = init;
        let sender = std::thread::spawn(move || {
            while !ready.exists() {
                std::thread::sleep(Duration::from_millis(10));
            }
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
        });
        let exit = run(kit, exec).map_err(|error| describe(&error))?;
        sender.join().map_err(|_| "the sender panicked")??;
        holds(exit == Exit::Code(9), format!("{exit:?}"))?;
    }
    Ok(())
}

pub(crate) fn in_terminal(kit: &Kit) -> Outcome {
    let before = rustix::termios::tcgetattr(rustix::stdio::stdin())?;
    let exit = kit.runtime.block_on(kit.executor.run(
        Some(&kit.base),
        Top::Own(kit.executor.store().prepare()?),
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

pub(crate) fn terminal(kit: &Kit) -> Outcome {
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
    let mut shown = Vec::new();
    let mut buffer = [0; 1024];
    let mut typed = false;
    while let Ok(length @ 1..) = rustix::io::read(&master, &mut buffer) {
        shown.extend_from_slice(&buffer[..length]);
        // Not earlier: the terminal would show it in between.
        if !typed && String::from_utf8_lossy(&shown).contains("console\r\n") {
            rustix::io::write(&master, b"typed\n")?;
            typed = true;
        }
    }
    let status = child.wait()?;
    let shown = String::from_utf8_lossy(&shown).replace('\r', "");
    for words in ["/dev/pts/0\n33 99\nconsole\n", "got typed\n", "all well"] {
        holds(status.success() && shown.contains(words), &shown)?;
    }
    Ok(())
}

pub(crate) fn many_at_once(kit: &Kit) -> Outcome {
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

pub(crate) fn waiting(kit: &Kit) -> Outcome {
    let cancel = tokio_util::sync::CancellationToken::new();
    let start = |script: &str| {
        let (executor, base) = (kit.executor.clone(), kit.base.clone());
        let (exec, cancel) = (shell(script), cancel.clone());
        kit.runtime.spawn(async move {
            let stdio = rbuild_executor::Stdio::Capture(Arc::new(|_, _| {}));
            executor.exec(Some(&base), exec, stdio, cancel).await
        })
    };
    let until = |many: usize| -> Outcome {
        let begun = Instant::now();
        // What starts, and what runs on a busy machine, may be found neither working nor waiting.
        let mut last = kit.executor.waiting();
        while last != many {
            holds(begun.elapsed() < LONG, format!("{last} wait, not {many}"))?;
            std::thread::sleep(Duration::from_millis(30));
            last = kit.executor.waiting();
        }
        Ok(())
    };
    let working = start("while :; do :; done");
    std::thread::sleep(Duration::from_millis(200));
    until(0)?;
    // One waits itself, one by what it started.
    let waiting = [start("exec sleep 60"), start("sleep 60 & wait; echo")];
    until(2)?;
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(30));
        holds(kit.executor.waiting() <= 2, "who works is said to wait")?;
    }
    cancel.cancel();
    kit.runtime.block_on(async {
        for command in waiting.into_iter().chain([working]) {
            let ended = command.await?;
            holds(
                matches!(ended, Err(ExecError::Cancelled)),
                "not stopped by what stops it",
            )?;
        }
        Outcome::Ok(())
    })?;
    until(0)
}

pub(crate) fn nothing_leaks(kit: &Kit) -> Outcome {
    let count = |path: &str| std::fs::read_dir(path).map(Iterator::count);
    let temporary = || -> std::io::Result<Vec<PathBuf>> {
        let entries = |directory: &Path| -> std::io::Result<Vec<PathBuf>> {
            let entries = std::fs::read_dir(directory)?;
            Ok(entries.filter_map(|it| Some(it.ok()?.path())).collect())
        };
        let lease = kit.store().lease();
        let is_named = |path: &PathBuf| {
            path.to_string_lossy()
                .rsplit('/')
                .next()
                .is_some_and(|name| name.starts_with(lease))
        };
        let mut paths = entries(&kit.store().root().join("tmp"))?;
        // On a disk where making files is slow, all of them are in one of these.
        for nursery in paths.clone() {
            let inside = entries(&nursery).unwrap_or_default();
            if inside.iter().any(is_named) {
                paths.retain(|path| *path != nursery);
                paths.extend(inside);
            }
        }
        // Work directories that were cleared for the next step are empty.
        paths
            .retain(|path| std::fs::read_dir(path).is_ok_and(|mut inside| inside.next().is_some()));
        paths.sort();
        Ok(paths)
    };
    // That is done beside the next step: only the empty layers stay.
    let settled = || -> Outcome {
        for _ in 0..500 {
            if temporary()?.iter().all(|path| path.join("one").exists()) {
                // The last descriptor is closed after the last name is gone.
                std::thread::sleep(Duration::from_millis(50));
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("what was to be removed is still there".into())
    };
    // The first command on an empty root makes the store's empty layers, which stay.
    let _ = kit.exec(None, command(&["/nothing"]));
    kit.sh("true")?;
    settled()?;
    let before = (
        count("/proc/self/fd")?,
        std::fs::read_to_string("/proc/self/mountinfo")?,
        temporary()?,
    );
    for script in ["true", "false", "sleep 0.01"] {
        let _ = kit.exec(Some(&kit.base), shell(script));
        let _ = kit.exec(
            Some(&kit.base),
            with_mounts(script, vec![tmpfs("/t"), secret("/s", "s")]),
        );
    }
    let _ = kit.exec(Some(&kit.base), command(&["/nothing"]));
    settled()?;
    let after = (
        count("/proc/self/fd")?,
        std::fs::read_to_string("/proc/self/mountinfo")?,
    );
    holds(
        before.0 == after.0,
        format!("{} descriptors became {}", before.0, after.0),
    )?;
    holds(before.1 == after.1, "mounts are left")?;
    holds(
        temporary()? == before.2,
        "directories in the making are left",
    )
}

/// In a process of its own, which is then killed.
pub(crate) fn victim(kit: &Kit) -> Outcome {
    kit.sh("sleep 7651 & (setsid sleep 7652 &) ; exec sleep 7653")
        .map(|_| ())
}

pub(crate) fn death_is_contagious(kit: &Kit) -> Outcome {
    let sleepers = || -> std::io::Result<usize> {
        Ok(std::fs::read_dir("/proc")?
            .filter_map(Result::ok)
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .filter(|line| line.starts_with(b"sleep\x00765"))
            .count())
    };
    let wait_for = |wanted: usize| -> Result<bool, std::io::Error> {
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            if sleepers()? == wanted {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    };
    if kit.privilege() != Privilege::Root {
        return Ok(());
    }
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .env(crate::VICTIM_ROLE, "1")
        .spawn()?;
    holds(wait_for(3)?, "the victim's processes did not start")?;
    child.kill()?;
    child.wait()?;
    holds(wait_for(0)?, "processes outlive the builder")
}
