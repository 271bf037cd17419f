//! `--cidfile`: made before anything else, so that it is known to be new; filled when the ID is known.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Removed again unless it was filled.
#[derive(Debug)]
pub(super) struct CidFile {
    path: PathBuf,
    file: Option<File>,
}

impl CidFile {
    pub(super) fn create(path: Option<&Path>) -> Result<Option<Self>> {
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(None);
        };
        let file = File::create_new(path).map_err(|error| {
            let exists = error.kind() == std::io::ErrorKind::AlreadyExists;
            let failed = Error::io("create", path, error);
            if exists {
                failed.help("a --cidfile must be a new file: remove it, or use another name")
            } else {
                failed
            }
        })?;
        Ok(Some(Self {
            path: path.to_owned(),
            file: Some(file),
        }))
    }

    /// Another process fills it, or removes it.
    pub(super) fn leave(mut self) {
        self.file = None;
    }

    pub(super) fn fill(mut self, id: &str) -> Result<()> {
        let Some(mut file) = self.file.take() else {
            return Ok(());
        };
        file.write_all(id.as_bytes())
            .map_err(|error| Error::io("write", &self.path, error))
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
