//! Where the kernel lets no new /proc be made, as in a container that masks parts of its own: commands are shown the
//! one that is there. It tells of processes that are none of their business, and this is what it must not tell.
//!
//! * A command is in a user namespace of its own, so that the kernel opens nothing of what is outside of that:
//!   `/proc/PID/{environ,fd,mem,root}` of the builder, of other commands and of the container's other processes.
//! * Command lines are for everybody to read: the builder's, which may hold build arguments, is taken away.
//!
//! Numbers of processes below /proc are the container's; `/proc/self` is right.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{DumpableBehavior, WaitOptions};
use rustix::thread::UnshareFlags;

use super::plan::Task;
use super::step::{Failure, Result, Step};
use crate::sys::{self, Forked};

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
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let start = arguments(&stat).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let memory = std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/mem")?;
    memory.write_all_at(&vec![0; line.len() - name], start + name as u64)?;
    // From here on, files like that one are nobody's here.
    Ok(rustix::process::set_dumpable_behavior(
        DumpableBehavior::NotDumpable,
    )?)
}

/// Where they are in the memory of the process that /proc/PID/stat is of.
fn arguments(stat: &str) -> Option<u64> {
    // The second field may hold anything; the third is the first behind it, the 48th is `arg_start`.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(45)?.parse().ok().filter(|at| *at > 0)
}

/// Into a user namespace with the ids of the one around it.
pub(super) fn enter_own_user_namespace(task: &Task) -> Result<()> {
    let step = "make a user namespace for the command";
    let users = identity("/proc/self/uid_map").step(step)?;
    let groups = identity("/proc/self/gid_map").step(step)?;
    // Whatever its number is below this /proc.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let this = rustix::fs::openat(CWD, "/proc/self", flags, Mode::empty()).step(step)?;
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (go_read, go_write) = pipe.step(step)?;
    let helper = match sys::fork().step(step)? {
        Forked::Parent(helper) => helper,
        Forked::Child => {
            drop(go_write);
            sys::exit_now(map(&this, &go_read, &users, &groups));
        }
    };
    drop(go_read);
    let mut namespaces = UnshareFlags::NEWUSER;
    if task.unmasked {
        // It may mount, in a mount namespace of its own.
        namespaces |= UnshareFlags::NEWNS;
    }
    // Files in /proc of a process that is not dumpable are nobody's here. Nobody can look meanwhile: other commands are
    // in user namespaces of their own.
    let unshared = sys::unshare(namespaces).and_then(|()| {
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        rustix::io::write(&go_write, b"1")?;
        Ok(())
    });
    drop(go_write);
    let ended = loop {
        match rustix::process::waitpid(Some(helper), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            ended => break ended.step(step)?,
        }
    };
    unshared.step(step)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step(step)?;
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        errno => Err(Failure {
            step: "map the ids of the command's user namespace".into(),
            errno: errno.unwrap_or(libc::EIO),
        }),
    }
}

/// In the helper, which stays outside: zero or what went wrong.
fn map(process: &OwnedFd, go: &OwnedFd, users: &str, groups: &str) -> i32 {
    let mut byte = [0];
    if !matches!(rustix::io::read(go, &mut byte), Ok(1)) {
        return libc::EPIPE;
    }
    for (file, map) in [("uid_map", users), ("gid_map", groups)] {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let written = rustix::fs::openat(process.as_fd(), file, flags, Mode::empty())
            .and_then(|file| rustix::io::write(&file, map.as_bytes()));
        if let Err(errno) = written {
            return errno.raw_os_error();
        }
    }
    0
}

/// What maps every id of this user namespace to itself.
fn identity(map: &str) -> io::Result<String> {
    Ok(identity_of(&std::fs::read_to_string(map)?))
}

fn identity_of(map: &str) -> String {
    let extents = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace();
        let (first, count) = (numbers.next()?, numbers.nth(1)?);
        Some(format!("{first} {first} {count}\n"))
    });
    extents.collect()
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

    #[test]
    fn a_map_of_ids_becomes_one_to_themselves() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(identity_of(map), "0 0 1\n1 1 65536\n");
    }

    #[test]
    fn arguments_are_found_behind_any_name() {
        let fields: Vec<String> = (3..=52).map(|number| number.to_string()).collect();
        let stat = format!("1 (a) b) {}", fields.join(" "));
        assert_eq!(arguments(&stat), Some(48));
        assert_eq!(arguments("1 (a"), None);
    }
}
