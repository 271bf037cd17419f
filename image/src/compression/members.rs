//! Streams that are several compressed ones, each ending with a checksum of its own.

use std::io::{self, BufRead, BufReader, Read};

use super::{Detected, MAGIC_LENGTH, detect};

type Source<'a> = BufReader<Box<dyn Read + Send + 'a>>;

/// One member after another. What follows the last and begins none (the zeros of a tape or a disk, a signature) is
/// passed over, as `gzip` and `bzip2` do.
pub(super) struct Members<'a, D> {
    kind: Detected,
    begin: fn(Input<'a>) -> D,
    end: fn(D) -> Input<'a>,
    current: Option<D>,
}

impl<'a, D: Read> Members<'a, D> {
    /// Of this kind, with a decoder of one member: how one is begun, and how it gives back what it has not read.
    pub(super) fn new(
        source: Source<'a>,
        kind: Detected,
        begin: fn(Input<'a>) -> D,
        end: fn(D) -> Input<'a>,
    ) -> Self {
        let head = Vec::new();
        Self {
            kind,
            begin,
            end,
            current: Some(begin(Input { head, source })),
        }
    }
}

impl<D: Read> Read for Members<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(decoder) = &mut self.current else {
                return Ok(0);
            };
            let read = decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(mut input) = self.current.take().map(self.end) else {
                return Ok(0);
            };
            if detect(input.peek()?) == self.kind {
                self.current = Some((self.begin)(input));
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
