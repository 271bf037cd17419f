//! What `/proc/PID/status` says of a process' users, where the kernel knows the one id only. Programs that list processes
//! read it.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags};

use super::answer::Answering;
use super::credentials::{Credentials, Ids};
use super::files::{mark_of_process, path_of};
use super::mark::Mark;
use super::target::{Named, Target};

/// Whether a path may be that of such a file: all that is looked at where nothing else is to be found out.
pub(super) fn is_meant(path: &[u8]) -> bool {
    let Some(directory) = path.strip_suffix(b"status") else {
        return false;
    };
    match directory.split_last() {
        None => true,
        Some((b'/', _)) => !directory.starts_with(b"/") || directory.starts_with(b"/proc/"),
        Some(_) => false,
    }
}

impl Answering {
    /// The file with the users that its process appears to have, as a copy; nothing where the kernel's is right.
    pub(super) fn status(&self, target: &Target<'_>, named: &Named) -> Option<OwnedFd> {
        let node = target.node(named, true).ok()?;
        if Some(rustix::fs::fstat(&node).ok()?.st_dev) != self.proc {
            return None;
        }
        let credentials = self.credentials_of(mark_of_process(&node)?)?;
        let text = std::fs::read(path_of(&node)?).ok()?;
        let flags = MemfdFlags::CLOEXEC;
        let mut copy = File::from(rustix::fs::memfd_create("status", flags).ok()?);
        copy.write_all(&with(&text, &credentials)).ok()?;
        copy.rewind().ok()?;
        // What is given can only be read.
        let name = super::target::name_of(copy.as_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::openat(rustix::fs::CWD, name, flags, Mode::empty()).ok()
    }

    /// By its number, if they are in this table; by what the mark says of them otherwise.
    fn credentials_of(&self, mark: Mark) -> Option<Credentials> {
        let (uid, gid) = mark.ids?;
        let known = self.identities.get(usize::from(mark.number));
        let known = known.filter(|it| (it.users.effective, it.groups.effective) == (uid, gid));
        Some(known.map_or_else(|| Credentials::new(uid, gid, vec![gid]), Clone::clone))
    }
}

/// Bytes, because the process' name may be any.
fn with(status: &[u8], credentials: &Credentials) -> Vec<u8> {
    let four = |ids: Ids| {
        let all = [ids.real, ids.effective, ids.saved, ids.files];
        all.map(|id| id.to_string()).join("\t")
    };
    let mut text = Vec::with_capacity(status.len() + 64);
    for line in status.split_inclusive(|byte| *byte == b'\n') {
        let told = if line.starts_with(b"Uid:") {
            format!("Uid:\t{}\n", four(credentials.users))
        } else if line.starts_with(b"Gid:") {
            format!("Gid:\t{}\n", four(credentials.groups))
        } else if line.starts_with(b"Groups:") {
            let groups = credentials.further.iter().map(|id| format!("{id} "));
            format!("Groups:\t{}\n", groups.collect::<String>())
        } else {
            text.extend_from_slice(line);
            continue;
        };
        text.extend_from_slice(told.as_bytes());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_replaced_and_nothing_else() {
        let kernels =
            b"Name:\tUid:\xc3\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t65534 \nThreads:\t1\n";
        let credentials = Credentials::new(7, 8, vec![8, 9]).executing(Some(0), None);
        assert_eq!(
            with(kernels, &credentials),
            b"Name:\tUid:\xc3\nUid:\t7\t0\t0\t0\nGid:\t8\t8\t8\t8\nGroups:\t8 9 \nThreads:\t1\n"
        );
    }

    #[test]
    fn only_such_a_file_is_meant() {
        for path in ["/proc/12/status", "status", "12/status", "../self/status"] {
            assert!(is_meant(path.as_bytes()), "{path}");
        }
        for path in [
            "/proc/12/stat",
            "12/xstatus",
            "/x/proc/12/status",
            "/status",
        ] {
            assert!(!is_meant(path.as_bytes()), "{path}");
        }
    }
}
