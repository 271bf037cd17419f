//! What the kernel shows inside: /proc, /sys and /dev, each made by us and mounted on a directory of the image that
//! is verified not to be a link; then what is masked in them and what is read-only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::in_root::{MountPoints, file_type};
use super::mounts::{self, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use super::plan::{self, Task};
use super::step::{Failure, Result, Step};
use crate::host::Privilege;

const GUARDED: rustix::mount::MountAttrFlags = NO_SUID.union(NO_DEV).union(NO_EXEC);

/// Mounts /proc, /sys and /dev.
pub(super) fn mount(task: &Task, points: &mut MountPoints<'_>, root: BorrowedFd<'_>) -> Result<()> {
    let proc = if task.outer_proc {
        copy_of_outer("/proc", GUARDED)?
    } else {
        mounts::make("proc", &[], GUARDED).step("make /proc")?
    };
    attach_over(&proc, points, root, "proc")?;
    let sys = sysfs()?;
    attach_over(&sys, points, root, "sys")?;
    if !task.cgroup_views.is_empty() {
        own_cgroups(&task.cgroup_views, sys.as_fd())?;
    }
    devices(task, points, root)?;
    for (path, value) in &task.sysctls {
        set_parameter(proc.as_fd(), path, value).step(format!(
            "set the kernel parameter {}",
            path.replace('/', ".")
        ))?;
    }
    if !task.unmasked {
        restrict(task, proc.as_fd(), sys.as_fd())?;
    }
    Ok(())
}

/// Writes a file below /proc/sys of our own /proc.
pub(super) fn set_parameter(proc: BorrowedFd<'_>, path: &str, value: &str) -> std::io::Result<()> {
    let file = rustix::fs::openat2(
        proc,
        format!("sys/{path}"),
        OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

/// Attaches on a directory directly below the root, refusing an image that has a link or a file there.
fn attach_over(
    tree: &OwnedFd,
    points: &mut MountPoints<'_>,
    root: BorrowedFd<'_>,
    name: &str,
) -> Result<()> {
    let open = || {
        rustix::fs::openat2(
            root,
            name,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
        )
    };
    let target = match open() {
        Err(Errno::NOENT) => {
            points
                .ensure(&Path::new("/").join(name), true)
                .step(format!("make /{name} in the image"))?;
            open()
        }
        result => result,
    };
    let target = target.step(format!(
        "mount /{name}: in the image it must be a directory, not a link or a file"
    ))?;
    mounts::attach(tree.as_fd(), target.as_fd()).step(format!("mount /{name}"))
}

/// A fresh sysfs. There can be none where the network namespace belongs to another user namespace, or where something
/// is mounted in the one that is there: then that one.
fn sysfs() -> Result<OwnedFd> {
    match mounts::make("sysfs", &[], GUARDED | READ_ONLY) {
        Err(Errno::PERM) => copy_of_outer("/sys", GUARDED | READ_ONLY),
        result => result.step("make /sys"),
    }
}

/// Its limits, where programs look for them to know how much memory and how many processors they have. They are in a
/// cgroup namespace, so that nothing above their own cgroup is seen.
fn own_cgroups(views: &[plan::CgroupView], sys: BorrowedFd<'_>) -> Result<()> {
    let options = GUARDED | READ_ONLY;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(place) = rustix::fs::openat(sys, "fs/cgroup", flags, Mode::empty()) else {
        // A kernel without cgroups, or a /sys that hides them.
        return Ok(());
    };
    if views.iter().any(|view| view.controllers.is_empty()) {
        // Some kernels and some containers around this one allow none to be mounted: then it is not shown.
        if let Ok(tree) = mounts::make("cgroup2", &[], options) {
            mounts::attach(tree.as_fd(), place.as_fd()).step("mount the cgroup")?;
        }
        return Ok(());
    }
    let all = mounts::make("tmpfs", &[("mode", "0755")], GUARDED).step("make /sys/fs/cgroup")?;
    mounts::attach(all.as_fd(), place.as_fd()).step("mount /sys/fs/cgroup")?;
    for view in views {
        let controllers: Vec<(&str, &str)> = view
            .controllers
            .iter()
            .map(|name| (name.as_str(), ""))
            .collect();
        let Ok(tree) = mounts::make("cgroup", &controllers, options) else {
            continue;
        };
        rustix::fs::mkdirat(&all, &view.name, Mode::from_raw_mode(0o755))
            .step("make a directory for a cgroup")?;
        let directory = rustix::fs::openat(&all, &view.name, flags, Mode::empty())
            .step("open the directory of a cgroup")?;
        mounts::attach(tree.as_fd(), directory.as_fd()).step("mount a cgroup")?;
        for name in view.controllers.iter().filter(|name| **name != view.name) {
            rustix::fs::symlinkat(&view.name, &all, name).step("name a cgroup")?;
        }
    }
    mounts::restrict(all.as_fd(), false, options).step("protect /sys/fs/cgroup")
}

/// What is there already, with all that is mounted in it.
fn copy_of_outer(path: &str, attributes: rustix::mount::MountAttrFlags) -> Result<OwnedFd> {
    let tree = mounts::copy_of_host(Path::new(path), true).step(format!("copy this {path}"))?;
    mounts::restrict(tree.as_fd(), true, attributes)
        .step(format!("set the options of the copy of {path}"))?;
    Ok(tree)
}

fn devices(task: &Task, points: &mut MountPoints<'_>, root: BorrowedFd<'_>) -> Result<()> {
    let dev = mounts::make(
        "tmpfs",
        &[("mode", "0755"), ("size", "65536k")],
        NO_SUID | NO_EXEC | NO_DEV,
    )
    .step("make /dev")?;
    attach_over(&dev, points, root, "dev")?;
    super::child::note_own(task, points, dev.as_fd())?;
    for (name, major, minor) in plan::DEVICES {
        device(task, dev.as_fd(), name, *major, *minor).step(format!("bind /dev/{name}"))?;
    }
    for (path, name) in &task.devices {
        further_device(task, dev.as_fd(), path, name)?;
    }
    for (name, target) in plan::LINKS {
        rustix::fs::symlinkat(*target, &dev, *name).step(format!("make the link /dev/{name}"))?;
    }
    let mut pts_options = vec![("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
    // The group tty, which a user namespace with one id lacks.
    if task.privilege != Privilege::SingleId {
        pts_options.push(("gid", "5"));
    }
    let pts = mounts::make("devpts", &pts_options, NO_SUID | NO_EXEC).step("make /dev/pts")?;
    attach_in(&dev, "pts", &pts)?;
    let size = task.shm_size.to_string();
    let shm = mounts::make("tmpfs", &[("mode", "1777"), ("size", &size)], GUARDED)
        .step("make /dev/shm")?;
    attach_in(&dev, "shm", &shm)?;
    match mounts::make("mqueue", &[], GUARDED) {
        Ok(mqueue) => attach_in(&dev, "mqueue", &mqueue)?,
        // Kernels can be built without message queues.
        Err(Errno::NODEV) => {}
        Err(errno) => return Err(errno).step("make /dev/mqueue"),
    }
    Ok(())
}

fn attach_in(dev: &OwnedFd, name: &str, tree: &OwnedFd) -> Result<()> {
    let step = || format!("mount /dev/{name}");
    rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755)).step(step())?;
    let target = rustix::fs::openat(
        dev,
        name,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step(step())?;
    mounts::attach(tree.as_fd(), target.as_fd()).step(step())
}

/// Binds a device of the host, by a descriptor that is verified to be that device.
fn device(
    task: &Task,
    dev: BorrowedFd<'_>,
    name: &str,
    major: u32,
    minor: u32,
) -> std::result::Result<(), Errno> {
    let node = device_of_host(task, name, major, minor)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(rustix::fs::openat(
        dev,
        name,
        flags,
        Mode::from_raw_mode(0o666),
    )?);
    let target = rustix::fs::openat(
        dev,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    mounts::attach(node.as_fd(), target.as_fd())
}

/// A device of the host that was asked for, at a path below /dev.
fn further_device(
    task: &Task,
    dev: BorrowedFd<'_>,
    path: &plan::Bytes,
    name: &plan::Bytes,
) -> Result<()> {
    let (path, name) = (super::child::path_of(path), super::child::path_of(name));
    let step = || {
        format!(
            "give the device {} as /dev/{}",
            path.display(),
            name.display()
        )
    };
    let node = mounts::copy_of_host(path, false).step(step())?;
    keep_node(task, &node).step(step())?;
    let kind = file_type(&rustix::fs::fstat(&node).step(step())?);
    if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        return Err(Errno::NODEV).step(step());
    }
    // What is on the way was made by us: /dev is a fresh tmpfs, and nobody else is here yet.
    let mut parent = dev.try_clone_to_owned().step(step())?;
    let mut parts = name.iter().peekable();
    while let Some(part) = parts.next() {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if parts.peek().is_some() {
            match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).step(step()),
            }
            let flags = flags | OFlags::DIRECTORY;
            parent = rustix::fs::openat(&parent, part, flags, Mode::empty()).step(step())?;
        } else {
            let make = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o666);
            drop(rustix::fs::openat(&parent, part, make, mode).step(step())?);
            let target = rustix::fs::openat(&parent, part, flags, Mode::empty()).step(step())?;
            mounts::attach(node.as_fd(), target.as_fd()).step(step())?;
        }
    }
    Ok(())
}

/// A detached copy of a device node of the host.
fn device_of_host(
    task: &Task,
    name: &str,
    major: u32,
    minor: u32,
) -> std::result::Result<OwnedFd, Errno> {
    let node = mounts::copy_of_host(Path::new("/dev").join(name).as_path(), false)?;
    let stat = rustix::fs::fstat(&node)?;
    let is_it = file_type(&stat) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(major, minor);
    if !is_it {
        return Err(Errno::NODEV);
    }
    keep_node(task, &node)?;
    Ok(node)
}

/// The node is the machine's: its owner and mode are not for root of a sandbox without a user namespace to change.
/// Devices are read and written through read-only mounts as well.
fn keep_node(task: &Task, node: &OwnedFd) -> std::result::Result<(), Errno> {
    if task.machines_root {
        mounts::restrict(node.as_fd(), false, READ_ONLY)?;
    }
    Ok(())
}

/// Masks and read-only parts, reached only through our own /proc and /sys.
fn restrict(task: &Task, proc: BorrowedFd<'_>, sys: BorrowedFd<'_>) -> Result<()> {
    let inside = |path: &str| -> std::result::Result<OwnedFd, Errno> {
        let (root, rest) = match path.strip_prefix("/proc/") {
            Some(rest) => (proc, rest),
            None => (sys, path.strip_prefix("/sys/").ok_or(Errno::INVAL)?),
        };
        rustix::fs::openat2(
            root,
            rest,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    };
    for path in plan::READ_ONLY {
        let target = match inside(path) {
            Err(Errno::NOENT) => continue,
            result => result.step(format!("open {path}"))?,
        };
        let step = || format!("make {path} read-only");
        let tree = mounts::copy(target.as_fd(), true).step(step())?;
        mounts::restrict(tree.as_fd(), true, GUARDED | READ_ONLY).step(step())?;
        mounts::attach(tree.as_fd(), target.as_fd()).step(step())?;
    }
    let null = mounts::make(
        "tmpfs",
        &[("mode", "0755"), ("size", "4k")],
        GUARDED | READ_ONLY,
    )
    .step("make an empty directory to mask with")?;
    let mut empty = Some(null);
    let mut first: Option<OwnedFd> = None;
    let mut mask = |target: OwnedFd, path: &str| -> Result<()> {
        let step = || format!("mask {path}");
        let stat = rustix::fs::fstat(&target).step(step())?;
        if file_type(&stat) == FileType::Directory {
            // The first one is the tmpfs itself, the others are copies of it: only attached mounts can be copied.
            let tree = match (empty.take(), &first) {
                (Some(tree), _) => tree,
                (None, Some(first)) => mounts::copy(first.as_fd(), false).step(step())?,
                (None, None) => {
                    return Err(Failure {
                        step: step(),
                        errno: libc::EINVAL,
                    });
                }
            };
            mounts::attach(tree.as_fd(), target.as_fd()).step(step())?;
            if first.is_none() {
                first = Some(tree);
            }
            Ok(())
        } else {
            let node = device_of_host(task, "null", 1, 3).step(step())?;
            mounts::attach(node.as_fd(), target.as_fd()).step(step())
        }
    };
    for path in plan::MASKED {
        match inside(path) {
            // Files that this kernel lacks, or that it shows to nobody here.
            Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => {}
            result => mask(result.step(format!("open {path}"))?, path)?,
        }
    }
    for path in thermal_throttles(sys) {
        if let Ok(target) = inside(&path) {
            mask(target, &path)?;
        }
    }
    Ok(())
}

/// `/sys/devices/system/cpu/cpuN/thermal_throttle` of every processor that has it.
fn thermal_throttles(sys: BorrowedFd<'_>) -> Vec<String> {
    let directory = rustix::fs::openat(
        sys,
        "devices/system/cpu",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let Ok(entries) = directory.and_then(rustix::fs::Dir::new) else {
        return Vec::new();
    };
    entries
        .filter_map(std::result::Result::ok)
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| {
            name.strip_prefix("cpu").is_some_and(|number| {
                !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
            })
        })
        .map(|name| format!("/sys/devices/system/cpu/{name}/thermal_throttle"))
        .collect()
}

/// As the machine's own /sys has them.
pub(super) fn thermal_throttles_of_host() -> Vec<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, "/sys", flags, Mode::empty()) {
        Ok(sys) => thermal_throttles(sys.as_fd()),
        Err(_) => Vec::new(),
    }
}

/// The host's null device, verified.
pub(super) fn null() -> std::result::Result<OwnedFd, Errno> {
    let fd = rustix::fs::openat(
        CWD,
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let stat = rustix::fs::fstat(&fd)?;
    if stat.st_rdev == rustix::fs::makedev(1, 3) {
        Ok(fd)
    } else {
        Err(Errno::NODEV)
    }
}
