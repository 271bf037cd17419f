//! A command that others reach while it runs: they signal it, enter it, look at it and halt it through its
//! [`Handle`], all of them at once. [`Container::finish`] sees it to its end. Its root and the layer on top: [`root`];
//! by which process it is reached: [`process`].

mod handle;
mod process;
mod root;

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rbuild_cache::SnapshotId;
use rustix::fs::{Mode, OFlags};
use tokio_util::sync::CancellationToken;

use super::prepare::setup;
use super::{ExecError, Signals, brief, stubs, wait};
use crate::Executor;
use crate::spec::{Exec, Exit, Stdio};
pub use handle::Handle;
pub(super) use process::pidfd_of;
pub use root::{Standing, Top};

/// A container that was started.
#[must_use = "dropping it kills the container"]
pub struct Container {
    started: wait::Started,
    handle: Handle,
}

impl Executor {
    /// Starts a container. `accounted`: in a cgroup even where no limit asks for one, as far as the machine
    /// allows. Whether the command could be executed shows in [`Container::finish`].
    pub async fn start(
        &self,
        base: Option<&SnapshotId>,
        exec: Exec,
        stdio: Stdio,
        cancel: &CancellationToken,
        top: Top,
        accounted: bool,
    ) -> Result<Container, ExecError> {
        let begun = self.begin(base.cloned(), exec, stdio, cancel, top, accounted);
        let mut started = begun.await?;
        let handle = Handle::of(&self.host, &mut started)
            .map_err(|error| setup("find the container", error))?;
        Ok(Container { started, handle })
    }

    /// Fills an empty directory with what a snapshot has at `path`, where it has a directory there, and makes `volume`,
    /// which may be the same, look like that. Blocking.
    pub fn copy_up(
        &self,
        directory: &Path,
        volume: &Path,
        snapshot: &SnapshotId,
        path: &Path,
    ) -> Result<(), ExecError> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .map_err(|errno| setup("open a volume", io::Error::from(errno)))
        };
        let (directory, volume) = (open(directory)?, open(volume)?);
        let to = (directory.as_fd(), volume.as_fd());
        super::cache_content::copy_up(&self.store, to, (snapshot, path))
    }
}

/// Removes the cgroups of a container whose process was killed.
pub fn remove_cgroups(directories: &[PathBuf]) {
    super::cgroup::remove(directories.iter().map(PathBuf::as_path));
}

impl Container {
    /// By which others reach it while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits for its end. With `signals`, those that reach this process are the container's.
    pub async fn finish(
        self,
        cancel: &CancellationToken,
        signals: Option<Signals>,
    ) -> Result<Exit, ExecError> {
        let ended = self.started.finish(None, cancel, signals).await?;
        brief(false, move || {
            let exit = ended.exit;
            let mut ended = ended;
            match (&ended.top, ended.bare.take()) {
                (Top::Kept { upper, work, .. }, Some(bare)) => bare.keep(upper, work)?,
                (Top::Kept { upper, .. }, None) => {
                    let removed = stubs::remove(upper, &ended.stubs, &ended.parents);
                    removed.map_err(|errno| {
                        setup("remove the mount points", io::Error::from(errno))
                    })?;
                }
                (Top::Own(_), _) => {}
            }
            drop(ended);
            Ok(exit)
        })
        .await
    }
}
