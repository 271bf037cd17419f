//! Manifests and blobs.

use std::future::Future;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use rbuild_cache::content::Ingest;
use rbuild_cache::{Digest, Store};
use reqwest::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE,
};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use super::Client;
use super::arriving::Arriving;
use super::transport::{Call, Failure, TRIES, failed};
use crate::error::{Error, Result, shown};
use crate::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, DOCUMENT_LIMIT_BYTES, Descriptor, Document, OCI_INDEX,
    OCI_MANIFEST, own_media_type,
};
use crate::reference::Reference;
use crate::source::{Progress, blocking};

/// Chunks between the network and the thread that writes.
const CHUNKS_UNDER_WAY: usize = 32;
/// A broken download that has brought this much more counts as getting on.
const GETTING_ON_BYTES: u64 = 64 << 10;
/// Progress is told in steps of this many bytes.
const PROGRESS_STEP_BYTES: u64 = 256 << 10;

/// Tries of a request to a mirror: behind it is the registry itself.
const MIRROR_TRIES: u32 = 1;
/// For all of a document.
const DOCUMENT_TIME: u32 = 10;

/// What a name means.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) descriptor: Descriptor,
    /// Its bytes, verified, where they came along.
    pub(crate) bytes: Option<Vec<u8>>,
}

impl Client {
    /// What a name means now. Mirrors are asked first. `with_bytes`: they are not here, as far as one knows.
    pub(crate) async fn named(&self, reference: &Reference, with_bytes: bool) -> Result<Named> {
        for mirror in self.mirrors(reference) {
            match self.named_at(&mirror, with_bytes, MIRROR_TRIES).await {
                Ok(found) => return Ok(found),
                Err(error) => self.pass_over(&mirror, &error),
            }
        }
        self.named_at(reference, with_bytes, TRIES).await
    }

