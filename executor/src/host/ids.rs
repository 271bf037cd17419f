//! Becoming root of a user namespace: with a range of subordinate ids where the machine grants one (through
//! newuidmap and newgidmap, the only foreign programs that are ever run), else with one id.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{CapabilitySet, UnshareFlags};

use super::{InitError, Privilege};
use crate::sys::{self, Forked};

/// Of the files that list users and ranges.
const MOST_BYTES: u64 = 4 << 20;
/// Fewer ids than this would lack `nobody`.
const FEWEST: u32 = 65_534;

/// A range of ids that the machine lets this user use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u32,
    pub(super) count: u32,
}

/// How the ids inside are made.
struct Ranges {
    uids: Range,
    gids: Range,
    newuidmap: PathBuf,
    newgidmap: PathBuf,
}

/// What was entered, and why it was not more.
pub(super) fn enter_user_namespace() -> Result<(Privilege, String), InitError> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let capable = || {
        rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SETFCAP))
    };
    if uid == 0 && !capable() {
        // It would be in one by then, with no ids.
        return Err(InitError {
            step: "map the ids of a user namespace",
            advice: "root of a container needs CAP_SETFCAP for that; every other user may do so",
            source: rustix::io::Errno::PERM.into(),
        });
    }
    let why = match ranges(uid) {
        Ok(ranges) => {
            if with_ranges(uid, gid, &ranges)? {
                become_root()?;
                let Range { start, count } = ranges.uids;
                let why = format!(
                    "{count} ids from {start} on, by {}",
                    ranges.newuidmap.display()
                );
                return Ok((Privilege::Subordinate, why));
            }
            // The namespace exists by now, with nothing mapped; one id can still be.
            format!(
                "{} did not map the ids that the user has (is it setuid, or has it its capability?)",
                ranges.newuidmap.display()
            )
        }
        Err(why) => {
            unshare_user()?;
            why
        }
    };
    map_one(uid, gid)?;
    become_root()?;
    Ok((Privilege::SingleId, why))
}

/// Enters one that another process of this user made: whoever made it may do everything in there. The ids are what they
/// are in there.
pub(super) fn join_user_namespace(namespace: &OwnedFd) -> Result<(Privilege, String), InitError> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User)).map_err(
        |errno| InitError {
            step: "enter the user namespace of the container whose network is to be shared",
            advice: "both have to be started by the same user, neither in a namespace that the other is not in",
            source: errno.into(),
        },
    )?;
    become_root()?;
    let privilege = if rbuild_cache::owners::recorded() {
        Privilege::SingleId
    } else {
        Privilege::Subordinate
    };
    let why = "the user namespace of the container whose network is shared";
    Ok((privilege, why.to_owned()))
}

fn unshare_user() -> Result<(), InitError> {
    sys::unshare(UnshareFlags::NEWUSER).map_err(|source| InitError {
        step: "make a user namespace",
        advice: "this system does not let ordinary users do so: see the sysctls user.max_user_namespaces, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns, and in a container its seccomp profile",
        source,
    })
}

/// The ranges and the programs that map them, or what of it is missing.
fn ranges(uid: u32) -> Result<Ranges, String> {
    let name = user_name(uid);
    let range = |path: &str| {
        let text = read_bounded(Path::new(path)).unwrap_or_default();
        find_range(&text, name.as_deref(), uid).ok_or_else(|| {
            let user = name.clone().unwrap_or_else(|| uid.to_string());
            format!("{path} has no range of {FEWEST} ids or more for `{user}`")
        })
    };
    let program = |name: &str| {
        find_program(name).ok_or_else(|| format!("there is no {name} (package uidmap) in PATH"))
    };
    Ok(Ranges {
        uids: range("/etc/subuid")?,
        gids: range("/etc/subgid")?,
        newuidmap: program("newuidmap")?,
        newgidmap: program("newgidmap")?,
    })
}

/// Root's, where a file lists one.
pub(super) fn range_of_root(path: &str) -> Option<Range> {
    let text = read_bounded(Path::new(path)).unwrap_or_default();
    find_range(&text, Some("root"), 0)
}

pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

/// By /etc/passwd, without the libraries that could load foreign code; else what the session says, which newuidmap
/// checks anyway.
fn user_name(uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let text = read_bounded(Path::new("/etc/passwd")).unwrap_or_default();
    let listed = text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.as_bytes()).then(|| String::from_utf8_lossy(name).into_owned())
    });
    listed.or_else(|| std::env::var("USER").ok())
}

