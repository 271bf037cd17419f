//! A chain of snapshots as one mount: `fsopen`/`fsconfig`/`fsmount`, by descriptors, `volatile`, `userxattr`.
//! Mounts are detached: nothing is ever mounted in a namespace but by the child that uses it.
//!
//! Three ways of naming the layers, tried from the newest on and remembered: descriptors (Linux 6.13), paths one by
//! one (6.5), one option string on a thread of its own (5.11; [`legacy`]).

mod legacy;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rbuild_cache::tree::{Kind, Tree};
use rbuild_cache::{ActiveSnapshot, RootDir, SnapshotId, Store, TemporaryDirectory, owners};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::host;
use crate::mapped::Mapped;
use crate::merged::{Files, Merged};

/// The kernel's own limit on lower layers.
const MOST_LAYERS: usize = 500;

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
    Ok(match DIALECT.load(Ordering::Relaxed) {
        0 => "layers by descriptors (Linux 6.13)",
        1 => "layers by paths (Linux 6.5)",
        _ => "layers in one option (before Linux 6.5)",
    })
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

/// What this kernel understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Dialect {
    Descriptors = 0,
    Paths = 1,
    Options = 2,
}

static DIALECT: AtomicU8 = AtomicU8::new(Dialect::Descriptors as u8);

/// Mounts `lowers` (top first) with an optional upper and work directory on top. Detached.
pub(crate) fn mount(
    lowers: &[PathBuf],
    top: Option<(&Path, &Path, Durability)>,
    mapped: Option<&Mapped>,
) -> Result<OwnedFd, Error> {
    if lowers.len() > MOST_LAYERS {
        return Err(Error {
            step: format!(
                "the image has {} layers and the kernel mounts at most {MOST_LAYERS}; squash some of them",
                lowers.len()
            ),
            source: None,
        });
    }
    let layers = Layers::open(lowers, top, mapped)?;
    let mounted = match mapped {
        None => mount_layers(&layers),
        // Overlay makes files as whoever mounts it, before it gives them away.
        Some(mapped) => mapped
            .as_root(|| mount_layers(&layers))
            .map_err(|errno| Error::new("become root of the user namespace", errno))?,
    };
    mounted.map_err(|error| match top {
        Some((upper, ..)) => on_overlay(upper, &layers).unwrap_or(error),
        None => error,
    })
}

/// The kernel only says that an argument is invalid.
fn on_overlay(upper: &Path, layers: &Layers) -> Option<Error> {
    let (directory, ..) = layers.top.as_ref()?;
    let of = rustix::fs::fstatfs(directory).ok()?;
    is_overlay(&of).then(|| Error {
        step: said_of_overlay(upper),
        source: None,
    })
}

fn is_overlay(of: &rustix::fs::StatFs) -> bool {
    of.f_type == libc::OVERLAYFS_SUPER_MAGIC
}

fn said_of_overlay(path: &Path) -> String {
    format!(
        "`{}` is on an overlay itself, as a container's own files are, and no other overlay can write there: have \
         the store on a volume or on another file system, and name it with --root or RBUILD_ROOT",
        path.display()
    )
}

/// Why commands will have no root to write in, where that can be told without trying.
pub fn foreseen(store: &Store) -> Option<String> {
    let of = rustix::fs::statfs(store.root()).ok()?;
    (is_overlay(&of) && !host::without_namespaces()).then(|| said_of_overlay(store.root()))
}

fn mount_layers(layers: &Layers) -> Result<OwnedFd, Error> {
    loop {
        let dialect = match DIALECT.load(Ordering::Relaxed) {
            0 => Dialect::Descriptors,
            1 => Dialect::Paths,
            _ => Dialect::Options,
        };
        match mount_in(dialect, layers) {
            Err(Failure::NotUnderstood) if dialect != Dialect::Options => {
                DIALECT.fetch_max(dialect as u8 + 1, Ordering::Relaxed);
            }
            Err(Failure::NotUnderstood) => {
                return Err(Error {
                    step: "this kernel lacks overlay's `userxattr`; Linux 5.12 or newer is needed"
                        .into(),
                    source: None,
                });
            }
            Err(Failure::Failed(error)) => return Err(error),
            Ok(fd) => return Ok(fd),
        }
    }
}

/// Open directories: what is mounted is what was opened, whatever happens to the names.
struct Layers {
    lowers: Vec<OwnedFd>,
    top: Option<(OwnedFd, OwnedFd, Durability)>,
}

impl Layers {
    fn open(
        lowers: &[PathBuf],
        top: Option<(&Path, &Path, Durability)>,
        mapped: Option<&Mapped>,
    ) -> Result<Self, Error> {
        let open = |path: &Path| {
            // Not O_PATH: fsconfig takes only real descriptors before 6.14.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match mapped {
                Some(mapped) => mapped.open(path),
                None => rustix::fs::open(path, flags, Mode::empty()),
            }
            .map_err(|errno| Error::new(format!("open `{}`", path.display()), errno))
        };
        Ok(Self {
            lowers: lowers
                .iter()
                .map(|path| open(path))
                .collect::<Result<_, _>>()?,
            top: match top {
                Some((upper, work, sync)) => Some((open(upper)?, open(work)?, sync)),
                None => None,
            },
        })
    }
}

enum Failure {
    /// The kernel is too old for this dialect.
    NotUnderstood,
    Failed(Error),
}

