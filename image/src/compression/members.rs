//! Streams that are several compressed ones, each ending with a checksum of its own.

use std::io::{self, BufRead, BufReader, Read};

use super::{Detected, MAGIC_LENGTH, detect};

type Source<'a> = BufReader<Box<dyn Read + Send + 'a>>;

/// A decoder of one member.
pub(super) trait Member<'a>: Read + Sized {
    const KIND: Detected;
    fn begin(input: Input<'a>) -> Self;
    fn into_input(self) -> Input<'a>;
}

impl<'a> Member<'a> for flate2::bufread::GzDecoder<Input<'a>> {
    const KIND: Detected = Detected::Gzip;

    fn begin(input: Input<'a>) -> Self {
        Self::new(input)
    }

    fn into_input(self) -> Input<'a> {
        self.into_inner()
    }
}

impl<'a> Member<'a> for bzip2::bufread::BzDecoder<Input<'a>> {
    const KIND: Detected = Detected::Bzip2;

    fn begin(input: Input<'a>) -> Self {
        Self::new(input)
    }

    fn into_input(self) -> Input<'a> {
        self.into_inner()
    }
}

/// One member after another. What follows the last and begins none (the zeros of a tape or a disk, a signature) is
/// passed over, as `gzip` and `bzip2` do.
pub(super) struct Members<D> {
    current: Option<D>,
}

impl<'a, D: Member<'a>> Members<D> {
    pub(super) fn new(source: Source<'a>) -> Self {
        Self {
            current: Some(D::begin(Input {
                head: Vec::new(),
                source,
            })),
        }
    }
}

impl<'a, D: Member<'a>> Read for Members<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(decoder) = &mut self.current else {
                return Ok(0);
            };
            let read = decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(mut input) = self.current.take().map(D::into_input) else {
                return Ok(0);
            };
            if detect(input.peek()?) == D::KIND {
                self.current = Some(D::begin(input));
            } else {
                // Whoever counts or hashes what is read, does so to the end.
                io::copy(&mut input, &mut io::sink())?;
            }
        }
    }
}

/// What is to be decoded, some of which has been looked at.
pub(super) struct Input<'a> {
    head: Vec<u8>,
    source: Source<'a>,
}

impl Input<'_> {
    /// The next bytes, without taking them: fewer than a magic only at the end.
    fn peek(&mut self) -> io::Result<&[u8]> {
        let missing = MAGIC_LENGTH.saturating_sub(self.head.len());
        let mut source = Read::by_ref(&mut self.source).take(missing as u64);
        source.read_to_end(&mut self.head)?;
        Ok(&self.head)
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.head.is_empty() {
            true => self.source.fill_buf(),
            false => Ok(&self.head),
        }
    }

    fn consume(&mut self, amount: usize) {
        match self.head.is_empty() {
            true => self.source.consume(amount),
            false => drop(self.head.drain(..amount.min(self.head.len()))),
        }
    }
}
