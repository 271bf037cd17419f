//! What a command prints: handed on as it comes with secrets masked, its end kept for the error message.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_executor::spec::Output as Stream;
use rbuild_solver::VertexId;

use super::Worker;
use crate::event::{Event, Sink, StepId};

/// What is kept of the end of an output.
const TAIL_BYTES_MAX: usize = 64 * 1024;

/// Shorter values would mask half of every line, and hide nothing.
const SECRET_BYTES_MIN: usize = 4;

const MASK: &[u8] = b"***";

/// A command's output on its way to the events, and its end for the error message.
pub(crate) struct Log {
    events: Arc<dyn Sink>,
    step: Option<StepId>,
    state: Mutex<(Mask, Mask, Tail)>,
}

impl Log {
    pub(super) fn new(worker: &Worker, vertex: VertexId) -> Self {
        let mask = || Mask::new(Arc::clone(&worker.masked));
        Self {
            events: Arc::clone(&worker.events),
            step: worker.step(vertex),
            state: Mutex::new((mask(), mask(), Tail::default())),
        }
    }

    pub(super) fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (stdout, stderr, tail) = &mut *state;
        let shown = match stream {
            Stream::Stdout => stdout.push(bytes),
            Stream::Stderr => stderr.push(bytes),
        };
        tail.push(&shown);
        self.show(stream, shown);
    }

    fn show(&self, stream: Stream, bytes: Vec<u8>) {
        if let Some(step) = self.step
            && !bytes.is_empty()
        {
            self.events.event(Event::Log {
                step,
                stderr: stream == Stream::Stderr,
                bytes,
            });
        }
    }

    /// Shows what was kept back; returns the end of the output.
    pub(super) fn finish(&self) -> Vec<u8> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (stdout, stderr, tail) = &mut *state;
        for (stream, mask) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            let rest = mask.finish();
            tail.push(&rest);
            self.show(stream, rest);
        }
        std::mem::take(tail).into_bytes()
    }
}

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
}

impl Tail {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(TAIL_BYTES_MAX);
        self.bytes.drain(..excess.min(self.bytes.len()));
        self.bytes.extend(bytes);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes.into()
    }
}

/// Replaces secrets in a stream that comes in pieces. Keeps back at most the length of the longest secret, and only
/// while what came last could be the beginning of one.
#[derive(Debug)]
pub(crate) struct Mask {
    /// Longest first, so that a secret that begins with another is masked whole.
    secrets: Arc<[Vec<u8>]>,
    held: Vec<u8>,
}

/// The values to be masked: whole, and without the line end that files tend to have.
pub(crate) fn values<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Arc<[Vec<u8>]> {
    let mut values: Vec<Vec<u8>> = secrets
        .into_iter()
        .map(<[u8]>::trim_ascii_end)
        .filter(|value| value.len() >= SECRET_BYTES_MIN)
        .map(<[u8]>::to_vec)
        .collect();
    values.sort_unstable_by(|one, other| (other.len(), one).cmp(&(one.len(), other)));
    values.dedup();
    values.into()
}

impl Mask {
    pub(crate) fn new(secrets: Arc<[Vec<u8>]>) -> Self {
        Self {
            secrets,
            held: Vec::new(),
        }
    }

    /// Returns what may be shown now.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.secrets.is_empty() {
            return bytes.to_vec();
        }
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(bytes);
        let mut shown = Vec::with_capacity(input.len());
        let mut at = 0;
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
            if let Some(secret) = self.secrets.iter().find(|secret| rest.starts_with(secret)) {
                shown.extend_from_slice(MASK);
                at += secret.len();
            } else if self.secrets.iter().any(|secret| secret.starts_with(rest)) {
                break;
            } else {
                shown.push(rest[0]);
                at += 1;
            }
        }
        self.held = input.split_off(at);
        shown
    }

    /// Returns what was kept back: the stream ended, so it is no secret.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mask(secrets: &[&str], pieces: &[&str]) -> String {
        let mut mask = Mask::new(values(secrets.iter().map(|secret| secret.as_bytes())));
        let mut shown = Vec::new();
        for piece in pieces {
            shown.extend(mask.push(piece.as_bytes()));
        }
        shown.extend(mask.finish());
        String::from_utf8(shown).expect("text")
    }

    #[test]
    fn secrets_are_masked_also_across_pieces() {
        assert_eq!(mask(&["hunter2\n"], &["pass hunter2!\n"]), "pass ***!\n");
        assert_eq!(
            mask(&["hunter2"], &["hun", "t", "er2 hunt", "ing"]),
            "*** hunting"
        );
        assert_eq!(mask(&["abcd", "abcdef"], &["abcdef abcd"]), "*** ***");
        assert_eq!(mask(&["abc", ""], &["abc"]), "abc");
        assert_eq!(mask(&[], &["x"]), "x");
        assert_eq!(mask(&["aabaab"], &["aabaaab", "aab"]), "aaba***");
    }

    #[test]
    fn the_tail_is_bounded() {
        let mut tail = Tail::default();
        for _ in 0..10 {
            tail.push(&[b'a'; 20_000]);
        }
        tail.push(b"end");
        let bytes = tail.into_bytes();
        assert_eq!(bytes.len(), TAIL_BYTES_MAX);
        assert!(bytes.ends_with(b"aend"));
        let mut tail = Tail::default();
        tail.push(&vec![b'b'; 3 * TAIL_BYTES_MAX]);
        assert_eq!(tail.into_bytes().len(), TAIL_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[ab]{0,60}", cut in 0..60_usize) {
            let cut = cut.min(text.len());
            let whole = mask(&["abab", "bbbba"], &[&text]);
            let pieces = mask(&["abab", "bbbba"], &[&text[..cut], &text[cut..]]);
            prop_assert_eq!(whole, pieces);
        }
    }
}
