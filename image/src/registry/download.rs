//! A file behind any http or https address: what ADD and contexts of URLs bring.
//!
//! Bytes are taken as they come: nothing is asked to be compressed, and nothing is decompressed. A broken download
//! begins again, because without a digest nobody knows whether its end belongs to the beginning that is here. What
//! the file is for, and what is remembered of it, is the caller's business.

use std::fs::File;
use std::io::{Seek as _, Write as _};

use bytes::Bytes;
use rbuild_cache::Digest;
use reqwest::header::{
    ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
    LOCATION,
};
use reqwest::{Response, StatusCode};
use sha2::Digest as _;
use tokio::sync::mpsc;
use url::Url;

use super::Client;
use super::answer::{passes, retry_after};
use super::arriving::{Arriving, Patience};
use super::transport::{Failure, TRIES, failed, is_redirect, shown_url};
use crate::error::{Error, Result};
use crate::source::blocking;

/// Chunks between the network and the thread that writes.
const CHUNKS_UNDER_WAY: usize = 32;

/// What a server said of a file, by which it can be asked whether that is still so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// What the validators are of is still what the address gives.
    Unchanged,
    New {
        digest: Digest,
        size: u64,
        validators: Validators,
    },
}

/// What is to be fetched.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub url: &'a Url,
    pub known: &'a Validators,
    /// Sent as `Authorization` to the address's own origin only. A name and password in the address win.
    pub authorization: Option<&'a str>,
    pub limit_bytes: u64,
    /// `None`: all addresses that it is sent to may be asked.
    pub gate: Option<Gate<'a>>,
}

/// Says which addresses may be asked.
#[derive(Clone, Copy)]
pub struct Gate<'a>(pub &'a (dyn Fn(&Url) -> bool + Sync));

impl std::fmt::Debug for Gate<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl Client {
    /// Writes what an address gives to `file`, from its beginning. `progress` hears bytes done and bytes in all (0
    /// where that is not known).
    pub async fn fetch(
        &self,
        request: Request<'_>,
        file: &File,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Fetched> {
        let mut tries = 0;
        loop {
            let failure = match self.fetch_once(request, file, progress).await {
                Ok(fetched) => return Ok(fetched),
                Err(failure) => failure,
            };
            tries += failure.weight();
            if !failure.passing || tries >= TRIES {
                return Err(failure.error);
            }
            tracing::debug!(error = %failure.error, tries, "fetching again");
            failure.pause(tries).await;
        }
    }

    async fn fetch_once(
        &self,
        request: Request<'_>,
        file: &File,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Fetched, Failure> {
        let headers = conditions(request.known);
        let (url, response) = self.follow(request, &headers).await?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && !headers.is_empty() {
            return Ok(Fetched::Unchanged);
        }
        if !status.is_success() || status == StatusCode::PARTIAL_CONTENT {
            return Err(refused(&url, &response));
        }
        let validators = Validators {
            etag: text(&response, ETAG),
            last_modified: text(&response, LAST_MODIFIED),
        };
        let total = response.content_length().unwrap_or(0);
        if total > request.limit_bytes {
            return Err(Failure::lasting(too_large(&url, request.limit_bytes)));
        }
        let mut file = file.try_clone().map_err(unwritable(&url))?;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .map_err(unwritable(&url))?;
        let (sender, receiver) = mpsc::channel(CHUNKS_UNDER_WAY);
        let writing = {
            let url = url.clone();
            tokio::spawn(blocking(move || write(&mut file, receiver, &url)))
        };
        let fed = feed(
            self.arriving(response, &url),
            &url,
            request.limit_bytes,
            total,
            &sender,
            progress,
        )
        .await;
        drop(sender);
        let (digest, size) = writing
            .await
            .map_err(|error| unwritable(&url)(std::io::Error::other(error)))?
            .map_err(Failure::lasting)?;
        fed?;
        Ok(Fetched::New {
            digest,
            size,
            validators,
        })
    }

    /// Asks, and goes where it is sent: over http and https only, never from https to http.
    async fn follow(
        &self,
        request: Request<'_>,
        headers: &HeaderMap,
    ) -> Result<(Url, Response), Failure> {
        let mut url = request.url.clone();
        let mut redirects = 0;
        loop {
            let own = url.origin() == request.url.origin() && url.username().is_empty();
            let authorization = request.authorization.filter(|_| own);
            let response = self.get(&url, headers, authorization).await?;
            if !is_redirect(response.status()) {
                return Ok((url, response));
            }
            redirects += 1;
            let target = response.headers().get(LOCATION);
            let target = target.and_then(|value| value.to_str().ok());
            let next = self
                .redirected(&url, target, redirects)
                .map_err(Failure::lasting)?;
            if url.scheme() == "https" && next.scheme() == "http" {
                let error = failed(&url, "it redirects from https to http");
                return Err(Failure::lasting(error));
            }
            if request.gate.is_some_and(|gate| !(gate.0)(&next)) {
                let reason = format!(
                    "it redirects to {}, which may not be reached",
                    shown_url(&next)
                );
                return Err(Failure::lasting(failed(&url, reason)));
            }
            url = next;
        }
    }

    /// Unlike registries, whatever is named with https must show a valid certificate.
    async fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&str>,
    ) -> Result<Response, Failure> {
        let clients = self.clients().map_err(Failure::lasting)?;
        let client = if url.scheme() == "http" && self.is_lax(url) {
            clients.lax(url)
        } else {
            clients.usual(url).map_err(Failure::lasting)?
        };
        let mut request = client.get(url.clone()).headers(headers.clone());
        if let Some(authorization) = authorization {
            request = request.header(reqwest::header::AUTHORIZATION, authorization);
        }
        self.sent(request, url, &Patience::ForBytes(0)).await
    }
}

fn conditions(known: &Validators) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, value: &Option<String>| {
        if let Some(value) = value.as_deref()
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(name, value);
        }
    };
    add(IF_NONE_MATCH, &known.etag);
    add(IF_MODIFIED_SINCE, &known.last_modified);
    headers
}

