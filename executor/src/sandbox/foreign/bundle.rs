//! An OCI bundle in memory: `config.json`, `rootfs`, and beside them what the configuration names as sources of mounts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::process::Pid;

use super::super::child::root::Stage;
use super::super::child::{self, Descriptors};
use super::super::in_root::MountPoints;
use super::super::mounts::{self, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use super::super::plan::{Parent, Source, Stub, Task};
use super::super::step::{Result, Step};
use super::config;

/// Directories of which one is there on every machine, and which only this mount namespace misses.
const PLACES: [&str; 3] = ["/mnt", "/tmp", "/run"];

const CGROUPS: &str = "/sys/fs/cgroup";

pub(super) struct Bundle {
    path: PathBuf,
    /// Where something is mounted on the container's root.
    targets: Vec<PathBuf>,
    /// As in [`super::super::plan::Report::Ready`].
    pub(super) stubs: Vec<Stub>,
    pub(super) parents: Vec<Parent>,
}

impl Bundle {
    pub(super) fn make(task: &Task, runtime: &Path, descriptors: &Descriptors) -> Result<Self> {
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .step("make mounts private")?;
        let path = surroundings(runtime)?;
        let stage = Stage::at(&path)?;
        let root = stage.attach(descriptors.get(task.root)?, "rootfs")?;
        let mut points = MountPoints::new(root.as_fd()).step("look at the root")?;
        for name in ["/proc", "/sys", "/dev"] {
            let point = points.ensure(Path::new(name), true);
            point.step(format!("make {name} in the image"))?;
        }
        let files = stage.attach(descriptors.get(task.files)?, "files")?;
        let mut entries = config::kernel_mounts(task, fresh_sys(&stage)?.as_deref(), has_queues());
        let mut targets: Vec<PathBuf> = ["/proc", "/sys", "/dev"].map(PathBuf::from).into();
        if let Some(slot) = task.shared_memory {
            stage.attach_as(descriptors.get(slot)?, "shm", true)?;
            let options = ["nodev", "nosuid", "noexec"];
            entries.push(config::bind(
                &path.join("shm"),
                Path::new("/dev/shm"),
                &options,
            )?);
        }
        for (path, name) in &task.devices {
            entries.push(config::device(path, name)?);
        }
        for (index, mount) in task.mounts.iter().enumerate() {
            let target = child::path_of(&mount.target).to_owned();
            let is_inside = targets.iter().any(|outer| target.starts_with(outer));
            let below = || match is_inside {
                true => 0o1777,
                false => points.mode_of_tmpfs(&target),
            };
            let (tree, directory) =
                child::root::source(mount, descriptors, &stage, &files, index, below)?;
            // Runtimes take away what is not named to them.
            let (mut attributes, mut options) = (task.no_devices(), Vec::new());
            if !task.opens_devices {
                options.push("nodev");
            }
            if mount.read_only {
                options.push("ro");
            }
            if !matches!(mount.source, Source::Tree { .. } | Source::Whole { .. }) {
                attributes |= NO_SUID;
                options.push("nosuid");
            }
            if matches!(&mount.source, Source::Tmpfs(tmpfs) if tmpfs.no_exec) {
                options.push("noexec");
            }
            child::root::restrict(mount, tree.as_fd(), attributes).step(format!(
                "set the options of the mount at {}",
                target.display()
            ))?;
            // Inside another mount, the runtime makes it there.
            if !is_inside {
                let point = child::root::mount_point(&mut points, &target, directory)?;
                child::root::refuse_own(&point, &points, &target.display().to_string())?;
            }
            let name = format!("mount-{index}");
            stage.attach_as(tree.as_fd(), &name, directory)?;
            options.push(config::propagation(mount.propagation));
            entries.push(config::bind(&path.join(name), &target, &options)?);
            targets.push(target);
        }
        let (stubs, parents) = (
            std::mem::take(&mut points.stubs),
            std::mem::take(&mut points.parents),
        );
        let cwd = child::path_of(&task.command.cwd);
        if !targets.iter().any(|outer| cwd.starts_with(outer)) {
            child::root::prepare_cwd(task, &mut points)?;
        }
        let config = config::of(task, &entries)?;
        let bundle = Self {
            path,
            targets,
            stubs,
            parents,
        };
        let write = || {
            std::fs::create_dir(bundle.state())?;
            std::fs::write(bundle.path.join("config.json"), config.to_string())
        };
        write().step("write config.json")?;
        Ok(bundle)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn root(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Where the runtime keeps its state.
    pub(super) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(super) fn console(&self) -> PathBuf {
        self.path.join("console")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.path.join("pid")
    }

    /// The last error that the runtime logged.
    pub(super) fn last_words(&self) -> Option<String> {
        super::last_error(&std::fs::read(self.log()).ok()?)
    }

    /// The container's first process, which becomes a child of this one.
    pub(super) fn container(&self) -> Result<Pid> {
        let text = std::fs::read_to_string(self.pid_file());
        super::pid_in(&text.step("read the container's number")?)
    }

    /// Whether a path cannot be looked at from here.
    pub(super) fn is_mounted_over(&self, path: &Path) -> bool {
        self.targets.iter().any(|target| path.starts_with(target))
    }
}

/// What the runtime finds of the machine: its files, with a /proc of this pid namespace, no cgroup that it could
/// change, and a directory for the bundle.
fn surroundings(runtime: &Path) -> Result<PathBuf> {
    let hides = |place: &&str| !runtime.starts_with(place) && Path::new(place).is_dir();
    let place = PLACES.iter().find(|place| hides(place)).ok_or(libc::ENOENT);
    let place = place
        .map_err(std::io::Error::from_raw_os_error)
        .step("find a directory to lay the bundle out in")?;
    let tree = mounts::make("tmpfs", &[("mode", "0711")], NO_SUID | NO_DEV);
    over(place, &tree.step("make files in memory")?)?;
    let proc = mounts::make("proc", &[], NO_SUID | NO_DEV | NO_EXEC).step(
        "make /proc (when this machine is itself a container, its /proc must not be masked)",
    )?;
    over("/proc", &proc)?;
    let cgroups = Path::new(CGROUPS);
    if cgroups.is_dir() {
        let options = NO_SUID | NO_DEV | NO_EXEC | READ_ONLY;
        // Some runtimes do not begin where there are cgroups of both versions, even if told to let them alone.
        let seen = if super::is(runtime, "crun") && cgroups.join("unified").is_dir() {
            mounts::make("tmpfs", &[("mode", "0555")], options).step("hide the cgroups")?
        } else {
            let step = "make the cgroups read-only";
            let copy = mounts::copy_of_host(cgroups, true).step(step)?;
            mounts::restrict(copy.as_fd(), true, READ_ONLY).step(step)?;
            copy
        };
        over(CGROUPS, &seen)?;
    }
    Ok(PathBuf::from(place))
}

fn over(place: &str, tree: &OwnedFd) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, place, flags, Mode::empty())
        .and_then(|target| mounts::attach(tree.as_fd(), target.as_fd()))
        .step(format!("mount over {place}"))
}

/// A copy of the machine's /sys where none can be made, because the network belongs to another user namespace.
fn fresh_sys(stage: &Stage) -> Result<Option<PathBuf>> {
    let guarded = NO_SUID | NO_DEV | NO_EXEC | READ_ONLY;
    if mounts::make("sysfs", &[], guarded).is_ok() {
        return Ok(None);
    }
    let sys = mounts::copy_of_host(Path::new("/sys"), true).step("copy the host's /sys")?;
    mounts::restrict(sys.as_fd(), true, guarded).step("make /sys read-only")?;
    stage.attach_as(sys.as_fd(), "sys", true)?;
    Ok(Some(stage.path().join("sys")))
}

/// Kernels can be built without message queues.
fn has_queues() -> bool {
    mounts::make("mqueue", &[], NO_SUID | NO_DEV | NO_EXEC).is_ok()
}
