//! Where the kernel lets no new /proc be made, as in a container that masks parts of its own: commands are shown the
//! one that is there. It tells of processes that are none of their business, and this is what it must not tell.
//!
//! * A command is in a user namespace of its own, so that the kernel opens nothing of what is outside of that:
//!   `/proc/PID/{environ,fd,mem,root}` of the builder, of other commands and of the container's other processes.
//! * Command lines are for everybody to read: the builder's, which may hold build arguments, is taken away.
//!
//! Numbers of processes below /proc are the container's; `/proc/self` is right.

use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::process::DumpableBehavior;
use rustix::thread::UnshareFlags;

use super::own_users;
use super::plan::Task;
use super::step::{Result, Step};
use crate::proc_stat::ProcStat;

/// A part of /proc that something is mounted on, or /proc itself where it is read-only. A user namespace then gets no
/// new one, which could show more.
pub(crate) fn masked(mountinfo: &str) -> Option<&str> {
    // Directories that are there to be mounted on, with nothing in them.
    const EMPTY: [&str; 3] = [
        "/proc/sys/fs/binfmt_misc",
        "/proc/fs/nfsd",
        "/proc/openprom",
    ];
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(4);
        let (point, options) = (fields.next()?, fields.next()?);
        let masks = point.starts_with("/proc/") && !EMPTY.iter().any(|at| point.starts_with(at));
        let read_only = point == "/proc" && options.split(',').any(|option| option == "ro");
        (masks || read_only).then_some(point)
    })
}

/// Leaves of this process's command line the name only, and nothing that others of its user may write to.
pub(crate) fn conceal() -> io::Result<()> {
    let line = std::fs::read("/proc/self/cmdline")?;
    let name = line.iter().position(|byte| *byte == 0);
    let name = name.map_or(line.len(), |end| end + 1);
    const ARGUMENTS: usize = 48;
    let start = ProcStat::own()?
        .number(ARGUMENTS)
        .filter(|at: &u64| *at > 0);
    let start = start.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let memory = std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/mem")?;
    memory.write_all_at(&vec![0; line.len() - name], start + name as u64)?;
    // From here on, files like that one are nobody's here.
    Ok(rustix::process::set_dumpable_behavior(
        DumpableBehavior::NotDumpable,
    )?)
}

/// Into a user namespace with the ids of the one around it.
pub(super) fn enter_own_user_namespace(task: &Task) -> Result<()> {
    // It may mount, in a mount namespace of its own.
    let further = if task.unmasked {
        UnshareFlags::NEWNS
    } else {
        UnshareFlags::empty()
    };
    own_users::enter(further, None).step("make a user namespace for the command")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_masks_proc_is_seen() {
        let line = |point: &str, options: &str| {
            format!("74 73 0:42 / {point} {options},nosuid - proc proc rw\n")
        };
        let usual = line("/", "rw") + &line("/proc", "rw") + &line("/sys", "ro");
        let empty = line("/proc/sys/fs/binfmt_misc", "rw");
        assert_eq!(masked(&(usual.clone() + &empty)), None);
        assert_eq!(
            masked(&(usual.clone() + &line("/proc/keys", "rw"))),
            Some("/proc/keys")
        );
        assert_eq!(masked(&line("/proc", "ro")), Some("/proc"));
        assert_eq!(masked(""), None);
    }
}
