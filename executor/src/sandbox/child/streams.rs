//! The streams of a command: its 0, 1 and 2.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags};

use super::Descriptors;
use crate::sandbox::plan::{Stdio, Task};
use crate::sandbox::step::{Failure, Result, Step};
use crate::sandbox::terminal;

/// The command's 0, 1 and 2; whatever the spawner had there goes.
pub(in crate::sandbox) fn take_streams(
    task: &Task,
    descriptors: &Descriptors,
    terminal: Option<&terminal::Inside>,
) -> Result<()> {
    let streams = match (task.stdio, terminal) {
        (Stdio::Streams(slots), _) => slots.map(|slot| descriptors.get(slot)),
        (Stdio::Terminal { .. }, Some(terminal)) => [
            Ok(terminal.slave.as_fd()),
            Ok(terminal.slave.as_fd()),
            Ok(terminal.slave.as_fd()),
        ],
        (Stdio::Terminal { .. }, None) => {
            return Err(Failure {
                step: "open the terminal".into(),
                errno: libc::ENOTTY,
            });
        }
    };
    let [input, output, error] = streams;
    rustix::stdio::dup2_stdin(input?).step("set standard input")?;
    rustix::stdio::dup2_stdout(output?).step("set standard output")?;
    rustix::stdio::dup2_stderr(error?).step("set standard error")?;
    if let Some(terminal) = terminal {
        rustix::process::ioctl_tiocsctty(&terminal.slave).step("take the terminal")?;
    }
    Ok(())
}

/// Where a stream is the machine's null device, it becomes the root's (`null`, or else what is at /dev/null by now): by a
/// descriptor of the machine's, who is the machine's root could change its mode for everybody.
pub(in crate::sandbox) fn own_null(null: Option<BorrowedFd<'_>>) -> Result<()> {
    type Replace = fn(BorrowedFd<'_>) -> rustix::io::Result<()>;
    let step = "replace the machine's null device";
    let streams: [(BorrowedFd<'_>, Replace); 3] = [
        (rustix::stdio::stdin(), |null| {
            rustix::stdio::dup2_stdin(null)
        }),
        (rustix::stdio::stdout(), |null| {
            rustix::stdio::dup2_stdout(null)
        }),
        (rustix::stdio::stderr(), |null| {
            rustix::stdio::dup2_stderr(null)
        }),
    ];
    let mut replaced = Vec::new();
    for (stream, replace) in streams {
        if is_null(stream).step(step)? {
            replaced.push(replace);
        }
    }
    if replaced.is_empty() {
        return Ok(());
    }
    let opened;
    let null = match null {
        Some(null) => null,
        None => {
            // Not through a link, and nothing that one would have to wait for.
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            opened = rustix::fs::open("/dev/null", flags, Mode::empty()).step(step)?;
            rustix::io::ioctl_fionbio(&opened, false).step(step)?;
            opened.as_fd()
        }
    };
    if !is_null(null).step(step)? {
        return Err(Failure {
            step: step.into(),
            errno: libc::ENODEV,
        });
    }
    for replace in replaced {
        replace(null).step(step)?;
    }
    Ok(())
}

fn is_null(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let it = rustix::fs::fstat(fd)?;
    let is_device = FileType::from_raw_mode(it.st_mode) == FileType::CharacterDevice;
    Ok(is_device && it.st_rdev == rustix::fs::makedev(1, 3))
}
