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
    write().map_err(|error| Error::io("write", path, error))
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
        assert!(write_whole(&directory.path().join("missing/id"), b"x").is_err());
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
