//! How long is waited: for an answer, for what it brings, and for a server to take what it is sent.
//!
//! A server that is silent for the time that [`super::Options::idle_timeout`] says is as good as gone, and so is one
//! that sends a byte now and then. One that is slow and gets on is not.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use reqwest::Response;
use url::Url;

use super::transport::{Failure, failed, shown_url};
use crate::error::Error;

/// Less than this, in the mean of one idle time, is a connection that does not get on.
const SLOWEST_BYTES_PER_SECOND: u64 = 1 << 10;
/// What a server is allowed for taking a body of known length, besides the idle time.
const SLOWEST_SENT_PER_SECOND: u64 = 32 << 10;
/// A server that has all of a stream may take so many idle times to answer: some of it is still on its way, and it has
/// to be written down.
const IDLES_AFTER_A_STREAM: u32 = 3;
/// Of a body that is in memory.
const PIECE_BYTES: usize = 256 << 10;

type Chunks = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

/// The body of an answer.
pub(super) struct Arriving {
    body: Chunks,
    url: Url,
    /// As its head says.
    length: Option<u64>,
    idle: Duration,
    /// Since the pace was last looked at: how long was waited for how much.
    waited: Duration,
    came: u64,
}

impl Arriving {
    pub(super) fn new(response: Response, url: &Url, idle: Duration) -> Self {
        Self {
            length: response.content_length(),
            body: Box::pin(response.bytes_stream()),
            url: url.clone(),
            idle,
            waited: Duration::ZERO,
            came: 0,
        }
    }

    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        let since = Instant::now();
        let chunk = match tokio::time::timeout(self.idle, self.body.next()).await {
            Ok(None) => return None,
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(error))) => return Some(Err(broken(&self.url, error))),
            Err(_) => {
                let reason = format!("it sent nothing for {} seconds", self.idle.as_secs());
                return Some(Err(Failure::silent(failed(&self.url, reason))));
            }
        };
        self.waited += since.elapsed();
        self.came = self.came.saturating_add(chunk.len() as u64);
        if self.waited >= self.idle {
            let seconds = self.waited.as_secs();
            if self.came < seconds.saturating_mul(SLOWEST_BYTES_PER_SECOND) {
                let reason = format!("it sent {} bytes within {seconds} seconds", self.came);
                return Some(Err(Failure::silent(failed(&self.url, reason))));
            }
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        Some(Ok(chunk))
    }
}

fn broken(url: &Url, error: reqwest::Error) -> Failure {
    Failure::passing(Error::Registry {
        url: shown_url(url),
        reason: "the connection broke".to_owned(),
        source: Some(Box::new(error.without_url())),
    })
}

/// How long is waited for an answer.
#[derive(Debug, Clone)]
pub(crate) enum Patience {
    /// So many idle times, and what a body of so many bytes takes.
    ForBytes(u64),
    /// As long as a stream is read from.
    WhileItMoves(Pulse),
}

/// When something was last taken of a stream, and whether all of it was.
#[derive(Debug, Clone)]
pub(crate) struct Pulse {
    begun: Instant,
    millis: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

/// A body in pieces, by which one sees that it is taken, and how long is waited for its answer.
pub(super) fn in_pieces(bytes: Bytes) -> (reqwest::Body, Patience) {
    if bytes.len() <= PIECE_BYTES {
        let patience = Patience::ForBytes(bytes.len() as u64);
        return (bytes.into(), patience);
    }
    let pulse = Pulse::new();
    let beating = pulse.clone();
    let pieces = futures_util::stream::iter(std::iter::successors(
        Some((Bytes::new(), bytes)),
        move |(_, rest)| {
            let mut rest = rest.clone();
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            beating.beat(rest.is_empty());
            (!piece.is_empty()).then_some((piece, rest))
        },
    ));
    let pieces = pieces
        .skip(1)
        .map(|(piece, _)| Ok::<_, std::io::Error>(piece));
    let body = reqwest::Body::wrap_stream(pieces);
    (body, Patience::WhileItMoves(pulse))
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            millis: Arc::default(),
            is_over: Arc::default(),
        }
    }

    /// Something was taken; `is_over`: all that there is.
    pub(crate) fn beat(&self, is_over: bool) {
        self.is_over.store(is_over, Ordering::Relaxed);
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    fn still_for(&self) -> Duration {
        let last = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }
}

impl Patience {
    /// `None` where it came to its end.
    pub(super) async fn wait<T>(
        &self,
        idle: Duration,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        match self {
            Self::ForBytes(bytes) => {
                let sending = Duration::from_secs(bytes / SLOWEST_SENT_PER_SECOND);
                tokio::time::timeout(idle + sending, answer).await.ok()
            }
            Self::WhileItMoves(pulse) => {
                tokio::pin!(answer);
                loop {
                    let limit = match pulse.is_over.load(Ordering::Relaxed) {
                        true => idle * IDLES_AFTER_A_STREAM,
                        false => idle,
                    };
                    let left = limit.saturating_sub(pulse.still_for());
                    if left.is_zero() {
                        return None;
                    }
                    tokio::select! {
                        answer = &mut answer => return Some(answer),
                        () = tokio::time::sleep(left) => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn patience_ends() {
        let never = std::future::pending::<()>();
        assert!(Patience::ForBytes(0).wait(IDLE, never).await.is_none());
        let pulse = Pulse::new();
        let moving = pulse.clone();
        let answer = async move {
            for left in (0..8).rev() {
                tokio::time::sleep(IDLE / 2).await;
                moving.beat(left == 0);
            }
            tokio::time::sleep(IDLE * 2).await;
        };
        let patience = Patience::WhileItMoves(pulse);
        assert!(patience.wait(IDLE, answer).await.is_some());
        let never = std::future::pending::<()>();
        assert!(patience.wait(IDLE, never).await.is_none());
    }
}
