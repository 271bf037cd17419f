//! Limits of memory, processors and processes: a cgroup of the command's own, in whichever hierarchy (v2, v1, or both
//! at once) has the controller. Made only where a limit is asked for. And which devices may be used in it.

mod devices;
mod leftovers;
mod live;
mod setting;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub use live::Usage;
pub(super) use live::{freeze, processes_with, usage};
pub(super) use setting::change;
use setting::{Setting, settings};

use super::ExecError;
use super::plan::CgroupView;
use super::prepare::setup;
use crate::spec::Limits;

/// What a hierarchy of version 1 can be of; its other options are none.
const LEGACY: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// The directories of one command's cgroup. Dropping it removes them; its processes must have ended.
#[derive(Debug, Default)]
pub(super) struct Cgroup {
    directories: Vec<PathBuf>,
    /// Where kills for memory are counted.
    kills: Option<PathBuf>,
    /// What a command with limits is shown of them.
    views: Vec<CgroupView>,
}

/// Of a command that asks for nothing else: enough for any build, too few to take the machine down.
const DEFAULT_PIDS: u64 = 4096;

impl Cgroup {
    /// Makes it, with its limits. The descriptors are what a process joins by. `None` where none is asked for and this
    /// user can make none for the usual ones.
    pub(super) fn make(
        limits: &Limits,
        accounted: bool,
    ) -> Result<Option<(Self, Vec<OwnedFd>)>, ExecError> {
        static NO_DEFAULT: AtomicBool = AtomicBool::new(false);
        if limits.pids.is_some() || NO_DEFAULT.load(Ordering::Relaxed) {
            return Self::make_asked(limits, accounted);
        }
        let usual = Limits {
            pids: Some(DEFAULT_PIDS),
            ..limits.clone()
        };
        let shown = settings(limits)?
            .iter()
            .any(|setting| setting.controller != "pids");
        let made = Self::make_asked(&usual, accounted);
        if let Ok(made) = made {
            return Ok(made.map(|(mut cgroup, joined)| {
                if !shown {
                    cgroup.views.clear();
                }
                (cgroup, joined)
            }));
        }
        let made = Self::make_asked(limits, accounted);
        // What was asked for is possible: then it is the usual that is not, now and later.
        NO_DEFAULT.store(made.is_ok(), Ordering::Relaxed);
        made
    }

    fn make_asked(
        limits: &Limits,
        accounted: bool,
    ) -> Result<Option<(Self, Vec<OwnedFd>)>, ExecError> {
        let settings = settings(limits)?;
        if settings.is_empty() && limits.cgroup_parent.is_none() && !accounted {
            return Ok(None);
        }
        let cgroup = Self::with(&settings, limits.cgroup_parent.as_deref(), accounted)?;
        if cgroup.directories.is_empty() {
            return Ok(None);
        }
        let joined = doors(&cgroup.directories)
            .map_err(|error| setup("open the cgroup to join it", error))?;
        Ok(Some((cgroup, joined)))
    }

    /// Makes the directories that these take, with what is to be written.
    fn with(
        settings: &[Setting],
        parent: Option<&str>,
        accounted: bool,
    ) -> Result<Self, ExecError> {
        let hierarchies =
            Hierarchies::read().map_err(|error| setup("find the cgroup file systems", error))?;
        let mut cgroup = Self::default();
        let mut places: Vec<(&str, Place)> = Vec::new();
        let name = unique_name();
        for setting in settings {
            if !places.iter().any(|(known, _)| *known == setting.controller) {
                let place = hierarchies
                    .place(setting.controller, parent, &name)
                    .map_err(|error| missing(setting.controller, error))?;
                if !cgroup.directories.contains(&place.directory) {
                    cgroup.directories.push(place.directory.clone());
                    cgroup.views.push(place.view.clone());
                }
                places.push((setting.controller, place));
            }
        }
        if settings.is_empty() && parent.is_some() {
            let place = hierarchies
                .place("pids", parent, &name)
                .map_err(|error| missing("pids", error))?;
            cgroup.directories.push(place.directory);
        }
        if accounted {
            cgroup.account(&hierarchies, parent, &name);
        }
        for setting in settings {
            let Some((_, place)) = places
                .iter()
                .find(|(known, _)| *known == setting.controller)
            else {
                continue;
            };
            cgroup.apply(setting, place)?;
        }
        Ok(cgroup)
    }

