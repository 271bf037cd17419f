//! Volumes: directories that outlive the containers which use them. Collection never takes them.
//!
//! ```text
//! volumes/NAME/volume.json   what is known of it; appears together with the directory, by one rename
//! volumes/NAME/_data         what it holds
//! volumes/NAME/first         what is to be put into it, and is not all there yet
//! volumes/NAME/given         all of that, synced; it goes into `_data` name by name
//! ```
//! A volume that is made with a first content appears with all of it. One that was there, and empty, may be used by a
//! container meanwhile: its directory stays the same, and whoever is killed on the way leaves nothing in it or `given`,
//! which the next one goes on with.
//!
//! Whoever makes a container that holds a volume, and whoever removes one, holds the lock of the containers.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, RenameFlags};
use rustix::io::Errno;

use crate::error::IoContext as _;
use crate::lease;
use crate::named::Named;
use crate::root_dir::modified_alone;
use crate::store::{Error, Result, make_directory};

/// The volumes of a store.
#[derive(Debug, Clone)]
pub struct Volumes {
    all: Named,
}

impl Volumes {
    /// Those of the store at `root`, which need not be there.
    pub fn at(root: &Path) -> Self {
        Self {
            all: Named::at(root.join("volumes"), "volume.json"),
        }
    }

    /// Sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        self.all.names()
    }

    /// Removes what is left of those that were being made or removed when their process died. The lock of the containers
    /// must be held.
    pub fn sweep(&self) -> Result<()> {
        self.all.sweep()
    }

    /// Where what it holds is.
    pub fn data(&self, name: &str) -> Result<PathBuf> {
        Ok(self.all.directory(name)?.join("_data"))
    }

    /// What is known of it; `None` where there is no such volume.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.all.read(name)
    }

    /// Makes it. `fill` puts in what it begins with. The lock of the containers must be held.
    pub fn create<E: From<Error>>(
        &self,
        name: &str,
        document: &[u8],
        fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.all.create(name, document, |making| {
            let data = making.join("_data");
            make_directory(&data)?;
            let mode = Mode::from_raw_mode(0o755);
            rustix::fs::chmod(&data, mode).at("chmod", &data)?;
            fill(&data)?;
            Ok(sync_content(&data)?)
        })
    }

    /// Puts a first content into a volume that is there, where it holds nothing, and ends what a process that died has
    /// begun. `fill` puts it into the first directory, and makes the second one, the volume's own, look as if it were
    /// there. The lock of the containers must be held.
    pub fn fill<E: From<Error>>(
        &self,
        name: &str,
        fill: impl FnOnce(&Path, &Path) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let directory = self.all.directory(name)?;
        let data = directory.join("_data");
        let (first, given) = (directory.join("first"), directory.join("given"));
        if !given.exists() {
            lease::remove(&first)?;
            if !is_empty(&data) {
                return Ok(());
            }
            make_directory(&first)?;
            fill(&first, &data)?;
            sync_content(&first)?;
            rustix::fs::rename(&first, &given).at("create", &given)?;
        }
        Ok(give(&given, &data)?)
    }

    /// False where there is none. The lock of the containers must be held, and nobody may use it.
    pub fn remove(&self, name: &str) -> Result<bool> {
        self.all.remove(name)
    }
}

/// Moves all that a directory holds into another, and removes it. What is there meanwhile is somebody's, and stays.
fn give(given: &Path, data: &Path) -> Result<()> {
    let before = rustix::fs::stat(data).at("stat", data)?;
    for entry in std::fs::read_dir(given).at("list", given)? {
        let name = entry.at("list", given)?.file_name();
        let (from, to) = (given.join(&name), data.join(&name));
        match move_to_free_name(&from, &to) {
            Err(Errno::EXIST) => {}
            moved => moved.at("create", &to)?,
        }
    }
    let times = modified_alone((before.st_mtime, before.st_mtime_nsec as _));
    rustix::fs::utimensat(CWD, data, &times, AtFlags::empty()).at("set the times of", data)?;
    lease::remove(given)
}

