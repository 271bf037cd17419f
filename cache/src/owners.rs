//! Owners and device nodes that the kernel cannot give. In a user namespace with one id everything belongs to that
//! id, and nobody makes devices; so what a file is meant to be is written down beside it:
//!
//! ```text
//! user.rbuild.owner   of a file or directory: `UID:GID`
//! user.rbuild.links   of a directory: what in it cannot have attributes (links, pipes, sockets), by name
//! ```
//! No attribute means root's. A device is a socket that the second list says to be one: like a device that there is
//! no driver for, it cannot be opened. Overlay copies both up with their files; renaming keeps the first. Trees
//! ([`crate::tree`]) show what is written down, so layers and digests are those of a build by root. Nothing of this
//! is read or written where the kernel gives owners and devices; in a user namespace with many ids it gives owners, and
//! only devices are written down.

pub mod acl;
mod here;
mod links;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use crate::root_dir::read_growing;
use crate::tree::{Entry, Kind};

pub use here::{devices_recorded, is_possible, limited, record, recorded};
use links::Links;

/// What all names begin with; nothing of an image, and no process in a sandbox, may set such.
pub const PREFIX: &[u8] = b"user.rbuild.";
const OWNER: &str = "user.rbuild.owner";
const LINKS: &str = "user.rbuild.links";
/// A list longer than this is written with a common owner; file systems have about 4 KiB for all attributes.
const LONG_BYTES: usize = 2048;

/// What a file is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Record {
    pub uid: u32,
    pub gid: u32,
    /// Kind and `makedev(major, minor)`.
    pub device: Option<(Kind, u64)>,
}

impl Record {
    /// Of a file that is no device.
    pub fn owner(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            device: None,
        }
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
        Some(Self::owner(uid.parse().ok()?, gid.parse().ok()?))
    }
}

/// Reads the record at a path that is ours to name (a magic link of a descriptor, followed).
pub fn read(path: impl rustix::path::Arg + Copy) -> io::Result<Option<Record>> {
    let value = read_growing(|buffer| rustix::fs::getxattr(path, OWNER, buffer))?;
    Ok(value.as_deref().and_then(Record::parse))
}

/// Whose an open file or directory is, be it the kernel's word or the record's.
pub fn of(fd: BorrowedFd<'_>) -> io::Result<Record> {
    let stat = rustix::fs::fstat(fd)?;
    let kernels = Record::owner(stat.st_uid, stat.st_gid);
    match recorded() {
        false => Ok(kernels),
        true => Ok(read(route(fd).as_str())?.unwrap_or_default()),
    }
}

/// Writes it; root's file needs none.
pub fn write(path: impl rustix::path::Arg + Copy, record: Record) -> io::Result<()> {
    if record == Record::default() {
        return match rustix::fs::removexattr(path, OWNER) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
    }
    let value = format!("{}:{}", record.uid, record.gid);
    Ok(rustix::fs::setxattr(
        path,
        OWNER,
        value.as_bytes(),
        XattrFlags::empty(),
    )?)
}

/// Sets the owner of what a descriptor of any kind stands for. Clears setuid and setgid, so set the mode afterwards.
/// Where owners are written down, those of links, pipes and sockets need [`set_at`]; here nothing happens to them.
pub fn set(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    let (user, group) = ids(uid, gid)?;
    if !recorded() {
        let flags = AtFlags::EMPTY_PATH;
        return Ok(rustix::fs::chownat(
            fd,
            c"",
            Some(user),
            Some(group),
            flags,
        )?);
    }
    let stat = rustix::fs::fstat(fd)?;
    if !has_attributes(stat.st_mode) {
        return Ok(());
    }
    let (path, record) = (route(fd), Record::owner(uid, gid));
    match write(path.as_str(), record) {
        Err(error) if limited() && error.kind() == io::ErrorKind::PermissionDenied => {
            // Attributes are for whoever may write to the file.
            let mode = stat.st_mode & 0o7777;
            rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(mode | 0o600))?;
            let written = write(path.as_str(), record);
            rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(mode))?;
            written
        }
        written => written,
    }
}

