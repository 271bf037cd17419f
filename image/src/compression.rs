//! Compressing layers, the same bytes for the same input on any machine; and reading whatever is compressed.
//!
//! Writing goes through [`Compressor`]: gzip in pieces of 1 MiB input that all cores make ([`gzip`], [`deflate`],
//! [`noise`]), zstd with fixed parameters. Reading goes through [`reader`] or, where the input is not trusted,
//! [`Bounded`] around it.

mod deflate;
mod gzip;
mod members;
mod noise;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use gzip::Gzip;
use members::Members;

/// What layers are compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// libdeflate, in pieces of 1 MiB input on all cores.
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
pub(crate) const MAGIC_LENGTH: usize = 10;

/// What a decoder may allocate for its window, in bytes (zstd's own limit for `--long` less streams).
const DECODER_MEMORY_LIMIT_BYTES: u64 = 256 << 20;
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

impl Default for Compression {
    fn default() -> Self {
        // The least with which layers are no larger than with zlib at its own default.
        Self::Gzip { level: 5 }
    }
}

/// Tells by the first bytes of a stream what it is compressed with; ten are enough.
pub fn detect(first_bytes: &[u8]) -> Detected {
    if first_bytes.starts_with(&[0x1f, 0x8b, 0x08]) {
        Detected::Gzip
    } else if first_bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable(first_bytes) {
        Detected::Zstd
    } else if first_bytes.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        Detected::Xz
    } else if is_bzip2(first_bytes) {
        Detected::Bzip2
    } else {
        Detected::None
    }
}

/// Whether it begins with `BZh`, a level, and the magic of a block or of the end: a tar whose first file is `BZh` of
/// something begins as the signature alone.
fn is_bzip2(first_bytes: &[u8]) -> bool {
    const BLOCK: [u8; 6] = [0x31, 0x41, 0x59, 0x26, 0x53, 0x59];
    const END: [u8; 6] = [0x17, 0x72, 0x45, 0x38, 0x50, 0x90];
    matches!(first_bytes, [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..]
        if rest.starts_with(&BLOCK) || rest.starts_with(&END))
}

/// Whether it begins with a frame that zstd's decoders pass over (RFC 8878, 3.1.2), as what `pzstd` writes does.
fn is_skippable(first_bytes: &[u8]) -> bool {
    matches!(first_bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Decompresses by what the first bytes say; several gzip members are one stream, and what follows them is passed over.
pub fn reader<'a>(input: Box<dyn Read + Send + 'a>) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut input = BufReader::with_capacity(128 << 10, input);
    let detected = detect(peek(&mut input)?);
    Ok(match detected {
        Detected::Gzip => Box::new(Members::new(
            input,
            Detected::Gzip,
            GzDecoder::new,
            GzDecoder::into_inner,
        )),
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
        Detected::Bzip2 => Box::new(Members::new(
            input,
            Detected::Bzip2,
            BzDecoder::new,
            BzDecoder::into_inner,
        )),
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

#[cfg(test)]
mod tests {
    use super::gzip::PIECE_BYTES;
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
            for length in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 17] {
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

    /// Many readers know only the first member of a stream.
    #[test]
    fn gzip_is_one_member() {
        let input = sample(5 * PIECE_BYTES + 3);
        let packed = compress(Compression::default(), &input);
        let mut output = Vec::new();
        let mut decoder = flate2::bufread::GzDecoder::new(packed.as_slice());
        decoder.read_to_end(&mut output).unwrap();
        assert!(decoder.into_inner().is_empty());
        assert!(output == input);
    }

    #[test]
    fn members_are_one_stream_and_what_follows_them_is_not_read() {
        let input = sample(1000);
        let packed = compress(Compression::default(), &input);
        for rest in [&b""[..], &[0; 1000], &[0x1f], b"signed"] {
            let members = [&packed, &*packed, rest].concat();
            assert!(decompress(&members).unwrap() == [&*input, &*input].concat());
        }
        assert!(decompress(&packed[..packed.len() - 1]).is_err());
    }

    #[test]
    fn frames_that_are_passed_over_may_come_first() {
        let input = sample(1000);
        let packed = compress(Compression::Zstd { level: 3 }, &input);
        let skipped = b"\x5a\x2a\x4d\x18\x02\x00\x00\x00xx";
        for frames in [
            [skipped.as_slice(), &packed, &packed].concat(),
            [&packed, skipped.as_slice(), &packed, skipped].concat(),
        ] {
            assert!(decompress(&frames).unwrap() == [&*input, &*input].concat());
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
