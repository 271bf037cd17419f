//! in-toto statements beside an image, where BuildKit puts them and others look for them: a manifest of its own in
//! the image's index, for the platform `unknown/unknown`, one layer a statement, annotated with the image it speaks
//! of. What statements say is the callers' business.

use std::collections::BTreeMap;

use rbuild_cache::{Digest, Store};
use serde_json::json;

use crate::manifest::{Descriptor, DescriptorPlatform, Manifest, OCI_CONFIG, OCI_MANIFEST};
use crate::store_image::put;
use crate::{Error, Result};

/// The media type of a statement's layer.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The annotation of such a layer that says what its statement is about.
pub const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// The annotation by which a manifest in an index is none of an image.
pub const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The annotation by which an attestation says which image it is about.
pub const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
/// The value of [`REFERENCE_TYPE`] for attestations.
pub const ATTESTATION_MANIFEST: &str = "attestation-manifest";

/// A statement, as bytes that are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    pub predicate_type: String,
    /// JSON.
    pub statement: Vec<u8>,
}

/// Attestations in the content store.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Of their manifest; to be put into the index behind the images.
    pub descriptor: Descriptor,
    /// What the manifest leads to.
    pub blobs: Vec<Digest>,
}

/// Writes the statements about the image `of`.
pub fn write(store: &Store, of: &Descriptor, attestations: &[Attestation]) -> Result<Attached> {
    let mut layers = Vec::with_capacity(attestations.len());
    for attestation in attestations {
        let digest = store.put_blob(&attestation.statement)?;
        let mut layer = Descriptor::new(IN_TOTO, digest, attestation.statement.len() as u64);
        layer.annotations = Some(BTreeMap::from([(
            PREDICATE_TYPE.to_owned(),
            attestation.predicate_type.clone(),
        )]));
        layers.push(layer);
    }
    let mut blobs: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    // A config that any registry takes; it says nothing about anything.
    let config = json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": blobs},
    });
    let config = put(store, &config, OCI_CONFIG)?;
    blobs.push(config.digest);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        config,
        layers,
        annotations: None,
    };
    let mut descriptor = put(store, &manifest, OCI_MANIFEST)?;
    descriptor.platform = Some(DescriptorPlatform {
        architecture: "unknown".to_owned(),
        os: "unknown".to_owned(),
        os_version: None,
        os_features: None,
        variant: None,
    });
    descriptor.annotations = Some(BTreeMap::from([
        (REFERENCE_DIGEST.to_owned(), of.digest.to_string()),
        (REFERENCE_TYPE.to_owned(), ATTESTATION_MANIFEST.to_owned()),
    ]));
    Ok(Attached { descriptor, blobs })
}

/// Reads the attestations of a manifest that [`write`] or BuildKit made.
pub fn read(store: &Store, manifest: &Manifest, limit_bytes: u64) -> Result<Vec<Attestation>> {
    let layers = manifest.layers.iter().filter(|it| it.media_type == IN_TOTO);
    let read = |layer: &Descriptor| {
        let predicate_type = layer.annotation(PREDICATE_TYPE).unwrap_or_default();
        Ok::<_, Error>(Attestation {
            predicate_type: predicate_type.to_owned(),
            statement: store.read_blob(&layer.digest, limit_bytes)?,
        })
    };
    layers.map(read).collect()
}
