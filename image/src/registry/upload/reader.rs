//! A blob of the store that is read in pieces, and hashed on the way.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rbuild_cache::{Digest, Store};
use sha2::Digest as _;

use crate::error::{Error, Result};
use crate::manifest::Descriptor;
use crate::source::blocking;

/// A blob of the store that is read in pieces, and hashed on the way.
pub(super) struct Reader {
    file: std::fs::File,
    digest: Digest,
    size: u64,
    hashed: Mutex<(sha2::Sha256, u64)>,
}

impl Reader {
    pub(super) async fn open(store: &Arc<Store>, blob: &Descriptor) -> Result<Self> {
        let (store, digest, size) = (Arc::clone(store), blob.digest, blob.size);
        blocking(move || {
            Ok(Self {
                file: store.open_blob(&digest)?,
                digest,
                size,
                hashed: Mutex::default(),
            })
        })
        .await
    }

    pub(super) async fn read(self: &Arc<Self>, offset: u64, length: u64) -> Result<Bytes> {
        let this = Arc::clone(self);
        blocking(move || this.read_now(offset, length)).await
    }

    fn read_now(&self, offset: u64, length: u64) -> Result<Bytes> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|source| Error::Io {
                action: "read the blob",
                path: self.digest.to_string(),
                source,
            })?;
        let mut hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        let (hasher, until) = &mut *hashed;
        // What is read again was hashed the first time.
        let known = usize::try_from(until.saturating_sub(offset)).unwrap_or(usize::MAX);
        if let Some(new) = bytes.get(known..)
            && *until >= offset
        {
            hasher.update(new);
            *until += new.len() as u64;
        }
        if *until == self.size {
            let actual = Digest::from_bytes(hasher.clone().finalize().into());
            if actual != self.digest {
                return Err(rbuild_cache::Error::DigestMismatch {
                    expected: self.digest,
                    actual,
                }
                .into());
            }
        }
        Ok(bytes.into())
    }
}
