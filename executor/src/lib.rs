//! Runs commands in sandboxes and file operations inside roots, on overlay snapshots.
//!
//! Knows nothing of Dockerfiles, graphs and registries. [`host::init`] comes first in `main`; then [`Executor`].
//! * [`host`]: private namespaces of the whole process, id maps, the spawner;
//! * [`network`]: private networks;
//! * `mapped`: files as a user namespace of root's commands sees them;
//! * `merged`: a chain of snapshots where nothing can be mounted;
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
mod mapped;
mod merged;
pub mod network;
pub mod overlay;
mod proc_stat;
pub mod sandbox;
pub mod spec;
mod sys;
pub mod tool;
pub mod users;
pub mod wire;

use std::sync::{Arc, OnceLock};

use rbuild_cache::{RootDir, SnapshotId, Store};

use mapped::Mapped;

pub use host::Host;
pub use spec::{Exec, Exit, Output, Stdio};

/// Ends this process at once: what the C library and the allocator would tidy up, the kernel takes back faster. Whatever
/// is buffered must have been written.
pub fn exit(code: u8) -> ! {
    sys::exit_now(i32::from(code))
}

/// Executes commands and file operations on snapshots of one store. Cheap to share.
#[derive(Debug, Clone)]
pub struct Executor {
    pub(crate) store: Arc<Store>,
    pub(crate) host: Host,
    /// The store in the user namespace of root's commands, or why it cannot be.
    mapped: Arc<OnceLock<Result<Arc<Mapped>, Arc<str>>>>,
}

impl Executor {
    /// Runs commands on a store, with what the host lets this process do.
    pub fn new(host: Host, store: Arc<Store>) -> Self {
        if let Err(error) = host.bury_in(&store) {
            tracing::debug!(%error, "what is left in the store, if this process is killed, is for others to remove");
        }
        Self {
            store,
            host,
            mapped: Arc::default(),
        }
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// How many of the commands that run only wait: no process of theirs has used, or asked for, a processor or a disk
    /// when this was called last, or the time before. A few reads in /proc for each process.
    pub fn waiting(&self) -> usize {
        self.host.running().waiting()
    }

    /// The store that it works in.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Removes what is left of a container that nobody finds any more: later, beside this process or after it, if it
    /// can be.
    pub fn remove_later(&self, hidden: &std::path::Path) -> rbuild_cache::store::Result<()> {
        if let Err(error) = self.host.remove(hidden) {
            tracing::debug!(%error, "what is left of a container is removed at once");
            return rbuild_cache::containers::remove_hidden(hidden);
        }
        Ok(())
    }

    /// What this machine has for sandboxes: name, and what there is of it or why there is none. Tries each; blocking.
    pub fn features(&self) -> Vec<(&'static str, Result<String, String>)> {
        if self.host.privilege() == host::Privilege::Without {
            let overlay = overlay::features(&self.store).map(str::to_owned);
            let commands = self.commands().map(|()| {
                "of RUN and run, in a root of copies, with Landlock; the network is the container's"
                    .to_owned()
            });
            return vec![
                ("Commands", commands),
                ("Overlay", overlay.map_err(|error| error.to_string())),
            ];
        }
        let network = network::Private::start(&self.host, spec::Users::Own);
        let network = network
            .map(|_| "private".to_owned())
            .map_err(|error| format!("the host's: {error}: {}", error.source));
        let overlay = overlay::features(&self.store)
            .map(str::to_owned)
            .map_err(|error| error.to_string());
        let proc = match self.host.masked_proc() {
            Ok(None) => Ok("of commands' own".to_owned()),
            Ok(Some(point)) => Ok(format!(
                "the one that is here, because of what is mounted at {point}: commands see that its processes exist"
            )),
            Err(error) => Err(error.to_string()),
        };
        let mut features = vec![
            ("Network", network),
            ("Proc", proc),
            ("Overlay", overlay),
            ("UserNamespace", self.user_namespace()),
        ];
        let filter = if sys::notify::can_notify() {
            Ok("filter, with answers from outside (Linux 5.0)".to_owned())
        } else {
            Err("no answers from outside: with one id, other users cannot be emulated".to_owned())
        };
        features.push(("Seccomp", filter));
        for (controller, version) in sandbox::controllers() {
            let name = match controller {
                "memory" => "MemoryLimit",
                _ => "CpuLimit",
            };
            features.push((name, version.map(|version| format!("cgroups {version}"))));
        }
        features.push(("PidsLimit", self.pids_limit()));
        features
    }

    /// Whether commands have namespaces of their own here, and what is mounted in those.
    pub fn has_namespaces(&self) -> bool {
        self.host.privilege() != host::Privilege::Without
    }

    /// Whether commands can be run, or why not.
    pub fn commands(&self) -> Result<(), String> {
        if self.has_namespaces() {
            Ok(())
        } else {
            sandbox::bare::possible()
        }
    }

    /// The store as commands in a user namespace of their own see it, or why they are in this process's. Blocking.
    pub(crate) fn mapped(&self) -> Result<Arc<Mapped>, Arc<str>> {
        let made = self.mapped.get_or_init(|| {
            let inside = self.host.inside()?;
            let mapped = Mapped::new(&self.store, inside).map_err(|errno| {
                format!("the store's file system has no mounts with mapped ids: {errno}")
            })?;
            if !host::kernel_is((5, 19)) {
                overlay::mapped_view(&self.store, &mapped).map_err(|error| no_layers(&error))?;
            }
            Ok(Arc::new(mapped))
        });
        made.clone()
    }

    /// What users of a command are on the machine.
    fn user_namespace(&self) -> Result<String, String> {
        if self.host.privilege() != host::Privilege::Root {
            return Ok("rbuild's own".to_owned());
        }
        let mapped = self
            .mapped()
            .map_err(|why| format!("commands have the machine's users: {why}"))?;
        overlay::mapped_view(&self.store, &mapped).map_err(|error| no_layers(&error))?;
        let ranges = mapped.inside().ids().users.extents().iter();
        let ranges: Vec<String> = ranges
            .map(|extent| format!("{} from {} on", extent.count, extent.outside))
            .collect();
        Ok(format!("of commands, with ids {}", ranges.join(", ")))
    }

    /// Mounts a chain read-only, detached from any namespace: it is gone when the root is dropped.
    /// `None` is an empty root. Blocking.
    pub fn view(&self, snapshot: Option<&SnapshotId>) -> Result<RootDir, overlay::Error> {
        overlay::view(&self.store, snapshot)
    }
}

fn no_layers(error: &overlay::Error) -> String {
    let cause = error.source.as_ref();
    let cause = cause.map_or_else(String::new, |source| format!(": {source}"));
    format!("layers cannot have mapped ids: {error}{cause}")
}
