//! Small files that commands read and write for their callers: whole or not at all.

use std::io::{Read, Write};
use std::path::Path;

use rbuild_engine::cache::whole::WholeFile;

use crate::error::{Error, Result};

/// Writes a file that appears when it is whole.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = WholeFile::at(path, 0o644)?;
        file.write_all(bytes)?;
        file.finish()
    };
    write().map_err(|error| unwritable(path, error))
}

/// Fails as [`write_whole`] would: before long work is done for what could not be kept.
pub(crate) fn check_can_write(path: &Path) -> Result<()> {
    WholeFile::check(path).map_err(|error| unwritable(path, error))
}

/// As [`check_can_write`], of a directory that is made where it is not there.
pub(crate) fn check_can_fill(path: &Path) -> Result<()> {
    let mut known = path.ancestors().filter(|path| !path.as_os_str().is_empty());
    let nearest = known.find_map(|path| Some((path, std::fs::metadata(path).ok()?)));
    match nearest {
        Some((nearest, known)) if !known.is_dir() => Err(Error::failed(format!(
            "cannot make the directory `{}`: `{}` is a file",
            path.display(),
            nearest.display()
        ))),
        _ => Ok(()),
    }
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    let kind = error.kind();
    let error = Error::io("write", path, error);
    match path.parent() {
        Some(parent) if kind == std::io::ErrorKind::NotFound => error.help(format!(
            "there is no directory `{}`: make it first",
            parent.display()
        )),
        _ => error,
    }
}

/// What a list that a person writes may have at most.
const LIST_LIMIT_BYTES: u64 = 16 << 20;

/// Reads a list such as `--env-file`'s, which is text; a device or a pipe that has no end is refused instead of filling
/// memory.
pub(crate) fn read_list(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(LIST_LIMIT_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| Error::io("read", path, error))?;
    if bytes.len() as u64 > LIST_LIMIT_BYTES {
        return Err(Error::failed(format!(
            "`{}` has more than {} MiB",
            path.display(),
            LIST_LIMIT_BYTES >> 20
        )));
    }
    String::from_utf8(bytes)
        .map_err(|_| Error::failed(format!("`{}` is not valid UTF-8", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole_and_leave_nothing_beside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("id");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        write_whole(Path::new("/dev/null"), b"x").unwrap();
        let missing = directory.path().join("missing/id");
        assert!(write_whole(&missing, b"x").is_err());
        assert!(check_can_write(&missing).is_err());
        assert!(check_can_write(directory.path()).is_err());
        check_can_write(&directory.path().join("new")).unwrap();
        check_can_write(&path).unwrap();
        check_can_write(Path::new("/dev/null")).unwrap();
        check_can_fill(&missing).unwrap();
        assert!(check_can_fill(&path.join("below")).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn lists_have_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        std::fs::write(&path, "A=1\n").unwrap();
        assert_eq!(read_list(&path).unwrap(), "A=1\n");
        let error = read_list(Path::new("/dev/zero")).unwrap_err();
        assert!(
            format!("{error:?}").contains("more than 16 MiB"),
            "{error:?}"
        );
    }
}
