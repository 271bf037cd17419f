//! Networks of containers: what is known of each, and which of its addresses are whose.
//!
//! ```text
//! networks/NAME/network.json   what is known of it; appears together with the directory, by one rename
//! networks/NAME/addresses/A    a claim to an address (`claims`)
//! ```
//!
//! Whoever makes or removes a network, and whoever claims an address in one, holds the lock of the containers.

use std::path::Path;

use crate::claims::Claims;
use crate::named::Named;
use crate::store::Result;

/// The networks of a store.
#[derive(Debug, Clone)]
pub struct Networks {
    all: Named,
}

impl Networks {
    /// Those of the store at `root`, which need not be there.
    pub fn at(root: &Path) -> Self {
        Self {
            all: Named::at(root.join("networks"), "network.json"),
        }
    }

    /// Sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        self.all.names()
    }

    /// What is known of it; `None` where there is no such network.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.all.read(name)
    }

    /// Its addresses.
    pub fn addresses(&self, name: &str) -> Result<Claims> {
        Ok(Claims::at(self.all.directory(name)?.join("addresses")))
    }

    /// Makes it. The lock of the containers must be held.
    pub fn create(&self, name: &str, document: &[u8]) -> Result<()> {
        self.all.create(name, document, |_| Ok(()))
    }

    /// False where there is none. The lock of the containers must be held, and nobody may have an address in it.
    pub fn remove(&self, name: &str) -> Result<bool> {
        self.all.remove(name)
    }

    /// Removes what dead processes claimed.
    pub fn sweep(&self) -> Result<()> {
        for name in self.names()? {
            self.addresses(&name)?.sweep()?;
        }
        Ok(())
    }
}
