//! Requests that stand ready to send a part of a blob again.
//!
//! The `distribution` registry (and what is made of it) names the state of an upload in its address, `_state=…`, and
//! hands out the next address only with an answer. When a connection breaks within a part, the registry has kept
//! bytes that no address we hold knows of, refuses them all, and the whole upload is lost: a gigabyte through a
//! network that cuts connections would never end. But it looks at the address when a request begins. So some requests for
//! the same part are begun before its bytes are sent, without bodies; where the first one breaks, the next sends the
//! same bytes to the same place. Where all goes well they end empty, which changes nothing.
//!
//! Registries without such addresses are asked how much they have instead (`upload`).

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::{Method, Response};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use url::Url;

use super::Client;
use super::arriving::Patience;
use super::push::Target;
use super::transport::{Failure, failed};
use super::upload::{CHUNK_LIMIT_BYTES, octets};

/// Requests that stand ready for one part.
const STANDBYS: usize = 3;
/// For requests to begin: at most so long is waited before the part itself goes.
const PAUSE_LIMIT: Duration = Duration::from_millis(250);
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);

/// A request that awaits its body. Dropped, it ends empty.
pub(super) struct Standby {
    body: oneshot::Sender<Bytes>,
    answer: JoinHandle<Result<Response, Failure>>,
}

impl Client {
    /// Begins requests for the next part of an upload, where they are of use.
    pub(super) async fn standbys(
        &self,
        target: &Target<'_>,
        url: &Url,
        answer_time: Duration,
    ) -> Vec<Standby> {
        if !url.query_pairs().any(|(name, _)| name == "_state") {
            return Vec::new();
        }
        let Ok(registry) = self.base(target.reference).await else {
            return Vec::new();
        };
        let authorization = match url.origin() == registry.origin() {
            true => {
                self.authorization(target.reference, &target.access, &registry)
                    .await
            }
            false => Ok(None),
        };
        let Ok(authorization) = authorization else {
            return Vec::new();
        };
        let standbys = (0..STANDBYS)
            .map(|_| self.standby(url.clone(), authorization.clone()))
            .collect();
        // Two ways: for a connection, and for the request on it.
        let pause = (answer_time * 2).clamp(SHORTEST_PAUSE, PAUSE_LIMIT);
        tokio::time::sleep(pause).await;
        standbys
    }

    fn standby(&self, url: Url, authorization: Option<String>) -> Standby {
        let (sender, receiver) = oneshot::channel::<Bytes>();
        // A sender that is gone is the end of an empty body.
        let body = futures_util::stream::once(receiver)
            .filter_map(|bytes| std::future::ready(bytes.ok().map(Ok::<_, std::io::Error>)));
        let client = self.clone();
        let answer = tokio::spawn(async move {
            let body = reqwest::Body::wrap_stream(body);
            let authorization = authorization.as_deref();
            client
                .request(
                    &Method::PATCH,
                    &url,
                    &octets(),
                    authorization,
                    Some(body),
                    &Patience::ForBytes(CHUNK_LIMIT_BYTES),
                )
                .await
        });
        Standby {
            body: sender,
            answer,
        }
    }
}

impl Standby {
    /// Sends the part by this request.
    pub(super) async fn send(
        self,
        url: &Url,
        bytes: Bytes,
        idle: Duration,
    ) -> Result<Response, Failure> {
        let gone = || Failure::passing(failed(url, "the connection broke"));
        let patience = Patience::ForBytes(bytes.len() as u64);
        // It may have broken while it stood by.
        self.body.send(bytes).map_err(|_| gone())?;
        let answer = patience.wait(idle, self.answer).await;
        let silent = || Failure::silent(failed(url, "it does not answer in time"));
        answer.ok_or_else(silent)?.map_err(|_| gone())?
    }
}
