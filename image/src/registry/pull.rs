//! Manifests and blobs.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use rbuild_cache::content::Ingest;
use rbuild_cache::{Digest, Store};
use reqwest::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE,
};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use super::Client;
use super::transport::{Call, Failure, TRIES, failed, shown_url};
use crate::error::{Error, Result, shown};
use crate::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, DOCUMENT_LIMIT_BYTES, Descriptor, Document, OCI_INDEX,
    OCI_MANIFEST,
};
use crate::reference::Reference;
use crate::source::{Progress, blocking};

/// Chunks between the network and the thread that writes.
const CHUNKS_UNDER_WAY: usize = 32;
/// A broken download that has brought this much more counts as getting on.
const GETTING_ON_BYTES: u64 = 64 << 10;
/// Progress is told in steps of this many bytes.
const PROGRESS_STEP_BYTES: u64 = 256 << 10;

impl Client {
    /// What a name means now. Mirrors are asked first.
    pub(crate) async fn head(&self, reference: &Reference) -> Result<Descriptor> {
        for mirror in self.mirrors(reference) {
            match self.head_at(&mirror).await {
                Ok(found) => return Ok(found),
                Err(error) => passed_over(&mirror, &error),
            }
        }
        self.head_at(reference).await
    }

    async fn head_at(&self, reference: &Reference) -> Result<Descriptor> {
        let name = match (&reference.digest, reference.tag_or_default()) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_owned(),
            (None, None) => return Err(Error::NotFound(reference.familiar())),
        };
        let address = self
            .address(reference, &format!("manifests/{name}"))
            .await?;
        let call = Call::read(Method::HEAD, reference, address).headers(accept_manifests());
        let response = self.send(&call).await.map_err(|failure| failure.error)?;
        let media_type = header(&response, CONTENT_TYPE.as_str());
        let digest = header(&response, "docker-content-digest").and_then(|text| text.parse().ok());
        let size = header(&response, CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
        if let (Some(media_type), Some(digest), Some(size)) =
            (media_type, reference.digest.or(digest), size)
        {
            return descriptor(response.url(), &media_type, digest, size);
        }
        // Registries that tell too little in a HEAD: the document itself has all of it.
        let call = Call {
            method: Method::GET,
            ..call
        };
        let response = self.send(&call).await.map_err(|failure| failure.error)?;
        let url = response.url().clone();
        let media_type = header(&response, CONTENT_TYPE.as_str()).unwrap_or_default();
        let body = read_body(response, &url, DOCUMENT_LIMIT_BYTES)
            .await
            .map_err(|failure| failure.error)?;
        let actual = Digest::of(&body);
        let digest = reference.digest.unwrap_or(actual);
        descriptor(&url, &media_type, digest, body.len() as u64)
    }

