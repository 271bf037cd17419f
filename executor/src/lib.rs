//! Runs commands in sandboxes and file operations inside roots, on overlay snapshots.
//!
//! Knows nothing of Dockerfiles, graphs and registries. [`host::init`] comes first in `main`; then [`Executor`].
//! * [`host`]: private namespaces of the whole process, id maps, the spawner;
//! * [`network`]: private networks;
//! * [`overlay`]: a chain of snapshots as a detached mount;
//! * [`spec`]: what a command is to be given; [`sandbox`]: how it is given that, step by step;
//! * `emulation`: other users, where there is one id;
//! * [`file`]: copy, mkdir, mkfile, remove, unpack; [`users`]: names in a root's passwd and group;
//! * [`tool`]: programs of the host outside of any sandbox;
//! * [`background`]: a process that goes on when its starter ends; [`wire`]: messages between processes;
//! * `sys`: the system calls that rustix lacks, the only home of `unsafe`.

pub mod background;
mod emulation;
pub mod file;
pub mod host;
pub mod network;
pub mod overlay;
pub mod sandbox;
pub mod spec;
mod sys;
pub mod tool;
pub mod users;
pub mod wire;

use std::sync::Arc;

use rbuild_cache::{RootDir, SnapshotId, Store};

pub use host::Host;
pub use spec::{Exec, Exit, Output, Stdio};

/// Ends this process at once: what the C library and the allocator would tidy up, the kernel takes back faster. Whatever
/// is buffered must have been written.
pub fn exit(code: u8) -> ! {
    sys::exit_now(i32::from(code))
}

/// Executes commands and file operations on snapshots of one store. Cheap to share.
#[derive(Debug)]
pub struct Executor {
    pub(crate) store: Arc<Store>,
    pub(crate) host: Host,
}

impl Executor {
    pub fn new(host: Host, store: Arc<Store>) -> Self {
        Self { store, host }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What this machine has for sandboxes: name, and what there is of it or why there is none. Tries each; blocking.
    pub fn features(&self) -> Vec<(&'static str, Result<String, String>)> {
        let network = network::Private::start(&self.host);
        let network = network
            .map(|_| "private".to_owned())
            .map_err(|error| format!("the host's: {error}: {}", error.source));
        let overlay = overlay::features(&self.store)
            .map(str::to_owned)
            .map_err(|error| error.to_string());
        let mut features = vec![("Network", network), ("Overlay", overlay)];
        let filter = if sys::can_notify() {
            Ok("filter, with answers from outside (Linux 5.0)".to_owned())
        } else {
            Err("no answers from outside: with one id, other users cannot be emulated".to_owned())
        };
        features.push(("Seccomp", filter));
        for (controller, version) in sandbox::controllers() {
            let name = match controller {
                "memory" => "MemoryLimit",
                "cpu" => "CpuLimit",
                _ => "PidsLimit",
            };
            features.push((name, version.map(|version| format!("cgroups {version}"))));
        }
        features
    }

    /// Mounts a chain read-only, detached from any namespace: it is gone when the root is dropped.
    /// `None` is an empty root. Blocking.
    pub fn view(&self, snapshot: Option<&SnapshotId>) -> Result<RootDir, overlay::Error> {
        overlay::view(&self.store, snapshot)
    }
}
