//! `--cache-from` and `--cache-to`: Docker's words, and `mounts=`.

use std::path::PathBuf;

use rbuild_engine::image::Reference;
use rbuild_engine::request::{CacheFrom, CacheMode, CachePlace, CacheTo};

use super::output;
use crate::error::{Error, Result};
use crate::spec::Spec;

const FROM: &str = "--cache-from";
const TO: &str = "--cache-to";
/// Keys that may stand without a value.
const FLAGS: [&str; 4] = [
    "ignore-error",
    "force-compression",
    "image-manifest",
    "oci-mediatypes",
];

pub(crate) fn from(texts: &[String]) -> Result<Vec<CacheFrom>> {
    let mut caches = Vec::new();
    for text in texts {
        match references(FROM, text)? {
            Some(references) => caches.extend(references.into_iter().map(|reference| CacheFrom {
                place: CachePlace::Registry(reference),
                mounts: None,
            })),
            None => caches.push(one_from(text)?),
        }
    }
    Ok(caches)
}

pub(crate) fn to(texts: &[String]) -> Result<Vec<CacheTo>> {
    let mut caches = Vec::new();
    for text in texts {
        match references(TO, text)? {
            Some(references) => caches.extend(references.into_iter().map(|reference| CacheTo {
                place: Some(CachePlace::Registry(reference)),
                mode: CacheMode::Min,
                compression: None,
                force_compression: false,
                ignore_error: false,
                mounts: Vec::new(),
            })),
            None => caches.push(one_to(text)?),
        }
    }
    Ok(caches)
}

/// `NAME[,NAME]` without a `=`: names in registries, as Docker takes them.
fn references(flag: &'static str, text: &str) -> Result<Option<Vec<Reference>>> {
    if text.is_empty() || text.contains('=') {
        return Ok(None);
    }
    let names = text.split(',').map(|name| reference(flag, name));
    names.collect::<Result<Vec<_>>>().map(Some)
}

fn reference(flag: &'static str, name: &str) -> Result<Reference> {
    let parsed = name.trim().parse();
    parsed.map_err(|error| Error::usage(format!("{flag}: {error}")))
}

fn one_from(text: &str) -> Result<CacheFrom> {
    let mut spec = Spec::parse(FROM, text)?;
    let kind = kind(&mut spec)?;
    let mut known = vec!["type", "mounts"];
    let mounts = spec.take_list("mounts", &FLAGS);
    let place = match kind.as_str() {
        "inline" => {
            return Err(spec
                .error("an image's own records are read from its registry")
                .help("say `type=registry,ref=IMAGE`, or just the image's name"));
        }
        _ => place(FROM, &mut spec, &kind, "src", &mut known)?,
    };
    spec.finish(&known)?;
    refuse_mounts(FROM, mounts.as_deref().unwrap_or_default())?;
    Ok(CacheFrom { place, mounts })
}

fn one_to(text: &str) -> Result<CacheTo> {
    let mut spec = Spec::parse(TO, text)?;
    let kind = kind(&mut spec)?;
    let mut known = vec!["type", "mode", "ignore-error"];
    let mode = match spec.take(&["mode"])?.as_deref() {
        None | Some("min") => CacheMode::Min,
        Some("max") => CacheMode::Max,
        Some(other) => {
            return Err(spec.error(format!("`mode={other}`: expected `min` or `max`")));
        }
    };
    let ignore_error = spec.take_bool(&["ignore-error"])?.unwrap_or(false);
    if kind == "inline" {
        return Err(Error::unsupported("--cache-to with `type=inline`"));
    }
    known.extend([
        "compression",
        "compression-level",
        "force-compression",
        "image-manifest",
        "oci-mediatypes",
        "mounts",
    ]);
    let compression = spec.take(&["compression"])?;
    let level = spec.take(&["compression-level"])?;
    let compression = output::choice(&spec, compression.as_deref(), level.as_deref())?;
    let force_compression = spec.take_bool(&["force-compression"])?.unwrap_or(false);
    // A cache of rbuild's is always an OCI image manifest.
    for name in ["image-manifest", "oci-mediatypes"] {
        if spec.take_bool(&[name])? == Some(false) {
            return Err(
                Error::unsupported(format!("--cache-to with `{name}=false`"))
                    .help("the cache is written as an OCI image manifest"),
            );
        }
    }
    let mounts = spec.take_list("mounts", &FLAGS).unwrap_or_default();
    refuse_mounts(TO, &mounts)?;
    let place = place(TO, &mut spec, &kind, "dest", &mut known)?;
    spec.finish(&known)?;
    Ok(CacheTo {
        place: Some(place),
        mode,
        compression,
        force_compression,
        ignore_error,
        mounts,
    })
}

fn refuse_mounts(flag: &str, mounts: &[String]) -> Result<()> {
    match mounts {
        [] => Ok(()),
        _ => Err(Error::unsupported(format!("{flag} with `mounts=`"))),
    }
}

fn kind(spec: &mut Spec) -> Result<String> {
    spec.take(&["type"])?
        .ok_or_else(|| spec.error("`type=` is missing").help(KINDS))
}

const KINDS: &str = "it is `registry`, `local` or `inline`";

fn place(
    flag: &'static str,
    spec: &mut Spec,
    kind: &str,
    directory: &'static str,
    known: &mut Vec<&'static str>,
) -> Result<CachePlace> {
    let missing = |spec: &Spec, key: &str| spec.error(format!("`type={kind}` needs `{key}=`"));
    match kind {
        "registry" => {
            known.push("ref");
            let name = spec.take(&["ref"])?.ok_or_else(|| missing(spec, "ref"))?;
            Ok(CachePlace::Registry(reference(flag, &name)?))
        }
        "local" => {
            known.extend([directory, "tag"]);
            let path = spec.take(&[directory])?.filter(|path| !path.is_empty());
            let path = path.ok_or_else(|| missing(spec, directory))?;
            let tag = spec.take(&["tag"])?.filter(|tag| !tag.is_empty());
            let digest = match flag {
                FROM => {
                    known.push("digest");
                    let digest = spec.take(&["digest"])?;
                    let digest = digest.map(|text| text.parse());
                    digest.transpose().map_err(|error| spec.error(error))?
                }
                _ => None,
            };
            let path = PathBuf::from(path);
            let path =
                std::path::absolute(&path).map_err(|error| Error::io("find", &path, error))?;
            Ok(CachePlace::Local { path, tag, digest })
        }
        "gha" | "azblob" | "s3" | "redis" => {
            Err(Error::unsupported(format!("{flag} with `type={kind}`")).help(KINDS))
        }
        other => Err(spec
            .error(format!("`type={other}`: there is no such cache"))
            .help(KINDS)),
    }
}
