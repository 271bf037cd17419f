//! `rmi` and `image prune`: names go, and an image with its last name, as Docker does it.

use std::collections::HashSet;

use rbuild_cache::Digest;
use rbuild_cache::collect::{Kind, PruneOptions};
use rbuild_cache::images::StoredImage;
use rbuild_image::Reference;

use super::{ImageFilter, familiar};
use crate::{Engine, Error, Result};

/// What `rmi` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    Untagged(String),
    Deleted(Digest),
}

/// What `image prune` took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedImages {
    pub removed: Vec<Removed>,
    /// Blocks given back, in bytes.
    pub bytes: u64,
}

impl Engine {
    /// Removes the images without a name that no container is of; with `all` those with names, too. What the build cache
    /// holds of them stays.
    pub fn prune_images(&self, all: bool, filters: &[ImageFilter]) -> Result<PrunedImages> {
        let containers = self.catalog().all()?;
        let held: HashSet<String> = containers
            .into_iter()
            .filter_map(|entry| entry.definition.image_id)
            .collect();
        let mut removed = Vec::new();
        for image in self.chosen(filters)? {
            let may_go =
                (all || image.name.is_empty()) && !held.contains(&image.config.to_string());
            if !may_go
                || self
                    .store()
                    .remove_image(&image.name, &image.manifest)?
                    .is_none()
            {
                continue;
            }
            if !image.name.is_empty() {
                removed.push(Removed::Untagged(familiar(&image.name)));
            }
            let rest = self.store().images()?;
            if rest.iter().all(|other| other.config != image.config) {
                removed.push(Removed::Deleted(image.config));
            }
        }
        let pruned = self.store().prune(&PruneOptions {
            // No image, record or cache mount: what nobody holds any more.
            kinds: vec![Kind::Blob],
            unpacked: all,
            ..PruneOptions::default()
        })?;
        Ok(PrunedImages {
            removed,
            bytes: pruned.bytes,
        })
    }

    /// Takes a name away, and the image with its last name. An ID that has several names goes only with `force`; so
    /// does what a stopped container stands on. What a running one stands on does not go.
    pub fn remove_image(&self, name: &str, force: bool) -> Result<Vec<Removed>> {
        let image = self.find_image(name)?;
        let all: Vec<StoredImage> = self
            .store()
            .images()?
            .into_iter()
            .filter(|other| other.config == image.config)
            .collect();
        let by_name = name
            .parse::<Reference>()
            .is_ok_and(|reference| !image.name.is_empty() && reference.canonical() == image.name);
        let going: Vec<&StoredImage> = if by_name {
            all.iter()
                .filter(|other| other.name == image.name)
                .collect()
        } else {
            let names: Vec<&str> = all
                .iter()
                .map(|other| other.name.as_str())
                .filter(|name| !name.is_empty())
                .collect();
            if names.len() > 1 && !force {
                let names: Vec<String> = names.iter().map(|name| familiar(name)).collect();
                return Err(Error::Usage(format!(
                    "`{name}` has {} names ({}): remove them one by one, or all with --force",
                    names.len(),
                    names.join(", ")
                )));
            }
            all.iter().collect()
        };
        if going.len() == all.len() {
            self.refuse_what_is_used(name, &image, force)?;
        }
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

    fn refuse_what_is_used(&self, name: &str, image: &StoredImage, force: bool) -> Result<()> {
        let Some(top) = self.top_of(image)? else {
            return Ok(());
        };
        let users = self.store().containers()?;
        let mut users: Vec<String> = users
            .into_iter()
            .filter(|(_, snapshot)| *snapshot == top)
            .map(|(id, _)| id.chars().take(12).collect())
            .collect();
        users.dedup();
        if users.is_empty() || force {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "`{name}` is in use by the container {}: remove the container first, or use --force",
            users.join(", ")
        )))
    }
}
