//! `manifest.json`, by which `docker load` finds its way.

use rbuild_cache::{Digest, Store};
use serde::Serialize;

use super::blobs;
use crate::error::{Error, Result};
use crate::manifest::Descriptor;
use crate::platform::Platform;
use crate::reference::Reference;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// One item for each image. Docker's format knows no platforms: of an index, the image for this machine is taken,
/// or else the first.
pub(super) fn manifest(store: &Store, images: &[(Descriptor, Vec<String>)]) -> Result<Vec<u8>> {
    let mut items = Vec::new();
    for (root, names) in images {
        let candidates = blobs::manifests(store, root)?;
        let host = Platform::host();
        let rank = |descriptor: &Descriptor| {
            let platform = descriptor.platform.as_ref()?.normalised();
            host.rank(&platform)
        };
        let chosen = candidates
            .iter()
            .filter(|(descriptor, _)| !descriptor.is_attestation())
            .min_by_key(|(descriptor, _)| rank(descriptor).unwrap_or(u32::MAX));
        let (_, manifest) = chosen.ok_or_else(|| Error::BadDocument {
            document: root.digest.to_string(),
            reason: "it holds no image".to_owned(),
        })?;
        let place = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let familiar = |name: &String| match name.parse::<Reference>() {
            Ok(reference) => reference.familiar(),
            Err(_) => name.clone(),
        };
        items.push(Item {
            config: place(&manifest.config.digest),
            repo_tags: (!names.is_empty()).then(|| names.iter().map(familiar).collect()),
            layers: manifest
                .layers
                .iter()
                .map(|layer| place(&layer.digest))
                .collect(),
        });
    }
    serde_json::to_vec(&items).map_err(|error| Error::BadDocument {
        document: "manifest.json".to_owned(),
        reason: error.to_string(),
    })
}
