//! From a solved stage to an image in the content store: its layers, its config with history and times, its manifest.
//!
//! Times are BuildKit's: an instruction that made a layer has the time of that layer, one that made none has that of
//! the layer before it, and the image that of its last entry. Where SOURCE_DATE_EPOCH holds, nothing is later than it.

use rbuild_cache::{Digest, Snapshot, Store};
use rbuild_image::compression::Compression;
use rbuild_image::config::History;
use rbuild_image::shared::CARRIED;
use rbuild_image::{Descriptor, ImageConfig, store_image};

use crate::Result;
use crate::evidence::Evidence;
use crate::layering;
use crate::lower::{HistoryEntry, LoweredImage};
use crate::request::Squash;
use crate::shared_cache::import::Remote;

/// Comment of our history entries, as everything that reads histories of Dockerfile builds knows it.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// How the bytes of an image are made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Form {
    pub(crate) compression: Compression,
    /// Also of layers that are known in another form.
    pub(crate) force_compression: bool,
    pub(crate) oci_media_types: bool,
    pub(crate) rewrite_timestamp: bool,
    pub(crate) annotations: Annotations,
    /// An index, also over one image.
    pub(crate) index: bool,
    pub(crate) squash: Squash,
    /// More layers are merged.
    pub(crate) layers_limit: usize,
}

/// Annotations by where they go; written as `[TYPE[PLATFORM]:]KEY`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Annotations {
    /// (platform, key, value); on all manifests where there is no platform.
    manifest: Vec<(Option<String>, String, String)>,
    manifest_descriptor: Vec<(Option<String>, String, String)>,
    index: Vec<(String, String)>,
    index_descriptor: Vec<(String, String)>,
}

/// An image in the content store.
#[derive(Debug, Clone)]
pub(crate) struct Assembled {
    /// Of the manifest, or of the index over several.
    pub(crate) descriptor: Descriptor,
    /// Of the first platform.
    pub(crate) config: Digest,
    /// Everything that the descriptor leads to.
    pub(crate) blobs: Vec<Digest>,
}

/// One platform's result: what it was lowered to, and its layers, bottom first.
pub(crate) struct Solved<'a> {
    pub(crate) image: &'a LoweredImage,
    pub(crate) layers: Vec<Snapshot>,
    /// Instead: layers whose files are not here, each as it is.
    pub(crate) remote: Vec<Remote>,
    /// What its config is to carry of the cache (`--cache-to type=inline`).
    pub(crate) records: Option<serde_json::Value>,
    /// The roots of `image.scans`, in their order; `None` is an empty one.
    pub(crate) scanned: &'a [Option<Snapshot>],
}

impl Annotations {
    /// Sorts annotations by where they go. What is no type is part of the key.
    pub(crate) fn sort(written: impl Iterator<Item = (String, String)>) -> Self {
        let mut sorted = Self::default();
        for (written, value) in written {
            let (types, key) = match written.split_once(':') {
                Some((types, key)) if types.split(',').all(|one| split_type(one).is_some()) => {
                    (types, key)
                }
                _ => ("manifest", written.as_str()),
            };
            for (name, platform) in types.split(',').filter_map(split_type) {
                let (key, value) = (key.to_owned(), value.clone());
                match name {
                    "manifest" => sorted.manifest.push((platform, key, value)),
                    "manifest-descriptor" => {
                        sorted.manifest_descriptor.push((platform, key, value));
                    }
                    "index" => sorted.index.push((key, value)),
                    _ => sorted.index_descriptor.push((key, value)),
                }
            }
        }
        sorted
    }
}

/// `manifest[linux/amd64]` → (`manifest`, `linux/amd64`).
pub(crate) fn split_type(text: &str) -> Option<(&str, Option<String>)> {
    let (name, platform) = match text.split_once('[') {
        Some((name, rest)) => (name, Some(rest.strip_suffix(']')?.to_owned())),
        None => (text, None),
    };
    [
        "manifest",
        "manifest-descriptor",
        "index",
        "index-descriptor",
    ]
    .contains(&name)
    .then_some((name, platform))
}

fn of_platform(all: &[(Option<String>, String, String)], platform: &str) -> Vec<(String, String)> {
    all.iter()
        .filter(|(of, _, _)| of.as_deref().is_none_or(|of| of == platform))
        .map(|(_, key, value)| (key.clone(), value.clone()))
        .collect()
}

fn annotate(descriptor: &mut Descriptor, annotations: Vec<(String, String)>) {
    if !annotations.is_empty() {
        descriptor
            .annotations
            .get_or_insert_default()
            .extend(annotations);
    }
}

