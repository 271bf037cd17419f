//! Volumes: named ones, and anonymous ones that go with their container.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use rbuild_cache::Volumes;
use rbuild_executor::{Executor, spec};
use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, readable};
use super::definition::{Definition, MountKind, MountPoint};
use super::time;
use crate::{Error, Result};

/// A volume as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    #[serde(skip_deserializing)]
    pub name: String,
    pub created: String,
    pub labels: BTreeMap<String, String>,
    /// As they were typed.
    pub options: BTreeMap<String, String>,
    /// Where it is not a directory of the store.
    #[serde(default)]
    pub backing: Option<Backing>,
    pub anonymous: bool,
}

/// What is said of a volume when it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewVolume {
    pub labels: BTreeMap<String, String>,
    /// Of Docker's driver `local`, as they were typed.
    pub options: BTreeMap<String, String>,
    /// What the options make of it.
    pub backing: Option<Backing>,
}

impl NewVolume {
    fn named(self, name: String, anonymous: bool) -> Volume {
        Volume {
            name,
            created: time::now(),
            labels: self.labels,
            options: self.options,
            backing: self.backing,
            anonymous,
        }
    }
}

/// What a volume is, other than a directory of the store. What an image has at its place does not come into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backing {
    /// A directory of the host, which stays when the volume goes.
    Directory(PathBuf),
    /// A file system in memory, while one container runs.
    Memory(spec::Tmpfs),
}

/// What `volume prune` took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedVolumes {
    pub names: Vec<String>,
    pub bytes: u64,
}

impl Catalog {
    fn volume_files(&self) -> Volumes {
        Volumes::at(&self.root)
    }

    /// Makes a volume; one that is there already stays as it is. An empty name asks for a random one.
    pub fn create_volume(&self, name: &str, new: NewVolume) -> Result<Volume> {
        let anonymous = name.is_empty();
        let name = if anonymous {
            super::names::id()?
        } else {
            check_name(name)?;
            name.to_owned()
        };
        let _lock = self.files.lock()?;
        match self.volume(&name)? {
            Some(volume) => Ok(volume),
            None => self.make_volume(new.named(name, anonymous), |_| Ok(())),
        }
    }

    fn make_volume(
        &self,
        volume: Volume,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Volume> {
        let document =
            serde_json::to_vec(&volume).map_err(|error| Error::Other(error.to_string()))?;
        self.volume_files().create(&volume.name, &document, fill)?;
        Ok(volume)
    }

    /// One by its name; `None` where there is none.
    pub fn volume(&self, name: &str) -> Result<Option<Volume>> {
        let Some(bytes) = self.volume_files().read(name)? else {
            return Ok(None);
        };
        let mut volume: Volume = serde_json::from_slice(&bytes).map_err(|error| {
            Error::Damaged(format!(
                "the volume `{name}` is damaged: {error}; `rbuild volume rm {name}` removes it, with what is in it"
            ))
        })?;
        name.clone_into(&mut volume.name);
        Ok(Some(volume))
    }

    /// All that can be read, by name, and an error for each that is damaged.
    pub fn volumes(&self) -> Result<(Vec<Volume>, Vec<Error>)> {
        readable(self.volume_files().names()?, |name| self.volume(name))
    }

    /// As `docker volume inspect` shows it.
    pub fn inspect_volume(&self, name: &str) -> Result<Option<serde_json::Value>> {
        let Some(volume) = self.volume(name)? else {
            return Ok(None);
        };
        Ok(Some(serde_json::json!({
            "CreatedAt": volume.created,
            "Driver": "local",
            "Labels": (!volume.labels.is_empty()).then_some(&volume.labels),
            "Mountpoint": self.volume_path(name)?,
            "Name": volume.name,
            "Options": (!volume.options.is_empty()).then_some(&volume.options),
            "Scope": "local",
        })))
    }

    /// Where on the host what it holds is.
    pub fn volume_path(&self, name: &str) -> Result<PathBuf> {
        Ok(self.volume_files().data(name)?)
    }

    /// Bytes of its files.
    pub fn volume_size(&self, name: &str) -> Result<u64> {
        Ok(size_of_tree(&self.volume_path(name)?))
    }

    /// Names of the containers that hold a volume.
    pub fn users_of_volume(&self, name: &str) -> Result<Vec<String>> {
        let holds = |definition: &Definition| {
            definition.mounts.iter().any(|mount| {
                matches!(&mount.kind, MountKind::Volume { name: other, .. } if other == name)
            })
        };
        let mut users = self.all_as_they_are()?;
        users.retain(|entry| holds(&entry.definition));
        Ok(users.into_iter().map(|entry| entry.name).collect())
    }

    /// Removes a volume that no container holds. With `force` one that is not there is no error.
    pub fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let _lock = self.files.lock()?;
        // One that is damaged can be removed.
        if self.volume_files().read(name)?.is_none() {
            if force {
                return Ok(());
            }
            return Err(Error::Other(format!(
                "there is no volume `{name}` (`rbuild volume ls` lists all there are)"
            )));
        }
        let users = self.users_of_volume(name)?;
        if !users.is_empty() {
            return Err(Error::Other(format!(
                "the volume `{name}` is in use by {}: remove the container first",
                users.join(", ")
            )));
        }
        self.volume_files().remove(name)?;
        Ok(())
    }

