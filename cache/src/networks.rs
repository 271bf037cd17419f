//! Networks of containers: what is known of each, and which of its addresses are whose.
//!
//! ```text
//! networks/NAME/network.json   what is known of it; appears together with the directory, by one rename
//! networks/NAME/addresses/A    a claim to an address (`claims`)
//! ```
//!
//! Whoever makes or removes a network, and whoever claims an address in one, holds the lock of the containers.

use std::path::{Path, PathBuf};

use crate::claims::Claims;
use crate::error::IoContext as _;
use crate::lease;
use crate::store::{Error, Result, make_directory};

/// The networks of a store.
#[derive(Debug, Clone)]
pub struct Networks {
    all: PathBuf,
}

impl Networks {
    /// Those of the store at `root`, which need not be there.
    pub fn at(root: &Path) -> Self {
        Self {
            all: root.join("networks"),
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

    /// What is known of it; `None` where there is no such network.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.directory(name)?.join("network.json");
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).at("read", &path),
        }
    }

    /// Its addresses.
    pub fn addresses(&self, name: &str) -> Result<Claims> {
        Ok(Claims::at(self.directory(name)?.join("addresses")))
    }

    /// Makes it. The lock of the containers must be held.
    pub fn create(&self, name: &str, document: &[u8]) -> Result<()> {
        let directory = self.directory(name)?;
        std::fs::create_dir_all(&self.all).at("create", &self.all)?;
        let making = self.all.join(format!(".{name}"));
        // What is there was left by a process that died: the lock is ours.
        lease::remove(&making)?;
        make_directory(&making)?;
        let path = making.join("network.json");
        std::fs::write(&path, document).at("write", &path)?;
        std::fs::File::open(&path)
            .and_then(|file| file.sync_all())
            .at("sync", &path)?;
        rustix::fs::rename(&making, &directory).at("create", &directory)
    }

    /// False where there is none. The lock of the containers must be held, and nobody may have an address in it.
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

    /// Removes what dead processes claimed.
    pub fn sweep(&self) -> Result<()> {
        for name in self.names()? {
            self.addresses(&name)?.sweep()?;
        }
        Ok(())
    }
}
