//! A chain of snapshots as one mount: `fsopen`/`fsconfig`/`fsmount`, by descriptors, `volatile`, `userxattr`.
//! Mounts are detached: nothing is ever mounted in a namespace but by the child that uses it.
//!
//! Three ways of naming the layers, tried from the newest on and remembered: descriptors (Linux 6.13), paths one by
//! one (6.5), one option string on a thread of its own (5.11; [`legacy`]).

mod legacy;
mod mount;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::tree::{Kind, Tree};
use rbuild_cache::{ActiveSnapshot, RootDir, SnapshotId, Store, TemporaryDirectory, owners};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::host;
use crate::mapped::Mapped;
use crate::merged::{Files, Merged};
pub use mount::foreseen;
pub(crate) use mount::mount;

/// The kernel's own limit on lower layers.
const MOST_LAYERS: usize = 500;

/// At which step layers could not be brought together, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot bring the layers of a root together: {step}")]
pub struct Error {
    pub step: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(
        step: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            step: step.into(),
            source: Some(source.into()),
        }
    }
}

/// Read-only view of a chain.
pub fn view(store: &Store, snapshot: Option<&SnapshotId>) -> Result<RootDir, Error> {
    if host::without_namespaces() {
        return merged(store, &lower_directories(store, snapshot)?);
    }
    view_in(store, snapshot, None).map(RootDir::from_fd)
}

fn merged(store: &Store, lowers: &[PathBuf]) -> Result<RootDir, Error> {
    Merged::of(store, lowers, Files::Linked)?.root()
}

/// As [`view`], with the ids that a user namespace has for everybody.
pub(crate) fn view_in(
    store: &Store,
    snapshot: Option<&SnapshotId>,
    mapped: Option<&Mapped>,
) -> Result<OwnedFd, Error> {
    let mut lowers = lower_directories(store, snapshot)?;
    // Without an upper directory the kernel wants two layers or more: empty ones go below.
    if lowers.len() < 2 {
        lowers.extend(empty_layers(store)?.into_iter().skip(lowers.len()));
    }
    mount(&lowers, None, mapped)
}

/// Whether this kernel's overlay can have layers with mapped ids: mounts one to find out.
pub(crate) fn mapped_view(store: &Store, mapped: &Mapped) -> Result<(), Error> {
    view_in(store, None, Some(mapped)).map(drop)
}

/// How this kernel is told the layers of a mount; mounts empty roots in the store to find out.
pub fn features(store: &Store) -> Result<&'static str, Error> {
    if host::without_namespaces() {
        return Err(Error {
            step: "nothing can be mounted here; layers are merged file by file".into(),
            source: None,
        });
    }
    let probe = store.temporary_directory();
    let probe = probe.map_err(|error| Error::new("make a directory for a trial", error))?;
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| probe.path().join(name));
    for directory in [&lower, &upper, &work] {
        rustix::fs::mkdir(directory, Mode::RWXU)
            .map_err(|errno| Error::new("make a directory for a trial", errno))?;
    }
    mount(&[lower], Some((&upper, &work, Durability::Never)), None)?;
    view(store, None)?;
    Ok(mount::understood())
}

/// Read-only view of a chain with one more directory on top, which may be written to meanwhile: then it shows some of
/// that.
pub fn view_with(
    store: &Store,
    snapshot: Option<&SnapshotId>,
    top: &Path,
) -> Result<RootDir, Error> {
    let mut lowers = vec![top.to_owned()];
    lowers.extend(lower_directories(store, snapshot)?);
    if host::without_namespaces() {
        return merged(store, &lowers);
    }
    if lowers.len() < 2 {
        lowers.extend(empty_layers(store)?.into_iter().take(1));
    }
    mount(&lowers, None, None).map(RootDir::from_fd)
}

/// The chain with `active` on top; writes land in its upper directory. The descriptor is a detached mount.
pub fn writable(
    store: &Store,
    base: Option<&SnapshotId>,
    active: &ActiveSnapshot,
) -> Result<OwnedFd, Error> {
    writable_in(store, base, active, None)
}

/// As [`writable`], with the ids that a user namespace has for everybody.
pub(crate) fn writable_in(
    store: &Store,
    base: Option<&SnapshotId>,
    active: &ActiveSnapshot,
    mapped: Option<&Mapped>,
) -> Result<OwnedFd, Error> {
    let top = (active.upper(), active.work());
    writable_at(
        store,
        base,
        top,
        Durability::Never,
        (Below::Nothing, mapped),
    )
}

/// What lies below the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Below {
    Nothing,
    /// What a sandbox mounts something on ([`Store::mount_points`]): for roots that only a sandbox sees.
    MountPoints,
}

/// The layers of a base for file operations that are not about the base's files: of a snapshot that is packed, an
/// outline is enough.
#[derive(Debug, Default)]
pub(crate) struct Lowers {
    /// Top first.
    directories: Vec<PathBuf>,
    /// Of the snapshots of which there is an outline only.
    outlined: Vec<Arc<Tree>>,
    /// Outlines last as long as this.
    held: Vec<TemporaryDirectory>,
}

impl Lowers {
    /// With `in_outline`, nothing is unpacked.
    pub(crate) fn of(
        store: &Store,
        top: Option<&SnapshotId>,
        in_outline: bool,
    ) -> Result<Self, Error> {
        let mut lowers = Self::default();
        let Some(top) = top else {
            return Ok(lowers);
        };
        let failed = |error| Error::new("look up the chain of snapshots", error);
        for snapshot in store.chain(top).map_err(failed)?.iter().rev() {
            if in_outline && snapshot.packed.is_some() {
                let outline = store.outline(snapshot).map_err(failed)?;
                lowers.directories.push(outline.path().to_owned());
                lowers.held.push(outline);
                let tree = store.tree(&snapshot.id).map_err(failed)?;
                lowers.outlined.push(tree);
            } else {
                let directory = store.directory_of(snapshot).map_err(failed)?;
                lowers.directories.push(directory);
            }
        }
        Ok(lowers)
    }

