//! A cache in a Redis (or what speaks its protocol). A value has its limits, so a blob lies in pieces; its size comes
//! last and makes it findable.
//!
//! ```text
//! PREFIXmanifests:NAME          the document
//! PREFIXblobs:sha256:HEX        how many bytes the blob has
//! PREFIXblobs:sha256:HEX:N      its N-th piece
//! ```

use std::fmt;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use rbuild_cache::{Digest, Store};
use redis::aio::MultiplexedConnection;
use tokio::sync::OnceCell;
use url::Url;

use super::objects::Written;
use crate::manifest::{DOCUMENT_LIMIT_BYTES, Descriptor};
use crate::source::{Progress, blocking};
use crate::{Error, Result};

const PIECE_BYTES: u64 = 4 << 20;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Sets a value where it is still what it was.
const REPLACE: &str = "local v = redis.call('GET', KEYS[1]) \
    if (v or '') ~= ARGV[1] then return 0 end \
    redis.call('SET', KEYS[1], ARGV[2]) return 1";

/// A cache under a name, below a prefix.
#[derive(Clone)]
pub struct Redis {
    /// With what is secret in it.
    url: Url,
    prefix: String,
    name: String,
    connection: Arc<OnceCell<MultiplexedConnection>>,
}

impl Redis {
    /// Connects when it is first used.
    pub fn new(url: Url, prefix: String, name: String) -> Self {
        Self {
            url,
            prefix,
            name,
            connection: Arc::default(),
        }
    }

    fn failed(&self, error: redis::RedisError) -> Error {
        let reason = match error.is_io_error() {
            true => "the connection failed",
            false => "it does not do what it is asked",
        };
        Error::Registry {
            url: self.to_string(),
            reason: reason.to_owned(),
            source: Some(Box::new(error)),
        }
    }

    async fn connection(&self) -> Result<MultiplexedConnection> {
        let connected = self.connection.get_or_try_init(|| async {
            // An embedder may have installed a provider already; either will do.
            let _ = rustls::crypto::ring::default_provider().install_default();
            crate::names::look_up_alone();
            let client = redis::Client::open(self.url.as_str())?;
            let config = redis::AsyncConnectionConfig::new()
                .set_connection_timeout(Some(TIMEOUT))
                .set_response_timeout(Some(TIMEOUT));
            client
                .get_multiplexed_async_connection_with_config(&config)
                .await
        });
        let connected = connected.await.map_err(|error| self.failed(error))?;
        Ok(connected.clone())
    }

    async fn get<T: redis::FromRedisValue>(&self, key: &str) -> Result<Option<T>> {
        let mut connection = self.connection().await?;
        let value = redis::cmd("GET")
            .arg(key)
            .query_async(&mut connection)
            .await;
        value.map_err(|error| self.failed(error))
    }

    fn document_key(&self) -> String {
        format!("{}manifests:{}", self.prefix, self.name)
    }

    fn blob_key(&self, digest: &Digest) -> String {
        format!("{}blobs:{digest}", self.prefix)
    }

    pub(super) async fn document(&self) -> Result<Option<Vec<u8>>> {
        let key = self.document_key();
        let Some(bytes) = self.get::<Vec<u8>>(&key).await? else {
            return Ok(None);
        };
        if bytes.len() as u64 > DOCUMENT_LIMIT_BYTES {
            return Err(Error::BadDocument {
                document: self.to_string(),
                reason: format!("it has more than {DOCUMENT_LIMIT_BYTES} bytes"),
            });
        }
        Ok(Some(bytes))
    }

    pub(super) async fn replace(&self, bytes: Vec<u8>, before: Option<&[u8]>) -> Result<Written> {
        let mut connection = self.connection().await?;
        let done: redis::RedisResult<i64> = redis::cmd("EVAL")
            .arg(REPLACE)
            .arg(1)
            .arg(self.document_key())
            .arg(before.unwrap_or_default())
            .arg(bytes)
            .query_async(&mut connection)
            .await;
        match done.map_err(|error| self.failed(error))? {
            0 => Ok(Written::TooLate),
            _ => Ok(Written::Surely),
        }
    }