fn move_to_free_name(from: &Path, to: &Path) -> std::result::Result<(), Errno> {
    let rename = || match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // NFS has no rename that refuses to replace.
        Err(Errno::INVAL | Errno::NOSYS) => rename_where_nothing_is(from, to),
        renamed => renamed,
    };
    let is_directory = || std::fs::symlink_metadata(from).is_ok_and(|found| found.is_dir());
    match rename() {
        // An ordinary user moves a directory only where its `..` may be changed, which is written in it.
        Err(Errno::ACCESS) if is_directory() => {
            let mode = rustix::fs::lstat(from)?.st_mode;
            let mode = |more: u32| Mode::from_raw_mode(mode & 0o7777 | more);
            rustix::fs::chmod(from, mode(0o700))?;
            match rename() {
                Ok(()) => rustix::fs::chmod(to, mode(0)),
                failed => rustix::fs::chmod(from, mode(0)).and(failed),
            }
        }
        renamed => renamed,
    }
}

fn rename_where_nothing_is(from: &Path, to: &Path) -> std::result::Result<(), Errno> {
    match rustix::fs::lstat(to) {
        Err(Errno::NOENT) => rustix::fs::rename(from, to),
        found => found.and(Err(Errno::EXIST)),
    }
}

/// Waits until what a directory holds is on the disk.
fn sync_content(directory: &Path) -> Result<()> {
    if is_empty(directory) {
        return Ok(());
    }
    let file = File::open(directory).at("open", directory)?;
    rustix::fs::syncfs(&file).at("sync the file system of", directory)
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names = lease::names(directory).unwrap();
        names.sort();
        names
    }

    fn write(directory: &Path, files: &[&str]) {
        for name in files {
            std::fs::write(directory.join(name), "first").unwrap();
        }
    }

    #[test]
    fn a_first_content_comes_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::at(root.path());
        volumes.create::<Error>("v", b"{}", |_| Ok(())).unwrap();
        let data = volumes.data("v").unwrap();
        let holder = data.parent().unwrap();
        let fill = |files: &[&str]| {
            volumes.fill::<Error>("v", |first, _| {
                write(first, files);
                Ok(())
            })
        };
        // Whoever fills it dies.
        let died = volumes.fill("v", |first, volume| {
            assert_eq!(volume, data);
            write(first, &["half"]);
            Err(Error::Missing("x".to_owned()))
        });
        assert!(died.is_err());
        assert!(names(&data).is_empty());
        assert_eq!(names(holder), ["_data", "first", "volume.json"]);
        let inode = std::os::unix::fs::MetadataExt::ino;
        let before = inode(&std::fs::metadata(&data).unwrap());
        fill(&["a", "b"]).unwrap();
        assert_eq!(names(&data), ["a", "b"]);
        assert_eq!(names(holder), ["_data", "volume.json"]);
        assert_eq!(inode(&std::fs::metadata(&data).unwrap()), before);
        fill(&["c"]).unwrap();
        assert_eq!(names(&data), ["a", "b"]);
    }

    #[test]
    fn a_rename_replaces_nothing_where_the_file_system_has_no_such() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        write(root.path(), &["from"]);
        std::os::unix::fs::symlink("nowhere", &to).unwrap();
        assert_eq!(rename_where_nothing_is(&from, &to), Err(Errno::EXIST));
        std::fs::remove_file(&to).unwrap();
        assert_eq!(rename_where_nothing_is(&from, &to), Ok(()));
        assert_eq!(rename_where_nothing_is(&from, &to), Err(Errno::EXIST));
        assert_eq!(names(root.path()), ["to"]);
        std::fs::remove_file(&to).unwrap();
        assert_eq!(rename_where_nothing_is(&from, &to), Err(Errno::NOENT));
    }

    #[test]
    fn what_was_given_in_part_is_given_in_whole() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::at(root.path());
        volumes.create::<Error>("v", b"{}", |_| Ok(())).unwrap();
        let data = volumes.data("v").unwrap();
        let given = data.with_file_name("given");
        make_directory(&given).unwrap();
        make_directory(&given.join("closed")).unwrap();
        rustix::fs::chmod(given.join("closed"), Mode::from_raw_mode(0o555)).unwrap();
        write(&given, &["b", "c"]);
        write(&data, &["a"]);
        std::fs::write(data.join("c"), "a container's").unwrap();
        volumes
            .fill::<Error>("v", |_, _| panic!("it is filled"))
            .unwrap();
        assert_eq!(names(&data), ["a", "b", "c", "closed"]);
        let mode = rustix::fs::lstat(data.join("closed")).unwrap().st_mode;
        assert_eq!(mode & 0o7777, 0o555);
        let kept = std::fs::read_to_string(data.join("c")).unwrap();
        assert_eq!(kept, "a container's");
        assert!(!given.exists());
    }
}
