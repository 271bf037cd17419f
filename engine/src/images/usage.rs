//! What room images take, as `system df` tells it: of each what it alone has, and of all what would come free.

use std::collections::{HashMap, HashSet};

use rbuild_cache::Digest;

use super::ImageSummary;
use crate::{Engine, Result};

/// A row of `images`, and more.
#[derive(Debug, Clone)]
pub struct ImageUse {
    pub image: ImageSummary,
    /// Bytes of layers that other images have, too.
    pub shared: u64,
    /// Bytes of layers that no other image has.
    pub unique: u64,
    /// How many there are of it.
    pub containers: u64,
}

/// All images together. One of several names counts once, as does a layer of several images.
#[derive(Debug, Clone, Default)]
pub struct ImagesUsage {
    /// A row a name.
    pub images: Vec<ImageUse>,
    pub count: u64,
    /// Those that containers are of.
    pub active: u64,
    pub bytes: u64,
    /// Of layers that only images have of which there is no container.
    pub reclaimable: u64,
    /// The layers that are unpacked, by their snapshots.
    pub snapshots: HashSet<String>,
}

struct Layer {
    bytes: u64,
    images: HashSet<Digest>,
    is_active: bool,
}

impl Engine {
    /// Measures all images of the store. Blocking.
    pub fn images_usage(&self) -> Result<ImagesUsage> {
        let mut containers: HashMap<String, u64> = HashMap::new();
        for entry in self.catalog().all()? {
            if let Some(image) = entry.definition.image_id {
                *containers.entry(image).or_default() += 1;
            }
        }
        let of = |id: &Digest| containers.get(&id.to_string()).copied().unwrap_or(0);
        let mut layers: HashMap<String, Layer> = HashMap::new();
        let mut of_images: HashMap<Digest, Vec<String>> = HashMap::new();
        for image in self.store().images()? {
            // One that is damaged is told of by `images`, and takes no room that is known.
            let own = self.layers_of(&image).unwrap_or_default();
            for (name, bytes) in &own {
                let layer = layers.entry(name.clone()).or_insert_with(|| Layer {
                    bytes: *bytes,
                    images: HashSet::new(),
                    is_active: false,
                });
                layer.images.insert(image.config);
                layer.is_active |= of(&image.config) > 0;
            }
            let own = own.into_iter().map(|(name, _)| name).collect();
            of_images.insert(image.config, own);
        }
        let sum = |wanted: &dyn Fn(&Layer) -> bool, names: &[String]| -> u64 {
            let layers = names.iter().filter_map(|name| layers.get(name));
            layers
                .filter(|layer| wanted(layer))
                .map(|layer| layer.bytes)
                .sum()
        };
        let images = self.images(&[])?.into_iter().map(|image| {
            let own = of_images.get(&image.id).map_or(&[][..], Vec::as_slice);
            ImageUse {
                shared: sum(&|layer| layer.images.len() > 1, own),
                unique: sum(&|layer| layer.images.len() < 2, own),
                containers: of(&image.id),
                image,
            }
        });
        Ok(ImagesUsage {
            images: images.collect(),
            count: of_images.len() as u64,
            active: of_images.keys().filter(|id| of(id) > 0).count() as u64,
            bytes: layers.values().map(|layer| layer.bytes).sum(),
            reclaimable: layers
                .values()
                .filter(|layer| !layer.is_active)
                .map(|layer| layer.bytes)
                .sum(),
            snapshots: layers.into_keys().collect(),
        })
    }
}
