//! Files that appear when they are whole, or not at all. Until then they have no name, where the file system can do
//! that: whoever is killed while writing leaves nothing.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tempfile::NamedTempFile;

/// A file that is being written.
#[derive(Debug)]
pub struct WholeFile {
    target: PathBuf,
    incoming: Incoming,
}

#[derive(Debug)]
enum Incoming {
    Nameless(File),
    /// Where nothing else can be had.
    Named(NamedTempFile),
}

impl WholeFile {
    /// Begins a file that is to appear at `path`, in place of what is there; a link stays, and what it leads to is
    /// replaced. `mode` is what the umask takes its part of.
    pub fn at(path: &Path, mode: u32) -> io::Result<Self> {
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let directory = directory_of(&target);
        let incoming = match nameless(directory, mode) {
            Some(file) => Incoming::Nameless(file),
            None => Incoming::Named(
                tempfile::Builder::new()
                    .prefix(".rbuild-")
                    .permissions(Permissions::from_mode(mode))
                    .tempfile_in(directory)?,
            ),
        };
        Ok(Self { target, incoming })
    }

    pub fn file(&mut self) -> &mut File {
        match &mut self.incoming {
            Incoming::Nameless(file) => file,
            Incoming::Named(file) => file.as_file_mut(),
        }
    }

    /// Gives it its name.
    pub fn finish(self) -> io::Result<()> {
        let file = match self.incoming {
            Incoming::Named(file) => {
                file.persist(&self.target)?;
                return Ok(());
            }
            Incoming::Nameless(file) => file,
        };
        match link(&file, &self.target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            linked => return linked,
        }
        // A name can be given, but not taken from another file, at one stroke: it has one of its own for a moment.
        let directory = directory_of(&self.target);
        let named = tempfile::Builder::new()
            .prefix(".rbuild-")
            .make_in(directory, |path| link(&file, path))?;
        named.persist(&self.target)?;
        Ok(())
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
fn nameless(directory: &Path, mode: u32) -> Option<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(directory, flags, Mode::from_raw_mode(mode)).ok()?);
    std::fs::metadata(name_of(&file)).is_ok().then_some(file)
}

fn name_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn link(file: &File, path: &Path) -> io::Result<()> {
    let linked = rustix::fs::linkat(CWD, name_of(file), CWD, path, AtFlags::SYMLINK_FOLLOW);
    Ok(linked?)
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
            if matches!(file.incoming, Incoming::Nameless(_)) {
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
