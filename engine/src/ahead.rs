//! Layers that an output will need are made as soon as their steps are done, beside the steps that follow, one after
//! the other on a thread of their own. Whoever puts the images together waits for that, and finds them; what was not
//! made, for whatever reason, is made then, and fails then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rbuild_cache::{Snapshot, SnapshotId, Store};
use rbuild_image::layer::{self, LayerOptions};

/// Smaller layers take less time than the steps would lose by them.
const LEAST_BYTES: u64 = 1 << 20;

pub(crate) struct Ahead {
    store: Arc<Store>,
    options: LayerOptions,
    thread: Mutex<Option<Thread>>,
    /// No longer when the build ends without its outputs.
    wanted: Arc<AtomicBool>,
}

struct Thread {
    queue: Sender<SnapshotId>,
    handle: JoinHandle<()>,
}

impl Ahead {
    /// For outputs whose layers all have this form.
    pub(crate) fn new(store: &Arc<Store>, options: LayerOptions) -> Self {
        Self {
            store: Arc::clone(store),
            options,
            thread: Mutex::default(),
            wanted: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Has the layer of a snapshot made.
    pub(crate) fn begin(&self, snapshot: &Snapshot) {
        if snapshot.packed.is_some() || snapshot.size_bytes < LEAST_BYTES {
            return;
        }
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = self.start();
        }
        if let Some(thread) = &*thread {
            // It ends before the queue does only by a panic, which is told of when it is waited for.
            let _ = thread.queue.send(snapshot.id.clone());
        }
    }

    /// `None` where there are no more threads to be had: then nothing is made ahead.
    fn start(&self) -> Option<Thread> {
        let (queue, waiting) = channel();
        let (store, wanted) = (Arc::clone(&self.store), Arc::clone(&self.wanted));
        let options = self.options;
        let builder = std::thread::Builder::new().name("layers".to_owned());
        let handle = builder.spawn(move || make(&store, &options, &waiting, &wanted));
        handle.ok().map(|handle| Thread { queue, handle })
    }

    /// Waits for what was begun. Blocking.
    pub(crate) fn finish(&self) {
        let thread = self.thread.lock().map(|mut thread| thread.take());
        let Some(thread) = thread.unwrap_or_else(|error| error.into_inner().take()) else {
            return;
        };
        drop(thread.queue);
        if let Err(panic) = thread.handle.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Relaxed);
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            drop(thread.queue);
            let _ = thread.handle.join();
        }
    }
}

fn make(
    store: &Store,
    options: &LayerOptions,
    waiting: &Receiver<SnapshotId>,
    wanted: &AtomicBool,
) {
    for id in waiting {
        if !wanted.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = layer::layer_while(store, &id, options, false, wanted) {
            tracing::debug!(%error, id = id.as_str(), "a layer could not be made ahead");
        }
    }
}
