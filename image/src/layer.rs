//! A snapshot's own files as a layer: canonical tar → diff ID → compressor → digest → blob, in one pass.
//! The bytes are a function of the content: sorted entries, PAX records only where needed, no names of users,
//! whole seconds. Whiteouts and opaque directories are written as OCI layer.md says. Sockets are left out, as every
//! builder does: a tar cannot hold them.
//!
//! The order of entries and what is written of each: `entries`; the threads in between: `pipeline`; several snapshots
//! in one layer: `merged`; files that no snapshot has: `pack`; a layer in another compression: `repack`.

mod entries;
mod merged;
mod pack;
mod pipeline;
mod repack;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rbuild_cache::ids::Crossing;
use rbuild_cache::root_dir::{Resolve, path_of};
use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::tree::{Entry, Kind, Tree};
use rbuild_cache::{DiffId, RootDir, SnapshotId, Store};

use crate::compression::{Compression, Compressor};
use crate::error::{Error, Result, shown};
use crate::export::Root;
use crate::manifest::{DOCKER_LAYER, OCI_LAYER};
use crate::tarfile::writer::Writer;
use entries::{Archive, EntryWriter};
pub use merged::merged;
pub use pack::{Files, FilesReader, pack};

/// What decides over a layer's bytes, besides the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerOptions {
    pub compression: Compression,
    /// OCI or Docker media types.
    pub oci_media_types: bool,
    /// Times later than this (Unix seconds) become this (`rewrite-timestamp` with SOURCE_DATE_EPOCH).
    pub clamp_mtime: Option<i64>,
}

/// The variant under which the blob that a snapshot was unpacked from is known.
pub const IMAGE_VARIANT: &str = "image";

/// Layers of less than this are not worth threads.
const SMALL_LAYER_BYTES: u64 = 1 << 20;

impl LayerOptions {
    /// Names everything that the blob's bytes depend on, besides the snapshot.
    pub fn variant(&self) -> String {
        let mut variant = match self.compression {
            Compression::Gzip { level } => format!("tar1.gz{level}.2"),
            Compression::Zstd { level } => format!("tar1.zstd{level}"),
            Compression::None => "tar1".to_owned(),
        };
        if let Some(time) = self.clamp_mtime {
            variant.push_str(&format!(".clamp{time}"));
        }
        variant
    }

    fn media_type(&self) -> &'static str {
        let (in_oci, in_docker) = match self.compression {
            Compression::Gzip { .. } => GZIP,
            Compression::Zstd { .. } => ZSTD,
            Compression::None => UNCOMPRESSED,
        };
        if self.oci_media_types {
            in_oci
        } else {
            in_docker
        }
    }
}

/// Media types of layers: OCI's (layer.md), and what Docker's tools call the same.
const GZIP: (&str, &str) = ("application/vnd.oci.image.layer.v1.tar+gzip", DOCKER_LAYER);
const ZSTD: (&str, &str) = (
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
);
const UNCOMPRESSED: (&str, &str) = (OCI_LAYER, "application/vnd.docker.image.rootfs.diff.tar");

/// The same layer's media type in the other family.
pub(crate) fn media_type_in(media_type: &str, oci: bool) -> String {
    [GZIP, ZSTD, UNCOMPRESSED]
        .into_iter()
        .find(|(in_oci, in_docker)| media_type == *in_oci || media_type == *in_docker)
        .map_or(
            media_type,
            |(in_oci, in_docker)| if oci { in_oci } else { in_docker },
        )
        .to_owned()
}

/// Returns the layer of a snapshot, made if it is not known yet. A snapshot unpacked from an image keeps the blob it
/// came from, unless `force` asks for other options. Blocking.
pub fn layer(
    store: &Store,
    snapshot: &SnapshotId,
    options: &LayerOptions,
    force: bool,
) -> Result<LayerBlob> {
    layer_while(store, snapshot, options, force, &AtomicBool::new(true))
}

