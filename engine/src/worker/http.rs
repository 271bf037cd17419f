//! ADD of an http or https URL: one file with mode 0600 and the server's time. What was fetched is kept with the
//! server's validators, so that a server which says "not modified" is not asked for the bytes again; with a
//! checksum that is known it is not asked at all.

use std::io::Write as _;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use rbuild_cache::record::Record;
use rbuild_cache::root_dir::Resolve;
use rbuild_cache::{Ingredient, KeyWriter, RootDir, Snapshot, Store};
use rbuild_solver::VertexId;
use reqwest::header::{
    ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::redirect::Policy;

use super::failure::{Failure, Result};
use super::{Output, Worker, blocking, now};
use crate::event::Event;
use crate::op::HttpSource;

const REDIRECTS_MAX: usize = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Pieces of a body on their way to the disk.
const PIECES_IN_FLIGHT: usize = 16;

impl Worker {
    pub(super) async fn http(&self, vertex: VertexId, source: &HttpSource) -> Result<Output> {
        let failed = |reason: String| {
            let url = shown(&source.url);
            Failure::new("http", format!("cannot fetch `{url}`: {reason}"))
        };
        let key = KeyWriter::new("http-source.v1")
            .field("url", &source.url)
            .field("filename", &source.filename)
            .field(
                "checksum",
                source.checksum.map(|it| it.to_string()).unwrap_or_default(),
            )
            .finish();
        let known = match self.store().lookup(key)? {
            Some(record) => match &record.snapshot {
                Some(id) => Some((self.store().snapshot(id)?, record.ingredients)),
                None => None,
            },
            None => None,
        };
        if let (Some((snapshot, _)), Some(_)) = (&known, source.checksum) {
            return Ok(Output::Snapshot(Some(snapshot.clone())));
        }
        let client = client().map_err(|error| failed(chain(&error)))?;
        let mut request = client.get(&source.url);
        for (validator, header) in [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)] {
            let value = known.as_ref().and_then(|(_, kept)| {
                let same = |one: &&Ingredient| one.name == validator.as_str();
                kept.iter().find(same).map(|one| one.value.clone())
            });
            if let Some(value) = value {
                request = request.header(header, value);
            }
        }
        let mut response = request
            .send()
            .await
            .map_err(|error| failed(chain(&error)))?;
        if let (reqwest::StatusCode::NOT_MODIFIED, Some((snapshot, _))) = (response.status(), known)
        {
            return Ok(Output::Snapshot(Some(snapshot)));
        }
        if !response.status().is_success() {
            return Err(failed(format!("the server answers {}", response.status())));
        }
        let headers = response.headers().clone();
        let total = response.content_length().unwrap_or(0);
        let (sender, receiver) = tokio::sync::mpsc::channel(PIECES_IN_FLIGHT);
        let writing = {
            let (store, source) = (Arc::clone(self.store()), source.clone());
            let mtime = modified(&headers);
            tokio::task::spawn_blocking(move || write(&store, &source, mtime, receiver))
        };
        let mut done = 0;
        loop {
            let piece = response
                .chunk()
                .await
                .map_err(|error| failed(chain(&error)))?;
            let Some(piece) = piece else { break };
            done += piece.len() as u64;
            if let Some(step) = self.step(vertex) {
                self.events.event(Event::Progress {
                    step,
                    what: source.filename.clone(),
                    done,
                    total,
                });
            }
            if sender.send(Ok(piece)).await.is_err() {
                // The writer ended early; it says why below.
                break;
            }
        }
        // Only a whole body is committed: a writer whose sender goes away without this gives up.
        let _ = sender.send(Err(End)).await;
        drop(sender);
        let snapshot = match writing.await {
            Ok(written) => written?,
            Err(_) => return Err(failed("the writer ended early".to_owned())),
        };
        self.remember(key, &snapshot, &headers).await?;
        Ok(Output::Snapshot(Some(snapshot)))
    }

    async fn remember(
        &self,
        key: rbuild_cache::Key,
        snapshot: &Snapshot,
        headers: &HeaderMap,
    ) -> Result<()> {
        let kept = |name: HeaderName| {
            let value = headers.get(&name)?.to_str().ok()?.to_owned();
            let name = name.as_str().to_owned();
            Some(Ingredient { name, value })
        };
        let record = Record {
            key,
            snapshot: Some(snapshot.id.clone()),
            extra: Vec::new(),
            step: "http".to_owned(),
            ingredients: [kept(ETAG), kept(LAST_MODIFIED)]
                .into_iter()
                .flatten()
                .collect(),
            created: now(),
            duration_ms: 0,
        };
        let store = Arc::clone(self.store());
        Ok(blocking(move || store.save(&[key], &record)).await?)
    }
}

