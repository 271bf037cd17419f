//! The images that a build begins with: which those are, where they are, and which repositories have them.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use rbuild_cache::Digest;
use rbuild_image::source::{Location, Resolved};
use rbuild_image::{Platform, Reference};
use rbuild_parser::{Parsed, Source};

use super::reading::{options, require_sound};
use crate::error::with_causes;
use crate::lower::{self, ImageNeed};
use crate::request::BuildRequest;
use crate::{Engine, Error, Located, Result};

impl Engine {
    /// Resolves the images that a build would begin with.
    pub(crate) async fn images_needed_by(
        &self,
        request: &BuildRequest,
    ) -> Result<HashMap<ImageNeed, Arc<Resolved>>> {
        let main = self.main_context(request).await?;
        let source = Arc::new(main.dockerfile);
        let parsed = rbuild_parser::parse(&source);
        let options = options(request);
        require_sound(&source, &parsed, &options)?;
        self.images_of(request, &source, &parsed, &options, HashMap::new())
            .await
    }

    /// Resolves every image that the build needs: at once those that are known to be needed, and again for what they
    /// turn out to need themselves.
    pub(crate) async fn images_of(
        &self,
        request: &BuildRequest,
        source: &Arc<Source>,
        parsed: &Parsed,
        options: &lower::Options,
        mut known: HashMap<ImageNeed, Arc<Resolved>>,
    ) -> Result<HashMap<ImageNeed, Arc<Resolved>>> {
        loop {
            let needs =
                lower::images_needed(source, parsed, options, &known).map_err(Error::Dockerfile)?;
            if needs.is_empty() {
                return Ok(known);
            }
            let resolved = join_all(needs.into_iter().map(|(need, place)| async move {
                let resolved = self
                    .resolve(&need.location, &need.platform, request.pull)
                    .await;
                (need, place, resolved)
            }));
            let mut missing = Vec::new();
            for (need, place, resolved) in resolved.await {
                match resolved {
                    Ok(resolved) => {
                        known.insert(need, Arc::new(resolved));
                    }
                    Err(error) => missing.push(not_found(place, &error)),
                }
            }
            if !missing.is_empty() {
                return Err(Error::Dockerfile(missing));
            }
        }
    }

    /// Finds an image: a name means the one in the store, if it has it for the platform, before a registry is asked;
    /// the other way round with `pull`.
    pub(crate) async fn resolve(
        &self,
        location: &Location,
        platform: &Platform,
        pull: bool,
    ) -> rbuild_image::Result<Resolved> {
        let store = self.store();
        if let Location::Registry(reference) = location
            && !pull
            && let Some(image) = store.image_by_name(&reference.canonical())?
        {
            let stored = Location::Stored(image.manifest);
            let found = rbuild_image::source::resolve(store, &self.client, &stored, platform).await;
            // One for another platform, or one that is damaged: the registry may have better.
            if let Ok(found) = found {
                // Where layers are brought from that are not here any more.
                let location = location.clone();
                return Ok(Resolved { location, ..found });
            }
        }
        let resolved =
            rbuild_image::source::resolve(store, &self.client, location, platform).await?;
        if let Location::Registry(reference) = location
            && let Err(error) = self.remember(reference, &resolved).await
        {
            // It is asked for again next time.
            tracing::warn!(%reference, %error, "a base image is not remembered");
        }
        Ok(resolved)
    }
}

fn not_found(mut place: Located, error: &rbuild_image::Error) -> Located {
    let words = with_causes(error);
    if place.diagnostic.code == "unknown-stage" {
        // Most likely a slip: what a registry says of it matters less.
        place = Located {
            diagnostic: place.diagnostic.help(format!("as an image: {words}")),
            ..place
        };
    } else {
        place.diagnostic.primary.text = words;
    }
    place
}

/// Which repositories have the layers of the images that a build begins with.
pub(super) fn repositories(
    images: &HashMap<ImageNeed, Arc<Resolved>>,
) -> HashMap<Digest, Vec<Reference>> {
    let mut known: HashMap<_, Vec<_>> = HashMap::new();
    for image in images.values() {
        if let Location::Registry(reference) = &image.location {
            for layer in &image.manifest.layers {
                known
                    .entry(layer.digest)
                    .or_default()
                    .push(reference.clone());
            }
        }
    }
    known
}

/// The images, by the digests that the graph knows them by.
pub(super) fn by_digest(
    images: &HashMap<ImageNeed, Arc<Resolved>>,
) -> HashMap<Digest, Arc<Resolved>> {
    images
        .values()
        .map(|image| (image.digest, Arc::clone(image)))
        .collect()
}
