//! Opening the store, its error type, and the SQLite index that the other modules share.

use std::path::{Path, PathBuf};

/// Whatever goes wrong in the store: what was done, to what, and why not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} `{path}`")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the store's index: cannot {action}")]
    Index {
        action: &'static str,
        #[source]
        source: rusqlite::Error,
    },
    #[error("{what} is damaged: {reason}")]
    Damaged { what: String, reason: String },
    #[error("blob {expected} arrived as {actual}")]
    DigestMismatch {
        expected: crate::Digest,
        actual: crate::Digest,
    },
    #[error("blob {digest} has {actual} bytes, {expected} were declared")]
    SizeMismatch {
        digest: crate::Digest,
        expected: u64,
        actual: u64,
    },
    #[error("{0} is not in the store")]
    Missing(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An open store. Cheap to clone behind an `Arc`; safe to use from any thread and beside other processes.
/// Holds this process's lease: what it made or used since it was opened is spared by collection.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store at `root`, making it where there is none (mode 0700), and takes a lease.
    pub fn open(_root: &Path) -> Result<Self> {
        todo!()
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes everything published by this process durable: one `syncfs`, then one transaction that takes the mark
    /// of this boot off its rows. Rows that carry the mark of an earlier boot are dropped when a store is opened.
    pub fn sync(&self) -> Result<()> {
        todo!()
    }

    /// A directory for something in the making, removed when the guard drops or its process died.
    pub fn temporary_directory(&self) -> Result<TemporaryDirectory> {
        todo!()
    }
}

/// A directory under `tmp/`, removed with everything in it on drop (also entries with mode 000).
#[derive(Debug)]
pub struct TemporaryDirectory {
    path: PathBuf,
}

impl TemporaryDirectory {
    pub fn path(&self) -> &Path {
        &self.path
    }
}
