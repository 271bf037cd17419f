//! Blobs by digest. A blob gets its name only when it is whole and verified.
//!
//! ```text
//! content/oci-layout                  a valid OCI image layout (image-layout.md)
//! content/index.json                  the named images (`images`)
//! content/blobs/sha256/HEX            one file a blob
//! ```
//! A blob is here when its file has its name and the index has its row: a file without a row is garbage (its
//! writer died in between) or was perhaps torn by a power cut, and is replaced by the next one who brings the same
//! bytes.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use rusqlite::{Connection, OptionalExtension as _};
use rustix::fs::{Mode, OFlags};
use sha2::Digest as _;

use crate::arrival::Followed;
use crate::digest::Digest;
use crate::error::{IndexContext as _, IoContext as _};
use crate::index::{self, EPOCH};
use crate::lease;
use crate::store::{Error, Result, Shared, Store};

/// A blob that is being written. Dropping it removes what was written.
#[derive(Debug)]
pub struct Ingest {
    shared: Arc<Shared>,
    path: PathBuf,
    file: File,
    hasher: sha2::Sha256,
    written: u64,
    /// Who reads it meanwhile.
    followed: Option<Followed>,
    /// The file has its final name, or is gone.
    done: bool,
}

const COPY_BYTES: usize = 256 << 10;

impl Store {
    /// Begins a blob.
    pub fn ingest(&self) -> Result<Ingest> {
        let path = self.shared.temporary_path();
        Ok(Ingest {
            file: lease::create_new(&path)?,
            shared: Arc::clone(&self.shared),
            path,
            hasher: sha2::Sha256::new(),
            written: 0,
            followed: None,
            done: false,
        })
    }

    /// Begins a blob that is known before it is here, and may be waited for ([`Store::expect_blob`]).
    pub fn ingest_expected(&self, digest: &Digest) -> Result<Ingest> {
        let mut ingest = self.ingest()?;
        let followed = self.shared.arrivals.begin(digest, &ingest.file);
        ingest.followed = followed.at("open", &ingest.path)?;
        Ok(ingest)
    }

    /// Writes a small blob that is in memory; returns its digest.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.has_blob(&digest) {
            return Ok(digest);
        }
        let mut ingest = self.ingest()?;
        ingest.write_all(bytes).at("write", &ingest.path)?;
        Ok(ingest.commit(Some(&digest), None)?.0)
    }

    /// Marks those of these blobs that are here as used by this process, in one write where looking each up would be one
    /// each.
    pub fn use_blobs(&self, digests: &[&Digest]) -> Result<()> {
        let action = "mark blobs as used";
        let lease = &self.shared.lease;
        let mut connection = self.index();
        let mut stale: Vec<&Digest> = Vec::with_capacity(digests.len());
        for digest in digests {
            let used: Option<i64> = connection
                .prepare_cached("SELECT used FROM blobs WHERE digest = ?1")
                .doing(action)?
                .query_row([digest.as_bytes()], |row| row.get(0))
                .optional()
                .doing(action)?;
            if used.is_some_and(|used| used < lease.start_ms()) {
                stale.push(*digest);
            }
        }
        if stale.is_empty() {
            return Ok(());
        }
        let transaction = index::write(&mut connection)?;
        let now = lease.now_ms();
        for digest in stale {
            mark_used(&transaction, digest, now)?;
        }
        transaction.commit().doing(action)
    }

    /// True if the blob is here; it then stays while this process lives.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_size(digest).is_ok()
    }

    /// Whether this process wrote and hashed the blob itself, so that it need not be hashed once more.
    pub fn is_own_blob(&self, digest: &Digest) -> bool {
        let own = self.shared.own_blobs.lock();
        own.unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    /// Opens a blob for reading; `Error::Missing` where there is none.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let size = self.blob_row(digest)?;
        let path = self.blob_path(digest);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => fd.into(),
            Err(rustix::io::Errno::NOENT) => return Err(missing(digest)),
            Err(error) => return Err(error).at("open", &path),
        };
        let metadata = file.metadata().at("stat", &path)?;
        if !metadata.is_file() || metadata.len() != size {
            return Err(Error::damaged(
                format_args!("blob {digest}"),
                format_args!("it has {} bytes instead of {size}", metadata.len()),
            ));
        }
        Ok(file)
    }

    /// Reads a small document whole; more than `limit` bytes is an error. The digest is verified.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let file = self.open_blob(digest)?;
        let path = self.blob_path(digest);
        let size = file.metadata().at("stat", &path)?.len().min(limit);
        // One byte more, so that reading sees the end at once.
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(1));
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .at("read", &path)?;
        if bytes.len() as u64 > limit {
            return Err(Error::TooLarge {
                what: format!("blob {digest}"),
                limit,
            });
        }
        if Digest::of(&bytes) != *digest {
            return Err(Error::damaged(
                format_args!("blob {digest}"),
                "its bytes have another digest",
            ));
        }
        Ok(bytes)
    }

    /// In bytes; `Error::Missing` where there is none.
    pub fn blob_size(&self, digest: &Digest) -> Result<u64> {
        let size = self.blob_row(digest)?;
        match std::fs::symlink_metadata(self.blob_path(digest)) {
            Ok(metadata) if metadata.is_file() && metadata.len() == size => Ok(size),
            _ => Err(missing(digest)),
        }
    }

    /// `content/blobs/sha256/HEX`.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.shared.blob_path(digest)
    }

    /// The OCI layout that all blobs lie in. Not everything that a manifest names must be there.
    pub fn content_directory(&self) -> PathBuf {
        self.shared.root.join("content")
    }

    /// The size that the row tells. Marks the blob as used by this process.
    fn blob_row(&self, digest: &Digest) -> Result<u64> {
        let action = "look up a blob";
        let connection = self.index();
        let row: Option<(i64, i64)> = connection
            .prepare_cached("SELECT size, used FROM blobs WHERE digest = ?1")
            .doing(action)?
            .query_row([digest.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .doing(action)?;
        let (size, used) = row.ok_or_else(|| missing(digest))?;
        let lease = &self.shared.lease;
        if used < lease.start_ms() {
            let marked = connection
                .prepare_cached("UPDATE blobs SET used = ?2 WHERE digest = ?1")
                .doing(action)?
                .execute((digest.as_bytes(), lease.now_ms()))
                .doing(action)?;
            // Collected between the two statements.
            if marked == 0 {
                return Err(missing(digest));
            }
        }
        Ok(u64::try_from(size).unwrap_or(0))
    }
}

/// Of no effect where the blob is not here.
pub(crate) fn mark_used(connection: &Connection, digest: &Digest, now_ms: i64) -> Result<()> {
    connection
        .prepare_cached("UPDATE blobs SET used = MAX(used, ?2) WHERE digest = ?1")
        .and_then(|mut statement| statement.execute((digest.as_bytes(), now_ms)))
        .doing("mark a blob as used")?;
    Ok(())
}

impl Shared {
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.root.join("content/blobs/sha256");
        path.push(digest.hex());
        path
    }
}

