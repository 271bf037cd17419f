//! Putting an image together in the content store: config, manifest, index.

use rbuild_cache::Store;
use rbuild_cache::snapshot::LayerBlob;

use crate::Result;
use crate::config::ImageConfig;
use crate::manifest::Descriptor;

/// Writes the config (its `rootfs.diff_ids` set from `layers`) and the manifest; returns the manifest's descriptor
/// with its platform, and the config's descriptor.
pub fn write(
    _store: &Store,
    _config: &ImageConfig,
    _layers: &[LayerBlob],
    _annotations: &[(String, String)],
    _oci_media_types: bool,
) -> Result<(Descriptor, Descriptor)> {
    todo!()
}

/// Writes an index over manifests.
pub fn write_index(
    _store: &Store,
    _manifests: &[Descriptor],
    _annotations: &[(String, String)],
    _oci: bool,
) -> Result<Descriptor> {
    todo!()
}
