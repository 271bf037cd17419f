//! Whole images into the store, as `pull` and `load` keep them: of an index all images, or those for some platforms
//! with what is attested about them. The index keeps its digest, also where not all that it names is here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use rbuild_cache::{Digest, Store};

use super::walk::{self, Found, Origin};
use super::{
    Gathered, Location, Opened, Platforms, Progress, Resolved, blocking, docker, layers, verify,
};
use crate::attestation::REFERENCE_DIGEST;
use crate::manifest::{
    CONFIG_LIMIT_BYTES, DOCUMENT_LIMIT_BYTES, Descriptor, DescriptorPlatform, Document,
    INDEX_DEPTH_LIMIT,
};
use crate::platform::Platform;
use crate::registry::Client;
use crate::{Error, Result};

/// Manifests and indexes below one name. The largest that are known have some hundreds.
const DOCUMENTS_LIMIT: usize = 4000;

pub(super) async fn gather(
    store: &Arc<Store>,
    client: &Client,
    (location, opened): (&Location, Option<&Opened>),
    platforms: &Platforms,
    progress: Progress,
) -> Result<Gathered> {
    if let Location::DockerArchive { path, tag } = location {
        let index = match opened {
            Some(Opened::Docker(index)) => Some(Arc::clone(index)),
            Some(Opened::Layout(..)) | None => None,
        };
        let image = docker::resolve(store, path, tag.as_deref(), index).await?;
        if let Platforms::Some(platforms) = platforms {
            require(&image, platforms, location)?;
        }
        let layers = verify::layers_of(store, std::slice::from_ref(&image.manifest)).await?;
        verify::layers(store, layers).await?;
        let mut blobs = vec![image.digest, image.manifest.config.digest];
        blobs.extend(image.manifest.layers.iter().map(|layer| layer.digest));
        return Ok(Gathered {
            root: image.root.clone(),
            image,
            blobs,
        });
    }
    let (origin, root) = match opened {
        Some(Opened::Layout(layout, digest)) => {
            let (layout, digest) = (Arc::clone(layout), *digest);
            blocking(move || {
                let root = layout.pick(None, Some(&digest))?;
                Ok((Origin::Layout(layout), root))
            })
            .await?
        }
        Some(Opened::Docker(_)) | None => Origin::open(store, client, location).await?,
    };
    let mut first = None;
    let mut wanted = None;
    if let Platforms::Some(platforms) = platforms {
        let mut chosen = HashSet::new();
        for platform in platforms {
            let image = walk::resolve(store, &origin, location, root.clone(), platform).await?;
            // A registry's image is taken whatever its platform is: it is the only one under its name. Of an archive,
            // only images of the platforms that are asked for are taken.
            if let Origin::Layout(_) = origin {
                require(&image, std::slice::from_ref(platform), location)?;
            }
            chosen.insert(image.digest);
            chosen.extend(&image.indexes);
            first.get_or_insert(image);
        }
        wanted = Some(chosen);
    }
    let mut found = Tree::default();
    found.read(store, &origin, &root, wanted.as_ref()).await?;
    let quiet: Progress = Arc::new(|_, _, _| {});
    layers::fetch(store, &origin, found.configs, quiet).await?;
    layers::fetch(store, &origin, found.layers, progress).await?;
    if let Origin::Layout(_) = origin {
        let manifests: Vec<_> = found.images.iter().map(|it| it.manifest.clone()).collect();
        let layers = verify::layers_of(store, &manifests).await?;
        verify::layers(store, layers).await?;
    }
    let image = match first {
        Some(image) => image,
        None => best(store, &origin, location, &root, found.images).await?,
    };
    Ok(Gathered {
        root,
        image,
        blobs: found.all,
    })
}

/// Fails where an image is for another platform than those that were asked for.
fn require(image: &Resolved, platforms: &[Platform], location: &Location) -> Result<()> {
    let missing = platforms
        .iter()
        .find(|platform| platform.rank(&image.platform).is_none());
    match missing {
        None => Ok(()),
        Some(platform) => Err(Error::NoPlatform {
            what: walk::describe(location),
            platform: platform.to_string(),
            available: image.platform.to_string(),
        }),
    }
}

