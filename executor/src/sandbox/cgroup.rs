//! Limits of memory, processors and processes: a cgroup of the command's own, in whichever hierarchy (v2, v1, or both
//! at once) has the controller. Made only where a limit is asked for.
//!
//! [`hierarchies`]: where cgroups can be; [`setting`]: what a limit writes into which file; [`live`]: one whose processes
//! run; [`leftovers`]: those of processes that were killed; [`devices`]: which devices may be used in it.

mod devices;
mod hierarchies;
mod leftovers;
mod live;
mod setting;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hierarchies::{Hierarchies, Place};
pub use live::Usage;
pub(super) use live::{freeze, processes_with, usage};
pub(super) use setting::change;
use setting::{Setting, settings};

use super::ExecError;
use super::plan::CgroupView;
use super::prepare::setup;
use crate::spec::Limits;

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
        // Only what was asked for is possible: the usual limit is not, now and later.
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

#[cfg(test)]
mod tests {
    use super::*;

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
