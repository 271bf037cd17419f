//! What of the content store an image needs, and OCI layouts of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use rbuild_cache::whole::WholeFile;
use rbuild_cache::{Digest, Store};

use super::sink::{Verifying, unwritable};
use crate::error::{Error, Result};
use crate::manifest::{
    CONTAINERD_NAME, DOCUMENT_LIMIT_BYTES, Descriptor, Document, INDEX_DEPTH_LIMIT, Index,
    Manifest, OCI_INDEX, REF_NAME,
};
use crate::reference::Reference;

pub(super) const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The images below a manifest or index.
pub(super) fn manifests(store: &Store, root: &Descriptor) -> Result<Vec<(Descriptor, Manifest)>> {
    let mut found = Vec::new();
    visit(store, root, &mut |descriptor, document| {
        if let Document::Manifest(manifest) = document {
            found.push((descriptor.clone(), manifest.as_ref().clone()));
        }
    })?;
    Ok(found)
}

/// All blobs below some roots, the roots too; sorted.
pub(super) fn needed(store: &Store, roots: &[Descriptor]) -> Result<Vec<Digest>> {
    let mut needed = BTreeSet::new();
    for root in roots {
        visit(store, root, &mut |descriptor, document| {
            needed.insert(descriptor.digest);
            if let Document::Manifest(manifest) = document {
                needed.insert(manifest.config.digest);
                needed.extend(manifest.layers.iter().map(|layer| layer.digest));
            }
        })?;
    }
    Ok(needed.into_iter().collect())
}

/// Each document below a root once, those of an index in its order.
fn visit(
    store: &Store,
    root: &Descriptor,
    each: &mut dyn FnMut(&Descriptor, &Document),
) -> Result<()> {
    let mut seen = BTreeSet::from([root.digest]);
    let mut queue = VecDeque::from([(root.clone(), 0)]);
    while let Some((descriptor, depth)) = queue.pop_front() {
        let bytes = store.read_blob(&descriptor.digest, DOCUMENT_LIMIT_BYTES)?;
        let name = descriptor.digest.to_string();
        let document = Document::parse(&bytes, &descriptor.media_type, &name)?;
        each(&descriptor, &document);
        let Document::Index(index) = document else {
            continue;
        };
        if depth >= INDEX_DEPTH_LIMIT {
            return Err(Error::BadDocument {
                document: name,
                reason: "indexes are nested too deep".to_owned(),
            });
        }
        for child in index.manifests {
            // Images that were pulled for one platform lack the others. The index goes out unchanged.
            if seen.insert(child.digest) && store.has_blob(&child.digest) {
                queue.push_back((child, depth + 1));
            }
        }
    }
    Ok(())
}

/// One entry for each name; one without, where an image has no name.
pub(super) fn named(root: &Descriptor, names: &[String]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![root.clone()];
    }
    let with_name = |name: &String| {
        let mut annotations = root.annotations.clone().unwrap_or_default();
        match name.parse::<Reference>() {
            Ok(reference) => {
                annotations.insert(CONTAINERD_NAME.to_owned(), reference.canonical());
                if let Some(tag) = reference.tag_or_default() {
                    annotations.insert(REF_NAME.to_owned(), tag.to_owned());
                }
            }
            // Any name may stand in a layout.
            Err(_) => {
                annotations.insert(REF_NAME.to_owned(), name.clone());
            }
        }
        Descriptor {
            annotations: Some(annotations),
            ..root.clone()
        }
    };
    names.iter().map(with_name).collect()
}

/// `index.json` of a layout.
pub(super) fn index(images: &[(Descriptor, Vec<String>)]) -> Result<Vec<u8>> {
    encode(&Index {
        schema_version: 2,
        media_type: Some(OCI_INDEX.to_owned()),
        manifests: images
            .iter()
            .flat_map(|(root, names)| named(root, names))
            .collect(),
        annotations: None,
    })
}

fn encode(index: &Index) -> Result<Vec<u8>> {
    serde_json::to_vec(index).map_err(|error| Error::BadDocument {
        document: "index.json".to_owned(),
        reason: error.to_string(),
    })
}

