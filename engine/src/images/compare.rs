//! `image diff`: what changed between two images, in files and in the config.

use std::collections::BTreeMap;

use rbuild_cache::tree::Tree;
use rbuild_image::{ImageConfig, Platform};
use serde::Serialize;
use serde_json::Value;

use crate::compare::{Closeness, Difference, EVERY_TIME, differences};
use crate::worker::blocking;
use crate::{Engine, Result};

/// What changed from one image to another.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct ImageDifferences {
    pub files: Vec<Difference>,
    pub config: Vec<ConfigDifference>,
}

/// A field of the config; `None` where it is not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConfigDifference {
    /// `Env PATH`, `Labels a`, `Cmd`, `architecture`.
    pub field: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

impl Engine {
    /// With `times`, also when the images were made, and files that differ only in when they were changed.
    pub async fn image_diff(
        &self,
        before: &str,
        after: &str,
        platform: Option<&Platform>,
        times: bool,
    ) -> Result<ImageDifferences> {
        let before = self.image_root(before, platform).await?;
        let after = self.image_root(after, platform).await?;
        let mut config = config_differences(&before.config, &after.config);
        config.retain(|one| times || one.field != "created");
        let tops = |root: &super::roots::ImageRoot| root.chain.last().cloned();
        let (one, other) = (tops(&before), tops(&after));
        let same = one.as_ref().map(|top| &top.content) == other.as_ref().map(|top| &top.content);
        if same && !times {
            let files = Vec::new();
            return Ok(ImageDifferences { files, config });
        }
        let closeness = Closeness {
            times: times.then_some(EVERY_TIME),
        };
        let store = std::sync::Arc::clone(self.store());
        let files = blocking(move || {
            let view = |top: Option<rbuild_cache::Snapshot>| match top {
                Some(top) => store.merged_tree(&top.id),
                None => Ok(std::sync::Arc::new(Tree::default())),
            };
            Ok::<_, crate::Error>(differences(&*view(one)?, &*view(other)?, closeness))
        });
        Ok(ImageDifferences {
            files: files.await?,
            config,
        })
    }
}

/// Fields in the order of their names; `rootfs` and `history` tell what files do.
pub(crate) fn config_differences(
    before: &ImageConfig,
    after: &ImageConfig,
) -> Vec<ConfigDifference> {
    let (mut before, mut after) = (fields(before), fields(after));
    let mut names: Vec<String> = before.keys().chain(after.keys()).cloned().collect();
    names.sort();
    names.dedup();
    let one = |field: String| {
        let (before, after) = (before.remove(&field), after.remove(&field));
        (before != after).then_some(ConfigDifference {
            field,
            before,
            after,
        })
    };
    names.into_iter().filter_map(one).collect()
}

fn fields(config: &ImageConfig) -> BTreeMap<String, Value> {
    let mut fields = BTreeMap::new();
    let Ok(Value::Object(all)) = serde_json::to_value(config) else {
        return fields;
    };
    for (name, value) in all {
        match (name.as_str(), value) {
            ("rootfs" | "history", _) => {}
            ("config", Value::Object(inner)) => {
                for (name, value) in inner {
                    flatten(&name, value, &mut fields);
                }
            }
            (_, value) => {
                fields.insert(name, value);
            }
        }
    }
    fields
}

/// Variables, labels and other maps go by their keys.
fn flatten(name: &str, value: Value, fields: &mut BTreeMap<String, Value>) {
    match value {
        Value::Array(items) if name == "Env" => {
            for item in items {
                let text = item.as_str().unwrap_or_default();
                let (key, value) = text.split_once('=').unwrap_or((text, ""));
                fields.insert(format!("{name} {key}"), value.into());
            }
        }
        Value::Object(items) if name != "Healthcheck" => {
            for (key, value) in items {
                fields.insert(format!("{name} {key}"), value);
            }
        }
        value => {
            fields.insert(name.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_are_compared_by_key() {
        let config = |text: &str| serde_json::from_str::<ImageConfig>(text).unwrap();
        let before = config(
            r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"},"config":{"Env":["A=1","B=2"],"Cmd":["a"]}}"#,
        );
        let after = config(
            r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"},"config":{"Env":["B=3","A=1"],"Labels":{"l":"x"}}}"#,
        );
        let found = config_differences(&before, &after);
        let names: Vec<&str> = found.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(names, ["Cmd", "Env B", "Labels l"]);
        assert_eq!(found[1].after, Some("3".into()));
        assert!(config_differences(&before, &before).is_empty());
    }
}