fn text(response: &Response, name: HeaderName) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// Passes chunks on until the body ends or breaks.
async fn feed(
    mut body: Arriving,
    url: &Url,
    limit: u64,
    total: u64,
    to: &mpsc::Sender<Bytes>,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(), Failure> {
    let mut done = 0_u64;
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        done = done.saturating_add(chunk.len() as u64);
        if done > limit {
            return Err(Failure::lasting(too_large(url, limit)));
        }
        // The writer stops listening only when it failed, and says so itself.
        if to.send(chunk).await.is_err() {
            return Ok(());
        }
        progress(done, total);
    }
    Ok(())
}

/// Blocking.
fn write(file: &mut File, mut chunks: mpsc::Receiver<Bytes>, url: &Url) -> Result<(Digest, u64)> {
    let mut hasher = sha2::Sha256::new();
    let mut size = 0_u64;
    while let Some(chunk) = chunks.blocking_recv() {
        file.write_all(&chunk)
            .map_err(|error| unwritable(url)(error).error)?;
        hasher.update(&chunk);
        size += chunk.len() as u64;
    }
    Ok((Digest::from_bytes(hasher.finalize().into()), size))
}

fn unwritable(url: &Url) -> impl Fn(std::io::Error) -> Failure {
    let url = shown_url(url);
    move |source| {
        Failure::lasting(Error::Io {
            action: "keep what came from",
            path: url.clone(),
            source,
        })
    }
}

fn too_large(url: &Url, limit: u64) -> Error {
    failed(url, format!("it gives more than {limit} bytes"))
}

fn refused(url: &Url, response: &Response) -> Failure {
    let status = response.status();
    Failure {
        passing: passes(status),
        retry_after: retry_after(response.headers()),
        status: Some(status),
        ..Failure::lasting(failed(url, format!("it answers {status}")))
    }
}
