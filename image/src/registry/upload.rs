//! One blob on its way to a registry (OCI distribution-spec, "Pushing blobs"): is it there, can it be mounted, else
//! chunks, each asked for again from where the registry has it, and a closing PUT by which the registry verifies.
//!
//! Bytes are read from the store a chunk at a time and hashed on the way: damage on the disk is told as such, and
//! does not reach the registry's digest check.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rbuild_cache::{Digest, Store};
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
};
use reqwest::{Method, Response, StatusCode};
use sha2::Digest as _;
use url::Url;

use super::Client;
use super::answer::{header, knows_no_head};
use super::push::{Progress, State, Target};
use super::transport::{Call, Failure, TRIES, as_spoken, failed};
use crate::error::{Error, Result};
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::source::blocking;

/// What a broken connection may cost is a chunk: they grow while all goes well and shrink when it does not.
const FIRST_CHUNK_BYTES: u64 = 1 << 20;
const LARGEST_CHUNK_BYTES: u64 = 8 << 20;
const SMALLEST_CHUNK_BYTES: u64 = 64 << 10;
/// The largest, once a connection broke: what broke one will break others.
const LARGEST_ROUGH_CHUNK_BYTES: u64 = 1 << 20;
/// What a registry may ask for as its smallest chunk; it is held in memory.
pub(super) const CHUNK_LIMIT_BYTES: u64 = 64 << 20;
/// So many chunks that came through make the next ones larger.
const SMOOTH_CHUNKS: u32 = 4;
/// How often one blob is begun from its start, where the registry keeps nothing of what broke off: so often in a row
/// without getting further than before, and so often in all.
const FRUITLESS_SESSIONS: u32 = 8;
const SESSIONS: u32 = 48;

/// An upload as the registry knows it.
struct Session {
    url: Url,
    /// What the registry has.
    offset: u64,
    smallest_chunk: u64,
    /// What an answer without bytes took.
    pause: Duration,
}

/// How large the next chunk is. A session that begins anew goes on with what those before it learned.
struct Pace {
    chunk: u64,
    largest: u64,
    /// Chunks in a row that came through.
    smooth: u32,
    /// The furthest that any session came, in bytes.
    best: u64,
}

impl Pace {
    fn new() -> Self {
        Self {
            chunk: FIRST_CHUNK_BYTES,
            largest: LARGEST_CHUNK_BYTES,
            smooth: 0,
            best: 0,
        }
    }

    fn came_through(&mut self) {
        self.smooth += 1;
        if self.smooth >= SMOOTH_CHUNKS {
            (self.smooth, self.chunk) = (0, (self.chunk * 2).min(self.largest));
        }
    }

    fn broke(&mut self) {
        (self.smooth, self.largest) = (0, LARGEST_ROUGH_CHUNK_BYTES);
        self.chunk = (self.chunk / 2).clamp(SMALLEST_CHUNK_BYTES, self.largest);
    }
}

impl Client {
    /// Brings one blob to the registry. Returns whether its bytes went.
    pub(super) async fn upload(
        &self,
        store: &Arc<Store>,
        target: &Target<'_>,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<bool> {
        if self.has(target, blob).await? {
            progress(blob, State::Exists);
            return Ok(false);
        }
        let mut begun = None;
        for from in target.mounts.get(&blob.digest).into_iter().flatten() {
            match self.mount(target, blob, from).await? {
                Mount::Done => {
                    progress(blob, State::Mounted(from.clone()));
                    return Ok(false);
                }
                Mount::Began(session) => {
                    begun = Some(session);
                    break;
                }
                Mount::Refused => {}
            }
        }
        // Questions are cheap, and bytes are not.
        let _sending = target.sending.acquire().await;
        if let Some(from) = target.from {
            self.bring(store, from, blob, progress).await?;
        }
        let bytes = Arc::new(Reader::open(store, blob).await?);
        let (mut sessions, mut fruitless, mut pace) = (0, 0, Pace::new());
        loop {
            let session = match begun.take() {
                Some(session) => session,
                None => self.begin(target).await?,
            };
            progress(blob, State::Sending(0));
            let before = pace.best;
            if self
                .send_all(target, blob, &bytes, session, &mut pace, progress)
                .await?
            {
                progress(blob, State::Sent);
                return Ok(true);
            }
            sessions += 1;
            fruitless = match pace.best > before {
                true => 0,
                false => fruitless + 1,
            };
            if fruitless >= FRUITLESS_SESSIONS || sessions >= SESSIONS {
                let url = self.address(target.reference, "blobs/uploads/").await?;
                let reason = format!("it lost the upload of {} {sessions} times", blob.digest);
                return Err(failed(&url, reason));
            }
            tracing::debug!(digest = %blob.digest, sessions, "an upload begins anew");
        }
    }

