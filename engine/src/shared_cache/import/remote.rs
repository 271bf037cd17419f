//! Results that stay where they are. An image that goes to registries and nowhere else is put together of what records
//! say of its layers; of their bytes, those come here that a registry has not, and cannot take from where they are.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::{DiffId, Digest};
use rbuild_image::layer::{IMAGE_VARIANT, LayerOptions};
use rbuild_image::shared::Place;
use rbuild_image::source::{self, From, Location, Progress};
use rbuild_image::{Descriptor, Reference};

use super::{Imports, Layer, There, lock};
use crate::images::push;
use crate::shared_cache::Problem;
use crate::worker::blocking;

/// Layers that are asked for, or brought, at once.
const CONCURRENT_LAYERS: usize = 4;

/// Where an image goes, and in which form.
#[derive(Debug)]
pub(crate) struct Going {
    pub(crate) to: Vec<Reference>,
    pub(crate) options: LayerOptions,
    /// Also of layers that came in another form.
    pub(crate) force_compression: bool,
    /// Of more, some are merged.
    pub(crate) layers_limit: usize,
    /// Which repositories have the layers of the base images.
    pub(crate) known: HashMap<Digest, Vec<Reference>>,
}

/// A layer whose files are not here.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) blob: LayerBlob,
    /// When the step that made it was done; Unix seconds.
    pub(crate) created: i64,
    from: From,
    /// The place that has it, where that is a shared cache.
    place: Option<usize>,
}

impl Going {
    /// Whether an image made here would have a layer of this form.
    fn takes(&self, variant: &str) -> bool {
        variant == self.options.variant() || (variant == IMAGE_VARIANT && !self.force_compression)
    }
}

impl Remote {
    /// The repository that it is in, if that is one of this registry.
    fn repository_at(&self, registry: &str) -> Option<&str> {
        let reference = match &self.from {
            From::Shared(Place::Registry(repository)) => repository.reference(),
            From::Image(Location::Registry(reference)) => reference,
            From::Shared(Place::Layout(_) | Place::Objects(_)) | From::Image(_) => return None,
        };
        (reference.registry == registry).then_some(reference.repository.as_str())
    }
}

impl There {
    /// Its layers, where it stays where it is.
    pub(crate) fn remote(&self) -> Option<Vec<Remote>> {
        match self.known_snapshot() {
            Some(_) => None,
            None => lock(&self.remote).clone(),
        }
    }
}

impl Imports {
    /// Sees to it that the registries have a result's layers, or this store their bytes. False where layers have to be
    /// made of its files, so that these are needed here. After an error what was of no use is found no more.
    pub(crate) async fn leave(
        &self,
        there: &There,
        going: &Going,
        progress: &Progress,
    ) -> Result<bool, Problem> {
        if there.known_snapshot().is_some() {
            return Ok(false);
        }
        let Some(layers) = self.remote_layers(there, going).await else {
            return Ok(false);
        };
        let mounts = going
            .to
            .iter()
            .map(|to| push::mounts(&self.store, to, &going.known));
        let mounts = mounts.collect::<crate::Result<Vec<_>>>();
        let mounts = mounts.map_err(|error| Problem::of(&error))?;
        let mut offered = futures_util::stream::iter(&layers)
            .map(|layer| self.offer(there, layer, going, &mounts, progress))
            .buffer_unordered(CONCURRENT_LAYERS);
        while let Some(done) = offered.next().await {
            done?;
        }
        drop(offered);
        *lock(&there.remote) = Some(layers);
        Ok(true)
    }

    /// The layers as they are elsewhere; `None` where one of them is not there as the image would have it.
    async fn remote_layers(&self, there: &There, going: &Going) -> Option<Vec<Remote>> {
        if there.layers.is_empty() || there.layers.len() > going.layers_limit {
            return None;
        }
        let mut layers = Vec::with_capacity(there.layers.len());
        for (layer, created) in &there.layers {
            layers.push(self.remote_layer(layer, *created, going).await?);
        }
        Some(layers)
    }

    async fn remote_layer(&self, layer: &Layer, created: i64, going: &Going) -> Option<Remote> {
        let (descriptor, from, place) = match self.base_of(layer) {
            Some(_) if going.force_compression => return None,
            Some((location, descriptor)) => {
                (descriptor.clone(), From::Image(location.clone()), None)
            }
            None => {
                let takes = |variant: &str| going.takes(variant);
                let (number, form) = self.form(self.index().await, layer, &takes).await?;
                let place = self.places.get(*number)?;
                (
                    form.descriptor(),
                    From::Shared(place.clone()),
                    Some(*number),
                )
            }
        };
        if descriptor.is_foreign() {
            return None;
        }
        Some(Remote {
            blob: LayerBlob {
                digest: descriptor.digest,
                size: descriptor.size,
                media_type: descriptor.media_type,
                diff_id: DiffId(layer.diff_id),
            },
            created,
            from,
            place,
        })
    }

    /// Offers a layer to every registry; brings it where one has no other way to get it.
    async fn offer(
        &self,
        there: &There,
        layer: &Remote,
        going: &Going,
        mounts: &[HashMap<Digest, Vec<String>>],
        progress: &Progress,
    ) -> Result<(), Problem> {
        let digest = layer.blob.digest;
        let store = self.store.clone();
        if blocking(move || store.has_blob(&digest)).await {
            return Ok(());
        }
        let blob = Descriptor::new(&layer.blob.media_type, digest, layer.blob.size);
        let mut have_all = true;
        for (to, mounts) in going.to.iter().zip(mounts) {
            let own = layer.repository_at(&to.registry).map(str::to_owned);
            let others = mounts.get(&digest).into_iter().flatten().cloned();
            let from: Vec<String> = own.into_iter().chain(others).collect();
            // What is wrong with a registry, the push tells.
            have_all = have_all && self.client.offer(to, &blob, &from).await.unwrap_or(false);
        }
        if have_all {
            return Ok(());
        }
        let brought = match &layer.from {
            From::Shared(place) => place.bring(&self.store, &blob, progress).await,
            From::Image(location) => {
                let (store, client) = (&self.store, &self.client);
                source::fetch(store, client, location, vec![blob], progress.clone()).await
            }
        };
        brought.map_err(|error| {
            match layer.place {
                Some(place) => {
                    lock(&self.memory).broken.insert((place, digest));
                }
                // The next attempt would fail as well.
                None => lock(&self.memory).is_given_up = true,
            }
            let problem = Problem::of(&error);
            self.tell_unusable(there, &problem);
            problem
        })
    }
}
