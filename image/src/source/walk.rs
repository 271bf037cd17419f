//! From a name to one manifest and its config, through indexes.

use std::collections::HashSet;
use std::sync::Arc;

use rbuild_cache::{Digest, Store};

use super::{Location, Resolved, blocking, brief};
use crate::archive::Layout;
use crate::config::ImageConfig;
use crate::manifest::{
    CONFIG_LIMIT_BYTES, DOCKER_CONFIG, DOCUMENT_LIMIT_BYTES, Descriptor, Document,
    INDEX_DEPTH_LIMIT, Index, Manifest, OCI_CONFIG, own_media_type,
};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::Client;
use crate::shared::Place;
use crate::{Error, Result};

/// Documents that are read on the way to one image: what names more is there to keep somebody busy.
const DOCUMENTS_LIMIT: usize = 200;

/// Where documents and blobs are read from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Layout(Arc<Layout>),
    Registry(Client, Reference),
    Store,
    /// A shared cache: layers only.
    Shared(Place),
}

impl Origin {
    /// Opens a location and finds what its name means.
    pub(super) async fn open(
        store: &Arc<Store>,
        client: &Client,
        location: &Location,
    ) -> Result<(Self, Descriptor)> {
        let store = Arc::clone(store);
        match location.clone() {
            Location::OciLayout { path, tag, digest } => {
                blocking(move || {
                    let layout = Layout::open_directory(&path)?;
                    let root = layout.pick(tag.as_deref(), digest.as_ref())?;
                    Ok((Self::Layout(Arc::new(layout)), root))
                })
                .await
            }
            Location::OciArchive { path, tag } => {
                blocking(move || {
                    let layout = Layout::open_archive(&store, &path)?;
                    let digest = tag.as_deref().and_then(|tag| tag.parse().ok());
                    let tag = tag.as_deref().filter(|_| digest.is_none());
                    let root = layout.pick(tag, digest.as_ref())?;
                    Ok((Self::Layout(Arc::new(layout)), root))
                })
                .await
            }
            Location::Registry(reference) => {
                let (local, asked) = (Arc::clone(&store), reference.clone());
                let (here, is_known) = brief(move || {
                    // What is here under a digest is what the registry has.
                    let here = asked.digest.and_then(|digest| stored(&local, &digest).ok());
                    let named = local.image_by_name(&asked.canonical())?;
                    Ok((here, named.is_some()))
                })
                .await?;
                let root = match here {
                    Some(root) => root,
                    // What is known may have stayed what it is: then its bytes are not needed.
                    None => {
                        let named = client.named(&reference, !is_known).await?;
                        if let Some(bytes) = named.bytes {
                            blocking(move || Ok(store.put_blob(&bytes)?)).await?;
                        }
                        named.descriptor
                    }
                };
                Ok((Self::Registry(client.clone(), reference), root))
            }
            // Resolving brought it into the store: nothing is brought from the archive after that.
            Location::DockerArchive { path, .. } => {
                Err(Error::NotFound(path.display().to_string()))
            }
            Location::Stored(digest) => {
                let root = brief(move || stored(&store, &digest)).await?;
                Ok((Self::Store, root))
            }
        }
    }

    /// The same place again, for its layers.
    pub(super) async fn again(
        store: &Arc<Store>,
        client: &Client,
        location: &Location,
    ) -> Result<Self> {
        let store = Arc::clone(store);
        match location.clone() {
            Location::OciLayout { path, .. } => {
                blocking(move || Layout::open_directory(&path).map(|it| Self::Layout(Arc::new(it))))
                    .await
            }
            Location::OciArchive { path, .. } => {
                blocking(move || {
                    Layout::open_archive(&store, &path).map(|it| Self::Layout(Arc::new(it)))
                })
                .await
            }
            Location::Registry(reference) => Ok(Self::Registry(client.clone(), reference)),
            Location::DockerArchive { .. } | Location::Stored(_) => Ok(Self::Store),
        }
    }

