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

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use crate::root_dir::read_growing;
use crate::tree::{Entry, Kind};

/// What all names begin with; nothing of an image, and no process in a sandbox, may set such.
pub const PREFIX: &[u8] = b"user.rbuild.";
const OWNER: &str = "user.rbuild.owner";
const LINKS: &str = "user.rbuild.links";
/// A list longer than this is written with a common owner; file systems have about 4 KiB for all attributes.
const LONG_BYTES: usize = 2048;

/// Whether this process is in a user namespace with one id, so that owners are written down.
pub fn recorded() -> bool {
    ids_here() == Ids::One
}

/// Whether this process is in a user namespace of any kind, so that devices are written down.
pub fn devices_recorded() -> bool {
    ids_here() != Ids::All
}

/// The ids of this process's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    /// It is the machine's own.
    All,
    Some,
    One,
}

static HERE: OnceLock<Ids> = OnceLock::new();

/// Has owners and devices written down although this process is in no user namespace with one id: it may not give files
/// away. Before anything is asked for.
pub fn record() {
    // Who has asked already knows the same, or is root.
    let _ = HERE.set(Ids::One);
    LIMITED.store(true, Ordering::Relaxed);
}

static LIMITED: AtomicBool = AtomicBool::new(false);

/// Whether modes count for this process: it has no capability over its own files.
pub fn limited() -> bool {
    LIMITED.load(Ordering::Relaxed)
}

fn ids_here() -> Ids {
    *HERE.get_or_init(|| {
        let mut map = [0; 256];
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let read = rustix::fs::open("/proc/self/uid_map", flags, Mode::empty())
            .and_then(|file| rustix::io::read(&file, &mut map));
        let map = map.get(..read.unwrap_or(0)).unwrap_or_default();
        ids_of(&String::from_utf8_lossy(map))
    })
}

fn ids_of(map: &str) -> Ids {
    let mut lines = map.lines();
    let mut first = lines.next().unwrap_or_default().split_whitespace();
    match (first.nth(2), lines.next()) {
        (Some("1"), None) => Ids::One,
        // Kernels without user namespaces have no such file.
        (Some("4294967295") | None, None) => Ids::All,
        _ => Ids::Some,
    }
}

/// Whether a file can be given this owner here, in the kernel or in writing.
pub fn is_possible(uid: u32, gid: u32) -> bool {
    if ids_here() != Ids::Some {
        return true;
    }
    let has = |map: &str, id: u32| {
        let map = std::fs::read_to_string(map).unwrap_or_default();
        has_id(&map, id)
    };
    has("/proc/self/uid_map", uid) && has("/proc/self/gid_map", gid)
}

fn has_id(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

/// What a file is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Record {
    pub uid: u32,
    pub gid: u32,
    /// Kind and `makedev(major, minor)`.
    pub device: Option<(Kind, u64)>,
}

impl Record {
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

/// What names stand for; most have the common owner.
#[derive(Debug, Default, PartialEq, Eq)]
struct Links {
    common: (u32, u32),
    others: BTreeMap<Vec<u8>, Record>,
}

impl Links {
    fn common(&self) -> Record {
        Record::owner(self.common.0, self.common.1)
    }

    fn get(&self, name: &[u8]) -> Record {
        self.others
            .get(name)
            .copied()
            .unwrap_or_else(|| self.common())
    }

    fn set(&mut self, name: &[u8], record: Record) {
        if record == self.common() {
            self.others.remove(name);
        } else {
            self.others.insert(name.to_vec(), record);
        }
    }

