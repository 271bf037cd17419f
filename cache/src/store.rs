//! Opening the store, and what the other modules share: its root, the index, this process's lease.

mod locks;
mod setup;

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rusqlite::Connection;
use rustix::fs::{FlockOperation, Mode};

use crate::arrival::Arrivals;
use crate::digest::Digest;
pub use crate::error::{Error, Result};
use crate::error::{IndexContext as _, IoContext as _};
use crate::index;
use crate::lease::{self, Lease};
use crate::remover::Remover;
use crate::snapshot::TreeMemory;
pub(crate) use locks::{lock, lock_file, open_lock_file, try_lock};
pub(crate) use setup::{DIRECTORIES, KNOWN, make_directories, make_reserve, spend_reserve};
use setup::{create, existing};

/// An open store. Cheap to clone; safe to use from any thread and beside other processes.
/// Holds this process's lease: what it made or used since it was opened is spared by collection.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) root: PathBuf,
    /// What the kernel calls this boot.
    pub(crate) boot: String,
    index: Mutex<Connection>,
    pub(crate) lease: Lease,
    /// See [`crate::nursery`]; nothing until it is asked for.
    pub(crate) nursery: OnceLock<Option<PathBuf>>,
    pub(crate) trees: Mutex<TreeMemory>,
    /// See [`Store::empty_layers`].
    empty: OnceLock<PathBuf>,
    pub(crate) unpacker: OnceLock<Box<dyn crate::packed::Unpack>>,
    /// Blobs whose bytes this process wrote and hashed.
    pub(crate) own_blobs: Mutex<HashSet<Digest>>,
    pub(crate) arrivals: Arrivals,
    /// This process put something in that takes room.
    filled: AtomicBool,
    pub(crate) remover: Remover,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.remover.finish();
        index::shorten_log(&self.root, &self.index(), self.was_filled());
        if let Some(holder) = self.empty.get()
            && let Err(error) = lease::remove(holder)
        {
            tracing::debug!(%error, "empty layers stay until the store is opened next");
        }
        self.leave_nursery();
    }
}

impl Store {
    /// Opens the store at `root`, making it where there is none (mode 0700), and takes a lease.
    ///
    /// Errors: [`Error::Newer`] for a store of a newer version, which is left as it is; [`Error::Io`] with the
    /// path where the directory cannot be made or written.
    pub fn open(root: &Path) -> Result<Self> {
        // Whoever mounts what is in here may be in another directory by then.
        let root = std::path::absolute(root).at("find the store", root)?;
        match Self::open_once(&root) {
            // A full disk must not keep anybody from collecting.
            Err(error) if error.is_storage_full() => {
                spend_reserve(&root)?;
                Self::open_once(&root)
            }
            result => result,
        }
    }

