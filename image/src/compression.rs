//! Compressing layers, the same bytes for the same input on any machine; and reading whatever is compressed.
//!
//! Writing goes through [`Compressor`]: gzip in independent members of 1 MiB input that all cores make, zstd with
//! fixed parameters. Reading goes through [`reader`] or, where the input is not trusted, [`Bounded`] around it.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// libdeflate, in independent members of 1 MiB input on all cores.
    Gzip {
        level: u8,
    },
    Zstd {
        level: u8,
    },
    None,
}

/// What a stream is compressed with, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
    None,
}

/// As many first bytes as [`detect`] looks at.
const MAGIC_LENGTH: usize = 6;

/// One gzip member's input. Part of what the bytes of a layer are a function of: never change it.
const MEMBER_BYTES: usize = 1 << 20;

/// What a decoder may allocate for its window, in bytes (zstd's own limit for `--long` less streams).
const DECODER_MEMORY_LIMIT_BYTES: u64 = 256 << 20;
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

impl Default for Compression {
    fn default() -> Self {
        Self::Gzip { level: 4 }
    }
}

pub fn detect(first_bytes: &[u8]) -> Detected {
    if first_bytes.starts_with(&[0x1f, 0x8b, 0x08]) {
        Detected::Gzip
    } else if first_bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Detected::Zstd
    } else if first_bytes.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        Detected::Xz
    } else if first_bytes.starts_with(b"BZh") {
        Detected::Bzip2
    } else {
        Detected::None
    }
}

/// Decompresses by what the first bytes say; several gzip members are one stream.
pub fn reader<'a>(input: Box<dyn Read + Send + 'a>) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut input = BufReader::with_capacity(128 << 10, input);
    let detected = detect(peek(&mut input)?);
    Ok(match detected {
        Detected::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Detected::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        Detected::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                DECODER_MEMORY_LIMIT_BYTES,
                liblzma::stream::CONCATENATED,
            )
            .map_err(io::Error::other)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Detected::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Detected::None => Box::new(input),
    })
}

/// The first bytes of a stream without taking them. A reader that gives them one by one is asked again.
fn peek<R: Read>(input: &mut BufReader<R>) -> io::Result<&[u8]> {
    // `fill_buf` reads only into an empty buffer, so short first reads are rare (pipes) and cost detection of a
    // compression, never data: a pipe's first read gives at least what its writer wrote first.
    let filled = input.fill_buf()?;
    Ok(filled.get(..MAGIC_LENGTH).unwrap_or(filled))
}

/// How much a compressed stream may grow: what protects disk and patience from a bomb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Uncompressed bytes for each compressed one.
    pub ratio: u64,
    /// This much is always allowed.
    pub floor_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ratio: 200,
            floor_bytes: 1 << 30,
        }
    }
}

/// What of [`Limits`] is used up by one stream. Shared by whoever reads from it and whoever writes files.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    limits: Limits,
    compressed: Arc<AtomicU64>,
}

impl Budget {
    /// Whether `bytes` may come out of what has been read so far.
    pub(crate) fn check(&self, bytes: u64) -> Result<(), String> {
        let read = self.compressed.load(Ordering::Relaxed);
        let allowed = read
            .saturating_mul(self.limits.ratio)
            .max(self.limits.floor_bytes);
        if bytes <= allowed {
            return Ok(());
        }
        Err(format!(
            "it grows to more than {} bytes out of {read}: more than {} to one is taken for an attack",
            allowed, self.limits.ratio
        ))
    }
}

/// A decompressing reader that ends with an error where the stream grows beyond its limits.
pub(crate) struct Bounded<'a> {
    input: Box<dyn Read + Send + 'a>,
    produced: u64,
    budget: Budget,
}

impl<'a> Bounded<'a> {
    pub(crate) fn new(input: Box<dyn Read + Send + 'a>, limits: Limits) -> io::Result<Self> {
        let compressed = Arc::new(AtomicU64::new(0));
        let counting = Counting {
            input,
            count: Arc::clone(&compressed),
        };
        Ok(Self {
            input: reader(Box::new(counting))?,
            produced: 0,
            budget: Budget { limits, compressed },
        })
    }

    pub(crate) fn budget(&self) -> Budget {
        self.budget.clone()
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.produced += count as u64;
        self.budget
            .check(self.produced)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
        Ok(count)
    }
}

struct Counting<'a> {
    input: Box<dyn Read + Send + 'a>,
    count: Arc<AtomicU64>,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Compresses what is written to it; call [`Compressor::finish`].
