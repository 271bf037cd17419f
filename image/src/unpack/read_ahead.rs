//! Decompressing and hashing on a thread of their own, ahead of whoever writes files.

use std::io::{BufRead, ErrorKind, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use rbuild_cache::Digest;
use sha2::Digest as _;

const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_AHEAD: usize = 8;

/// As many bytes of `buffer` as `length` says.
struct Chunk {
    buffer: Vec<u8>,
    length: usize,
}

/// What the thread has read, in order. Dropping it ends the thread.
pub(super) struct ReadAhead {
    chunks: Receiver<std::io::Result<Chunk>>,
    /// Where buffers go back to: memory that is new costs more than what is read into it.
    used: Sender<Vec<u8>>,
    current: Chunk,
    position: usize,
}

/// Starts reading `input` to its end. The thread's result is the digest of all of it; `None` if it could not be read
/// or was not wanted to the end.
pub(super) fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    input: impl Read + Send + 'scope,
) -> (ReadAhead, ScopedJoinHandle<'scope, Option<Digest>>) {
    let (sender, chunks) = sync_channel(CHUNKS_AHEAD);
    let (used, unused) = channel();
    let reading = scope.spawn(move || read(input, &sender, &unused));
    let ahead = ReadAhead {
        chunks,
        used,
        current: Chunk {
            buffer: Vec::new(),
            length: 0,
        },
        position: 0,
    };
    (ahead, reading)
}

fn read(
    mut input: impl Read,
    to: &SyncSender<std::io::Result<Chunk>>,
    unused: &Receiver<Vec<u8>>,
) -> Option<Digest> {
    let mut hasher = sha2::Sha256::new();
    loop {
        let mut buffer = unused.try_recv().unwrap_or_default();
        buffer.resize(CHUNK_BYTES, 0);
        let (length, result) = fill(&mut input, &mut buffer);
        hasher.update(buffer.get(..length).unwrap_or_default());
        // What came before an error is passed on first: an archive may end before its stream breaks.
        if length > 0 {
            to.send(Ok(Chunk { buffer, length })).ok()?;
        }
        match result {
            Ok(()) if length == CHUNK_BYTES => {}
            Ok(()) => return Some(Digest::from_bytes(hasher.finalize().into())),
            Err(error) => {
                let _ = to.send(Err(error));
                return None;
            }
        }
    }
}

/// Reads until the buffer is full, the input ends or it breaks. Decoders are asked for as much as there is room: each
/// call of theirs has its price.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> (usize, std::io::Result<()>) {
    let mut length = 0;
    loop {
        let rest = buffer.get_mut(length..).unwrap_or_default();
        if rest.is_empty() {
            return (length, Ok(()));
        }
        match input.read(rest) {
            Ok(0) => return (length, Ok(())),
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (length, Err(error)),
        }
    }
}

impl BufRead for ReadAhead {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.position == self.current.length {
            let used = Chunk {
                buffer: Vec::new(),
                length: 0,
            };
            let used = std::mem::replace(&mut self.current, used);
            self.position = 0;
            if !used.buffer.is_empty() {
                // Nobody reads any more.
                let _ = self.used.send(used.buffer);
            }
            if let Ok(chunk) = self.chunks.recv() {
                self.current = chunk?;
            }
        }
        let chunk = self.current.buffer.get(..self.current.length);
        let rest = chunk.and_then(|chunk| chunk.get(self.position..));
        Ok(rest.unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.position = self.position.saturating_add(count).min(self.current.length);
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut rest = self.fill_buf()?;
        let count = rest.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
