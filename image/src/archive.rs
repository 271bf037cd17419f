//! Reading OCI layouts (directory and tar) and Docker archives: the containers, not their content. What is read
//! here is not verified yet; whoever asks for a blob compares its digest. Writing them: [`crate::export`].
//!
//! A tar is read in one pass that notes where its files are; compressed ones are decompressed to a temporary file
//! first. Names are looked up among what the pass found: nothing in an archive can name a file outside of it.

mod tar_index;

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rbuild_cache::root_dir::{Resolve, path_of};
use rbuild_cache::{Digest, RootDir, Store};

use crate::error::{Error, Result, shown};
use crate::manifest::{
    CONTAINERD_NAME, DOCUMENT_LIMIT_BYTES, Descriptor, Index, REF_NAME, own_media_type,
};
use crate::reference::Reference;
pub(crate) use tar_index::TarIndex;

/// Where a layout's files are.
#[derive(Debug)]
pub(crate) enum Layout {
    Directory {
        root: RootDir,
        what: String,
    },
    /// skopeo's `dir:` and podman's `docker-dir`: one image, whose manifest is `manifest.json`, and blobs by the
    /// digits of their digests beside it.
    Flat {
        root: RootDir,
        what: String,
        manifest: Descriptor,
    },
    Archive(TarIndex),
}

impl Layout {
    pub(crate) fn open_directory(path: &Path) -> Result<Self> {
        let what = shown(path.as_os_str().as_bytes());
        let root = RootDir::open_ambient(path).map_err(|source| Error::Io {
            action: "open the OCI layout",
            path: what.clone(),
            source,
        })?;
        let is_there = |name: &str| {
            root.exists(Path::new(name), Resolve::Beneath)
                .unwrap_or(false)
        };
        if is_there("oci-layout") || !is_there("manifest.json") || !is_there("version") {
            return Ok(Self::Directory { root, what });
        }
        let plain = Self::Directory { root, what };
        let bytes = plain.small("manifest.json", DOCUMENT_LIMIT_BYTES)?;
        let media_type = own_media_type(&bytes, plain.what())?;
        let manifest = Descriptor::new(&media_type, Digest::of(&bytes), bytes.len() as u64);
        Ok(match plain {
            Self::Directory { root, what } => Self::Flat {
                root,
                what,
                manifest,
            },
            other => other,
        })
    }

    pub(crate) fn open_archive(store: &Store, path: &Path) -> Result<Self> {
        TarIndex::open(store, path).map(Self::Archive)
    }

    pub(crate) fn what(&self) -> &str {
        match self {
            Self::Directory { what, .. } | Self::Flat { what, .. } => what,
            Self::Archive(index) => index.what(),
        }
    }

    /// A file's bytes, and how many there are. Links are not followed: a blob is a file of the layout.
    fn open(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64)> {
        match self {
            Self::Archive(index) => index.file(name.as_bytes()),
            Self::Directory { root, what } | Self::Flat { root, what, .. } => {
                let unreadable = |source: std::io::Error| match source.kind() {
                    std::io::ErrorKind::NotFound => Error::NotFound(format!("{what}/{name}")),
                    _ => Error::Io {
                        action: "read the file of an OCI layout (links in one are not followed)",
                        path: format!("{what}/{name}"),
                        source,
                    },
                };
                let file: File = root
                    .open_file_no_follow(path_of(name.as_bytes()), Resolve::Beneath)
                    .map_err(unreadable)?;
                let size = file.metadata().map_err(unreadable)?.len();
                Ok((Box::new(file), size))
            }
        }
    }

    pub(crate) fn blob(&self, digest: &Digest) -> Result<(Box<dyn Read + Send>, u64)> {
        self.open(&self.blob_name(digest))
    }

    /// Where a blob is.
    fn blob_name(&self, digest: &Digest) -> String {
        match self {
            Self::Directory { .. } | Self::Archive(_) => format!("blobs/sha256/{}", digest.hex()),
            Self::Flat { manifest, .. } if manifest.digest == *digest => "manifest.json".to_owned(),
            Self::Flat { root, .. } => {
                // Of an index, the images' manifests.
                let one = format!("{}.manifest.json", digest.hex());
                match root.exists(Path::new(&one), Resolve::Beneath) {
                    Ok(true) => one,
                    _ => digest.hex(),
                }
            }
        }
    }

