//! Out of the store: OCI archive or directory, Docker archive, a local directory. Written under a temporary name
//! beside the destination and renamed when whole; nothing partial is ever left behind.

use std::io::Write;
use std::path::Path;

use rbuild_cache::{SnapshotId, Store};

use crate::Result;
use crate::manifest::Descriptor;

/// Where archive bytes go.
pub enum Sink<'a> {
    File(&'a Path),
    Stream(&'a mut dyn Write),
}

impl std::fmt::Debug for Sink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// An OCI layout as a tar; `names` become `org.opencontainers.image.ref.name` / `io.containerd.image.name`.
pub fn oci_archive(
    _store: &Store,
    _root: &Descriptor,
    _names: &[String],
    _sink: Sink<'_>,
) -> Result<()> {
    todo!()
}

/// An OCI layout as a directory; one that is there already is added to.
pub fn oci_directory(
    _store: &Store,
    _root: &Descriptor,
    _names: &[String],
    _directory: &Path,
) -> Result<()> {
    todo!()
}

/// `docker load`'s format, also readable as an OCI layout.
pub fn docker_archive(
    _store: &Store,
    _images: &[(Descriptor, Vec<String>)],
    _sink: Sink<'_>,
) -> Result<()> {
    todo!()
}

/// The files of a root into a directory (made where missing; what is there stays unless it is replaced). As an
/// ordinary user, ownership is the caller's.
pub fn local(
    _store: &Store,
    _snapshot: Option<&SnapshotId>,
    _directory: &Path,
    _clamp_mtime: Option<i64>,
) -> Result<()> {
    todo!()
}
