//! Things that people name, a directory each, with a document that says what is known of it. Each appears whole, by one
//! rename, and goes by one.
//!
//! Whoever makes or removes one holds the lock of the containers.

use std::path::{Path, PathBuf};

use crate::error::IoContext as _;
use crate::lease;
use crate::store::{Error, Result, make_directory};

/// All of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    all: PathBuf,
    document: &'static str,
}

impl Named {
    /// Those in a directory, which need not be there.
    pub(crate) fn at(all: PathBuf, document: &'static str) -> Self {
        Self { all, document }
    }

    /// Sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        if !self.all.exists() {
            return Ok(Vec::new());
        }
        let mut names = lease::names(&self.all)?;
        names.retain(|name| !name.starts_with('.'));
        names.sort_unstable();
        Ok(names)
    }

    /// Removes what is left of those that were being made or removed when their process died.
    pub(crate) fn sweep(&self) -> Result<()> {
        if !self.all.exists() {
            return Ok(());
        }
        for name in lease::names(&self.all)? {
            if name.starts_with('.') {
                lease::remove(&self.all.join(name))?;
            }
        }
        Ok(())
    }

    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let starts = name
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric());
        if !starts || name.len() > 200 || !name.bytes().all(good) {
            return Err(Error::BadId(name.chars().take(200).collect()));
        }
        Ok(self.all.join(name))
    }

    /// `None` where there is none of this name.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.directory(name)?.join(self.document);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).at("read", &path),
        }
    }

    /// Makes one. `fill` puts in what it begins with, besides the document.
    pub(crate) fn create<E: From<Error>>(
        &self,
        name: &str,
        document: &[u8],
        fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let directory = self.directory(name)?;
        std::fs::create_dir_all(&self.all).at("create", &self.all)?;
        let making = self.all.join(format!(".{name}"));
        // What is there was left by a process that died: the lock is ours.
        lease::remove(&making)?;
        make_directory(&making)?;
        fill(&making)?;
        let path = making.join(self.document);
        std::fs::write(&path, document).at("write", &path)?;
        std::fs::File::open(&path)
            .and_then(|file| file.sync_all())
            .at("sync", &path)?;
        Ok(rustix::fs::rename(&making, &directory).at("create", &directory)?)
    }

    /// False where there is none. Nobody may use it.
    pub(crate) fn remove(&self, name: &str) -> Result<bool> {
        let directory = self.directory(name)?;
        let doomed = self.all.join(format!(".{name}"));
        lease::remove(&doomed)?;
        match rustix::fs::rename(&directory, &doomed) {
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            result => result.at("remove", &directory)?,
        }
        lease::remove(&doomed)?;
        Ok(true)
    }
}
