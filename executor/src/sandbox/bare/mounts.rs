//! Mounts where nothing can be mounted: directories and files that are in a root meanwhile, and go back where they came
//! from, or copies.

use std::ffi::CString;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::root_dir::{Metadata, Resolve};
use rbuild_cache::{RootDir, owners};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::places::{After, Places};
use super::refuse;
use crate::Executor;
use crate::overlay;
use crate::sandbox::copy::{self, How, Owners};
use crate::sandbox::in_root::{self, shown_path};
use crate::sandbox::prepare::{self, Kept, setup};
use crate::sandbox::{ExecError, cache_content, socket};
use crate::spec::{Exec, Mount, MountSource};

/// What comes into a root besides its base's files.
pub(super) struct Builder<'e> {
    pub(super) executor: &'e Executor,
    pub(super) places: Places,
    pub(super) kept: Kept,
    /// Open for writing, to be emptied.
    pub(super) secrets: Vec<OwnedFd>,
    /// What would be mounted: where, of what kind, and whether read-only.
    pub(super) table: Vec<(PathBuf, &'static str, bool)>,
}

impl Builder<'_> {
    /// In the order in which they would be mounted.
    pub(super) fn everything(&mut self, mounts: Vec<Mount>, exec: &Exec) -> Result<(), ExecError> {
        let mut files: Vec<(PathBuf, Vec<u8>)> = [
            ("resolv.conf", prepare::etc::resolv_conf(exec)),
            ("hosts", prepare::etc::hosts(exec)),
            ("hostname", format!("{}\n", exec.hostname).into_bytes()),
        ]
        .into_iter()
        .map(|(name, content)| (Path::new("/etc").join(name), content))
        .collect();
        for mount in mounts {
            let target = in_root::clean(&exec.cwd.join(&mount.target));
            if prepare::sources::refused(&target) {
                return Err(setup(
                    format!("mount at the target {}", target.display()),
                    "this path belongs to the sandbox itself; choose another target",
                ));
            }
            // What is mounted over them hides them.
            let hidden =
                |path: &Path| path == target || (target == Path::new("/etc") && mount.read_only);
            let (before, after) = files.into_iter().partition(|(path, _)| hidden(path));
            files = after;
            let before: Vec<(PathBuf, Vec<u8>)> = before;
            for (path, content) in before {
                self.file(&path, &content, 0o644, (0, 0), false)?;
            }
            self.mount(mount, &target)?;
        }
        for (path, content) in files {
            self.file(&path, &content, 0o644, (0, 0), false)?;
        }
        Ok(())
    }

    fn put(&mut self, target: &Path, name: &str) -> Result<(), ExecError> {
        self.places
            .put(target, name)
            .map_err(|error| setup(format!("put something at {}", target.display()), error))
    }

    fn file(
        &mut self,
        target: &Path,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
        is_secret: bool,
    ) -> Result<(), ExecError> {
        let name = self.places.fresh_name();
        let file = self
            .write(&name, content, mode, owner)
            .map_err(|error| setup(format!("make the file {}", target.display()), error))?;
        if is_secret {
            self.secrets.push(file);
        }
        self.put(target, &name)
    }

    fn write(
        &self,
        name: &str,
        content: &[u8],
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> std::io::Result<OwnedFd> {
        let aside = self.places.aside()?;
        let mut file = aside.create_file(Path::new(name), 0o600, Resolve::Beneath)?;
        file.write_all(content)?;
        owners::set(file.as_fd(), uid, gid)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(file.into())
    }

    fn mount(&mut self, mount: Mount, target: &Path) -> Result<(), ExecError> {
        let failed = |what: &str| failed(what, target);
        match &mount.source {
            MountSource::Snapshot { snapshot, path } => {
                let view = overlay::view(&self.executor.store, snapshot.as_ref());
                let view = view.map_err(|error| {
                    setup(format!("find the source of {}", target.display()), error)
                })?;
                let name = self.places.fresh_name();
                self.copy(view.as_fd(), path, &name)
                    .map_err(failed(&format!("copy `{}` of the source", path.display())))?;
                self.put(target, &name)?;
            }
            MountSource::Propagated { .. } => {
                return refuse("mount what travels between a command and the machine");
            }
            MountSource::Directory {
                path,
                volume: Some(volume),
                ..
            } => self.volume(volume, path, mount.read_only, target)?,
            MountSource::Directory { root, path, .. } => {
                self.directory(root, path, mount.read_only, target)?;
            }
            MountSource::Cache {
                throw_away: true, ..
            } => return refuse("mount a cache that is not to be changed"),
            MountSource::Cache {
                mount: cache,
                from,
                path,
                mode,
                uid,
                gid,
                throw_away: false,
            } => {
                let (store, owner) = (&self.executor.store, (*uid, *gid));
                let directory = cache_content::open(store, cache, from.as_ref(), *mode, owner)?;
                let place =
                    place(directory.as_fd(), path).map_err(failed("find the part of the cache"))?;
                self.borrow(target, &place)
                    .map_err(failed("put the cache there"))?;
                if place == cache.path() {
                    cache.lend().map_err(failed("lend the cache"))?;
                }
            }
            MountSource::Tmpfs(tmpfs) if tmpfs.size.is_some() || tmpfs.inodes.is_some() => {
                return refuse("limit the size of a tmpfs, which here is a directory,");
            }
            MountSource::Tmpfs(tmpfs) => {
                let name = self.places.fresh_name();
                let mode = tmpfs
                    .mode
                    .unwrap_or_else(|| self.places.mode_of_tmpfs(target));
                let owner = (tmpfs.uid.unwrap_or(0), tmpfs.gid.unwrap_or(0));
                self.places
                    .aside()
                    .and_then(|aside| aside.create_dir(Path::new(&name), mode, Resolve::Beneath))
                    .and_then(|made| {
                        made.set_owner(owner.0, owner.1)?;
                        made.set_mode(mode)
                    })
                    .map_err(failed("make the directory"))?;
                self.put(target, &name)?;
            }
            MountSource::Secret {
                data,
                mode,
                uid,
                gid,
            } => self.file(target, data, *mode, (*uid, *gid), true)?,
            MountSource::Socket {
                path,
                mode,
                uid,
                gid,
            } => {
                let name = self.places.fresh_name();
                let aside = self.places.aside().map_err(failed("make a socket"))?;
                let forwarded =
                    socket::forward(aside.as_fd(), &name, path.clone(), *mode, (*uid, *gid));
                let forwarded = forwarded.map_err(failed("forward the socket"))?;
                self.kept._sockets.push(forwarded);
                self.put(target, &name)?;
            }
        }
        let kind = match &mount.source {
            MountSource::Tmpfs(_) => "tmpfs",
            _ => "none",
        };
        self.table.push((target.to_owned(), kind, mount.read_only));
        self.kept._mounts.push(mount);
        Ok(())
    }

    /// A copy of what is the machine's.
    fn directory(
        &mut self,
        root: &RootDir,
        path: &Path,
        read_only: bool,
        target: &Path,
    ) -> Result<(), ExecError> {
        let place = place(root.as_fd(), path).map_err(failed("find the source", target))?;
        let store = self.executor.store.root();
        let store = store
            .canonicalize()
            .map_err(failed("find the store", target))?;
        if store.starts_with(&place) {
            return refuse(&format!(
                "copy `{}`, which holds the store,",
                place.display()
            ));
        }
        if !read_only {
            return refuse(&format!("let a command write to `{}`", place.display()));
        }
        let name = self.places.fresh_name();
        self.copy(root.as_fd(), path, &name)
            .map_err(failed(&format!("copy `{}`", place.display()), target))?;
        self.put(target, &name)
    }

    /// A copy, and what becomes of it replaces the volume in the end.
    fn volume(
        &mut self,
        volume: &Path,
        path: &Path,
        read_only: bool,
        target: &Path,
    ) -> Result<(), ExecError> {
        let name = self.places.fresh_name();
        if read_only {
            self.copy_whole(volume, path, &name)
                .map_err(failed("copy the volume", target))?;
            return self.put(target, &name);
        }
        self.kept._locks.push(lock(volume, target)?);
        // Opened now: whoever had the lock last has put another directory there.
        let root = RootDir::open_ambient(volume).map_err(failed("find the volume", target))?;
        let place = place(root.as_fd(), path).map_err(failed("find the source", target))?;
        self.copy(root.as_fd(), path, &name)
            .map_err(failed("copy the volume", target))?;
        self.places
            .put_then(target, &name, After::Replaced(place))
            .map_err(failed("put the copy there", target))
    }

    /// Copies what nobody keeps others from replacing, and then removing, meanwhile.
    fn copy_whole(&self, volume: &Path, path: &Path, name: &str) -> std::io::Result<()> {
        const TRIES: u32 = 100;
        for _ in 0..TRIES {
            let root = RootDir::open_ambient(volume)?;
            let copied = self.copy(root.as_fd(), path, name);
            let of = |root: RootDir| Metadata::of_fd(root.as_fd()).map(|it| it.inode);
            if of(RootDir::open_ambient(volume)?)? == of(root)? {
                return copied;
            }
            match self
                .places
                .aside()?
                .remove_tree(Path::new(name), Resolve::Beneath)
            {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Err(Errno::BUSY.into())
    }

    /// A directory or file of the store is in the tree for a while, and nowhere else.
    fn borrow(&mut self, target: &Path, place: &Path) -> std::io::Result<()> {
        let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(rustix::io::Errno::INVAL.into());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(parent, flags, Mode::empty())?;
        let after = After::Returned(place.to_owned());
        self.places.put_from(target, parent.as_fd(), name, after)
    }

    /// Copies a part of a root to a name aside.
    fn copy(&self, from: BorrowedFd<'_>, path: &Path, name: &str) -> std::io::Result<()> {
        let how = How {
            inert: true,
            ..How::with(Owners::Kept)
        };
        let aside = self.places.aside()?;
        let path = in_root::clean(path);
        let found = in_root::open(from, &path, OFlags::PATH)?;
        let stat = rustix::fs::fstat(&found)?;
        let new = CString::new(name)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let made = aside.create_dir(Path::new(name), 0o700, Resolve::Beneath)?;
            let directory = in_root::open(from, &path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let into = made.into_root();
            copy::copy_directory(directory.try_clone()?, into.as_fd(), how)?;
            copy::dress((directory.as_fd(), c"."), (into.as_fd(), c"."), &stat, how)?;
            return Ok(());
        }
        let at = shown_path(found.as_fd())?;
        let (Some(parent), Some(last)) = (at.parent(), at.file_name()) else {
            return Err(rustix::io::Errno::INVAL.into());
        };
        let parent = RootDir::open_ambient(parent)?;
        let last = CString::new(last.as_bytes())?;
        let stat = rustix::fs::statat(parent.as_fd(), &last, AtFlags::SYMLINK_NOFOLLOW)?;
        copy::copy_entry(parent.as_fd(), &last, aside.as_fd(), &new, &stat, how)?;
        Ok(())
    }
}

fn failed(what: &str, target: &Path) -> impl Fn(std::io::Error) -> ExecError + use<> {
    let step = format!("{what} for the mount at {}", target.display());
    move |error| setup(step.clone(), error)
}

/// Where a path inside of a root is.
fn place(root: BorrowedFd<'_>, path: &Path) -> std::io::Result<PathBuf> {
    let found = in_root::open(root, &in_root::clean(path), OFlags::PATH)?;
    Ok(shown_path(found.as_fd())?)
}

/// A volume is one command's at a time.
fn lock(volume: &Path, target: &Path) -> Result<OwnedFd, ExecError> {
    let step = format!("have the volume at {}", target.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The directory itself goes when another takes its place.
    let holder = volume.parent().unwrap_or(volume);
    let lock = rustix::fs::open(holder, flags, Mode::empty());
    let lock = lock.map_err(|errno| setup(step.clone(), std::io::Error::from(errno)))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(setup(
            step,
            "another container has it. Without mounts, one at a time can write to a volume; read-only (`:ro`) it is a \
             copy of what the last one left",
        )),
        Err(errno) => Err(setup(step, std::io::Error::from(errno))),
    }
}
