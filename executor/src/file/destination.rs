//! Where things land: destinations of COPY, ADD and WORKDIR in a root, with the parents that they lack.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::root_dir::{Metadata, Node, Place, Resolve, is_absence, path_of};
use rbuild_cache::tree::Kind;
use rbuild_cache::{RootDir, owners};
use rustix::io::Errno;

use super::attributes::{Ids, set_owner};
use super::{Error, ModeChange, io_error};

/// As BuildKit's own limit.
const LINK_LIMIT: usize = 255;
const SET_GID: u32 = 0o2000;

/// What directories are like that are made on the way.
pub(super) struct Making {
    pub(super) mode: u32,
    /// Root where there is none, and the group that [`Making::dress`] tells of.
    pub(super) owner: Option<Ids>,
    pub(super) mtime: Option<i64>,
}

impl Making {
    pub(super) fn of_copy(
        mode: Option<&ModeChange>,
        owner: Option<Ids>,
        mtime: Option<i64>,
    ) -> Self {
        Self {
            mode: ModeChange::of_made_directory(mode),
            owner,
            mtime,
        }
    }

    /// Below a directory with setgid, a new one gets its group and the bit from the kernel, and BuildKit leaves it so:
    /// `WORKDIR /var/local/app` of a Debian image belongs to the group `staff`.
    fn dress(&self, parent: BorrowedFd<'_>, node: &Node) -> io::Result<()> {
        let parent_mode = Metadata::of_fd(parent)?.mode;
        let inherited = parent_mode & SET_GID;
        let owner = match self.owner {
            Some(owner) => owner,
            None if inherited != 0 => Ids {
                uid: 0,
                gid: owners::of(parent)?.gid,
            },
            None => Ids { uid: 0, gid: 0 },
        };
        set_owner(node, owner)?;
        node.set_mode(self.mode | inherited)?;
        match self.mtime {
            Some(seconds) => node.set_times((seconds, 0), (seconds, 0)),
            None => Ok(()),
        }
    }
}

/// A name that a file is to get, and its path for messages.
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) path: PathBuf,
}

impl Target {
    /// Removes what is in the way: anything but a directory.
    pub(super) fn make_room(&self) -> Result<(), Error> {
        let failed = |error| io_error("replace", &self.path, error);
        match self.place.metadata() {
            Ok(metadata) if metadata.kind == Kind::Directory => Err(Error::Refused(format!(
                "cannot replace the directory `{}` with a file",
                self.path.display()
            ))),
            Ok(_) => self.place.remove_file().map_err(failed),
            Err(error) if is_absence(&error) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// The directory at `path`, made with its parents where it is missing. Links are followed, also one that leads
/// nowhere yet.
pub(super) fn directory(root: &RootDir, path: &Path, making: &Making) -> Result<RootDir, Error> {
    directory_at(root, &clean(path), making)
}

/// As [`directory`], of a path in which `..` is what the links before it make of it.
fn directory_at(root: &RootDir, path: &Path, making: &Making) -> Result<RootDir, Error> {
    root.create_dir_all(
        path,
        making.mode,
        Resolve::InRoot,
        &mut |_, parent, node| making.dress(parent, node),
    )
    .map_err(|error| not_a_directory(path, error))
}

/// The place for a file: in `destination` under `name` if that is a directory (already, or `is_directory` says that
/// it is to be one), else at `destination`, whose last name may be a link that is followed.
pub(super) fn file(
    root: &RootDir,
    destination: &Path,
    is_directory: bool,
    name: &[u8],
    making: &Making,
) -> Result<Target, Error> {
    let mut path = clean(destination);
    let inside = |directory: &RootDir, path: &Path| {
        if name.contains(&b'/') {
            return Err(Error::Refused(format!(
                "`{}` is a path, and no name for a file in `{}`: write the path as the destination",
                String::from_utf8_lossy(name),
                path.display(),
            )));
        }
        let path = path.join(path_of(name));
        let place = Place::at(directory, OsStr::from_bytes(name))
            .map_err(|error| io_error("make", &path, error))?;
        Ok(Target { place, path })
    };
    if is_directory || path == Path::new("/") {
        return inside(&directory(root, &path, making)?, &path);
    }
    let mut seen = HashSet::new();
    loop {
        let Some((parent, last)) = parent_and_name(&path) else {
            // A link to `/`, `.` or `..`.
            return inside(&directory_at(root, &path, making)?, &path);
        };
        let parent_directory = directory_at(root, parent, making)?;
        let place = Place::at(&parent_directory, last)
            .map_err(|error| io_error("look up", &path, error))?;
        let target = match place.metadata() {
            Ok(metadata) if metadata.kind == Kind::Symlink => {
                place.node().and_then(|n| n.read_link())
            }
            Ok(metadata) if metadata.kind == Kind::Directory => {
                let directory = parent_directory.directory(Path::new(last), Resolve::Beneath);
                let directory = directory.map_err(|error| io_error("open", &path, error))?;
                return inside(&directory, &path);
            }
            Ok(_) => return Ok(Target { place, path }),
            Err(error) if is_absence(&error) => return Ok(Target { place, path }),
            Err(error) => return Err(io_error("look up", &path, error)),
        };
        let target = target.map_err(|error| io_error("read the link", &path, error))?;
        // Not cleaned as text: what `..` means depends on the links before it, which the next round follows.
        let next = parent.join(target);
        if seen.len() >= LINK_LIMIT || !seen.insert(std::mem::replace(&mut path, next)) {
            return Err(io_error("follow the link", &path, Errno::LOOP.into()));
        }
    }
}

fn not_a_directory(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotADirectory {
        Error::Refused(format!(
            "`{}` cannot be a directory: it, or something on the way to it, is a file",
            path.display()
        ))
    } else {
        io_error("make the directory", path, error)
    }
}

/// Absolute, `.` and `..` applied as text: so BuildKit reads destinations.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.as_os_str().as_bytes().split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    let mut clean = vec![b'/'];
    clean.extend_from_slice(&names.join(&b'/'));
    path_of(&clean).to_owned()
}

/// `None` where the path ends in no name.
fn parent_and_name(path: &Path) -> Option<(&Path, &OsStr)> {
    let bytes = path.as_os_str().as_bytes();
    let length = bytes.iter().rposition(|byte| *byte != b'/')? + 1;
    let bytes = bytes.get(..length)?;
    let cut = bytes
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    let (parent, name) = bytes.split_at_checked(cut)?;
    if matches!(name, b"." | b"..") {
        return None;
    }
    Some((path_of(parent), OsStr::from_bytes(name)))
}
