//! What went wrong on a walk, and where.

use std::ffi::{OsStr, OsString};
use std::io;

use super::join;
use crate::error::Result;
use crate::root_dir::path_of;

/// What was attempted when it failed; the path is added where it is known.
pub(super) struct Failure {
    action: &'static str,
    name: Option<OsString>,
    source: io::Error,
}

impl Failure {
    /// Says which name in the directory it was.
    pub(super) fn of(self, name: &OsStr) -> Self {
        Self {
            name: Some(name.to_owned()),
            ..self
        }
    }

    pub(super) fn at_path(self, directory: &[u8]) -> crate::Error {
        let path = match &self.name {
            Some(name) => join(directory, name),
            None => directory.to_vec(),
        };
        crate::Error::Io {
            action: self.action,
            path: path_of(&path).to_owned(),
            source: self.source,
        }
    }
}

pub(super) trait During<T> {
    fn during(self, action: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> During<T> for std::result::Result<T, E> {
    fn during(self, action: &'static str) -> Result<T, Failure> {
        self.map_err(|source| Failure {
            action,
            name: None,
            source: source.into(),
        })
    }
}
