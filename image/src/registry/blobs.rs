//! Blobs into the store: mirrors first, by as many answers as it takes, the digest over all of it.

use std::future::Future;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use rbuild_cache::Store;
use rbuild_cache::content::Ingest;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use super::Client;
use super::answer::header;
use super::arriving::Arriving;
use super::mirrors::MIRROR_TRIES;
use super::transport::{Call, Failure, TRIES, failed};
use crate::error::{Error, Result};
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::source::{Progress, blocking};

/// Chunks between the network and the thread that writes.
const CHUNKS_UNDER_WAY: usize = 32;
/// A broken download that has brought this much more counts as getting on.
const GETTING_ON_BYTES: u64 = 64 << 10;
/// Progress is told in steps of this many bytes.
const PROGRESS_STEP_BYTES: u64 = 256 << 10;

impl Client {
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
                // The registry may still give all of it.
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
