//! A container's output as it is kept: a line of JSON for each of its lines, with the stream and the time, as
//! Docker's `json-file`. Lines that never end are kept in pieces.
//!
//! Where its size is limited, a full file gets the name `log.json.1`, and what had that name `log.json.2`.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

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

/// How output is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeping {
    pub driver: Driver,
    /// Bytes of a file; no limit where there is none.
    pub max_size: Option<u64>,
    /// Files that are kept of a limited size; 1 or more.
    pub max_file: u32,
    /// Labels and variables of the container that are told of it beside its output.
    #[serde(default)]
    pub labels: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
}

/// Docker's names for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    JsonFile,
    /// The same, of limited size where nothing else is said.
    Local,
    /// Nothing is kept.
    None,
}

impl Driver {
    /// As `--log-driver` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::JsonFile => "json-file",
            Self::Local => "local",
            Self::None => "none",
        }
    }
}

impl Default for Keeping {
    fn default() -> Self {
        Self {
            driver: Driver::JsonFile,
            max_size: None,
            max_file: 1,
            labels: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// Writes the log of one container.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    keeping: Keeping,
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
    pub(super) fn open(path: &Path, keeping: Keeping) -> io::Result<Self> {
        let file = append_to(path)?;
        Ok(Self {
            path: path.to_owned(),
            size: file.metadata()?.len(),
            file,
            keeping,
            pending: [Vec::new(), Vec::new()],
        })
    }

    /// Writes whole lines. A file is full when it has its size, by a line more at most.
    fn keep(&mut self, text: &[u8]) -> io::Result<()> {
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            if self.keeping.max_size.is_some_and(|most| self.size >= most) {
                self.begin_another()?;
            }
            self.file.write_all(line)?;
            self.size += line.len() as u64;
        }
        Ok(())
    }

    fn begin_another(&mut self) -> io::Result<()> {
        for number in (0..self.keeping.max_file.saturating_sub(1)).rev() {
            match std::fs::rename(file_of(&self.path, number), file_of(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.keeping.max_file <= 1 {
            std::fs::remove_file(&self.path)?;
        }
        self.file = append_to(&self.path)?;
        self.size = 0;
        Ok(())
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
        self.keep(&text)
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
        self.keep(&text)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// The newest is 0.
fn file_of(path: &Path, number: u32) -> PathBuf {
    match number {
        0 => path.to_owned(),
        number => path.with_added_extension(number.to_string()),
    }
}

/// Reads a container's log from its oldest line on, also while it is written.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    /// What of a line is there already.
    partial: Vec<u8>,
}

impl Reader {
    /// `None` where there is no log.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let Some(file) = oldest(path)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            path: path.to_owned(),
            file: BufReader::new(file),
            partial: Vec::new(),
        }))
    }

    /// The next whole line; `None` where there is none yet.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.of_this_file()? {
                return Ok(Some(line));
            }
            let place = self.place()?;
            if place == Some(0) {
                return Ok(None);
            }
            // It has another name by now: nothing is added to it any more.
            if let Some(line) = self.of_this_file()? {
                return Ok(Some(line));
            }
            let newer = match place {
                Some(number) => open_if_there(&file_of(&self.path, number - 1))?,
                None => oldest(&self.path)?,
            };
            // Names may have moved on meanwhile.
            if self.place()? == place
                && let Some(newer) = newer
            {
                self.file = BufReader::new(newer);
                self.partial.clear();
            } else if oldest(&self.path)?.is_none() {
                return Ok(None);
            }
        }
    }

    fn of_this_file(&mut self) -> io::Result<Option<Line>> {
        loop {
            let length = self.file.read_until(b'\n', &mut self.partial)?;
            if length == 0 || !self.partial.ends_with(b"\n") {
                return Ok(None);
            }
            let text = std::mem::take(&mut self.partial);
            // What a crash tore is left out.
            if let Ok(line) = serde_json::from_slice(&text) {
                return Ok(Some(line));
            }
        }
    }

    /// The number that this file's name has now.
    fn place(&self) -> io::Result<Option<u32>> {
        let own = self.file.get_ref().metadata()?;
        let mut number = 0;
        while let Ok(other) = std::fs::metadata(file_of(&self.path, number)) {
            if (other.dev(), other.ino()) == (own.dev(), own.ino()) {
                return Ok(Some(number));
            }
            number += 1;
        }
        Ok(None)
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

fn oldest(path: &Path) -> io::Result<Option<File>> {
    let mut found = None;
    for number in 0.. {
        match open_if_there(&file_of(path, number))? {
            Some(file) => found = Some(file),
            None => break,
        }
    }
    Ok(found)
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
        let mut log = Log::open(&path, Keeping::default()).unwrap();
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
    #[test]
    fn a_limited_log_is_read_across_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.json");
        let keeping = |max_file| Keeping {
            driver: Driver::Local,
            max_size: Some(200),
            max_file,
            ..Keeping::default()
        };
        let text = |number: u32| format!("line {number}\n").into_bytes();
        let numbers = |reader: &mut Reader| -> Vec<u32> {
            std::iter::from_fn(|| reader.next_line().unwrap())
                .map(|line| line.log.trim_start_matches("line ").trim().parse().unwrap())
                .collect()
        };
        let mut log = Log::open(&path, keeping(3)).unwrap();
        log.write(Stream::Stdout, &text(0)).unwrap();
        let mut follower = Reader::open(&path).unwrap().unwrap();
        assert_eq!(numbers(&mut follower), [0]);
        for number in 1..50 {
            log.write(Stream::Stdout, &text(number)).unwrap();
            assert_eq!(numbers(&mut follower), [number]);
        }
        let files = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(files, 3);
        let kept = numbers(&mut Reader::open(&path).unwrap().unwrap());
        assert!((5..50).contains(&kept.len()), "{kept:?}");
        assert!(kept.is_sorted() && kept.last() == Some(&49), "{kept:?}");
        // So much at once that all files of before are gone: what is left is read from its beginning.
        let much: Vec<u8> = (50..200).flat_map(text).collect();
        log.write(Stream::Stdout, &much).unwrap();
        let seen = numbers(&mut follower);
        assert!(seen.is_sorted() && seen.last() == Some(&199), "{seen:?}");
        drop(log);
        let mut log = Log::open(&path, keeping(1)).unwrap();
        for number in 200..210 {
            log.write(Stream::Stdout, &text(number)).unwrap();
        }
        assert_eq!(numbers(&mut follower).last(), Some(&209));
    }
}
