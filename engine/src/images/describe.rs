//! What is known of an image: its history, and the object that Docker's `inspect` prints.

use rbuild_image::Reference;
use serde_json::{Value, json};

use super::{HistoryRow, familiar};
use crate::{Engine, Result};

impl Engine {
    /// One row for each entry of the config's history, newest first.
    pub fn image_history(&self, name: &str) -> Result<Vec<HistoryRow>> {
        let image = self.find_image(name)?;
        let config = self.config_of(&image)?;
        let mut sizes = self.sizes(&image)?.into_iter();
        let mut rows: Vec<HistoryRow> = config
            .history
            .into_iter()
            .map(|entry| HistoryRow {
                id: "<missing>".to_owned(),
                created: entry.created,
                created_by: entry.created_by.unwrap_or_default(),
                size: if entry.empty_layer {
                    0
                } else {
                    sizes.next().unwrap_or(0)
                },
                comment: entry.comment.unwrap_or_default(),
            })
            .collect();
        rows.reverse();
        if let Some(newest) = rows.first_mut() {
            newest.id = image.config.to_string();
        }
        Ok(rows)
    }

    /// The object that `docker image inspect` prints for an image.
    pub fn inspect_image(&self, name: &str) -> Result<Value> {
        let image = self.find_image(name)?;
        let config = self.config_of(&image)?;
        let size: u64 = self.sizes(&image)?.into_iter().sum();
        let names: Vec<String> = self
            .store()
            .images()?
            .into_iter()
            .filter(|other| other.config == image.config && !other.name.is_empty())
            .map(|other| other.name)
            .collect();
        let mut digests: Vec<String> = names
            .iter()
            .filter_map(|name| name.parse::<Reference>().ok())
            .map(|mut reference| {
                reference.tag = None;
                reference.digest = Some(image.manifest);
                reference.familiar()
            })
            .collect();
        digests.sort_unstable();
        digests.dedup();
        let comment = config.history.last().and_then(|last| last.comment.clone());
        let tagged = jiff::Timestamp::from_second(image.tagged).ok();
        let mut object = json!({
            "Id": image.config,
            "RepoTags": names.iter().map(|name| familiar(name)).collect::<Vec<_>>(),
            "RepoDigests": digests,
            "Parent": "",
            "Comment": comment.unwrap_or_default(),
            "Created": config.created,
            "DockerVersion": "",
            "Author": config.author.unwrap_or_default(),
            "Config": config.config,
            "Architecture": config.architecture,
        });
        let more = json!({
            "Os": config.os,
            "OsVersion": config.os_version,
            "Size": size,
            "VirtualSize": size,
            "GraphDriver": {"Data": {}, "Name": "rbuild"},
            "RootFS": {
                "Type": config.rootfs.kind,
                "Layers": config.rootfs.diff_ids.unwrap_or_default(),
            },
            "Metadata": { "LastTagTime": tagged.map(|time| time.to_string()) },
            "Descriptor": {
                "mediaType": image.media_type,
                "digest": image.manifest,
                "size": image.size,
            },
        });
        // In Docker's order; what a config does not say is not shown.
        if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
            if let Some(variant) = config.variant.filter(|variant| !variant.is_empty()) {
                object.insert("Variant".to_owned(), variant.into());
            }
            object.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
        }
        Ok(object)
    }
}
