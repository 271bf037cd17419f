//! The mounts of a command: each is opened here, before there is a process, and travels as a descriptor.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rbuild_cache::Store;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::memory::Files;
use super::{Kept, etc, setup};
use crate::host::Host;
use crate::mapped::Mapped;
use crate::overlay;
use crate::sandbox::plan::{self, Bytes, Slot, Source, Space};
use crate::sandbox::{ExecError, cache_content, container, in_root, mounts, propagation, socket};
use crate::spec::{self, Below, Exec, Mount, MountSource};
use crate::sys;

/// Collects the mounts of one command, with their descriptors and what keeps them alive.
pub(super) struct Builder {
    pub(super) store: Arc<Store>,
    pub(super) host: Host,
    pub(super) single_id: bool,
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) kept: Kept,
    pub(super) files: Files,
    pub(super) mounts: Vec<plan::Mount>,
    /// With mapped ids, by place of the mount.
    pub(super) directories: Vec<Option<OwnedFd>>,
}

impl Builder {
    fn mapped(&self) -> Option<&Mapped> {
        self.files.mapped.as_deref()
    }

    pub(super) fn slot(&mut self, fd: OwnedFd) -> Slot {
        self.descriptors.push(fd);
        self.descriptors.len() - 1
    }

    /// resolv.conf, hosts and hostname.
    pub(super) fn base_files(&mut self, exec: &Exec) -> Result<(), ExecError> {
        let contents = [
            ("resolv.conf", etc::resolv_conf(exec)),
            ("hosts", etc::hosts(exec)),
            ("hostname", format!("{}\n", exec.hostname).into_bytes()),
        ];
        for (name, content) in contents {
            self.files.add(name, &content, 0o644, (0, 0))?;
            let target = Bytes::from(Path::new("/etc").join(name).as_path());
            let etc = Bytes::from(Path::new("/etc"));
            // They are seen in a volume that is mounted at /etc, too, unless nothing can be made in that.
            let hidden = |mount: &plan::Mount| {
                mount.target == target || (mount.target == etc && mount.read_only)
            };
            let at = self.mounts.iter().position(hidden);
            let at = at.unwrap_or(self.mounts.len());
            self.mounts.insert(
                at,
                plan::Mount {
                    target,
                    read_only: !exec.writable_names,
                    source: Source::File { name: name.into() },
                    propagation: None,
                    writable_below: false,
                },
            );
        }
        Ok(())
    }

    pub(super) fn mount(
        &mut self,
        index: usize,
        mount: Mount,
        cwd: &Path,
    ) -> Result<(), ExecError> {
        let target = in_root::clean(&cwd.join(&mount.target));
        if refused(&target) {
            return Err(setup(
                format!("mount at the target {}", target.display()),
                "this path belongs to the sandbox itself; choose another target",
            ));
        }
        let source = self.source(index, &mount, &target)?;
        self.mounts.push(plan::Mount {
            target: Bytes::from(target.as_path()),
            read_only: mount.read_only,
            source,
            propagation: match mount.source {
                MountSource::Propagated { propagation, .. } => Some(propagation),
                _ => None,
            },
            writable_below: mount.below == Below::Writable,
        });
        self.kept._mounts.push(mount);
        Ok(())
    }

