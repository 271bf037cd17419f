//! A chain of snapshots as one mount: `fsopen`/`fsconfig`/`fsmount`, by descriptors, `volatile`, `userxattr`.
//! Mounts are detached: nothing is ever mounted in a namespace but by the child that uses it.
//!
//! Three ways of naming the layers, tried from the newest on and remembered: descriptors (Linux 6.13), paths one by
//! one (6.5), one option string on a thread of its own (5.11; [`legacy`]).

mod legacy;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use rbuild_cache::{ActiveSnapshot, RootDir, SnapshotId, Store};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// The kernel's own limit on lower layers.
const MOST_LAYERS: usize = 500;

#[derive(Debug, thiserror::Error)]
#[error("cannot mount the layers of a root: {step}")]
pub struct Error {
    pub step: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    fn new(
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
    let mut lowers = lower_directories(store, snapshot)?;
    if lowers.len() >= 2 {
        return mount(&lowers, None).map(RootDir::from_fd);
    }
    // Without an upper directory the kernel wants two layers or more: empty ones go below.
    let scratch = empty_directory(store)?;
    for name in ["one", "two"].into_iter().skip(lowers.len()) {
        let empty = scratch.path().join(name);
        std::fs::create_dir(&empty).map_err(|error| Error::new("make an empty layer", error))?;
        lowers.push(empty);
    }
    mount(&lowers, None).map(RootDir::from_fd)
}

/// The chain with `active` on top; writes land in its upper directory. The descriptor is a detached mount.
pub fn writable(
    store: &Store,
    base: Option<&SnapshotId>,
    active: &ActiveSnapshot,
) -> Result<OwnedFd, Error> {
    writable_at(store, base, active.upper(), active.work())
}

/// As [`writable`], on directories that need not be a snapshot's.
pub(crate) fn writable_at(
    store: &Store,
    base: Option<&SnapshotId>,
    upper: &Path,
    work: &Path,
) -> Result<OwnedFd, Error> {
    let mut lowers = lower_directories(store, base)?;
    let scratch;
    if lowers.is_empty() {
        scratch = empty_directory(store)?;
        lowers.push(scratch.path().to_owned());
        return mount(&lowers, Some((upper, work)));
    }
    mount(&lowers, Some((upper, work)))
}

/// The directories of a chain, top first, as overlay lists them.
fn lower_directories(store: &Store, top: Option<&SnapshotId>) -> Result<Vec<PathBuf>, Error> {
    let Some(top) = top else {
        return Ok(Vec::new());
    };
    let chain = store
        .chain(top)
        .map_err(|error| Error::new("look up the chain of snapshots", error))?;
    Ok(chain
        .iter()
        .rev()
        .map(|snapshot| store.snapshot_directory(&snapshot.id))
        .collect())
}

/// An empty layer. The mount keeps the directory's inode after the guard has removed its name.
fn empty_directory(store: &Store) -> Result<rbuild_cache::store::TemporaryDirectory, Error> {
    store
        .temporary_directory()
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
pub(crate) fn mount(lowers: &[PathBuf], top: Option<(&Path, &Path)>) -> Result<OwnedFd, Error> {
    if lowers.len() > MOST_LAYERS {
        return Err(Error {
            step: format!(
                "the image has {} layers and the kernel mounts at most {MOST_LAYERS}; squash some of them",
                lowers.len()
            ),
            source: None,
        });
    }
    let layers = Layers::open(lowers, top)?;
    loop {
        let dialect = match DIALECT.load(Ordering::Relaxed) {
            0 => Dialect::Descriptors,
            1 => Dialect::Paths,
            _ => Dialect::Options,
        };
        match mount_in(dialect, &layers) {
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
    top: Option<(OwnedFd, OwnedFd)>,
}

impl Layers {
    fn open(lowers: &[PathBuf], top: Option<(&Path, &Path)>) -> Result<Self, Error> {
        let open = |path: &Path| {
            // Not O_PATH: fsconfig takes only real descriptors before 6.14.
            rustix::fs::open(
                path,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|errno| Error::new(format!("open `{}`", path.display()), errno))
        };
        Ok(Self {
            lowers: lowers
                .iter()
                .map(|path| open(path))
                .collect::<Result<_, _>>()?,
            top: match top {
                Some((upper, work)) => Some((open(upper)?, open(work)?)),
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
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| failed("open the overlay file system (is the module loaded?)", errno))?;
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
    if let Some((upper, work)) = &layers.top {
        set("upperdir", upper.as_fd()).map_err(|errno| failed("name the upper directory", errno))?;
        set("workdir", work.as_fd()).map_err(|errno| failed("name the work directory", errno))?;
        rustix::mount::fsconfig_set_flag(fs.as_fd(), "volatile")
            .map_err(|errno| failed("ask for a volatile overlay", errno))?;
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
