//! Names in a root's `/etc/passwd` and `/etc/group`: bounded, streaming, regular files only, resolved in the root.

use rbuild_cache::RootDir;

/// A user as a process needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// From the passwd entry; `/` where there is none.
    pub home: String,
    /// Supplementary groups by the root's group file, without `gid`.
    pub groups: Vec<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no user `{0}` in the image's /etc/passwd")]
    NoUser(String),
    #[error("no group `{0}` in the image's /etc/group")]
    NoGroup(String),
    #[error("`{0}` is not a valid id: ids go from 0 to 4294967294")]
    BadId(String),
    #[error("cannot read `{path}` in the image")]
    Io {
        path: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// Resolves USER's value (`name`, `uid`, `name:group`, `uid:gid`, empty) for a process: names must exist.
/// A bare uid without an entry has gid 0 and home `/`.
pub fn process_user(_root: &RootDir, _user: &str) -> Result<User, Error> {
    todo!()
}

/// Resolves `--chown`'s value to (uid, gid): `5` means 5:5; an unknown user is 0 where a passwd file exists and an
/// error where there is none; an unknown group becomes the uid.
pub fn file_owner(_root: &RootDir, _owner: &str) -> Result<(u32, u32), Error> {
    todo!()
}
