//! Out of the store: OCI archive or directory, Docker archive, a local directory. Written under a temporary name
//! beside the destination and renamed when whole; nothing partial is ever left behind.
//!
//! Archives are a function of what is in them: names sorted, no times, no owners. Every blob is hashed on its way
//! out: damage on the disk never leaves the store. The destination of an archive: `sink`; a root's files in a
//! directory: `local`.

mod blobs;
mod docker;
mod local;
mod sink;

use std::path::Path;

use rbuild_cache::{SnapshotId, Store};

use crate::manifest::{Descriptor, Manifest};
use crate::{Result, layer};
pub(crate) use blobs::{add_names, copy_blob, is_named, lock, verify_blob};
pub use sink::Sink;

/// The images below a manifest or index that are here, attestations too.
pub fn manifests(store: &Store, root: &Descriptor) -> Result<Vec<(Descriptor, Manifest)>> {
    blobs::manifests(store, root)
}

/// An OCI layout as a tar; `names` become `org.opencontainers.image.ref.name` / `io.containerd.image.name`.
pub fn oci_archive(
    store: &Store,
    root: &Descriptor,
    names: &[String],
    sink: Sink<'_>,
) -> Result<()> {
    let blobs = blobs::needed(store, std::slice::from_ref(root))?;
    let index = blobs::index(&[(root.clone(), names.to_vec())])?;
    sink::with(sink, |tar| {
        tar.small("oci-layout", blobs::OCI_LAYOUT)?;
        tar.small("index.json", &index)?;
        tar.blobs(store, &blobs)
    })
}

/// An OCI layout as a directory; one that is there already is added to.
pub fn oci_directory(
    store: &Store,
    root: &Descriptor,
    names: &[String],
    directory: &Path,
) -> Result<()> {
    blobs::write_directory(store, root, names, directory)
}

/// `docker load`'s format, also readable as an OCI layout.
pub fn docker_archive(
    store: &Store,
    images: &[(Descriptor, Vec<String>)],
    sink: Sink<'_>,
) -> Result<()> {
    let roots: Vec<Descriptor> = images.iter().map(|(root, _)| root.clone()).collect();
    let blobs = blobs::needed(store, &roots)?;
    let index = blobs::index(images)?;
    let manifest = docker::manifest(store, images)?;
    sink::with(sink, |tar| {
        tar.small("oci-layout", blobs::OCI_LAYOUT)?;
        tar.small("index.json", &index)?;
        tar.small("manifest.json", &manifest)?;
        tar.blobs(store, &blobs)
    })
}

/// A root whose files are written.
#[derive(Debug)]
pub struct Root<'a> {
    /// `None` is an empty root.
    pub snapshot: Option<&'a SnapshotId>,
    /// The time that all of it gets, where there is one.
    pub epoch: Option<i64>,
    /// The name of a directory of its own, where there are several.
    pub directory: Option<String>,
    /// What else is in there: names and contents.
    pub documents: Vec<(String, Vec<u8>)>,
}

/// The files of roots into a directory (made where missing; what is there stays unless it is replaced, or unless it
/// is to go with `delete`). As an ordinary user, ownership is the caller's.
pub fn local(store: &Store, roots: &[Root<'_>], directory: &Path, delete: bool) -> Result<()> {
    local::write(store, roots, directory, delete)
}

/// The files of roots as one plain tar. Those that share a directory must have no name in common.
pub fn tar(store: &Store, roots: &[Root<'_>], to: &mut dyn std::io::Write) -> Result<()> {
    layer::write_roots(store, roots, to)
}
