//! A process with one thread, forked before any other thread exists, that starts sandboxes: forking the grown
//! process would be slow and unsafe. A sandbox becomes a child of this process's parent, which waits for it.
//!
//! When its socket closes, all of rbuild is gone: it kills what still runs and ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use super::plan::{Network, Reply, Task};
use super::{child, wire};
use crate::sys::{self, Cloned, Forked};

/// Forks the spawner and returns its socket.
pub(crate) fn start() -> io::Result<OwnedFd> {
    let (ours, theirs) = wire::pair()?;
    match sys::fork()? {
        Forked::Parent(_) => Ok(ours),
        Forked::Child => {
            drop(ours);
            serve(&theirs);
            sys::exit_now(0);
        }
    }
}

/// Sends a task and waits for the pidfd of what was started.
pub(crate) fn request(
    socket: BorrowedFd<'_>,
    task: &impl serde::Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<OwnedFd> {
    wire::send(socket, task, descriptors)?;
    let gone = || io::Error::other("the process that starts commands has ended");
    match wire::receive::<Reply>(socket)? {
        Some((Reply::Spawned, mut descriptors)) => descriptors.pop().ok_or_else(gone),
        Some((Reply::Failed { errno }, _)) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(gone()),
    }
}

fn serve(socket: &OwnedFd) {
    // Signals of the terminal are for the builder, which decides what becomes of its commands.
    let _ = rustix::process::setsid();
    // Commands inherit what is ignored or blocked here: nothing.
    if sys::reset_signals().is_err() {
        return;
    }
    let _ = rustix::thread::set_name(c"rbuild-spawner");
    let mut running: Vec<OwnedFd> = Vec::new();
    while let Ok(ready) = wait(socket, &mut running) {
        if !ready {
            continue;
        }
        let Ok(Some((task, descriptors))) = wire::receive::<Task>(socket.as_fd()) else {
            break;
        };
        let sent = match spawn(&task, descriptors) {
            Ok(pidfd) => {
                let sent = wire::send(socket.as_fd(), &Reply::Spawned, &[pidfd.as_fd()]);
                running.push(pidfd);
                sent
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                wire::send(socket.as_fd(), &Reply::Failed { errno }, &[])
            }
        };
        if sent.is_err() {
            break;
        }
    }
    for pidfd in &running {
        let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    }
}

/// Waits until a request can be read; forgets sandboxes that ended.
fn wait(socket: &OwnedFd, running: &mut Vec<OwnedFd>) -> io::Result<bool> {
    let mut polled: Vec<PollFd<'_>> = running
        .iter()
        .map(|pidfd| PollFd::new(pidfd, PollFlags::IN))
        .collect();
    polled.push(PollFd::new(socket, PollFlags::IN));
    match rustix::event::poll(&mut polled, None) {
        Err(rustix::io::Errno::INTR) => return Ok(false),
        result => result?,
    };
    let mut ended: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
    let ready = ended.pop().unwrap_or(false);
    let mut ended = ended.into_iter();
    running.retain(|_| !ended.next().unwrap_or(false));
    Ok(ready)
}

fn spawn(task: &Task, descriptors: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    let mut flags =
        libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if task.network == Network::Own {
        flags |= libc::CLONE_NEWNET;
    }
    match sys::clone3_for_parent(flags as u64)? {
        Cloned::Parent(pidfd) => Ok(pidfd),
        Cloned::Child => {
            child::main(task, descriptors);
        }
    }
}
