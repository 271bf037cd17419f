//! `store check`: every blob re-hashed, every record's snapshot present, every tree as its directory says, nothing
//! unaccounted for.

use crate::store::{Result, Store};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `blob sha256:…`, `snapshot …`, `record …`.
    pub what: String,
    pub reason: String,
    /// With `repair`: it was put away (quarantined or forgotten).
    pub repaired: bool,
}

impl Store {
    /// Reads everything. With `repair`, damaged things are moved to `quarantine/` and what needs them forgotten.
    pub fn check(&self, _repair: bool) -> Result<Vec<Finding>> {
        todo!()
    }
}
