//! Where an image comes from, and what is known of it once its documents are here and verified.
//!
//! [`resolve`] walks from what a [`Location`] names to one manifest and one config; [`snapshots`] and [`fetch`] bring
//! the layers. Everything is compared with the digest and size that led to it before it is used; URLs in descriptors
//! are never followed. Locations as people write them: [`written`]; the walk: `walk`; layers: `layers`; whole images,
//! with all their platforms: `gather`; Docker's archives, which have no manifest: `docker`.

mod docker;
mod gather;
mod layers;
mod verify;
mod walk;
pub mod written;

use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::{Digest, Snapshot, Store};

use crate::archive::{Layout, TarIndex};
use crate::config::ImageConfig;
use crate::manifest::{Descriptor, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::Client;
use crate::{Error, Result};
pub use layers::{From, StackLayer, is_layer};

/// Names an image wherever it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// An OCI layout directory; picked by tag, by digest, or the only one there is.
    OciLayout {
        path: PathBuf,
        tag: Option<String>,
        digest: Option<Digest>,
    },
    /// The same in a tar; a tag of the form `sha256:…` is a digest.
    OciArchive {
        path: PathBuf,
        tag: Option<String>,
    },
    /// `docker save`'s tar; a tag of the form `sha256:…` is the digest of a config.
    DockerArchive {
        path: PathBuf,
        tag: Option<String>,
    },
    Registry(Reference),
    /// A manifest or index already in the content store.
    Stored(Digest),
}

/// An image's documents, for one platform. Its layers may still be elsewhere.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub location: Location,
    /// Of the manifest (not of an index that led to it): what pins the image.
    pub digest: Digest,
    pub descriptor: Descriptor,
    pub manifest: Manifest,
    pub config: ImageConfig,
    /// What the name meant: the manifest, or an index that led to it.
    pub root: Descriptor,
    /// The indexes that led to it, outermost first. They are in the store.
    pub indexes: Vec<Digest>,
    /// What the config says. It differs from what was asked for where there was no choice.
    pub platform: Platform,
}

/// An image of an archive.
#[derive(Debug, Clone)]
pub struct Archived {
    /// By which it is resolved.
    pub location: Location,
    /// Canonical.
    pub names: Vec<String>,
    opened: Opened,
}

/// What is known of an archive once it was looked through: one that is compressed is decompressed for that, as a whole.
#[derive(Debug, Clone)]
enum Opened {
    /// With the image's digest.
    Layout(Arc<Layout>, Digest),
    Docker(Arc<TarIndex>),
}

/// What an archive or a directory holds, for `load`: an OCI layout, what `docker save` wrote before it wrote layouts, or
/// what skopeo calls `dir:`.
pub async fn archived(store: &Arc<Store>, path: &std::path::Path) -> Result<Vec<Archived>> {
    let (store, path) = (Arc::clone(store), path.to_owned());
    blocking(move || {
        let is_directory = path.is_dir();
        let layout = if is_directory {
            Layout::open_directory(&path)?
        } else {
            let index = TarIndex::open(&store, &path)?;
            match (index.has("oci-layout"), index.has("manifest.json")) {
                (true, _) => {}
                (false, true) => return docker::list(&Arc::new(index), &path),
                (false, false) => {
                    return Err(Error::BadArchive {
                        what: index.what().to_owned(),
                        reason:
                            "it holds no image: neither `oci-layout` nor `manifest.json` is in it"
                                .to_owned(),
                    });
                }
            }
            Layout::Archive(index)
        };
        let layout = Arc::new(layout);
        let archived = |(digest, names): (Digest, Vec<String>)| Archived {
            opened: Opened::Layout(Arc::clone(&layout), digest),
            location: match is_directory {
                true => Location::OciLayout {
                    path: path.clone(),
                    tag: None,
                    digest: Some(digest),
                },
                false => Location::OciArchive {
                    path: path.clone(),
                    tag: Some(digest.to_string()),
                },
            },
            names,
        };
        Ok(layout.images()?.into_iter().map(archived).collect())
    })
    .await
}