/// Puts the images of all platforms into the content store. Blocking.
pub(crate) fn assemble(
    store: &Store,
    solved: &[Solved<'_>],
    form: &Form,
    evidence: Option<&Evidence<'_>>,
) -> Result<Assembled> {
    let mut manifests = Vec::new();
    let mut attested = Vec::new();
    let mut blobs = Vec::new();
    let mut config = None;
    for one in solved {
        let groups = layering::groups(one, form);
        let layers = match one.remote.is_empty() {
            true => layering::layers(store, one, form, &groups)?,
            false => one.remote.iter().map(|it| it.blob.clone()).collect(),
        };
        let annotations = of_platform(&form.annotations.manifest, &one.image.platform.to_string());
        let mut image_config = image_config(one.image, &one.times());
        if one.remote.is_empty() {
            layering::tell(&mut image_config.history, &groups);
        }
        // They speak of a layer for each snapshot.
        if let Some(records) = &one.records
            && groups.len() == one.layers.len()
        {
            let other = &mut image_config.other;
            other.insert(CARRIED.to_owned(), records.clone());
        }
        let (mut manifest, config_descriptor) = store_image::write(
            store,
            &image_config,
            &layers,
            &annotations,
            form.oci_media_types,
        )?;
        config.get_or_insert(config_descriptor.digest);
        blobs.push(config_descriptor.digest);
        blobs.extend(layers.iter().map(|layer| layer.digest));
        let platform = one.image.platform.to_string();
        annotate(
            &mut manifest,
            of_platform(&form.annotations.manifest_descriptor, &platform),
        );
        if let Some(evidence) = evidence {
            let attached = evidence.attach(store, one, &manifest, &layers)?;
            blobs.extend(attached.blobs);
            attested.push(attached.descriptor);
        }
        manifests.push(manifest);
    }
    // What speaks of images comes behind all of them.
    manifests.extend(attested);
    let mut descriptor = match manifests.as_slice() {
        [one] if form.annotations.index.is_empty() && !form.index => one.clone(),
        several => {
            blobs.extend(several.iter().map(|manifest| manifest.digest));
            store_image::write_index(
                store,
                several,
                &form.annotations.index,
                form.oci_media_types,
            )?
        }
    };
    annotate(&mut descriptor, form.annotations.index_descriptor.clone());
    Ok(Assembled {
        config: config.unwrap_or(descriptor.digest),
        descriptor,
        blobs,
    })
}

/// When layers were made, in Unix seconds.
pub(crate) fn times(layers: &[Snapshot]) -> Vec<i64> {
    layers.iter().map(|layer| layer.created).collect()
}

impl Solved<'_> {
    fn times(&self) -> Vec<i64> {
        let remote = self.remote.iter().map(|layer| layer.created);
        times(&self.layers).into_iter().chain(remote).collect()
    }
}

/// The config with its history and times; `rootfs` is written with the layers. `times`: when each layer was made.
pub(crate) fn image_config(image: &LoweredImage, times: &[i64]) -> ImageConfig {
    let mut config = image.config.clone();
    let mut own_times = times.iter().skip(image.base_layers);
    let epoch = image.epoch.and_then(rfc3339);
    let mut history: Vec<History> = image
        .history
        .iter()
        .map(|entry| match entry {
            HistoryEntry::Inherited(history) => history.clone(),
            HistoryEntry::Own {
                created_by, layer, ..
            } => History {
                // SOURCE_DATE_EPOCH is said of what is made here. What a base image says of itself stays.
                created: match &epoch {
                    Some(epoch) => Some(epoch.clone()),
                    None if *layer => own_times.next().and_then(|time| rfc3339(*time)),
                    None => None,
                },
                created_by: Some(created_by.clone()),
                comment: Some(COMMENT.to_owned()),
                empty_layer: !layer,
                ..History::default()
            },
        })
        .collect();
    fill_in_times(&mut history);
    config.created = history
        .last()
        .and_then(|entry| entry.created.clone())
        .or_else(|| image.base_created.clone())
        .or_else(|| epoch.clone());
    config.history = history;
    config
}

/// Gives entries without a time that of the entry before; the first ones that of the first layer made here.
fn fill_in_times(history: &mut [History]) {
    let first_missing = history.iter().position(|entry| entry.created.is_none());
    let Some(first_missing) = first_missing else {
        return;
    };
    let before = first_missing
        .checked_sub(1)
        .and_then(|place| history.get(place))
        .and_then(|entry| entry.created.clone());
    let after = history
        .iter()
        .skip(first_missing)
        .find_map(|entry| entry.created.clone());
    let mut current = after.or(before);
    for entry in history.iter_mut().skip(first_missing) {
        match &entry.created {
            Some(created) => current = Some(created.clone()),
            None => entry.created.clone_from(&current),
        }
    }
}

fn rfc3339(seconds: i64) -> Option<String> {
    let time = jiff::Timestamp::from_second(seconds).ok()?;
    Some(time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(created: Option<&str>) -> History {
        History {
            created: created.map(str::to_owned),
            ..History::default()
        }
    }

    fn filled(times: &[Option<&str>]) -> Vec<Option<String>> {
        let mut history: Vec<History> = times.iter().map(|time| entry(*time)).collect();
        fill_in_times(&mut history);
        history.into_iter().map(|entry| entry.created).collect()
    }

    #[test]
    fn entries_without_a_layer_take_the_time_of_a_neighbour() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            filled(&[Some("base"), None, Some("own"), None]),
            [some("base"), some("own"), some("own"), some("own")]
        );
        assert_eq!(filled(&[Some("base"), None]), [some("base"), some("base")]);
        assert_eq!(filled(&[None, None]), [None, None]);
        assert_eq!(filled(&[]), Vec::<Option<String>>::new());
    }

    #[test]
    fn annotations_go_where_their_type_says() {
        let written = [
            ("a", "1"),
            ("index:b", "2"),
            ("manifest[linux/arm64],manifest-descriptor:c", "3"),
            ("org:d", "4"),
        ];
        let sorted = Annotations::sort(
            written
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            of_platform(&sorted.manifest, "linux/amd64"),
            [pair("a", "1"), pair("org:d", "4")]
        );
        assert_eq!(of_platform(&sorted.manifest, "linux/arm64").len(), 3);
        assert_eq!(sorted.index, [pair("b", "2")]);
        assert_eq!(
            of_platform(&sorted.manifest_descriptor, "linux/amd64"),
            [pair("c", "3")]
        );
    }

    #[test]
    fn times_are_written() {
        assert_eq!(
            rfc3339(1_234_567_890).as_deref(),
            Some("2009-02-13T23:31:30Z")
        );
    }
}
