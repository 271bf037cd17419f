//! What `run` and `create` ask for. It is kept with the container, which is started from it again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rbuild_executor::spec::{self, Below, Dns, Limits, SecurityOptions, Users};
use rbuild_image::config::Healthcheck;
use serde::{Deserialize, Serialize};

use super::log::Keeping;
use super::networks::Attachment;
use super::ports::Publish;
use super::volumes::NewVolume;
use crate::request::NetworkChoice;

/// A container to be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RunRequest {
    /// A name, an ID, a digest, or `oci:DIR[:TAG][@DIGEST]`, `oci-archive:FILE`, `docker-archive:FILE`.
    pub image: String,
    /// A random one where there is none.
    pub name: Option<String>,
    pub labels: Vec<(String, String)>,
    /// Nothing is left of it when it ends.
    pub remove: bool,
    /// `run`, not `create`.
    pub starts_at_once: bool,
    /// What of its output the process shows that it lives in, where that is in the foreground.
    #[serde(default)]
    pub shown: Shown,
    /// Replaces CMD.
    pub command: Vec<String>,
    /// Replaces ENTRYPOINT; an empty string takes it away.
    pub entrypoint: Option<String>,
    /// `K=V`, already completed from the environment and env files; wins over the image's.
    pub env: Vec<String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
    pub hostname: Option<String>,
    /// Empty: none.
    #[serde(default)]
    pub domainname: String,
    pub hosts: Vec<(String, String)>,
    #[serde(default)]
    pub dns: Dns,
    /// Names by which other containers reach it, besides its own.
    #[serde(default)]
    pub aliases: Vec<String>,
    pub volumes: Vec<Volume>,
    /// Containers whose volumes it gets, each with whether they are read-only.
    pub volumes_from: Vec<(String, bool)>,
    pub tmpfs: Vec<Tmpfs>,
    pub network: NetworkChoice,
    /// Networks by name; where there are none, the one that is always there.
    #[serde(default)]
    pub networks: Vec<Attachment>,
    /// Other containers, and what this one calls them.
    #[serde(default)]
    pub links: Vec<(String, String)>,
    /// Who its users are on the machine.
    #[serde(default)]
    pub users: Users,
    /// A container whose network it shares.
    pub network_of: Option<String>,
    #[serde(default)]
    pub spaces: Spaces,
    /// `80/tcp`, besides the image's.
    pub expose: Vec<String>,
    /// Ports of the host for ports of the container.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Free ports of the host for all that is exposed.
    #[serde(default)]
    pub publish_all: bool,
    pub limits: Limits,
    #[serde(default)]
    pub log: Keeping,
    pub read_only: bool,
    pub init: bool,
    /// The OCI runtime that makes the container, by its path; ours where there is none.
    #[serde(default)]
    pub runtime: Option<std::path::PathBuf>,
    /// For that runtime, and for who inspects it.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    pub privileged: bool,
    #[serde(default)]
    pub security: SecurityOptions,
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub groups: Vec<String>,
    pub stop_signal: Option<String>,
    /// Seconds; -1 waits for ever.
    pub stop_timeout: Option<i64>,
    pub restart: Restart,
    /// Wins over the image's, field by field.
    pub health: Option<Healthcheck>,
    pub interactive: bool,
    pub terminal: bool,
    pub pull: Pull,
    #[serde(skip)]
    pub platform: Option<rbuild_image::Platform>,
}

impl RunRequest {
    /// The images that are mounted in it.
    pub(super) fn mounted_images(&self) -> impl Iterator<Item = &str> {
        self.volumes
            .iter()
            .filter_map(|volume| match &volume.source {
                VolumeSource::Image(image) => Some(image.as_str()),
                VolumeSource::Host(_) | VolumeSource::Named(_) | VolumeSource::Anonymous => None,
            })
    }

    /// Whether it is to have a network of its own that leads out.
    pub fn has_private_network(&self) -> bool {
        self.network_of.is_none() && self.network == NetworkChoice::Default
    }

    /// The containers whose namespaces it is in, but for that whose network it has.
    pub(super) fn others(&self) -> impl Iterator<Item = &str> {
        let processes = match &self.spaces.processes {
            Space::Container(other) => Some(other.as_str()),
            Space::Own | Space::Host => None,
        };
        let ipc = match &self.spaces.ipc {
            Ipc::Container(other) => Some(other.as_str()),
            _ => None,
        };
        processes.into_iter().chain(ipc)
    }

    /// Whoever has the machine's network or is privileged has the machine's users too: rights over a network are those
    /// of the user namespace that it belongs to, and with others no port below 1024 could be listened on. So has who gets
    /// devices, processes or IPC of the machine's, which belong to those.
    pub fn users_on_machine(&self) -> Users {
        let has_network = self.network_of.is_none() && self.network == NetworkChoice::Host;
        let has_devices =
            !self.security.devices.is_empty() || !self.security.device_rules.is_empty();
        let has_spaces = self.spaces.processes == Space::Host || self.spaces.ipc == Ipc::Host;
        if self.privileged || has_network || has_devices || has_spaces {
            Users::Host
        } else {
            self.users
        }
    }
}

/// Output that is shown; all of it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub stdout: bool,
    pub stderr: bool,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            stdout: true,
            stderr: true,
        }
    }
}

/// Whose processes, IPC and host name a container has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spaces {
    pub processes: Space,
    pub ipc: Ipc,
    /// It has the machine's host name.
    pub machines_names: bool,
}

/// Whose processes a container sees (`--pid`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Space {
    #[default]
    Own,
    Host,
    /// That of another container.
    Container(String),
}

/// Whose System V IPC and /dev/shm a container has (`--ipc`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ipc {
    #[default]
    Private,
    /// Private, and other containers may have it, too.
    Shareable,
    /// Private, without /dev/shm.
    None,
    Host,
    /// That of another container, which must be shareable.
    Container(String),
}

/// What becomes of a container that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Restart {
    #[default]
    No,
    /// So many times, or for ever.
    OnFailure(Option<u32>),
    Always,
    UnlessStopped,
}

/// When the registry is asked for the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Pull {
    Always,
    #[default]
    Missing,
    Never,
}

/// `-v`, `--mount` of all types but `tmpfs`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub source: VolumeSource,
    pub target: String,
    pub read_only: bool,
    /// An empty volume does not get what the image has there.
    pub no_copy: bool,
    /// A path inside of a volume or an image.
    pub subpath: Option<String>,
    /// How mounts that are made later travel, as `rprivate`.
    pub propagation: Option<String>,
    /// Of a directory of the host.
    #[serde(default)]
    pub below: Below,
    /// Of a volume that is not there yet.
    #[serde(default)]
    pub new: NewVolume,
}

/// Where the files of a volume are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeSource {
    /// An absolute path on the host.
    Host(PathBuf),
    Named(String),
    /// Goes with `rm -v`.
    Anonymous,
    /// The files of an image, named as [`RunRequest::image`].
    Image(String),
}

/// `--tmpfs`, `--mount type=tmpfs`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    pub target: String,
    pub read_only: bool,
    #[serde(flatten)]
    pub file_system: spec::Tmpfs,
}
