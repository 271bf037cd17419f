//! `--cache-from` and `--cache-to`: Docker's words, and `mounts=`.

use std::path::PathBuf;

use rbuild_engine::image::Reference;
use rbuild_engine::request::{CacheFrom, CacheMode, CachePlace, CacheTo, s3};
use url::Url;

use super::output;
use super::request::environment;
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
    Ok(CacheFrom { place, mounts })
}

/// The records that an image carries itself.
pub(super) fn inline(ignore_error: bool) -> CacheTo {
    CacheTo {
        place: None,
        mode: CacheMode::Min,
        compression: None,
        force_compression: false,
        ignore_error,
        mounts: Vec::new(),
    }
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
        if mode == CacheMode::Max {
            return Err(spec
                .error("an image carries only what it is made of: `type=inline` has no `mode=max`")
                .help("say `type=registry,ref=NAME,mode=max`"));
        }
        spec.finish(&known)?;
        return Ok(inline(ignore_error));
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

fn kind(spec: &mut Spec) -> Result<String> {
    spec.take(&["type"])?
        .ok_or_else(|| spec.error("`type=` is missing").help(KINDS))
}

const KINDS: &str = "it is `registry`, `local`, `s3`, `redis` or `inline`";

/// What a cache is called where nobody says.
const NAME: &str = "rbuild";

const S3_KEYS: [&str; 12] = [
    "bucket",
    "region",
    "endpoint_url",
    "use_path_style",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "name",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "mode",
];

/// BuildKit's keys, and AWS's variables for what is not said.
fn bucket(spec: &mut Spec) -> Result<s3::Options> {
    let variable = |names: &[&str]| -> Result<Option<String>> {
        for name in names {
            let value = environment(name)?;
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    };
    let mut take = |key: &str, names: &[&str]| match spec.take(&[key])? {
        Some(value) => Ok::<_, Error>(Some(value)),
        None => variable(names),
    };
    let bucket = take("bucket", &["AWS_BUCKET"])?;
    let region = take("region", &["AWS_REGION", "AWS_DEFAULT_REGION"])?;
    let endpoint = take("endpoint_url", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])?;
    let access_key = take("access_key_id", &["AWS_ACCESS_KEY_ID"])?;
    let secret_key = take("secret_access_key", &["AWS_SECRET_ACCESS_KEY"])?;
    let session_token = take("session_token", &["AWS_SESSION_TOKEN"])?;
    let prefix = take("prefix", &[])?.unwrap_or_default();
    let blobs_prefix = take("blobs_prefix", &[])?;
    let manifests_prefix = take("manifests_prefix", &[])?;
    let name = take("name", &[])?;
    let path_style = spec.take_bool(&["use_path_style"])?.unwrap_or(false);
    let missing = |key: &str, variable: &str| {
        spec.error(format!("`type=s3` needs `{key}=`"))
            .help(format!("or the variable {variable}"))
    };
    let endpoint = endpoint.map(|text| address(spec, "endpoint_url", &text));
    Ok(s3::Options {
        endpoint: endpoint.transpose()?,
        bucket: bucket.ok_or_else(|| missing("bucket", "AWS_BUCKET"))?,
        region: region.ok_or_else(|| missing("region", "AWS_REGION"))?,
        access_key: access_key.ok_or_else(|| missing("access_key_id", "AWS_ACCESS_KEY_ID"))?,
        secret_key: secret_key
            .ok_or_else(|| missing("secret_access_key", "AWS_SECRET_ACCESS_KEY"))?,
        session_token,
        path_style,
        prefix,
        blobs_prefix: blobs_prefix.unwrap_or_else(|| "blobs/".to_owned()),
        manifests_prefix: manifests_prefix.unwrap_or_else(|| "manifests/".to_owned()),
        name: name.unwrap_or_else(|| NAME.to_owned()),
    })
}

fn address(spec: &Spec, key: &str, text: &str) -> Result<Url> {
    Url::parse(text).map_err(|error| spec.error(format!("`{key}=`: {error}")))
}

/// `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, `rediss://` with TLS.
fn redis(spec: &mut Spec, text: &str) -> Result<CachePlace> {
    let mut url = address(spec, "url", text)?;
    let schemes = ["redis", "rediss", "redis+unix", "unix"];
    if !schemes.contains(&url.scheme()) {
        let scheme = url.scheme().to_owned();
        return Err(spec
            .error(format!("`url=` begins with `{scheme}:`"))
            .help("it is `redis://HOST[:PORT][/DB]`, or `rediss://` with TLS"));
    }
    let mut taken = Vec::new();
    for key in ["username", "password", "db"] {
        taken.push(spec.take(&[key])?);
    }
    let unfit = |spec: &Spec| spec.error("this `url=` takes no user, password or database");
    if let [username, password, db] = taken.as_slice() {
        if let Some(username) = username {
            url.set_username(username).map_err(|()| unfit(spec))?;
        }
        if let Some(password) = password {
            url.set_password(Some(password)).map_err(|()| unfit(spec))?;
        }
        if let Some(db) = db {
            url.set_path(db);
        }
    }
    Ok(CachePlace::Redis {
        url,
        prefix: spec
            .take(&["prefix"])?
            .unwrap_or_else(|| "rbuild:".to_owned()),
        name: spec.take(&["name"])?.unwrap_or_else(|| NAME.to_owned()),
    })
}

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
        "s3" => {
            known.extend(S3_KEYS);
            Ok(CachePlace::S3(Box::new(bucket(spec)?)))
        }
        "redis" => {
            known.extend(["url", "username", "password", "db", "prefix", "name"]);
            let text = spec.take(&["url"])?.ok_or_else(|| missing(spec, "url"))?;
            redis(spec, &text)
        }
        "gha" | "azblob" | "gcs" => {
            Err(Error::unsupported(format!("{flag} with `type={kind}`")).help(KINDS))
        }
        other => Err(spec
            .error(format!("`type={other}`: there is no such cache"))
            .help(KINDS)),
    }
}