    /// Whether the registry has a blob, or takes it from where the target says that it may be.
    pub(super) async fn has_or_mounts(
        &self,
        target: &Target<'_>,
        blob: &Descriptor,
    ) -> Result<bool> {
        if self.has(target, blob).await? {
            return Ok(true);
        }
        for from in target.mounts.get(&blob.digest).into_iter().flatten() {
            match self.mount(target, blob, from).await? {
                Mount::Done => return Ok(true),
                Mount::Began(session) => {
                    // Nothing follows. A registry that does not know how to end an upload ends it by itself.
                    let ended = self
                        .send_once(&call(target, Method::DELETE, session.url))
                        .await;
                    if let Err(failure) = ended {
                        tracing::debug!(error = %failure.error, "an upload is left to its registry");
                    }
                    return Ok(false);
                }
                Mount::Refused => {}
            }
        }
        Ok(false)
    }

    /// Brings a blob here that is to be sent on.
    async fn bring(
        &self,
        store: &Arc<Store>,
        from: &Reference,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<()> {
        let (local, digest) = (Arc::clone(store), blob.digest);
        if blocking(move || Ok(local.has_blob(&digest))).await? {
            return Ok(());
        }
        let (told, whole) = (Arc::clone(progress), blob.clone());
        let told: crate::source::Progress =
            Arc::new(move |_, done, _| told(&whole, State::Fetching(done)));
        self.blob(store, from, blob, &told).await
    }

    async fn has(&self, target: &Target<'_>, blob: &Descriptor) -> Result<bool> {
        let path = format!("blobs/{}", blob.digest);
        let url = self.address(target.reference, &path).await?;
        match self.send(&call(target, Method::HEAD, url)).await {
            Ok(response) => {
                let size = header(&response, CONTENT_LENGTH.as_str());
                let size = size.and_then(|text| text.parse::<u64>().ok());
                match size {
                    // 0 is what some proxies make of an answer without a body.
                    Some(size) if size != blob.size && size != 0 => {
                        let reason = format!(
                            "it has {size} bytes under this digest, and the blob has {}: what the registry keeps is \
                             damaged; have the blob removed there, or push to another repository",
                            blob.size
                        );
                        Err(failed(response.url(), reason))
                    }
                    _ => Ok(true),
                }
            }
            Err(failure) if failure.is(StatusCode::NOT_FOUND) => Ok(false),
            // Then it is sent; a registry that has it will say so.
            Err(failure) if failure.status.is_some_and(knows_no_head) => Ok(false),
            Err(failure) => Err(failure.error),
        }
    }

    async fn mount(&self, target: &Target<'_>, blob: &Descriptor, from: &str) -> Result<Mount> {
        let mut url = self.address(target.reference, "blobs/uploads/").await?;
        url.query_pairs_mut()
            .append_pair("mount", &blob.digest.to_string())
            .append_pair("from", from);
        let since = Instant::now();
        match self.send(&call(target, Method::POST, url)).await {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(Mount::Done),
            Ok(response) => Ok(Mount::Began(self.session(&response, since.elapsed())?)),
            // Then it is sent as if there were no such repository.
            Err(failure) => {
                tracing::debug!(error = %failure.error, from, "a blob is not mounted");
                Ok(Mount::Refused)
            }
        }
    }

    async fn begin(&self, target: &Target<'_>) -> Result<Session> {
        let url = self.address(target.reference, "blobs/uploads/").await?;
        let since = Instant::now();
        let response = self.send(&call(target, Method::POST, url)).await;
        self.session(&response.map_err(|failure| failure.error)?, since.elapsed())
    }

    fn session(&self, response: &Response, pause: Duration) -> Result<Session> {
        let smallest = header(response, "oci-chunk-min-length");
        let smallest = smallest.and_then(|text| text.trim().parse().ok());
        Ok(Session {
            url: self.next(response)?,
            offset: 0,
            smallest_chunk: smallest.unwrap_or(0).min(CHUNK_LIMIT_BYTES),
            pause,
        })
    }

    /// Where an upload goes on.
    fn next(&self, response: &Response) -> Result<Url> {
        let from = response.url();
        let Some(target) = header(response, LOCATION.as_str()) else {
            return Err(failed(from, "it does not say where the upload goes on"));
        };
        let mut target = from.join(&target).ok();
        if let Some(target) = &mut target {
            as_spoken(from, target);
        }
        self.redirected(from, target.as_ref().map(Url::as_str), 0)
    }

    /// Sends a blob through one session. `false` where the registry does not know the session any more.
    async fn send_all(
        &self,
        target: &Target<'_>,
        blob: &Descriptor,
        bytes: &Arc<Reader>,
        mut session: Session,
        pace: &mut Pace,
        progress: &Progress,
    ) -> Result<bool> {
        let (mut tries, mut here) = (0, 0);
        loop {
            let left = blob.size.saturating_sub(session.offset);
            let length = pace.chunk.max(session.smallest_chunk).min(left);
            // A small blob goes with the last request. What is larger has all its bytes there before: when that
            // request breaks, only it is made again.
            let is_last = left == 0 || length == blob.size;
            let body = bytes.read(session.offset, length).await?;
            let sent = match is_last {
                true => self.close(target, blob, &session, body).await,
                false => self.chunk_insured(target, &session, body).await,
            };
            let failure = match sent {
                Ok(None) => return Ok(true),
                Ok(Some((next, _))) if next.offset <= session.offset => {
                    let reason = "it takes a part of a blob and keeps nothing of it";
                    Failure::passing(failed(&session.url, reason))
                }
                Ok(Some((next, next_is_rough))) => {
                    session = Session {
                        smallest_chunk: session.smallest_chunk,
                        ..next
                    };
                    pace.best = pace.best.max(session.offset);
                    match next_is_rough {
                        true => pace.broke(),
                        false => pace.came_through(),
                    }
                    progress(blob, State::Sending(session.offset));
                    continue;
                }
                Err(failure) => failure,
            };
            let lost = [
                StatusCode::NOT_FOUND,
                StatusCode::BAD_REQUEST,
                StatusCode::RANGE_NOT_SATISFIABLE,
            ];
            let confused = failure.status.is_some_and(|status| lost.contains(&status));
            if session.offset > here {
                (here, tries) = (session.offset, 0);
            }
            tries += failure.weight();
            if !(failure.passing || confused) || tries >= TRIES {
                return Err(failure.error);
            }
            tracing::debug!(error = %failure.error, at = session.offset, "going on with an upload");
            failure.pause(tries).await;
            pace.broke();
            // The answer may have been lost, and not the bytes.
            if is_last && self.has(target, blob).await? {
                return Ok(true);
            }
            match self.status(target, &session, blob.size).await? {
                Some(known) => session = known,
                None if confused && tries > 2 => return Err(failure.error),
                None => return Ok(false),
            }
            progress(blob, State::Sending(session.offset));
        }
    }

    /// One part, with others ready to send it where the registry would forget what breaks off. Returns where to go
    /// on, and whether it needed more than one try.
    async fn chunk_insured(
        &self,
        target: &Target<'_>,
        session: &Session,
        body: Bytes,
    ) -> Result<Option<(Session, bool)>, Failure> {
        let mut standbys = self.standbys(target, &session.url, session.pause).await;
        let mut failure = match self.chunk(target, session, body.clone()).await {
            Ok(next) => return Ok(Some((next, false))),
            Err(failure) => failure,
        };
        // A refusal is one for all of them, and a server that takes no more takes it from none.
        while failure.status.is_none()
            && !failure.silent
            && let Some(standby) = standbys.pop()
        {
            tracing::debug!(error = %failure.error, at = session.offset, "a standby sends a part again");
            match standby.send(&session.url, body.clone(), self.idle()).await {
                Ok(response) if response.status().is_success() => {
                    let next = self.after(session, &response, body.len() as u64)?;
                    return Ok(Some((next, true)));
                }
                Ok(response) => {
                    return Err(self.refused(&session.url, target.reference, response).await);
                }
                Err(later) => failure = later,
            }
        }
        Err(failure)
    }

    /// One PATCH. Returns where to go on.
    async fn chunk(
        &self,
        target: &Target<'_>,
        session: &Session,
        body: Bytes,
    ) -> Result<Session, Failure> {
        let length = body.len() as u64;
        let end = session.offset + length;
        let range = format!("{}-{}", session.offset, end.saturating_sub(1));
        let mut headers = octets();
        headers.extend(
            HeaderValue::from_str(&range)
                .ok()
                .map(|range| (CONTENT_RANGE, range)),
        );
        let call = Call {
            headers,
            body: Some(body),
            ..call(target, Method::PATCH, session.url.clone())
        };
        let response = self.send_once(&call).await?;
        self.after(session, &response, length)
    }

    /// Where an upload goes on after a part was taken.
    fn after(
        &self,
        session: &Session,
        response: &Response,
        length: u64,
    ) -> Result<Session, Failure> {
        let end = session.offset + length;
        let offset = match received(response) {
            Some(known) if known > end => {
                let reason = format!("it has {known} bytes of a blob where {end} were sent");
                return Err(Failure::lasting(failed(&session.url, reason)));
            }
            Some(known) => known,
            None => end,
        };
        let url = match response.headers().contains_key(LOCATION) {
            true => self.next(response).map_err(Failure::lasting)?,
            // Where it was.
            false => session.url.clone(),
        };
        Ok(Session {
            url,
            offset,
            smallest_chunk: session.smallest_chunk,
            pause: session.pause,
        })
    }

    /// The last PUT, with what is left.
    async fn close(
        &self,
        target: &Target<'_>,
        blob: &Descriptor,
        session: &Session,
        body: Bytes,
    ) -> Result<Option<(Session, bool)>, Failure> {
        let mut url = session.url.clone();
        url.query_pairs_mut()
            .append_pair("digest", &blob.digest.to_string());
        let mut headers = octets();
        if session.offset > 0 && !body.is_empty() {
            let range = format!("{}-{}", session.offset, blob.size.saturating_sub(1));
            headers.extend(
                HeaderValue::from_str(&range)
                    .ok()
                    .map(|range| (CONTENT_RANGE, range)),
            );
        }
        let call = Call {
            headers,
            body: Some(body),
            ..call(target, Method::PUT, url)
        };
        self.send_once(&call).await?;
        Ok(None)
    }

    /// What the registry has of an upload; `None` where it does not know it any more.
    async fn status(
        &self,
        target: &Target<'_>,
        session: &Session,
        size: u64,
    ) -> Result<Option<Session>> {
        let call = call(target, Method::GET, session.url.clone());
        let response = match self.send(&call).await {
            Ok(response) => response,
            Err(failure)
                if failure
                    .status
                    .is_some_and(|status| status.is_client_error()) =>
            {
                return Ok(None);
            }
            Err(failure) => return Err(failure.error),
        };
        let Some(offset) = received(&response).filter(|offset| *offset <= size) else {
            return Ok(None);
        };
        Ok(Some(Session {
            url: self.next(&response).unwrap_or_else(|_| session.url.clone()),
            offset,
            smallest_chunk: session.smallest_chunk,
            pause: session.pause,
        }))
    }
}

enum Mount {
    Done,
    /// The registry does not mount it, and awaits its bytes instead.
    Began(Session),
    Refused,
}

fn call<'a>(target: &'a Target<'_>, method: Method, url: Url) -> Call<'a> {
    Call {
        method,
        reference: target.reference,
        access: &target.access,
        url,
        headers: HeaderMap::new(),
        body: None,
        tries: TRIES,
    }
}

pub(super) fn octets() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, octets);
    headers
}

/// `Range: 0-N` of an answer about an upload: N + 1 bytes are there. `0-0` is what registries say of nothing.
fn received(response: &Response) -> Option<u64> {
    let range = header(response, "range")?;
    received_range(&range)
}

fn received_range(range: &str) -> Option<u64> {
    let range = range.trim();
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    match range.strip_prefix("0-")?.parse::<u64>().ok()? {
        0 => Some(0),
        last => last.checked_add(1),
    }
}

/// A blob of the store that is read in pieces, and hashed on the way.
struct Reader {
    file: std::fs::File,
    digest: Digest,
    size: u64,
    hashed: Mutex<(sha2::Sha256, u64)>,
}

impl Reader {
    async fn open(store: &Arc<Store>, blob: &Descriptor) -> Result<Self> {
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

    async fn read(self: &Arc<Self>, offset: u64, length: u64) -> Result<Bytes> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (range, expected) in [
            ("0-0", Some(0)),
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("1-9", None),
            ("", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(received_range(range), expected, "{range}");
        }
    }
}
