//! A snapshot's own files as a layer: canonical tar → diff ID → compressor → digest → blob, in one pass.
//! The bytes are a function of the content: sorted entries, PAX records only where needed, no names of users.
//! Whiteouts and opaque directories are written as OCI layer.md says.

use std::io::Write;

use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::{SnapshotId, Store};

use crate::Result;
use crate::compression::Compression;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerOptions {
    pub compression: Compression,
    /// OCI or Docker media types.
    pub oci_media_types: bool,
    /// Times later than this (Unix seconds) become this (`rewrite-timestamp` with SOURCE_DATE_EPOCH).
    pub clamp_mtime: Option<i64>,
}

/// Returns the layer of a snapshot, made if it is not known yet. A snapshot unpacked from an image keeps the blob it
/// came from, unless `force` asks for other options. Blocking.
pub fn layer(
    _store: &Store,
    _snapshot: &SnapshotId,
    _options: &LayerOptions,
    _force: bool,
) -> Result<LayerBlob> {
    todo!()
}

/// Writes the merged view of a chain as a plain tar (for `type=tar`, `export`).
pub fn write_root(
    _store: &Store,
    _snapshot: Option<&SnapshotId>,
    _clamp_mtime: Option<i64>,
    _to: &mut dyn Write,
) -> Result<()> {
    todo!()
}
