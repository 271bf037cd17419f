//! What can go wrong in the store: what was done, to what, and why not.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// Whatever goes wrong in the store: what was done, to what, and why not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} `{path}`")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
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
    DigestMismatch { expected: Digest, actual: Digest },
    #[error("blob {digest} has {actual} bytes, {expected} were declared")]
    SizeMismatch {
        digest: Digest,
        expected: u64,
        actual: u64,
    },
    #[error("{what} is larger than the {limit} bytes allowed for it")]
    TooLarge { what: String, limit: u64 },
    #[error("cannot unpack {what}")]
    Unpack {
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{0} is not in the store")]
    Missing(String),
    #[error(
        "the store `{path}` was made by a newer version of this program (format {found}, this one knows up to {known})"
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error("`{path}` is no store, and cannot become one: {reason}")]
    NoStore { path: PathBuf, reason: String },
    #[error("`{0}` is not usable as an id of a container: only letters, digits, `-` and `_`")]
    BadId(String),
}

/// With this crate's error, unless another one is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What the user can do about it, where the cause is one that the user can mend.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Newer { .. } => Some(
                "use the newer version, or another store with `--root`; this store was left as it is",
            ),
            Self::NoStore { .. } => Some(
                "a store has a directory of its own, which is made where there is none: name that with `--root`",
            ),
            _ if self.is_damage() => {
                Some("`store check --repair` puts damaged things away; they are made again")
            }
            _ if self.is_storage_full() => {
                Some("the disk is full: free space there, for instance with `prune`")
            }
            _ if self.is_read_only() => {
                Some("the store must be on a writable file system; choose another with `--root`")
            }
            _ if self.is_permission_denied() => {
                Some("the store belongs to another user; choose another with `--root`")
            }
            _ => None,
        }
    }

    /// The index itself is not what SQLite wrote.
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match self {
            Self::Damaged { .. } => true,
            Self::Index { source, .. } => match source {
                // A table or a row is gone, or a value is of another type.
                rusqlite::Error::SqliteFailure(error, _) => {
                    matches!(error.code, DatabaseCorrupt | NotADatabase)
                        || error.extended_code == rusqlite::ffi::SQLITE_ERROR
                }
                rusqlite::Error::SqlInputError { .. }
                | rusqlite::Error::Utf8Error(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::QueryReturnedNoRows
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::FromSqlConversionFailure(..) => true,
                _ => false,
            },
            _ => false,
        }
    }

    /// The file system or a quota has no room left.
    pub fn is_storage_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Index { source, .. } => {
                // SQLITE_IOERR_SHMSIZE: no room for the file by which its users share memory.
                const SHARED_MEMORY_SIZE: i32 = 4874;
                let code = source.sqlite_error();
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
                    || code.is_some_and(|code| code.extended_code == SHARED_MEMORY_SIZE)
            }
            _ => false,
        }
    }

    /// Whether the store lies on a file system that cannot be written to.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::ReadOnlyFilesystem,
            Self::Index { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::ReadOnly)
            }
            _ => false,
        }
    }

    /// Whether it failed for want of rights to the store.
    pub fn is_permission_denied(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Index { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::PermissionDenied)
            }
            _ => false,
        }
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers pass literals, `format_args!` and errors alike"
    )]
    pub(crate) fn damaged(what: impl ToString, reason: impl ToString) -> Self {
        Self::Damaged {
            what: what.to_string(),
            reason: reason.to_string(),
        }
    }
}

/// Says what was attempted, on the way from `std::io` and rustix.
pub(crate) trait IoContext<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}

/// Says what was attempted, on the way from SQLite.
pub(crate) trait IndexContext<T> {
    fn doing(self, action: &'static str) -> Result<T>;
}

impl<T> IndexContext<T> for rusqlite::Result<T> {
    fn doing(self, action: &'static str) -> Result<T> {
        self.map_err(|source| Error::Index { action, source })
    }
}
