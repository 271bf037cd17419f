//! From a prepared task to its end: starts it, hears its reports ([`reports`]), carries its output ([`streams`]), watches
//! time and cancellation.

mod reports;
mod streams;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::bare::Bare;
use super::cgroup::Cgroup;
use super::container::Top;
use super::forward::Signals;
use super::outer_terminal::Joined;
use super::plan::{self, Parent, Stub};
use super::prepare::{Kept, Prepared, setup};
use super::session::Session;
use super::spawner::Order;
use super::{ExecError, wire};
use crate::emulation::{Device, Identity, Refused};
use crate::host::Host;
use crate::spec::Exit;
pub(super) use reports::read_reports;
use reports::{emulate, hear_reports, not_emulated};
use streams::carry;
pub(super) use streams::{Inside, Streams};

/// A command that was started.
pub(super) struct Started {
    // Fields are dropped in this order: the process first, then what it used.
    pub(super) session: Session,
    status: OwnedFd,
    identity: Identity,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) top: Top,
    /// Where nothing can be mounted.
    pub(super) bare: Option<Bare>,
    kept: Kept,
    streams: Streams,
    program: String,
    /// What a process that joins needs to know; nothing of the host in it.
    pub(super) task: plan::Task,
    /// Under another runtime: where the container's first process is told.
    pub(super) announced: Option<OwnedFd>,
}

/// A command that ended.
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) top: Top,
    pub(super) stubs: Vec<Stub>,
    pub(super) parents: Vec<Parent>,
    pub(super) bare: Option<Bare>,
    pub(super) refused: Option<Device>,
    _cgroup: Option<Cgroup>,
    _kept: Kept,
}

/// Hands the task to the spawner.
pub(super) fn start(
    host: &Host,
    top: Top,
    prepared: Prepared,
    cgroup: Option<(Cgroup, Vec<OwnedFd>)>,
    streams: Streams,
    inside: Inside,
) -> Result<Started, ExecError> {
    let Prepared {
        mut task,
        mut descriptors,
        kept,
        mapped,
        bare,
    } = prepared;
    // Nobody in a user namespace may lower it: it is written from here.
    let spared = task
        .oom_score_adj
        .take_if(|score| mapped.is_some() && *score < 0);
    let (status, status_inside) = wire::pair().map_err(|error| setup("make a socket", error))?;
    task.status = descriptors.len();
    descriptors.push(status_inside);
    let first = descriptors.len();
    match inside {
        Inside::Streams(streams) => {
            descriptors.extend(streams);
            task.stdio = plan::Stdio::Streams([first, first + 1, first + 2]);
        }
        Inside::Terminal((rows, columns)) => {
            task.stdio = plan::Stdio::Terminal { rows, columns };
        }
    }
    let announced = match task.runtime {
        Some(_) => {
            let pair = wire::pair().map_err(|error| setup("make a socket", error))?;
            task.announced = Some(descriptors.len());
            descriptors.push(pair.1);
            Some(pair.0)
        }
        None => None,
    };
    let cgroup = cgroup.map(|(cgroup, joined)| {
        let first = descriptors.len();
        task.cgroups = (first..first + joined.len()).collect();
        descriptors.extend(joined);
        task.cgroup_views = cgroup.views().to_vec();
        cgroup
    });
    let shown = bare.as_ref().map(Bare::shown);
    let identity = Identity {
        refused: shown
            .as_ref()
            .map_or_else(Refused::default, |shown| shown.refused.clone()),
        shown,
        ..task.identity()
    };
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let leaves = cgroup.as_ref().map_or(&[][..], Cgroup::directories);
    let inside = mapped.as_ref().map(|mapped| &**mapped.inside());
    let pidfd = host
        .spawn(inside, &Order::sandbox(&task, leaves), &borrowed, leaves)
        .map_err(|error| setup("start a process in new namespaces", error))?;
    let session = Session::new(pidfd, task.end());
    host.running().add(session.process());
    if let Some(score) = spared {
        spare(&session, score)
            .map_err(|error| setup(format!("set oom_score_adj to {score}"), error))?;
    }
    let program = task.command.program();
    task.mounts.clear();
    Ok(Started {
        session,
        status,
        identity,
        cgroup,
        top,
        bare,
        kept,
        streams,
        program,
        task,
        announced,
    })
}

/// Before the sandbox has a command: that takes it longer.
fn spare(session: &Session, score: i16) -> io::Result<()> {
    let pid = crate::sys::pid_of(session.pidfd()?.as_fd())?;
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
}

/// What ends a command before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Cancelled,
    TimedOut,
}

