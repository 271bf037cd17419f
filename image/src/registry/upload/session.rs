//! A session of an upload: parts, each from where the registry has it, and the closing PUT. What breaks is asked about
//! and gone on with, until the registry does not know the session any more.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::call;
use super::pace::Pace;
use super::reader::Reader;
use crate::error::Result;
use crate::manifest::Descriptor;
use crate::registry::Client;
use crate::registry::answer::header;
use crate::registry::push::{Progress, State, Target};
use crate::registry::transport::{Call, Failure, TRIES, as_spoken, failed};

/// What a registry may ask for as its smallest chunk; it is held in memory.
pub(in super::super) const CHUNK_LIMIT_BYTES: u64 = 64 << 20;

/// An upload as the registry knows it.
pub(super) struct Session {
    pub(super) url: Url,
    /// What the registry has.
    offset: u64,
    smallest_chunk: u64,
    /// What an answer without bytes took.
    pause: Duration,
}

impl Client {
    pub(super) fn session(&self, response: &Response, pause: Duration) -> Result<Session> {
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
    pub(super) async fn send_all(
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
        // The others would be refused as well; and a server that accepts no more bytes accepts none from them.
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
        let call = Call {
            headers: octets_of(session.offset, session.offset + length),
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
        let is_a_part = session.offset > 0 && !body.is_empty();
        let call = Call {
            headers: match is_a_part {
                true => octets_of(session.offset, blob.size),
                false => octets(),
            },
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

pub(in super::super) fn octets() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, octets);
    headers
}

/// As [`octets`], of a blob's bytes from `start` to before `end`.
fn octets_of(start: u64, end: u64) -> HeaderMap {
    let mut headers = octets();
    let range = format!("{start}-{}", end.saturating_sub(1));
    let range = HeaderValue::from_str(&range).ok();
    headers.extend(range.map(|range| (CONTENT_RANGE, range)));
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
