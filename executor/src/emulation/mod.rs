//! Other users, where there is one id: an ordinary user without subordinate ids has one in its user namespace, so the
//! kernel can neither give a file to somebody else nor let a process become somebody else. A filter hands the calls
//! that are about owners and ids to a thread here, which answers them: owners are written down beside the files
//! ([`rbuild_cache::owners`]), ids are remembered for each process. What an image's programs see, and what the layers
//! hold, is what a build by root gives.
//!
//! With many ids the kernel gives owners, and only devices are written down: nobody in a user namespace can make them.
//! For commands of root's that are in one, root makes them ([`devices`] says which there can be).
//!
//! **This is no boundary.** All of the sandbox is one user to the kernel, and what a process is refused here (to write
//! a file of emulated root's, say) it may reach in other ways. The boundary is the sandbox around it.
//!
//! [`answer`] decides: [`files`] are about files that are there, [`making`] about new ones, [`rights`] about who may
//! what with them, [`attributes`] about their extended attributes, [`peers`] about sockets, [`status`] about what
//! /proc says of processes, [`executing`] about programs. [`credentials`] are ids as values, [`mark`] is how a
//! process keeps them; [`target`] reads and writes the caller's memory and opens what it names, from a thread that
//! has moved into the sandbox's mount namespace.

mod answer;
mod attributes;
mod credentials;
mod devices;
mod executing;
mod files;
mod making;
mod mark;
mod peers;
mod rights;
mod status;
mod target;

pub use devices::Device;
pub(crate) use devices::Refused;
pub(crate) use files::taken_of;
pub(crate) use mark::Mark;
pub(crate) use target::string_at;

use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::sys::{
    self,
    notify::{Call, Reply},
};

use answer::Answering;
use credentials::Credentials;

/// Who the sandbox's first process believes to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// User and group that its program takes of its file.
    pub(crate) takes: (Option<u32>, Option<u32>),
    pub(crate) scope: Scope,
    /// Ids of the mounts where devices may be made: with [`Scope::MadeDevices`] all that are the sandbox's own, otherwise
    /// those of them that are memory.
    pub(crate) own_mounts: Vec<u64>,
    /// The sandbox's /proc knows this process.
    pub(crate) outer_proc: bool,
    /// Where there are no namespaces.
    pub(crate) shown: Option<std::sync::Arc<crate::sandbox::bare::Shown>>,
    /// Where it is written down that a device could not be made.
    pub(crate) refused: Refused,
}

/// What calls are answered about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Scope {
    /// Owners, ids and devices.
    #[default]
    Owners,
    /// The kernel knows all about ids and owners; devices are written down.
    RecordedDevices,
    /// So it does, and devices are made by this process, which is the machine's root.
    MadeDevices,
}

/// What answers the calls of one filter, once it is started.
#[derive(Debug)]
pub(crate) struct Emulation {
    listener: OwnedFd,
    /// The sandbox's mount namespace, where it has one.
    mounts: Option<OwnedFd>,
    identity: Identity,
}

impl Emulation {
    pub(crate) fn new(listener: OwnedFd, mounts: Option<OwnedFd>, identity: Identity) -> Self {
        Self {
            listener,
            mounts,
            identity,
        }
    }

    /// Answers on a thread of its own until nobody with the filter is left.
    pub(crate) fn start(self) -> std::io::Result<JoinHandle<()>> {
        let Self {
            listener,
            mounts,
            identity,
        } = self;
        std::thread::Builder::new()
            .name("rbuild-owners".to_owned())
            .spawn(move || {
                // Without an answer, callers get ENOSYS as soon as the listener is closed: nothing hangs.
                let served = match (&mounts, identity.shown.clone()) {
                    (Some(mounts), _) => serve(&listener, mounts, identity),
                    (None, Some(shown)) => {
                        answer_calls(&listener, |call| shown.answer(listener.as_fd(), call))
                    }
                    (None, None) => Ok(()),
                };
                if let Err(error) = served {
                    tracing::warn!(%error, "ownership is no longer emulated");
                }
            })
    }

    /// Starts with the first call: most commands make none. `None` where nobody is left who could.
    pub(crate) async fn start_when_asked(self) -> std::io::Result<Option<JoinHandle<()>>> {
        let Self {
            listener,
            mounts,
            identity,
        } = self;
        let listener = sys::watch(listener)?;
        loop {
            let mut ready = listener.readable().await?;
            let events = poll(listener.get_ref(), Some(&Timespec::default()))?;
            if events.contains(PollFlags::IN) {
                break;
            }
            if !events.is_empty() {
                return Ok(None);
            }
            ready.clear_ready();
        }
        let listener = listener.into_inner();
        Self::new(listener, mounts, identity).start().map(Some)
    }
}

fn serve(listener: &OwnedFd, mounts: &OwnedFd, identity: Identity) -> Result<(), Errno> {
    if !wait(listener)? {
        return Ok(());
    }
    let processes = open_directory("/proc")?;
    let descriptors = open_directory("/proc/self/fd")?;
    let unshared = sys::unshare(UnshareFlags::FS);
    unshared.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::thread::move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let root = open_directory("/")?;
    // Attributes are reached through names of descriptors, which only the outer /proc has.
    rustix::process::fchdir(&descriptors)?;
    sys::notify::on_same_processor(listener.as_fd());
    let first = Credentials::new(identity.uid, identity.gid, identity.groups);
    let first = first.executing(identity.takes.0, identity.takes.1);
    let mut answering = Answering::new(processes, descriptors, root, first);
    answering.scope = identity.scope;
    answering.own_mounts = identity.own_mounts;
    answering.outer_proc = identity.outer_proc;
    answering.refused = identity.refused;
    answer_calls(listener, |call| answering.answer(listener.as_fd(), call))
}

/// Until nobody is left who could call.
fn answer_calls(listener: &OwnedFd, mut answer: impl FnMut(&Call) -> Reply) -> Result<(), Errno> {
    loop {
        if !wait(listener)? {
            return Ok(());
        }
        let call = match sys::notify::receive(listener.as_fd()) {
            Ok(call) => call,
            // The caller has died meanwhile.
            Err(error) if is(&error, &[libc::ENOENT, libc::EINTR]) => continue,
            Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        };
        let reply = answer(&call);
        // It may have died while it was answered.
        let _ = match reply {
            Reply::Descriptor { ref fd, flags } => {
                sys::notify::give(listener.as_fd(), call.id, fd.as_fd(), flags)
            }
            ref reply => sys::notify::reply(listener.as_fd(), call.id, reply),
        };
    }
}

/// False when nobody is left who could call.
fn wait(listener: &OwnedFd) -> Result<bool, Errno> {
    Ok(poll(listener, None)?.contains(PollFlags::IN))
}

fn poll(listener: &OwnedFd, limit: Option<&Timespec>) -> Result<PollFlags, Errno> {
    loop {
        let mut polled = [PollFd::new(listener, PollFlags::IN)];
        match rustix::event::poll(&mut polled, limit) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => {
                let [polled] = polled;
                return Ok(polled.revents());
            }
        }
    }
}

fn is(error: &std::io::Error, numbers: &[i32]) -> bool {
    error
        .raw_os_error()
        .is_some_and(|number| numbers.contains(&number))
}

fn open_directory(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}
