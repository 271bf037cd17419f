//! Cache mounts that travel: what `mounts=ID` of `--cache-to` packs, the first step that mounts it elsewhere unpacks.
//! A mount that this store has already is left as it is.

use std::path::Path;
use std::sync::Arc;

use rbuild_cache::cache_mounts::Sharing;
use rbuild_cache::root_dir::Node;
use rbuild_cache::tree::Tree;
use rbuild_cache::{KeyWriter, RootDir, Store};
use rbuild_image::layer::{in_tar, write_tree};
use rbuild_image::shared::Place;
use rbuild_image::source::Progress;
use rbuild_image::unpack;

use super::Problem;
use super::records::{HexKey, Mount};
use crate::op::CacheAccess;
use crate::worker::{blocking, now};

const ZSTD_LEVEL: i32 = 3;

/// The directories of some ids: each with those that were made for a mode or an owner.
pub(super) async fn named(store: &Arc<Store>, ids: &[String]) -> Result<Vec<String>, Problem> {
    let local = Arc::clone(store);
    let there = blocking(move || local.cache_mounts()).await;
    let there = there.map_err(|error| Problem::of(&error))?;
    let mut named: Vec<String> = Vec::new();
    for id in ids {
        let before = named.len();
        named.extend(
            there
                .iter()
                .filter(|mount| CacheAccess::is_directory_of(&mount.id, id))
                .map(|mount| mount.id.clone()),
        );
        if named.len() == before {
            named.push(id.clone());
        }
    }
    named.dedup();
    Ok(named)
}

/// Packs a mount into a blob of the store, unless it is what `known` says. `None` then, and where there is no such
/// mount.
pub(super) async fn pack(
    store: &Arc<Store>,
    id: &str,
    known: Option<HexKey>,
) -> Result<Packed, Problem> {
    let (store, id) = (Arc::clone(store), id.to_owned());
    blocking(move || {
        let has = store.has_cache_mount(&id);
        if !has.map_err(|error| Problem::of(&error))? {
            return Ok(Packed::Missing);
        }
        let mount = store
            .cache_mount(&id, Sharing::Locked)
            .map_err(|error| Problem::of(&error))?;
        // Collected meanwhile.
        if mount.is_new() {
            return Ok(Packed::Missing);
        }
        let root = RootDir::open_ambient(mount.path()).map_err(|error| Problem::of(&error))?;
        let tree = Tree::scan(std::os::fd::AsFd::as_fd(&root));
        let tree = in_tar(&tree.map_err(|error| Problem::of(&error))?);
        let top = tree.get(b"");
        // With times: programs compare them.
        let content = KeyWriter::new("cache-mount.v1").field("tree", tree.encode());
        let content = HexKey(content.finish());
        if known == Some(content) {
            return Ok(Packed::Same);
        }
        let ingest = store.ingest().map_err(|error| Problem::of(&error))?;
        let mut encoder =
            zstd::Encoder::new(ingest, ZSTD_LEVEL).map_err(|error| Problem::of(&error))?;
        write_tree(&root, &tree, &mut encoder).map_err(|error| Problem::of(&error))?;
        let ingest = encoder.finish().map_err(|error| Problem::of(&error))?;
        let (digest, size) = ingest
            .commit(None, None)
            .map_err(|error| Problem::of(&error))?;
        Ok(Packed::New(Mount {
            id,
            content,
            digest,
            size,
            created: now(),
            mode: top.map_or(0o755, |top| top.mode),
            uid: top.map_or(0, |top| top.uid),
            gid: top.map_or(0, |top| top.gid),
        }))
    })
    .await
}

pub(super) enum Packed {
    /// There is no such mount.
    Missing,
    Same,
    New(Mount),
}

/// Fills a mount that this store does not have.
pub(super) async fn unpack(
    store: &Arc<Store>,
    place: &Place,
    mount: &Mount,
    progress: &Progress,
) -> Result<(), Problem> {
    let id = mount.id.clone();
    let local = Arc::clone(store);
    let has = blocking(move || local.has_cache_mount(&id)).await;
    if has.map_err(|error| Problem::of(&error))? {
        return Ok(());
    }
    place
        .bring(store, &mount.descriptor(), progress)
        .await
        .map_err(|error| Problem::of(&error))?;
    let (store, mount) = (Arc::clone(store), mount.clone());
    blocking(move || {
        let taken = store
            .cache_mount(&mount.id, Sharing::Locked)
            .map_err(|error| Problem::of(&error))?;
        if !taken.is_new() {
            return Ok(());
        }
        let root = RootDir::open_ambient(taken.path()).map_err(|error| Problem::of(&error))?;
        let mut blob = store
            .open_blob(&mount.digest)
            .map_err(|error| Problem::of(&error))?;
        unpack::archive(&mut blob, &root, Path::new("/"), None)
            .map_err(|error| Problem::of(&error))?;
        let top = std::os::fd::AsFd::as_fd(&root).try_clone_to_owned();
        let top = Node::from_fd(top.map_err(|error| Problem::of(&error))?);
        // Where there is one id only, owners are not to be had.
        let _ = top.set_owner(mount.uid, mount.gid);
        top.set_mode(mount.mode & 0o7777)
            .and_then(|()| taken.filled().map_err(std::io::Error::other))
            .map_err(|error| Problem::of(&error))
    })
    .await
}
