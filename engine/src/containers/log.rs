//! A container's output as it is kept: a line of JSON for each of its lines, with the stream and the time, as
//! Docker's `json-file`. Lines that never end are kept in pieces.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(super) const FILE: &str = "log.json";

/// Of a line that is kept in one piece.
const MOST: usize = 16 << 10;

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// With its line feed, where it ended.
    pub log: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// RFC 3339, with nanoseconds.
    pub time: String,
}

/// Writes the log of one container.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    pending: [Vec<u8>; 2],
}

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout = 0,
    Stderr = 1,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl Log {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self {
            file,
            pending: [Vec::new(), Vec::new()],
        })
    }

    /// Takes output; lines are written when they end.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let Some(pending) = self.pending.get_mut(stream as usize) else {
            return Ok(());
        };
        pending.extend_from_slice(bytes);
        let mut text = Vec::new();
        let now = super::time::now();
        let mut rest = pending.as_slice();
        loop {
            let end = match rest.iter().take(MOST).position(|byte| *byte == b'\n') {
                Some(at) => at + 1,
                None if rest.len() >= MOST => {
                    whole_characters(rest.get(..MOST).unwrap_or_default())
                }
                None => break,
            };
            let (line, after) = rest.split_at(end);
            add(&mut text, stream, line, &now)?;
            rest = after;
        }
        let left = rest.len();
        pending.drain(..pending.len() - left);
        self.file.write_all(&text)
    }

    /// Writes what has no end yet.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let now = super::time::now();
        let mut text = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(pending) = self.pending.get_mut(stream as usize)
                && !pending.is_empty()
            {
                add(&mut text, stream, &std::mem::take(pending), &now)?;
            }
        }
        self.file.write_all(&text)
    }
}

/// How much of a piece can go without its last character being cut; all of it where that is none of UTF-8.
fn whole_characters(piece: &[u8]) -> usize {
    let start = piece.len().saturating_sub(4);
    let last = piece.get(start..).unwrap_or_default();
    let first = last.iter().rposition(|byte| byte & 0xc0 != 0x80);
    let Some((at, first)) = first.and_then(|at| Some((at, last.get(at)?))) else {
        return piece.len();
    };
    let length = match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    };
    match at + length > last.len() {
        true => start + at,
        false => piece.len(),
    }
}

fn add(text: &mut Vec<u8>, stream: Stream, line: &[u8], now: &str) -> io::Result<()> {
    let line = Line {
        log: String::from_utf8_lossy(line).into_owned(),
        stream: stream.name().to_owned(),
        time: now.to_owned(),
    };
    serde_json::to_writer(&mut *text, &line)?;
    text.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_whole_and_endless_ones_in_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = Log::open(&path).unwrap();
        log.write(Stream::Stdout, b"one\ntw").unwrap();
        log.write(Stream::Stderr, b"err\n").unwrap();
        log.write(Stream::Stdout, b"o\n").unwrap();
        log.write(Stream::Stdout, &vec![b'x'; MOST + 3]).unwrap();
        log.write(Stream::Stderr, "€".repeat(MOST / 3 + 2).as_bytes())
            .unwrap();
        log.write(Stream::Stderr, b"\n").unwrap();
        log.finish().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Line> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let seen: Vec<(&str, usize)> = lines
            .iter()
            .map(|line| (line.stream.as_str(), line.log.len()))
            .collect();
        assert_eq!(
            seen,
            [
                ("stdout", 4),
                ("stderr", 4),
                ("stdout", 4),
                ("stdout", MOST),
                ("stderr", MOST - MOST % 3),
                ("stderr", 7),
                ("stdout", 3)
            ]
        );
        assert!(!text.contains('\u{fffd}'));
    }
}
