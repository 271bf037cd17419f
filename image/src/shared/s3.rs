//! A cache in a bucket of S3 or of what speaks its protocol. Requests are signed by `rusty_s3` and sent by the client
//! that registries are spoken to with.
//!
//! ```text
//! PREFIXmanifests/NAME/HEX   a part of the document: what one writer added, under its digest
//! PREFIXblobs/sha256:HEX     one object a blob
//! ```
//! No writer touches what another wrote, so none can lose it, whatever a server makes of two at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use rbuild_cache::{Digest, Store};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};
use url::Url;

use crate::manifest::{DOCUMENT_LIMIT_BYTES, Descriptor};
use crate::registry::{Client, Failure, Patience, Pulse, TRIES, passes};
use crate::source::{Progress, blocking};
use crate::{Error, Result};

/// How long a signature holds: a large object on a slow line needs it until its transfer begins.
const SIGNED: Duration = Duration::from_secs(3600);
/// What one request may bring there.
const OBJECT_LIMIT_BYTES: u64 = 5 << 30;
const CHUNK_BYTES: usize = 1 << 20;
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
const OLD_NAMESPACE: &str = "http://doc.s3.amazonaws.com/2006-03-01/";
/// What a server may say about a refusal.
const WORDS_LIMIT_BYTES: u64 = 64 << 10;
const PAUSE: Duration = Duration::from_millis(30);
/// Parts of a document that are read at once, and at all: writers make many one.
const CONCURRENT_PARTS: usize = 8;
const PARTS_MAX: usize = 1000;
/// Of one listing. A page has a thousand names; few are empty.
const PAGES_MAX: usize = 100;

/// Where a bucket is, and by what right it is used.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    pub bucket: String,
    pub region: String,
    /// `None`: AWS's for the region.
    pub endpoint: Option<Url>,
    /// `ENDPOINT/BUCKET` instead of `BUCKET.ENDPOINT`.
    pub path_style: bool,
    pub prefix: String,
    pub blobs_prefix: String,
    pub manifests_prefix: String,
    pub name: String,
    pub access_key: String,
    pub secret_key: String,
    pub session_token: Option<String>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint)
            .field("prefix", &self.prefix)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A cache under a name, in a bucket.
#[derive(Clone)]
pub struct S3 {
    client: Client,
    bucket: Arc<Bucket>,
    credentials: Arc<Credentials>,
    options: Arc<Options>,
}

