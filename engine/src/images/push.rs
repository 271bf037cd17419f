//! Images to registries: `push`, and what `build --push` does with a result.

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_cache::images::StoredImage;
use rbuild_cache::{Digest, Store};
use rbuild_image::compression::Compression;
use rbuild_image::layer::{LayerOptions, layer};
use rbuild_image::manifest::{DOCKER_MANIFEST, OCI_MANIFEST};
use rbuild_image::registry::Client;
use rbuild_image::registry::push::{Progress, Push};
use rbuild_image::{Descriptor, Reference, store_image};

use crate::worker::blocking;
use crate::{Engine, Error, Result};

impl Engine {
    /// Sends an image of the store to the registry of its name. Returns what the name means there now.
    pub async fn push(&self, name: &Reference, progress: &Progress) -> Result<Descriptor> {
        let image = self.find_image(&name.canonical())?;
        let root = {
            let (store, image) = (Arc::clone(self.store()), image.clone());
            blocking(move || compressed(&store, &image)).await?
        };
        let known = self.other_names(&image, &root)?;
        send(self.store(), &self.client, &root, name, &known, progress).await?;
        Ok(root)
    }

    /// Where the blobs of an image may be already: in the repositories of its other names.
    fn other_names(
        &self,
        image: &StoredImage,
        root: &Descriptor,
    ) -> Result<HashMap<Digest, Vec<Reference>>> {
        let mut known = HashMap::new();
        if root.digest == image.manifest {
            return Ok(known);
        }
        let images = self.store().images()?;
        let same = images
            .iter()
            .filter(|other| other.manifest == image.manifest);
        let names: Vec<Reference> = same.filter_map(|other| other.name.parse().ok()).collect();
        // What leaves compressed is in no image of the store.
        let manifest: rbuild_image::Manifest = read(self.store(), &root.digest)?;
        for layer in &manifest.layers {
            known.insert(layer.digest, names.clone());
        }
        Ok(known)
    }

    /// The canonical names that the store has of a repository.
    pub fn names_of(&self, repository: &Reference) -> Result<Vec<Reference>> {
        let images = self.store().images()?;
        let names = images.iter().filter_map(|image| image.name.parse().ok());
        Ok(names
            .filter(|name: &Reference| {
                name.registry == repository.registry && name.repository == repository.repository
            })
            .collect())
    }
}

/// Sends what a descriptor leads to. `known` says which repositories have a blob, besides those of stored images:
/// a registry that has it elsewhere need not get it again.
pub(crate) async fn send(
    store: &Arc<Store>,
    client: &Client,
    root: &Descriptor,
    to: &Reference,
    known: &HashMap<Digest, Vec<Reference>>,
    progress: &Progress,
) -> Result<()> {
    let mut mounts: HashMap<Digest, Vec<String>> = HashMap::new();
    let mut note = |digest: Digest, reference: &Reference| {
        let repositories = mounts.entry(digest).or_default();
        if reference.registry == to.registry && !repositories.contains(&reference.repository) {
            repositories.push(reference.repository.clone());
        }
    };
    for (digest, references) in known {
        for reference in references {
            note(*digest, reference);
        }
    }
    for image in store.images()? {
        if let Ok(reference) = image.name.parse::<Reference>() {
            for blob in image.blobs.iter().chain([&image.config]) {
                note(*blob, &reference);
            }
        }
    }
    let push = Push {
        root: root.clone(),
        to: to.clone(),
        mounts,
    };
    Ok(client.push(store, &push, progress).await?)
}

/// What is built here lies uncompressed in the store, and leaves it compressed; the same bytes as a build that
/// pushes makes. What was pulled or loaded leaves as it came.
fn compressed(store: &Store, image: &StoredImage) -> Result<Descriptor> {
    let as_it_is = Descriptor::new(&image.media_type, image.manifest, image.size);
    let oci = match image.media_type.as_str() {
        OCI_MANIFEST => true,
        DOCKER_MANIFEST => false,
        // Of an index, each image was made in its form.
        _ => return Ok(as_it_is),
    };
    let Some(top) = &image.snapshot else {
        return Ok(as_it_is);
    };
    let manifest: rbuild_image::Manifest = read(store, &image.manifest)?;
    let config = read(store, &image.config)?;
    let chain = store.chain(top)?;
    let plain = |descriptor: &Descriptor| descriptor.media_type.ends_with(".tar");
    if chain.len() != manifest.layers.len() || !manifest.layers.iter().any(plain) {
        return Ok(as_it_is);
    }
    let options = LayerOptions {
        compression: Compression::default(),
        oci_media_types: oci,
        clamp_mtime: None,
    };
    let mut layers = Vec::new();
    for (snapshot, descriptor) in chain.iter().zip(&manifest.layers) {
        let before = layer(
            store,
            &snapshot.id,
            &LayerOptions {
                compression: Compression::None,
                ..options
            },
            false,
        )?;
        // Layers whose times were rewritten are not what their snapshots would make.
        if before.digest != descriptor.digest {
            return Ok(as_it_is);
        }
        layers.push(layer(store, &snapshot.id, &options, false)?);
    }
    let annotations: Vec<(String, String)> = manifest
        .annotations
        .unwrap_or_default()
        .into_iter()
        .collect();
    let (descriptor, new_config) = store_image::write(store, &config, &layers, &annotations, oci)?;
    if new_config.digest != image.config {
        return Ok(as_it_is);
    }
    Ok(descriptor)
}

fn read<T: serde::de::DeserializeOwned>(store: &Store, digest: &Digest) -> Result<T> {
    let bytes = store.read_blob(digest, super::DOCUMENT_BYTES_MAX)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Error::Image(rbuild_image::Error::BadDocument {
            document: digest.to_string(),
            reason: error.to_string(),
        })
    })
}
