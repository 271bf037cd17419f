//! Blobs by digest. A blob gets its name only when it is whole and verified.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use crate::digest::Digest;
use crate::store::{Result, Store};

/// A blob that is being written. Dropping it removes what was written.
#[derive(Debug)]
pub struct Ingest {}

impl Store {
    /// Begins a blob.
    pub fn ingest(&self) -> Result<Ingest> {
        todo!()
    }

    /// Writes a small blob that is in memory; returns its digest.
    pub fn put_blob(&self, _bytes: &[u8]) -> Result<Digest> {
        todo!()
    }

    pub fn has_blob(&self, _digest: &Digest) -> bool {
        todo!()
    }

    /// Opens a blob for reading; `Error::Missing` where there is none.
    pub fn open_blob(&self, _digest: &Digest) -> Result<File> {
        todo!()
    }

    /// Reads a small document whole; more than `limit` bytes is an error. The digest is verified.
    pub fn read_blob(&self, _digest: &Digest, _limit: u64) -> Result<Vec<u8>> {
        todo!()
    }

    pub fn blob_size(&self, _digest: &Digest) -> Result<u64> {
        todo!()
    }

    /// `content/blobs/sha256/HEX`.
    pub fn blob_path(&self, _digest: &Digest) -> PathBuf {
        todo!()
    }
}

impl Ingest {
    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        todo!()
    }

    /// Copies all of `reader`; refuses more than `limit` bytes.
    pub fn write_from(&mut self, _reader: &mut dyn Read, _limit: u64) -> Result<()> {
        todo!()
    }

    /// Verifies size and digest where given, and gives the blob its name. Equal blobs are one.
    pub fn commit(
        self,
        _expected: Option<&Digest>,
        _expected_size: Option<u64>,
    ) -> Result<(Digest, u64)> {
        todo!()
    }
}

impl Write for Ingest {
    fn write(&mut self, _bytes: &[u8]) -> std::io::Result<usize> {
        todo!()
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