/// Brings the documents below a name into the store, and not the layers. Returns what the name means, and the images
/// and attestations below it with their platforms.
pub(super) async fn documents(
    store: &Arc<Store>,
    client: &Client,
    location: &Location,
) -> Result<Vec<Descriptor>> {
    let (origin, root) = Origin::open(store, client, location).await?;
    let mut found = Tree::default();
    found.read(store, &origin, &root, None).await?;
    let mut members = Vec::new();
    for mut image in found.images {
        if image.descriptor.platform.is_none() {
            let config = origin
                .document(store, &image.manifest.config, CONFIG_LIMIT_BYTES)
                .await?;
            let config = walk::parse_config(&config, &image.manifest)?;
            image.descriptor.platform = Some(DescriptorPlatform::of(&config));
        }
        members.push(image.descriptor);
    }
    members.extend(found.others);
    Ok(members)
}

/// What there is below a root.
#[derive(Default)]
struct Tree {
    images: Vec<Found>,
    /// Attestations, and what else is no image.
    others: Vec<Descriptor>,
    /// Each once.
    configs: Vec<Descriptor>,
    layers: Vec<Descriptor>,
    /// The digests of all, documents too.
    all: Vec<Digest>,
}

impl Tree {
    /// Reads the documents below a root, and keeps them.
    async fn read(
        &mut self,
        store: &Arc<Store>,
        origin: &Origin,
        root: &Descriptor,
        wanted: Option<&HashSet<Digest>>,
    ) -> Result<()> {
        let mut seen: HashSet<Digest> = HashSet::new();
        let mut queue: VecDeque<(Descriptor, Vec<Digest>)> = VecDeque::new();
        queue.push_back((root.clone(), Vec::new()));
        let mut documents = 0;
        while let Some((descriptor, mut indexes)) = queue.pop_front() {
            if !seen.insert(descriptor.digest) {
                continue;
            }
            if indexes.len() > INDEX_DEPTH_LIMIT {
                return Err(walk::too_deep(&descriptor.digest));
            }
            documents += 1;
            if documents > DOCUMENTS_LIMIT {
                return Err(walk::too_many(&root.digest.to_string(), DOCUMENTS_LIMIT));
            }
            let read = origin
                .document(store, &descriptor, DOCUMENT_LIMIT_BYTES)
                .await;
            let bytes = match read {
                Ok(bytes) => bytes,
                // An archive may hold some images of an index only.
                Err(Error::NotFound(_))
                    if !indexes.is_empty() && matches!(origin, Origin::Layout(_)) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let name = descriptor.digest.to_string();
            let document = Document::parse(&bytes, &descriptor.media_type, &name)?;
            self.all.push(descriptor.digest);
            let kept = {
                let store = Arc::clone(store);
                blocking(move || {
                    store.put_blob(&bytes)?;
                    Ok(bytes)
                })
                .await?
            };
            match document {
                Document::Index(index) => {
                    indexes.push(descriptor.digest);
                    let is_wanted = |child: &Descriptor| {
                        wanted.is_none_or(|wanted| {
                            let about = child
                                .annotation(REFERENCE_DIGEST)
                                .and_then(|text| text.parse().ok());
                            wanted.contains(&child.digest)
                                || about.is_some_and(|about: Digest| wanted.contains(&about))
                        })
                    };
                    let children = index.manifests.into_iter().filter(is_wanted);
                    queue.extend(children.map(|child| (child, indexes.clone())));
                }
                Document::Manifest(manifest) => {
                    if seen.insert(manifest.config.digest) {
                        self.all.push(manifest.config.digest);
                        self.configs.push(manifest.config.clone());
                    }
                    for layer in &manifest.layers {
                        if seen.insert(layer.digest) {
                            self.all.push(layer.digest);
                            self.layers.push(layer.clone());
                        }
                    }
                    if !descriptor.is_attestation() && walk::is_image(&manifest) {
                        self.images.push(Found {
                            descriptor,
                            manifest: *manifest,
                            bytes: kept,
                            indexes,
                        });
                    } else {
                        self.others.push(descriptor);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The image for this machine, or else the first.
async fn best(
    store: &Arc<Store>,
    origin: &Origin,
    location: &Location,
    root: &Descriptor,
    images: Vec<Found>,
) -> Result<Resolved> {
    let host = Platform::host();
    let mut ranks: HashMap<usize, u32> = HashMap::new();
    for (place, found) in images.iter().enumerate() {
        let platform = found.descriptor.platform.as_ref();
        let rank = platform.and_then(|platform| host.rank(&platform.normalised()));
        ranks.insert(place, rank.unwrap_or(u32::MAX));
    }
    let best = (0..images.len()).min_by_key(|place| ranks.get(place).copied());
    let found = best.and_then(|place| images.into_iter().nth(place));
    match found {
        Some(found) => walk::image(store, origin, location, root.clone(), found).await,
        None => Err(Error::BadDocument {
            document: walk::describe(location),
            reason: "it holds no image".to_owned(),
        }),
    }
}
