//! A second spawner, in a user namespace: it is a copy of the one that is asked for it, goes in there, and serves.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::UnshareFlags;

use super::serve::Spawner;
use super::{answer, gone};
use crate::sandbox::plan::Reply;
use crate::sandbox::{ceilings, own_users, wire};
use crate::sys::{self, Cloned};

impl Spawner {
    /// Starts a second spawner in a user namespace of its own, or, with `most`, in one in that; returns its pidfd, its
    /// socket and the namespace. `None` in that spawner.
    pub(super) fn inside(
        &mut self,
        users: &str,
        groups: &str,
        most: Option<u64>,
    ) -> io::Result<Option<Vec<OwnedFd>>> {
        let (ours, theirs) = wire::pair()?;
        let (outside, inside) = wire::pair()?;
        // In there nobody may raise a limit any more, and whoever asks for a higher one gets it nevertheless.
        let ceilings = ceilings::raise();
        let cloned = sys::clone3_for_parent(libc::CLONE_NEWUSER as u64);
        let pidfd = match cloned {
            Ok(Cloned::Child) => {
                drop((ours, outside));
                match enter_mapped(&inside, most) {
                    Ok(()) => self.serve_inside(theirs, ceilings),
                    Err(_) => sys::exit_now(1),
                }
                return Ok(None);
            }
            Ok(Cloned::Parent(pidfd)) => {
                ceilings.restore(&[]);
                pidfd
            }
            Err(error) => {
                ceilings.restore(&[]);
                return Err(error);
            }
        };
        drop((theirs, inside));
        // From here on its files in /proc are such as can be written to.
        answer(outside.as_fd())?;
        let pid = sys::pid_of(pidfd.as_fd())?;
        for (file, map) in [("uid_map", users), ("gid_map", groups)] {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::open(format!("/proc/{pid}/{file}"), flags, Mode::empty())?;
            rustix::io::write(&file, map.as_bytes())?;
        }
        wire::send(outside.as_fd(), &Reply::Done, &[])?;
        let namespace = answer(outside.as_fd())?.pop().ok_or_else(gone)?;
        Ok(Some(vec![pidfd, ours, namespace]))
    }

    /// As [`Self::inside`], in a user namespace that there is.
    pub(super) fn inside_of(
        &mut self,
        namespace: Option<OwnedFd>,
    ) -> io::Result<Option<Vec<OwnedFd>>> {
        let namespace = namespace.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let (ours, theirs) = wire::pair()?;
        let (entered_read, entered_write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let ceilings = ceilings::raise();
        match sys::clone3_for_parent(0) {
            Ok(Cloned::Child) => {
                drop((ours, entered_read));
                let entered = sys::join_namespaces(namespace.as_fd(), libc::CLONE_NEWUSER);
                let entered = entered.and_then(|()| become_root());
                let errno =
                    entered.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
                let _ = rustix::io::write(&entered_write, &errno.to_ne_bytes());
                if errno != 0 {
                    sys::exit_now(1);
                }
                drop(namespace);
                self.serve_inside(theirs, ceilings);
                return Ok(None);
            }
            Ok(Cloned::Parent(_)) => ceilings.restore(&[]),
            Err(error) => {
                ceilings.restore(&[]);
                return Err(error);
            }
        }
        drop(entered_write);
        let mut errno = [0; 4];
        rustix::io::read(&entered_read, &mut errno)?;
        match i32::from_ne_bytes(errno) {
            0 => Ok(Some(vec![ours, namespace])),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// In a user namespace that has no ids yet: has them given by whoever is outside, becomes its root, and says which
/// namespace that is. With `most`, goes into one in that.
fn enter_mapped(outside: &OwnedFd, most: Option<u64>) -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    let enter = || {
        // An ordinary user could not write to its files in /proc otherwise.
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        wire::send(outside.as_fd(), &Reply::Done, &[])?;
        answer(outside.as_fd())?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        if !rustix::process::geteuid().is_root() {
            become_root()?;
        }
        if let Some(most) = most {
            if !own_users::are_counted()? {
                return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
            }
            own_users::enter(UnshareFlags::empty(), Some(most))?;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(
            CWD,
            "/proc/self/ns/user",
            flags,
            Mode::empty(),
        )?)
    };
    match enter() {
        Ok(namespace) => wire::send(outside.as_fd(), &Reply::Done, &[namespace.as_fd()]),
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            wire::send(outside.as_fd(), &Reply::Failed { errno }, &[])?;
            Err(error)
        }
    }
}

fn become_root() -> io::Result<()> {
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
}
