//! The threads between a tar's writer and its blob: one writes the tar, one hashes it, one feeds the compressor
//! (whose members other threads make) and writes the blob. Channels are short, so memory stays bounded.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rbuild_cache::Digest;
use sha2::Digest as _;

use crate::compression::Compressor;
use crate::error::{Error, Result};

const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_UNDER_WAY: usize = 4;

type Chunk = Arc<Vec<u8>>;

/// Runs `write` into the compressor and returns it with the digest of what was written; `None` where nothing is
/// compressed, because whoever takes the output hashes the same bytes.
pub(super) fn run<W: Write + Send>(
    mut compressor: Compressor<W>,
    threads: bool,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<(Compressor<W>, Option<Digest>)> {
    let is_hashed = !matches!(compressor, Compressor::None(_));
    if !threads {
        let mut tee = Tee {
            hasher: is_hashed.then(sha2::Sha256::new),
            compressor: &mut compressor,
        };
        // Headers, small files and padding come one by one.
        let mut output = BufWriter::with_capacity(CHUNK_BYTES, &mut tee);
        write(&mut output)?;
        output.flush().map_err(failed)?;
        drop(output);
        let digest = tee
            .hasher
            .map(|hasher| Digest::from_bytes(hasher.finalize().into()));
        return Ok((compressor, digest));
    }
    std::thread::scope(|scope| {
        let (to_hasher, hasher_input) = sync_channel::<Chunk>(CHUNKS_UNDER_WAY);
        let (to_compressor, compressor_input) = sync_channel::<Chunk>(CHUNKS_UNDER_WAY);
        let hashing = is_hashed.then(|| scope.spawn(move || hash(&hasher_input)));
        let compressing =
            scope.spawn(move || compress(&compressor_input, &mut compressor).map(|()| compressor));
        let mut output = Fan {
            pending: Vec::with_capacity(CHUNK_BYTES),
            receivers: if is_hashed {
                vec![to_hasher, to_compressor]
            } else {
                vec![to_compressor]
            },
        };
        let written = write(&mut output).and_then(|()| output.send().map_err(failed));
        drop(output);
        let died = || failed(io::Error::other("a thread died"));
        let digest = hashing
            .map(|hashing| hashing.join().map_err(|_| died()))
            .transpose()?;
        // What stopped the compressor is the cause; that the writer then could not go on is a consequence.
        let compressor = compressing.join().map_err(|_| died())?.map_err(failed)?;
        written?;
        Ok((compressor, digest))
    })
}

fn failed(source: io::Error) -> Error {
    Error::Io {
        action: "write",
        path: "a layer".to_owned(),
        source,
    }
}

fn hash(input: &Receiver<Chunk>) -> Digest {
    let mut hasher = sha2::Sha256::new();
    for chunk in input {
        hasher.update(chunk.as_slice());
    }
    Digest::from_bytes(hasher.finalize().into())
}

fn compress<W: Write>(input: &Receiver<Chunk>, compressor: &mut Compressor<W>) -> io::Result<()> {
    for chunk in input {
        compressor.write_all(&chunk)?;
    }
    Ok(())
}

struct Tee<'a, W: Write> {
    hasher: Option<sha2::Sha256>,
    compressor: &'a mut Compressor<W>,
}

impl<W: Write> Write for Tee<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.compressor.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects what is written into chunks that every receiver gets.
struct Fan {
    pending: Vec<u8>,
    receivers: Vec<SyncSender<Chunk>>,
}

impl Fan {
    fn send(&mut self) -> io::Result<()> {
        let chunk = Arc::new(std::mem::replace(
            &mut self.pending,
            Vec::with_capacity(CHUNK_BYTES),
        ));
        for receiver in &self.receivers {
            receiver
                .send(Arc::clone(&chunk))
                .map_err(|_| io::Error::other("the receiving thread stopped"))?;
        }
        Ok(())
    }
}

impl Write for Fan {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.pending.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.pending.extend_from_slice(taken);
        if self.pending.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