impl Ingest {
    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Copies all of `reader`; refuses more than `limit` bytes.
    pub fn write_from(&mut self, reader: &mut dyn Read, limit: u64) -> Result<()> {
        let mut buffer = vec![0; COPY_BYTES];
        let start = self.written;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).at("read what is to be written to", &self.path),
            };
            if (self.written - start).saturating_add(count as u64) > limit {
                return Err(Error::TooLarge {
                    what: "the blob that arrives".to_owned(),
                    limit,
                });
            }
            self.write_all(buffer.get(..count).unwrap_or_default())
                .at("write", &self.path)?;
        }
    }

    /// Verifies size and digest where given, and gives the blob its name. Equal blobs are one.
    pub fn commit(
        mut self,
        expected: Option<&Digest>,
        expected_size: Option<u64>,
    ) -> Result<(Digest, u64)> {
        let hasher = std::mem::take(&mut self.hasher);
        let digest = Digest::from_bytes(hasher.finalize().into());
        // The size first: a short blob has another digest too, and its length says more.
        if let Some(expected_size) = expected_size
            && expected_size != self.written
        {
            return Err(Error::SizeMismatch {
                digest: *expected.unwrap_or(&digest),
                expected: expected_size,
                actual: self.written,
            });
        }
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(Error::DigestMismatch {
                expected: *expected,
                actual: digest,
            });
        }
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(0o644)).at("chmod", &self.path)?;
        let shared = Arc::clone(&self.shared);
        let path = shared.blob_path(&digest);
        let _publishing = shared.publish_lock(false)?;
        let action = "publish a blob";
        let mut connection = shared.index();
        let known: bool = connection
            .prepare_cached("SELECT 1 FROM blobs WHERE digest = ?1 AND size = ?2")
            .doing(action)?
            .exists((digest.as_bytes(), self.written.cast_signed()))
            .doing(action)?;
        let whole = known
            && std::fs::symlink_metadata(&path)
                .is_ok_and(|metadata| metadata.is_file() && metadata.len() == self.written);
        if !whole {
            rustix::fs::rename(&self.path, &path).at("create", &path)?;
            shared.fill();
            self.done = true;
            shared
                .own_blobs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(digest);
        }
        let transaction = index::write(&mut connection)?;
        transaction
            .prepare_cached(&format!(
                "INSERT INTO blobs (digest, size, used, unsynced) VALUES (?1, ?2, ?3, {EPOCH})
                 ON CONFLICT (digest) DO UPDATE SET
                   size = excluded.size,
                   used = MAX(used, excluded.used),
                   unsynced = CASE WHEN ?4 THEN unsynced ELSE excluded.unsynced END"
            ))
            .doing(action)?
            .execute((
                digest.as_bytes(),
                self.written.cast_signed(),
                shared.lease.now_ms(),
                whole,
            ))
            .doing(action)?;
        transaction.commit().doing(action)?;
        if let Some(followed) = &self.followed {
            followed.verified();
        }
        Ok((digest, self.written))
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        if let Some(written) = bytes.get(..count) {
            self.hasher.update(written);
        }
        self.written = self.written.saturating_add(count as u64);
        if let Some(followed) = &self.followed {
            followed.written(self.written);
        }
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn missing(digest: &Digest) -> Error {
    Error::Missing(format!("blob {digest}"))
}
