//! A cache in a store of objects by name: S3, Redis.

use std::fmt;
use std::sync::Arc;

use rbuild_cache::Store;

use super::redis::Redis;
use super::s3::S3;
use crate::manifest::Descriptor;
use crate::source::Progress;
use crate::{Error, Result};

/// Which store of objects it is.
#[derive(Debug, Clone)]
pub enum Objects {
    S3(S3),
    Redis(Redis),
}

/// How replacing a document ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Nobody came in between.
    Surely,
    /// It was written; whether over what another wrote meanwhile, one cannot know.
    Perhaps,
    /// Somebody else was faster, and nothing was written.
    TooLate,
}

impl Objects {
    pub(super) async fn small(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let bytes = match self {
            Self::S3(s3) => s3.small(blob, limit).await?,
            Self::Redis(redis) => redis.small(blob, limit).await?,
        };
        bytes.ok_or_else(|| self.gone(blob))
    }

    pub(super) async fn has(&self, blob: &Descriptor) -> Result<bool> {
        let size = match self {
            Self::S3(s3) => s3.size(&blob.digest).await?,
            Self::Redis(redis) => redis.size(&blob.digest).await?,
        };
        Ok(size == Some(blob.size))
    }

    pub(super) async fn bring(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<()> {
        let was_there = match self {
            Self::S3(s3) => s3.bring(store, blob, progress).await?,
            Self::Redis(redis) => redis.bring(store, blob, progress).await?,
        };
        match was_there {
            true => Ok(()),
            false => Err(self.gone(blob)),
        }
    }

    pub(super) async fn send(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<bool> {
        if self.has(blob).await? {
            return Ok(false);
        }
        match self {
            Self::S3(s3) => s3.put(store, blob, progress).await?,
            Self::Redis(redis) => redis.put(store, blob, progress).await?,
        }
        Ok(true)
    }

    fn gone(&self, blob: &Descriptor) -> Error {
        Error::BadDocument {
            document: format!("the cache {self}"),
            reason: format!("its blob {} is gone", blob.digest),
        }
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3(s3) => s3.fmt(f),
            Self::Redis(redis) => redis.fmt(f),
        }
    }
}
