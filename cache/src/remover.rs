//! Removing what nobody needs any more on a thread of its own: whoever makes the next layer does not wait for it.
//! Overlay's work directories are only cleared, for the next layer to use instead of making one. All of it lies in
//! `tmp/` under names of this process, so that a process that dies leaves it to be swept.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::error::Result;
use crate::lease;

#[derive(Debug, Default)]
pub(crate) struct Remover {
    worker: Mutex<Option<(Sender<Job>, JoinHandle<()>)>>,
    clean: Arc<Mutex<Vec<PathBuf>>>,
}

#[derive(Debug)]
enum Job {
    Clear(PathBuf),
    Remove(PathBuf),
}

impl Remover {
    /// Clears a work directory soon, for [`Remover::take_clean`].
    pub(crate) fn clean(&self, used: PathBuf) {
        self.soon(Job::Clear(used));
    }

    /// Removes a tree soon.
    pub(crate) fn remove(&self, doomed: PathBuf) {
        self.soon(Job::Remove(doomed));
    }

    /// At once where there can be no thread.
    fn soon(&self, job: Job) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            let (sender, receiver) = std::sync::mpsc::channel::<Job>();
            let clean = Arc::clone(&self.clean);
            let run = move || receiver.into_iter().for_each(|job| execute(job, &clean));
            let thread = std::thread::Builder::new().name("store-remover".to_owned());
            *worker = thread.spawn(run).ok().map(|thread| (sender, thread));
        }
        let sent = match &*worker {
            Some((sender, _)) => sender.send(job).map_err(|unsent| unsent.0),
            None => Err(job),
        };
        if let Err(job) = sent {
            execute(job, &self.clean);
        }
    }

    /// An empty directory, where there is one.
    pub(crate) fn take_clean(&self) -> Option<PathBuf> {
        locked(&self.clean).pop()
    }

    /// Waits until everything is cleared, and removes it.
    pub(crate) fn finish(&self) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((sender, thread)) = worker.take() {
            drop(sender);
            let _ = thread.join();
        }
        for path in locked(&self.clean).drain(..) {
            remove(&path);
        }
    }
}

fn locked(clean: &Mutex<Vec<PathBuf>>) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
    clean.lock().unwrap_or_else(PoisonError::into_inner)
}

fn execute(job: Job, clean: &Mutex<Vec<PathBuf>>) {
    match job {
        Job::Remove(doomed) => remove(&doomed),
        Job::Clear(used) => match clear_inside(&used) {
            Ok(()) => locked(clean).push(used),
            Err(_) => remove(&used),
        },
    }
}

/// Removes what overlay made in there.
fn clear_inside(used: &Path) -> Result<()> {
    for name in lease::names(used)? {
        lease::remove(&used.join(name))?;
    }
    Ok(())
}

fn remove(doomed: &Path) {
    if let Err(error) = lease::remove(doomed) {
        tracing::debug!(%error, "it stays until the store is opened next");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_clean_when_it_is_taken_and_gone_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let remover = Remover::default();
        assert_eq!(remover.take_clean(), None);
        let used = directory.path().join("used");
        std::fs::create_dir_all(used.join("work/incompat/volatile")).unwrap();
        std::fs::write(used.join("work/incompat/volatile/dirty"), "").unwrap();
        remover.clean(used.clone());
        let taken = (0..1000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            remover.take_clean()
        });
        assert_eq!(taken.as_ref(), Some(&used));
        assert!(lease::names(&used).unwrap().is_empty());
        remover.clean(used.clone());
        remover.finish();
        assert!(!used.exists());
        assert_eq!(remover.take_clean(), None);
    }
}