    /// A manifest, index or config. Not verified here, unless it comes from a mirror.
    pub(crate) async fn document(
        &self,
        reference: &Reference,
        wanted: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>> {
        for mirror in self.mirrors(reference) {
            match self.document_at(&mirror, wanted, limit).await {
                Ok(bytes) if Digest::of(&bytes) == wanted.digest => return Ok(bytes),
                Ok(_) => {
                    let digest = wanted.digest;
                    tracing::warn!(%mirror, %digest, "a mirror has other bytes than were asked for");
                }
                Err(error) => passed_over(&mirror, &error),
            }
        }
        self.document_at(reference, wanted, limit).await
    }

    /// What a name means now, and the bytes of it: a manifest or an index, verified.
    pub async fn manifest(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>)> {
        let descriptor = self.head(reference).await?;
        let bytes = self
            .document(reference, &descriptor, DOCUMENT_LIMIT_BYTES)
            .await?;
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest {
            return Err(rbuild_cache::Error::DigestMismatch {
                expected: descriptor.digest,
                actual,
            }
            .into());
        }
        Document::parse(&bytes, &descriptor.media_type, &actual.to_string())?;
        Ok((descriptor, bytes))
    }

    /// As [`Client::manifest`], without mirrors.
    pub(crate) async fn own_manifest(
        &self,
        reference: &Reference,
    ) -> Result<(Descriptor, Vec<u8>)> {
        let descriptor = self.head_at(reference).await?;
        let bytes = self
            .document_at(reference, &descriptor, DOCUMENT_LIMIT_BYTES)
            .await?;
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest {
            return Err(rbuild_cache::Error::DigestMismatch {
                expected: descriptor.digest,
                actual,
            }
            .into());
        }
        Ok((descriptor, bytes))
    }

    /// As [`Client::document`], without mirrors.
    pub(crate) async fn own_document(
        &self,
        reference: &Reference,
        wanted: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>> {
        self.document_at(reference, wanted, limit).await
    }

    /// As [`Client::blob`], without mirrors.
    pub(crate) async fn own_blob(
        &self,
        store: &Arc<Store>,
        reference: &Reference,
        wanted: &Descriptor,
        progress: &Progress,
    ) -> Result<()> {
        self.blob_at(store, reference, wanted, progress).await
    }

    async fn document_at(
        &self,
        reference: &Reference,
        wanted: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>> {
        let kind = if wanted.is_manifest() || wanted.is_index() {
            "manifests"
        } else {
            "blobs"
        };
        let address = self
            .address(reference, &format!("{kind}/{}", wanted.digest))
            .await?;
        let call = Call::read(Method::GET, reference, address).headers(accept_manifests());
        let mut tries = 0;
        loop {
            let response = self.send(&call).await.map_err(|failure| failure.error)?;
            let url = response.url().clone();
            let failure = match read_body(response, &url, limit).await {
                Ok(body) => return Ok(body),
                Err(failure) => failure,
            };
            tries += 1;
            if !failure.passing || tries >= TRIES {
                return Err(failure.error);
            }
            failure.pause(tries).await;
        }
    }

    /// Brings a blob into the store, verified. Mirrors are asked first.
    pub(crate) async fn blob(
        &self,
        store: &Arc<Store>,
        reference: &Reference,
        wanted: &Descriptor,
        progress: &Progress,
    ) -> Result<()> {
        for mirror in self.mirrors(reference) {
            match self.blob_at(store, &mirror, wanted, progress).await {
                Ok(()) => return Ok(()),
                Err(error) => passed_over(&mirror, &error),
            }
        }
        self.blob_at(store, reference, wanted, progress).await
    }

    /// What broke off goes on where it ended; the digest is over all of it.
    async fn blob_at(
        &self,
        store: &Arc<Store>,
        reference: &Reference,
        wanted: &Descriptor,
        progress: &Progress,
    ) -> Result<()> {
        let mut ingest = begin(store, wanted).await?;
        let (mut tries, mut best) = (0, 0);
        loop {
            let (part, failure) = self
                .part(store, reference, wanted, ingest, progress)
                .await?;
            ingest = part;
            let Some(failure) = failure else { break };
            if ingest.written() > best + GETTING_ON_BYTES {
                (best, tries) = (ingest.written(), 0);
            }
            tries += 1;
            if !failure.passing || tries >= TRIES {
                return Err(failure.error);
            }
            tracing::debug!(error = %failure.error, at = ingest.written(), "going on with a blob");
            failure.pause(tries).await;
        }
        let (digest, size) = (wanted.digest, wanted.size);
        blocking(move || Ok(ingest.commit(Some(&digest), Some(size))?)).await?;
        Ok(())
    }

    /// Adds what is missing of a blob, as far as one answer brings it. The error is what ended it before its end.
    async fn part(
        &self,
        store: &Arc<Store>,
        reference: &Reference,
        wanted: &Descriptor,
        mut ingest: Ingest,
        progress: &Progress,
    ) -> Result<(Ingest, Option<Failure>)> {
        let start = ingest.written();
        if start >= wanted.size && wanted.size > 0 {
            return Ok((ingest, None));
        }
        let mut headers = HeaderMap::new();
        if start > 0 {
            let range = HeaderValue::from_str(&format!("bytes={start}-"));
            headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let address = self
            .address(reference, &format!("blobs/{}", wanted.digest))
            .await?;
        let call = Call::read(Method::GET, reference, address).headers(headers);
        let response = match self.send_once(&call).await {
            Ok(response) => response,
            Err(failure) => return Ok((ingest, Some(failure))),
        };
        let url = response.url().clone();
        if start > 0 && !continues(&response, start) {
            // All of it again; what is here is thrown away.
            ingest = begin(store, wanted).await?;
        }
        receive(response, &url, ingest, wanted, progress).await
    }
}

/// A small body whole.
pub(crate) async fn body(response: Response, url: &Url, limit: u64) -> Result<Vec<u8>> {
    let read = read_body(response, url, limit).await;
    read.map_err(|failure| failure.error)
}

/// Brings a body that is a blob into the store, verified.
pub(crate) async fn into_store(
    response: Response,
    url: &Url,
    store: &Arc<Store>,
    wanted: &Descriptor,
    progress: &Progress,
) -> Result<()> {
    let (ingest, broken) =
        receive(response, url, begin(store, wanted).await?, wanted, progress).await?;
    if let Some(failure) = broken {
        return Err(failure.error);
    }
    let (digest, size) = (wanted.digest, wanted.size);
    blocking(move || Ok(ingest.commit(Some(&digest), Some(size))?)).await?;
    Ok(())
}

/// Adds a body to a blob, as far as it comes. The error is what ended it before its end.
async fn receive(
    response: Response,
    url: &Url,
    ingest: Ingest,
    wanted: &Descriptor,
    progress: &Progress,
) -> Result<(Ingest, Option<Failure>)> {
    if let Some(length) = response.content_length()
        && length > wanted.size.saturating_sub(ingest.written())
    {
        let reason = format!("the blob is longer than the {} bytes declared", wanted.size);
        return Err(failed(url, reason));
    }
    let (sender, receiver) = mpsc::channel(CHUNKS_UNDER_WAY);
    let writing = {
        let (wanted, progress) = (wanted.clone(), Arc::clone(progress));
        tokio::spawn(blocking(move || {
            write(ingest, receiver, &wanted, &progress)
        }))
    };
    let broken = feed(response, url, &sender).await;
    drop(sender);
    let ingest = writing.await.map_err(|error| Error::Io {
        action: "write the blob",
        path: wanted.digest.to_string(),
        source: std::io::Error::other(error),
    })??;
    let failure = match broken {
        None if ingest.written() < wanted.size => {
            let reason = format!(
                "the blob ended after {} of {} bytes",
                ingest.written(),
                wanted.size
            );
            Some(Failure::passing(failed(url, reason)))
        }
        other => other,
    };
    Ok((ingest, failure))
}

fn passed_over(mirror: &Reference, error: &Error) {
    tracing::info!(%mirror, %error, "a mirror is passed over");
}

async fn begin(store: &Arc<Store>, wanted: &Descriptor) -> Result<Ingest> {
    let (store, digest) = (Arc::clone(store), wanted.digest);
    blocking(move || Ok(store.ingest_expected(&digest)?)).await
}

/// Passes chunks on until the body ends or breaks, or the writer wants no more.
async fn feed(response: Response, url: &Url, to: &mpsc::Sender<Bytes>) -> Option<Failure> {
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        match chunk {
            Ok(chunk) => {
                if to.send(chunk).await.is_err() {
                    return None;
                }
            }
            Err(error) => return Some(broken(url, error)),
        }
    }
    None
}

fn write(
    mut ingest: Ingest,
    mut chunks: mpsc::Receiver<Bytes>,
    wanted: &Descriptor,
    progress: &Progress,
) -> Result<Ingest> {
    let name = wanted.digest.to_string();
    let mut told = None;
    while let Some(chunk) = chunks.blocking_recv() {
        if ingest.written().saturating_add(chunk.len() as u64) > wanted.size {
            return Err(rbuild_cache::Error::TooLarge {
                what: format!("blob {name}"),
                limit: wanted.size,
            }
            .into());
        }
        ingest.write_all(&chunk).map_err(|source| Error::Io {
            action: "write the blob",
            path: name.clone(),
            source,
        })?;
        let step = ingest.written() / PROGRESS_STEP_BYTES;
        if told != Some(step) {
            told = Some(step);
            progress(&name, ingest.written(), wanted.size);
        }
    }
    if ingest.written() == wanted.size {
        progress(&name, wanted.size, wanted.size);
    }
    Ok(ingest)
}

/// Whether an answer goes on at `start`, as asked.
fn continues(response: &Response, start: u64) -> bool {
    response.status() == StatusCode::PARTIAL_CONTENT
        && header(response, CONTENT_RANGE.as_str())
            .is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}

/// Reads all of a small body.
pub(super) async fn read_body(
    response: Response,
    url: &Url,
    limit: u64,
) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| broken(url, error))?;
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            let reason = format!("it sends more than {limit} bytes for a document");
            return Err(Failure::lasting(failed(url, reason)));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn broken(url: &Url, error: reqwest::Error) -> Failure {
    Failure::passing(Error::Registry {
        url: shown_url(url),
        reason: "the connection broke".to_owned(),
        source: Some(Box::new(error.without_url())),
    })
}

pub(super) fn header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

fn descriptor(url: &Url, media_type: &str, digest: Digest, size: u64) -> Result<Descriptor> {
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if size > DOCUMENT_LIMIT_BYTES {
        let reason = format!("its manifest has {size} bytes, more than {DOCUMENT_LIMIT_BYTES}");
        return Err(failed(url, reason));
    }
    let descriptor = Descriptor::new(media_type, digest, size);
    if descriptor.is_manifest() || descriptor.is_index() {
        return Ok(descriptor);
    }
    let media_type = shown(media_type.as_bytes());
    Err(failed(
        url,
        format!("`{media_type}` is not the media type of an image that can be read"),
    ))
}

fn accept_manifests() -> HeaderMap {
    [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST]
        .into_iter()
        .map(|media_type| (ACCEPT, HeaderValue::from_static(media_type)))
        .collect()
}
