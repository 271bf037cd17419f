//! Putting an image together in the content store: config, manifest, index.

use std::collections::BTreeMap;

use rbuild_cache::Store;
use rbuild_cache::snapshot::LayerBlob;

use crate::config::ImageConfig;
use crate::layer;
use crate::manifest::{
    DOCKER_CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, DescriptorPlatform, Index, Manifest,
    OCI_CONFIG, OCI_INDEX, OCI_MANIFEST,
};
use crate::{Error, Result};

/// Writes the config (its `rootfs.diff_ids` set from `layers`) and the manifest; returns the manifest's descriptor
/// with its platform, and the config's descriptor.
pub fn write(
    store: &Store,
    config: &ImageConfig,
    layers: &[LayerBlob],
    annotations: &[(String, String)],
    oci_media_types: bool,
) -> Result<(Descriptor, Descriptor)> {
    let mut config = config.clone();
    "layers".clone_into(&mut config.rootfs.kind);
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.0).collect();
    config.rootfs.diff_ids = (!diff_ids.is_empty()).then_some(diff_ids);
    let config_type = if oci_media_types {
        OCI_CONFIG
    } else {
        DOCKER_CONFIG
    };
    let config_descriptor = put(store, &config, config_type)?;
    let media_type = if oci_media_types {
        OCI_MANIFEST
    } else {
        DOCKER_MANIFEST
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type.to_owned()),
        config: config_descriptor.clone(),
        layers: layers
            .iter()
            .map(|blob| {
                let media_type = layer::media_type_in(&blob.media_type, oci_media_types);
                Descriptor::new(&media_type, blob.digest, blob.size)
            })
            .collect(),
        annotations: map(annotations),
    };
    let mut descriptor = put(store, &manifest, media_type)?;
    descriptor.platform = Some(DescriptorPlatform::of(&config));
    Ok((descriptor, config_descriptor))
}

/// Writes an index over manifests.
pub fn write_index(
    store: &Store,
    manifests: &[Descriptor],
    annotations: &[(String, String)],
    oci: bool,
) -> Result<Descriptor> {
    let media_type = if oci { OCI_INDEX } else { DOCKER_INDEX };
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type.to_owned()),
        manifests: manifests.to_vec(),
        annotations: map(annotations),
    };
    put(store, &index, media_type)
}

fn map(annotations: &[(String, String)]) -> Option<BTreeMap<String, String>> {
    (!annotations.is_empty()).then(|| annotations.iter().cloned().collect())
}

pub(crate) fn put<T: serde::Serialize>(
    store: &Store,
    document: &T,
    media_type: &str,
) -> Result<Descriptor> {
    let bytes = serde_json::to_vec(document).map_err(|error| Error::BadDocument {
        document: media_type.to_owned(),
        reason: error.to_string(),
    })?;
    let digest = store.put_blob(&bytes)?;
    Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
}