pub(crate) enum Compressor<W: Write> {
    Gzip(Gzip<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
    None(W),
}

impl<W: Write> Compressor<W> {
    pub(crate) fn new(compression: Compression, output: W) -> io::Result<Self> {
        Ok(match compression {
            Compression::Gzip { level } => Self::Gzip(Gzip::new(level, output)),
            Compression::Zstd { level } => {
                let mut encoder = zstd::stream::write::Encoder::new(output, i32::from(level))?;
                // With one worker or more the bytes do not depend on how many there are.
                encoder.multithread(u32::try_from(rayon::current_num_threads()).unwrap_or(1))?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
            Compression::None => Self::None(output),
        })
    }

    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::Gzip(gzip) => gzip.finish(),
            Self::Zstd(encoder) => encoder.finish(),
            Self::None(output) => Ok(output),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(gzip) => gzip.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
            Self::None(output) => output.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Member = Result<Vec<u8>, String>;

/// gzip members of [`MEMBER_BYTES`] input each, compressed on rayon's threads and written in order. At most
/// twice as many as there are threads are under way.
pub(crate) struct Gzip<W: Write> {
    level: u8,
    output: W,
    pending: Vec<u8>,
    under_way: VecDeque<mpsc::Receiver<Member>>,
    wrote: bool,
}

impl<W: Write> Gzip<W> {
    fn new(level: u8, output: W) -> Self {
        Self {
            level,
            output,
            pending: Vec::new(),
            under_way: VecDeque::new(),
            wrote: false,
        }
    }

    fn dispatch(&mut self) -> io::Result<()> {
        let input = std::mem::take(&mut self.pending);
        let level = self.level;
        let (sender, receiver) = mpsc::sync_channel(1);
        rayon::spawn(move || {
            // The receiver is gone only when writing failed: then nobody wants the member.
            let _ = sender.send(gzip_member(&input, level));
        });
        self.under_way.push_back(receiver);
        self.wrote = true;
        if self.under_way.len() > 2 * rayon::current_num_threads() {
            self.take_oldest()?;
        }
        Ok(())
    }

    fn take_oldest(&mut self) -> io::Result<()> {
        let Some(receiver) = self.under_way.pop_front() else {
            return Ok(());
        };
        let member = receiver
            .recv()
            .map_err(|_| io::Error::other("a compressing thread died"))?
            .map_err(io::Error::other)?;
        self.output.write_all(&member)
    }

    fn finish(mut self) -> io::Result<W> {
        if !self.pending.is_empty() || !self.wrote {
            if self.wrote {
                self.dispatch()?;
            } else {
                // A stream of one member is not worth a thread.
                let member = gzip_member(&self.pending, self.level).map_err(io::Error::other)?;
                self.output.write_all(&member)?;
            }
        }
        while !self.under_way.is_empty() {
            self.take_oldest()?;
        }
        Ok(self.output)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MEMBER_BYTES - self.pending.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        if self.pending.capacity() == 0 && self.wrote {
            self.pending.reserve_exact(MEMBER_BYTES);
        }
        self.pending.extend_from_slice(taken);
        if self.pending.len() == MEMBER_BYTES {
            self.dispatch()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gzip_member(input: &[u8], level: u8) -> Member {
    let level = libdeflater::CompressionLvl::new(i32::from(level))
        .map_err(|_| format!("gzip knows no level {level}: 1 to 12"))?;
    let mut compressor = libdeflater::Compressor::new(level);
    let mut output = vec![0; compressor.gzip_compress_bound(input.len())];
    let length = compressor
        .gzip_compress(input, &mut output)
        .map_err(|error| error.to_string())?;
    output.truncate(length);
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compress(compression: Compression, input: &[u8]) -> Vec<u8> {
        let mut compressor = Compressor::new(compression, Vec::new()).unwrap();
        for part in input.chunks(70_001) {
            compressor.write_all(part).unwrap();
        }
        compressor.finish().unwrap()
    }

    fn decompress(input: &[u8]) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        reader(Box::new(input))?.read_to_end(&mut output)?;
        Ok(output)
    }

    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        (0..length)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if i % 3 == 0 {
                    (state >> 24) as u8
                } else {
                    b'x'
                }
            })
            .collect()
    }

    #[test]
    fn what_is_compressed_reads_back_and_is_the_same_every_time() {
        for compression in [
            Compression::default(),
            Compression::Zstd { level: 3 },
            Compression::None,
        ] {
            for length in [0, 1, MEMBER_BYTES - 1, MEMBER_BYTES, 3 * MEMBER_BYTES + 17] {
                let input = sample(length);
                let first = compress(compression, &input);
                assert_eq!(first, compress(compression, &input));
                assert_eq!(
                    decompress(&first).unwrap(),
                    input,
                    "{compression:?} {length}"
                );
            }
        }
    }

    #[test]
    fn a_truncated_stream_is_an_error() {
        for compression in [Compression::default(), Compression::Zstd { level: 3 }] {
            let whole = compress(compression, &sample(100_000));
            assert!(decompress(&whole[..whole.len() / 2]).is_err());
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let limits = Limits {
            ratio: 10,
            floor_bytes: 1000,
        };
        let bomb = compress(Compression::default(), &vec![0; 10 << 20]);
        let mut bounded = Bounded::new(Box::new(bomb.as_slice()), limits).unwrap();
        let mut sink = Vec::new();
        assert!(bounded.read_to_end(&mut sink).is_err());
        assert!(sink.len() < 2 << 20);
    }
}
