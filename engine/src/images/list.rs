//! The rows of `images`, and which of them a filter lets through.

use std::collections::HashSet;

use rbuild_cache::Digest;
use rbuild_cache::images::StoredImage;
use rbuild_image::Reference;
use serde::Serialize;

use crate::{Engine, Error, Result};

/// A row of `images`.
#[derive(Debug, Clone, Serialize)]
pub struct ImageSummary {
    /// `<none>` for unnamed images.
    pub repository: String,
    pub tag: String,
    pub id: Digest,
    /// Of the manifest or index.
    pub digest: Digest,
    /// RFC 3339, as the config says.
    pub created: Option<String>,
    /// Of the unpacked layers, in bytes, as far as that is known.
    pub size: u64,
}

/// `--filter`. What is given several times: any of the references, all of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageFilter {
    Dangling(bool),
    /// A pattern of names, as people write them.
    Reference(String),
    /// `KEY`, or `KEY=VALUE`.
    Label(String, Option<String>),
    /// Not as [`ImageFilter::Label`].
    NotLabel(String, Option<String>),
    /// Made before this image.
    Before(String),
    /// Made after this image.
    Since(String),
    /// Made before this Unix time.
    Until(i64),
}

/// A filter that is ready to be asked.
enum Test<'a> {
    Dangling(bool),
    References(Vec<&'a str>),
    Label(&'a str, Option<&'a str>),
    NotLabel(&'a str, Option<&'a str>),
    Before(i128),
    Since(i128),
}

impl Engine {
    /// The images that all filters let through, newest first.
    pub fn images(&self, filters: &[ImageFilter]) -> Result<Vec<ImageSummary>> {
        let tests = self.tests(filters)?;
        let mut rows = Vec::new();
        for image in self.store().images()? {
            if let Some(row) = self.row(&image, &tests)? {
                rows.push((moment(row.created.as_deref()), row));
            }
        }
        // Of one image, its names stay in their order.
        rows.sort_by_key(|(moment, _)| std::cmp::Reverse(*moment));
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// The IDs of an image, and of all that were made on its layers.
    pub fn descendants(&self, name: &str) -> Result<HashSet<String>> {
        let base = self.find_image(name)?;
        let layers = |image: &StoredImage| -> Result<Vec<_>> {
            let config = self.config_of(image)?;
            Ok(config.rootfs.diff_ids.unwrap_or_default())
        };
        let below = layers(&base)?;
        let mut found = HashSet::from([base.config.to_string()]);
        if below.is_empty() {
            return Ok(found);
        }
        for image in self.store().images()? {
            // One that is damaged hides none of the others.
            let own = layers(&image).unwrap_or_default();
            if own.len() > below.len() && own.starts_with(&below) {
                found.insert(image.config.to_string());
            }
        }
        Ok(found)
    }

    /// The rows of the store that all filters let through.
    pub(super) fn chosen(&self, filters: &[ImageFilter]) -> Result<Vec<StoredImage>> {
        let tests = self.tests(filters)?;
        let mut chosen = Vec::new();
        for image in self.store().images()? {
            if self.row(&image, &tests)?.is_some() {
                chosen.push(image);
            }
        }
        Ok(chosen)
    }

    fn tests<'a>(&self, filters: &'a [ImageFilter]) -> Result<Vec<Test<'a>>> {
        let mut references = Vec::new();
        let mut tests = Vec::new();
        let made = |name: &str| -> Result<i128> {
            let image = self.find_image(name)?;
            Ok(moment(self.config_of(&image)?.created.as_deref()))
        };
        for filter in filters {
            tests.push(match filter {
                ImageFilter::Dangling(dangling) => Test::Dangling(*dangling),
                ImageFilter::Reference(pattern) => {
                    references.push(pattern.as_str());
                    continue;
                }
                ImageFilter::Label(key, value) => Test::Label(key, value.as_deref()),
                ImageFilter::NotLabel(key, value) => Test::NotLabel(key, value.as_deref()),
                ImageFilter::Before(name) => Test::Before(made(name)?),
                ImageFilter::Since(name) => Test::Since(made(name)?),
                ImageFilter::Until(seconds) => Test::Before(i128::from(*seconds) * 1_000_000_000),
            });
        }
        if !references.is_empty() {
            tests.push(Test::References(references));
        }
        Ok(tests)
    }

    fn row(&self, image: &StoredImage, tests: &[Test<'_>]) -> Result<Option<ImageSummary>> {
        let (repository, tag) = split_name(&image.name);
        // One image that is damaged does not hide the others.
        let config = match self.config_of(image) {
            Ok(config) => Some(config),
            Err(error) => {
                tracing::warn!(image = %image.config, %error, "its config cannot be read");
                None
            }
        };
        let created = config.as_ref().and_then(|config| config.created.clone());
        let labels = config.as_ref().and_then(|it| it.config.labels.as_ref());
        let when = moment(created.as_deref());
        let is_labelled = |key: &str, value: Option<&str>| {
            labels.is_some_and(|labels| {
                let label = labels.get(key);
                label.is_some_and(|label| value.is_none_or(|value| value == label))
            })
        };
        for test in tests {
            let passes = match test {
                Test::Dangling(dangling) => image.name.is_empty() == *dangling,
                Test::References(patterns) => patterns
                    .iter()
                    .any(|pattern| is_named(&image.name, pattern)),
                Test::Label(key, value) => is_labelled(key, *value),
                Test::NotLabel(key, value) => !is_labelled(key, *value),
                Test::Before(other) => when < *other,
                Test::Since(other) => when > *other,
            };
            if !passes {
                return Ok(None);
            }
        }
        let size = self.sizes(image).unwrap_or_default().into_iter().sum();
        Ok(Some(ImageSummary {
            repository,
            tag,
            id: image.config,
            digest: image.manifest,
            created,
            size,
        }))
    }
}

