//! Removing what nobody needs any more on a thread of its own: whoever makes the next thing does not wait for it. What
//! is handed over lies in `tmp/` under a name of this process, so a process that dies on the way leaves it to be swept.

use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::lease;

#[derive(Debug, Default)]
pub(crate) struct Remover {
    worker: Mutex<Option<(Sender<PathBuf>, JoinHandle<()>)>>,
}

impl Remover {
    /// Removes a tree soon; at once where there can be no thread.
    pub(crate) fn remove(&self, doomed: PathBuf) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            let (sender, receiver) = std::sync::mpsc::channel::<PathBuf>();
            let run = move || receiver.into_iter().for_each(|doomed| remove_now(&doomed));
            let thread = std::thread::Builder::new().name("store-remover".to_owned());
            *worker = thread.spawn(run).ok().map(|thread| (sender, thread));
        }
        let sent = match &*worker {
            Some((sender, _)) => sender.send(doomed).map_err(|unsent| unsent.0),
            None => Err(doomed),
        };
        if let Err(doomed) = sent {
            remove_now(&doomed);
        }
    }

    /// Waits until everything is removed.
    pub(crate) fn finish(&self) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((sender, thread)) = worker.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

fn remove_now(doomed: &std::path::Path) {
    if let Err(error) = lease::remove(doomed) {
        tracing::debug!(%error, "it stays until the store is opened next");
    }
}
