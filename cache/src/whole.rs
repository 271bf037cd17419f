//! Files that appear when they are whole, or not at all. Until then they have no name, where the file system can do
//! that: whoever is killed while writing leaves nothing.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use tempfile::NamedTempFile;

/// A file that is being written.
#[derive(Debug)]
pub struct WholeFile {
    target: PathBuf,
    incoming: Incoming,
}

#[derive(Debug)]
enum Incoming {
    /// With the directory that it is to be in. It is known by that and not by its path: where this process enters
    /// another mount namespace meanwhile, the path leads to another mount, and no name can be given across mounts.
    Nameless(File, OwnedFd),
    /// Where nothing else can be had.
    Named(NamedTempFile),
    /// A device or a pipe is written to as it is, and stays.
    Special(File),
}

impl WholeFile {
    /// Begins a file that is to appear at `path`, in place of a file that is there; a link stays, and what it leads to is
    /// replaced. `mode` is what the umask takes its part of.
    pub fn at(path: &Path, mode: u32) -> io::Result<Self> {
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if std::fs::metadata(&target).is_ok_and(|metadata| !metadata.is_file()) {
            let incoming = Incoming::Special(File::options().write(true).open(&target)?);
            return Ok(Self { target, incoming });
        }
        let directory = directory_of(&target);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory, flags, Mode::empty())?;
        let incoming = match nameless(&opened, mode) {
            Some(file) => Incoming::Nameless(file, opened),
            None => Incoming::Named(
                tempfile::Builder::new()
                    .prefix(".rbuild-")
                    .permissions(Permissions::from_mode(mode))
                    .tempfile_in(directory)
                    // Without the name that it would have had.
                    .map_err(|error| error.kind())?,
            ),
        };
        Ok(Self { target, incoming })
    }

    /// Fails where [`WholeFile::at`] would, as far as that can be known without making anything.
    pub fn check(path: &Path) -> io::Result<()> {
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        match std::fs::metadata(&target) {
            Ok(known) if known.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            // A pipe or a device is opened once.
            Ok(known) if !known.is_file() => Ok(()),
            _ => {
                let access = Access::WRITE_OK | Access::EXEC_OK;
                Ok(rustix::fs::access(directory_of(&target), access)?)
            }
        }
    }

    /// To be written to. Nobody sees what is in it before it is finished.
    pub fn file(&mut self) -> &mut File {
        match &mut self.incoming {
            Incoming::Nameless(file, _) | Incoming::Special(file) => file,
            Incoming::Named(file) => file.as_file_mut(),
        }
    }

    /// Gives it its name.
    pub fn finish(self) -> io::Result<()> {
        let (file, directory) = match self.incoming {
            Incoming::Named(file) => {
                file.persist(&self.target)?;
                return Ok(());
            }
            Incoming::Special(_) => return Ok(()),
            Incoming::Nameless(file, directory) => (file, directory),
        };
        let name = self
            .target
            .file_name()
            .ok_or(io::ErrorKind::InvalidFilename)?;
        match link(&file, &directory, name) {
            Err(Errno::EXIST) => {}
            linked => return Ok(linked?),
        }
        // A name can be given, but not taken from another file, at one stroke: it has one of its own for a moment.
        let mut number = 0_u32;
        let own = loop {
            let own = OsString::from(format!(".rbuild-{}-{number}", std::process::id()));
            match link(&file, &directory, &own) {
                Err(Errno::EXIST) => number += 1,
                linked => {
                    linked?;
                    break own;
                }
            }
        };
        let renamed = rustix::fs::renameat(&directory, &own, &directory, name);
        if renamed.is_err() {
            // The name is no more than litter; why it could not become the other is what is told.
            let _ = rustix::fs::unlinkat(&directory, &own, AtFlags::empty());
        }
        Ok(renamed?)
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// `None` where this file system, or a machine without /proc, has no such files.
fn nameless(directory: &OwnedFd, mode: u32) -> Option<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, ".", flags, Mode::from_raw_mode(mode)).ok()?;
    let file = File::from(file);
    let can_be_linked = std::fs::metadata(link_to(&file)).is_ok();
    can_be_linked.then_some(file)
}

fn link_to(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn link(file: &File, directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let follow = AtFlags::SYMLINK_FOLLOW;
    rustix::fs::linkat(CWD, link_to(file), directory, name, follow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_when_it_is_whole_and_replaces_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        for content in ["one", "another"] {
            let mut file = WholeFile::at(&path, 0o640).unwrap();
            file.write_all(content.as_bytes()).unwrap();
            if matches!(file.incoming, Incoming::Nameless(..)) {
                assert!(names(directory.path()).len() < 2, "a name too early");
            } else {
                println!("SKIPPED that it has no name: not on this file system");
            }
            file.finish().unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
            assert_eq!(names(directory.path()), ["out"]);
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
    }

    #[test]
    fn what_cannot_be_begun_is_told_without_names_of_ours() {
        for directory in ["/nowhere", "/proc"] {
            let error = WholeFile::at(&Path::new(directory).join("out"), 0o644).unwrap_err();
            assert!(!error.to_string().contains("rbuild"), "{error}");
        }
    }

    #[test]
    fn a_device_stays_one() {
        use std::os::unix::fs::FileTypeExt as _;
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let mut file = WholeFile::at(&link, 0o644).unwrap();
        file.write_all(b"gone").unwrap();
        file.finish().unwrap();
        let null = std::fs::metadata("/dev/null").unwrap();
        assert!(null.file_type().is_char_device());
        assert_eq!(names(directory.path()), ["link"]);
        assert!(WholeFile::at(directory.path(), 0o644).is_err());
    }

    #[test]
    fn what_is_given_up_leaves_nothing_and_links_stay() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("real"), "before").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("real", &link).unwrap();
        let mut file = WholeFile::at(&link, 0o644).unwrap();
        file.write_all(b"lost").unwrap();
        drop(file);
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "before");
        let mut file = WholeFile::at(&link, 0o644).unwrap();
        file.write_all(b"after").unwrap();
        file.finish().unwrap();
        assert_eq!(names(directory.path()), ["link", "real"]);
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("real"));
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "after");
    }
}