    fn open_once(root: &Path) -> Result<Self> {
        let (mut connection, lost_index) = match existing(root)? {
            Some(connection) => (connection, false),
            None => create(root)?,
        };
        let boot = index::boot()?;
        index::drop_torn(root, &boot, &mut connection)?;
        let lease = Lease::take(root)?;
        lease::sweep_in_background(root, &lease);
        let store = Self {
            shared: Arc::new(Shared {
                root: root.to_owned(),
                boot,
                index: Mutex::new(connection),
                lease,
                nursery: OnceLock::new(),
                trees: Mutex::default(),
                unpacker: OnceLock::new(),
                own_blobs: Mutex::default(),
                arrivals: Arrivals::default(),
                empty: OnceLock::new(),
                filled: AtomicBool::new(false),
                remover: Remover::default(),
            }),
        };
        if lost_index {
            crate::check::recover(&store)?;
        }
        Ok(store)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// The name of this process's lease, for [`crate::lease::bury`].
    pub fn lease(&self) -> &str {
        self.shared.lease.name()
    }

    /// Makes everything published so far durable, by this process and by others: one `syncfs`, then one
    /// transaction that takes the marks off the rows written before it. Until then a power cut (not the death of a
    /// process) loses it.
    pub fn sync(&self) -> Result<()> {
        let action = "mark what was synced";
        let epoch: Option<i64> = {
            let mut connection = self.index();
            if index::is_marked(&connection, 0).doing(action)? {
                let transaction = index::write(&mut connection)?;
                let epoch = index::end_epoch(&transaction).doing(action)?;
                transaction.commit().doing(action)?;
                Some(epoch)
            } else {
                None
            }
        };
        let Some(epoch) = epoch else {
            return Ok(());
        };
        let root = self.root();
        let directory = File::open(root).at("open", root)?;
        rustix::fs::syncfs(&directory).at("sync the file system of", root)?;
        index::durably_in_log(root, &mut self.index(), action, |transaction| {
            index::unmark(transaction, epoch).doing(action)
        })
    }

    /// Lets collection take what this process used so far, but for what names of images and containers hold: for a
    /// process that goes on for long and needs nothing else. What is used after this is spared as before.
    ///
    /// Nothing of the store may be in use meanwhile that only this process's lease holds.
    pub fn let_go(&self) -> Result<()> {
        self.shared.lease.let_go(self.root())
    }

    /// Two directories that stay empty, for mounts that need more layers than there are. They live as long as the
    /// store is open: a layer that is removed under a mount makes the mount's directories look empty.
    pub fn empty_layers(&self) -> Result<[PathBuf; 2]> {
        let empty = &self.shared.empty;
        let holder = match empty.get() {
            Some(holder) => holder,
            None => {
                let holder = self.shared.nursery_path();
                make_directory(&holder)?;
                for name in ["one", "two"] {
                    make_directory(&holder.join(name))?;
                }
                // Where two are made at once, one of them is left to the next sweep.
                empty.get_or_init(|| holder)
            }
        };
        Ok(["one", "two"].map(|name| holder.join(name)))
    }

    /// A root that has nothing but what every sandbox mounts something on. As the lowest layer of a root it spares
    /// making what an image lacks of it in the top layer, and taking it out again.
    pub fn mount_points(&self) -> Result<PathBuf> {
        let place = self.root().join("points");
        if place.exists() {
            return Ok(place);
        }
        let making = self.temporary_directory()?;
        let root = making.path().join("points");
        for name in ["", "dev", "etc", "proc", "sys"] {
            let path = root.join(name);
            make_directory(&path)?;
            rustix::fs::chmod(&path, Mode::from_raw_mode(0o755)).at("chmod", &path)?;
        }
        for name in ["etc/hostname", "etc/hosts", "etc/resolv.conf"] {
            let path = root.join(name);
            lease::create_new(&path)?;
            rustix::fs::chmod(&path, Mode::from_raw_mode(0o644)).at("chmod", &path)?;
        }
        match rustix::fs::rename(&root, &place) {
            // Somebody else was faster.
            Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => {}
            result => result.at("create", &place)?,
        }
        Ok(place)
    }

    /// A directory for something in the making, removed when the guard drops or its process died.
    pub fn temporary_directory(&self) -> Result<TemporaryDirectory> {
        let path = self.shared.nursery_path();
        make_directory(&path)?;
        Ok(TemporaryDirectory {
            shared: Arc::clone(&self.shared),
            path,
        })
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Connection> {
        self.shared.index()
    }
}

impl Shared {
    /// The connection. Held for one statement or transaction at a time.
    pub(crate) fn index(&self) -> MutexGuard<'_, Connection> {
        // A thread that panicked with the connection rolled its transaction back on the way.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that this process put something in that takes room.
    pub(crate) fn fill(&self) {
        self.filled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn was_filled(&self) -> bool {
        self.filled.load(Ordering::Relaxed)
    }

    /// An empty directory under `tmp/` that is whoever asks for it's.
    pub(crate) fn work_directory(&self) -> Result<PathBuf> {
        if let Some(clean) = self.remover.take_clean() {
            return Ok(clean);
        }
        let path = self.nursery_path();
        make_directory(&path)?;
        Ok(path)
    }

    /// Held shared while a file gets its final name and its row; collection holds it exclusively while it takes
    /// rows and names away. So neither sees the other's half.
    pub(crate) fn publish_lock(&self, exclusive: bool) -> Result<File> {
        let operation = if exclusive {
            FlockOperation::LockExclusive
        } else {
            FlockOperation::LockShared
        };
        lock_file(&self.root.join("locks/publish"), operation)
    }

    /// Replaces a file of the store by these bytes at once.
    pub(crate) fn write_atomically(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let making = self.temporary_path();
        let mut file = lease::create_new(&making)?;
        let written = file
            .write_all(bytes)
            .at("write", &making)
            .and_then(|()| rustix::fs::rename(&making, path).at("create", path));
        if written.is_err() {
            let _ = std::fs::remove_file(&making);
        }
        written
    }
}

pub(crate) fn make_directory(path: &Path) -> Result<()> {
    rustix::fs::mkdir(path, Mode::RWXU).at("create", path)
}

/// A directory under `tmp/`, removed with everything in it on drop (also entries with mode 000).
#[derive(Debug)]
pub struct TemporaryDirectory {
    /// Keeps the lease alive: what is in `tmp/` without one is anybody's to remove.
    shared: Arc<Shared>,
    path: PathBuf,
}

impl TemporaryDirectory {
    /// Where it is until it is dropped.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Err(error) = lease::remove(&self.path) {
            let store = self.shared.root.display();
            tracing::debug!(%error, %store, "a temporary directory stays until the store is opened next");
        }
    }
}
