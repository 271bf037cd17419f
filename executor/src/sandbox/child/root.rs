//! The root of a command: put together on a stage, then entered, so that nothing is above it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use super::{Descriptors, display, path_of};
use crate::sandbox::in_root::{self, MountPoints};
use crate::sandbox::mounts::{self, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use crate::sandbox::plan::{Mount, Source, Task};
use crate::sandbox::step::{Failure, Result, Step};

/// A tmpfs over the old root, where detached mounts are attached so that they can be used and copied from.
pub(in crate::sandbox) struct Stage {
    directory: OwnedFd,
    path: PathBuf,
}

impl Stage {
    pub(super) fn new() -> Result<Self> {
        let directory = mounts::make("tmpfs", &[("mode", "0700")], NO_SUID | NO_DEV | NO_EXEC)
            .step("make the stage of the root")?;
        let old_root = rustix::fs::openat(
            CWD,
            "/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .step("open the old root")?;
        mounts::attach(directory.as_fd(), old_root.as_fd()).step("attach the stage")?;
        Ok(Self {
            directory,
            path: PathBuf::from("/"),
        })
    }

    /// In a directory of its own.
    pub(in crate::sandbox) fn at(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty());
        Ok(Self {
            directory: directory.step("open the stage")?,
            path: path.to_owned(),
        })
    }

    pub(in crate::sandbox) fn path(&self) -> &Path {
        &self.path
    }

    /// Attaches a detached mount under a name and returns its root.
    pub(in crate::sandbox) fn attach(&self, tree: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
        self.attach_as(tree, name, true)
    }

    /// Of a directory or of a file.
    pub(in crate::sandbox) fn attach_as(
        &self,
        tree: BorrowedFd<'_>,
        name: &str,
        directory: bool,
    ) -> Result<OwnedFd> {
        let step = || format!("attach the mount `{name}`");
        if directory {
            rustix::fs::mkdirat(&self.directory, name, Mode::from_raw_mode(0o700)).step(step())?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o600);
            drop(rustix::fs::openat(&self.directory, name, flags, mode).step(step())?);
        }
        let open = || {
            rustix::fs::openat(
                &self.directory,
                name,
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        let target = open().step(step())?;
        mounts::attach(tree, target.as_fd()).step(step())?;
        open().step(step())
    }
}

pub(super) fn mount_all(
    task: &Task,
    descriptors: &Descriptors,
    stage: &Stage,
    points: &mut MountPoints<'_>,
) -> Result<()> {
    let files = stage.attach(descriptors.get(task.files)?, "files")?;
    for (index, mount) in task.mounts.iter().enumerate() {
        let target = display(&mount.target);
        let below = || points.mode_of_tmpfs(path_of(&mount.target));
        let (tree, directory) = source(mount, descriptors, stage, &files, index, below)?;
        let mut attributes = task.no_devices();
        if !matches!(mount.source, Source::Tree { .. } | Source::Whole { .. }) {
            attributes |= NO_SUID;
        }
        if !matches!(mount.source, Source::Whole { .. }) {
            let is_memory = matches!(mount.source, Source::Tmpfs(_));
            note_own(task, points, tree.as_fd(), is_memory)?;
        }
        restrict(mount, tree.as_fd(), attributes)
            .step(format!("set the options of the mount at {target}"))?;
        let point = mount_point(points, path_of(&mount.target), directory)?;
        refuse_own(&point, points, &target)?;
        mounts::attach(tree.as_fd(), point.as_fd()).step(format!("mount at {target}"))?;
    }
    Ok(())
}

/// What a directory or a file is mounted on. Neither is mounted on the other.
pub(in crate::sandbox) fn mount_point(
    points: &mut MountPoints<'_>,
    target: &Path,
    directory: bool,
) -> Result<OwnedFd> {
    points.ensure(target, directory).map_err(|errno| {
        let shown = target.display();
        let step = match errno {
            Errno::NOTDIR if directory => {
                format!("mount a directory at {shown}, which is a file or below one")
            }
            Errno::ISDIR => format!("mount a file at {shown}, which is a directory"),
            _ => format!("make the mount point {shown}"),
        };
        Failure {
            step,
            errno: errno.raw_os_error(),
        }
    })
}

/// Sets the options of a detached mount, and says whether others travel to it.
pub(in crate::sandbox) fn restrict(
    mount: &Mount,
    tree: BorrowedFd<'_>,
    mut attributes: MountAttrFlags,
) -> std::result::Result<(), Errno> {
    if mount.read_only && mount.writable_below {
        mounts::restrict(tree, false, READ_ONLY)?;
    } else if mount.read_only {
        attributes |= READ_ONLY;
    }
    match mount.propagation {
        // As it was when it was copied.
        Some(_) => mounts::restrict(tree, true, attributes),
        None => mounts::restrict_privately(tree, attributes),
    }
}

/// Where devices may be made for the command: on what is the sandbox's own, so that nobody else finds them, and where
/// something only stands for them, in memory, which goes with the sandbox.
pub(in crate::sandbox) fn note_own(
    task: &Task,
    points: &mut MountPoints<'_>,
    tree: BorrowedFd<'_>,
    is_memory: bool,
) -> Result<()> {
    if task.makes_devices() || (is_memory && task.has_stand_ins()) {
        let id = in_root::mount_id(tree).step("look at a mount")?;
        points.own_mounts.push(id);
    }
    Ok(())
}

/// A target that leads, through links, to the root or into /proc would take away what the sandbox stands on.
pub(in crate::sandbox) fn refuse_own(
    point: &OwnedFd,
    points: &MountPoints<'_>,
    target: &str,
) -> Result<()> {
    let step =
        || format!("mount at the target {target}, which leads to a part of the sandbox itself");
    let file_system = rustix::fs::fstatfs(point).step(step())?;
    if file_system.f_type == rustix::fs::PROC_SUPER_MAGIC || points.is_root(point).step(step())? {
        return Err(Failure {
            step: step(),
            errno: libc::EBUSY,
        });
    }
    Ok(())
}

/// The detached mount of a source, and whether it is a directory. A tmpfs has the mode `below` where it says none.
pub(in crate::sandbox) fn source(
    mount: &Mount,
    descriptors: &Descriptors,
    stage: &Stage,
    files: &OwnedFd,
    index: usize,
    below: impl FnOnce() -> u32,
) -> Result<(OwnedFd, bool)> {
    let target = display(&mount.target);
    match &mount.source {
        Source::Tmpfs(tmpfs) => {
            let options = [
                (
                    "mode",
                    Some(format!("{:o}", tmpfs.mode.unwrap_or_else(below))),
                ),
                ("size", tmpfs.size.map(|size| size.to_string())),
                ("uid", tmpfs.uid.map(|uid| uid.to_string())),
                ("gid", tmpfs.gid.map(|gid| gid.to_string())),
                ("nr_inodes", tmpfs.inodes.map(|most| most.to_string())),
            ];
            let options: Vec<(&str, &str)> = options
                .iter()
                .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
                .collect();
            let mut attributes = NO_SUID | NO_DEV;
            if tmpfs.no_exec {
                attributes |= NO_EXEC;
            }
            let tree = mounts::make("tmpfs", &options, attributes)
                .step(format!("make the tmpfs for {target}"))?;
            Ok((tree, true))
        }
        Source::File { name } => {
            let step = || format!("open the file for {target}");
            let file = in_root::open(files.as_fd(), Path::new(name), OFlags::PATH).step(step())?;
            Ok((mounts::copy(file.as_fd(), false).step(step())?, false))
        }
        Source::Whole { tree } => {
            let step = || format!("look at the source of the mount at {target}");
            let tree = descriptors.get(*tree)?.try_clone_to_owned().step(step())?;
            let stat = rustix::fs::fstat(&tree).step(step())?;
            let directory = in_root::file_type(&stat) == rustix::fs::FileType::Directory;
            Ok((tree, directory))
        }
        Source::Tree { tree, path } => {
            let root = stage.attach(descriptors.get(*tree)?, &index.to_string())?;
            let step = || {
                format!(
                    "open `{}`, the source of the mount at {target}",
                    display(path)
                )
            };
            let found = in_root::open(root.as_fd(), path_of(path), OFlags::PATH).step(step())?;
            let stat = rustix::fs::fstat(&found).step(step())?;
            let directory = in_root::file_type(&stat) == rustix::fs::FileType::Directory;
            Ok((mounts::copy(found.as_fd(), true).step(step())?, directory))
        }
    }
}

/// The working directory, made where it is missing; unlike mount points it stays.
pub(in crate::sandbox) fn prepare_cwd(
    task: &Task,
    points: &mut MountPoints<'_>,
) -> Result<OwnedFd> {
    let result = points.ensure(path_of(&task.command.cwd), true);
    result.step(format!(
        "enter the working directory {}",
        display(&task.command.cwd)
    ))
}

/// The root becomes `/`; the old one, the stage and all of the host's mounts go.
pub(super) fn enter_root(root: &OwnedFd) -> Result<()> {
    let old = rustix::fs::openat(
        CWD,
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("open the old root")?;
    rustix::process::fchdir(root).step("enter the root")?;
    rustix::process::pivot_root(".", ".").step(
        "make the root the root (this fails when the machine runs from its initial RAM disk)",
    )?;
    // The old root now lies over the new one, and the stage over the old root; `old` is the way to them.
    rustix::process::fchdir(&old).step("enter the old root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("leave the stage")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("leave the old root")?;
    rustix::process::chdir("/").step("enter the root")?;
    nothing_above_root()
}

/// `/..` leads to whatever is mounted over the root: nothing may be.
fn nothing_above_root() -> Result<()> {
    let mount_of = |path: &str| {
        rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
            .map(|stat| (stat.stx_mnt_id, stat.stx_ino))
    };
    let step = "make sure that the old root is gone";
    if mount_of("/").step(step)? == mount_of("/..").step(step)? {
        Ok(())
    } else {
        Err(Failure {
            step: step.into(),
            errno: libc::EBUSY,
        })
    }
}

pub(super) fn make_root_read_only() -> Result<()> {
    let root = rustix::fs::openat(
        CWD,
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("open the root")?;
    mounts::restrict(root.as_fd(), false, READ_ONLY).step("make the root read-only")
}

/// Enters by descriptor and makes sure that the result is inside.
pub(in crate::sandbox) fn enter_cwd(cwd: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(cwd).step("enter the working directory")?;
    let now = rustix::process::getcwd(Vec::new()).step("enter the working directory")?;
    if now.to_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(Failure {
            step: "enter the working directory, which is outside of the root".into(),
            errno: libc::EXDEV,
        })
    }
}