    /// Removes the anonymous volumes that no container holds; with `all` the named ones, too.
    pub fn prune_volumes(
        &self,
        all: bool,
        wanted: impl Fn(&Volume) -> bool,
    ) -> Result<PrunedVolumes> {
        let _lock = self.files.lock()?;
        self.volume_files().sweep()?;
        let mut pruned = PrunedVolumes::default();
        for volume in self.volumes()?.0 {
            let may_go = (all || volume.anonymous) && wanted(&volume);
            if may_go && self.users_of_volume(&volume.name)?.is_empty() {
                pruned.bytes += self.volume_size(&volume.name)?;
                self.volume_files().remove(&volume.name)?;
                pruned.names.push(volume.name);
            }
        }
        Ok(pruned)
    }
}

fn size_of_tree(top: &Path) -> u64 {
    let mut total = 0;
    let mut pending = vec![top.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => pending.push(entry.path()),
                Ok(metadata) => total += metadata.len(),
                Err(_) => {}
            }
        }
    }
    total
}

/// Of letters, digits, `_`, `.` and `-`, with a letter or digit first.
pub(super) fn check_name(name: &str) -> Result<()> {
    let good = |character: char| character.is_ascii_alphanumeric() || "_.-".contains(character);
    let starts = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if starts && name.len() >= 2 && name.len() <= 200 && name.chars().all(good) {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "`{name}` is no name for a volume: it has at least two of [a-zA-Z0-9_.-] and begins with a letter or digit; a directory of the host is written with a slash"
    )))
}

/// Makes the volumes that a container holds and that are not there yet, each with what the image has at its place.
/// The lock of the containers must be held.
pub(super) fn make_missing(executor: &Executor, definition: &Definition) -> Result<()> {
    let catalog = Catalog::at(executor.store().root());
    for mount in &definition.mounts {
        let MountKind::Volume { name, anonymous } = &mount.kind else {
            continue;
        };
        let snapshot = definition
            .snapshot
            .as_deref()
            .and_then(rbuild_cache::SnapshotId::parse);
        let fill = |first: &Path, data: &Path| match &snapshot {
            Some(snapshot) if !mount.no_copy => {
                Ok(executor.copy_up(first, data, snapshot, Path::new(&mount.target))?)
            }
            _ => Ok(()),
        };
        match catalog.volume(name)? {
            None => {
                let volume = mount.new.clone().named(name.clone(), *anonymous);
                // What else it is, the image's files do not go there.
                let is_plain = volume.backing.is_none();
                let fill = |data: &Path| if is_plain { fill(data, data) } else { Ok(()) };
                catalog.make_volume(volume, fill)?;
            }
            Some(volume) if volume.backing.is_none() => {
                catalog.volume_files().fill(name, fill)?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The lock of the containers, where a container holds volumes.
pub(super) fn lock(catalog: &Catalog, definition: &Definition) -> Result<Option<File>> {
    let is_volume = |mount: &MountPoint| matches!(mount.kind, MountKind::Volume { .. });
    let holds_any = definition.mounts.iter().any(is_volume);
    Ok(holds_any.then(|| catalog.files.lock()).transpose()?)
}

/// Removes the anonymous volumes of a container that goes, where no other holds them.
pub(super) fn remove_anonymous(root: &Path, definition: &Definition) -> Result<()> {
    let own: Vec<&String> = definition
        .mounts
        .iter()
        .filter_map(|mount| match &mount.kind {
            MountKind::Volume {
                name,
                anonymous: true,
            } => Some(name),
            _ => None,
        })
        .collect();
    if own.is_empty() {
        return Ok(());
    }
    let files = rbuild_cache::Containers::at(root);
    let _lock = files.lock()?;
    let catalog = Catalog::at(root);
    for name in own {
        let mut held = false;
        for id in files.ids()? {
            if id != definition.id
                && let Some(other) = catalog.entry(&id)?
            {
                held |= other.definition.mounts.iter().any(|mount| {
                    matches!(&mount.kind, MountKind::Volume { name: other, .. } if other == name)
                });
            }
        }
        if !held {
            Volumes::at(root).remove(name)?;
        }
    }
    Ok(())
}