    /// A document whole, verified against its descriptor.
    pub(super) async fn document(
        &self,
        store: &Arc<Store>,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>> {
        let too_large = || {
            bad(
                &descriptor.digest,
                format!("it has more than {limit} bytes"),
            )
        };
        if descriptor.size > limit {
            return Err(too_large());
        }
        // What is here was verified when it came, and is again when it is read.
        let local = Arc::clone(store);
        let digest = descriptor.digest;
        let known = brief(move || match local.has_blob(&digest) {
            true => local.read_blob(&digest, limit).map(Some).or(Ok(None)),
            false => Ok(None),
        })
        .await?;
        let bytes = match (known, self) {
            (Some(bytes), _) => bytes,
            (None, Self::Store | Self::Shared(_)) => {
                return Err(Error::NotFound(descriptor.digest.to_string()));
            }
            (None, Self::Layout(layout)) => {
                let (layout, descriptor) = (Arc::clone(layout), descriptor.clone());
                blocking(move || layout.small_blob(&descriptor, limit)).await?
            }
            (None, Self::Registry(client, reference)) => {
                client.document(reference, descriptor, limit).await?
            }
        };
        if bytes.len() as u64 != descriptor.size {
            let (size, said) = (bytes.len(), descriptor.size);
            return Err(bad(
                &descriptor.digest,
                format!("it has {size} bytes, its descriptor says {said}"),
            ));
        }
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest {
            return Err(bad(&descriptor.digest, format!("its digest is {actual}")));
        }
        Ok(bytes)
    }
}

pub(super) fn too_deep(digest: &Digest) -> Error {
    bad(
        digest,
        format!("indexes are nested more than {INDEX_DEPTH_LIMIT} deep"),
    )
}

pub(super) fn too_many(what: &str, limit: usize) -> Error {
    Error::BadDocument {
        document: what.to_owned(),
        reason: format!("it leads to more than {limit} manifests and indexes"),
    }
}

fn bad(digest: &Digest, reason: String) -> Error {
    Error::BadDocument {
        document: digest.to_string(),
        reason,
    }
}

/// The descriptor of a manifest or index in the store, by its own media type.
fn stored(store: &Store, digest: &Digest) -> Result<Descriptor> {
    let bytes = store.read_blob(digest, DOCUMENT_LIMIT_BYTES)?;
    let media_type = own_media_type(&bytes, &digest.to_string())?;
    Ok(Descriptor::new(&media_type, *digest, bytes.len() as u64))
}

/// Walks from `root` to the image for a platform and brings its documents into the store.
pub(super) async fn resolve(
    store: &Arc<Store>,
    origin: &Origin,
    location: &Location,
    root: Descriptor,
    platform: &Platform,
) -> Result<Resolved> {
    let what = describe(location);
    let found = walk(store, origin, root.clone(), platform, &what).await?;
    image(store, origin, location, root, found).await
}

/// A manifest, and the indexes that led to it, outermost first.
pub(super) struct Found {
    pub(super) descriptor: Descriptor,
    pub(super) manifest: Manifest,
    pub(super) bytes: Vec<u8>,
    pub(super) indexes: Vec<Digest>,
}

/// Reads the config of an image that was found, and keeps both.
pub(super) async fn image(
    store: &Arc<Store>,
    origin: &Origin,
    location: &Location,
    root: Descriptor,
    found: Found,
) -> Result<Resolved> {
    let Found {
        descriptor,
        manifest,
        bytes,
        indexes,
    } = found;
    if !is_image(&manifest) {
        let media_type = crate::error::shown(manifest.config.media_type.as_bytes());
        return Err(bad(
            &descriptor.digest,
            format!("it is not an image: its config is of the type `{media_type}`"),
        ));
    }
    let config_bytes = origin
        .document(store, &manifest.config, CONFIG_LIMIT_BYTES)
        .await?;
    let config = parse_config(&config_bytes, &manifest)?;
    let keep = Arc::clone(store);
    let digests = [descriptor.digest, manifest.config.digest];
    brief(move || {
        keep.use_blobs(&digests.each_ref())?;
        keep.put_blob(&bytes)?;
        keep.put_blob(&config_bytes)?;
        Ok(())
    })
    .await?;
    Ok(Resolved {
        location: location.clone(),
        digest: descriptor.digest,
        platform: config.platform(),
        descriptor,
        manifest,
        config,
        root,
        indexes,
    })
}

/// Whether a manifest is one of an image, and not of something else that a registry keeps. Some old pushes called the
/// config what any file is called; Docker takes them for images, too.
pub(super) fn is_image(manifest: &Manifest) -> bool {
    matches!(
        manifest.config.media_type.as_str(),
        OCI_CONFIG | DOCKER_CONFIG | "application/octet-stream" | "application/json" | "text/html"
    )
}

/// Reads a config and holds it against the manifest that named it.
pub(super) fn parse_config(bytes: &[u8], manifest: &Manifest) -> Result<ImageConfig> {
    let digest = manifest.config.digest;
    let config: ImageConfig =
        serde_json::from_slice(bytes).map_err(|error| bad(&digest, error.to_string()))?;
    let diff_ids = config.rootfs.diff_ids.as_deref().unwrap_or_default();
    if diff_ids.len() != manifest.layers.len() {
        let reason = format!(
            "it speaks of {} layers, its manifest of {}",
            diff_ids.len(),
            manifest.layers.len()
        );
        return Err(bad(&digest, reason));
    }
    if config.rootfs.kind != "layers" {
        let kind = crate::error::shown(config.rootfs.kind.as_bytes());
        return Err(bad(
            &digest,
            format!("its rootfs is of the type `{kind}`, not `layers`"),
        ));
    }
    Ok(config)
}

async fn walk(
    store: &Arc<Store>,
    origin: &Origin,
    root: Descriptor,
    platform: &Platform,
    what: &str,
) -> Result<Found> {
    let mut candidates: Vec<(Descriptor, Vec<Digest>)> = vec![(root, Vec::new())];
    let mut available = Vec::new();
    // Indexes that name one another many times are read once.
    let mut seen = HashSet::new();
    while let Some((descriptor, mut indexes)) = candidates.pop() {
        if !seen.insert(descriptor.digest) {
            continue;
        }
        if indexes.len() > INDEX_DEPTH_LIMIT {
            return Err(too_deep(&descriptor.digest));
        }
        if seen.len() > DOCUMENTS_LIMIT {
            return Err(too_many(what, DOCUMENTS_LIMIT));
        }
        let bytes = origin
            .document(store, &descriptor, DOCUMENT_LIMIT_BYTES)
            .await?;
        let name = descriptor.digest.to_string();
        match Document::parse(&bytes, &descriptor.media_type, &name)? {
            Document::Manifest(manifest) => {
                return Ok(Found {
                    descriptor,
                    manifest: *manifest,
                    bytes,
                    indexes,
                });
            }
            Document::Index(index) => {
                let chosen = choose(&index, platform, &mut available);
                indexes.push(descriptor.digest);
                let keep = Arc::clone(store);
                blocking(move || Ok(keep.put_blob(&bytes)?)).await?;
                candidates.extend(
                    chosen
                        .into_iter()
                        .map(|descriptor| (descriptor, indexes.clone())),
                );
            }
        }
    }
    available.sort();
    available.dedup();
    let available = match available.as_slice() {
        [] => "none".to_owned(),
        some => some.join(", "),
    };
    Err(Error::NoPlatform {
        what: what.to_owned(),
        platform: platform.to_string(),
        available,
    })
}

/// What of an index to look at: the best image for the platform on top of the stack, below it what does not say
/// what it is for (nested indexes).
fn choose(index: &Index, platform: &Platform, available: &mut Vec<String>) -> Vec<Descriptor> {
    let images = index
        .manifests
        .iter()
        .filter(|descriptor| !descriptor.is_attestation())
        .filter(|descriptor| descriptor.is_index() || descriptor.is_manifest());
    let mut unknown = Vec::new();
    let mut best: Option<(u32, &Descriptor)> = None;
    for descriptor in images {
        let Some(other) = &descriptor.platform else {
            unknown.push(descriptor.clone());
            continue;
        };
        let other = other.normalised();
        available.push(crate::error::shown(other.to_string().as_bytes()));
        let Some(rank) = platform.rank(&other) else {
            continue;
        };
        if best.is_none_or(|(known, _)| rank < known) {
            best = Some((rank, descriptor));
        }
    }
    // In the order of the index: the last one pushed is looked at first.
    unknown.reverse();
    unknown.extend(best.map(|(_, descriptor)| descriptor.clone()));
    unknown
}

pub(super) fn describe(location: &Location) -> String {
    match location {
        Location::OciLayout { path, .. }
        | Location::OciArchive { path, .. }
        | Location::DockerArchive { path, .. } => {
            crate::error::shown(path.as_os_str().as_encoded_bytes())
        }
        Location::Registry(reference) => reference.familiar(),
        Location::Stored(digest) => digest.to_string(),
    }
}
