//! In which user namespace a command of root's is: one of its own, that of a process whose network it shares, or the
//! machine's, where it asks for that or nothing else is possible.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::prepare::setup;
use super::{ExecError, in_root, mounts, propagation};
use crate::Executor;
use crate::host::Privilege;
use crate::mapped::{self, Mapped};
use crate::spec::{Exec, MountSource, Network, Security, Users};

/// What was decided.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// `None` is this process's user namespace.
    pub(super) mapped: Option<Arc<Mapped>>,
    /// With mapped ids, what is mounted of directories of the machine's, in the order of the mounts.
    pub(super) directories: Vec<Option<OwnedFd>>,
}

pub(super) fn choose(executor: &Executor, exec: &Exec) -> Result<Chosen, ExecError> {
    let own = exec.users == Users::Own && exec.security == Security::Sandbox;
    if !own || executor.host.privilege() != Privilege::Root {
        return Ok(Chosen::default());
    }
    let mapped = match &exec.network {
        // Rights over a network are those of the user namespace that it belongs to.
        Network::Process { pid, .. } => of_process(executor, *pid)?,
        _ => executor.mapped().ok(),
    };
    let Some(mapped) = mapped else {
        return Ok(Chosen::default());
    };
    let mut directories = Vec::new();
    for mount in &exec.mounts {
        let tree = match &mount.source {
            MountSource::Directory { root, path } => {
                in_root::open(root.as_fd(), &in_root::clean(path), OFlags::PATH)
                    .and_then(|found| mounts::copy(found.as_fd(), true))
            }
            MountSource::Propagated { path, propagation } => Ok(propagation::tree(
                &executor.host,
                path,
                *propagation,
                &mount.target,
            )?),
            _ => {
                directories.push(None);
                continue;
            }
        };
        let tree = tree.and_then(|tree| mapped::map(tree, mapped.inside()));
        match tree {
            Ok(tree) => directories.push(Some(tree)),
            Err(error) => {
                let target = mount.target.display();
                tracing::info!(%error, %target, "what is mounted has no mapped ids: the machine's users");
                return Ok(Chosen::default());
            }
        }
    }
    Ok(Chosen {
        mapped: Some(mapped),
        directories,
    })
}

fn of_process(executor: &Executor, pid: u32) -> Result<Option<Arc<Mapped>>, ExecError> {
    let failed =
        |error: std::io::Error| setup(format!("enter the user namespace of process {pid}"), error);
    let Some(inside) = executor.host.inside_of(pid).map_err(failed)? else {
        return Ok(None);
    };
    let mapped = Mapped::new(&executor.store, Arc::new(inside));
    Ok(Some(Arc::new(
        mapped.map_err(|errno| failed(errno.into()))?,
    )))
}
