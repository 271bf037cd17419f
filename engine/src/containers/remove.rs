//! `rm`, `rename` and `container prune`.

use std::fs::File;
use std::path::Path;

use super::catalog::{Catalog, Entry};
use super::control::{Ask, Connection};
use super::names;
use crate::{Engine, Error, Result};

impl Catalog {
    /// Gives a container another name.
    pub fn rename(&self, entry: &Entry, name: &str) -> Result<()> {
        names::check(name)?;
        if entry.name == name {
            return Err(Error::Usage(format!("`{name}` is its name already")));
        }
        if self.files.name(entry.id(), name)? {
            return Ok(());
        }
        Err(Error::Other(format!(
            "the name `{name}` is in use by another container"
        )))
    }
}

impl Engine {
    /// The containers of the engine's store.
    pub fn catalog(&self) -> Catalog {
        Catalog::at(self.store().root())
    }

    /// Removes a container that does not run; with `force` it is killed first. With `volumes` its anonymous volumes
    /// go along.
    pub fn remove_container(&self, entry: &Entry, force: bool, volumes: bool) -> Result<()> {
        let held = match entry.hold() {
            // Somebody else was faster.
            Err(_) if force && !entry.path("")?.exists() => return Ok(()),
            Err(error) => return Err(error),
            Ok(Some(held)) => held,
            Ok(None) if !force => {
                return Err(Error::Other(format!(
                    "the container `{}` is {}: stop it first, or use --force",
                    entry.name,
                    entry.state.status.name()
                )));
            }
            Ok(None) => {
                match kill(&entry.path("")?)? {
                    Some(held) => held,
                    // It was one that leaves nothing.
                    None => return Ok(()),
                }
            }
        };
        rbuild_executor::sandbox::container::remove_cgroups(&entry.state.cgroups);
        if volumes {
            super::volumes::remove_anonymous(self.store().root(), &entry.definition)?;
        }
        self.store().remove_container(entry.id())?;
        drop(held);
        Ok(())
    }

    /// Removes a container of which nobody knows any more what it is, and kills it if it runs. Its volumes stay. False
    /// where the container is not damaged, or not there.
    pub fn remove_damaged(&self, wanted: &str) -> Result<bool> {
        let catalog = self.catalog();
        let Some(id) = catalog.id_of(wanted)? else {
            return Ok(false);
        };
        if !matches!(catalog.entry(&id), Err(Error::Damaged(_))) {
            return Ok(false);
        }
        let held = match catalog.files.hold(&id)? {
            Some(held) => Some(held),
            None => kill(&catalog.files.directory(&id)?)?,
        };
        if let Ok(state) = catalog.state(&id) {
            rbuild_executor::sandbox::container::remove_cgroups(&state.cgroups);
        }
        self.store().remove_container(&id)?;
        drop(held);
        Ok(true)
    }
}

/// Kills the container of a directory, waits for the end of its process, and holds it; `None` where it was one that
/// leaves nothing.
fn kill(directory: &Path) -> Result<Option<File>> {
    if let Some(connection) = Connection::open(directory)? {
        let kill = Ask::Stop {
            signal: super::signal_number("KILL"),
            seconds: None,
        };
        // It may end on its own meanwhile.
        drop(connection.request(&kill));
    }
    let path = directory.join("alive");
    let Ok(file) = File::options().read(true).write(true).open(&path) else {
        return Ok(None);
    };
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::Io {
                    message: format!("cannot lock `{}`", path.display()),
                    source: errno.into(),
                });
            }
            Ok(()) => return Ok(path.exists().then_some(file)),
        }
    }
}
