//! Small files that commands write for their callers: whole or not at all.

use std::io::Write;
use std::path::Path;

use rbuild_engine::cache::whole::WholeFile;

use crate::error::{Error, Result};

/// Writes a file that appears when it is whole. What is no regular file (a pipe, a
/// terminal, /dev/null) is written to directly.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes).map_err(|error| Error::io("write", path, error))
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return std::fs::OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all(bytes);
    }
    let mut file = WholeFile::at(path, 0o644)?;
    file.write_all(bytes)?;
    file.finish()
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
}
