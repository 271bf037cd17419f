//! Reading a blob while it is still being brought into the store. What is read is not verified yet: nothing that is
//! made of it may be published before the blob was committed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::store::{Shared, Store};

/// Blobs that somebody in this process wants to read as they arrive.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<Vec<Arc<Arrival>>>);

/// A blob on its way. The first ingest of it is followed; one that begins again from the start is not.
#[derive(Debug)]
pub(crate) struct Arrival {
    digest: Digest,
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    file: Option<File>,
    begun: bool,
    written: u64,
    /// Nothing more will be written.
    ended: bool,
    /// What was written is the blob.
    verified: bool,
    /// Whoever reads sleeps until so much is written.
    wanted: u64,
}

/// Held while a blob is brought here. What reads it ends with an error when this is dropped before it is whole.
#[derive(Debug)]
#[must_use = "dropping it ends what reads it"]
pub struct Expected {
    shared: Arc<Shared>,
    arrival: Arc<Arrival>,
}

/// The bytes of a blob in their order, as they arrive. Reading blocks until there is something.
#[derive(Debug)]
pub struct ArrivingBlob {
    arrival: Arc<Arrival>,
    file: Option<File>,
    position: u64,
    /// So much is known to be written.
    written: u64,
}

impl Store {
    /// Says that a blob of this many bytes will be brought here ([`Store::ingest_expected`]), and gives what reads it
    /// meanwhile.
    pub fn expect_blob(&self, digest: &Digest, size: u64) -> (Expected, ArrivingBlob) {
        let arrival = Arc::new(Arrival {
            digest: *digest,
            size,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        self.shared.arrivals.lock().push(Arc::clone(&arrival));
        let reader = ArrivingBlob {
            arrival: Arc::clone(&arrival),
            file: None,
            position: 0,
            written: 0,
        };
        let expected = Expected {
            shared: Arc::clone(&self.shared),
            arrival,
        };
        (expected, reader)
    }
}

impl Arrivals {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Arrival>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who waits for a blob that begins to be written.
    pub(crate) fn begin(&self, digest: &Digest, file: &File) -> io::Result<Option<Followed>> {
        for arrival in self.lock().iter().filter(|one| one.digest == *digest) {
            let mut state = arrival.lock();
            if state.begun || state.ended {
                continue;
            }
            state.file = Some(file.try_clone()?);
            state.begun = true;
            drop(state);
            arrival.changed.notify_all();
            return Ok(Some(Followed(Arc::clone(arrival))));
        }
        Ok(None)
    }
}

/// The writer's side. Dropping it says that nothing more comes.
#[derive(Debug)]
pub(crate) struct Followed(Arc<Arrival>);

impl Followed {
    /// The file's first `written` bytes are there.
    pub(crate) fn written(&self, written: u64) {
        let mut state = self.0.lock();
        state.written = written;
        if written >= state.wanted {
            self.0.changed.notify_all();
        }
    }

    pub(crate) fn verified(&self) {
        self.0.lock().verified = true;
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Arrival {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

impl Expected {
    /// Whether what could be read was the blob, verified. If not (it broke off and began again, or was here already, or
    /// somebody gave other bytes first), what was made of it says nothing.
    pub fn was_the_blob(&self) -> bool {
        self.arrival.lock().verified
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut all = self.shared.arrivals.lock();
        all.retain(|one| !Arc::ptr_eq(one, &self.arrival));
        drop(all);
        self.arrival.end();
    }
}

impl ArrivingBlob {
    /// Waits until `wanted` bytes are written, or all that will be.
    fn wait(&mut self, wanted: u64) -> io::Result<()> {
        let arrival = Arc::clone(&self.arrival);
        let mut state = arrival.lock();
        state.wanted = wanted.min(arrival.size);
        while !state.ended && (state.file.is_none() || state.written < state.wanted) {
            state = arrival
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.written = state.written;
        if self.file.is_none()
            && let Some(file) = &state.file
        {
            self.file = Some(file.try_clone()?);
        }
        Ok(())
    }
}

impl Read for ArrivingBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.position == self.arrival.size {
            return Ok(0);
        }
        let wanted = self.position.saturating_add(buffer.len() as u64);
        if self.written < wanted.min(self.arrival.size) {
            self.wait(wanted)?;
        }
        let there = self.written.saturating_sub(self.position);
        let length = usize::try_from(there).unwrap_or(usize::MAX);
        let length = length.min(buffer.len());
        let (Some(file), Some(buffer)) = (&self.file, buffer.get_mut(..length)) else {
            return Err(broken());
        };
        match file.read_at(buffer, self.position)? {
            0 => Err(broken()),
            count => {
                self.position += count as u64;
                Ok(count)
            }
        }
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it did not arrive to its end")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        (directory, store)
    }

    #[test]
    fn a_blob_is_read_while_it_arrives() {
        let (_directory, store) = store();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let digest = Digest::of(&bytes);
        let (expected, mut reader) = store.expect_blob(&digest, bytes.len() as u64);
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).map(|_| all)
            });
            let mut ingest = store.ingest_expected(&digest).unwrap();
            for piece in bytes.chunks(70_001) {
                ingest.write_all(piece).unwrap();
            }
            // Read to its end before it is committed.
            assert!(reading.join().unwrap().unwrap() == bytes);
            ingest.commit(Some(&digest), None).unwrap();
        });
        assert!(expected.was_the_blob());
    }

    #[test]
    fn a_reader_ends_when_the_blob_breaks_off_begins_again_or_is_given_up() {
        let (_directory, store) = store();
        let digest = Digest::of(b"whole");
        let (expected, mut reader) = store.expect_blob(&digest, 5);
        let mut ingest = store.ingest_expected(&digest).unwrap();
        ingest.write_all(b"wh").unwrap();
        drop(ingest);
        let mut again = store.ingest_expected(&digest).unwrap();
        again.write_all(b"whole").unwrap();
        let mut all = Vec::new();
        assert!(reader.read_to_end(&mut all).is_err());
        assert_eq!(all, b"wh");
        again.commit(Some(&digest), None).unwrap();
        assert!(!expected.was_the_blob());

        let (expected, mut reader) = store.expect_blob(&digest, 5);
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || reader.read(&mut [0; 9]));
            drop(expected);
            assert!(reading.join().unwrap().is_err());
        });
    }

    #[test]
    fn an_empty_blob_is_read_at_once() {
        let (_directory, store) = store();
        let (_expected, mut reader) = store.expect_blob(&Digest::of(b""), 0);
        assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0);
    }
}
