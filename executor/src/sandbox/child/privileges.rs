//! What a command may not have: limits, capabilities, system calls and ids are given up in this order.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::CapabilitiesSecureBits;

use super::die_with_parent;
use crate::emulation::{self, Mark};
use crate::host::Privilege;
use crate::sandbox::plan::{Devices, Report, ResourceLimit, Task};
use crate::sandbox::seccomp::{self, profile::Rules};
use crate::sandbox::step::{Failure, Result, Step};
use crate::sandbox::{capabilities, program, wire};
use crate::sys;

pub(in crate::sandbox) fn set_limits(task: &Task) -> Result<()> {
    let single_id = task.privilege == Privilege::SingleId;
    let marking = Mark::resource();
    for limit in &task.limits {
        let resource: Resource = limit.kind.resource();
        // It limits nothing since Linux 2.4, and is where a process' user is written down.
        if single_id && resource == marking {
            continue;
        }
        let set = |soft: u64, hard: u64| {
            let value = |number: u64| (number != u64::MAX).then_some(number);
            rustix::process::setrlimit(
                resource,
                Rlimit {
                    current: value(soft),
                    maximum: value(hard),
                },
            )
        };
        let result = match set(limit.soft, limit.hard) {
            // Our own defaults go as far as they may.
            Err(Errno::PERM) if !limit.asked => {
                let most = rustix::process::getrlimit(resource)
                    .maximum
                    .unwrap_or(u64::MAX);
                set(limit.soft.min(most), limit.hard.min(most))
            }
            result => result,
        };
        result.step(told(*limit, resource))?;
    }
    Ok(())
}

/// `own_mounts`: see [`super::root::note_own`].
pub(in crate::sandbox) fn drop_privileges(
    task: &Task,
    status: BorrowedFd<'_>,
    own_mounts: Vec<u64>,
) -> Result<()> {
    let single_id = task.privilege == Privilege::SingleId;
    sys::join_session_keyring()
        .or_else(ignore_missing)
        .step("make a keyring")?;
    if single_id && task.command.uid != 0 {
        // Whoever it appears to be, the kernel knows it as root, who would get capabilities by executing anything.
        rustix::thread::set_capabilities_secure_bits(
            CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED,
        )
        .step("give up what root has")?;
    }
    let takes = if single_id { mark(task)? } else { (None, None) };
    capabilities::bound(task.capabilities)?;
    // Installed while the right to do so is still there, instead of by giving up new privileges: setuid programs of
    // an image work.
    if let Some(filter) = task.filter {
        let program = seccomp::program(filter);
        if filter.emulation || filter.devices != Devices::Kernel {
            emulate(&program, status, own_mounts, takes)?;
        } else {
            sys::notify::install_filter(&program, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW)
                .step("install the system call filter")?;
        }
    }
    if task.profile.is_some() && !single_id && task.command.uid != 0 {
        rustix::thread::set_keep_capabilities(true).step("keep what installs a filter")?;
    }
    if !single_id {
        take_ids(task)?;
    }
    if task.no_new_privileges {
        rustix::thread::set_no_new_privs(true).step("give up new privileges")?;
    }
    let Some(profile) = &task.profile else {
        capabilities::take(task.capabilities, task.command.uid)?;
        return protect_again();
    };
    // Whoever wrote it thought of the command: what we still do ourselves is no more than giving up capabilities.
    capabilities::clear_ambient()?;
    protect_again()?;
    let left = capabilities::permitted_of(task.capabilities, task.command.uid)
        .step("look at the capabilities")?;
    install(profile)?;
    capabilities::take_permitted(left)
        .step("give up capabilities, which the seccomp profile has to allow")
}

/// What is to be set, and what can be: the flag that asked for it may be far away.
fn told(limit: ResourceLimit, resource: Resource) -> String {
    let number = |value: u64| match value {
        u64::MAX => "unlimited".to_owned(),
        value => value.to_string(),
    };
    let name = limit.kind.name();
    let most = rustix::process::getrlimit(resource).maximum;
    format!(
        "set the limit `{name}` to {}:{} (here it can be {} at most)",
        number(limit.soft),
        number(limit.hard),
        number(most.unwrap_or(u64::MAX)),
    )
}

/// Writes down who it appears to be, for whoever asks from another sandbox: root need not. Returns the ids that its
/// program takes of its file, for nobody else can find out: no other process may look into this one before it is the
/// command.
fn mark(task: &Task) -> Result<(Option<u32>, Option<u32>)> {
    let program = program::find(&task.command.argv, &task.command.env).ok();
    let takes = match program {
        Some(program) if !task.no_new_privileges => emulation::taken_of(&program),
        _ => (None, None),
    };
    let ids = (
        takes.0.unwrap_or(task.command.uid),
        takes.1.unwrap_or(task.command.gid),
    );
    if ids != (0, 0) {
        let limit = Rlimit {
            current: Some(Mark::first(ids.0, ids.1).limit()),
            maximum: None,
        };
        match rustix::process::setrlimit(Mark::resource(), limit) {
            // Who has hard limits cannot raise them. Its own table knows it all the same.
            Err(Errno::PERM) => {}
            result => result.step("write down its user")?,
        }
    }
    Ok(takes)
}

/// What a change of ids takes away.
fn protect_again() -> Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .step("protect the first process")?;
    die_with_parent()
}

/// The user's filter, which the kernel lets nobody install who could not do more.
fn install(profile: &Rules) -> Result<()> {
    let step = "install the filter of the seccomp profile";
    capabilities::raise_permitted().step(step)?;
    let program = profile.program().ok_or_else(|| Failure {
        step: step.into(),
        errno: libc::E2BIG,
    })?;
    sys::notify::install_filter(&program, profile.flags()).step(step)
}

/// From here on, calls about ids, owners and devices are answered by the builder.
fn emulate(
    program: &[libc::sock_filter],
    status: BorrowedFd<'_>,
    own_mounts: Vec<u64>,
    takes: (Option<u32>, Option<u32>),
) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mounts = rustix::fs::openat(CWD, "/proc/self/ns/mnt", flags, Mode::empty())
        .step("open the mount namespace")?;
    let listener = sys::notify::install_with_listener(program)
        .step("install the system call filter (another may be listening already)")?;
    wire::send(
        status,
        &Report::Emulate {
            mounts: own_mounts,
            takes,
        },
        &[listener.as_fd(), mounts.as_fd()],
    )
    .step("report")
}

/// Kernels can be built without keyrings.
fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.raw_os_error() == Some(libc::ENOSYS) {
        Ok(())
    } else {
        Err(error)
    }
}

pub(in crate::sandbox) fn take_ids(task: &Task) -> Result<()> {
    let gid = |id: u32| Gid::from_raw(id);
    let groups: Vec<Gid> = task.command.groups.iter().copied().map(gid).collect();
    rustix::thread::set_thread_groups(&groups).step("set supplementary groups")?;
    let (uid, gid) = (Uid::from_raw(task.command.uid), gid(task.command.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .step(format!("become group {}", task.command.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .step(format!("become user {}", task.command.uid))
}