/// The body came to its end.
struct End;

/// Writes what comes until the end. The bytes go through a blob, which verifies them.
fn write(
    store: &Store,
    source: &HttpSource,
    mtime: i64,
    mut pieces: tokio::sync::mpsc::Receiver<Result<bytes::Bytes, End>>,
) -> Result<Snapshot> {
    let io = |error: std::io::Error| Failure::of("http", error);
    let name = Path::new(&source.filename);
    let mut components = name.components();
    let (Some(Component::Normal(_)), None) = (components.next(), components.next()) else {
        return Err(Failure::new(
            "http",
            format!("`{}` is not a name for a file", source.filename),
        ));
    };
    let mut blob = store.ingest()?;
    loop {
        match pieces.blocking_recv() {
            Some(Ok(piece)) => blob.write_all(&piece).map_err(io)?,
            Some(Err(End)) => break,
            None => return Err(Failure::cancelled()),
        }
    }
    let (digest, _) = blob.commit(None, None)?;
    if let Some(expected) = source.checksum.filter(|expected| *expected != digest) {
        let url = shown(&source.url);
        return Err(Failure::new(
            "http-checksum",
            format!("`{url}` has the digest {digest}, and --checksum asks for {expected}"),
        ));
    }
    let active = store.prepare()?;
    let root = RootDir::open_ambient(active.upper()).map_err(io)?;
    let mut file = root
        .create_file(name, 0o600, Resolve::Beneath)
        .map_err(io)?;
    std::io::copy(&mut store.open_blob(&digest)?, &mut file).map_err(io)?;
    let node = root.node(name, Resolve::Beneath).map_err(io)?;
    node.set_mode(0o600).map_err(io)?;
    node.set_times((mtime, 0), (mtime, 0)).map_err(io)?;
    drop((file, node, root));
    Ok(active.commit(None, now())?)
}

fn client() -> reqwest::Result<reqwest::Client> {
    let redirects = Policy::custom(|attempt| {
        let downgrades = attempt.url().scheme() != "https"
            && attempt.previous().iter().any(|url| url.scheme() == "https");
        if downgrades {
            attempt.error("it redirects from https to something else")
        } else if !matches!(attempt.url().scheme(), "http" | "https") {
            attempt.error("it redirects to something that is not http")
        } else if attempt.previous().len() > REDIRECTS_MAX {
            attempt.error("it redirects too often")
        } else {
            attempt.follow()
        }
    });
    // Whoever embeds the engine may have installed one already; either will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // The bytes are taken as they are: a compressed file stays compressed.
    reqwest::Client::builder()
        .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
        .redirect(redirects)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(IDLE_TIMEOUT)
        .build()
}

/// Unix seconds of Last-Modified; 0 where there is none, as BuildKit has it.
fn modified(headers: &HeaderMap) -> i64 {
    let value = headers
        .get(LAST_MODIFIED)
        .and_then(|value| value.to_str().ok());
    value
        .and_then(|value| jiff::fmt::rfc2822::parse(value).ok())
        .map_or(0, |time| time.timestamp().as_second())
}

/// A URL without what nobody else may see.
fn shown(url: &str) -> String {
    let Ok(mut parsed) = url::Url::parse(url) else {
        return url.to_owned();
    };
    let _ = parsed.set_password(None);
    let _ = parsed.set_username("");
    parsed.to_string()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        next = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_credentials_are_not_shown() {
        let mut headers = HeaderMap::new();
        assert_eq!(modified(&headers), 0);
        let date = "Wed, 21 Oct 2015 07:28:00 GMT".parse().expect("a header");
        headers.insert(LAST_MODIFIED, date);
        assert_eq!(modified(&headers), 1_445_412_480);
        assert_eq!(shown("https://me:secret@host/x?y"), "https://host/x?y");
    }
}
