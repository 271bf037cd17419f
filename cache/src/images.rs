//! Image names, and which images the store keeps; and `content/index.json`, by which other tools find them.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension as _, Row};
use rustix::fs::FlockOperation;

use crate::content;
use crate::digest::Digest;
use crate::error::IndexContext as _;
use crate::index::{self, EPOCH};
use crate::snapshot::{self, SnapshotId};
use crate::store::{Result, Store, lock_file};

/// `oci-layout`, which says that a directory is an image layout.
pub(crate) const LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";

/// `index.json` of a store without images.
pub(crate) const EMPTY_INDEX: &str = concat!(
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","#,
    r#""manifests":[]}"#
);

/// An image that is kept: its manifest (or index) blob, its config's digest (Docker's image ID) and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Canonical, with registry and tag (`docker.io/library/busybox:latest`); empty for an image kept by ID only.
    pub name: String,
    /// Of the manifest or index in `content/`.
    pub manifest: Digest,
    pub media_type: String,
    pub size: u64,
    /// The image ID: digest of the config (of the platform that was built or pulled).
    pub config: Digest,
    /// The topmost snapshot, where the image is unpacked. Layers may exist as snapshots only: their blobs are
    /// made when an output needs them.
    pub snapshot: Option<crate::SnapshotId>,
    /// Blobs the image needs (config, layers); collection spares them.
    pub blobs: Vec<Digest>,
    /// Unix seconds when the name was set.
    pub tagged: i64,
}

const COLUMNS: &str = "name, manifest, media_type, size, config, snapshot, blobs, tagged";

impl Store {
    /// Sets or replaces a name. What it held of the same manifest, of another platform for instance, it goes on
    /// holding; an image that it meant before stays as an unnamed image. An image that has a name is no unnamed one
    /// any more. Errors: `Missing` where the manifest or the snapshot is not here.
    pub fn put_image(&self, image: &StoredImage) -> Result<()> {
        let action = "name an image";
        // Sees to it that the manifest is here and stays.
        self.blob_size(&image.manifest)?;
        {
            let mut connection = self.index();
            let transaction = index::write(&mut connection)?;
            let now = self.shared.lease.now_ms();
            if let Some(id) = &image.snapshot {
                if snapshot::find(&transaction, id)?.is_none() {
                    return Err(snapshot::missing(id));
                }
                snapshot::mark_used(&transaction, id, now)?;
            }
            let mut before = select(&transaction, "WHERE name = ?1", [&image.name])?;
            let same = before.iter().find(|it| it.manifest == image.manifest);
            let image = &match same {
                Some(same) => image.clone().holding(same),
                None => image.clone(),
            };
            before.retain(|other| other.manifest != image.manifest && !other.name.is_empty());
            for mut other in before {
                transaction
                    .execute(
                        "DELETE FROM images WHERE name = ?1 AND manifest = ?2",
                        (&other.name, other.manifest.as_bytes()),
                    )
                    .doing(action)?;
                other.name.clear();
                insert_unless_named(&transaction, &other, now)?;
            }
            if image.name.is_empty() {
                insert_unless_named(&transaction, image, now)?;
            } else {
                insert(&transaction, image, now)?;
                transaction
                    .execute(
                        "DELETE FROM images WHERE name = '' AND manifest = ?1",
                        [image.manifest.as_bytes()],
                    )
                    .doing(action)?;
            }
            transaction.commit().doing(action)?;
        }
        self.write_layout_index()
    }

    /// What a name means. Its snapshot then stays while this process lives.
    pub fn image_by_name(&self, name: &str) -> Result<Option<StoredImage>> {
        let action = "look up an image";
        let mut connection = self.index();
        let Some((image, used)) = by_name(&connection, name).doing(action)? else {
            return Ok(None);
        };
        if used >= self.shared.lease.start_ms() {
            return Ok(Some(image));
        }
        let transaction = index::write(&mut connection)?;
        let Some((image, _)) = by_name(&transaction, name).doing(action)? else {
            return Ok(None);
        };
        let now = self.shared.lease.now_ms();
        transaction
            .prepare_cached(
                "UPDATE images SET used = MAX(used, ?3) WHERE name = ?1 AND manifest = ?2",
            )
            .and_then(|mut statement| statement.execute((name, image.manifest.as_bytes(), now)))
            .doing(action)?;
        for digest in image.needs() {
            content::mark_used(&transaction, digest, now)?;
        }
        if let Some(id) = &image.snapshot {
            snapshot::mark_used(&transaction, id, now)?;
        }
        transaction.commit().doing(action)?;
        Ok(Some(image))
    }

