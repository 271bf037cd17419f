//! Secrets that a step leaves in what becomes a layer, where everybody who has the image can read them. Looked for in
//! the files of a step that was executed, when it is done: as they are, in base64, and as they stand in URLs. A value
//! in a compressed or encrypted file is not found.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use aho_corasick::AhoCorasick;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rbuild_cache::root_dir::{Resolve, path_of};
use rbuild_cache::tree::{Entry, Kind};
use rbuild_cache::{RootDir, SnapshotId, Store};
use rbuild_parser::Diagnostic;
use rbuild_solver::VertexId;
use tokio_util::sync::CancellationToken;

use super::failure::{Failure, Result};
use crate::error::Located;
use crate::lower::StepInfo;
use crate::request::Secret;

/// Shorter values are in files by chance.
const VALUE_BYTES_MIN: usize = 8;
/// As much of a long value is looked for, from its middle: keys and settings begin and end alike.
const VALUE_BYTES_MAX: usize = 256;
const PIECE_BYTES: usize = 256 << 10;
/// As many paths are named.
const PATHS_SHOWN: usize = 3;

pub(crate) struct Leaks {
    search: AhoCorasick,
    /// The secret of each pattern.
    ids: Vec<String>,
    longest: usize,
    found: Mutex<BTreeMap<(VertexId, String), Paths>>,
}

/// Of the files of one step that hold one secret.
type Paths = BTreeSet<Vec<u8>>;

impl Leaks {
    /// `None` where there is nothing to look for.
    pub(crate) fn new(secrets: &[Secret]) -> Option<Self> {
        let mut ids = Vec::new();
        let mut patterns = Vec::new();
        for secret in secrets {
            for form in forms(&secret.data) {
                ids.push(secret.id.clone());
                patterns.push(form);
            }
        }
        let longest = patterns.iter().map(Vec::len).max()?;
        Some(Self {
            // It fails for patterns of gigabytes.
            search: AhoCorasick::new(patterns).ok()?,
            ids,
            longest,
            found: Mutex::default(),
        })
    }

    /// Looks through a snapshot's own files. Blocking.
    pub(super) fn look(
        &self,
        vertex: VertexId,
        store: &Store,
        snapshot: &SnapshotId,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let directory = store.snapshot_directory(snapshot)?;
        let unreadable = |path: &[u8], error: std::io::Error| {
            let path = String::from_utf8_lossy(path);
            Failure::new(
                "store",
                format!("cannot look for secrets in `{path}`: {error}"),
            )
        };
        let root = RootDir::open_ambient(&directory)
            .map_err(|error| unreadable(directory.as_os_str().as_encoded_bytes(), error))?;
        let mut buffer = Vec::new();
        for entry in files(&store.tree(snapshot)?.entries) {
            let file = root.open_file_no_follow(path_of(&entry.path), Resolve::Beneath);
            let here = file.and_then(|mut file| self.secrets_in(&mut file, &mut buffer, cancel));
            if cancel.is_cancelled() {
                return Err(Failure::cancelled());
            }
            for id in here.map_err(|error| unreadable(&entry.path, error))? {
                let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                let paths = found.entry((vertex, id.to_owned())).or_default();
                paths.insert(entry.path.clone());
            }
        }
        Ok(())
    }

    /// The IDs of secrets in a file, read in pieces that overlap by what a value could lie across. Those of a part of it
    /// where that is cancelled.
    fn secrets_in(
        &self,
        file: &mut dyn Read,
        buffer: &mut Vec<u8>,
        cancel: &CancellationToken,
    ) -> std::io::Result<BTreeSet<&str>> {
        let mut ids = BTreeSet::new();
        buffer.clear();
        loop {
            let before = buffer.len();
            let piece = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
            let read = Read::take(&mut *file, piece).read_to_end(buffer)?;
            if read == 0 || cancel.is_cancelled() {
                return Ok(ids);
            }
            let found = self.search.find_iter(buffer.as_slice());
            ids.extend(
                found
                    .filter_map(|it| self.ids.get(it.pattern().as_usize()))
                    .map(String::as_str),
            );
            let kept = (self.longest - 1).min(before + read);
            buffer.drain(..before + read - kept);
        }
    }

    /// A warning for each step and secret.
    pub(crate) fn found(&self, steps: &[StepInfo]) -> Vec<Located> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut warnings: Vec<Located> = Vec::new();
        for ((vertex, id), paths) in found.iter() {
            let Some(step) = steps.iter().find(|step| step.vertex == *vertex) else {
                continue;
            };
            let warning = Diagnostic::warning(
                "secret-in-layer",
                format!("secret `{id}` is in the image, in {}", shown(paths)),
                step.span,
            );
            let warning = warning.help(
                "whoever has the image has the secret, also where a later step removes the file; use it without \
                 writing it down, or write it to a `--mount=type=tmpfs`, or in a stage that is only copied from",
            );
            // Platforms share steps.
            let is_new = |before: &Located| before.diagnostic != warning;
            if warnings.iter().all(is_new) {
                warnings.push(Located {
                    source: Arc::clone(&step.source),
                    diagnostic: warning,
                });
            }
        }
        warnings
    }
}