    /// A cgroup around processes that run already, with limits of these controllers or to halt them; `processes` is
    /// asked until there are no others.
    pub(super) fn around(
        limits: Option<(Vec<&'static str>, &Limits)>,
        processes: impl Fn() -> io::Result<Vec<u32>>,
    ) -> Result<Self, ExecError> {
        let failed = |error: io::Error| {
            let step = "make a cgroup for the container (as root it needs a writable /sys/fs/cgroup; otherwise the session manager must delegate it)";
            setup(step, error)
        };
        let cgroup = match limits {
            Some((controllers, limits)) => {
                let mut settings = settings(limits)?;
                settings.retain(|setting| controllers.contains(&setting.controller));
                Self::with(&settings, limits.cgroup_parent.as_deref(), false)?
            }
            None => Self {
                directories: vec![
                    Hierarchies::read()
                        .and_then(|hierarchies| hierarchies.freezer(None, &unique_name()))
                        .map_err(failed)?,
                ],
                kills: None,
                views: Vec::new(),
            },
        };
        let mut moved: Vec<u32> = Vec::new();
        loop {
            let mut all = processes().map_err(failed)?;
            all.retain(|pid| !moved.contains(pid));
            if all.is_empty() {
                return Ok(cgroup);
            }
            for pid in all {
                for directory in &cgroup.directories {
                    match write(&directory.join("cgroup.procs"), &pid.to_string()) {
                        // It ended meanwhile.
                        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                        result => result.map_err(failed)?,
                    }
                }
                moved.push(pid);
            }
        }
    }

    /// Of a command whose limits somebody asked for: what it reads them from.
    pub(super) fn views(&self) -> &[CgroupView] {
        &self.views
    }

    pub(super) fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// Places where use is counted and processes can be halted, as far as they can be had.
    fn account(&mut self, hierarchies: &Hierarchies, parent: Option<&str>, name: &str) {
        let counted = ["memory", "cpu", "cpuacct", "pids", "blkio"];
        let places = counted
            .iter()
            .filter_map(|controller| hierarchies.place(controller, parent, name).ok())
            .map(|place| place.directory);
        let freezer = hierarchies.freezer(parent, name).ok();
        for directory in places.chain(freezer) {
            if !self.directories.contains(&directory) {
                self.directories.push(directory);
            }
        }
    }

    fn apply(&mut self, setting: &Setting, place: &Place) -> Result<(), ExecError> {
        if setting.controller == "memory" {
            let counter = if place.unified {
                "memory.events"
            } else {
                "memory.oom_control"
            };
            self.kills = Some(place.directory.join(counter));
        }
        let written = setting.write(&place.directory, place.unified);
        written.map_err(|error| setting.cannot(place.unified, error))
    }

    /// Whether the kernel killed something in it for its memory limit.
    pub(super) fn killed_for_memory(&self) -> bool {
        self.kills
            .as_ref()
            .and_then(|path| fs::read_to_string(path).ok())
            .is_some_and(|text| kills(&text) > 0)
    }
}

/// Which version of cgroups limits each of these here, or why none does.
pub(crate) fn controllers() -> [(&'static str, Result<&'static str, String>); 2] {
    ["memory", "cpu"].map(|name| (name, controller(name)))
}

fn controller(name: &str) -> Result<&'static str, String> {
    let tried = Hierarchies::read().and_then(|hierarchies| {
        let place = hierarchies.place(name, None, &unique_name())?;
        remove([place.directory.as_path()].into_iter());
        Ok(if place.unified { "v2" } else { "v1" })
    });
    tried.map_err(|error| error.to_string())
}

/// Which version of cgroups can hold a number of processes here, or why none can. Tried once.
pub(super) fn of_pids() -> Result<&'static str, String> {
    static TRIED: OnceLock<Result<&'static str, String>> = OnceLock::new();
    TRIED.get_or_init(|| controller("pids")).clone()
}

fn missing(controller: &str, error: io::Error) -> ExecError {
    setup(no_controller(controller), error)
}