    pub(super) async fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        self.get(&self.blob_key(digest)).await
    }

    async fn piece(&self, digest: &Digest, number: u64) -> Result<Option<Vec<u8>>> {
        let key = format!("{}:{number}", self.blob_key(digest));
        self.get(&key).await
    }

    pub(super) async fn small(&self, blob: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>> {
        if self.size(&blob.digest).await?.is_none() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        for number in 0..blob.size.div_ceil(PIECE_BYTES) {
            let Some(piece) = self.piece(&blob.digest, number).await? else {
                return Ok(None);
            };
            bytes.extend(piece);
            if bytes.len() as u64 > limit {
                let reason = format!("it has more than {limit} bytes");
                return Err(super::bad(blob, reason));
            }
        }
        Ok(Some(bytes))
    }

    /// False where it is not there.
    pub(super) async fn bring(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<bool> {
        if self.size(&blob.digest).await?.is_none() {
            return Ok(false);
        }
        let (local, digest) = (Arc::clone(store), blob.digest);
        let mut ingest = blocking(move || Ok(local.ingest_expected(&digest)?)).await?;
        for number in 0..blob.size.div_ceil(PIECE_BYTES) {
            let Some(piece) = self.piece(&blob.digest, number).await? else {
                return Ok(false);
            };
            if ingest.written().saturating_add(piece.len() as u64) > blob.size {
                let reason = format!("it has more than {} bytes", blob.size);
                return Err(super::bad(blob, reason));
            }
            let name = blob.digest.to_string();
            ingest = blocking(move || {
                ingest.write_all(&piece).map_err(|source| Error::Io {
                    action: "write the blob",
                    path: name,
                    source,
                })?;
                Ok(ingest)
            })
            .await?;
            progress(&blob.digest.to_string(), ingest.written(), blob.size);
        }
        let (digest, size) = (blob.digest, blob.size);
        blocking(move || Ok(ingest.commit(Some(&digest), Some(size))?)).await?;
        Ok(true)
    }

    pub(super) async fn put(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<()> {
        let (local, digest) = (Arc::clone(store), blob.digest);
        blocking(move || crate::export::verify_blob(&local, &digest)).await?;
        let local = Arc::clone(store);
        let file = blocking(move || Ok(local.open_blob(&digest)?)).await?;
        let mut connection = self.connection().await?;
        let (mut rest, mut number, mut done) = (Some(file), 0, 0);
        while let Some(file) = rest.take().filter(|_| done < blob.size) {
            let (file, piece) = blocking(move || {
                let mut piece = Vec::new();
                let read = (&file).take(PIECE_BYTES).read_to_end(&mut piece);
                read.map_err(|source| Error::Io {
                    action: "read the blob",
                    path: digest.to_string(),
                    source,
                })?;
                Ok((file, piece))
            })
            .await?;
            if piece.is_empty() {
                break;
            }
            done += piece.len() as u64;
            let set: redis::RedisResult<()> = redis::cmd("SET")
                .arg(format!("{}:{number}", self.blob_key(&digest)))
                .arg(piece)
                .query_async(&mut connection)
                .await;
            set.map_err(|error| self.failed(error))?;
            progress(&digest.to_string(), done, blob.size);
            (rest, number) = (Some(file), number + 1);
        }
        let set: redis::RedisResult<()> = redis::cmd("SET")
            .arg(self.blob_key(&digest))
            .arg(blob.size)
            .query_async(&mut connection)
            .await;
        set.map_err(|error| self.failed(error))
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({self})")
    }
}

/// Without user and password.
impl fmt::Display for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let url = crate::error::shown(url.as_str().as_bytes());
        write!(f, "{} ({})", url.trim_end_matches('/'), self.document_key())
    }
}
