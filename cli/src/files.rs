//! Small files that commands write for their callers: whole or not at all.

use std::io::Write;
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