/// Called with (what, bytes done, bytes in all).
pub type Progress = Arc<dyn Fn(&str, u64, u64) + Send + Sync>;

/// Finds an image and brings its manifest and config into the store, verified. The manifest's layers are not moved.
pub async fn resolve(
    store: &Arc<Store>,
    client: &Client,
    location: &Location,
    platform: &Platform,
) -> Result<Resolved> {
    if let Location::DockerArchive { path, tag } = location {
        return docker::resolve(store, path, tag.as_deref(), None).await;
    }
    let (origin, root) = walk::Origin::open(store, client, location).await?;
    walk::resolve(store, &origin, location, root, platform).await
}

/// Brings what is missing of the layers into the store and unpacks it. Returns the snapshots, bottom first: one for
/// each layer. Layers that are there, by chain ID, are neither fetched nor unpacked.
pub async fn snapshots(
    store: &Arc<Store>,
    client: &Client,
    resolved: &Resolved,
    progress: Progress,
) -> Result<Vec<Snapshot>> {
    layers::snapshots(store, client, resolved, progress).await
}

/// Brings a stack of layers, bottom first, from wherever each is, as [`snapshots`] does. Files of a layer that do not
/// come to what was said of them are an error, and so is whatever keeps a layer from being here whole.
pub async fn stack(
    store: &Arc<Store>,
    client: &Client,
    layers: Vec<StackLayer>,
    progress: Progress,
) -> Result<Vec<Snapshot>> {
    layers::stack(store, client, layers, progress).await
}

/// What is kept of a name: all platforms, or some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    /// Of a registry all of them; of an archive those that it holds.
    All,
    /// With the attestations about them.
    Some(Vec<Platform>),
}

/// A name with all that was asked for of it, in the store.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// What the name means: a manifest or an index.
    pub root: Descriptor,
    /// Of the first platform that was asked for; of all, the one for this machine, else the first.
    pub image: Resolved,
    /// Everything below the root that is here now, the root too.
    pub blobs: Vec<Digest>,
}

/// Brings whole images into the store, without unpacking them: documents, configs and layers.
pub async fn gather(
    store: &Arc<Store>,
    client: &Client,
    location: &Location,
    platforms: &Platforms,
    progress: Progress,
) -> Result<Gathered> {
    gather::gather(store, client, (location, None), platforms, progress).await
}

/// As [`gather`], of an archive that was looked through.
pub async fn gather_archived(
    store: &Arc<Store>,
    client: &Client,
    archived: &Archived,
    platforms: &Platforms,
    progress: Progress,
) -> Result<Gathered> {
    let from = (&archived.location, Some(&archived.opened));
    gather::gather(store, client, from, platforms, progress).await
}

/// Brings the documents below a name into the store, but no layers. Returns the images, each with its platform, and
/// what else an index holds beside them.
pub async fn documents(
    store: &Arc<Store>,
    client: &Client,
    location: &Location,
) -> Result<Vec<Descriptor>> {
    gather::documents(store, client, location).await
}

/// Brings blobs of an image that were taken away since it was resolved.
pub async fn fetch(
    store: &Arc<Store>,
    client: &Client,
    location: &Location,
    blobs: Vec<Descriptor>,
    progress: Progress,
) -> Result<()> {
    let origin = walk::Origin::again(store, client, location).await?;
    layers::fetch(store, &origin, blobs, progress).await
}

/// Runs file system work on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Io {
            action: "finish work on",
            path: "an image".to_owned(),
            source: std::io::Error::other(error),
        })?
}

/// As [`blocking`], for a document of the store: on this thread, where the runtime has others for its own affairs. To
/// wake another one, and to be woken by it, takes longer than reading it.
pub(crate) async fn brief<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => blocking(work).await,
    }
}
