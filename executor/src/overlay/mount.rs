//! The mount itself: what the kernel is told, in the newest way that it understands.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use rbuild_cache::Store;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::{Durability, Error, MOST_LAYERS, legacy};
use crate::host;
use crate::mapped::Mapped;

/// What this kernel understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Dialect {
    Descriptors = 0,
    Paths = 1,
    Options = 2,
}

static DIALECT: AtomicU8 = AtomicU8::new(Dialect::Descriptors as u8);

/// Of what was tried until now.
pub(super) fn understood() -> &'static str {
    match DIALECT.load(Ordering::Relaxed) {
        0 => "layers by descriptors (Linux 6.13)",
        1 => "layers by paths (Linux 6.5)",
        _ => "layers in one option (before Linux 6.5)",
    }
}

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
pub(super) struct Layers {
    pub(super) lowers: Vec<OwnedFd>,
    pub(super) top: Option<(OwnedFd, OwnedFd, Durability)>,
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
pub(super) const OPTIONS: &[(&str, Option<&str>)] = &[
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