/// The layer of a snapshot, of those that are known of it ([`Store::layer_blobs`]); as [`layer`] without making one.
pub fn of_known(
    known: &[(String, LayerBlob)],
    options: &LayerOptions,
    force: bool,
) -> Option<LayerBlob> {
    let of = |variant: &str| known.iter().find(|(name, _)| name == variant);
    if !force && let Some((_, blob)) = of(IMAGE_VARIANT) {
        let mut blob = blob.clone();
        blob.media_type = media_type_in(&blob.media_type, options.oci_media_types);
        return Some(blob);
    }
    let (_, blob) = of(&options.variant())?;
    let mut blob = blob.clone();
    options.media_type().clone_into(&mut blob.media_type);
    Some(blob)
}

/// As [`layer`]; ends with an error, and leaves nothing, soon after it is not wanted any more.
pub fn layer_while(
    store: &Store,
    snapshot: &SnapshotId,
    options: &LayerOptions,
    force: bool,
    wanted: &AtomicBool,
) -> Result<LayerBlob> {
    if !force && let Some(mut blob) = store.layer_blob(snapshot, IMAGE_VARIANT)? {
        blob.media_type = media_type_in(&blob.media_type, options.oci_media_types);
        return Ok(blob);
    }
    let variant = options.variant();
    let mut blob = match store.layer_blob(snapshot, &variant)? {
        Some(blob) => blob,
        None => {
            let blob = make(store, snapshot, options, wanted)?;
            store.set_layer_blob(snapshot, &variant, &blob)?;
            blob
        }
    };
    options.media_type().clone_into(&mut blob.media_type);
    Ok(blob)
}

/// As [`layer`], and the blob is in the store: one that is gone is made again. Returns how its bytes were made, too.
/// `from_image` lets a snapshot keep the blob that it was unpacked from. Blocking.
pub fn layer_here(
    store: &Store,
    snapshot: &SnapshotId,
    options: &LayerOptions,
    from_image: bool,
) -> Result<(LayerBlob, String)> {
    if from_image
        && let Some(mut blob) = store.layer_blob(snapshot, IMAGE_VARIANT)?
        && store.has_blob(&blob.digest)
    {
        blob.media_type = media_type_in(&blob.media_type, options.oci_media_types);
        return Ok((blob, IMAGE_VARIANT.to_owned()));
    }
    let variant = options.variant();
    let known = store.layer_blob(snapshot, &variant)?;
    let mut blob = match known.filter(|blob| store.has_blob(&blob.digest)) {
        Some(blob) => blob,
        None => {
            let blob = make(store, snapshot, options, &AtomicBool::new(true))?;
            store.set_layer_blob(snapshot, &variant, &blob)?;
            blob
        }
    };
    options.media_type().clone_into(&mut blob.media_type);
    Ok((blob, variant))
}

/// Fails where a layer cannot hold a tree: its names that begin with `.wh.` would mean removals.
pub fn require_names(tree: &Tree) -> Result<()> {
    let mut held = tree.entries.iter().filter(|it| it.kind != Kind::Socket);
    held.try_for_each(entries::require_name)
}

/// What of a tree a tar can hold: all but sockets.
pub fn in_tar(tree: &Tree) -> Tree {
    let held = |entry: &&Entry| entry.kind != Kind::Socket;
    Tree {
        entries: tree.entries.iter().filter(held).cloned().collect(),
    }
}

/// What a snapshot's files are when they were a layer and are unpacked again: without sockets, and the root as any
/// directory that nobody spoke of.
pub fn in_layer(tree: &Tree) -> Tree {
    let mut tree = in_tar(tree);
    if let Some(root) = tree.entries.first_mut().filter(|it| it.path.is_empty()) {
        *root = Entry {
            mode: 0o755,
            mtime: root.mtime,
            opaque: root.opaque,
            ..Entry::new(Vec::new(), Kind::Directory)
        };
    }
    tree
}

/// Fails when nobody wants any more what is written to it.
struct WhileWanted<'a> {
    output: &'a mut dyn Write,
    wanted: &'a AtomicBool,
}

impl Write for WhileWanted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !self.wanted.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("it was cancelled"));
        }
        self.output.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.flush()
    }
}

