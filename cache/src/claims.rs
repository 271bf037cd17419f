//! Claims: of each name in a directory at most one living process is the owner. A claim is a file that its owner holds
//! locked; it goes with the owner, or means nothing any more.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::IoContext as _;
use crate::lease;
use crate::store::{Error, Result, open_lock_file, try_lock};

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
            if !try_lock(&file).at("lock", &path)? {
                return Ok(None);
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

    /// Removes what dead processes claimed. As who only looks, it holds each shared: who claims one meanwhile waits.
    pub(crate) fn sweep(&self) -> Result<()> {
        let names = self.names()?;
        if names.is_empty() {
            return Ok(());
        }
        // Of two that sweep, one could take away what was claimed after the other had swept.
        let turn = File::open(&self.directory).at("open", &self.directory)?;
        if !try_lock(&turn).at("lock", &self.directory)? {
            return Ok(());
        }
        for name in names {
            let path = self.directory.join(name);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(file) = rustix::fs::open(&path, flags, Mode::empty())
                && rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok()
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_a_dead_process_claimed_can_be_claimed_while_others_look_and_sweep() {
        let directory = tempfile::tempdir().unwrap();
        let claims = Claims::at(directory.path().join("claims"));
        drop(claims.claim("name", b"first").unwrap());
        let end = Instant::now() + Duration::from_millis(700);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while Instant::now() < end {
                    let _ = claims.card("name").unwrap();
                }
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    while Instant::now() < end {
                        claims.sweep().unwrap();
                    }
                });
            }
            while Instant::now() < end {
                std::fs::write(claims.directory.join("name"), "stale").unwrap();
                let claim = claims.claim("name", b"card").unwrap();
                let claim = claim.expect("nobody has it");
                assert!(claims.claim("name", b"other").unwrap().is_none());
                assert_eq!(claims.card("name").unwrap().as_deref(), Some(&b"card"[..]));
                drop(claim);
            }
        });
    }
}