/// What cannot be done, and what would help.
pub(super) fn no_controller(controller: &str) -> String {
    format!(
        "limit {controller}: no cgroup with the controller `{controller}` can be made by this user (as root it needs a writable /sys/fs/cgroup; otherwise the session manager must delegate it)"
    )
}

fn kills(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or(0)
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(self.directories.iter().map(PathBuf::as_path));
    }
}

/// Removes directories of a cgroup.
pub(super) fn remove<'d>(directories: impl Iterator<Item = &'d Path>) {
    for directory in directories {
        leftovers::let_go(directory);
        // The last process may still be on its way out.
        for _ in 0..1000 {
            match fs::remove_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => break,
            }
        }
    }
}

/// Open files by which a process with one thread joins. Where single threads can join (version 1), that is for free:
/// moving a whole process has the kernel wait until all processors have seen that it is about to happen.
pub(super) fn doors(directories: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    let open = |directory: &PathBuf| {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_CLOEXEC);
        match options.open(directory.join("tasks")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                options.open(directory.join("cgroup.procs"))
            }
            opened => opened,
        }
        .map(OwnedFd::from)
    };
    directories.iter().map(open).collect()
}

fn unique_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}{}-{number}", leftovers::PREFIX, std::process::id())
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

/// A directory that was made in a hierarchy.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    unified: bool,
    view: CgroupView,
}

/// The hierarchies that are mounted, and where this process is in them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hierarchies {
    /// (mount point, this process's directory)
    unified: Option<(PathBuf, PathBuf)>,
    /// (controllers, mount point, this process's directory)
    legacy: Vec<(Vec<String>, PathBuf, PathBuf)>,
}

impl Hierarchies {
    fn read() -> io::Result<Self> {
        Ok(Self::parse(
            &fs::read_to_string("/proc/self/mountinfo")?,
            &fs::read_to_string("/proc/self/cgroup")?,
        ))
    }

    fn parse(mounts: &str, own: &str) -> Self {
        let own_path = |wanted: &str| {
            own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (controllers, path) = (fields.next()?, fields.next()?);
                let is_it = if wanted.is_empty() {
                    controllers.is_empty()
                } else {
                    controllers.split(',').any(|known| known == wanted)
                };
                is_it.then(|| path.to_owned())
            })
        };
        let mut found = Self::default();
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let mut left = left.split(' ').skip(3);
            let (Some(root), Some(point)) = (left.next(), left.next()) else {
                continue;
            };
            let mut right = right.split(' ');
            let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
            let inside = |path: Option<String>| {
                let path = path.unwrap_or_default();
                let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("");
                Path::new(point).join(below.trim_start_matches('/'))
            };
            match kind {
                Some("cgroup2") if found.unified.is_none() => {
                    found.unified = Some((point.into(), inside(own_path(""))));
                }
                Some("cgroup") => {
                    let controllers: Vec<String> = options.split(',').map(str::to_owned).collect();
                    let path = controllers.iter().find_map(|name| own_path(name));
                    let directory = inside(path);
                    found.legacy.push((controllers, point.into(), directory));
                }
                _ => {}
            }
        }
        found
    }

    /// Makes a directory `name` with a controller.
    fn place(&self, controller: &str, parent: Option<&str>, name: &str) -> io::Result<Place> {
        let mut why = io::Error::new(
            io::ErrorKind::NotFound,
            "no cgroup file system with it is mounted",
        );
        let newer = if controller == "blkio" {
            "io"
        } else {
            controller
        };
        if let Some((point, own)) = &self.unified
            && controllers_of(point).iter().any(|known| known == newer)
        {
            match place_unified(point, own, Some(newer), parent, name) {
                Ok(directory) => {
                    return Ok(Place {
                        directory,
                        unified: true,
                        view: CgroupView::default(),
                    });
                }
                Err(error) => why = error,
            }
        }
        for (controllers, point, own) in &self.legacy {
            if !controllers.iter().any(|known| known == controller) {
                continue;
            }
            let above = match parent {
                Some(parent) => point.join(parent.trim_start_matches('/')),
                None => own.clone(),
            };
            let directory = above.join(name);
            match make(&above, &directory) {
                Ok(()) => {
                    let name = point.file_name().unwrap_or_default();
                    return Ok(Place {
                        directory,
                        unified: false,
                        view: CgroupView {
                            name: name.to_string_lossy().into_owned(),
                            controllers: controllers
                                .iter()
                                .filter(|name| LEGACY.contains(&name.as_str()))
                                .cloned()
                                .collect(),
                        },
                    });
                }
                Err(error) => why = error,
            }
        }
        Err(why)
    }
}

