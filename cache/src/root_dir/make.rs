//! Making directories with their parents, links followed as in a chroot, also those that lead nowhere yet.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::node::Node;
use super::{Place, Resolve, RootDir, path_of};

/// As the kernel's own limit.
const LINK_LIMIT: u32 = 40;

impl RootDir {
    /// Makes a directory and the parents it lacks, with exactly this mode (no umask); what exists stays as it is.
    /// Each directory made is shown to `made`, with its real path and its parent, before anything is made in it; that
    /// is the time to set owner and times. Returns the directory.
    ///
    /// In root, links are followed as a process in a chroot would, and the target of a link that leads nowhere is
    /// made. Beneath, a link on the way is an error.
    pub fn create_dir_all(
        &self,
        path: &Path,
        mode: u32,
        resolve: Resolve,
        made: &mut dyn FnMut(&Path, BorrowedFd<'_>, &Node) -> io::Result<()>,
    ) -> io::Result<RootDir> {
        match self.directory(path, resolve) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let mut walk = Walk {
            stack: Vec::new(),
            names: Vec::new(),
            todo: VecDeque::new(),
        };
        walk.push_front(path.as_os_str().as_bytes());
        let mut links = 0;
        while let Some(component) = walk.todo.pop_front() {
            if component == ".." {
                if walk.stack.is_empty() && resolve == Resolve::Beneath {
                    return Err(Errno::XDEV.into());
                }
                walk.stack.pop();
                walk.names.pop();
                continue;
            }
            let here = walk.stack.last().unwrap_or(&self.fd);
            match open_directory(here, &component) {
                Ok(directory) => walk.enter(component, directory),
                Err(Errno::NOENT) => {
                    let place = Place::new(here.try_clone()?, component.clone());
                    let node = match place.create_dir(mode) {
                        Ok(node) => Some(node),
                        // Somebody was faster: theirs will do.
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                        Err(error) => return Err(error),
                    };
                    let directory = open_directory(here, &component)?;
                    walk.enter(component, directory);
                    if let Some(node) = node {
                        made(&walk.real_path(), place.directory(), &node)?;
                    }
                }
                // A link, or something else that is not a directory.
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let target = Place::new(here.try_clone()?, component)
                        .node()?
                        .read_link()
                        .map_err(|_| io::Error::from(Errno::NOTDIR))?;
                    links += 1;
                    if resolve == Resolve::Beneath || links > LINK_LIMIT {
                        return Err(Errno::LOOP.into());
                    }
                    if target.is_absolute() {
                        walk.stack.clear();
                        walk.names.clear();
                    }
                    walk.push_front(target.as_os_str().as_bytes());
                }
                Err(error) => return Err(error.into()),
            }
        }
        let end = walk.stack.last().unwrap_or(&self.fd);
        Ok(RootDir::from_fd(end.as_fd().try_clone_to_owned()?))
    }
}

/// A walk from the root: only real directories are on the stack, so `..` never leaves it.
struct Walk {
    stack: Vec<OwnedFd>,
    names: Vec<OsString>,
    todo: VecDeque<OsString>,
}

impl Walk {
    fn push_front(&mut self, path: &[u8]) {
        for component in path.split(|byte| *byte == b'/').rev() {
            if !component.is_empty() && component != b"." {
                self.todo
                    .push_front(path_of(component).as_os_str().to_owned());
            }
        }
    }

    fn enter(&mut self, name: OsString, directory: OwnedFd) {
        self.stack.push(directory);
        self.names.push(name);
    }

    fn real_path(&self) -> PathBuf {
        self.names.iter().collect()
    }
}

fn open_directory(parent: &OwnedFd, name: &OsString) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}