fn mount_in(dialect: Dialect, layers: &Layers) -> Result<OwnedFd, Failure> {
    if dialect == Dialect::Options {
        return legacy::mount(layers).map_err(|errno| {
            if errno == Errno::INVAL {
                Failure::NotUnderstood
            } else {
                Failure::Failed(Error::new("mount overlay", errno))
            }
        });
    }
    let failed = |step: &str, errno: Errno| {
        Failure::Failed(Error::new(
            step,
            std::io::Error::other(Explained { errno, log: None }),
        ))
    };
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
        failed(
            "open the overlay file system (is the module loaded?)",
            errno,
        )
    })?;
    let set = |key: &str, directory: BorrowedFd<'_>| match dialect {
        Dialect::Descriptors => rustix::mount::fsconfig_set_fd(fs.as_fd(), key, directory),
        Dialect::Paths | Dialect::Options => {
            rustix::mount::fsconfig_set_string(fs.as_fd(), key, descriptor_path(directory))
        }
    };
    for (index, lower) in layers.lowers.iter().enumerate() {
        match set("lowerdir+", lower.as_fd()) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::BADF) if index == 0 => return Err(Failure::NotUnderstood),
            Err(errno) => return Err(failed("name a layer", errno)),
        }
    }
    if let Some((upper, work, sync)) = &layers.top {
        set("upperdir", upper.as_fd())
            .map_err(|errno| failed("name the upper directory", errno))?;
        set("workdir", work.as_fd()).map_err(|errno| failed("name the work directory", errno))?;
        if *sync == Durability::Never {
            rustix::mount::fsconfig_set_flag(fs.as_fd(), "volatile")
                .map_err(|errno| failed("ask for a volatile overlay", errno))?;
        }
    }
    for (key, value) in OPTIONS {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(fs.as_fd(), *key, *value),
            None => rustix::mount::fsconfig_set_flag(fs.as_fd(), *key),
        }
        .map_err(|errno| failed(&format!("set the overlay option `{key}`"), errno))?;
    }
    rustix::mount::fsconfig_create(fs.as_fd()).map_err(|errno| {
        Failure::Failed(Error::new(
            "make the overlay",
            std::io::Error::other(Explained {
                errno,
                log: kernel_log(fs.as_fd()),
            }),
        ))
    })?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    if layers.top.is_none() {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|errno| failed("get the overlay's mount", errno))
}

/// Marks as in `user.overlay.*` for everybody; nothing that needs decoding when a layer is written.
const OPTIONS: &[(&str, Option<&str>)] = &[
    ("userxattr", None),
    ("index", Some("off")),
    ("xino", Some("off")),
    ("metacopy", Some("off")),
    ("redirect_dir", Some("nofollow")),
];

fn descriptor_path(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// What the kernel wrote into the context's log; it says much more than the error number.
fn kernel_log(fs: BorrowedFd<'_>) -> Option<String> {
    let mut buffer = [0; 512];
    let mut lines = Vec::new();
    while let Ok(length) = rustix::io::read(fs, &mut buffer) {
        let Some(text) = buffer.get(..length).filter(|text| !text.is_empty()) else {
            break;
        };
        lines.push(String::from_utf8_lossy(text).trim().to_owned());
    }
    (!lines.is_empty()).then(|| lines.join("; "))
}

#[derive(Debug)]
struct Explained {
    errno: Errno,
    log: Option<String>,
}

impl std::fmt::Display for Explained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.errno)?;
        match &self.log {
            Some(log) => write!(f, " ({log})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Explained {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn read(mount: &OwnedFd, name: &str) -> String {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(mount, name, flags, Mode::empty()).expect("a file");
        let mut text = String::new();
        std::fs::File::from(file)
            .read_to_string(&mut text)
            .expect("its text");
        text
    }

    #[test]
    fn every_dialect_gives_the_same_mount() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: mounting needs root");
            return;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        for dialect in [Dialect::Descriptors, Dialect::Paths, Dialect::Options] {
            let base = directory.path().join(format!("{dialect:?}"));
            let mut lowers = Vec::new();
            for index in 0..150 {
                let lower = base.join(format!("lower-with-a-long-name-{index}"));
                std::fs::create_dir_all(&lower).expect("a directory");
                std::fs::write(lower.join("which"), index.to_string()).expect("a file");
                lowers.push(lower);
            }
            let (upper, work) = (base.join("upper"), base.join("work"));
            std::fs::create_dir(&upper).expect("a directory");
            std::fs::create_dir(&work).expect("a directory");
            let layers = Layers::open(&lowers, Some((&upper, &work, Durability::Never)), None)
                .expect("open layers");
            let mount = match mount_in(dialect, &layers) {
                Ok(mount) => mount,
                Err(Failure::NotUnderstood) => {
                    println!("SKIPPED: this kernel does not understand {dialect:?}");
                    continue;
                }
                Err(Failure::Failed(error)) => panic!("{dialect:?}: {error} {:?}", error.source),
            };
            assert_eq!(read(&mount, "which"), "0", "{dialect:?}");
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&mount, "new", flags, Mode::from_raw_mode(0o600)).expect("a file");
            assert!(upper.join("new").exists(), "{dialect:?}");
            let view = Layers::open(&lowers, None, None).expect("open layers");
            let Ok(view) = mount_in(dialect, &view) else {
                panic!("{dialect:?}: no view");
            };
            assert_eq!(read(&view, "which"), "0");
            let written = rustix::fs::openat(&view, "new", flags, Mode::from_raw_mode(0o600));
            assert_eq!(written.err(), Some(Errno::ROFS), "{dialect:?}");
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(!mounts.contains("lower-with-a-long-name"), "{mounts}");
    }
}
