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
use crate::named::Named;
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
            let mode = rustix::fs::Mode::from_raw_mode(0o755);
            rustix::fs::chmod(&data, mode).at("chmod", &data)?;
            fill(&data)
        })
    }

    /// False where there is none. The lock of the containers must be held, and nobody may use it.
    pub fn remove(&self, name: &str) -> Result<bool> {
        self.all.remove(name)
    }
}
