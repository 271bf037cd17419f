//! Volumes: directories that outlive the containers which use them. Collection never takes them.
//!
//! ```text
//! volumes/NAME/volume.json   what is known of it; appears together with the directory, by one rename
//! volumes/NAME/_data         what it holds
//! ```
//!
//! Whoever makes a container that holds a volume, and whoever removes one, holds the lock of the containers.

use std::path::{Path, PathBuf};

use crate::error::IoContext as _;
use crate::lease;
use crate::store::{Error, Result, make_directory};

/// The volumes of a store.
#[derive(Debug, Clone)]
pub struct Volumes {
    all: PathBuf,
}

impl Volumes {
    /// Those of the store at `root`, which need not be there.
    pub fn at(root: &Path) -> Self {
        Self {
            all: root.join("volumes"),
        }
    }

    /// Sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        if !self.all.exists() {
            return Ok(Vec::new());
        }
        let mut names = lease::names(&self.all)?;
        names.retain(|name| !name.starts_with('.'));
        names.sort_unstable();
        Ok(names)
    }

    fn directory(&self, name: &str) -> Result<PathBuf> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let starts = name
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric());
        if !starts || name.len() > 200 || !name.bytes().all(good) {
            return Err(Error::BadId(name.chars().take(200).collect()));
        }
        Ok(self.all.join(name))
    }

    /// Where what it holds is.
    pub fn data(&self, name: &str) -> Result<PathBuf> {
        Ok(self.directory(name)?.join("_data"))
    }

    /// What is known of it; `None` where there is no such volume.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.directory(name)?.join("volume.json");
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).at("read", &path),
        }
    }

    /// Makes it. `fill` puts in what it begins with. The lock of the containers must be held.
    pub fn create<E: From<Error>>(
        &self,
        name: &str,
        document: &[u8],
        fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let directory = self.directory(name)?;
        std::fs::create_dir_all(&self.all).at("create", &self.all)?;
        let making = self.all.join(format!(".{name}"));
        // What is there was left by a process that died: the lock is ours.
        lease::remove(&making)?;
        make_directory(&making)?;
        let data = making.join("_data");
        make_directory(&data)?;
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        rustix::fs::chmod(&data, mode).at("chmod", &data)?;
        fill(&data)?;
        let path = making.join("volume.json");
        std::fs::write(&path, document).at("write", &path)?;
        Ok(rustix::fs::rename(&making, &directory).at("create", &directory)?)
    }

    /// False where there is none. The lock of the containers must be held, and nobody may use it.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let directory = self.directory(name)?;
        let doomed = self.all.join(format!(".{name}"));
        lease::remove(&doomed)?;
        match rustix::fs::rename(&directory, &doomed) {
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            result => result.at("remove", &directory)?,
        }
        lease::remove(&doomed)?;
        Ok(true)
    }
}