/// Sets the owner of a name in an open directory, of a link its own.
pub fn set_at(directory: BorrowedFd<'_>, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
    let (user, group) = ids(uid, gid)?;
    if !recorded() {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        return Ok(rustix::fs::chownat(
            directory,
            name,
            Some(user),
            Some(group),
            flags,
        )?);
    }
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if has_attributes(stat.st_mode) {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        return set(node.as_fd(), uid, gid);
    }
    let route = route(directory);
    let name = name.as_bytes();
    let record = Record {
        uid,
        gid,
        ..link(route.as_str(), name)?
    };
    set_link(route.as_str(), name, record, &|| names_of_links(directory))
}

/// Makes what stands for a device, of root's and with mode 0600.
pub fn make_device(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    kind: Kind,
    device: u64,
) -> io::Result<()> {
    rustix::fs::mknodat(
        directory,
        name,
        FileType::Socket,
        Mode::from_raw_mode(0o600),
        0,
    )?;
    let record = Record {
        device: Some((kind, device)),
        ..Record::default()
    };
    let route = route(directory);
    let names = || names_of_links(directory);
    set_link(route.as_str(), name.as_bytes(), record, &names)
}

/// Writes down what cannot be seen of something that was linked into a directory which knows nothing of it yet.
pub fn note(directory: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> io::Result<()> {
    if entry.kind == Kind::Whiteout {
        return Ok(());
    }
    if matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) && devices_recorded() {
        let record = Record {
            uid: entry.uid,
            gid: entry.gid,
            device: Some((entry.kind, entry.device)),
        };
        let route = route(directory);
        let names = || names_of_links(directory);
        return set_link(route.as_str(), name.as_bytes(), record, &names);
    }
    if recorded() {
        return set_at(directory, name, entry.uid, entry.gid);
    }
    Ok(())
}

/// Takes over what is written down for one directory or file to another.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let (from, to) = (route(from), route(to));
    for name in [OWNER, LINKS] {
        let value = read_growing(|buffer| rustix::fs::getxattr(from.as_str(), name, buffer))?;
        if let Some(value) = value {
            rustix::fs::setxattr(to.as_str(), name, &value, XattrFlags::empty())?;
        }
    }
    Ok(())
}

/// What a link, pipe or socket is by the list of its directory.
pub fn link(directory: impl rustix::path::Arg + Copy, name: &[u8]) -> io::Result<Record> {
    let value = read_growing(|buffer| rustix::fs::getxattr(directory, LINKS, buffer))?;
    let links = value.as_deref().map(Links::parse).unwrap_or_default();
    Ok(links.get(name))
}

/// Writes what a link, pipe or socket is into the list of its directory. `others` lists all of its kind
/// there; it is asked where the record would become too long.
pub fn set_link(
    directory: impl rustix::path::Arg + Copy,
    name: &[u8],
    record: Record,
    others: &dyn Fn() -> io::Result<Vec<Vec<u8>>>,
) -> io::Result<()> {
    let value = read_growing(|buffer| rustix::fs::getxattr(directory, LINKS, buffer))?;
    let mut links = value.as_deref().map(Links::parse).unwrap_or_default();
    if links.get(name) == record {
        return Ok(());
    }
    links.set(name, record);
    if links.encode().len() > LONG_BYTES {
        links.shorten(&others()?);
    }
    let value = links.encode();
    if links == Links::default() {
        return Ok(rustix::fs::removexattr(directory, LINKS)?);
    }
    Ok(rustix::fs::setxattr(
        directory,
        LINKS,
        &value,
        XattrFlags::empty(),
    )?)
}

/// The names in a directory that [`set_link`] is for.
pub fn names_of_links(directory: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory: OwnedFd = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(directory)? {
        let entry = entry?;
        let plain = matches!(
            entry.file_type(),
            FileType::RegularFile | FileType::Directory
        );
        if !plain {
            names.push(entry.file_name().to_bytes().to_vec());
        }
    }
    Ok(names)
}