/// Nanoseconds since 1970; what has no time is the oldest.
fn moment(created: Option<&str>) -> i128 {
    created
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
        .map_or(i128::MIN, jiff::Timestamp::as_nanosecond)
}

/// A pattern is for the repository or for the whole name, as people write them.
fn is_named(name: &str, pattern: &str) -> bool {
    let Ok(reference) = name.parse::<Reference>() else {
        return false;
    };
    let (repository, _) = split_name(name);
    let matches = |name: &str| {
        rbuild_parser::glob::matches(pattern.as_bytes(), name.as_bytes()).unwrap_or(false)
    };
    // `docker.io/library/alpine` means `alpine`, too.
    let same = pattern.parse::<Reference>().is_ok_and(|wanted| {
        let names_tag = wanted.tag.is_some() || wanted.digest.is_some();
        match names_tag {
            true => wanted.canonical() == name,
            false => {
                (&wanted.registry, &wanted.repository)
                    == (&reference.registry, &reference.repository)
            }
        }
    });
    same || matches(&repository) || matches(&reference.familiar())
}

/// Checks a pattern of names before it is used.
pub(super) fn split_name(name: &str) -> (String, String) {
    let none = || "<none>".to_owned();
    let Ok(mut reference) = name.parse::<Reference>() else {
        return (none(), none());
    };
    let tag = reference.tag_or_default().map_or_else(none, str::to_owned);
    reference.tag = None;
    reference.digest = None;
    let repository = reference.familiar();
    let repository = repository.strip_suffix(":latest").unwrap_or(&repository);
    (repository.to_owned(), tag)
}

/// Refuses a pattern that nothing can match.
pub fn check_pattern(pattern: &str) -> Result<()> {
    match rbuild_parser::glob::matches(pattern.as_bytes(), b"") {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Usage(format!(
            "`{pattern}` is no pattern of names: {error}"
        ))),
    }
}