/// Adds an image to a layout directory. The index is written last, in one step: readers see the layout before or
/// after, and what fails leaves at most blobs that nothing names.
pub(super) fn write_directory(
    store: &Store,
    root: &Descriptor,
    names: &[String],
    directory: &Path,
) -> Result<()> {
    for digest in needed(store, std::slice::from_ref(root))? {
        copy_blob(store, &digest, directory)?;
    }
    let _turn = lock(directory).map_err(unwritable(&directory.display().to_string()))?;
    add_names(directory, named(root, names))
}

/// Copies one blob into a layout directory, unless it is there.
pub(crate) fn copy_blob(store: &Store, digest: &Digest, directory: &Path) -> Result<()> {
    let what = directory.display().to_string();
    let blobs = directory.join("blobs/sha256");
    let to = blobs.join(digest.hex());
    let mut blob = Verifying::open(store, digest)?;
    let there = std::fs::symlink_metadata(&to);
    if there.is_ok_and(|metadata| metadata.is_file() && metadata.len() == blob.size) {
        return Ok(());
    }
    std::fs::create_dir_all(&blobs).map_err(unwritable(&what))?;
    let mut file = WholeFile::at(&to, 0o666).map_err(unwritable(&what))?;
    if store.is_own_blob(digest) {
        std::io::copy(&mut blob.file, file.file()).map_err(unwritable(&what))?;
    } else {
        std::io::copy(&mut blob, &mut file).map_err(unwritable(&what))?;
        blob.verify()?;
    }
    file.finish().map_err(unwritable(&what))
}

/// Reads a blob once and holds it against its digest.
pub(crate) fn verify_blob(store: &Store, digest: &Digest) -> Result<()> {
    let mut blob = Verifying::open(store, digest)?;
    let what = digest.to_string();
    std::io::copy(&mut blob, &mut std::io::sink()).map_err(unwritable(&what))?;
    blob.verify()
}

/// Waits until nobody else changes the index of a layout directory; others wait until what is returned is dropped.
pub(crate) fn lock(directory: &Path) -> std::io::Result<std::fs::File> {
    let file = std::fs::File::open(directory)?;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(|()| file).map_err(Into::into),
        }
    }
}

/// Whether the index of a layout directory names a document.
pub(crate) fn is_named(directory: &Path, digest: &Digest) -> Result<bool> {
    let index = index_of(directory)?;
    Ok(index.is_some_and(|index| index.manifests.iter().any(|known| known.digest == *digest)))
}

/// Names documents in the index of a layout directory. To be called with [`lock`] held.
pub(crate) fn add_names(directory: &Path, named: Vec<Descriptor>) -> Result<()> {
    let what = directory.display().to_string();
    replace(directory, "oci-layout", OCI_LAYOUT).map_err(unwritable(&what))?;
    let index = merged(directory, named)?;
    replace(directory, "index.json", &index).map_err(unwritable(&what))
}

fn replace(directory: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = WholeFile::at(&directory.join(name), 0o666)?;
    file.write_all(bytes)?;
    file.finish()
}

/// The index that is there; `None` where there is none.
fn index_of(directory: &Path) -> Result<Option<Index>> {
    let path = directory.join("index.json");
    let what = path.display().to_string();
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unwritable(&what)(error)),
    };
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let bytes = crate::archive::read_small(file, size, DOCUMENT_LIMIT_BYTES, &what)?;
    let index = serde_json::from_slice(&bytes).map_err(|error| Error::BadDocument {
        document: what,
        reason: error.to_string(),
    })?;
    Ok(Some(index))
}

/// The index that is there, with the new entries; a name moves from what had it before.
fn merged(directory: &Path, new: Vec<Descriptor>) -> Result<Vec<u8>> {
    let mut index = index_of(directory)?.unwrap_or_else(|| Index {
        schema_version: 2,
        media_type: Some(OCI_INDEX.to_owned()),
        manifests: Vec::new(),
        annotations: None,
    });
    for descriptor in new {
        let key = name_key(&descriptor);
        index.manifests.retain(|known| match &key {
            Some(key) => name_key(known).as_ref() != Some(key),
            None => known.digest != descriptor.digest || name_key(known).is_some(),
        });
        index.manifests.push(descriptor);
    }
    encode(&index)
}

fn name_key(descriptor: &Descriptor) -> Option<BTreeMap<&str, String>> {
    let names = [CONTAINERD_NAME, REF_NAME];
    let found: BTreeMap<&str, String> = names
        .iter()
        .filter_map(|name| Some((*name, descriptor.annotation(name)?.to_owned())))
        .collect();
    (!found.is_empty()).then_some(found)
}