/// Makes of entries that were scanned with their records what the records say: devices, and with `owners` those.
pub(crate) fn apply(entries: &mut [Entry], owners: bool) {
    let mut directories: BTreeMap<Vec<u8>, Links> = BTreeMap::new();
    for entry in entries.iter_mut() {
        let mut record = None;
        entry.xattrs.retain_mut(|(name, value)| {
            if name == OWNER.as_bytes() {
                record = Record::parse(value);
            } else if name == LINKS.as_bytes() {
                directories.insert(entry.path.clone(), Links::parse(value));
            }
            if owners && let Some(list) = acl::read(name, value) {
                *value = list;
            }
            !name.starts_with(PREFIX)
        });
        if let Some(record) = record.filter(|_| owners) {
            (entry.uid, entry.gid) = (record.uid, record.gid);
        }
    }
    if directories.is_empty() {
        return;
    }
    for entry in entries {
        if !matches!(entry.kind, Kind::Symlink | Kind::Fifo | Kind::Socket) {
            continue;
        }
        let (parent, name) = match entry.path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => entry.path.split_at(slash),
            None => (&b""[..], entry.path.as_slice()),
        };
        let name = name.strip_prefix(b"/").unwrap_or(name);
        let Some(links) = directories.get(parent) else {
            continue;
        };
        let record = links.get(name);
        if owners {
            (entry.uid, entry.gid) = (record.uid, record.gid);
        }
        if let Some((kind, device)) = record.device
            && entry.kind == Kind::Socket
        {
            (entry.kind, entry.device) = (kind, device);
        }
    }
}

/// Ids for `chown`; 4294967295 means "leave as it is" to the kernel and is refused.
pub(crate) fn ids(uid: u32, gid: u32) -> io::Result<(Uid, Gid)> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "4294967295 is not a user or group id",
        ));
    }
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

fn has_attributes(mode: u32) -> bool {
    matches!(
        FileType::from_raw_mode(mode),
        FileType::RegularFile | FileType::Directory
    )
}

/// The one way to what an `O_PATH` descriptor stands for in calls of attributes.
fn route(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read_back() {
        assert_eq!(Record::parse(b"1000:50"), Some(Record::owner(1000, 50)));
        for nonsense in ["", "1", "1:", ":1", "1:2:3", "-1:2"] {
            assert_eq!(Record::parse(nonsense.as_bytes()), None, "{nonsense}");
        }
    }

    #[test]
    fn entries_become_what_their_records_say() {
        let make = |path: &[u8], kind, xattrs: &[(&str, &[u8])]| Entry {
            xattrs: xattrs
                .iter()
                .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()))
                .collect(),
            ..Entry::new(path.to_vec(), kind)
        };
        let mut links = Links::default();
        links.set(b"l", Record::owner(5, 6));
        let device = Some((Kind::BlockDevice, 2048));
        links.set(
            b"n",
            Record {
                device,
                ..Record::default()
            },
        );
        let mut entries = vec![
            make(b"d", Kind::Directory, &[(LINKS, &links.encode())]),
            make(b"d/f", Kind::File, &[(OWNER, b"1:2"), ("user.mine", b"x")]),
            make(b"d/l", Kind::Symlink, &[]),
            make(b"d/n", Kind::Socket, &[]),
            make(b"n", Kind::Socket, &[]),
        ];
        let mut devices_only = entries.clone();
        apply(&mut devices_only, false);
        assert_eq!((devices_only[1].uid, devices_only[2].uid), (0, 0));
        assert_eq!(devices_only[3].kind, Kind::BlockDevice);
        apply(&mut entries, true);
        let shown: Vec<_> = entries
            .iter()
            .map(|entry| (entry.uid, entry.gid, entry.kind, entry.device))
            .collect();
        assert_eq!(
            shown,
            [
                (0, 0, Kind::Directory, 0),
                (1, 2, Kind::File, 0),
                (5, 6, Kind::Symlink, 0),
                (0, 0, Kind::BlockDevice, 2048),
                (0, 0, Kind::Socket, 0),
            ]
        );
        assert_eq!(entries[0].xattrs, []);
        assert_eq!(entries[1].xattrs, [(b"user.mine".to_vec(), b"x".to_vec())]);
    }
}
