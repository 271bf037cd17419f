//! How a container is: `state.json` in its directory, written by the process that it lives in. Where that process
//! is gone and the file says that the container runs, it does not: its processes died with it.

use std::path::PathBuf;

use rbuild_executor::network::{self, Place, Port};
use serde::{Deserialize, Serialize};

pub(super) const FILE: &str = "state.json";

/// How a container is, as it is written in its directory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    pub status: Status,
    /// Of the first process, as the host counts; 0 where it does not run.
    pub pid: u32,
    pub exit_code: i32,
    pub out_of_memory: bool,
    /// Why it could not be started.
    pub error: String,
    /// RFC 3339, with nanoseconds; empty where it never was.
    pub started: String,
    pub finished: String,
    pub restarts: u32,
    /// Somebody stopped it: `unless-stopped` leaves it so.
    pub stopped_by_user: bool,
    pub health: Option<Health>,
    /// It has a network of its own, with an address. While it runs, as what follows.
    #[serde(default)]
    pub private_network: bool,
    /// Where it is in networks.
    #[serde(default)]
    pub networks: Vec<Joined>,
    /// Open on the host.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Directories of its cgroup, which outlive a process that is killed.
    pub cgroups: Vec<PathBuf>,
}

/// A network that it is in, and where it is in that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub network: String,
    pub place: Place,
}

/// Docker's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
    Dead,
}

/// What health checks have said.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    pub failing_streak: u32,
    /// The last five.
    pub log: Vec<Probe>,
}

/// One health check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Probe {
    pub start: String,
    pub end: String,
    pub exit_code: i32,
    pub output: String,
}

impl Status {
    /// As Docker prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Whether a process lives for it, though between two starts none of its own may run.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// What the container's end is told as where nobody was left to see it: it died of `SIGKILL`.
const KILLED: i32 = 137;

impl State {
    /// Its network went with its processes.
    pub(super) fn without_network(&mut self) {
        self.private_network = false;
        self.networks.clear();
        self.ports.clear();
    }

    /// The place by which it is known.
    pub(super) fn place(&self) -> Place {
        let places: Vec<Place> = self.networks.iter().map(|it| it.place).collect();
        network::known_by(&places)
    }

    /// As it is after its process was killed.
    pub(super) fn orphaned(mut self) -> Self {
        if self.status.is_alive() {
            self.status = Status::Exited;
            self.exit_code = KILLED;
            self.pid = 0;
            self.without_network();
            "the process that it lived in was killed".clone_into(&mut self.error);
        }
        self
    }
}