fn make(
    store: &Store,
    snapshot: &SnapshotId,
    options: &LayerOptions,
    wanted: &AtomicBool,
) -> Result<LayerBlob> {
    if let Some(blob) = repack::repack(store, snapshot, options)? {
        return Ok(blob);
    }
    let tree = store.tree(snapshot)?;
    let root = open_root(store, snapshot)?;
    let total: u64 = tree.entries.iter().map(|entry| entry.size).sum();
    let write = |output: &mut dyn Write| -> Result<()> {
        let output = Writer::new(WhileWanted { output, wanted });
        let mut entries = EntryWriter::new(output, options.clamp_mtime, Archive::Layer);
        for entry in &tree.entries {
            entries.write(entry, &root, 0)?;
        }
        entries.finish()
    };
    write_blob(store, snapshot.as_str(), options, total, write)
}

/// Runs `write` into a blob, by way of the compressor.
fn write_blob(
    store: &Store,
    snapshot: &str,
    options: &LayerOptions,
    total_bytes: u64,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<LayerBlob> {
    let ingest = store.ingest()?;
    let unwritable = |source| Error::Io {
        action: "write the layer of snapshot",
        path: snapshot.to_owned(),
        source,
    };
    let compressor = Compressor::new(options.compression, ingest).map_err(unwritable)?;
    let threads = total_bytes >= SMALL_LAYER_BYTES;
    let (compressor, diff_id) = pipeline::run(compressor, threads, write)?;
    let ingest = compressor.finish().map_err(unwritable)?;
    let (digest, size) = ingest.commit(None, None)?;
    Ok(LayerBlob {
        digest,
        size,
        media_type: options.media_type().to_owned(),
        diff_id: DiffId(diff_id.unwrap_or(digest)),
    })
}

fn open_root(store: &Store, snapshot: &SnapshotId) -> Result<RootDir> {
    let path = store.snapshot_directory(snapshot)?;
    RootDir::open_ambient(&path).map_err(|source| Error::Io {
        action: "open the snapshot",
        path: shown(path.as_os_str().as_encoded_bytes()),
        source,
    })
}

/// Writes the merged views of chains as a plain tar (for `type=tar`).
pub(crate) fn write_roots(store: &Store, roots: &[Root<'_>], to: &mut dyn Write) -> Result<()> {
    let mut entries = EntryWriter::new(Writer::new(to), None, Archive::Files);
    for root in roots {
        entries.begin(root.directory.as_deref(), root.epoch)?;
        if let Some(snapshot) = root.snapshot {
            let view = View::open(store, snapshot)?;
            let tree = store.merged_tree(snapshot)?;
            for entry in tree.entries.iter().filter(|entry| !entry.path.is_empty()) {
                let (own, root, number) = view.find(entry)?;
                entries.write(own, root, number)?;
            }
        }
        for (name, bytes) in &root.documents {
            entries.document(name, bytes)?;
        }
    }
    entries.finish()
}

/// Writes what a directory holds as a plain tar, read as it is now (for cache mounts).
pub fn write_directory(root: &RootDir, to: &mut dyn Write) -> Result<()> {
    write_tree(root, &Tree::scan(root.as_fd())?, to)
}

/// As [`write_directory`], of what a scan of it found.
pub fn write_tree(root: &RootDir, tree: &Tree, to: &mut dyn Write) -> Result<()> {
    let mut entries = EntryWriter::new(Writer::new(to), None, Archive::Files);
    for entry in &tree.entries {
        entries.write(entry, root, 0)?;
    }
    entries.finish()
}

/// Writes what is at `path` in a root, a directory with all that is in it, as a plain tar under another name. The link
/// at the end of the path is not followed. Read as it is now.
pub fn write_node(
    root: &RootDir,
    path: &Path,
    name: &[u8],
    crossing: Crossing<'_>,
    to: &mut dyn Write,
) -> Result<()> {
    let failed = |error| Error::Io {
        action: "read",
        path: shown(path.as_os_str().as_encoded_bytes()),
        source: error,
    };
    let writer = Writer::new(to);
    let found = root.metadata(path, Resolve::InRoot).map_err(failed)?;
    if found.kind == Kind::Directory {
        let directory = root.directory(path, Resolve::InRoot).map_err(failed)?;
        let mut tree = Tree::scan(directory.as_fd())?;
        let mut entries = EntryWriter::new(writer, None, Archive::Files).below(name.to_vec());
        for entry in &mut tree.entries {
            let owner = crossing.owner((entry.uid, entry.gid));
            (entry.uid, entry.gid) = owner.unwrap_or((entry.uid, entry.gid));
            for (name, value) in &mut entry.xattrs {
                *value = crossing.attribute(name, value).into_owned();
            }
            entries.write(entry, &directory, 0)?;
        }
        return entries.finish();
    }
    let place = root.place(path, Resolve::InRoot).map_err(failed)?;
    let owner = crossing.owner((found.uid, found.gid));
    let (uid, gid) = owner.unwrap_or((found.uid, found.gid));
    let mut header = crate::tarfile::writer::Header {
        path: name,
        kind: match found.kind {
            Kind::Symlink => crate::tarfile::Kind::Symlink,
            Kind::CharDevice | Kind::Whiteout => crate::tarfile::Kind::CharDevice,
            Kind::BlockDevice => crate::tarfile::Kind::BlockDevice,
            Kind::Fifo | Kind::Socket => crate::tarfile::Kind::Fifo,
            _ => crate::tarfile::Kind::File,
        },
        mode: found.mode,
        uid,
        gid,
        mtime: found.mtime.0,
        link: b"",
        device: (
            rustix::fs::major(found.device),
            rustix::fs::minor(found.device),
        ),
        size: 0,
        xattrs: &[],
    };
    let unwritable = |error| Error::Io {
        action: "write",
        path: "the archive".to_owned(),
        source: error,
    };
    let mut writer = writer;
    match header.kind {
        crate::tarfile::Kind::File => {
            let mut file = place.open_file().map_err(failed)?;
            header.size = file.metadata().map_err(failed)?.len();
            writer.header(&header).map_err(unwritable)?;
            writer.data(&mut file, header.size).map_err(unwritable)?;
        }
        crate::tarfile::Kind::Symlink => {
            let target = root.read_link(path, Resolve::InRoot).map_err(failed)?;
            header.link = target.as_os_str().as_encoded_bytes();
            writer.header(&header).map_err(unwritable)?;
        }
        _ => writer.header(&header).map_err(unwritable)?,
    }
    writer.finish().map(drop).map_err(unwritable)
}

/// A chain, and which of its snapshots holds what of the merged view.
pub struct View {
    /// Top first.
    layers: Vec<(std::sync::Arc<Tree>, RootDir)>,
}

impl View {
    /// Of a chain whose layers are unpacked.
    pub fn open(store: &Store, snapshot: &SnapshotId) -> Result<Self> {
        let chain = store.chain(snapshot)?;
        let open = |link: &rbuild_cache::Snapshot| {
            Ok((store.tree(&link.id)?, open_root(store, &link.id)?))
        };
        Ok(Self {
            layers: chain.iter().rev().map(open).collect::<Result<_>>()?,
        })
    }

    /// Opens a regular file of the merged view for reading.
    pub fn open_file(&self, entry: &rbuild_cache::tree::Entry) -> Result<File> {
        let (_, root, _) = self.find(entry)?;
        root.open_file_no_follow(path_of(&entry.path), Resolve::Beneath)
            .map_err(|source| Error::Io {
                action: "read",
                path: shown(&entry.path),
                source,
            })
    }

    /// The entry as the topmost snapshot that has it knows it, that snapshot's directory, and its place in the
    /// chain: hard links are such within one snapshot only.
    pub(crate) fn find(
        &self,
        entry: &rbuild_cache::tree::Entry,
    ) -> Result<(&rbuild_cache::tree::Entry, &RootDir, usize)> {
        self.layers
            .iter()
            .enumerate()
            .find_map(|(number, (tree, root))| {
                let own = tree.get(&entry.path)?;
                (own.kind != Kind::Whiteout).then_some((own, root, number))
            })
            .ok_or_else(|| Error::BadArchive {
                what: format!("`{}`", shown(&entry.path)),
                reason: "no snapshot of the chain has it; run `rbuild store check`".to_owned(),
            })
    }
}

/// Which path of a hard-linked file was met first, by snapshot and number.
type FirstNames = HashMap<(usize, u32), Vec<u8>>;