    /// All names that lead to an image whose ID or manifest digest begins with these hex digits (`sha256:` before
    /// them is allowed). Anything else leads to none.
    pub fn images_by_id(&self, prefix: &str) -> Result<Vec<StoredImage>> {
        let digits = prefix.strip_prefix("sha256:").unwrap_or(prefix);
        let digits = digits.to_ascii_lowercase();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Vec::new());
        }
        let mut images = self.images()?;
        images.retain(|image| {
            image.config.hex().starts_with(&digits) || image.manifest.hex().starts_with(&digits)
        });
        Ok(images)
    }

    /// All images, by name; unnamed ones first.
    pub fn images(&self) -> Result<Vec<StoredImage>> {
        select(&self.index(), "", [])
    }

    /// Takes a name away; returns what it meant. For an unnamed image the name is empty.
    pub fn remove_image(&self, name: &str, manifest: &Digest) -> Result<Option<StoredImage>> {
        let action = "remove a name of an image";
        let removed = {
            let mut connection = self.index();
            let transaction = index::write(&mut connection)?;
            let removed = transaction
                .query_row(
                    &format!(
                        "DELETE FROM images WHERE name = ?1 AND manifest = ?2 RETURNING {COLUMNS}"
                    ),
                    (name, manifest.as_bytes()),
                    read,
                )
                .optional()
                .doing(action)?;
            transaction.commit().doing(action)?;
            removed
        };
        if removed.is_some() {
            self.write_layout_index()?;
        }
        Ok(removed)
    }

    /// Writes `index.json` anew from the index.
    pub(crate) fn write_layout_index(&self) -> Result<()> {
        // Two at once would let the slower one write what it read before the other's change.
        let _lock = self.lock_layout_index()?;
        let document = self.layout_index()?;
        let path = self.root().join("content/index.json");
        self.shared
            .write_atomically(&path, document.to_string().as_bytes())
    }

    /// Whether `index.json` says what the index says. What a process left undone that died between the two is mended
    /// first: that is no damage.
    pub(crate) fn is_layout_index_right(&self) -> Result<bool> {
        let path = self.root().join("content/index.json");
        let _lock = self.lock_layout_index()?;
        let bytes = std::fs::read(&path).unwrap_or_default();
        let Ok(written) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
            return Ok(false);
        };
        let has_shape = written["schemaVersion"] == 2 && written["manifests"].is_array();
        if has_shape && written != self.layout_index()? {
            let document = self.layout_index()?;
            let written = self
                .shared
                .write_atomically(&path, document.to_string().as_bytes());
            match written {
                // It is done when there is room again.
                Err(error) if error.is_storage_full() => {}
                other => other?,
            }
        }
        Ok(has_shape)
    }

    fn lock_layout_index(&self) -> Result<std::fs::File> {
        let lock = self.root().join("locks/index.json");
        lock_file(&lock, FlockOperation::LockExclusive)
    }

    fn layout_index(&self) -> Result<serde_json::Value> {
        let manifests: Vec<serde_json::Value> = self.images()?.iter().map(descriptor).collect();
        Ok(serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        }))
    }
}

impl StoredImage {
    /// With all blobs that another one of the same manifest needs.
    fn holding(mut self, other: &Self) -> Self {
        let mut own: HashSet<Digest> = self.needs().copied().collect();
        let more = other.needs().filter(|digest| own.insert(**digest));
        self.blobs.extend(more);
        self
    }

    /// Every blob that it names: manifest, config, the others.
    pub fn needs(&self) -> impl Iterator<Item = &Digest> {
        [&self.manifest, &self.config]
            .into_iter()
            .chain(&self.blobs)
    }
}

/// OCI image-layout.md, "index.json".
fn descriptor(image: &StoredImage) -> serde_json::Value {
    let mut descriptor = serde_json::json!({
        "mediaType": image.media_type,
        "digest": image.manifest,
        "size": image.size,
    });
    if !image.name.is_empty() {
        descriptor["annotations"] = serde_json::json!({
            "org.opencontainers.image.ref.name": image.name,
        });
    }
    descriptor
}

fn insert(connection: &Connection, image: &StoredImage, now_ms: i64) -> Result<()> {
    let mut blobs = Vec::with_capacity(image.blobs.len() * 32);
    for digest in &image.blobs {
        blobs.extend_from_slice(digest.as_bytes());
    }
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO images ({COLUMNS}, used, unsynced)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, {EPOCH})"
        ))
        .and_then(|mut statement| {
            statement.execute((
                &image.name,
                image.manifest.as_bytes(),
                &image.media_type,
                image.size.cast_signed(),
                image.config.as_bytes(),
                image.snapshot.as_ref().map(SnapshotId::as_str),
                blobs,
                image.tagged,
                now_ms,
            ))
        })
        .doing("name an image")?;
    Ok(())
}

fn insert_unless_named(connection: &Connection, image: &StoredImage, now_ms: i64) -> Result<()> {
    let named: bool = connection
        .prepare_cached("SELECT 1 FROM images WHERE manifest = ?1 AND name <> ''")
        .and_then(|mut statement| statement.exists([image.manifest.as_bytes()]))
        .doing("look up an image")?;
    if named {
        return Ok(());
    }
    insert(connection, image, now_ms)
}

/// What a name means, and when that was used last.
fn by_name(connection: &Connection, name: &str) -> rusqlite::Result<Option<(StoredImage, i64)>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS}, used FROM images WHERE name = ?1 ORDER BY tagged DESC LIMIT 1"
        ))?
        .query_row([name], |row| Ok((read(row)?, row.get(8)?)))
        .optional()
}

fn select(
    connection: &Connection,
    condition: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<StoredImage>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM images {condition} ORDER BY name, tagged"
        ))
        .and_then(|mut statement| statement.query_map(parameters, read)?.collect())
        .doing("read the images")
}

fn read(row: &Row<'_>) -> rusqlite::Result<StoredImage> {
    let blobs: Vec<u8> = row.get(6)?;
    let (blobs, _) = blobs.as_chunks::<32>();
    Ok(StoredImage {
        name: row.get(0)?,
        manifest: Digest::from_bytes(row.get(1)?),
        media_type: row.get(2)?,
        size: row.get::<_, i64>(3)?.cast_unsigned(),
        config: Digest::from_bytes(row.get(4)?),
        snapshot: row.get::<_, Option<String>>(5)?.map(SnapshotId),
        blobs: blobs.iter().copied().map(Digest::from_bytes).collect(),
        tagged: row.get(7)?,
    })
}
