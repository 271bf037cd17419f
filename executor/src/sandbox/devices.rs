//! Whether a command's cgroup says which devices it may use, beside its mounts, on which none can be opened but those
//! that it is given.

use std::os::fd::OwnedFd;

use super::cgroup::Cgroup;
use super::prepare::setup;
use super::users::Chosen;
use super::{ExecError, capabilities};
use crate::host::Privilege;
use crate::spec::{Exec, MountSource, Security};

/// Has the command's cgroup, which may be made for that, hold it to the devices that it is to have: where it is asked
/// for, where nothing else would, and otherwise where it can be had and the command's root is the machine's.
pub(super) fn guard(
    privilege: Privilege,
    users: &Chosen,
    exec: &Exec,
    cgroup: &mut Option<(Cgroup, Vec<OwnedFd>)>,
) -> Result<(), ExecError> {
    // It has all of them.
    if exec.security == Security::Insecure {
        return Ok(());
    }
    let machines_root = privilege == Privilege::Root && users.mapped.is_none();
    let asked = asked(exec);
    let arrives = arriving(exec);
    // Root of a user namespace opens what arrives as anybody on the machine does, and nothing else.
    let wanted = privilege == Privilege::Root
        && !rbuild_cache::owners::devices_recorded()
        && (machines_root || arrives.is_some());
    let arriving = arrives.filter(|_| machines_root && !mounts_anything(exec));
    if asked.is_none() && arriving.is_none() && !wanted {
        return Ok(());
    }
    let why = if privilege == Privilege::Root {
        let parent = exec.limits.cgroup_parent.as_deref();
        match Cgroup::guard_devices(cgroup, parent, &exec.options) {
            Ok(()) => return Ok(()),
            Err(error) => format!("no cgroup can be made that holds it to that: {error}"),
        }
    } else {
        "only cgroups that root makes can hold it to that".to_owned()
    };
    match (asked, arriving) {
        (Some(step), _) => Err(setup(step, why)),
        (_, Some((step, reason))) => Err(setup(step, format!("{reason}; {why}"))),
        (None, None) => {
            tracing::debug!(%why, "no second wall around devices");
            Ok(())
        }
    }
}

/// Whether a command has all devices of the machine.
pub(super) fn has_all(privilege: Privilege, users: &Chosen, exec: &Exec) -> bool {
    exec.security == Security::Insecure && privilege == Privilege::Root && users.mapped.is_none()
}

/// Whether it opens devices wherever it finds or makes a node: all, or those that its cgroup lets it use.
pub(super) fn opens_nodes(privilege: Privilege, users: &Chosen, exec: &Exec) -> bool {
    has_all(privilege, users, exec) || !exec.options.device_rules.is_empty()
}

/// What only a cgroup can do.
fn asked(exec: &Exec) -> Option<String> {
    if let Some(rule) = exec.options.device_rules.first() {
        return Some(format!(
            "let the container use devices by the rule `{rule}`"
        ));
    }
    let device = exec
        .options
        .devices
        .iter()
        .find(|device| device.is_restricted())?;
    let (path, access) = (device.path.display(), device.access);
    Some(format!("give the device {path} for `{access}` only"))
}

/// Whoever has this capability mounts what it likes, as it likes.
fn mounts_anything(exec: &Exec) -> bool {
    let given = capabilities::mask(0, &exec.capabilities_add, &exec.capabilities_drop);
    capabilities::by_name("SYS_ADMIN").is_some_and(|bit| given.is_ok_and(|given| given & bit != 0))
}

/// A mount that is made on the host later comes as it is, with the devices in it: nothing else in a sandbox would keep
/// the machine's root from them. What cannot be done then, and why.
fn arriving(exec: &Exec) -> Option<(String, &'static str)> {
    if rbuild_cache::owners::devices_recorded() {
        return None;
    }
    let (path, target) = exec.mounts.iter().find_map(|mount| match &mount.source {
        MountSource::Propagated { path, .. } => Some((path, &mount.target)),
        _ => None,
    })?;
    Some((
        format!("mount `{}` at `{}`", path.display(), target.display()),
        "what the host mounts there later comes with the devices in it, and nothing would keep this container from them, \
         whose root is the machine's: that comes of `--userns=host`, `--network=host`, `--device`, or of a source whose \
         file systems have no mapped ids; `--privileged` lets it have all devices",
    ))
}
