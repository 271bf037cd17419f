//! Claims: of each name in a directory at most one living process is the owner. A claim is a file that its owner holds
//! locked; it goes with the owner, or means nothing any more.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::IoContext as _;
use crate::lease;
use crate::store::{Error, Result, open_lock_file};

/// The claims of a directory.
#[derive(Debug, Clone)]
pub struct Claims {
    directory: PathBuf,
}

impl Claims {
    /// Those in a directory, which need not be there.
    pub(crate) fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Claims a name until the claim is dropped. `None` where a living process has it. `card`: what others read.
    pub fn claim(&self, name: &str, card: &[u8]) -> Result<Option<Claim>> {
        if !self.directory.exists() {
            std::fs::create_dir_all(&self.directory).at("create", &self.directory)?;
        }
        let path = self.directory.join(name);
        loop {
            let mut file = open_lock_file(&path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno).at("lock", &path),
            }
            // Whoever had it before may have removed it meanwhile.
            if !is_at(&file, &path) {
                continue;
            }
            let written = file.set_len(0).and_then(|()| file.write_all(card));
            written.at("write", &path)?;
            return Ok(Some(Claim { path, _file: file }));
        }
    }

    /// All names that were claimed; the claims of dead processes are among them.
    pub fn names(&self) -> Result<Vec<String>> {
        match lease::names(&self.directory) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            result => result,
        }
    }

    /// What a living process's claim says.
    pub fn card(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.directory.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno).at("open", &path),
        };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return Ok(None);
        }
        let mut card = Vec::new();
        file.read_to_end(&mut card).at("read", &path)?;
        Ok(Some(card))
    }

    /// Removes what dead processes claimed.
    pub(crate) fn sweep(&self) -> Result<()> {
        for name in self.names()? {
            let path = self.directory.join(name);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(file) = rustix::fs::open(&path, flags, Mode::empty())
                && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
                && is_at(&file, &path)
            {
                let _ = std::fs::remove_file(&path);
            }
        }
        Ok(())
    }
}

/// A name that is this process's. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "dropping it gives the name to others"]
pub struct Claim {
    path: PathBuf,
    _file: File,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Locked still: nobody claims it in between.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether a path still leads to an open file.
fn is_at(file: &impl std::os::fd::AsFd, path: &Path) -> bool {
    match (rustix::fs::fstat(file), rustix::fs::lstat(path)) {
        (Ok(open), Ok(named)) => (open.st_dev, open.st_ino) == (named.st_dev, named.st_ino),
        _ => false,
    }
}
