//! `docker save`'s archives: `manifest.json` lists configs and layers by their names in the archive. Digests of the
//! layers are nowhere: everything is brought into the store at once, and a manifest is made for it.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rbuild_cache::{Digest, Store};
use serde::Deserialize;

use super::{Archived, Location, Opened, Resolved, blocking, walk};
use crate::archive::{TarIndex, read_small};
use crate::compression::{Detected, MAGIC_LENGTH, detect};
use crate::error::{Error, Result, shown};
use crate::manifest::{
    CONFIG_LIMIT_BYTES, DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, DOCUMENT_LIMIT_BYTES,
    Descriptor, Manifest,
};
use crate::reference::Reference;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// Brings an image of the archive into the store. `index` is of the archive, where it was looked through already.
pub(super) async fn resolve(
    store: &Arc<Store>,
    path: &Path,
    tag: Option<&str>,
    index: Option<Arc<TarIndex>>,
) -> Result<Resolved> {
    let location = Location::DockerArchive {
        path: path.to_owned(),
        tag: tag.map(str::to_owned),
    };
    let (store, path) = (Arc::clone(store), path.to_owned());
    let tag = tag.map(str::to_owned);
    let found = blocking(move || {
        let index = match index {
            Some(index) => index,
            None => Arc::new(TarIndex::open(&store, &path)?),
        };
        import(&store, &index, tag.as_deref())
    });
    Ok(Resolved {
        location,
        ..found.await?
    })
}

fn import(store: &Store, index: &TarIndex, tag: Option<&str>) -> Result<Resolved> {
    let item = pick(index, items(index)?, tag)?;
    let config_bytes = small(index, &item.config, CONFIG_LIMIT_BYTES)?;
    let config_digest = Digest::of(&config_bytes);
    verify_name(&item.config, &config_digest)?;
    let mut layers = Vec::new();
    // Empty ones may be one file many times.
    let mut known: HashMap<String, Descriptor> = HashMap::new();
    for name in item.layers.unwrap_or_default() {
        let descriptor = match known.get(&name) {
            Some(descriptor) => descriptor.clone(),
            None => layer(store, index, &name)?,
        };
        known.insert(name, descriptor.clone());
        layers.push(descriptor);
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(DOCKER_MANIFEST.to_owned()),
        config: Descriptor::new(DOCKER_CONFIG, config_digest, config_bytes.len() as u64),
        layers,
        annotations: None,
    };
    let config = walk::parse_config(&config_bytes, &manifest)?;
    store.put_blob(&config_bytes)?;
    let bytes = serde_json::to_vec(&manifest).map_err(|error| Error::BadDocument {
        document: index.what().to_owned(),
        reason: error.to_string(),
    })?;
    let digest = store.put_blob(&bytes)?;
    let descriptor = Descriptor::new(DOCKER_MANIFEST, digest, bytes.len() as u64);
    Ok(Resolved {
        location: Location::Stored(digest),
        digest,
        root: descriptor.clone(),
        indexes: Vec::new(),
        descriptor,
        manifest,
        platform: config.platform(),
        config,
    })
}

/// What the archive holds.
pub(super) fn list(index: &Arc<TarIndex>, path: &Path) -> Result<Vec<Archived>> {
    let archived = |item: Item| {
        let names = item.repo_tags.iter().flatten();
        let names = names.filter_map(|name| Some(name.parse::<Reference>().ok()?.canonical()));
        let bytes = small(index, &item.config, CONFIG_LIMIT_BYTES)?;
        Ok(Archived {
            location: Location::DockerArchive {
                path: path.to_owned(),
                tag: Some(Digest::of(&bytes).to_string()),
            },
            names: names.collect(),
            opened: Opened::Docker(Arc::clone(index)),
        })
    };
    items(index)?.into_iter().map(archived).collect()
}