impl S3 {
    /// Errors where endpoint and bucket make no address.
    pub fn new(client: Client, options: Options) -> Result<Self> {
        let wrong = |reason: String| Error::BadReference(options.bucket.clone(), reason);
        let endpoint = match &options.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => {
                let region = &options.region;
                let usual = Url::parse(&format!("https://s3.{region}.amazonaws.com"));
                usual.map_err(|error| wrong(error.to_string()))?
            }
        };
        let style = match options.path_style {
            true => UrlStyle::Path,
            false => UrlStyle::VirtualHost,
        };
        let (name, region) = (options.bucket.clone(), options.region.clone());
        let bucket = Bucket::new(endpoint, style, name, region);
        let bucket = bucket.map_err(|error| wrong(error.to_string()))?;
        let (key, secret) = (options.access_key.clone(), options.secret_key.clone());
        let credentials = match &options.session_token {
            Some(token) => Credentials::new_with_token(key, secret, token.clone()),
            None => Credentials::new(key, secret),
        };
        Ok(Self {
            client,
            bucket: Arc::new(bucket),
            credentials: Arc::new(credentials),
            options: Arc::new(options),
        })
    }

    fn document_key(&self) -> String {
        let options = &self.options;
        format!(
            "{}{}{}",
            options.prefix, options.manifests_prefix, options.name
        )
    }

    fn blob_key(&self, digest: &Digest) -> String {
        format!(
            "{}{}{digest}",
            self.options.prefix, self.options.blobs_prefix
        )
    }

    /// One answer; `None` where there is no such object.
    async fn ask(&self, method: Method, key: &str) -> Result<Option<Response>> {
        let credentials = Some(self.credentials.as_ref());
        let url = match method {
            Method::HEAD => self.bucket.head_object(credentials, key).sign(SIGNED),
            _ => self.bucket.get_object(credentials, key).sign(SIGNED),
        };
        let answer = self
            .client
            .plain(&method, &url, &HeaderMap::new(), &nothing)
            .await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(answer)),
            _ => Err(self.refused(key, answer).await),
        }
    }

    async fn refused(&self, key: &str, answer: Response) -> Error {
        let status = answer.status();
        let mut reason = format!("it answers {status}");
        let address = answer.url().clone();
        let body = self.client.body(answer, &address, WORDS_LIMIT_BYTES).await;
        if let Ok(body) = body.map(|body| String::from_utf8_lossy(&body).into_owned()) {
            // `<Error><Code>…</Code><Message>…</Message>`
            for tag in ["Code", "Message"] {
                let words = body.split_once(&format!("<{tag}>"));
                let words = words.and_then(|(_, rest)| rest.split_once('<'));
                if let Some((words, _)) = words {
                    reason.push_str(": ");
                    reason.push_str(&crate::error::shown(words.as_bytes()));
                }
            }
        }
        if status.is_redirection() {
            reason.push_str("; is it the bucket's region?");
        }
        Error::Registry {
            url: format!("s3://{}/{key}", self.options.bucket),
            reason,
            source: None,
        }
    }

    /// The parts of the document: their names and bytes.
    pub(super) async fn parts(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut tries = 0;
        loop {
            let names = self.names().await?;
            let read = futures_util::stream::iter(names)
                .map(|name| async move {
                    let part = self.part(&name).await?;
                    Ok::<_, Error>(part.map(|bytes| (name, bytes)))
                })
                .buffered(CONCURRENT_PARTS)
                .try_collect::<Vec<_>>()
                .await?;
            let all = read.len();
            let there: Vec<_> = read.into_iter().flatten().collect();
            tries += 1;
            // One that went was taken over by another, which the next listing has.
            if there.len() == all || tries >= TRIES {
                return Ok(there);
            }
        }
    }

    async fn names(&self) -> Result<Vec<String>> {
        let prefix = format!("{}/", self.document_key());
        let mut names = Vec::new();
        let mut next = None;
        for _ in 0..PAGES_MAX {
            let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
            action.with_prefix(prefix.clone());
            if let Some(token) = next.take() {
                action.with_continuation_token(token);
            }
            let url = action.sign(SIGNED);
            let answer = self
                .client
                .plain(&Method::GET, &url, &HeaderMap::new(), &nothing)
                .await?;
            if !answer.status().is_success() {
                return Err(self.refused(&prefix, answer).await);
            }
            let address = answer.url().clone();
            let bytes = self
                .client
                .body(answer, &address, DOCUMENT_LIMIT_BYTES)
                .await?;
            // As servers that follow the first edition of the protocol call it.
            let text = String::from_utf8_lossy(&bytes).replace(OLD_NAMESPACE, NAMESPACE);
            let parsed = rusty_s3::actions::ListObjectsV2::parse_response(&text);
            let parsed = parsed.map_err(|error| Error::Registry {
                url: format!("s3://{}/{prefix}", self.options.bucket),
                reason: "its listing is not understood".to_owned(),
                source: Some(Box::new(error)),
            })?;
            names.extend(parsed.contents.into_iter().map(|object| object.key));
            if names.len() > PARTS_MAX {
                return Ok(names);
            }
            match parsed.next_continuation_token {
                Some(token) => next = Some(token),
                None => return Ok(names),
            }
        }
        Err(Error::Registry {
            url: format!("s3://{}/{prefix}", self.options.bucket),
            reason: "its listing does not end".to_owned(),
            source: None,
        })
    }

    /// A part whole; `None` where it is gone. Some servers show an object before all of it is there.
    async fn part(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut tries = 0;
        loop {
            let read = async {
                let Some(answer) = self.ask(Method::GET, name).await? else {
                    return Ok(None);
                };
                let url = answer.url().clone();
                let body = self.client.body(answer, &url, DOCUMENT_LIMIT_BYTES).await;
                body.map(Some)
            };
            let read = read.await;
            let is_whole =
                |bytes: &Vec<u8>| serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
            tries += 1;
            match &read {
                Ok(Some(bytes)) if !is_whole(bytes) && tries < TRIES => {}
                Err(_) if tries < TRIES => {}
                _ => return read,
            }
            tokio::time::sleep(PAUSE * tries).await;
        }
    }

    /// Adds a part under a name that is its own.
    pub(super) async fn add_part(&self, digest: &Digest, bytes: Vec<u8>) -> Result<()> {
        let key = format!("{}/{}", self.document_key(), digest.hex());
        let action = self.bucket.put_object(Some(&self.credentials), &key);
        let body = Bytes::from(bytes);
        let patience = Patience::ForBytes(body.len() as u64);
        let again = || (Some(body.clone().into()), patience.clone());
        self.done(Method::PUT, &key, action.sign(SIGNED), &again)
            .await
    }

    pub(super) async fn remove_part(&self, name: &str) -> Result<()> {
        let action = self.bucket.delete_object(Some(&self.credentials), name);
        self.done(Method::DELETE, name, action.sign(SIGNED), &nothing)
            .await
    }

    async fn done(
        &self,
        method: Method,
        key: &str,
        url: Url,
        body: &(dyn Fn() -> (Option<reqwest::Body>, Patience) + Sync),
    ) -> Result<()> {
        let answer = self
            .client
            .plain(&method, &url, &HeaderMap::new(), body)
            .await?;
        match answer.status().is_success() {
            true => Ok(()),
            false => Err(self.refused(key, answer).await),
        }
    }

    pub(super) async fn small(&self, blob: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>> {
        let key = self.blob_key(&blob.digest);
        let Some(answer) = self.ask(Method::GET, &key).await? else {
            return Ok(None);
        };
        let url = answer.url().clone();
        self.client.body(answer, &url, limit).await.map(Some)
    }

    pub(super) async fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let answer = self.ask(Method::HEAD, &self.blob_key(digest)).await?;
        Ok(answer.map(|answer| {
            let length = answer.headers().get(CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
            length.unwrap_or(u64::MAX)
        }))
    }

    /// False where it is not there.
    pub(super) async fn bring(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<bool> {
        let key = self.blob_key(&blob.digest);
        let ask = |headers: HeaderMap| {
            let key = key.as_str();
            async move { self.ask_for_part(key, &headers).await }
        };
        let brought = self.client.in_parts(store, blob, progress, TRIES, ask);
        match brought.await {
            Err(Error::NotFound(_)) => Ok(false),
            other => other.map(|()| true),
        }
    }

    async fn ask_for_part(&self, key: &str, headers: &HeaderMap) -> Result<Response, Failure> {
        let action = self.bucket.get_object(Some(&self.credentials), key);
        let answer = self
            .client
            .plain_once(&action.sign(SIGNED), headers)
            .await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Err(Failure::lasting(Error::NotFound(key.to_owned()))),
            status if status.is_success() => Ok(answer),
            status => {
                let error = self.refused(key, answer).await;
                Err(match passes(status) {
                    true => Failure::passing(error),
                    false => Failure::lasting(error),
                })
            }
        }
    }

    pub(super) async fn put(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<()> {
        if blob.size > OBJECT_LIMIT_BYTES {
            return Err(Error::BadDocument {
                document: blob.digest.to_string(),
                reason: format!(
                    "a layer of {} bytes is more than one object may have ({OBJECT_LIMIT_BYTES})",
                    blob.size
                ),
            });
        }
        let key = self.blob_key(&blob.digest);
        let url = self
            .bucket
            .put_object(Some(&self.credentials), &key)
            .sign(SIGNED);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(blob.size));
        // Damage on the disk does not leave it.
        let (verified, known) = (Arc::clone(store), blob.clone());
        blocking(move || crate::export::verify_blob(&verified, &known.digest)).await?;
        let (source, digest, size) = (Arc::clone(store), blob.digest, blob.size);
        let body = move || {
            let pulse = Pulse::new();
            let file = source.open_blob(&digest).ok();
            let stream =
                file.map(|file| reqwest::Body::wrap_stream(chunks(file, size, pulse.clone())));
            (stream, Patience::WhileItMoves(pulse))
        };
        let answer = self
            .client
            .plain(&Method::PUT, &url, &headers, &body)
            .await?;
        if !answer.status().is_success() {
            return Err(self.refused(&key, answer).await);
        }
        progress(&blob.digest.to_string(), blob.size, blob.size);
        Ok(())
    }
}

/// The body of a request without one.
fn nothing() -> (Option<reqwest::Body>, Patience) {
    (None, Patience::ForBytes(0))
}

/// A file in pieces, each read on a thread that may block.
fn chunks(
    file: std::fs::File,
    size: u64,
    pulse: Pulse,
) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let file = Arc::new(file);
    futures_util::stream::try_unfold(0_u64, move |at| {
        let file = Arc::clone(&file);
        pulse.beat(at + CHUNK_BYTES as u64 >= size);
        async move {
            let read = tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; CHUNK_BYTES];
                let count = std::os::unix::fs::FileExt::read_at(&*file, &mut buffer, at)?;
                buffer.truncate(count);
                Ok::<_, std::io::Error>(Bytes::from(buffer))
            });
            let bytes = read.await.map_err(std::io::Error::other)??;
            let next = at + bytes.len() as u64;
            Ok((!bytes.is_empty()).then_some((bytes, next)))
        }
    })
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.options.bucket, self.document_key())
    }
}
