//! Images to registries: `push`, and what `build --push` does with a result.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rbuild_cache::images::StoredImage;
use rbuild_cache::{Digest, Store};
use rbuild_image::compression::Compression;
use rbuild_image::export;
use rbuild_image::layer::{LayerOptions, layer};
use rbuild_image::manifest::{Index, OCI_INDEX, OCI_MANIFEST};
use rbuild_image::registry::Client;
use rbuild_image::registry::push::{Progress, Push};
use rbuild_image::source::{self, Location};
use rbuild_image::{Descriptor, ImageConfig, Manifest, Platform, Reference, store_image};

use crate::worker::blocking;
use crate::{Engine, Error, Result};

/// What went to a registry.
#[derive(Debug, Clone)]
pub struct Pushed {
    pub root: Descriptor,
    /// Platforms of the index that are not here, and did not go.
    pub left_out: Vec<String>,
}

impl Engine {
    /// Sends an image of the store to the registry of its name; of an index, one platform alone where that is asked.
    /// Returns what the name means there now.
    pub async fn push(
        &self,
        name: &Reference,
        platform: Option<&Platform>,
        progress: &Progress,
    ) -> Result<Pushed> {
        let image = self.find_image(&name.canonical())?;
        self.complete(&image).await?;
        let pushed = {
            let (store, image, platform) =
                (Arc::clone(self.store()), image.clone(), platform.cloned());
            blocking(move || sendable(&store, &image, platform.as_ref())).await?
        };
        let root = &pushed.root;
        let known = self.other_names(&image, root)?;
        let none = HashSet::new();
        send(
            self.store(),
            &self.client,
            root,
            name,
            &known,
            &none,
            progress,
        )
        .await?;
        Ok(pushed)
    }

