//! The two first processes of a command without namespaces. One stays outside of the command's root: what the command
//! starts and leaves is its child in the end, and it sees to it that nothing is left. The other becomes the command: in
//! its root, without any descriptor, right or capability that would lead out of it.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid};

use super::super::child::{self, Descriptors, Stop};
use super::super::keeper::{END, attend, bury_all, end_as};
use super::super::plan::{Bare, Report, Stdio, Task};
use super::super::step::{Failure, Result, Step};
use super::super::{capabilities, seccomp, terminal, wire};
use crate::sys::{self, Forked, landlock};

/// Never returns.
pub(in crate::sandbox) fn main(task: &Task, bare: &Bare, descriptors: Vec<OwnedFd>) -> ! {
    let descriptors = Descriptors::new(descriptors);
    match begin(task, bare, &descriptors) {
        Ok(Forked::Child) => child::report(task, &descriptors, || {
            become_command(task, bare, &descriptors)
        }),
        Ok(Forked::Parent(child)) => stay(bare, descriptors, child),
        Err(failure) => child::report(task, &descriptors, || Err(failure.into())),
    }
}

fn begin(task: &Task, bare: &Bare, descriptors: &Descriptors) -> Result<Forked> {
    rustix::process::set_parent_process_death_signal(Some(END))
        .step("tie the command's life to the builder's")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .step("protect the first process")?;
    rustix::process::setsid().step("make a session")?;
    for slot in &task.cgroups {
        rustix::io::write(descriptors.get(*slot)?, b"0").step("join the cgroup")?;
    }
    descriptors.get(bare.ended)?;
    sys::become_reaper().step("become the parent of what the command leaves")?;
    // What it may signal is what it has started. The command's own domain lies within, and has nothing of this process.
    rustix::thread::set_no_new_privs(true).step("give up new privileges")?;
    // All files: a domain that says nothing of them forbids to link between directories.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let all = rustix::fs::open("/", flags, Mode::empty()).step("open the container's root")?;
    landlock::below(all.as_fd())
        .and_then(|rules| landlock::restrict(rules.as_fd()))
        .step("keep to the processes that it starts")?;
    sys::block_signals().step("wait for signals")?;
    sys::fork().step("start the command")
}

/// Sees the command to its end, and then to that of all others.
fn stay(bare: &Bare, descriptors: Descriptors, child: Pid) -> ! {
    let mut slots = vec![bare.ended];
    slots.extend(&bare.wiped);
    let mut kept = descriptors.keep(&slots);
    let mut numbers: Vec<i32> = kept.iter().flatten().map(AsRawFd::as_raw_fd).collect();
    numbers.sort_unstable();
    // What is open here would look as if the command had it. That these are closed is for order: none is the command's.
    let mut next = 3;
    for number in numbers {
        let _ = sys::close_between(next, number - 1);
        next = number + 1;
    }
    let _ = sys::close_from(next);
    let ended = kept.first_mut().and_then(Option::take);
    let status = attend(child);
    end_all();
    if let Some(ended) = ended {
        // Where nobody hears that it is over, rbuild itself was killed, and there will be no layer.
        let _ = rustix::io::write(&ended, b".");
    }
    for secret in kept.into_iter().flatten() {
        // rbuild, if it lives, takes the file itself away.
        let _ = rustix::fs::ftruncate(&secret, 0);
    }
    end_as(status)
}

/// To all that this process may signal: that is its domain, which is what it has started, and nobody else. The kernel
/// does it at one stroke, so that no process is made meanwhile.
fn end_all() {
    // Where there is nobody left to signal, that is an error.
    bury_all(|| drop(sys::signal_all(libc::SIGKILL)));
}

fn become_command(
    task: &Task,
    bare: &Bare,
    descriptors: &Descriptors,
) -> std::result::Result<Infallible, Stop> {
    let status = descriptors.get(task.status)?;
    child::die_with_parent()?;
    sys::reset_signals().step("reset signals")?;
    rustix::process::setsid().step("make a session")?;
    if let Some(score) = task.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .step(format!("set oom_score_adj to {score}"))?;
    }
    let terminal = match task.stdio {
        Stdio::Terminal { rows, columns } => {
            Some(open_terminal((rows, columns), task.terminal_owner())?)
        }
        Stdio::Streams(_) => None,
    };
    let root = descriptors.get(task.root)?;
    let rules = landlock::below(root).step("make the rules that files are reached by")?;
    rustix::process::fchdir(root).step("enter the root")?;
    rustix::process::chroot(".").step("make the root the root")?;
    child::privileges::set_limits(task)?;
    refuse_directories(task, descriptors)?;
    let ready = Report::Ready {
        stubs: Vec::new(),
        parents: Vec::new(),
    };
    match &terminal {
        Some(pair) => wire::send(status, &ready, &[pair.master.as_fd()]),
        None => wire::send(status, &ready, &[]),
    }
    .step("report")?;
    child::streams::take_streams(task, descriptors, terminal.as_ref())?;
    child::streams::own_null(Some(descriptors.get(bare.null)?))?;
    sys::close_on_exec_from(3).step("close descriptors")?;
    child::root::enter_cwd(descriptors.get(bare.cwd)?)?;
    drop_privileges(task, &rules, status)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Err(child::execute(task))
}

/// A pair of the surrounding container's, which is the command's alone.
fn open_terminal(size: (u16, u16), owner: Option<u32>) -> Result<terminal::Inside> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let all = rustix::fs::open("/", flags, Mode::empty()).step("open the container's root")?;
    terminal::open_pair(all.as_fd(), size, owner)
}

/// A directory as a stream would be a way out of the root: it is the user's own, whose files are reached by rules alone.
fn refuse_directories(task: &Task, descriptors: &Descriptors) -> Result<()> {
    let Stdio::Streams(slots) = task.stdio else {
        return Ok(());
    };
    let step = "use a directory as a stream of the command";
    for slot in slots {
        let it = rustix::fs::fstat(descriptors.get(slot)?).step(step)?;
        if FileType::from_raw_mode(it.st_mode) == FileType::Directory {
            return Err(Failure {
                step: step.into(),
                errno: libc::EISDIR,
            });
        }
    }
    Ok(())
}

fn drop_privileges(
    task: &Task,
    rules: &OwnedFd,
    status: std::os::fd::BorrowedFd<'_>,
) -> Result<()> {
    // Containers forbid that, and the filter forbids to use keys.
    let _ = sys::join_session_keyring();
    rustix::thread::set_no_new_privs(true).step("give up new privileges")?;
    capabilities::bound(task.capabilities)?;
    landlock::restrict(rules.as_fd()).step("give up what is outside of the root")?;
    let filter = task.filter.ok_or(Failure {
        step: "install the system call filter".into(),
        errno: libc::EINVAL,
    })?;
    let listener = sys::notify::install_with_listener(&seccomp::program(filter))
        .step("install the system call filter (another may be listening already)")?;
    wire::send(status, &Report::Answer, &[listener.as_fd()]).step("report")?;
    drop(listener);
    child::privileges::take_ids(task)?;
    capabilities::take(task.capabilities, task.command.uid)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .step("protect the first process")?;
    // A change of ids takes it away.
    child::die_with_parent()
}
