//! Cache mounts as archives: out of one store, into another.

use std::io::{Read, Write};
use std::path::Path;

use rbuild_cache::RootDir;
use rbuild_cache::cache_mounts::Sharing;

use crate::{Engine, Error, Result};

impl Engine {
    /// Writes what a cache mount holds as a plain tar, with owners, modes and xattrs. Waits for whoever uses the
    /// mount. Blocking.
    pub fn export_cache_mount(&self, id: &str, to: &mut dyn Write) -> Result<()> {
        self.require_cache_mount(id)?;
        let mount = self.store().cache_mount(id, Sharing::Locked)?;
        // Somebody took it away meanwhile.
        if mount.is_new() {
            return Err(missing(id));
        }
        let root = open(mount.path())?;
        Ok(rbuild_image::layer::write_directory(&root, to)?)
    }

    /// Fills a cache mount from a tar, compressed or not; what it held before goes. Blocking.
    pub fn import_cache_mount(&self, id: &str, from: &mut (dyn Read + Send)) -> Result<()> {
        let mount = loop {
            self.store().reset_cache_mount(id)?;
            let mount = self.store().cache_mount(id, Sharing::Locked)?;
            // Else somebody was faster.
            if mount.is_new() {
                break mount;
            }
        };
        let root = open(mount.path())?;
        rbuild_image::unpack::archive(from, &root, Path::new("/"), None)?;
        Ok(mount.filled()?)
    }

    /// Forgets what cache mounts hold. Errors where one of them is not there; then none is emptied.
    pub fn remove_cache_mounts(&self, ids: &[String]) -> Result<()> {
        for id in ids {
            self.require_cache_mount(id)?;
        }
        for id in ids {
            self.store().reset_cache_mount(id)?;
        }
        Ok(())
    }

    fn require_cache_mount(&self, id: &str) -> Result<()> {
        if self.store().has_cache_mount(id)? {
            return Ok(());
        }
        Err(missing(id))
    }
}

fn missing(id: &str) -> Error {
    Error::Other(format!(
        "there is no cache mount `{id}` in the store; `rbuild cache mounts ls` lists them"
    ))
}

fn open(path: &Path) -> Result<RootDir> {
    RootDir::open_ambient(path).map_err(|source| Error::Io {
        message: format!("cannot open the cache mount `{}`", path.display()),
        source,
    })
}