    /// A small file whole.
    pub(crate) fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (reader, size) = self.open(name)?;
        read_small(reader, size, limit, &format!("{}/{name}", self.what()))
    }

    pub(crate) fn small_blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        self.small(&self.blob_name(&descriptor.digest), limit)
    }

    /// `index.json`, after `oci-layout` said that this is one.
    pub(crate) fn index(&self) -> Result<Index> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            image_layout_version: String,
        }
        if let Self::Flat { manifest, .. } = self {
            return Ok(Index {
                schema_version: 2,
                media_type: None,
                manifests: vec![manifest.clone()],
                annotations: None,
            });
        }
        let bad = |reason: String| Error::BadDocument {
            document: format!("the OCI layout {}", self.what()),
            reason,
        };
        let version = self
            .small("oci-layout", 4096)
            .map_err(|error| match error {
                Error::NotFound(_) => bad("it has no file `oci-layout`".to_owned()),
                other => other,
            })?;
        let version: Version = serde_json::from_slice(&version)
            .map_err(|error| bad(format!("oci-layout: {error}")))?;
        if !version.image_layout_version.starts_with("1.") {
            let version = shown(version.image_layout_version.as_bytes());
            return Err(bad(format!("its version is `{version}`, not 1.0.0")));
        }
        let bytes = self.small("index.json", DOCUMENT_LIMIT_BYTES)?;
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|error| bad(format!("index.json: {error}")))?;
        Ok(index)
    }

    /// The image that a tag or a digest means, or the only one there is.
    pub(crate) fn pick(&self, tag: Option<&str>, digest: Option<&Digest>) -> Result<Descriptor> {
        let index = self.index()?;
        if let Some(digest) = digest {
            if let Some(found) = index.manifests.iter().find(|m| m.digest == *digest) {
                return Ok(found.clone());
            }
            // Not listed at the top: an image of an index, for instance. Its media type is in its own bytes.
            return self.unlisted(digest);
        }
        let images: Vec<&Descriptor> = index
            .manifests
            .iter()
            .filter(|descriptor| !descriptor.is_attestation())
            .filter(|descriptor| tag.is_none_or(|tag| has_tag(descriptor, tag)))
            .collect();
        let mut digests: Vec<Digest> = images.iter().map(|image| image.digest).collect();
        digests.sort();
        digests.dedup();
        match (images.as_slice(), digests.len()) {
            ([first, ..], 1) => Ok((*first).clone()),
            ([], _) => {
                let wanted = tag.map_or(String::new(), |tag| format!(":{}", shown(tag.as_bytes())));
                Err(Error::NotInLayout {
                    name: format!("{}{wanted}", self.what()),
                    known: tags(&index),
                })
            }
            _ => Err(self.ambiguous(&index)),
        }
    }

    /// The images that the index lists, each once, with their whole names.
    pub(crate) fn images(&self) -> Result<Vec<(Digest, Vec<String>)>> {
        let mut images: Vec<(Digest, Vec<String>)> = Vec::new();
        for descriptor in &self.index()?.manifests {
            if descriptor.is_attestation() {
                continue;
            }
            let name = whole_name(descriptor);
            match images
                .iter_mut()
                .find(|(digest, _)| *digest == descriptor.digest)
            {
                Some((_, names)) => names.extend(name),
                None => images.push((descriptor.digest, name.into_iter().collect())),
            }
        }
        Ok(images)
    }

    fn ambiguous(&self, index: &Index) -> Error {
        Error::BadDocument {
            document: format!("the name of an image in {}", self.what()),
            reason: format!("there are several; add a tag or a digest: {}", tags(index)),
        }
    }

    fn unlisted(&self, digest: &Digest) -> Result<Descriptor> {
        let bytes = self.small(&self.blob_name(digest), DOCUMENT_LIMIT_BYTES)?;
        let media_type = own_media_type(&bytes, &digest.to_string())?;
        Ok(Descriptor::new(&media_type, *digest, bytes.len() as u64))
    }
}

/// Reads all of something small whose length is known.
pub(crate) fn read_small(reader: impl Read, size: u64, limit: u64, what: &str) -> Result<Vec<u8>> {
    let too_large = || Error::BadDocument {
        document: what.to_owned(),
        reason: format!("it has more than {limit} bytes"),
    };
    if size > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    reader
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Io {
            action: "read",
            path: what.to_owned(),
            source,
        })?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    Ok(bytes)
}

/// A name with a repository; a tag alone is none.
fn whole_name(descriptor: &Descriptor) -> Option<String> {
    let whole = |annotation| {
        let name = descriptor.annotation(annotation)?;
        let reference: Reference = name.parse().ok()?;
        let has_repository = annotation == CONTAINERD_NAME || name.contains(['/', ':']);
        has_repository.then(|| reference.canonical())
    };
    whole(CONTAINERD_NAME).or_else(|| whole(REF_NAME))
}

/// A tag is written alone, or as the end of a whole name, by one annotation or the other.
fn has_tag(descriptor: &Descriptor, tag: &str) -> bool {
    [REF_NAME, CONTAINERD_NAME].iter().any(|annotation| {
        descriptor.annotation(annotation).is_some_and(|name| {
            name == tag
                || name
                    .strip_suffix(tag)
                    .is_some_and(|rest| rest.ends_with(':'))
        })
    })
}

fn tags(index: &Index) -> String {
    let mut names: Vec<String> = index
        .manifests
        .iter()
        .filter_map(|descriptor| {
            let name = descriptor.annotation(REF_NAME);
            name.or_else(|| descriptor.annotation(CONTAINERD_NAME))
        })
        .take(20)
        .map(|name| shown(name.as_bytes()))
        .collect();
    if names.is_empty() {
        names.push("no names".to_owned());
    }
    names.join(", ")
}
