//! Writing gzip: one member, made in pieces on all cores.
//!
//! One member and not many, which is as good gzip: Python's `tarfile` and others read only the first.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc;

use super::{deflate, noise};

/// One piece's input. Part of what the bytes of a layer are a function of: never change it.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// What libdeflate itself writes: deflate, no name, no time, no hint, an unknown system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

type Piece = Result<Vec<u8>, String>;

/// One gzip member, of pieces that are compressed on rayon's threads and written in order. At most twice as many as
/// there are threads are under way.
pub(crate) struct Gzip<W: Write> {
    level: u8,
    output: W,
    pending: Vec<u8>,
    under_way: VecDeque<mpsc::Receiver<Piece>>,
    wrote: bool,
    checksum: libdeflater::Crc,
    /// Of the input, modulo 2³².
    length: u32,
}

impl<W: Write> Gzip<W> {
    pub(super) fn new(level: u8, output: W) -> Self {
        Self {
            level,
            output,
            pending: Vec::new(),
            under_way: VecDeque::new(),
            wrote: false,
            checksum: libdeflater::Crc::new(),
            length: 0,
        }
    }

    fn dispatch(&mut self) -> io::Result<()> {
        if !self.wrote {
            self.output.write_all(&HEAD)?;
        }
        self.checksum.update(&self.pending);
        self.length = self.length.wrapping_add(self.pending.len() as u32);
        let input = std::mem::take(&mut self.pending);
        let level = self.level;
        let (sender, receiver) = mpsc::sync_channel(1);
        rayon::spawn(move || {
            // The receiver is gone only when writing failed: then nobody wants the piece.
            let _ = sender.send(piece(&input, level));
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
        let piece = receiver
            .recv()
            .map_err(|_| io::Error::other("a compressing thread died"))?
            .map_err(io::Error::other)?;
        self.output.write_all(&piece)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.wrote {
            // A stream of one piece is not worth a thread.
            let whole = whole(&self.pending, self.level).map_err(io::Error::other)?;
            self.output.write_all(&whole)?;
            return Ok(self.output);
        }
        if !self.pending.is_empty() {
            self.dispatch()?;
        }
        while !self.under_way.is_empty() {
            self.take_oldest()?;
        }
        self.output.write_all(&deflate::END)?;
        self.output.write_all(&self.checksum.sum().to_le_bytes())?;
        self.output.write_all(&self.length.to_le_bytes())?;
        Ok(self.output)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.pending.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        if self.pending.capacity() == 0 && self.wrote {
            self.pending.reserve_exact(PIECE_BYTES);
        }
        self.pending.extend_from_slice(taken);
        if self.pending.len() == PIECE_BYTES {
            self.dispatch()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn compressor(level: u8) -> Result<libdeflater::Compressor, String> {
    let level = libdeflater::CompressionLvl::new(i32::from(level))
        .map_err(|_| format!("gzip knows no level {level}: 1 to 12"))?;
    Ok(libdeflater::Compressor::new(level))
}

/// A whole gzip stream.
fn whole(input: &[u8], level: u8) -> Piece {
    let mut compressor = compressor(level)?;
    let mut output = vec![0; compressor.gzip_compress_bound(input.len())];
    let length = compressor
        .gzip_compress(input, &mut output)
        .map_err(|error| error.to_string())?;
    output.truncate(length);
    Ok(output)
}

/// A part of a deflate stream: what can be made smaller, and as it is what cannot.
fn piece(input: &[u8], level: u8) -> Piece {
    let mut compressor = compressor(level)?;
    let mut output = Vec::new();
    let mut done = 0;
    for stretch in noise::stretches(input) {
        let (between, stored) = (input.get(done..stretch.start), input.get(stretch.clone()));
        pack(&mut compressor, between.unwrap_or_default(), &mut output)?;
        deflate::store(stored.unwrap_or_default(), &mut output);
        done = stretch.end;
    }
    pack(
        &mut compressor,
        input.get(done..).unwrap_or_default(),
        &mut output,
    )?;
    Ok(output)
}

fn pack(
    compressor: &mut libdeflater::Compressor,
    input: &[u8],
    to: &mut Vec<u8>,
) -> Result<(), String> {
    if input.is_empty() {
        return Ok(());
    }
    let mut output = vec![0; compressor.deflate_compress_bound(input.len())];
    let length = compressor
        .deflate_compress(input, &mut output)
        .map_err(|error| error.to_string())?;
    output.truncate(length);
    deflate::unfinish(&mut output).ok_or("libdeflate made a stream that does not end")?;
    if to.is_empty() {
        *to = output;
    } else {
        to.extend_from_slice(&output);
    }
    Ok(())
}
