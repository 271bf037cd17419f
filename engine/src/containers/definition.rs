//! What a container is, from its creation to its end: `config.json` in its directory. Never changes.

use rbuild_cache::SnapshotId;
use rbuild_executor::spec::{Below, Propagation, Tmpfs};
use rbuild_image::config::{ContainerConfig, Healthcheck};
use serde::{Deserialize, Serialize};

use super::request::RunRequest;
use super::volumes::NewVolume;

pub(super) const FILE: &str = "config.json";

/// A container as it was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Definition {
    pub id: String,
    /// RFC 3339, with nanoseconds.
    pub created: String,
    /// The image's ID.
    pub image_id: Option<String>,
    /// The topmost snapshot of the image.
    pub snapshot: Option<String>,
    /// The image's.
    pub config: ContainerConfig,
    pub request: RunRequest,
    pub argv: Vec<String>,
    pub env: Vec<String>,
    pub hostname: String,
    pub working_dir: String,
    pub user: String,
    /// What `stop` sends.
    pub stop_signal: String,
    pub mounts: Vec<MountPoint>,
}

/// Something that is mounted in a container, as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    pub kind: MountKind,
    pub target: String,
    pub read_only: bool,
    /// As Docker names it; empty is its default.
    pub propagation: String,
    pub no_copy: bool,
    /// Of a volume or an image: a path in it.
    pub subpath: Option<String>,
    /// Of a directory of the host.
    #[serde(default)]
    pub below: Below,
    /// Of a volume that is not there when the container is made.
    #[serde(default)]
    pub new: NewVolume,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A path on the host.
    Bind(std::path::PathBuf),
    /// A volume; an anonymous one goes with its container.
    Volume {
        name: String,
        anonymous: bool,
    },
    Tmpfs(Tmpfs),
    /// The files of an image.
    Image {
        /// As it was asked for.
        name: String,
        /// The image's ID.
        id: Option<String>,
        /// Its topmost snapshot.
        snapshot: Option<String>,
    },
}

impl Definition {
    /// What it stands on: its root, and the images that are mounted in it.
    pub(super) fn snapshots(&self) -> Vec<SnapshotId> {
        let mounted = self.mounts.iter().map(|mount| match &mount.kind {
            MountKind::Image { snapshot, .. } => snapshot.as_deref(),
            MountKind::Bind(_) | MountKind::Volume { .. } | MountKind::Tmpfs(_) => None,
        });
        let all = std::iter::once(self.snapshot.as_deref()).chain(mounted);
        all.flatten().filter_map(SnapshotId::parse).collect()
    }

    /// The 12 digits that people use.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// What its mounts need of the process that it lives in, for [`rbuild_executor::host::Entry`].
    pub fn propagation(&self) -> Option<Propagation> {
        let mounts = self.mounts.iter();
        mounts
            .filter_map(|mount| Propagation::by_name(&mount.propagation))
            .max()
    }

    /// The variables without those that every container gets for itself.
    pub fn given_env(&self) -> Vec<String> {
        let mut env = Vec::new();
        super::program::merge_given(&mut env, &self.config, &self.request);
        env
    }

    /// The image's labels with the container's own.
    pub fn labels(&self) -> std::collections::BTreeMap<String, String> {
        let mut labels = self.config.labels.clone().unwrap_or_default();
        labels.extend(self.request.labels.iter().cloned());
        labels
    }

    /// How it is probed; `None` where it is not.
    pub fn health(&self) -> Option<Healthcheck> {
        let mut health = self.config.healthcheck.clone().unwrap_or_default();
        if let Some(own) = &self.request.health {
            if !own.test.is_empty() {
                health.test.clone_from(&own.test);
            }
            for (field, own) in [
                (&mut health.interval, own.interval),
                (&mut health.timeout, own.timeout),
                (&mut health.start_period, own.start_period),
                (&mut health.start_interval, own.start_interval),
                (&mut health.retries, own.retries),
            ] {
                if own != 0 {
                    *field = own;
                }
            }
        }
        match health.test.first().map(String::as_str) {
            None | Some("NONE") => None,
            Some(_) => Some(health),
        }
    }
}
