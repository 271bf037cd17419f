//! An image's config and unpacked layers, wherever it is.

use std::sync::Arc;

use rbuild_cache::Snapshot;
use rbuild_image::source::{self, Location, written};
use rbuild_image::{ImageConfig, Platform, Reference};

use crate::{Engine, Error, Result};

pub(crate) struct ImageRoot {
    pub(crate) config: ImageConfig,
    /// Bottom first.
    pub(crate) chain: Vec<Snapshot>,
}

impl Engine {
    /// `image` is a name, an ID or a digest of the store, `oci:DIR[:TAG][@DIGEST]`, `oci-archive:FILE[:TAG]`,
    /// `docker-archive:FILE[:TAG]`, or a name to pull. Unpacks what is not.
    pub(crate) async fn image_root(
        &self,
        image: &str,
        platform: Option<&Platform>,
    ) -> Result<ImageRoot> {
        let host = Platform::host();
        let location = match written::explicit(image)? {
            Some(location) => location,
            None => match self.find_image(image) {
                Ok(image) => {
                    if platform.is_none()
                        && let Some(top) = &image.snapshot
                        && let Ok(chain) = self.store().chain(top)
                    {
                        let config = self.config_of(&image)?;
                        return Ok(ImageRoot { config, chain });
                    }
                    Location::Stored(image.manifest)
                }
                Err(Error::NoImage(_)) => {
                    let reference = image.parse::<Reference>()?;
                    self.pull(&reference, platform, Arc::new(|_, _, _| {}))
                        .await
                        .map_err(|error| error.of_missing(image))?;
                    Location::Registry(reference)
                }
                Err(error) => return Err(error),
            },
        };
        let platform = platform.unwrap_or(&host);
        let resolved = self.resolve(&location, platform, false).await?;
        let progress = Arc::new(|_: &str, _, _| {});
        let chain = source::snapshots(self.store(), &self.client, &resolved, progress).await?;
        let config = resolved.config;
        Ok(ImageRoot { config, chain })
    }
}
