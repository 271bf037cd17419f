//! An index that cannot be read any more is put away and made anew: of the rows that can still be read, and of
//! `content/`, which says by itself which blobs and named images there are.
//!
//! Results of steps whose rows are lost are made again by the next build. Whatever comes back here is looked at as
//! everything is: the check that follows hashes it.

use std::path::Path;

use rayon::prelude::*;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::FlockOperation;

use super::Finding;
use crate::digest::Digest;
use crate::error::{Error, IndexContext as _, IoContext as _};
use crate::images::StoredImage;
use crate::index;
use crate::lease;
use crate::store::{self, Result, Store};
use crate::synced;

/// A manifest is no larger.
const DOCUMENT_LIMIT: u64 = 4 << 20;

/// Makes the index anew; says what could not be saved.
pub(super) fn rebuild(root: &Path) -> Result<Vec<Finding>> {
    store::make_directories(root)?;
    let setup = store::lock_file(&root.join("locks/setup"), FlockOperation::LockExclusive)?;
    if lease::oldest_living(root)?.is_some() {
        return Err(Error::damaged(
            "the store's index",
            "other processes use it: it can be made anew when they have ended",
        ));
    }
    // It is forgotten with the old index.
    let synced = synced::epoch(root, &index::boot()?);
    let quarantine = root.join("quarantine");
    std::fs::create_dir_all(&quarantine).at("create", &quarantine)?;
    let old = quarantine.join(format!("index.db-{}", lease::random_word()?));
    for suffix in ["", "-wal", "-shm"] {
        let from = root.join(format!("index.db{suffix}"));
        let mut to = old.clone().into_os_string();
        to.push(suffix);
        match rustix::fs::rename(&from, Path::new(&to)) {
            Err(rustix::io::Errno::NOENT) => {}
            result => result.at("put away", &from)?,
        }
    }
    let Some(mut connection) = index::open(root, true)? else {
        return Err(Error::damaged(
            "the store's index",
            "it could not be made anew",
        ));
    };
    salvage(&old, &mut connection)?;
    let action = "make the index anew";
    index::durably(&mut connection, action, |transaction| {
        index::unmark(transaction, synced).doing(action)?;
        index::begin_epoch_beyond_marks(transaction).doing(action)?;
        index::drop_dangling(transaction)
    })?;
    drop(connection);
    drop(setup);
    recover(&Store::open(root)?)
}

/// Gives an index that knows nothing of them the blobs and the named images that `content/` has; says what could not
/// be saved.
pub(crate) fn recover(store: &Store) -> Result<Vec<Finding>> {
    find_blobs(store)?;
    name_images(store)
}

/// Takes over the rows that can be read, from both ends of each table.
fn salvage(old: &Path, connection: &mut Connection) -> Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let Ok(from) = Connection::open_with_flags(old, flags) else {
        return Ok(());
    };
    let action = "take over what is left of the index";
    for table in index::MARKED.iter().chain(&["containers"]) {
        let columns: Vec<String> = connection
            .prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .doing(action)?;
        let known: Vec<String> = from
            .prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .unwrap_or_default();
        let shared: Vec<String> = columns
            .into_iter()
            .filter(|column| known.contains(column))
            .collect();
        if shared.is_empty() {
            continue;
        }
        let names = shared.join(", ");
        let places = vec!["?"; shared.len()].join(", ");
        let insert = format!("INSERT OR IGNORE INTO {table} ({names}) VALUES ({places})");
        for order in ["", "ORDER BY 1 DESC"] {
            let Ok(mut select) = from.prepare(&format!("SELECT {names} FROM {table} {order}"))
            else {
                continue;
            };
            let Ok(mut rows) = select.query([]) else {
                continue;
            };
            let transaction = index::write(connection)?;
            {
                let mut insert = transaction.prepare(&insert).doing(action)?;
                // Ends where the damage begins.
                while let Ok(Some(row)) = rows.next() {
                    let values: rusqlite::Result<Vec<Value>> =
                        (0..shared.len()).map(|column| row.get(column)).collect();
                    let Ok(values) = values else { continue };
                    // What does not fit its column is no row of ours.
                    let _ = insert.execute(rusqlite::params_from_iter(values));
                }
            }
            transaction.commit().doing(action)?;
        }
    }
    Ok(())
}