    async fn named_at(&self, reference: &Reference, with_bytes: bool, tries: u32) -> Result<Named> {
        let name = match (&reference.digest, reference.tag_or_default()) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_owned(),
            (None, None) => return Err(Error::NotFound(reference.familiar())),
        };
        let address = self
            .address(reference, &format!("manifests/{name}"))
            .await?;
        let call = Call {
            tries,
            ..Call::read(Method::HEAD, reference, address).headers(accept_manifests())
        };
        if !with_bytes && let Some(descriptor) = self.told(&call).await? {
            return Ok(Named {
                descriptor,
                bytes: None,
            });
        }
        let call = Call {
            method: Method::GET,
            ..call
        };
        let (response, body) = self.small(&call, DOCUMENT_LIMIT_BYTES).await?;
        let actual = Digest::of(&body);
        let theirs = response.digest();
        if let Some(expected) = reference.digest.or(theirs)
            && expected != actual
        {
            let of = match reference.digest {
                Some(_) => "was asked for",
                None => "it says that it is",
            };
            let reason = format!("it sent {actual}, and not what {of}, {expected}");
            return Err(failed(&response.url, reason));
        }
        let media_type = response.media_type().unwrap_or_default();
        let media_type = match is_document(&media_type) {
            true => media_type,
            // Files behind a web server are of any type. What is no document at all is told by its own type.
            false => own_media_type(&body, "it")
                .ok()
                .filter(|own| is_document(own) && is_vague(&media_type))
                .unwrap_or(media_type),
        };
        let size = body.len() as u64;
        Ok(Named {
            descriptor: descriptor(&response.url, &media_type, actual, size)?,
            bytes: Some(body),
        })
    }

    /// What a HEAD tells of a document; `None` from a registry that tells too little in one, or knows none.
    async fn told(&self, call: &Call<'_>) -> Result<Option<Descriptor>> {
        let response = match self.send(call).await {
            Ok(response) => response,
            Err(failure) if failure.status.is_some_and(knows_no_head) => return Ok(None),
            Err(failure) => return Err(failure.error),
        };
        let response = Answer::of(&response);
        let digest = response.digest();
        let size = response.header(CONTENT_LENGTH.as_str());
        let size = size.and_then(|text| text.parse().ok());
        match (
            response.media_type().filter(|it| is_document(it)),
            call.reference.digest.or(digest),
            size.filter(|size| *size > 0),
        ) {
            (Some(media_type), Some(digest), Some(size)) => {
                descriptor(&response.url, &media_type, digest, size).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// A small body whole, asked for again where it breaks off.
    async fn small(&self, call: &Call<'_>, limit: u64) -> Result<(Answer, Vec<u8>)> {
        let mut tries = 0;
        loop {
            let response = self.send(call).await.map_err(|failure| failure.error)?;
            let answer = Answer::of(&response);
            let failure = match self.read_body(response, &answer.url, limit).await {
                Ok(body) => return Ok((answer, body)),
                Err(failure) => failure,
            };
            tries += failure.weight();
            if !failure.passing || tries >= call.tries {
                return Err(failure.error);
            }
            failure.pause(tries).await;
        }
    }

    /// A manifest, index or config. Not verified here, unless it comes from a mirror.
    pub(crate) async fn document(
        &self,
        reference: &Reference,
        wanted: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>> {
        for mirror in self.mirrors(reference) {
            match self.document_at(&mirror, wanted, limit, MIRROR_TRIES).await {
                Ok(bytes) if Digest::of(&bytes) == wanted.digest => return Ok(bytes),
                Ok(_) => {
                    let digest = wanted.digest;
                    tracing::warn!(%mirror, %digest, "a mirror has other bytes than were asked for");
                    self.do_without(&mirror);
                }
                Err(error) => self.pass_over(&mirror, &error),
            }
        }
        let read = self.document_at(reference, wanted, limit, TRIES).await;
        self.or_lacking(reference, wanted, read).await
    }

    /// What a name means now, and the bytes of it: a manifest or an index, verified.
    pub async fn manifest(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>)> {
        let Named { descriptor, bytes } = self.named(reference, true).await?;
        let bytes = bytes.unwrap_or_default();
        let name = descriptor.digest.to_string();
        Document::parse(&bytes, &descriptor.media_type, &name)?;
        Ok((descriptor, bytes))
    }

    /// As [`Client::manifest`], without mirrors.
    pub(crate) async fn own_manifest(
        &self,
        reference: &Reference,
    ) -> Result<(Descriptor, Vec<u8>)> {
        let Named { descriptor, bytes } = self.named_at(reference, true, TRIES).await?;
        Ok((descriptor, bytes.unwrap_or_default()))
    }

    /// As [`Client::document`], without mirrors.
    pub(crate) async fn own_document(
        &self,
        reference: &Reference,
        wanted: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>> {
        self.document_at(reference, wanted, limit, TRIES).await
    }

    /// As [`Client::blob`], without mirrors.
    pub(crate) async fn own_blob(
        &self,
        store: &Arc<Store>,
        reference: &Reference,
        wanted: &Descriptor,
        progress: &Progress,
    ) -> Result<()> {
        self.blob_at(store, reference, wanted, progress, TRIES)
            .await
    }

    async fn document_at(
        &self,
        reference: &Reference,
        wanted: &Descriptor,
        limit: u64,
        tries: u32,
    ) -> Result<Vec<u8>> {
        let address = self.address(reference, &part_of(wanted)).await?;
        let call = Call {
            tries,
            ..Call::read(Method::GET, reference, address).headers(accept_manifests())
        };
        Ok(self.small(&call, limit).await?.1)
    }

    /// Says of what a registry does not have that it lacks it, and not that there is no such image.
    async fn or_lacking<T>(
        &self,
        reference: &Reference,
        wanted: &Descriptor,
        read: Result<T>,
    ) -> Result<T> {
        if !matches!(read, Err(Error::NotFound(_))) {
            return read;
        }
        let url = self.address(reference, &part_of(wanted)).await?;
        let reason = match wanted.is_foreign() {
            true => {
                "the registry does not have this layer, which may not be distributed; addresses that an image names for \
                 its layers are not followed"
            }
            false => {
                "the registry does not have this part of the image: push the image again, or use another tag"
            }
        };
        Err(failed(&url, reason))
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
            let brought = self.blob_at(store, &mirror, wanted, progress, MIRROR_TRIES);
            match brought.await {
                Ok(()) => return Ok(()),
                Err(error) => self.pass_over(&mirror, &error),
            }
        }
        let brought = self
            .blob_at(store, reference, wanted, progress, TRIES)
            .await;
        self.or_lacking(reference, wanted, brought).await
    }

    async fn blob_at(
        &self,
        store: &Arc<Store>,
        reference: &Reference,
        wanted: &Descriptor,
        progress: &Progress,
        most: u32,
    ) -> Result<()> {
        let path = format!("blobs/{}", wanted.digest);
        let address = self.address(reference, &path).await?;
        let ask = |headers: HeaderMap| {
            let call = Call::read(Method::GET, reference, address.clone()).headers(headers);
            async move { self.send_once(&call).await }
        };
        self.in_parts(store, wanted, progress, most, ask).await
    }

    /// Brings a blob by as many answers as it takes: what broke off goes on where it ended; the digest is over all of
    /// it. `ask` is given the headers of the request, and does not try again by itself.
    pub(crate) async fn in_parts<A>(
        &self,
        store: &Arc<Store>,
        wanted: &Descriptor,
        progress: &Progress,
        most: u32,
        ask: impl Fn(HeaderMap) -> A,
    ) -> Result<()>
    where
        A: Future<Output = Result<Response, Failure>>,
    {
        let mut ingest = begin(store, wanted).await?;
        let (mut tries, mut best) = (0, 0);
        loop {
            let (part, failure) = self.part(store, wanted, ingest, progress, &ask).await?;
            ingest = part;
            let Some(failure) = failure else { break };
            if ingest.written() > best + GETTING_ON_BYTES {
                (best, tries) = (ingest.written(), 0);
            }
            tries += failure.weight();
            if !failure.passing || tries >= most {
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
    async fn part<A>(
        &self,
        store: &Arc<Store>,
        wanted: &Descriptor,
        mut ingest: Ingest,
        progress: &Progress,
        ask: impl Fn(HeaderMap) -> A,
    ) -> Result<(Ingest, Option<Failure>)>
    where
        A: Future<Output = Result<Response, Failure>>,
    {
        let start = ingest.written();
        if start >= wanted.size && wanted.size > 0 {
            return Ok((ingest, None));
        }
        let mut headers = HeaderMap::new();
        if start > 0 {
            let range = HeaderValue::from_str(&format!("bytes={start}-"));
            headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let response = match ask(headers).await {
            Ok(response) => response,
            Err(failure) if start > 0 && failure.status.is_some_and(knows_no_range) => {
                // From its beginning it may be had.
                let failure = Failure {
                    passing: true,
                    ..failure
                };
                return Ok((begin(store, wanted).await?, Some(failure)));
            }
            Err(failure) => return Ok((ingest, Some(failure))),
        };
        let url = response.url().clone();
        if start > 0 && !continues(&response, start) {
            // All of it again; what is here is thrown away.
            ingest = begin(store, wanted).await?;
        }
        receive(
            self.arriving(response, &url),
            &url,
            ingest,
            wanted,
            progress,
        )
        .await
    }

    /// Reads all of a small body.
    pub(super) async fn read_body(
        &self,
        response: Response,
        url: &Url,
        limit: u64,
    ) -> Result<Vec<u8>, Failure> {
        let mut body = self.arriving(response, url);
        let read = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = body.next().await {
                let chunk = chunk?;
                if bytes.len() as u64 + chunk.len() as u64 > limit {
                    let reason = format!("it sends more than {limit} bytes for a document");
                    return Err(Failure::lasting(failed(url, reason)));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        let read = tokio::time::timeout(self.idle() * DOCUMENT_TIME, read).await;
        let slow = |_| Failure::passing(failed(url, "it takes too long to send a document"));
        read.map_err(slow)?
    }

    /// A small body whole.
    pub(crate) async fn body(&self, response: Response, url: &Url, limit: u64) -> Result<Vec<u8>> {
        let read = self.read_body(response, url, limit).await;
        read.map_err(|failure| failure.error)
    }

    /// A mirror that lacks something may have another thing. One that fails otherwise is not asked again.
    fn pass_over(&self, mirror: &Reference, error: &Error) {
        tracing::info!(%mirror, %error, "a mirror is passed over");
        if !matches!(error, Error::NotFound(_)) {
            self.do_without(mirror);
        }
    }
}

/// What is said of a body before it comes.
struct Answer {
    url: Url,
    headers: HeaderMap,
}

impl Answer {
    fn of(response: &Response) -> Self {
        Self {
            url: response.url().clone(),
            headers: response.headers().clone(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn digest(&self) -> Option<Digest> {
        self.header("docker-content-digest")?.parse().ok()
    }

    /// Without parameters.
    fn media_type(&self) -> Option<String> {
        let whole = self.header(CONTENT_TYPE.as_str())?;
        Some(whole.split(';').next()?.trim().to_owned())
    }
}

/// Whether a registry that answers so to a HEAD may know the same by a GET.
pub(super) fn knows_no_head(status: StatusCode) -> bool {
    status == StatusCode::NOT_IMPLEMENTED
        || (status.is_client_error()
            && !matches!(
                status,
                StatusCode::UNAUTHORIZED
                    | StatusCode::FORBIDDEN
                    | StatusCode::NOT_FOUND
                    | StatusCode::REQUEST_TIMEOUT
                    | StatusCode::TOO_MANY_REQUESTS
            ))
}

/// Whether it is the part that is refused, and not the whole.
fn knows_no_range(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::RANGE_NOT_SATISFIABLE
            | StatusCode::BAD_REQUEST
            | StatusCode::NOT_IMPLEMENTED
            | StatusCode::METHOD_NOT_ALLOWED
    )
}

/// Where a blob or document is, below its repository.
fn part_of(wanted: &Descriptor) -> String {
    let kind = match wanted.is_manifest() || wanted.is_index() {
        true => "manifests",
        false => "blobs",
    };
    format!("{kind}/{}", wanted.digest)
}

/// Adds a body to a blob, as far as it comes. The error is what ended it before its end.
async fn receive(
    arriving: Arriving,
    url: &Url,
    ingest: Ingest,
    wanted: &Descriptor,
    progress: &Progress,
) -> Result<(Ingest, Option<Failure>)> {
    if let Some(length) = arriving.length()
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
    let broken = feed(arriving, &sender).await;
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

async fn begin(store: &Arc<Store>, wanted: &Descriptor) -> Result<Ingest> {
    let (store, digest) = (Arc::clone(store), wanted.digest);
    blocking(move || Ok(store.ingest_expected(&digest)?)).await
}

/// Passes chunks on until the body ends or breaks, or the writer wants no more.
async fn feed(mut body: Arriving, to: &mpsc::Sender<Bytes>) -> Option<Failure> {
    while let Some(chunk) = body.next().await {
        match chunk {
            Ok(chunk) => {
                if to.send(chunk).await.is_err() {
                    return None;
                }
            }
            Err(failure) => return Some(failure),
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

pub(super) fn header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

fn is_document(media_type: &str) -> bool {
    [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].contains(&media_type)
}

/// What servers call files of which they know nothing.
fn is_vague(media_type: &str) -> bool {
    [
        "",
        "application/json",
        "application/octet-stream",
        "binary/octet-stream",
        "text/plain",
    ]
    .contains(&media_type)
}

fn descriptor(url: &Url, media_type: &str, digest: Digest, size: u64) -> Result<Descriptor> {
    if size > DOCUMENT_LIMIT_BYTES {
        let reason = format!("its manifest has {size} bytes, more than {DOCUMENT_LIMIT_BYTES}");
        return Err(failed(url, reason));
    }
    let descriptor = Descriptor::new(media_type, digest, size);
    if descriptor.is_manifest() || descriptor.is_index() {
        return Ok(descriptor);
    }
    let shown = shown(media_type.as_bytes());
    let mut reason = format!("`{shown}` is not the media type of an image that can be read");
    if media_type.contains("manifest.v1+") && media_type.contains("docker") {
        reason.push_str(
            ": schema 1 is given up everywhere; push the image again with any tool of today",
        );
    }
    Err(failed(url, reason))
}

fn accept_manifests() -> HeaderMap {
    [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST]
        .into_iter()
        .map(|media_type| (ACCEPT, HeaderValue::from_static(media_type)))
        .collect()
}