fn items(index: &TarIndex) -> Result<Vec<Item>> {
    let bytes = small(index, "manifest.json", DOCUMENT_LIMIT_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|error| Error::BadDocument {
        document: format!("{}/manifest.json", index.what()),
        reason: error.to_string(),
    })
}

fn small(index: &TarIndex, name: &str, limit: u64) -> Result<Vec<u8>> {
    let (reader, size) = index.file(name.as_bytes())?;
    let what = format!("{}/{}", index.what(), shown(name.as_bytes()));
    read_small(reader, size, limit, &what)
}

/// The image of a tag (written alone or as a whole name), or the only one there is.
fn pick(index: &TarIndex, items: Vec<Item>, tag: Option<&str>) -> Result<Item> {
    let what = index.what();
    if let Some(digest) = tag.and_then(|tag| tag.parse::<Digest>().ok()) {
        for item in items {
            let bytes = small(index, &item.config, CONFIG_LIMIT_BYTES)?;
            if Digest::of(&bytes) == digest {
                return Ok(item);
            }
        }
        return Err(Error::NotFound(format!("{what}@{digest}")));
    }
    let known: Vec<String> = items
        .iter()
        .flat_map(|item| item.repo_tags.iter().flatten())
        .take(20)
        .map(|name| shown(name.as_bytes()))
        .collect();
    let known = if known.is_empty() {
        "no names".to_owned()
    } else {
        known.join(", ")
    };
    let mut found: Vec<Item> = items
        .into_iter()
        .filter(|item| tag.is_none_or(|tag| has_tag(item, tag)))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(item), true) => Ok(item),
        (None, _) => Err(Error::NotInLayout {
            name: format!("{what}:{}", shown(tag.unwrap_or_default().as_bytes())),
            known,
        }),
        (Some(_), false) => Err(Error::BadDocument {
            document: format!("the name of an image in {what}"),
            reason: format!("there are several; add a tag: {known}"),
        }),
    }
}

fn has_tag(item: &Item, tag: &str) -> bool {
    let wanted = tag
        .parse::<Reference>()
        .ok()
        .map(|reference| reference.canonical());
    item.repo_tags.iter().flatten().any(|name| {
        let canonical = name
            .parse::<Reference>()
            .ok()
            .map(|reference| reference.canonical());
        name == tag
            || name
                .strip_suffix(tag)
                .is_some_and(|rest| rest.ends_with(':'))
            || (wanted.is_some() && canonical == wanted)
    })
}

/// A config's file is named after its digest: `HEX.json` or `blobs/sha256/HEX`.
fn verify_name(name: &str, digest: &Digest) -> Result<()> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let stem = last.strip_suffix(".json").unwrap_or(last);
    let named: Result<Digest, _> = format!("sha256:{stem}").parse();
    match named {
        Ok(named) if named != *digest => Err(Error::BadDocument {
            document: shown(name.as_bytes()),
            reason: format!("its digest is {digest}"),
        }),
        _ => Ok(()),
    }
}

fn layer(store: &Store, index: &TarIndex, name: &str) -> Result<Descriptor> {
    let (mut reader, size) = index.file(name.as_bytes())?;
    let mut start = Vec::new();
    let unreadable = |source| Error::Io {
        action: "read the layer",
        path: format!("{}/{}", index.what(), shown(name.as_bytes())),
        source,
    };
    Read::take(&mut reader, MAGIC_LENGTH as u64)
        .read_to_end(&mut start)
        .map_err(unreadable)?;
    let media_type = match detect(&start) {
        Detected::Gzip => DOCKER_LAYER,
        Detected::Zstd => "application/vnd.docker.image.rootfs.diff.tar.zstd",
        _ => "application/vnd.docker.image.rootfs.diff.tar",
    };
    let mut ingest = store.ingest()?;
    ingest.write_from(&mut start.as_slice().chain(reader), size)?;
    let (digest, size) = ingest.commit(None, Some(size))?;
    Ok(Descriptor::new(media_type, digest, size))
}