/// `NAME:START:COUNT`, where NAME may be the number; the largest range of this user.
fn find_range(text: &[u8], name: Option<&str>, uid: u32) -> Option<Range> {
    let uid = uid.to_string();
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let line = std::str::from_utf8(line).ok()?;
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            if Some(owner) != name && owner != uid {
                return None;
            }
            let start: u32 = fields.next()?.parse().ok()?;
            let count: u32 = fields.next()?.parse().ok()?;
            // The last id of all means "none".
            (start.checked_add(count)? < u32::MAX).then_some(Range { start, count })
        })
        .filter(|range| range.count >= FEWEST)
        .max_by_key(|range| range.count)
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .chain(["/usr/bin".into(), "/bin".into(), "/run/wrappers/bin".into()])
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| rustix::fs::accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS).is_ok())
}

/// Makes the namespace while a forked process waits outside to map it. False where mapping was refused.
fn with_ranges(uid: u32, gid: u32, ranges: &Ranges) -> Result<bool, InitError> {
    let failed = |source| InitError {
        step: "map subordinate ids",
        advice: "a helper process could not be started",
        source,
    };
    let pid = rustix::process::getpid();
    let (go_read, go_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let helper = match sys::fork().map_err(failed)? {
        Forked::Parent(helper) => helper,
        Forked::Child => {
            drop(go_write);
            let mapped = map_from_outside(&go_read, pid, (uid, gid), ranges);
            sys::exit_now(i32::from(!mapped));
        }
    };
    drop(go_read);
    let unshared = unshare_user();
    if unshared.is_ok() {
        rustix::io::write(&go_write, b"1").map_err(|errno| failed(errno.into()))?;
    }
    drop(go_write);
    let mapped = wait_for(helper).map_err(failed)?;
    unshared.map(|()| mapped)
}

/// In the helper, outside of the namespace: waits for it, then runs both programs.
fn map_from_outside(go: &OwnedFd, pid: Pid, (uid, gid): (u32, u32), ranges: &Ranges) -> bool {
    let mut byte = [0];
    if !matches!(rustix::io::read(go.as_fd(), &mut byte), Ok(1)) {
        return false;
    }
    let run = |program: &Path, own: u32, range: Range| -> bool {
        match sys::fork() {
            Ok(Forked::Child) => {
                let _ = exec_mapper(program, pid, own, range);
                sys::exit_now(127)
            }
            Ok(Forked::Parent(child)) => wait_for(child).unwrap_or(false),
            Err(_) => false,
        }
    };
    run(&ranges.newuidmap, uid, ranges.uids) && run(&ranges.newgidmap, gid, ranges.gids)
}

/// `newuidmap PID 0 OWN 1 1 START COUNT`, silently: a refusal is no failure, one id then has to do.
fn exec_mapper(program: &Path, pid: Pid, own: u32, range: Range) -> io::Result<()> {
    use std::ffi::CString;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    let path = CString::new(program.as_os_str().as_bytes())?;
    let words = [
        program.display().to_string(),
        pid.as_raw_nonzero().to_string(),
        "0".into(),
        own.to_string(),
        "1".into(),
        "1".into(),
        range.start.to_string(),
        range.count.to_string(),
    ];
    let argv = words
        .into_iter()
        .map(CString::new)
        .collect::<Result<Vec<_>, _>>()?;
    Err(sys::execve(&path, &argv, &[]))
}

/// True where the child ended with 0.
fn wait_for(child: Pid) -> io::Result<bool> {
    loop {
        match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(status) => {
                return Ok(status.is_some_and(|(_, status)| status.exit_status() == Some(0)));
            }
        }
    }
}

/// Root inside is this user outside, and nobody else is there.
fn map_one(uid: u32, gid: u32) -> Result<(), InitError> {
    let write = |path: &str, text: String| -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes())?;
        Ok(())
    };
    write("/proc/self/setgroups", "deny".into())
        .and_then(|()| write("/proc/self/uid_map", format!("0 {uid} 1")))
        .and_then(|()| write("/proc/self/gid_map", format!("0 {gid} 1")))
        .map_err(|source| InitError {
            step: "become root of a user namespace",
            advice: "a security module may restrict user namespaces (on Ubuntu: the sysctl kernel.apparmor_restrict_unprivileged_userns)",
            source,
        })
}

fn become_root() -> Result<(), InitError> {
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
        .map_err(|errno| InitError {
            step: "become root of the user namespace",
            advice: "the map of ids was not accepted",
            source: errno.into(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_range_of_a_user_is_found() {
        let text =
            b"other:1:65536\nme:100000:1000\nme:200000:65536\n1000:300000:131072\nme:x:9\n\xff\n";
        let found = find_range(text, Some("me"), 1000);
        assert_eq!(
            found,
            Some(Range {
                start: 300_000,
                count: 131_072
            })
        );
        assert_eq!(find_range(text, Some("nobody"), 7), None);
        assert_eq!(find_range(b"me:4294900000:67295", Some("me"), 1), None);
    }
}
