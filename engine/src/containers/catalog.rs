//! Finding containers. Opens no index and mounts nothing, so that looking costs next to nothing.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rbuild_cache::Containers;
use rbuild_executor::spec::Propagation;

use super::control::{Ask, Connection};
use super::definition::{self, Definition};
use super::request::RunRequest;
use super::state::{self, State, Status};
use super::supervise::ANSWERS;
use crate::{Error, Result};

/// The containers of a store.
#[derive(Debug, Clone)]
pub struct Catalog {
    pub(super) files: Containers,
    pub(super) root: PathBuf,
}

/// A container that is there.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    pub definition: Definition,
    /// As it was when it was looked at.
    pub state: State,
    pub(super) catalog: Catalog,
}

impl Catalog {
    /// Of the store in this directory. Nothing is opened.
    pub fn at(root: &Path) -> Self {
        Self {
            files: Containers::at(root),
            root: root.to_owned(),
        }
    }

    /// All of them, the newest first. What a killed process left of a container that was to leave nothing goes. Fails
    /// where one is damaged: nobody knows what that one needs.
    pub fn all(&self) -> Result<Vec<Entry>> {
        let (entries, damaged) = self.readable()?;
        damaged.into_iter().next().map_or(Ok(entries), Err)
    }

    /// As [`Catalog::all`], without those that are damaged: an error for each of them.
    pub fn readable(&self) -> Result<(Vec<Entry>, Vec<Error>)> {
        self.files.sweep()?;
        self.network_files().sweep()?;
        let (mut entries, mut damaged) = (Vec::new(), Vec::new());
        for id in self.files.ids()? {
            let entry = match self.entry(&id) {
                Ok(Some(entry)) => entry,
                Ok(None) => continue,
                Err(error @ Error::Damaged(_)) => {
                    damaged.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if entry.is_leftover()? {
                // Somebody else may be faster.
                match entry.remove_leftover() {
                    Err(error) if is_for_later(&error) => {}
                    removed => removed?,
                }
            } else {
                entries.push(entry);
            }
        }
        entries.sort_by(|one, other| other.definition.created.cmp(&one.definition.created));
        Ok((entries, damaged))
    }

    /// All of them, in no order. What dead ones left is passed over and stays: removing it takes the lock of the
    /// containers, which the caller may have.
    pub(super) fn all_as_they_are(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for id in self.files.ids()? {
            if let Some(entry) = self.entry(&id)?
                && !entry.is_leftover()?
            {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// By name, ID, or the beginning of an ID.
    pub fn find(&self, wanted: &str) -> Result<Entry> {
        self.look_for(wanted)?.ok_or_else(|| {
            Error::Other(format!(
                "there is no container `{wanted}` (`rbuild ps -a` lists all there are)"
            ))
        })
    }

    /// As [`Catalog::find`], `None` where there is none.
    pub fn look_for(&self, wanted: &str) -> Result<Option<Entry>> {
        match self.id_of(wanted)? {
            Some(id) => self.entry(&id),
            None => Ok(None),
        }
    }

    /// The ID of the container that this name, ID, or beginning of an ID means.
    pub(super) fn id_of(&self, wanted: &str) -> Result<Option<String>> {
        let plain = wanted.strip_prefix('/').unwrap_or(wanted);
        if plain.is_empty() || plain.contains(['/', '\0']) || plain.starts_with('.') {
            return Ok(None);
        }
        if let Some(id) = self.files.by_name(plain)?
            && self.files.has(&id, definition::FILE)?
        {
            return Ok(Some(id));
        }
        let mut matching: Vec<String> = self.files.ids()?;
        matching.retain(|id| id.starts_with(plain));
        match matching.as_slice() {
            [] => Ok(None),
            [id] => Ok(Some(id.clone())),
            _ => Err(Error::Usage(format!(
                "`{wanted}` is the beginning of several containers' IDs: write more of it"
            ))),
        }
    }

    /// The user namespace of the process that the container lives in whose network this one's request names, for
    /// [`rbuild_executor::host::Entry`]. `None` where that is not needed, or cannot be had: why it cannot is
    /// told when the network is joined.
    pub fn user_namespace_for(&self, request: &RunRequest) -> Result<Option<OwnedFd>> {
        let Some(other) = request
            .network_of
            .as_deref()
            .or_else(|| request.others().next())
        else {
            return Ok(None);
        };
        let Some(connection) = self.find(other)?.connect()? else {
            return Ok(None);
        };
        let (_, mut descriptors) = connection.request(&Ask::UserNamespace)?;
        Ok(descriptors.pop())
    }

    /// A process of a container whose namespaces other than the network this request names, for
    /// [`rbuild_executor::host::Entry::inside_of`].
    pub fn inside_for(&self, request: &RunRequest) -> Result<Option<u32>> {
        match request.others().next() {
            None => Ok(None),
            Some(other) => super::prepare::joined(self, other).map(Some),
        }
    }

    /// What the mounts that a request asks for need of the process that the container lives in, for
    /// [`rbuild_executor::host::Entry`].
    pub fn propagation_for(&self, request: &RunRequest) -> Result<Option<Propagation>> {
        let own = request
            .volumes
            .iter()
            .filter_map(|volume| volume.propagation.as_deref().and_then(Propagation::by_name));
        let mut most = own.max();
        for (other, _) in &request.volumes_from {
            // That it is missing is told when its volumes are looked for.
            let other = self.look_for(other)?;
            most = most.max(other.and_then(|other| other.definition.propagation()));
        }
        Ok(most)
    }

    pub(super) fn entry(&self, id: &str) -> Result<Option<Entry>> {
        let Some(bytes) = self.files.read(id, definition::FILE)? else {
            return Ok(None);
        };
        let definition = document(id, definition::FILE, &bytes)?;
        let state = self.state(id)?;
        let name = self.files.read(id, "name")?.unwrap_or_default();
        Ok(Some(Entry {
            name: String::from_utf8_lossy(&name).into_owned(),
            definition,
            state,
            catalog: self.clone(),
        }))
    }

    /// As it is now.
    pub(super) fn state(&self, id: &str) -> Result<State> {
        // Held is asked first: whoever lets go has written the last state before.
        let held = self.files.is_held(id)?;
        let state: State = match self.files.read(id, state::FILE)? {
            Some(bytes) => document(id, state::FILE, &bytes)?,
            None => State::default(),
        };
        Ok(if held { state } else { state.orphaned() })
    }

    /// Writes down what a container is from now on. Whoever does so holds the container, or is the process it lives in.
    pub(super) fn write_definition(&self, definition: &Definition) -> Result<()> {
        let bytes =
            serde_json::to_vec(definition).map_err(|error| Error::Other(error.to_string()))?;
        Ok(self.files.write(&definition.id, definition::FILE, &bytes)?)
    }

    pub(super) fn write_state(&self, id: &str, state: &State) -> Result<()> {
        let bytes = serde_json::to_vec(state).map_err(|error| Error::Other(error.to_string()))?;
        Ok(self.files.write(id, state::FILE, &bytes)?)
    }
}

fn document<T: serde::de::DeserializeOwned>(id: &str, file: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::Damaged(format!(
            "`containers/{id}/{file}` of the store is damaged: {error}; `rbuild rm -f {id}` removes the container"
        ))
    })
}

/// Whether a container could not be held because its directory is not there any more.
fn is_gone(error: &rbuild_cache::Error) -> bool {
    matches!(error, rbuild_cache::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// Whether what is left of a container stays until somebody removes it who may: of other users of the container, whom
/// one is only within its user namespace; or until it is known who else holds its volumes.
fn is_for_later(error: &Error) -> bool {
    match error {
        Error::Damaged(_) => true,
        Error::Store(error) => error.is_permission_denied(),
        _ => false,
    }
}

impl Entry {
    /// Holds the container, so that nobody else starts or changes it. `None` where it runs. Waits for who holds it for a
    /// moment: another one who changes it, or its process that is held up between the container's end and its own
    /// (whoever stopped it was told of the first).
    pub(super) fn hold(&self) -> Result<Option<File>> {
        const TURN: Duration = Duration::from_millis(5);
        let asked = Instant::now();
        loop {
            match self.catalog.files.hold(self.id()) {
                Ok(Some(held)) => return Ok(Some(held)),
                Ok(None) => {}
                Err(error) if is_gone(&error) => {
                    return Err(Error::Other(format!(
                        "the container `{}` was removed meanwhile",
                        self.name
                    )));
                }
                Err(error) => return Err(error.into()),
            }
            let is_alive = self.catalog.state(self.id())?.status.is_alive();
            if is_alive || asked.elapsed() > 2 * ANSWERS {
                return Ok(None);
            }
            std::thread::sleep(TURN);
        }
    }

    /// All 64 digits.
    pub fn id(&self) -> &str {
        &self.definition.id
    }

    /// A file of the container's directory.
    pub(super) fn path(&self, file: &str) -> Result<PathBuf> {
        Ok(self.catalog.files.directory(self.id())?.join(file))
    }

    /// Where its output is kept.
    pub fn log(&self) -> Result<PathBuf> {
        self.path(super::log::FILE)
    }

    /// Looks again.
    pub fn refresh(&mut self) -> Result<()> {
        self.state = self.catalog.state(self.id())?;
        Ok(())
    }

    /// To the process that it lives in; `None` where there is none.
    pub fn connect(&self) -> Result<Option<Connection>> {
        Connection::open(&self.catalog.files.directory(self.id())?)
    }

    /// To the process that it lives in. Errors where it does not run.
    pub fn must_connect(&self, action: &str) -> Result<Connection> {
        self.connect()?.ok_or_else(|| {
            Error::Other(format!(
                "cannot {action} `{}`: the container is {}, not running",
                self.name,
                self.state.status.name()
            ))
        })
    }

    pub(super) fn is_leftover(&self) -> Result<bool> {
        Ok(self.definition.request.remove
            && (self.state.status != Status::Created || self.definition.request.starts_at_once)
            && !self.state.status.is_alive()
            && !self.catalog.files.is_held(self.id())?)
    }

    fn remove_leftover(&self) -> Result<()> {
        let _held = match self.catalog.files.hold(self.id()) {
            Ok(Some(held)) => held,
            Ok(None) => return Ok(()),
            // Whoever held it took it away just now.
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        rbuild_executor::sandbox::container::remove_cgroups(&self.state.cgroups);
        super::volumes::remove_anonymous(&self.catalog.root, &self.definition)?;
        Ok(self.catalog.files.remove_directory(self.id())?)
    }

    /// Bytes that it wrote.
    pub fn size(&self) -> Result<u64> {
        let mut total = 0;
        let mut pending = vec![self.path("fs")?];
        while let Some(directory) = pending.pop() {
            let Ok(entries) = std::fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries.flatten() {
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => pending.push(entry.path()),
                    Ok(metadata) if metadata.is_file() => total += metadata.len(),
                    _ => {}
                }
            }
        }
        Ok(total)
    }
}

/// What `read` makes of each name; an error for each that is damaged, which hides none of the others.
pub(super) fn readable<T>(
    names: Vec<String>,
    read: impl Fn(&str) -> Result<Option<T>>,
) -> Result<(Vec<T>, Vec<Error>)> {
    let (mut all, mut damaged) = (Vec::new(), Vec::new());
    for name in names {
        match read(&name) {
            Ok(one) => all.extend(one),
            Err(error @ Error::Damaged(_)) => damaged.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok((all, damaged))
}
