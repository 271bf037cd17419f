//! What the kernel shows inside: /proc, /sys and /dev, each made by us and mounted on a directory of the image that
//! is verified not to be a link; then what is masked in them and what is read-only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::child::root::Stage;
use super::in_root::{MountPoints, file_type};
use super::mounts::{self, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use super::plan::{self, Space, Surroundings, Task};
use super::step::{Result, Step};
use crate::host::Privilege;

const GUARDED: rustix::mount::MountAttrFlags = NO_SUID.union(NO_DEV).union(NO_EXEC);

/// /proc and /dev as far as they do not depend on the command, attached on the stage.
pub(super) struct KernelFiles {
    proc: OwnedFd,
    dev: OwnedFd,
    masks: Masks,
}

impl KernelFiles {
    /// Makes them in the pid namespace, and in the network namespace where kernel parameters are to be set, of the
    /// command.
    pub(super) fn make(surroundings: &Surroundings, stage: &Stage) -> Result<Self> {
        let proc = if surroundings.outer_proc {
            copy_of_outer("/proc", GUARDED)?
        } else {
            match mounts::make("proc", &[], GUARDED) {
                // Only the machine's root can mount one that shows the machine's processes.
                Err(Errno::PERM) if surroundings.spaces.processes == Space::Host => {
                    copy_of_outer("/proc", GUARDED)?
                }
                made => made.step("make /proc")?,
            }
        };
        let proc = stage.attach(proc.as_fd(), "proc")?;
        let dev = devices(surroundings, stage)?;
        for (path, value) in &surroundings.sysctls {
            set_parameter(proc.as_fd(), path, value).step(format!(
                "set the kernel parameter {}",
                path.replace('/', ".")
            ))?;
        }
        let mut masks = Masks::default();
        if !surroundings.unmasked {
            let machines_root = surroundings.machines_root;
            restrict("/proc/", proc.as_fd(), machines_root, &mut masks)?;
        }
        Ok(Self { proc, dev, masks })
    }

    /// The same as mounts that are younger than the root, which was made after these: a command finds the root first in
    /// its list of mounts.
    pub(super) fn anew(self) -> Result<Self> {
        let copy = |tree: &OwnedFd| mounts::copy(tree.as_fd(), true);
        Ok(Self {
            proc: copy(&self.proc).step("copy /proc")?,
            dev: copy(&self.dev).step("copy /dev")?,
            masks: self.masks,
        })
    }

    /// Moves them into the root, adds what is the command's own, and mounts /sys.
    pub(super) fn mount(
        mut self,
        task: &Task,
        shared_memory: Option<BorrowedFd<'_>>,
        points: &mut MountPoints<'_>,
        root: BorrowedFd<'_>,
    ) -> Result<()> {
        attach_over(&self.proc, points, root, "proc")?;
        let sys = sysfs()?;
        attach_over(&sys, points, root, "sys")?;
        if !task.cgroup_views.is_empty() {
            own_cgroups(&task.cgroup_views, sys.as_fd())?;
        }
        attach_over(&self.dev, points, root, "dev")?;
        super::child::root::note_own(task, points, self.dev.as_fd(), true)?;
        if task.opens_devices {
            mounts::allow_devices(self.dev.as_fd()).step("let devices be opened in /dev")?;
        }
        for (path, name) in &task.devices {
            further_device(task, self.dev.as_fd(), path, name)?;
        }
        if let Some(shm) = shared_memory {
            mounts::restrict(shm, true, GUARDED).step("set the options of /dev/shm")?;
            attach_in(&self.dev, "shm", shm)?;
        } else if task.spaces.ipc == Space::Own && !task.spaces.no_shared_memory {
            let size = task.shm_size.to_string();
            let shm = mounts::make("tmpfs", &[("mode", "1777"), ("size", &size)], GUARDED)
                .step("make /dev/shm")?;
            super::child::root::note_own(task, points, shm.as_fd(), true)?;
            attach_in(&self.dev, "shm", shm.as_fd())?;
        }
        if !task.unmasked {
            restrict("/sys/", sys.as_fd(), task.machines_root, &mut self.masks)?;
            for path in thermal_throttles(sys.as_fd()) {
                if let Ok(target) = inside("/sys/", sys.as_fd(), &path) {
                    self.masks.mask(&target, &path, task.machines_root)?;
                }
            }
        }
        Ok(())
    }
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

/// /dev, but for what the command asks for.
fn devices(surroundings: &Surroundings, stage: &Stage) -> Result<OwnedFd> {
    let dev = mounts::make(
        "tmpfs",
        &[("mode", "0755"), ("size", "65536k")],
        NO_SUID | NO_EXEC | NO_DEV,
    )
    .step("make /dev")?;
    let dev = stage.attach(dev.as_fd(), "dev")?;
    for (name, major, minor) in plan::DEVICES {
        device(
            surroundings.machines_root,
            dev.as_fd(),
            name,
            *major,
            *minor,
        )
        .step(format!("bind /dev/{name}"))?;
    }
    for (name, target) in plan::LINKS {
        rustix::fs::symlinkat(*target, &dev, *name).step(format!("make the link /dev/{name}"))?;
    }
    let mut pts_options = vec![("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
    // The group tty, which a user namespace with one id lacks.
    if surroundings.privilege != Privilege::SingleId {
        pts_options.push(("gid", "5"));
    }
    let pts = mounts::make("devpts", &pts_options, NO_SUID | NO_EXEC).step("make /dev/pts")?;
    attach_in(&dev, "pts", pts.as_fd())?;
    match mounts::make("mqueue", &[], GUARDED) {
        Ok(mqueue) => attach_in(&dev, "mqueue", mqueue.as_fd())?,
        // Only the machine's root can mount the queues of its IPC namespace.
        Err(Errno::PERM) if surroundings.spaces.ipc == Space::Host => {
            if Path::new("/dev/mqueue").is_dir() {
                attach_in(
                    &dev,
                    "mqueue",
                    copy_of_outer("/dev/mqueue", GUARDED)?.as_fd(),
                )?;
            }
        }
        // Kernels can be built without message queues.
        Err(Errno::NODEV) => {}
        Err(errno) => return Err(errno).step("make /dev/mqueue"),
    }
    Ok(dev)
}

fn attach_in(dev: &OwnedFd, name: &str, tree: BorrowedFd<'_>) -> Result<()> {
    let step = || format!("mount /dev/{name}");
    rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755)).step(step())?;
    let target = rustix::fs::openat(
        dev,
        name,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step(step())?;
    mounts::attach(tree, target.as_fd()).step(step())
}

/// Binds a device of the host, by a descriptor that is verified to be that device.
fn device(
    machines_root: bool,
    dev: BorrowedFd<'_>,
    name: &str,
    major: u32,
    minor: u32,
) -> std::result::Result<(), Errno> {
    let node = device_of_host(machines_root, name, major, minor)?;
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
    keep_node(task.machines_root, &node).step(step())?;
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
    machines_root: bool,
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
    keep_node(machines_root, &node)?;
    Ok(node)
}

/// The node is the machine's: its owner and mode are not for root of a sandbox without a user namespace to change.
/// Devices are read and written through read-only mounts as well.
fn keep_node(machines_root: bool, node: &OwnedFd) -> std::result::Result<(), Errno> {
    if machines_root {
        mounts::restrict(node.as_fd(), false, READ_ONLY)?;
    }
    Ok(())
}

/// A path of our own /proc or /sys, which is `base`.
fn inside(base: &str, tree: BorrowedFd<'_>, path: &str) -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        tree,
        path.strip_prefix(base).ok_or(Errno::INVAL)?,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

/// What of our own /proc or /sys (`base`) is masked, and what is read-only; reached only through that.
fn restrict(
    base: &str,
    tree: BorrowedFd<'_>,
    machines_root: bool,
    masks: &mut Masks,
) -> Result<()> {
    for path in plan::READ_ONLY {
        if !path.starts_with(base) {
            continue;
        }
        let target = match inside(base, tree, path) {
            Err(Errno::NOENT) => continue,
            result => result.step(format!("open {path}"))?,
        };
        let step = || format!("make {path} read-only");
        let part = mounts::copy(target.as_fd(), true).step(step())?;
        mounts::restrict(part.as_fd(), true, GUARDED | READ_ONLY).step(step())?;
        mounts::attach(part.as_fd(), target.as_fd()).step(step())?;
    }
    for path in plan::MASKED {
        if !path.starts_with(base) {
            continue;
        }
        match inside(base, tree, path) {
            // Files that this kernel lacks, or that it shows to nobody here.
            Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => {}
            result => masks.mask(&result.step(format!("open {path}"))?, path, machines_root)?,
        }
    }
    Ok(())
}

/// What is masked with.
#[derive(Default)]
struct Masks {
    /// An empty directory that is attached somewhere: only such can be copied.
    empty: Option<OwnedFd>,
}

impl Masks {
    fn mask(&mut self, target: &OwnedFd, path: &str, machines_root: bool) -> Result<()> {
        let step = || format!("mask {path}");
        let stat = rustix::fs::fstat(target).step(step())?;
        if file_type(&stat) != FileType::Directory {
            let node = device_of_host(machines_root, "null", 1, 3).step(step())?;
            return mounts::attach(node.as_fd(), target.as_fd()).step(step());
        }
        if let Some(empty) = &self.empty {
            let tree = mounts::copy(empty.as_fd(), false).step(step())?;
            return mounts::attach(tree.as_fd(), target.as_fd()).step(step());
        }
        let options = [("mode", "0755"), ("size", "4k")];
        let tree = mounts::make("tmpfs", &options, GUARDED | READ_ONLY)
            .step("make an empty directory to mask with")?;
        mounts::attach(tree.as_fd(), target.as_fd()).step(step())?;
        self.empty = Some(tree);
        Ok(())
    }
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
