//! One blob on its way to a registry (OCI distribution-spec, "Pushing blobs"): is it there, can it be mounted, else
//! chunks, each asked for again from where the registry has it, and a closing PUT by which the registry verifies.
//!
//! Bytes are read from the store a chunk at a time and hashed on the way: damage on the disk is told as such, and
//! does not reach the registry's digest check (`reader`). The conversation about one upload: `session`; how much goes at
//! once: `pace`.

mod pace;
mod reader;
mod session;

use std::sync::Arc;
use std::time::Instant;

use rbuild_cache::Store;
use reqwest::header::{CONTENT_LENGTH, HeaderMap};
use reqwest::{Method, StatusCode};
use url::Url;

use super::Client;
use super::answer::{header, knows_no_head};
use super::push::{Progress, State, Target};
use super::transport::{Call, TRIES, failed};
use crate::error::Result;
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::source::blocking;
use pace::Pace;
use reader::Reader;
use session::Session;
pub(super) use session::{CHUNK_LIMIT_BYTES, octets};

/// How often one blob is begun from its start, where the registry keeps nothing of what broke off: so often in a row
/// without getting further than before, and so often in all.
const FRUITLESS_SESSIONS: u32 = 8;
const SESSIONS: u32 = 48;

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
