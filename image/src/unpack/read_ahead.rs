//! Decompressing and hashing on a thread of their own, ahead of whoever writes files.

use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use rbuild_cache::Digest;
use sha2::Digest as _;

const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_AHEAD: usize = 8;

type Chunk = std::io::Result<Vec<u8>>;

/// What the thread has read, in order. Dropping it ends the thread.
pub(super) struct ReadAhead {
    chunks: Receiver<Chunk>,
    current: Vec<u8>,
    position: usize,
}

/// Starts reading `input` to its end. The thread's result is the digest of all of it; `None` if it could not be read
/// or was not wanted to the end.
pub(super) fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    input: impl Read + Send + 'scope,
) -> (ReadAhead, ScopedJoinHandle<'scope, Option<Digest>>) {
    let (sender, chunks) = sync_channel(CHUNKS_AHEAD);
    let reading = scope.spawn(move || read(input, &sender));
    let ahead = ReadAhead {
        chunks,
        current: Vec::new(),
        position: 0,
    };
    (ahead, reading)
}

fn read(mut input: impl Read, to: &SyncSender<Chunk>) -> Option<Digest> {
    let mut hasher = sha2::Sha256::new();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let result = Read::take(&mut input, CHUNK_BYTES as u64).read_to_end(&mut chunk);
        hasher.update(&chunk);
        // What came before an error is passed on first: an archive may end before its stream breaks.
        let ended = result.is_err() || chunk.is_empty();
        if !chunk.is_empty() {
            to.send(Ok(chunk)).ok()?;
        }
        if let Err(error) = result {
            let _ = to.send(Err(error));
            return None;
        }
        if ended {
            return Some(Digest::from_bytes(hasher.finalize().into()));
        }
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.position == self.current.len() {
            let Ok(chunk) = self.chunks.recv() else {
                return Ok(0);
            };
            self.current = chunk?;
            self.position = 0;
        }
        let mut rest = self.current.get(self.position..).unwrap_or_default();
        let count = rest.read(buffer)?;
        self.position += count;
        Ok(count)
    }
}
