//! `commit`: a container as an image. What it wrote becomes a snapshot on top of its image's.

use std::os::fd::AsFd as _;

use rbuild_cache::{RootDir, Snapshot, SnapshotId};
use rbuild_executor::sandbox::copy::{self, How, Owners};
use rbuild_image::config::History;
use rbuild_image::{ImageConfig, Platform, Reference};
use rustix::fs::{Mode, OFlags};
use serde_json::Value;

use super::catalog::Entry;
use super::control::{Answer, Ask, Connection};
use super::diff::{Change, mount_points};
use super::state::Status;
use super::time;
use crate::images::transfer::changed;
use crate::images::{keep_made, layers_here};
use crate::{Engine, Error, Result};

/// How an image is made of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    pub reference: Option<Reference>,
    pub author: Option<String>,
    pub message: Option<String>,
    /// Dockerfile instructions that change the config.
    pub changes: Vec<String>,
    /// Halt the container meanwhile.
    pub pause: bool,
}

/// A container that stands still for as long as this, and no longer when this process is killed.
struct Halted(Connection);

impl Halted {
    fn new(entry: &Entry) -> Result<Self> {
        let connection = entry.must_connect("pause")?;
        connection.ask(&Ask::Halt, &[])?;
        connection.done()?;
        Ok(Self(connection))
    }

    fn end(self) -> Result<()> {
        // A container that ended meanwhile stands still no more.
        let _ = self.0.stream.shutdown(std::net::Shutdown::Write);
        match self.0.answer()? {
            Some((Answer::Failed { message, .. }, _)) => Err(Error::Other(message)),
            _ => Ok(()),
        }
    }
}

impl Engine {
    /// Returns the image's ID.
    pub fn commit_container(&self, entry: &Entry, request: &CommitRequest) -> Result<String> {
        let config = self.committed_config(entry, request)?;
        let halted = match request.pause && entry.state.status == Status::Running {
            true => Some(Halted::new(entry)?),
            false => None,
        };
        let taken = self.take_layer(entry);
        if let Some(halted) = halted {
            halted.end()?;
        }
        let top = taken?;
        self.put_committed(entry, request, &top, &config)
    }

    /// A copy of what the container wrote, without what was made only to be mounted on.
    fn take_layer(&self, entry: &Entry) -> Result<Snapshot> {
        let store = self.store();
        let base = entry.definition.snapshot.as_deref();
        let base = base.and_then(SnapshotId::parse);
        let written = self.written(entry)?;
        let changes = self.changes_of(entry, &written)?;
        let active = store.prepare()?;
        let failed = |errno: rustix::io::Errno| Error::Io {
            message: format!("cannot copy what `{}` wrote", entry.name),
            source: errno.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let from = rustix::fs::open(&written.path, flags, Mode::empty()).map_err(failed)?;
        let to = rustix::fs::open(active.upper(), flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&from).map_err(failed)?;
        let again = from
            .try_clone()
            .map_err(|_| failed(rustix::io::Errno::MFILE))?;
        let how = How {
            marks: true,
            ..How::with(Owners::Kept)
        };
        copy::copy_directory(from, to.as_fd(), how).map_err(failed)?;
        copy::dress((again.as_fd(), c"."), (to.as_fd(), c"."), &stat, how).map_err(failed)?;
        let root = RootDir::from_fd(to);
        for path in mount_points(&entry.definition) {
            let path = String::from_utf8_lossy(&path).into_owned();
            let told = changes
                .iter()
                .any(|(changed, change)| *changed == path && *change != Change::Deleted);
            let exists = root
                .metadata(path.as_ref(), rbuild_cache::root_dir::Resolve::Beneath)
                .is_ok();
            if exists && !told {
                root.remove_tree(path.as_ref(), rbuild_cache::root_dir::Resolve::Beneath)
                    .map_err(|source| Error::Io {
                        message: format!("cannot remove the mount point `{path}`"),
                        source,
                    })?;
            }
        }
        drop(root);
        Ok(active.commit(base.as_ref(), crate::worker::now())?)
    }

    /// The image's config, what the container was given, and what is to be changed.
    fn committed_config(&self, entry: &Entry, request: &CommitRequest) -> Result<ImageConfig> {
        let definition = &entry.definition;
        let base = definition
            .image_id
            .as_deref()
            .and_then(|id| self.find_image(id).ok())
            .map(|image| self.config_of(&image))
            .transpose()?;
        let host = Platform::host();
        let mut config = base.unwrap_or_else(|| ImageConfig {
            architecture: host.architecture.clone(),
            os: host.os.clone(),
            config: definition.config.clone(),
            ..ImageConfig::default()
        });
        let asked = &definition.request;
        let own = &mut config.config;
        own.env = Some(definition.given_env());
        definition.user.clone_into(&mut own.user);
        definition.working_dir.clone_into(&mut own.working_dir);
        if let Some(program) = &asked.entrypoint {
            own.entrypoint = (!program.is_empty()).then(|| vec![program.clone()]);
            own.cmd = None;
        }
        if !asked.command.is_empty() {
            own.cmd = Some(asked.command.clone());
        }
        let labels = definition.labels();
        own.labels = (!labels.is_empty()).then_some(labels);
        if !asked.expose.is_empty() {
            let ports = own.exposed_ports.get_or_insert_default();
            for port in &asked.expose {
                ports.insert(port.clone(), Value::Object(serde_json::Map::new()));
            }
        }
        if !request.changes.is_empty() {
            // Its triggers are for who builds on the image, not for the changes.
            let mut triggers = own.on_build.take().unwrap_or_default();
            *own = changed(&request.changes, host, Some(own))?.config.config;
            triggers.extend(own.on_build.take().into_iter().flatten());
            own.on_build = (!triggers.is_empty()).then_some(triggers);
        }
        let now = time::now();
        config.created = Some(now.clone());
        if request.author.is_some() {
            config.author.clone_from(&request.author);
        }
        config.history.push(History {
            created: Some(now),
            created_by: Some(definition.argv.join(" ")),
            comment: request.message.clone(),
            author: request.author.clone(),
            ..History::default()
        });
        Ok(config)
    }

    fn put_committed(
        &self,
        entry: &Entry,
        request: &CommitRequest,
        top: &Snapshot,
        config: &ImageConfig,
    ) -> Result<String> {
        let store = self.store();
        let layers = layers_here(store, &store.chain(&top.id)?)?;
        let mut config = config.clone();
        // Every layer has an entry, also where the image that had them is gone.
        let described = config
            .history
            .iter()
            .filter(|entry| !entry.empty_layer)
            .count();
        for _ in described..layers.len() {
            let history = History {
                created: Some(entry.definition.created.clone()),
                ..History::default()
            };
            config.history.insert(0, history);
        }
        let name = request.reference.as_ref();
        let id = keep_made(store, &config, &layers, top.id.clone(), name)?;
        Ok(id.to_string())
    }
}
