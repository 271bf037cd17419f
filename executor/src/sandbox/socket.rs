//! Forwarding a socket of the host's (an ssh agent's): a socket of our own in the sandbox's memory, with the owner and
//! mode that were asked for, whose connections are carried to the host's.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Gid, Mode, Uid};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;

/// Stops forwarding when it is dropped.
#[derive(Debug)]
pub(super) struct Forwarded {
    task: AbortHandle,
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens at `name` in `directory` (a detached file system) and carries to `target`. Within the runtime.
pub(super) fn forward(
    directory: BorrowedFd<'_>,
    name: &str,
    target: PathBuf,
    mode: u32,
    (uid, gid): (u32, u32),
) -> io::Result<Forwarded> {
    // The only way to bind relative to a descriptor.
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    let listener = UnixListener::bind(path)?;
    if (uid, gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(
            directory,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    rustix::fs::chmodat(directory, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    let task = tokio::spawn(async move {
        // Its connections end with it: the set aborts what is left when it is dropped.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((connection, _)) => {
                        connections.spawn(carry(connection, target.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a forwarded socket stops");
                        return;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Ok(Forwarded {
        task: task.abort_handle(),
    })
}

async fn carry(mut inside: UnixStream, target: PathBuf) {
    let result = async {
        let mut outside = UnixStream::connect(&target).await?;
        tokio::io::copy_bidirectional(&mut inside, &mut outside).await
    }
    .await;
    if let Err(error) = result {
        tracing::debug!(%error, socket = %target.display(), "a forwarded connection ended");
    }
}