impl Hierarchies {
    /// Makes a directory in which processes can be halted: version 2 does so without any controller.
    fn freezer(&self, parent: Option<&str>, name: &str) -> io::Result<PathBuf> {
        if let Some((point, own)) = &self.unified
            && let Ok(directory) = place_unified(point, own, None, parent, name)
        {
            return Ok(directory);
        }
        Ok(self.place("freezer", parent, name)?.directory)
    }
}

fn make(above: &Path, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(above)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => {
            made?;
            leftovers::claim(directory);
            leftovers::sweep(above);
            Ok(())
        }
    }
}

fn controllers_of(directory: &Path) -> Vec<String> {
    fs::read_to_string(directory.join("cgroup.controllers"))
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// A directory with processes in it cannot hand controllers down, so ours goes beside this process's own: below the
/// highest directory on the way up that this user may write to.
fn place_unified(
    point: &Path,
    own: &Path,
    controller: Option<&str>,
    parent: Option<&str>,
    name: &str,
) -> io::Result<PathBuf> {
    let above = match parent {
        Some(parent) => point.join(parent.trim_start_matches('/')),
        None => own
            .ancestors()
            .take_while(|directory| directory.starts_with(point))
            .filter(|directory| is_ours(directory))
            .last()
            .ok_or_else(|| io::Error::from(io::ErrorKind::PermissionDenied))?
            .to_owned(),
    };
    fs::create_dir_all(&above)?;
    // From the mount down, every directory must hand the controller on.
    let mut chain: Vec<&Path> = above
        .ancestors()
        .take_while(|directory| directory.starts_with(point))
        .collect();
    chain.reverse();
    for directory in controller.is_some().then_some(chain).into_iter().flatten() {
        let controller = controller.unwrap_or_default();
        let file = directory.join("cgroup.subtree_control");
        let handed = fs::read_to_string(&file).unwrap_or_default();
        if !handed.split_whitespace().any(|known| known == controller) {
            write(&file, &format!("+{controller}"))?;
        }
    }
    let directory = above.join(name);
    make(&above, &directory)?;
    Ok(directory)
}

/// Root may write everywhere; others where the manager gave them the directory.
fn is_ours(directory: &Path) -> bool {
    let owner = |path: PathBuf| fs::metadata(path).map(|metadata| metadata.uid());
    let me = rustix::process::geteuid().as_raw();
    owner(directory.join("cgroup.procs")).is_ok_and(|uid| uid == me)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found() {
        let mounts = "30 1 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n31 1 0:27 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n32 1 0:1 / /proc rw - proc proc rw\n";
        let own = "4:memory:/docker/x/y\n1:name=systemd:/z\n0::/a/b\n";
        let found = Hierarchies::parse(mounts, own);
        assert_eq!(
            found.unified,
            Some((
                "/sys/fs/cgroup/unified".into(),
                "/sys/fs/cgroup/unified/a/b".into()
            ))
        );
        let (controllers, _, directory) = found.legacy.first().expect("one");
        assert!(controllers.contains(&"memory".to_owned()));
        assert_eq!(directory, Path::new("/sys/fs/cgroup/memory/y"));
    }

    #[test]
    fn processes_are_limited_where_that_is_possible() {
        let made =
            Cgroup::make(&Limits::default(), false).expect("no error where nothing is asked for");
        let Some((cgroup, _)) = made else {
            println!("SKIPPED: this user can make no cgroup that limits processes");
            return;
        };
        let directory = cgroup.directories.first().expect("one");
        let limit = fs::read_to_string(directory.join("pids.max")).expect("a limit");
        assert_eq!(limit.trim(), "4096");
        let unlimited = Limits {
            pids: Some(u64::MAX),
            ..Limits::default()
        };
        assert!(Cgroup::make(&unlimited, false).expect("no error").is_none());
    }

    #[test]
    fn kills_are_counted() {
        assert_eq!(kills("low 0\noom 3\noom_kill 2\n"), 2);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(kills(""), 0);
    }
}