    pub(crate) fn has_outlines(&self) -> bool {
        !self.outlined.is_empty()
    }

    /// Whether one of the files that are not there has this path.
    pub(crate) fn hides_file(&self, path: &[u8]) -> bool {
        let hides = |tree: &Arc<Tree>| tree.get(path).is_some_and(|it| it.kind == Kind::File);
        self.outlined.iter().any(hides)
    }

    /// What there is in place of [`Lowers::writable`] where nothing can be mounted.
    pub(crate) fn merged(&self, store: &Store, files: Files) -> Result<Merged, Error> {
        Merged::of(store, &self.directories, files)?.watched()
    }

    /// As [`Lowers::merged`], for a command; `active` says what a root is where there is none below.
    pub(crate) fn merged_over(
        &self,
        store: &Store,
        active: &ActiveSnapshot,
        files: Files,
    ) -> Result<Merged, Error> {
        let mut directories = self.directories.clone();
        match directories.first() {
            Some(first) => inherit_root(first, active.upper())?,
            None => directories.push(active.upper().to_owned()),
        }
        Merged::of(store, &directories, files)?.watched()
    }

    /// As [`Lowers::merged_over`], with what was written earlier: `upper`.
    pub(crate) fn merged_with(
        &self,
        store: &Store,
        upper: &Path,
        files: Files,
    ) -> Result<Merged, Error> {
        if let Some(first) = self.directories.first() {
            inherit_root(first, upper)?;
        }
        self.merged(store, files)?.over(upper)
    }

    /// As [`writable`].
    pub(crate) fn writable(
        &self,
        store: &Store,
        active: &ActiveSnapshot,
    ) -> Result<OwnedFd, Error> {
        let top = (active.upper(), active.work(), Durability::Never);
        writable_on(store, self.directories.clone(), top, (Below::Nothing, None))
    }
}

/// Whether what is written may be lost in a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Whoever keeps it syncs it: `volatile`, for the kernel would sync the whole disk at each unmount.
    Never,
    /// A program's `fsync` means what it says.
    AsAsked,
}

/// As [`writable`], on directories that need not be a snapshot's.
pub(crate) fn writable_at(
    store: &Store,
    base: Option<&SnapshotId>,
    (upper, work): (&Path, &Path),
    sync: Durability,
    (below, mapped): (Below, Option<&Mapped>),
) -> Result<OwnedFd, Error> {
    let lowers = lower_directories(store, base)?;
    writable_on(store, lowers, (upper, work, sync), (below, mapped))
}

fn writable_on(
    store: &Store,
    mut lowers: Vec<PathBuf>,
    (upper, work, sync): (&Path, &Path, Durability),
    (below, mapped): (Below, Option<&Mapped>),
) -> Result<OwnedFd, Error> {
    let top = Some((upper, work, sync));
    if let Some(first) = lowers.first() {
        inherit_root(first, upper)?;
    }
    if below == Below::MountPoints && lowers.len() < MOST_LAYERS {
        let points = store.mount_points();
        lowers.push(points.map_err(|error| Error::new("make mount points", error))?);
    }
    if lowers.is_empty() {
        lowers.extend(empty_layers(store)?.into_iter().take(1));
    }
    mount(&lowers, top, mapped)
}

/// A directory, with what is written going to a layer on top of it.
pub(crate) fn over(
    store: &Store,
    below: &Path,
    active: &ActiveSnapshot,
    mapped: Option<&Mapped>,
) -> Result<OwnedFd, Error> {
    inherit_root(below, active.upper())?;
    let mut lowers = vec![below.to_owned()];
    lowers.extend(empty_layers(store)?.into_iter().take(1));
    let top = (active.upper(), active.work(), Durability::Never);
    mount(&lowers, Some(top), mapped)
}

/// The upper directory is the root that processes see, so it begins with the owner, mode and times of the one below.
fn inherit_root(below: &Path, upper: &Path) -> Result<(), Error> {
    let inherit = || -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let upper = rustix::fs::open(upper, flags, Mode::empty())?;
        let stat = rustix::fs::stat(below)?;
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(stat.st_uid),
            rustix::fs::Gid::from_raw(stat.st_gid),
        );
        rustix::fs::fchown(&upper, Some(uid), Some(gid))?;
        if owners::devices_recorded() {
            let below = rustix::fs::open(below, flags, Mode::empty())?;
            owners::copy(below.as_fd(), upper.as_fd())
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
        rustix::fs::fchmod(&upper, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        let time = rustix::fs::Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        };
        rustix::fs::futimens(
            &upper,
            &rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            },
        )
    };
    inherit().map_err(|errno| Error::new("give the root its owner and mode", errno))
}

/// The directories of a chain, top first, as overlay lists them.
fn lower_directories(store: &Store, top: Option<&SnapshotId>) -> Result<Vec<PathBuf>, Error> {
    Lowers::of(store, top, false).map(|lowers| lowers.directories)
}

/// Layers for mounts that need more of them than there are.
fn empty_layers(store: &Store) -> Result<[PathBuf; 2], Error> {
    store
        .empty_layers()
        .map_err(|error| Error::new("make an empty layer", error))
}
