//! From a prepared task to its end: starts it, reads its reports, carries its output, watches time and cancellation.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rbuild_cache::ActiveSnapshot;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio_util::sync::CancellationToken;

use super::plan::{self, Parent, Report, Stub};
use super::prepare::{Kept, Prepared, setup};
use super::session::Session;
use super::{ExecError, kernel_files, wire};
use crate::host::Host;
use crate::spec::{Exit, Output, Stdio};

/// Of one read from a pipe.
const PIECE: usize = 64 << 10;

/// A command that was started.
pub(super) struct Started {
    // Fields are dropped in this order: the process first, then what it used.
    session: Session,
    status: OwnedFd,
    layer: ActiveSnapshot,
    kept: Kept,
}

/// A command that ended.
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) layer: ActiveSnapshot,
    pub(super) stubs: Vec<Stub>,
    pub(super) parents: Vec<Parent>,
    _kept: Kept,
}

/// Our side of the command's streams.
pub(super) enum Streams {
    Capture {
        stdout: Receiver,
        stderr: Receiver,
        sink: Arc<dyn Fn(Output, &[u8]) + Send + Sync>,
    },
    Inherit,
}

/// The command's side.
pub(super) struct Inside {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Streams {
    pub(super) fn make(stdio: Stdio) -> io::Result<(Self, Inside)> {
        match stdio {
            Stdio::Capture(sink) => {
                let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
                let (stdout, stdout_inside) = pipe()?;
                let (stderr, stderr_inside) = pipe()?;
                let receiver = |fd: OwnedFd| -> io::Result<Receiver> {
                    rustix::io::ioctl_fionbio(&fd, true)?;
                    Receiver::from_owned_fd(fd)
                };
                let streams = Self::Capture {
                    stdout: receiver(stdout)?,
                    stderr: receiver(stderr)?,
                    sink,
                };
                let inside = Inside {
                    stdin: kernel_files::null()?,
                    stdout: stdout_inside,
                    stderr: stderr_inside,
                };
                Ok((streams, inside))
            }
            Stdio::Inherit { interactive } | Stdio::Terminal { interactive } => {
                let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
                let inside = Inside {
                    stdin: if interactive {
                        own(rustix::stdio::stdin())?
                    } else {
                        kernel_files::null()?
                    },
                    stdout: own(rustix::stdio::stdout())?,
                    stderr: own(rustix::stdio::stderr())?,
                };
                Ok((Self::Inherit, inside))
            }
        }
    }
}

/// Hands the task to the spawner.
pub(super) fn start(
    host: &Host,
    layer: ActiveSnapshot,
    prepared: Prepared,
    inside: Inside,
) -> Result<Started, ExecError> {
    let Prepared {
        mut task,
        mut descriptors,
        kept,
    } = prepared;
    let (status, status_inside) = wire::pair().map_err(|error| setup("make a socket", error))?;
    let first = descriptors.len();
    descriptors.extend([inside.stdin, inside.stdout, inside.stderr, status_inside]);
    task.stdio = plan::Stdio::Streams([first, first + 1, first + 2]);
    task.status = first + 3;
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let pidfd = host
        .spawn(&task, &borrowed)
        .map_err(|error| setup("start a process in new namespaces", error))?;
    Ok(Started {
        session: Session::new(pidfd),
        status,
        layer,
        kept,
    })
}

/// What the reports said.
#[derive(Default)]
struct Reported {
    ready: bool,
    stubs: Vec<Stub>,
    parents: Vec<Parent>,
    failure: Option<ExecError>,
}

/// Reads reports until the command runs or has failed. Blocking.
fn read_reports(status: &OwnedFd, program: &str) -> Result<Reported, ExecError> {
    let mut reported = Reported::default();
    loop {
        let message = wire::receive::<Report>(status.as_fd())
            .map_err(|error| setup("listen to the sandbox", error))?;
        let Some((report, _descriptors)) = message else {
            return Ok(reported);
        };
        match report {
            Report::Ready { stubs, parents } => {
                reported.ready = true;
                reported.stubs = stubs;
                reported.parents = parents;
            }
            Report::Failed { step, errno } => {
                reported.failure = Some(setup(step, io::Error::from_raw_os_error(errno)));
            }
            Report::NotExecutable {
                explanation,
                not_found,
            } => {
                reported.failure = Some(ExecError::NotExecutable {
                    program: program.to_owned(),
                    explanation,
                    not_found,
                });
            }
        }
    }
}

/// Waits for the end and for the last byte of output.
pub(super) async fn finish(
    started: Started,
    streams: Streams,
    timeout: Option<Duration>,
    cancel: &CancellationToken,
    program: String,
) -> Result<Ended, ExecError> {
    let Started {
        mut session,
        status,
        layer,
        kept,
    } = started;
    let mut reports = tokio::task::spawn_blocking(move || read_reports(&status, &program));
    let mut reported = None;
    let mut exit = None;
    let mut timed_out = false;
    let mut cancelled = false;
    let deadline = async {
        match timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(deadline);
    let output = carry(streams);
    tokio::pin!(output);
    let mut output_done = false;
    while exit.is_none() || reported.is_none() || !output_done {
        tokio::select! {
            () = cancel.cancelled(), if !cancelled => {
                cancelled = true;
                session.kill();
            }
            () = &mut deadline, if !timed_out => {
                timed_out = true;
                session.kill();
            }
            result = &mut reports, if reported.is_none() => {
                reported = Some(result.map_err(|error| setup("listen to the sandbox", error))??);
            }
            result = session.wait(), if exit.is_none() => {
                exit = Some(result.map_err(|error| setup("wait for the command", error))?);
            }
            result = &mut output, if !output_done => {
                result.map_err(|error| setup("read the command's output", error))?;
                output_done = true;
            }
        }
    }
    let reported = reported.unwrap_or_default();
    if cancelled {
        return Err(ExecError::Cancelled);
    }
    if let Some(failure) = reported.failure {
        return Err(failure);
    }
    let exit = match exit {
        Some(_) if timed_out => Exit::TimedOut,
        Some(exit) => exit,
        None => Exit::Signal(0),
    };
    if !reported.ready && exit != Exit::TimedOut {
        return Err(setup(
            "hear from the sandbox's first process",
            format!("it {}", super::describe_exit(exit)),
        ));
    }
    Ok(Ended {
        exit,
        layer,
        stubs: reported.stubs,
        parents: reported.parents,
        _kept: kept,
    })
}

/// Carries output until both pipes are closed.
async fn carry(streams: Streams) -> io::Result<()> {
    match streams {
        Streams::Inherit => Ok(()),
        Streams::Capture {
            stdout,
            stderr,
            sink,
        } => {
            tokio::try_join!(
                carry_one(stdout, Output::Stdout, &sink),
                carry_one(stderr, Output::Stderr, &sink)
            )?;
            Ok(())
        }
    }
}

async fn carry_one(
    mut pipe: Receiver,
    output: Output,
    sink: &Arc<dyn Fn(Output, &[u8]) + Send + Sync>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let length = pipe.read(&mut buffer).await?;
        match buffer.get(..length) {
            Some(piece) if !piece.is_empty() => sink(output, piece),
            _ => return Ok(()),
        }
    }
}
