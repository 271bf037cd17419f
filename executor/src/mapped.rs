//! Files as a user namespace sees them: with the ids that they have, though the kernel knows that namespace's by others.
//!
//! The whole store is one mount with mapped ids, made once; layers are opened through it, and an overlay over them
//! reads and writes them by that mount's map. What a command writes as uid 1000 is 1000's in the store.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::Store;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::host::{self, Inside};
use crate::sandbox::mounts;
use crate::sys;

/// A store in a user namespace.
#[derive(Debug)]
pub(crate) struct Mapped {
    inside: Arc<Inside>,
    root: PathBuf,
    tree: OwnedFd,
}

impl Mapped {
    pub(crate) fn new(store: &Store, inside: Arc<Inside>) -> Result<Self, Errno> {
        let root = store.root().to_owned();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tree = rustix::fs::open(&root, flags, Mode::empty())?;
        let tree = map(mounts::copy(tree.as_fd(), true)?, &inside)?;
        // Older kernels take no detached mount for a layer. Nobody looks for what is in that directory.
        if !host::kernel_is((6, 15)) {
            attach(&tree, store)?;
        }
        Ok(Self { inside, root, tree })
    }

    pub(crate) fn inside(&self) -> &Arc<Inside> {
        &self.inside
    }

    /// Opens a directory of the store.
    pub(crate) fn open(&self, directory: &Path) -> Result<OwnedFd, Errno> {
        let below = directory.strip_prefix(&self.root);
        rustix::fs::openat2(
            &self.tree,
            below.map_err(|_| Errno::XDEV)?,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Does something as root of the user namespace, who has files and makes them, with all that this process may.
    pub(crate) fn as_root<T>(&self, work: impl FnOnce() -> T) -> Result<T, Errno> {
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let _ids = FileIds::take(self.inside.root().map_err(failed)?)?;
        Ok(work())
    }
}

/// A detached mount with all that is below, with mapped ids. Errors: `EINVAL` where a file system has no mapped mounts,
/// `EPERM` where one is mapped already.
pub(crate) fn map(tree: OwnedFd, inside: &Inside) -> Result<OwnedFd, Errno> {
    sys::map_mount(tree.as_fd(), inside.namespace())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(tree)
}

/// In this process's own mount namespace, on a directory that holds nothing.
fn attach(tree: &OwnedFd, store: &Store) -> Result<(), Errno> {
    let place = store.empty_layers().map_err(|_| Errno::IO)?;
    let [_, place] = place;
    let place = place.with_file_name("mapped");
    match rustix::fs::mkdir(&place, Mode::from_raw_mode(0o700)) {
        Err(Errno::EXIST) => {}
        result => result?,
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(&place, flags, Mode::empty())?;
    mounts::attach(tree.as_fd(), place.as_fd())
}

/// Those that the kernel gives back with root's ids.
const ABOUT_FILES: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD);

/// This thread's ids for files, until it is dropped.
pub(crate) struct FileIds(());

impl FileIds {
    /// All capabilities stay.
    pub(crate) fn take(ids: (u32, u32)) -> Result<Self, Errno> {
        Self::take_with(ids, CapabilitySet::all())
    }

    /// Of the capabilities that are about files, those of `about_files` stay.
    pub(crate) fn take_with(
        (uid, gid): (u32, u32),
        about_files: CapabilitySet,
    ) -> Result<Self, Errno> {
        let mut sets = rustix::thread::capabilities(None)?;
        sets.effective &= about_files | ABOUT_FILES.complement();
        let guard = Self(());
        sys::set_file_ids(uid, gid)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::PERM))?;
        rustix::thread::set_capabilities(None, sets)?;
        Ok(guard)
    }
}

impl Drop for FileIds {
    fn drop(&mut self) {
        // Root's: with them come the capabilities. Nothing but the end of the thread could be done about a failure.
        if let Err(error) = sys::set_file_ids(0, 0) {
            tracing::error!(%error, "a thread's ids could not be taken back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_for_files_are_a_threads_own_and_come_back() {
        use std::os::unix::fs::MetadataExt as _;
        if !rustix::process::geteuid().is_root() || rbuild_cache::owners::devices_recorded() {
            println!("SKIPPED: only root has other ids");
            return;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let owner = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, "").expect("a file");
            std::fs::metadata(&path)
                .map(|file| (file.uid(), file.gid()))
                .expect("its owner")
        };
        {
            let _ids = FileIds::take((70_000, 70_001)).expect("other ids");
            // In a directory that is not theirs.
            assert_eq!(owner("theirs"), (70_000, 70_001));
        }
        assert_eq!(owner("ours"), (0, 0));
    }
}
