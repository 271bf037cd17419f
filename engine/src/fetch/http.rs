//! A file behind an http or https address, as a snapshot that holds nothing else.
//!
//! As BuildKit makes it: mode 0600, owned by root, its time what the server says it was last modified, else 1970.
//! The record of an address holds the digest and what the server gave to ask again by (ETag, Last-Modified): an
//! unchanged file is not sent again, and one whose digest is asked for and known is not even asked for. What uses the
//! file is keyed by its content.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use jiff::civil::DateTime;
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::tz::TimeZone;
use rbuild_cache::root_dir::Resolve;
use rbuild_cache::{Digest, KeyWriter, RootDir, Snapshot, Store};
use rbuild_image::registry::Client;
use rbuild_image::registry::download::{Fetched, Gate, Request, Validators};
use url::Url;

use super::{Access, note, recall, remember};
use crate::lower::remote::without_userinfo;
use crate::op::HttpSource;
use crate::worker::failure::{Failure, Result};
use crate::worker::{blocking, now};

/// More is no file that anybody adds to an image.
const LIMIT_BYTES: u64 = 64 << 30;

pub(crate) type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Brings the file, unless it is here and still what the address gives. Returns its digest, too.
pub(crate) async fn file(
    store: &Arc<Store>,
    client: &Client,
    source: &HttpSource,
    access: &Access,
    progress: Progress<'_>,
) -> Result<(Snapshot, Digest)> {
    let shown = without_userinfo(&source.url);
    let url = address(&source.url, &shown)?;
    let key = KeyWriter::new("http-file.v1")
        .field("url", &source.url)
        .field("name", &source.filename)
        .finish();
    let known = recall(store, key).await?;
    let digest = known.as_ref().and_then(|known| known.note("digest"));
    let digest: Option<Digest> = digest.and_then(|digest| digest.parse().ok());
    if let (Some(known), Some(checksum)) = (&known, source.checksum)
        && digest == Some(checksum)
    {
        return Ok((known.snapshot.clone(), checksum));
    }
    // What is here is not what is asked for: whether it changed is no question.
    let known = known
        .filter(|_| source.checksum.is_none())
        .and_then(|known| Some((known, digest?)));
    let validators = known.as_ref().map(|(known, _)| Validators {
        etag: known.note("etag"),
        last_modified: known.note("last-modified"),
    });

    let active = {
        let store = Arc::clone(store);
        blocking(move || store.prepare()).await?
    };
    let unwritable = |error: std::io::Error| {
        let message = format!("cannot keep `{}` from {shown}", source.filename);
        Failure::caused("store", message, error)
    };
    let file = RootDir::open_ambient(active.upper())
        .and_then(|root| root.create_file(Path::new(&source.filename), 0o600, Resolve::Beneath))
        .map_err(unwritable)?;
    let authorization = url.host_str().and_then(|host| authorization(access, host));
    let refused = OnceLock::new();
    let permits = |next: &Url| {
        let Some((reach, host)) = access.reach.as_ref().zip(next.host_str()) else {
            return true;
        };
        let port = next.port_or_known_default().unwrap_or_default();
        let permitted = reach.has_host(host, port);
        if !permitted {
            refused.get_or_init(|| format!("{host}:{port}"));
        }
        permitted
    };
    let request = Request {
        url: &url,
        known: &validators.unwrap_or_default(),
        authorization: authorization.as_deref(),
        limit_bytes: LIMIT_BYTES,
        gate: Some(Gate(&permits)),
    };
    let fetched = client.fetch(request, &file, progress).await;
    let fetched = fetched.map_err(|error| match refused.get() {
        Some(host) => Failure::of("fetch", error).help(format!(
            "allow it on the command line with `--allow-host {host}`"
        )),
        None => Failure::of("fetch", error),
    })?;
    let (digest, validators) = match (fetched, known) {
        (Fetched::Unchanged, Some((known, digest))) => return Ok((known.snapshot, digest)),
        (Fetched::Unchanged, None) => {
            let message = format!("{shown} says that nothing changed, but nothing was known of it");
            return Err(Failure::new("fetch", message));
        }
        (
            Fetched::New {
                digest, validators, ..
            },
            _,
        ) => (digest, validators),
    };
    if let Some(checksum) = source.checksum
        && checksum != digest
    {
        let message = format!("{shown} has the digest {digest}, not {checksum}");
        return Err(Failure::new("wrong-checksum", message)
            .help("the file changed, or the --checksum is of another one"));
    }
    set_time(&file, validators.last_modified.as_deref()).map_err(unwritable)?;
    drop(file);
    let mut notes = vec![note("digest", digest.to_string())];
    notes.extend(validators.etag.map(|etag| note("etag", etag)));
    notes.extend(
        validators
            .last_modified
            .map(|time| note("last-modified", time)),
    );
    let store = Arc::clone(store);
    blocking(move || {
        let snapshot = active.commit(None, now())?;
        remember(&store, key, &snapshot, format!("http/{shown}"), notes)?;
        Ok((snapshot, digest))
    })
    .await
}

fn address(text: &str, shown: &str) -> Result<Url> {
    let url = Url::parse(text)
        .map_err(|error| Failure::new("bad-url", format!("`{shown}` is no address: {error}")))?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() {
        return Ok(url);
    }
    let message = format!("`{shown}` is neither an http nor an https address");
    Err(Failure::new("bad-url", message))
}

/// By BuildKit's names of secrets: `HTTP_AUTH_HEADER_host` is the whole header, `HTTP_AUTH_TOKEN_host` a token.
fn authorization(access: &Access, host: &str) -> Option<String> {
    access
        .secret(&format!("HTTP_AUTH_HEADER_{host}"))
        .or_else(|| {
            let token = access.secret(&format!("HTTP_AUTH_TOKEN_{host}"))?;
            Some(format!("Bearer {token}"))
        })
}

fn set_time(file: &std::fs::File, last_modified: Option<&str>) -> std::io::Result<()> {
    let time = rustix::fs::Timespec {
        tv_sec: last_modified.and_then(seconds).unwrap_or(0),
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::futimens(file, &times)?)
}

/// Unix seconds of an HTTP date, in any of the three forms that there are. Nothing hangs on the weekday.
fn seconds(date: &str) -> Option<i64> {
    const USUAL: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);
    let date = date.trim();
    if let Ok(date) = USUAL.parse_timestamp(date) {
        return Some(date.as_second());
    }
    let (_, rest) = date.split_once([',', ' '])?;
    let older = ["%d-%b-%y %H:%M:%S GMT", "%b %d %H:%M:%S %Y"];
    let date = older
        .iter()
        .find_map(|form| DateTime::strptime(form, rest.trim()).ok())?;
    let date = date.to_zoned(TimeZone::UTC).ok()?;
    Some(date.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        for other in [
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Mon, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(seconds(other), Some(784_111_777), "{other}");
        }
        assert_eq!(seconds("Wed, 31 Dec 1969 23:59:00 GMT"), Some(-60));
        for bad in ["yesterday", "", "Sun, ", "Sun Nov 36 08:49:37 1994"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_http() {
        assert!(address("https://a/b", "").is_ok());
        for bad in ["file:///etc/passwd", "ftp://a/b", "https:///", "x"] {
            assert!(address(bad, bad).is_err(), "{bad}");
        }
    }
}