impl Started {
    /// See [`finish`].
    pub(super) async fn finish(
        self,
        timeout: Option<Duration>,
        cancel: &CancellationToken,
        signals: Option<Signals>,
    ) -> Result<Ended, ExecError> {
        finish(self, timeout, cancel, signals).await
    }
}

/// Waits for the end and for the last byte of output. With `signals`, hands on those that reach this process.
async fn finish(
    started: Started,
    timeout: Option<Duration>,
    cancel: &CancellationToken,
    mut signals: Option<Signals>,
) -> Result<Ended, ExecError> {
    // What is named last is dropped first, also where nobody waits any more: the process, then what it used.
    let Started {
        kept,
        bare,
        top,
        cgroup,
        identity,
        status,
        mut streams,
        program,
        task: _,
        mut session,
        announced: _,
    } = started;
    let mut carried = match &mut streams {
        Streams::Carried(carried) => Some(std::mem::take(carried)),
        _ => None,
    };
    let interactive = matches!(streams, Streams::Terminal { interactive: true });
    let mut terminal: Option<Joined> = None;
    let refused = identity.refused.clone();
    let (emulation, asked) = oneshot::channel();
    let reports = hear_reports(status, identity, program, emulation);
    tokio::pin!(reports);
    let emulation = emulate(asked);
    tokio::pin!(emulation);
    let mut emulated = None;
    let (mut reported, mut exit, mut cut, mut output_done) = (None, None, None, false);
    let deadline = async {
        match timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(deadline);
    let output = carry(streams);
    tokio::pin!(output);
    while exit.is_none() || reported.is_none() || !output_done {
        tokio::select! {
            () = cancel.cancelled(), if cut.is_none() => {
                cut = Some(Cut::Cancelled);
                session.kill();
            }
            () = &mut deadline, if cut.is_none() => {
                cut = Some(Cut::TimedOut);
                session.kill();
            }
            result = &mut reports, if reported.is_none() => {
                let mut result = result?;
                if let Some(carried) = carried.as_mut() {
                    carried.reported(&mut result);
                }
                if let Some(master) = result.master.take() {
                    let joined = Joined::new(master, interactive)
                        .map_err(|error| setup("join the terminals", error))?;
                    joined.resize();
                    terminal = Some(joined);
                }
                reported = Some(result);
            }
            result = &mut emulation, if emulated.is_none() => {
                emulated = Some(result.map_err(not_emulated)?);
            }
            result = session.wait(), if exit.is_none() => {
                exit = Some(result.map_err(|error| setup("wait for the command", error))?);
            }
            result = &mut output, if !output_done => {
                result.map_err(|error| setup("read the command's output", error))?;
                output_done = true;
            }
            signal = next_signal(&mut signals) => match (signal, &terminal) {
                (rustix::process::Signal::WINCH, Some(terminal)) => terminal.resize(),
                (signal, _) => session.signal(signal),
            }
        }
    }
    if let Some(terminal) = terminal {
        super::blocking(move || {
            terminal.finish();
            Ok(())
        })
        .await?;
    }
    let reported = reported.unwrap_or_default();
    if let Some(emulation) = emulated.flatten() {
        // It ends with the last process, and with it the last use of the layer.
        super::blocking(move || {
            let _ = emulation.join();
            Ok(())
        })
        .await?;
    }
    if cut == Some(Cut::Cancelled) {
        if let (Some(bare), Top::Kept { upper, work, .. }) = (bare, &top) {
            bare.keep(upper, work)?;
        }
        return Err(ExecError::Cancelled);
    }
    if let Some(failure) = reported.failure {
        return Err(failure);
    }
    let exit = exit.unwrap_or(Exit::Signal(0));
    let exit = meaning(exit, cut == Some(Cut::TimedOut), cgroup.as_ref());
    if !reported.ready && matches!(exit, Exit::Code(_) | Exit::Signal(_)) {
        return Err(setup(
            "hear from the sandbox's first process",
            format!("it {}", super::describe_exit(exit)),
        ));
    }
    Ok(Ended {
        exit,
        top,
        stubs: reported.stubs,
        parents: reported.parents,
        bare,
        refused: refused.device(),
        _cgroup: cgroup,
        _kept: kept,
    })
}

/// Why a command ended, beyond what its exit status says.
fn meaning(exit: Exit, timed_out: bool, cgroup: Option<&Cgroup>) -> Exit {
    match exit {
        _ if timed_out => Exit::TimedOut,
        Exit::Code(0) => Exit::Code(0),
        _ if cgroup.is_some_and(Cgroup::killed_for_memory) => Exit::OutOfMemory,
        exit => exit,
    }
}

async fn next_signal(signals: &mut Option<Signals>) -> rustix::process::Signal {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}
