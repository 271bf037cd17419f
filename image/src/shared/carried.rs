//! Records that an image carries in its own config (`--cache-to type=inline`). What they say only the engine knows;
//! here is where they are, and which layers they speak of.

use rbuild_cache::Digest;
use serde::Deserialize;
use serde_json::Value;

use super::{Place, bad};
use crate::Result;
use crate::config::RootFs;
use crate::manifest::{CONFIG_LIMIT_BYTES, DOCUMENT_LIMIT_BYTES, Descriptor, Document, Manifest};

/// The key in an image's config.
pub const CARRIED: &str = "rbuild.cache.v1";
/// More platforms than any image has.
const IMAGES_MAX: usize = 32;

/// What one image carries.
#[derive(Debug, Clone)]
pub struct Carried {
    /// As its config has them.
    pub records: Value,
    /// Bottom first, with their diff IDs.
    pub layers: Vec<(Descriptor, Digest)>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "rbuild.cache.v1")]
    records: Option<Value>,
    rootfs: RootFs,
}

impl Place {
    /// What the images under the name carry, those of all platforms.
    pub async fn carried(&self, document: &Document) -> Vec<Result<Carried>> {
        let index = match document {
            Document::Manifest(manifest) => {
                return self
                    .of_image(manifest)
                    .await
                    .transpose()
                    .into_iter()
                    .collect();
            }
            Document::Index(index) => index,
        };
        let is_image = |blob: &&Descriptor| {
            let platform = blob.platform.as_ref();
            // What is said of images stands beside them.
            blob.is_manifest() && platform.is_none_or(|it| it.os != "unknown")
        };
        let images = index.manifests.iter().filter(is_image).take(IMAGES_MAX);
        let images = images.map(|image| async move {
            let bytes = self.small(image, DOCUMENT_LIMIT_BYTES).await?;
            let name = image.digest.to_string();
            match Document::parse(&bytes, &image.media_type, &name)? {
                Document::Manifest(manifest) => self.of_image(&manifest).await,
                Document::Index(_) => Ok(None),
            }
        });
        let images = futures_util::future::join_all(images).await;
        images.into_iter().filter_map(Result::transpose).collect()
    }

    async fn of_image(&self, manifest: &Manifest) -> Result<Option<Carried>> {
        let bytes = self.small(&manifest.config, CONFIG_LIMIT_BYTES).await?;
        // Whatever else lies in registries has a config of another kind.
        let Ok(config) = serde_json::from_slice::<Config>(&bytes) else {
            return Ok(None);
        };
        let Some(records) = config.records else {
            return Ok(None);
        };
        let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != manifest.layers.len() {
            let (said, there) = (diff_ids.len(), manifest.layers.len());
            let reason = format!("it speaks of {said} layers, and its manifest lists {there}");
            return Err(bad(&manifest.config, reason));
        }
        let layers = manifest.layers.iter().cloned().zip(diff_ids).collect();
        Ok(Some(Carried { records, layers }))
    }
}
