//! In which user namespace a command of root's is: one of its own, that of a process whose network it shares, or the
//! machine's, where it asks for that or nothing else is possible.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
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
    let network = match &exec.network {
        Network::Process { pid, .. } => Some(*pid),
        _ => None,
    };
    let mut others = network.into_iter().chain(exec.spaces.others());
    let other = others.next();
    if let Some(one) = other {
        others.try_for_each(|another| same_users(one, another))?;
    }
    let own = exec.users == Users::Own && exec.security == Security::Sandbox;
    if !own || executor.host.privilege() != Privilege::Root {
        return Ok(Chosen::default());
    }
    // Rights over a namespace are those of the user namespace that it belongs to. This process was told beforehand where
    // it is not the network's alone.
    let mapped = match network {
        Some(pid) => of_process(executor, pid)?,
        None => executor.mapped().ok(),
    };
    let Some(mapped) = mapped else {
        return Ok(Chosen::default());
    };
    let mut directories = Vec::new();
    for mount in &exec.mounts {
        let tree = match &mount.source {
            MountSource::Directory { root, path, .. } => {
                in_root::open(root.as_fd(), &in_root::clean(path), OFlags::PATH)
                    .map_err(std::io::Error::from)
                    .and_then(|found| mounts::copy_of(found.as_fd(), mount.below))
            }
            MountSource::Propagated { path, propagation } => Ok(propagation::tree(
                &executor.host,
                path,
                *propagation,
                mount,
            )?),
            _ => {
                directories.push(None);
                continue;
            }
        };
        let tree = tree.and_then(|tree| Ok(mapped::map(tree, mapped.inside())?));
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

/// One that this process may not look at is in a user namespace that it has no rights in.
fn same_users(one: u32, another: u32) -> Result<(), ExecError> {
    let namespace = |pid: u32| std::fs::metadata(format!("/proc/{pid}/ns/user")).map(|of| of.ino());
    if let (Ok(one), Ok(another)) = (namespace(one), namespace(another))
        && one == another
    {
        return Ok(());
    }
    Err(setup(
        "join namespaces of several containers",
        "they are in different user namespaces: join those of one container (root's may have the machine's users, with \
         `--userns=host`)",
    ))
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
