//! The images of the store: listing and names (Docker's `images`, `tag`, `rmi`). `describe`: `history` and
//! `inspect`; `transfer`: `save`, `load`, `import` and `pull`; `push`.

mod describe;
pub(crate) mod push;
mod transfer;

use rbuild_cache::Digest;
use rbuild_cache::images::StoredImage;
use rbuild_image::manifest::{DOCKER_INDEX, Index, OCI_INDEX};
use rbuild_image::{ImageConfig, Manifest, Platform, Reference};
use serde::Serialize;

use crate::worker::now;
use crate::{Engine, Error, Result};

/// Of a manifest, an index or a config.
const DOCUMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A row of `images`.
#[derive(Debug, Clone, Serialize)]
pub struct ImageSummary {
    /// `<none>` for unnamed images.
    pub repository: String,
    pub tag: String,
    pub id: Digest,
    /// Of the manifest or index.
    pub digest: Digest,
    /// RFC 3339, as the config says.
    pub created: Option<String>,
    /// Of the unpacked layers, in bytes.
    pub size: u64,
}

/// A row of `history`, newest first.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryRow {
    /// `<missing>` but for the newest.
    pub id: String,
    pub created: Option<String>,
    pub created_by: String,
    pub size: u64,
    pub comment: String,
}

/// What `rmi` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    Untagged(String),
    Deleted(Digest),
}

/// `import`
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// `name:tag`
    pub reference: Option<rbuild_image::Reference>,
    /// Dockerfile instructions that change the config (`--change`).
    pub changes: Vec<String>,
    pub message: String,
    pub platform: Option<Platform>,
}

impl Engine {
    pub fn images(&self) -> Result<Vec<ImageSummary>> {
        let mut rows = Vec::new();
        for image in self.store().images()? {
            let (repository, tag) = split_name(&image.name);
            rows.push(ImageSummary {
                repository,
                tag,
                id: image.config,
                digest: image.manifest,
                created: self.config_of(&image)?.created,
                size: self.sizes(&image)?.into_iter().sum(),
            });
        }
        Ok(rows)
    }

    /// By name, ID, ID prefix or digest.
    pub fn find_image(&self, name: &str) -> Result<StoredImage> {
        let not_found = || Error::Image(rbuild_image::Error::NotFound(name.to_owned()));
        if let Ok(reference) = name.parse::<Reference>() {
            let found = match reference.digest {
                None => self.store().image_by_name(&reference.canonical())?,
                Some(digest) => {
                    let images = self.store().images_by_id(&digest.to_string())?;
                    images.into_iter().find(|image| image.manifest == digest)
                }
            };
            if let Some(image) = found {
                return Ok(image);
            }
        }
        let mut found = self.store().images_by_id(name)?;
        let image = found.pop().ok_or_else(not_found)?;
        if found.iter().any(|other| other.config != image.config) {
            return Err(Error::Usage(format!(
                "`{name}` is the beginning of several images' IDs: write more of it"
            )));
        }
        Ok(image)
    }

    pub fn tag(&self, source: &str, target: &Reference) -> Result<()> {
        let image = self.find_image(source)?;
        Ok(self.store().put_image(&StoredImage {
            name: target.canonical(),
            tagged: now(),
            ..image
        })?)
    }

    /// Takes a name away, and the image with its last name. An ID that has several names goes only with `force`.
    pub fn remove_image(&self, name: &str, force: bool) -> Result<Vec<Removed>> {
        let image = self.find_image(name)?;
        let all: Vec<StoredImage> = self
            .store()
            .images()?
            .into_iter()
            .filter(|other| other.config == image.config)
            .collect();
        let by_name = name.parse::<Reference>().is_ok_and(|reference| {
            reference.digest.is_none() && reference.canonical() == image.name
        });
        let going: Vec<&StoredImage> = if by_name {
            all.iter()
                .filter(|other| other.name == image.name)
                .collect()
        } else {
            let names = all.iter().filter(|other| !other.name.is_empty()).count();
            if names > 1 && !force {
                return Err(Error::Usage(format!(
                    "`{name}` has {names} names: remove them one by one, or all with --force"
                )));
            }
            all.iter().collect()
        };
        let mut removed = Vec::new();
        for one in &going {
            let gone = self.store().remove_image(&one.name, &one.manifest)?;
            if let Some(gone) = gone.filter(|gone| !gone.name.is_empty()) {
                removed.push(Removed::Untagged(familiar(&gone.name)));
            }
        }
        if going.len() == all.len() {
            removed.push(Removed::Deleted(image.config));
        }
        Ok(removed)
    }

    pub(crate) fn config_of(&self, image: &StoredImage) -> Result<ImageConfig> {
        self.document(&image.config)
    }

    fn document<T: serde::de::DeserializeOwned>(&self, digest: &Digest) -> Result<T> {
        let bytes = self.store().read_blob(digest, DOCUMENT_BYTES_MAX)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::Image(rbuild_image::Error::BadDocument {
                document: digest.to_string(),
                reason: error.to_string(),
            })
        })
    }

    /// The manifest whose config the image's ID is.
    fn manifest_of(&self, image: &StoredImage) -> Result<Manifest> {
        if image.media_type != OCI_INDEX && image.media_type != DOCKER_INDEX {
            return self.document(&image.manifest);
        }
        let index: Index = self.document(&image.manifest)?;
        for descriptor in index.manifests.iter().filter(|it| !it.is_attestation()) {
            // Of an index, only some platforms may be here.
            if self.store().has_blob(&descriptor.digest) {
                let manifest: Manifest = self.document(&descriptor.digest)?;
                if manifest.config.digest == image.config {
                    return Ok(manifest);
                }
            }
        }
        Err(Error::Image(rbuild_image::Error::NotFound(
            image.config.to_string(),
        )))
    }

    /// Bytes of each layer, bottom first: of its files where it is unpacked, else of its blob.
    fn sizes(&self, image: &StoredImage) -> Result<Vec<u64>> {
        if let Some(top) = &image.snapshot {
            let chain = self.store().chain(top)?;
            return Ok(chain.iter().map(|layer| layer.size_bytes).collect());
        }
        let manifest = self.manifest_of(image)?;
        Ok(manifest.layers.iter().map(|layer| layer.size).collect())
    }
}

/// As people write a canonical name.
fn familiar(name: &str) -> String {
    name.parse::<Reference>()
        .map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// Repository and tag for a table.
fn split_name(name: &str) -> (String, String) {
    let none = || "<none>".to_owned();
    let Ok(mut reference) = name.parse::<Reference>() else {
        return (none(), none());
    };
    let tag = reference.tag_or_default().map_or_else(none, str::to_owned);
    reference.tag = None;
    reference.digest = None;
    let repository = reference.familiar();
    let default = format!(":{tag}");
    let repository = repository.strip_suffix(&default).unwrap_or(&repository);
    let repository = repository.strip_suffix(":latest").unwrap_or(repository);
    (repository.to_owned(), tag)
}
