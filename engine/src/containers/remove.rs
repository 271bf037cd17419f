//! `rm`, `rename` and `container prune`.

use super::catalog::{Catalog, Entry};
use super::control::Ask;
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
                if let Some(connection) = entry.connect()? {
                    let kill = Ask::Stop {
                        signal: super::signal_number("KILL"),
                        seconds: None,
                    };
                    // It may end on its own meanwhile.
                    drop(connection.request(&kill));
                }
                match self.hold_at_last(entry)? {
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

    /// Its process is about to end.
    fn hold_at_last(&self, entry: &Entry) -> Result<Option<std::fs::File>> {
        let path = entry.catalog.files.directory(entry.id())?.join("alive");
        let Ok(file) = std::fs::File::options().read(true).write(true).open(&path) else {
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
}
