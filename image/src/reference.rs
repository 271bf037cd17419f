//! Image names: `[registry/]repository[:tag][@digest]`, with Docker's defaults (`docker.io`, `library/`, `latest`).

use std::fmt;
use std::str::FromStr;

use rbuild_cache::Digest;

use crate::{Error, Result};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`.
    pub registry: String,
    /// `library/busybox`.
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Reference {
    /// As people write it: `busybox:latest`, `localhost:5000/x:1`.
    pub fn familiar(&self) -> String {
        todo!()
    }

    /// With registry and, where there is no digest, tag: `docker.io/library/busybox:latest`.
    pub fn canonical(&self) -> String {
        todo!()
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// Parses by the distribution project's grammar. Names in capitals, empty parts and names of 64 hex digits are
    /// errors that say so.
    fn from_str(_text: &str) -> Result<Self> {
        todo!()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}