    fn source(&mut self, index: usize, mount: &Mount, target: &Path) -> Result<Source, ExecError> {
        let failed = |what: &str| {
            let step = format!("{what} for the mount at {}", target.display());
            move |error: rustix::io::Errno| setup(step, std::io::Error::from(error))
        };
        match &mount.source {
            MountSource::Snapshot { snapshot, path } => {
                let overlay_failed = |error: overlay::Error| {
                    setup(format!("mount the source of {}", target.display()), error)
                };
                let (store, snapshot) = (&self.store, snapshot.as_ref());
                let tree = if mount.read_only {
                    overlay::view_in(store, snapshot, self.mapped()).map_err(overlay_failed)?
                } else {
                    let layer = self.store.prepare()?;
                    let tree = overlay::writable_in(store, snapshot, &layer, self.mapped())
                        .map_err(overlay_failed)?;
                    self.kept._layers.push(layer);
                    tree
                };
                Ok(self.tree(tree, path))
            }
            MountSource::Directory { root, path, .. } => {
                if let Some(tree) = self.directories.get_mut(index).and_then(Option::take) {
                    return Ok(self.whole(tree));
                }
                if mount.below == Below::Excluded {
                    let tree = in_root::open(root.as_fd(), &in_root::clean(path), OFlags::PATH)
                        .map_err(std::io::Error::from)
                        .and_then(|found| mounts::copy_of(found.as_fd(), mount.below))
                        .map_err(|error| {
                            setup(format!("mount a directory at {}", target.display()), error)
                        })?;
                    return Ok(self.whole(tree));
                }
                let tree =
                    mounts::copy(root.as_fd(), true).map_err(failed("copy the directory"))?;
                Ok(self.tree(tree, path))
            }
            MountSource::Propagated { path, propagation } => {
                let tree = match self.directories.get_mut(index).and_then(Option::take) {
                    Some(tree) => tree,
                    None => propagation::tree(&self.host, path, *propagation, mount)?,
                };
                Ok(self.whole(tree))
            }
            MountSource::Cache {
                mount: cache,
                from,
                path,
                mode,
                uid,
                gid,
                throw_away,
            } => {
                let owner = (*uid, *gid);
                let directory =
                    cache_content::open(&self.store, cache, from.as_ref(), *mode, owner)?;
                let tree = self.cache((cache.path(), directory), *throw_away, target)?;
                Ok(self.tree(tree, path))
            }
            MountSource::Tmpfs(tmpfs) => {
                let others = [tmpfs.uid, tmpfs.gid].into_iter().flatten();
                if self.single_id && others.max() > Some(0) {
                    return Err(setup(
                        format!("mount a tmpfs at {}", target.display()),
                        "it cannot belong to another user (uid=, gid=) where there is one id: give the user subordinate ids, or chown it in the container",
                    ));
                }
                Ok(Source::Tmpfs(tmpfs.clone()))
            }
            MountSource::Secret {
                data,
                mode,
                uid,
                gid,
            } => {
                let name = format!("secret-{index}");
                self.files.add(&name, data, *mode, (*uid, *gid))?;
                Ok(Source::File { name })
            }
            MountSource::Socket {
                path,
                mode,
                uid,
                gid,
            } => {
                let name = format!("socket-{index}");
                let forwarded = socket::forward(
                    self.files.tree.as_fd(),
                    &name,
                    path.clone(),
                    *mode,
                    // A socket can carry no owner where owners are written down; a command of root's sees its own.
                    if self.single_id {
                        (0, 0)
                    } else {
                        self.files.owner((*uid, *gid))
                    },
                )
                .map_err(|error| setup(format!("forward the socket {}", path.display()), error))?;
                self.kept._sockets.push(forwarded);
                Ok(Source::File { name })
            }
        }
    }

    /// A cache's directory, or a layer over it that is thrown away.
    fn cache(
        &mut self,
        (path, directory): (&Path, OwnedFd),
        throw_away: bool,
        target: &Path,
    ) -> Result<OwnedFd, ExecError> {
        if throw_away {
            let layer = self.store.prepare()?;
            let tree = overlay::over(&self.store, path, &layer, self.mapped());
            let tree = tree.map_err(|error| {
                setup(format!("mount the source of {}", target.display()), error)
            })?;
            self.kept._layers.push(layer);
            return Ok(tree);
        }
        let opened = match self.mapped() {
            Some(mapped) => mapped.open(path),
            None => Ok(directory),
        };
        let tree = opened.and_then(|directory| mounts::copy(directory.as_fd(), false));
        tree.map_err(|error| {
            let step = format!("open the cache for the mount at {}", target.display());
            setup(step, std::io::Error::from(error))
        })
    }

    fn whole(&mut self, tree: OwnedFd) -> Source {
        Source::Whole {
            tree: self.slot(tree),
        }
    }

    fn tree(&mut self, tree: OwnedFd, path: &Path) -> Source {
        Source::Tree {
            tree: self.slot(tree),
            path: Bytes::from(in_root::clean(path).as_path()),
        }
    }

    pub(super) fn namespace(&mut self, namespace: &OwnedFd) -> Result<plan::Network, ExecError> {
        let namespace = namespace
            .try_clone()
            .map_err(|error| setup("keep the network namespace", error))?;
        Ok(plan::Network::Join(self.slot(namespace)))
    }