    /// Makes the most frequent owner the common one, and forgets names that are gone.
    fn shorten(&mut self, names: &[Vec<u8>]) {
        let records: Vec<(&Vec<u8>, Record)> =
            names.iter().map(|name| (name, self.get(name))).collect();
        let mut counts: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        for (_, record) in &records {
            *counts.entry((record.uid, record.gid)).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        let mut short = Self {
            common: most.map_or((0, 0), |(owner, _)| owner),
            others: BTreeMap::new(),
        };
        for (name, record) in records {
            short.set(name, record);
        }
        *self = short;
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |number: &[u8]| bytes.extend_from_slice(number);
        put(&self.common.0.to_le_bytes());
        put(&self.common.1.to_le_bytes());
        for (name, record) in &self.others {
            put(&record.uid.to_le_bytes());
            put(&record.gid.to_le_bytes());
            let (kind, device) = match record.device {
                None => (0, 0),
                Some((Kind::BlockDevice, device)) => (2, device),
                Some((_, device)) => (1, device),
            };
            put(&[kind]);
            if kind != 0 {
                put(&device.to_le_bytes());
            }
            // Names have at most 255 bytes.
            put(&[name.len() as u8]);
            put(name);
        }
        bytes
    }

    /// What cannot be read is left out.
    fn parse(mut value: &[u8]) -> Self {
        let mut links = Self::default();
        let Some(common) = take_owner(&mut value) else {
            return links;
        };
        links.common = common;
        while let Some((name, record)) = take_link(&mut value) {
            links.others.insert(name, record);
        }
        links
    }
}

fn take_owner(bytes: &mut &[u8]) -> Option<(u32, u32)> {
    let mut take = || {
        let (number, rest) = bytes.split_first_chunk::<4>()?;
        *bytes = rest;
        Some(u32::from_le_bytes(*number))
    };
    Some((take()?, take()?))
}

fn take_link(bytes: &mut &[u8]) -> Option<(Vec<u8>, Record)> {
    let (uid, gid) = take_owner(bytes)?;
    let (kind, mut rest) = bytes.split_first()?;
    let device = match kind {
        0 => None,
        kind => {
            let (number, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            let kind = if *kind == 2 {
                Kind::BlockDevice
            } else {
                Kind::CharDevice
            };
            Some((kind, u64::from_le_bytes(*number)))
        }
    };
    let (length, rest) = rest.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    *bytes = rest;
    Some((name.to_vec(), Record { uid, gid, device }))
}

/// Makes of entries that were scanned with their records what the records say: devices, and with `owners` those.
pub(crate) fn apply(entries: &mut [Entry], owners: bool) {
    let mut directories: BTreeMap<Vec<u8>, Links> = BTreeMap::new();
    for entry in entries.iter_mut() {
        let mut record = None;
        entry.xattrs.retain(|(name, value)| {
            if name == OWNER.as_bytes() {
                record = Record::parse(value);
            } else if name == LINKS.as_bytes() {
                directories.insert(entry.path.clone(), Links::parse(value));
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
    fn maps_say_which_ids_there_are() {
        assert_eq!(ids_of("         0       1000          1\n"), Ids::One);
        assert_eq!(ids_of("         0          0 4294967295\n"), Ids::All);
        assert_eq!(ids_of("0 1000 1\n1 100000 65536\n"), Ids::Some);
        assert_eq!(ids_of("0 100000 65536\n"), Ids::Some);
        assert_eq!(ids_of(""), Ids::All);
    }

    #[test]
    fn owners_are_read_back() {
        assert_eq!(Record::parse(b"1000:50"), Some(Record::owner(1000, 50)));
        for nonsense in ["", "1", "1:", ":1", "1:2:3", "-1:2"] {
            assert_eq!(Record::parse(nonsense.as_bytes()), None, "{nonsense}");
        }
    }

    #[test]
    fn long_lists_of_links_get_a_common_owner() {
        let mut links = Links::default();
        let names: Vec<Vec<u8>> = (0..500)
            .map(|number| format!("link-{number}").into_bytes())
            .collect();
        for name in names.iter().skip(2) {
            links.set(name, Record::owner(1000, 1000));
        }
        let device = Record {
            uid: 1000,
            gid: 1000,
            device: Some((Kind::BlockDevice, 2048)),
        };
        links.set(b"link-7", device);
        links.set(b"gone", Record::owner(7, 7));
        assert!(links.encode().len() > LONG_BYTES);
        links.shorten(&names);
        assert!(links.encode().len() < 100);
        let read = Links::parse(&links.encode());
        assert_eq!(read, links);
        assert_eq!(read.get(b"link-0"), Record::default());
        assert_eq!(read.get(b"link-499"), Record::owner(1000, 1000));
        assert_eq!(read.get(b"link-7"), device);
        assert_eq!(Links::parse(b"short"), Links::default());
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
