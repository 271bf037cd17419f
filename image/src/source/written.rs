//! Locations as people write them: `oci:DIR[:TAG][@DIGEST]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:TAG]`.
//! Looks at the file system, for paths and tags may both have colons.

use std::path::{Path, PathBuf};

use rbuild_cache::Digest;

use super::Location;
use crate::{Error, Result};

/// The location that a text names by its transport; `None` for names and IDs. [`Error::BadReference`] where no path
/// follows the transport, or what follows `@` is no digest.
pub fn explicit(image: &str) -> Result<Option<Location>> {
    let Some((transport, rest)) = image.split_once(':') else {
        return Ok(None);
    };
    if !["oci", "oci-archive", "docker-archive"].contains(&transport) {
        return Ok(None);
    }
    if rest.is_empty() {
        let reason = "a path follows the colon".to_owned();
        return Err(Error::BadReference(image.to_owned(), reason));
    }
    if transport == "oci" {
        let (path, tag, digest) = layout(rest)?;
        return Ok(Some(Location::OciLayout { path, tag, digest }));
    }
    let (path, tag) = path_and_tag(rest);
    Ok(Some(match transport {
        "oci-archive" => Location::OciArchive { path, tag },
        _ => Location::DockerArchive { path, tag },
    }))
}

/// Splits `DIR[:TAG][@DIGEST]`. [`Error::BadReference`] where what follows `@` is no digest.
pub fn layout(text: &str) -> Result<(PathBuf, Option<String>, Option<Digest>)> {
    let (rest, digest) = match text.rsplit_once("@sha256:") {
        Some((rest, hex)) => {
            let bad = |error| Error::BadReference(text.to_owned(), format!("{error}"));
            let digest = format!("sha256:{hex}").parse::<Digest>().map_err(bad)?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    let (path, tag) = path_and_tag(rest);
    Ok((path, tag, digest))
}

/// Splits `PATH[:TAG]`. Both may have colons: the longest beginning that is there is the path.
pub fn path_and_tag(text: &str) -> (PathBuf, Option<String>) {
    let exists = |path: &str| Path::new(path).exists();
    if exists(text) {
        return (text.into(), None);
    }
    let colons = text.rmatch_indices(':');
    let splits: Vec<(&str, &str)> = colons
        .map(|(at, colon)| (&text[..at], &text[at + colon.len()..]))
        .filter(|(path, tag)| !path.is_empty() && !tag.is_empty())
        .collect();
    let found = splits.iter().find(|(path, _)| exists(path));
    // Of a path that is not there, the error is to name what was most likely meant.
    let likely = splits.first().filter(|(_, tag)| !tag.contains('/'));
    match found.or(likely) {
        Some((path, tag)) => (path.into(), Some((*tag).to_owned())),
        None => (text.into(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_outside_of_the_store_say_where_they_are() {
        let found = |text: &str| explicit(text).expect("a location");
        assert_eq!(found("busybox:latest"), None);
        assert_eq!(found("localhost:5000/x"), None);
        assert_eq!(
            found("oci:/no/such/dir:v1"),
            Some(Location::OciLayout {
                path: "/no/such/dir".into(),
                tag: Some("v1".to_owned()),
                digest: None
            })
        );
        assert_eq!(
            found("docker-archive:/no/such.tar"),
            Some(Location::DockerArchive {
                path: "/no/such.tar".into(),
                tag: None
            })
        );
        assert!(explicit("oci:").is_err());
    }

    #[test]
    fn colons_of_what_is_there_belong_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().to_str().unwrap();
        std::fs::create_dir(directory.path().join("a:b")).unwrap();
        let split = |text: &str| {
            let (path, tag) = path_and_tag(&format!("{base}/{text}"));
            let path = path
                .strip_prefix(base)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            (path, tag.unwrap_or_default())
        };
        let pair = |path: &str, tag: &str| (path.to_owned(), tag.to_owned());
        assert_eq!(split("a:b"), pair("a:b", ""));
        assert_eq!(split("a:b:v1"), pair("a:b", "v1"));
        assert_eq!(split("a:b:host:5000/x:v1"), pair("a:b", "host:5000/x:v1"));
        assert_eq!(split("none:v1"), pair("none", "v1"));
        assert_eq!(split("none:x/y"), pair("none:x/y", ""));
        assert_eq!(split("none:"), pair("none:", ""));
        let digest = Digest::of(b"x");
        let (path, tag, found) = layout(&format!("{base}/a:b:v1@{digest}")).unwrap();
        assert!(path.ends_with("a:b") && tag.as_deref() == Some("v1") && found == Some(digest));
        assert!(layout("x@sha256:12").is_err());
    }
}