/// Every file that has the name of a blob and its bytes.
fn find_blobs(store: &Store) -> Result<()> {
    let action = "take over the blobs";
    let directory = store.root().join("content/blobs/sha256");
    let whole: Vec<(Digest, u64)> = lease::names(&directory)?
        .into_par_iter()
        .filter_map(|name| {
            let (digest, length) = super::hash(&directory.join(&name)).ok()?;
            (digest.hex() == name).then_some((digest, length))
        })
        .collect();
    let mut connection = store.index();
    let transaction = index::write(&mut connection)?;
    for (digest, length) in whole {
        transaction
            .execute(
                "INSERT OR IGNORE INTO blobs (digest, size, used) VALUES (?1, ?2, ?3)",
                (digest.as_bytes(), length.cast_signed(), lease::now_ms()),
            )
            .doing(action)?;
    }
    transaction.commit().doing(action)
}

/// Names that `index.json` has and the index has not.
fn name_images(store: &Store) -> Result<Vec<Finding>> {
    let path = store.root().join("content/index.json");
    let document: serde_json::Value = std::fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let known = store.images()?;
    let mut lost = Vec::new();
    for descriptor in document["manifests"].as_array().into_iter().flatten() {
        let name = descriptor["annotations"]["org.opencontainers.image.ref.name"]
            .as_str()
            .unwrap_or_default();
        let digest = descriptor["digest"].as_str().and_then(|it| it.parse().ok());
        let Some(digest) = digest else { continue };
        if known
            .iter()
            .any(|it| it.name == name && it.manifest == digest)
        {
            continue;
        }
        match image(store, name, digest, descriptor) {
            Some(image) => store.put_image(&image)?,
            None => lost.push(Finding {
                what: format!(
                    "image {}",
                    if name.is_empty() {
                        "without a name"
                    } else {
                        name
                    }
                ),
                reason: "its layers are not in the store as blobs; build or pull it again"
                    .to_owned(),
                repaired: true,
            }),
        }
    }
    Ok(lost)
}

/// An image as its documents tell it; `None` where a blob of it is not there.
fn image(
    store: &Store,
    name: &str,
    manifest: Digest,
    descriptor: &serde_json::Value,
) -> Option<StoredImage> {
    let read = |digest: &Digest| -> Option<serde_json::Value> {
        serde_json::from_slice(&store.read_blob(digest, DOCUMENT_LIMIT).ok()?).ok()
    };
    let digest =
        |value: &serde_json::Value| -> Option<Digest> { value["digest"].as_str()?.parse().ok() };
    let mut blobs = Vec::new();
    let mut documents = vec![read(&manifest)?];
    // An index names manifests; the first one that is here says what the image is.
    for child in documents[0]["manifests"]
        .as_array()
        .cloned()
        .unwrap_or_default()
    {
        let child = digest(&child)?;
        if let Some(document) = read(&child) {
            blobs.push(child);
            documents.push(document);
        }
    }
    let mut config = None;
    for document in &documents {
        if let Some(digest) = digest(&document["config"]) {
            config.get_or_insert(digest);
            blobs.push(digest);
        }
        for layer in document["layers"].as_array().into_iter().flatten() {
            blobs.push(digest(layer)?);
        }
    }
    let all_here = blobs.iter().all(|digest| store.has_blob(digest));
    all_here.then_some(StoredImage {
        name: name.to_owned(),
        manifest,
        media_type: descriptor["mediaType"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        size: store.blob_size(&manifest).ok()?,
        config: config?,
        snapshot: None,
        blobs,
        tagged: lease::now_ms() / 1000,
    })
}