/// Regular files, each under one of its names.
fn files(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    let mut linked = BTreeSet::new();
    entries.iter().filter(move |entry| {
        entry.kind == Kind::File && (entry.hard_link == 0 || linked.insert(entry.hard_link))
    })
}

fn shown(paths: &Paths) -> String {
    let named = paths.iter().take(PATHS_SHOWN);
    let named: Vec<String> = named
        .map(|path| format!("`/{}`", String::from_utf8_lossy(path)))
        .collect();
    match paths.len().saturating_sub(PATHS_SHOWN) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// What a secret looks like in a file.
fn forms(data: &[u8]) -> BTreeSet<Vec<u8>> {
    let value = data.trim_ascii();
    let mut forms = BTreeSet::new();
    if value.len() < VALUE_BYTES_MIN {
        return forms;
    }
    let cut = value.len().saturating_sub(VALUE_BYTES_MAX);
    let value = value
        .get(cut / 2..value.len() - cut.div_ceil(2))
        .unwrap_or(value);
    forms.insert(value.to_vec());
    forms.insert(in_url(value));
    for shift in 0..3 {
        for alphabet in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            forms.insert(in_base64(value, shift, &alphabet));
        }
    }
    forms
}

/// As RFC 3986 has it, 2.1 to 2.3.
fn in_url(value: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(value.len());
    for byte in value {
        match byte {
            b'-' | b'.' | b'_' | b'~' => text.push(*byte),
            _ if byte.is_ascii_alphanumeric() => text.push(*byte),
            _ => text.extend(format!("%{byte:02X}").into_bytes()),
        }
    }
    text
}

/// The characters that a value alone decides over, when so many bytes, modulo three, stand before it.
fn in_base64(value: &[u8], shift: usize, alphabet: &impl Engine) -> Vec<u8> {
    let mut bytes = vec![0; shift];
    bytes.extend(value);
    let text = alphabet.encode(&bytes).into_bytes();
    let first = (8 * shift).div_ceil(6);
    let end = 8 * bytes.len() / 6;
    text.get(first..end).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaks(secrets: &[(&str, &str)]) -> Option<Leaks> {
        let secrets = secrets.iter().map(|(id, value)| Secret {
            id: (*id).to_owned(),
            data: Arc::from(value.as_bytes()),
        });
        Leaks::new(&secrets.collect::<Vec<_>>())
    }

    fn in_text(leaks: &Leaks, text: &[u8]) -> Vec<String> {
        let mut file = text;
        let cancel = CancellationToken::new();
        let found = leaks.secrets_in(&mut file, &mut Vec::new(), &cancel);
        let found = found.unwrap();
        found.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_value_is_found_as_it_is_in_base64_and_in_a_url() {
        let leaks = leaks(&[("token", "p@ss word/1234\n"), ("key", "0123456789")]).unwrap();
        assert_eq!(in_text(&leaks, b"a=p@ss word/1234;"), ["token"]);
        assert_eq!(
            in_text(&leaks, b"https://u:p%40ss%20word%2F1234@h/"),
            ["token"]
        );
        assert_eq!(
            in_text(&leaks, b"0123456789 p@ss word/1234"),
            ["key", "token"]
        );
        assert!(in_text(&leaks, b"012345678 p@ss word/123").is_empty());
        for before in ["", "u", "u:", "us:", "user:"] {
            for after in ["", "x", "xy", "xyz"] {
                let text = format!("{before}p@ss word/1234{after}");
                for alphabet in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                    let text = format!("auth = {}", alphabet.encode(&text));
                    assert_eq!(in_text(&leaks, text.as_bytes()), ["token"], "{text}");
                }
            }
        }
    }

    #[test]
    fn a_value_is_found_wherever_the_pieces_of_a_file_end() {
        let leaks = leaks(&[("key", "0123456789")]).unwrap();
        for before in PIECE_BYTES - 12..PIECE_BYTES + 2 {
            let mut text = vec![b'.'; before];
            text.extend(b"0123456789");
            text.resize(3 * PIECE_BYTES, b'.');
            assert_eq!(in_text(&leaks, &text), ["key"], "{before}");
        }
    }

    #[test]
    fn short_values_are_not_looked_for_and_long_ones_by_their_middle() {
        assert!(leaks(&[("pin", "1234567\n")]).is_none());
        let long: String = (0..1000).map(|number| format!("{number},")).collect();
        let leaks = leaks(&[("long", &long)]).unwrap();
        assert!(leaks.longest < 4 * VALUE_BYTES_MAX);
        assert_eq!(in_text(&leaks, long.as_bytes()), ["long"]);
        assert!(in_text(&leaks, &long.as_bytes()[..long.len() / 4]).is_empty());
    }
}
