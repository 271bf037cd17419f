//! The cgroup file systems that are mounted, of version 2 and of version 1, and where directories can be made in them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{leftovers, write};
use crate::sandbox::plan::CgroupView;

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

/// A directory that was made in a hierarchy.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) unified: bool,
    pub(super) view: CgroupView,
}

/// The hierarchies that are mounted, and where this process is in them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    /// (mount point, this process's directory)
    pub(super) unified: Option<(PathBuf, PathBuf)>,
    /// (controllers, mount point, this process's directory)
    pub(super) legacy: Vec<(Vec<String>, PathBuf, PathBuf)>,
}

impl Hierarchies {
    pub(super) fn read() -> io::Result<Self> {
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
    pub(super) fn place(
        &self,
        controller: &str,
        parent: Option<&str>,
        name: &str,
    ) -> io::Result<Place> {
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

    /// Makes a directory in which processes can be halted: version 2 does so without any controller.
    pub(super) fn freezer(&self, parent: Option<&str>, name: &str) -> io::Result<PathBuf> {
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
pub(super) fn place_unified(
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
}
