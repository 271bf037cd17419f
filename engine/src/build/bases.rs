//! The images that a build begins with: which those are, where they are, and which repositories have them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use futures_util::future::join_all;
use rbuild_cache::Digest;
use rbuild_image::source::{Location, Resolved};
use rbuild_image::{Platform, Reference};
use rbuild_parser::{Parsed, Source};

use super::reading::{options, require_sound};
use crate::error::with_causes;
use crate::lower::{self, Attempt, ImageNeed, Lowered};
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
        let lowering = self.lower(request, &source, &parsed, &options, HashMap::new());
        Ok(lowering.await?.1)
    }

    /// Lowers, and resolves every image that it takes: at once those that are known to be needed, and again for what
    /// they turn out to need themselves.
    pub(crate) async fn lower(
        &self,
        request: &BuildRequest,
        source: &Arc<Source>,
        parsed: &Parsed,
        options: &lower::Options,
        mut known: HashMap<ImageNeed, Arc<Resolved>>,
    ) -> Result<(Lowered, HashMap<ImageNeed, Arc<Resolved>>)> {
        if known.is_empty() && !request.pull {
            known = Box::pin(self.bases_here(source, parsed, options)).await;
        }
        loop {
            let attempt = lower::attempt(source, parsed, options, &known);
            let needs = match attempt.map_err(Error::Dockerfile)? {
                Attempt::Lowered(lowered) => return Ok((*lowered, known)),
                Attempt::Needs(needs) => needs,
            };
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

    /// The images of FROM lines that the store has: with these, most files are lowered at the first attempt.
    async fn bases_here(
        &self,
        source: &Arc<Source>,
        parsed: &Parsed,
        options: &lower::Options,
    ) -> HashMap<ImageNeed, Arc<Resolved>> {
        let mut known = HashMap::new();
        for need in lower::bases(source, parsed, options) {
            if let Entry::Vacant(place) = known.entry(need)
                && let Location::Registry(reference) = &place.key().location
                // What is wrong with the store is told by who asks next.
                && let Ok(Some(found)) = self.stored(reference, &place.key().platform).await
            {
                place.insert(Arc::new(found));
            }
        }
        known
    }

    /// The image of a name that is in the store, if it has it for the platform.
    async fn stored(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> rbuild_image::Result<Option<Resolved>> {
        let store = self.store();
        let Some(image) = store.image_by_name(&reference.canonical())? else {
            return Ok(None);
        };
        let stored = Location::Stored(image.manifest);
        let found = rbuild_image::source::resolve(store, &self.client, &stored, platform).await;
        // One for another platform, or one that is damaged: the registry may have better.
        Ok(found.ok().map(|found| Resolved {
            // Layers that are not here any more are brought from the registry.
            location: Location::Registry(reference.clone()),
            ..found
        }))
    }

    /// Finds an image: a name means the one in the store, if it has it for the platform, before a registry is asked;
    /// the other way round with `pull`.
    pub(crate) async fn resolve(
        &self,
        location: &Location,
        platform: &Platform,
        pull: bool,
    ) -> rbuild_image::Result<Resolved> {
        if let Location::Registry(reference) = location
            && !pull
            && let Some(found) = self.stored(reference, platform).await?
        {
            return Ok(found);
        }
        let resolved =
            rbuild_image::source::resolve(self.store(), &self.client, location, platform).await?;
        if let Location::Registry(reference) = location
            && let Err(error) = self.remember(reference, &resolved).await
        {
            // The next build asks the registry again.
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
