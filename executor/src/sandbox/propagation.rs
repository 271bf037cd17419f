//! Directories of the host with the mounts that are made below them later: how they are taken, so that these arrive,
//! and why they sometimes cannot be.
//!
//! This process's mounts are slaves of the host's ([`crate::host::Entry`]), and so are copies of them; the kernel
//! brings to a sandbox what comes. What is to send as well is copied where the host's own mounts are: of that copy the
//! kernel makes a peer.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::prepare::setup;
use super::{ExecError, in_root, mounts};
use crate::host::Host;
use crate::spec::{Below, Mount, Propagation};

/// A detached copy of `path`, which is absolute and has no links in it, with what is mounted below.
pub(super) fn tree(
    host: &Host,
    path: &Path,
    propagation: Propagation,
    mount: &Mount,
) -> Result<OwnedFd, ExecError> {
    let step = || format!("mount `{}` at `{}`", path.display(), mount.target.display());
    let copy = |suits: fn(&Mountpoint) -> bool| copy(path, mount.below, suits);
    let (mount, tree) = match propagation {
        Propagation::Slave => copy(Mountpoint::receives),
        Propagation::Shared => match host.outer() {
            Some(outer) => outer.visit(|| copy(|mount| mount.shared)),
            // No mount here can be known to be a peer of the machine's.
            None => copy(|_| false),
        },
    }
    .map_err(|error| setup(step(), error))?;
    let what = match propagation {
        Propagation::Slave => "a shared or slave mount",
        Propagation::Shared => "a shared mount",
    };
    let way = match (propagation, host.outer()) {
        (Propagation::Shared, None) => {
            "to the processes of an ordinary user the kernel shows the host's mounts as slaves, which receive mounts and \
             send none; with `rslave` the host's arrive in the container"
                .to_owned()
        }
        _ => format!("the host's root can make it one: `mount --make-shared {}`", mount.point.display()),
    };
    tree.ok_or_else(|| {
        let (path, point) = (path.display(), mount.point.display());
        setup(
            step(),
            format!("path `{path}` is mounted on `{point}` but it is not {what}; {way}"),
        )
    })
}

/// Copies a path where it is on a mount that suits.
fn copy(
    path: &Path,
    below: Below,
    suits: impl FnOnce(&Mountpoint) -> bool,
) -> std::io::Result<(Mountpoint, Option<OwnedFd>)> {
    let found = rustix::fs::openat2(
        CWD,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )?;
    let id = in_root::mount_id(found.as_fd())?;
    // The thread's: it may be in another namespace than the process.
    let all = std::fs::read("/proc/thread-self/mountinfo")?;
    let all = String::from_utf8_lossy(&all);
    let mut all = all.lines().filter_map(Mountpoint::read);
    let mount = all.find(|mount| mount.id == id).ok_or_else(|| {
        std::io::Error::other("the mount that it is on is not in /proc/self/mountinfo")
    })?;
    let tree = suits(&mount).then(|| mounts::copy_of(found.as_fd(), below));
    Ok((mount, tree.transpose()?))
}

/// What /proc says of a mount.
#[derive(Debug, PartialEq, Eq)]
struct Mountpoint {
    id: u64,
    point: PathBuf,
    shared: bool,
    slave: bool,
}

impl Mountpoint {
    /// A line of mountinfo.
    fn read(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let point = fields.nth(3)?;
        let mut mount = Self {
            id,
            point: unescaped(point).into(),
            shared: false,
            slave: false,
        };
        for optional in fields.skip(1).take_while(|field| *field != "-") {
            mount.shared |= optional.starts_with("shared:");
            mount.slave |= optional.starts_with("master:");
        }
        Some(mount)
    }

    fn receives(&self) -> bool {
        self.shared || self.slave
    }
}

/// Blanks and their like are written as octal numbers.
fn unescaped(text: &str) -> String {
    let mut pieces = text.split('\\');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let number = piece
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (number, piece.get(3..)) {
            (Some(byte), Some(rest)) if byte.is_ascii() => {
                plain.push(byte.into());
                plain.push_str(rest);
            }
            _ => {
                plain.push('\\');
                plain.push_str(piece);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_and_their_propagation_are_read() {
        let read = |text| Mountpoint::read(text).expect("a mount");
        let line = r"42 27 254:0 /var/a /var/my\040dir rw,relatime shared:1 master:7 - ext4 /dev/vda rw,discard";
        let mount = read(line);
        assert_eq!(
            (mount.id, mount.point.as_path()),
            (42, Path::new("/var/my dir"))
        );
        assert!(mount.shared && mount.slave && mount.receives());
        // What follows the dash is the file system's own.
        let plain = read("22 27 0:21 / /proc rw - proc shared:1 rw");
        assert!(!plain.receives());
        assert!(read("22 27 0:21 / /proc rw master:1 propagate_from:2 - proc proc rw").receives());
        assert_eq!(Mountpoint::read("what"), None);
        assert_eq!(unescaped(r"/a\134b\0"), r"/a\b\0");
    }
}