    /// Brings back what collection took of an image that only a build looked up: it holds its documents alone.
    pub(crate) async fn complete(&self, image: &StoredImage) -> Result<()> {
        let Ok(reference) = image.name.parse::<Reference>() else {
            return Ok(());
        };
        let missing = {
            let (store, image) = (Arc::clone(self.store()), image.clone());
            blocking(move || {
                let root = Descriptor::new(&image.media_type, image.manifest, image.size);
                let manifests = export::manifests(&store, &root)?;
                let layers = manifests
                    .into_iter()
                    .flat_map(|(_, manifest)| manifest.layers);
                let missing = layers.filter(|layer| !store.has_blob(&layer.digest));
                Ok::<Vec<Descriptor>, Error>(missing.collect())
            })
            .await?
        };
        if missing.is_empty() {
            return Ok(());
        }
        let location = Location::Registry(reference);
        let quiet: source::Progress = Arc::new(|_, _, _| {});
        Ok(source::fetch(self.store(), &self.client, &location, missing, quiet).await?)
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
        for (_, manifest) in export::manifests(self.store(), root)? {
            for layer in &manifest.layers {
                known.insert(layer.digest, names.clone());
            }
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
/// a registry that has it elsewhere need not get it again. `there`: what was found to be there, and may not be here.
pub(crate) async fn send(
    store: &Arc<Store>,
    client: &Client,
    root: &Descriptor,
    to: &Reference,
    known: &HashMap<Digest, Vec<Reference>>,
    there: &HashSet<Digest>,
    progress: &Progress,
) -> Result<()> {
    let mounts = mounts(store, to, known)?;
    let push = Push {
        root: root.clone(),
        to: to.clone(),
        mounts,
        from: None,
        there: there.clone(),
    };
    Ok(client.push(store, &push, progress).await?)
}

/// In which repositories of the same registry the blobs of this store may be.
pub(crate) fn mounts(
    store: &Store,
    to: &Reference,
    known: &HashMap<Digest, Vec<Reference>>,
) -> Result<HashMap<Digest, Vec<String>>> {
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
    Ok(mounts)
}

/// What of an image can be sent. Of an index that is only partly here, what is here; for one platform its image.
fn sendable(store: &Store, image: &StoredImage, platform: Option<&Platform>) -> Result<Pushed> {
    let as_it_is = Descriptor::new(&image.media_type, image.manifest, image.size);
    let whole = |root: Descriptor| Pushed {
        root,
        left_out: Vec::new(),
    };
    if !as_it_is.is_index() {
        let manifest: Manifest = read(store, &as_it_is.digest)?;
        let config: ImageConfig = read(store, &manifest.config.digest)?;
        if let Some(platform) = platform
            && platform.rank(&config.platform()).is_none()
        {
            return Err(no_platform(
                image,
                platform,
                &[config.platform().to_string()],
            ));
        }
        return Ok(whole(compressed(store, &as_it_is)?.unwrap_or(as_it_is)));
    }
    let index: Index = read(store, &as_it_is.digest)?;
    let platform_of = |descriptor: &Descriptor| {
        let platform = descriptor.platform.as_ref();
        platform.map_or_else(|| "unknown".to_owned(), |it| it.normalised().to_string())
    };
    let (here, missing): (Vec<Descriptor>, Vec<Descriptor>) = index
        .manifests
        .iter()
        .cloned()
        .partition(|child| is_whole(store, child));
    if let Some(platform) = platform {
        let rank = |child: &Descriptor| platform.rank(&child.platform.as_ref()?.normalised());
        let images = here.iter().filter(|child| !child.is_attestation());
        let best = images
            .filter_map(|child| Some((rank(child)?, child)))
            .min_by_key(|(rank, _)| *rank);
        let Some((_, child)) = best else {
            let available: Vec<String> = here
                .iter()
                .filter(|child| !child.is_attestation())
                .map(platform_of)
                .collect();
            return Err(no_platform(image, platform, &available));
        };
        let child = child.clone();
        return Ok(whole(compressed(store, &child)?.unwrap_or(child)));
    }
    let left_out: Vec<String> = missing
        .iter()
        .filter(|child| !child.is_attestation())
        .map(platform_of)
        .collect();
    let has_attestations = here.iter().any(Descriptor::is_attestation);
    let mut children = Vec::new();
    let mut is_changed = !missing.is_empty();
    for child in here {
        // An attestation is about the digest of an image: that stays.
        let smaller = match has_attestations || child.is_index() {
            true => None,
            false => compressed(store, &child)?,
        };
        is_changed |= smaller.is_some();
        children.push(smaller.unwrap_or(child));
    }
    if !is_changed {
        return Ok(whole(as_it_is));
    }
    let root = match children.as_slice() {
        [one] => one.clone(),
        several => {
            let annotations = index.annotations.unwrap_or_default();
            let annotations: Vec<(String, String)> = annotations.into_iter().collect();
            let oci = image.media_type == OCI_INDEX;
            store_image::write_index(store, several, &annotations, oci)?
        }
    };
    Ok(Pushed { root, left_out })
}

fn no_platform(image: &StoredImage, platform: &Platform, available: &[String]) -> Error {
    Error::Image(rbuild_image::Error::NoPlatform {
        what: super::familiar(&image.name),
        platform: platform.to_string(),
        available: match available {
            [] => "none".to_owned(),
            some => some.join(", "),
        },
    })
}

/// Whether everything below a manifest or index is here.
fn is_whole(store: &Store, descriptor: &Descriptor) -> bool {
    if descriptor.is_index() {
        // What does not nest deeper than a push goes is whole only if all of it can be found.
        let listed = export::manifests(store, descriptor);
        let is_listed = |child: &Descriptor| store.has_blob(&child.digest);
        return listed.is_ok_and(|all| all.iter().all(|(_, it)| has_blobs(store, it)))
            && read::<Index>(store, &descriptor.digest)
                .is_ok_and(|index| index.manifests.iter().all(is_listed));
    }
    read::<Manifest>(store, &descriptor.digest).is_ok_and(|it| has_blobs(store, &it))
}

fn has_blobs(store: &Store, manifest: &Manifest) -> bool {
    let mut blobs = manifest.layers.iter().chain([&manifest.config]);
    blobs.all(|blob| blob.is_foreign() || store.has_blob(&blob.digest))
}

/// What is built here lies uncompressed in the store, and leaves it compressed; the same bytes as a build that
/// pushes makes. What was pulled or loaded leaves as it came: `None`.
fn compressed(store: &Store, descriptor: &Descriptor) -> Result<Option<Descriptor>> {
    let oci = descriptor.media_type == OCI_MANIFEST;
    let manifest: Manifest = read(store, &descriptor.digest)?;
    let plain = |descriptor: &Descriptor| descriptor.media_type.ends_with(".tar");
    if !manifest.layers.iter().any(plain) {
        return Ok(None);
    }
    let config: ImageConfig = read(store, &manifest.config.digest)?;
    let Some(top) = super::top(store, &config)? else {
        return Ok(None);
    };
    let chain = store.chain(&top)?;
    if chain.len() != manifest.layers.len() {
        return Ok(None);
    }
    let options = LayerOptions {
        compression: Compression::default(),
        oci_media_types: oci,
        clamp_mtime: None,
    };
    let mut layers = Vec::new();
    for (snapshot, known) in chain.iter().zip(&manifest.layers) {
        let blob = layer(store, &snapshot.id, &options, false)?;
        // Layers whose times were rewritten are not what their snapshots would make.
        let before = LayerOptions {
            compression: Compression::None,
            ..options
        };
        if plain(known) && layer(store, &snapshot.id, &before, false)?.digest != known.digest {
            return Ok(None);
        }
        layers.push(blob);
    }
    let annotations: Vec<(String, String)> = manifest
        .annotations
        .unwrap_or_default()
        .into_iter()
        .collect();
    let (new, new_config) = store_image::write(store, &config, &layers, &annotations, oci)?;
    if new_config.digest != manifest.config.digest {
        return Ok(None);
    }
    Ok(Some(Descriptor {
        annotations: descriptor.annotations.clone(),
        ..new
    }))
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