    pub(super) fn network_of(&mut self, pid: u32) -> Result<plan::Network, ExecError> {
        Ok(match self.space_of(pid, "net", "network")? {
            Space::Join(slot) => plan::Network::Join(slot),
            Space::Own | Space::Host => plan::Network::Host,
        })
    }

    pub(super) fn spaces(&mut self, asked: spec::Spaces) -> Result<plan::Spaces, ExecError> {
        let mut space = |asked: spec::Space, kind: &str, what: &str| match asked {
            spec::Space::Own => Ok(Space::Own),
            spec::Space::Host => Ok(Space::Host),
            spec::Space::Process(pid) => self.space_of(pid, kind, what),
        };
        Ok(plan::Spaces {
            processes: space(asked.processes, "pid", "pid namespace")?,
            ipc: space(asked.ipc, "ipc", "IPC namespace")?,
            machines_names: asked.names == spec::Names::Host,
            no_shared_memory: asked.no_shared_memory,
        })
    }

    /// What is /dev/shm where that comes with the IPC namespace. A container may have none.
    pub(super) fn shared_memory(&mut self, ipc: spec::Space) -> Result<Option<Slot>, ExecError> {
        const PLACE: &str = "/dev/shm";
        let copied = match ipc {
            spec::Space::Own => return Ok(None),
            spec::Space::Host => {
                mounts::copy_of_host(Path::new(PLACE), true).map_err(std::io::Error::from)
            }
            spec::Space::Process(pid) => shared_memory_of(pid, Path::new(PLACE)),
        };
        match copied {
            Ok(tree) => Ok(Some(self.slot(tree))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(setup("share /dev/shm", error)),
        }
    }

    fn space_of(&mut self, pid: u32, kind: &str, what: &str) -> Result<Space, ExecError> {
        let open = |path: &str| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let namespace = rustix::fs::open(path, flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&namespace)?;
            Ok((namespace, (stat.st_dev, stat.st_ino)))
        };
        let failed = |errno: Errno| {
            let step = format!("join the {what} of process {pid}");
            if matches!(errno, Errno::ACCESS | Errno::PERM) {
                return setup(
                    step,
                    "it is in a user namespace that this process has no rights in, as its container was started anew \
                     after this one: `rbuild start` this one again",
                );
            }
            setup(step, std::io::Error::from(errno))
        };
        let (namespace, theirs) = open(&format!("/proc/{pid}/ns/{kind}")).map_err(failed)?;
        let (_, ours) = open(&format!("/proc/self/ns/{kind}")).map_err(failed)?;
        // An ordinary user is in the host's, and has no right to go there.
        if theirs == ours {
            return Ok(Space::Host);
        }
        Ok(Space::Join(self.slot(namespace)))
    }
}

/// A copy of a mount in another process's mount namespace, made on a thread that ends there.
fn shared_memory_of(pid: u32, place: &Path) -> std::io::Result<OwnedFd> {
    let process = container::pidfd_of(pid)?;
    let there = || -> std::io::Result<OwnedFd> {
        sys::unshare(rustix::thread::UnshareFlags::FS)?;
        sys::join_namespaces(process.as_fd(), libc::CLONE_NEWNS)?;
        // It has the root of that namespace now.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found = openat2(CWD, place, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        if rustix::fs::fstatfs(&found)?.f_type != libc::TMPFS_MAGIC {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        Ok(mounts::copy(found.as_fd(), false)?)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, there)?;
        let failed = |_| std::io::Error::other("the thread in the other mount namespace panicked");
        thread.join().map_err(failed)?
    })
}

/// Targets that would take away what the sandbox stands on.
pub(in crate::sandbox) fn refused(target: &Path) -> bool {
    let exactly = ["/", "/sys", "/dev"];
    exactly.iter().any(|path| target == Path::new(path)) || target.starts_with("/proc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sandbox_keeps_its_own_mounts() {
        for target in ["/", "/proc", "/proc/sys", "/sys", "/dev"] {
            assert!(refused(Path::new(target)), "{target}");
        }
        for target in ["/dev/x", "/processes", "/m"] {
            assert!(!refused(Path::new(target)), "{target}");
        }
    }
}
