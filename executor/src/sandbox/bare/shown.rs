//! What a command sees of the kernel where nothing can be mounted: directories with names of files of /proc, /sys and
//! /dev ([`super::names`]). Opening such a file is a call that waits for an answer, and the answer is opened here.
//!
//! Never given is a directory from outside of the root (it would be a way out), nor what is somebody else's and could be
//! changed: a descriptor is enough for root to change a mode ([`super::nodes`]).
//!
//! One thread answers all of a command's calls, so that nothing here may wait for the command.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_cache::root_dir::{Metadata, Node, Resolve};
use rbuild_cache::tree::Kind;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::super::in_root;
use super::caller::Caller;
use super::names::{self, Item, Names};
use super::nodes;
use super::places::Places;
use crate::emulation::{Device, Refused};
use crate::merged::StandIns;
use crate::sys::{
    self,
    notify::{Call, Reply},
};

const MOST_LISTS: usize = 256;

/// What a command finds at which names, and the answers.
#[derive(Debug)]
pub(crate) struct Shown {
    tree: OwnedFd,
    /// Where it is, for this process.
    shown_as: PathBuf,
    names: Names,
    made_lists: AtomicUsize,
    /// Where nothing is to be changed. What is there is the command's own, and nobody else's: this spares it to find out
    /// later that it was lost.
    read_only: Vec<PathBuf>,
    devices: Arc<StandIns>,
    /// Where it is written down that a device could not be made.
    pub(in crate::sandbox) refused: Refused,
}

/// Whose numbers calls have that are asked about files.
const NATIVE: u32 = if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else {
    0xc000_003e
};

impl Shown {
    pub(super) fn new(
        places: &mut Places,
        tree: BorrowedFd<'_>,
        devices: Arc<StandIns>,
    ) -> io::Result<Self> {
        Ok(Self {
            tree: tree.try_clone_to_owned()?,
            shown_as: places.shown_as().to_owned(),
            names: Names::put(places, tree)?,
            made_lists: AtomicUsize::new(0),
            read_only: Vec::new(),
            devices,
            refused: Refused::default(),
        })
    }

    /// The command's null device.
    pub(super) fn null(&self) -> io::Result<OwnedFd> {
        self.names.null()
    }

    /// Tells the command what is mounted, as it were.
    pub(super) fn mounted(&mut self, more: &[(PathBuf, &'static str, bool)]) -> io::Result<()> {
        let usual = names::MOUNTED.iter();
        let usual = usual.map(|(path, kind, read_only)| (PathBuf::from(path), *kind, *read_only));
        let [mounts, info] = &mut self.names.tables;
        for (index, (path, kind, read_only)) in usual.chain(more.iter().cloned()).enumerate() {
            let mut point = Vec::new();
            for byte in path.as_os_str().as_bytes() {
                match byte {
                    b' ' | b'\t' | b'\n' | b'\\' => write!(point, "\\{byte:03o}")?,
                    byte => point.push(*byte),
                }
            }
            let point = String::from_utf8_lossy(&point);
            let access = if read_only { "ro" } else { "rw" };
            writeln!(mounts, "{kind} {point} {kind} {access} 0 0")?;
            let (id, above) = (index + 2, if index == 0 { 1 } else { 2 });
            writeln!(
                info,
                "{id} {above} 0:{id} / {point} {access} - {kind} {kind} {access}"
            )?;
            if read_only {
                self.read_only.push(path);
            }
        }
        Ok(())
    }

    pub(crate) fn answer(&self, listener: BorrowedFd<'_>, call: &Call) -> Reply {
        let number = i64::from(call.number);
        let [a, b, c, d, ..] = call.arguments;
        let is_native = call.machine == NATIVE;
        let caller = Caller {
            pid: call.pid,
            listener,
            call: call.id,
        };
        #[cfg(target_arch = "x86_64")]
        let by_name = match number {
            libc::SYS_open => Some(self.open(&caller, libc::AT_FDCWD, a, b as u32)),
            libc::SYS_mknod => Some(self.make_device(&caller, libc::AT_FDCWD, a, (b as u32, c))),
            libc::SYS_mkdir => Some(self.make_directory(&caller, libc::AT_FDCWD, a)),
            libc::SYS_readlink => Some(self.read_link(&caller, libc::AT_FDCWD, a, (b, c))),
            _ => None,
        };
        #[cfg(not(target_arch = "x86_64"))]
        let by_name = None;
        let result = match number {
            _ if !is_native => Ok(Reply::Continue),
            _ if by_name.is_some() => by_name.unwrap_or(Ok(Reply::Continue)),
            libc::SYS_openat => self.open(&caller, a as i32, b, c as u32),
            libc::SYS_openat2 => match caller.bytes(c, HOW_BYTES) {
                Ok(how) if d >= HOW_BYTES as u64 => self.open_how(&caller, a as i32, b, &how),
                _ => Ok(Reply::Continue),
            },
            libc::SYS_mknodat => self.make_device(&caller, a as i32, b, (c as u32, d)),
            libc::SYS_mkdirat => self.make_directory(&caller, a as i32, b),
            libc::SYS_chroot => self.chroot(&caller, a),
            libc::SYS_readlinkat => self.read_link(&caller, a as i32, b, (c, d)),
            _ => Ok(Reply::Continue),
        };
        let reply = result.unwrap_or_else(|errno| Reply::Error(errno.raw_os_error()));
        // What was read may have been another process's, if this one died meanwhile.
        if sys::notify::is_valid(listener, call.id) {
            reply
        } else {
            Reply::Continue
        }
    }

    /// For who would be root with the capability: a device in the layer, and for commands something that nobody can open.
    /// Which there can be is said in [`crate::emulation`]'s `devices`.
    fn make_device(
        &self,
        caller: &Caller<'_>,
        at: i32,
        path: u64,
        (mode, device): (u32, u64),
    ) -> Result<Reply, Errno> {
        let kind = match FileType::from_raw_mode(mode) {
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            _ => return Ok(Reply::Continue),
        };
        // 0:0 would say of what lies below it that it is gone.
        let (uid, gid, umask) = caller.making()?;
        if uid != 0 || device == 0 {
            return Err(Errno::PERM);
        }
        let path = self.path(caller, at, path).ok_or(Errno::NOENT)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::EXIST);
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent = in_root::open(self.tree.as_fd(), parent, flags)?;
        let failed = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let number = sys::caller::device_number(device);
        let in_dev = in_root::shown_path(parent.as_fd())?.starts_with(self.shown_as.join("dev"));
        if !in_dev {
            self.refused.unless_default(Device { kind, number })?;
        }
        let made = self.devices.make(parent.as_fd(), name, (kind, number));
        let made = made.map_err(failed)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        // The command may have put something else there meanwhile.
        if Metadata::of_fd(node.as_fd()).map_err(failed)?.inode != made.inode {
            return Err(Errno::AGAIN);
        }
        let node = Node::from_fd(node);
        node.set_owner(uid, gid).map_err(failed)?;
        node.set_mode(mode & 0o7777 & !umask).map_err(failed)?;
        Ok(Reply::Value(0))
    }

    /// The root can be made the root: it is.
    fn chroot(&self, caller: &Caller<'_>, path: u64) -> Result<Reply, Errno> {
        let path = self.path(caller, libc::AT_FDCWD, path).ok_or(Errno::PERM)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let found = in_root::open(self.tree.as_fd(), &path, flags)?;
        let of = |fd: &OwnedFd| Metadata::of_fd(fd.as_fd()).map(|it| (it.file_system, it.inode));
        match (of(&found), of(&self.tree)) {
            (Ok(found), Ok(root)) if found == root => Ok(Reply::Value(0)),
            _ => Err(Errno::PERM),
        }
    }

    /// What resolving is to keep to holds for names, and these lead nowhere: only where a path begins makes a difference.
    fn open_how(
        &self,
        caller: &Caller<'_>,
        at: i32,
        path: u64,
        how: &[u8],
    ) -> Result<Reply, Errno> {
        let begins_elsewhere = ResolveFlags::IN_ROOT | ResolveFlags::BENEATH;
        let resolve = how.get(16..).map_or(0, word);
        let is_absolute = || caller.bytes(path, 1).is_ok_and(|first| first == b"/");
        if resolve & begins_elsewhere.bits() as u32 != 0 && is_absolute() {
            return Ok(Reply::Continue);
        }
        self.open(caller, at, path, word(how))
    }

    fn open(&self, caller: &Caller<'_>, at: i32, path: u64, flags: u32) -> Result<Reply, Errno> {
        let flags = OFlags::from_bits_retain(flags);
        // Who makes a file that must not be there gets none of ours.
        let is_new = flags.contains(OFlags::CREATE | OFlags::EXCL);
        if flags.contains(OFlags::PATH) || is_new {
            return Ok(Reply::Continue);
        }
        let follow = !flags.contains(OFlags::NOFOLLOW);
        let Some(item) = self.item(caller, at, path, follow) else {
            let opens = flags & OFlags::RWMODE == OFlags::RDONLY && !flags.contains(OFlags::TRUNC);
            if !opens || flags.contains(OFlags::CREATE) {
                self.refuse_read_only(caller, at, path, opens)?;
            }
            return Ok(Reply::Continue);
        };
        let fd = self.give(caller, &item, flags)?;
        Ok(match fd {
            Some(fd) => Reply::Descriptor {
                fd,
                flags: (flags & OFlags::CLOEXEC).bits(),
            },
            None => Reply::Continue,
        })
    }

    fn make_directory(&self, caller: &Caller<'_>, at: i32, path: u64) -> Result<Reply, Errno> {
        self.refuse_read_only(caller, at, path, true)?;
        Ok(Reply::Continue)
    }

    /// `opens`: what is there already is not changed.
    fn refuse_read_only(
        &self,
        caller: &Caller<'_>,
        at: i32,
        path: u64,
        opens: bool,
    ) -> Result<(), Errno> {
        let Some(path) = self.path(caller, at, path) else {
            return Ok(());
        };
        let found = in_root::open(self.tree.as_fd(), &path, OFlags::PATH);
        let found = match (found, path.parent()) {
            (Ok(_), _) if opens => return Ok(()),
            (Err(Errno::NOENT), Some(parent)) => {
                in_root::open(self.tree.as_fd(), parent, OFlags::PATH)
            }
            (found, _) => found,
        };
        let Ok(found) = found else {
            return Ok(());
        };
        let at = in_root::shown_path(found.as_fd())?;
        let is_within = |at: &Path| self.read_only.iter().any(|it| at.starts_with(it));
        match self.inside(&at) {
            Some(at) if is_within(&at) => Err(Errno::ROFS),
            _ => Ok(()),
        }
    }

    /// What a name stands for, where it is one of ours.
    fn item(&self, caller: &Caller<'_>, at: i32, path: u64, follow: bool) -> Option<Item> {
        let path = self.path(caller, at, path)?;
        let mut how = OFlags::PATH;
        if !follow {
            how |= OFlags::NOFOLLOW;
        }
        match in_root::open(self.tree.as_fd(), &path, how) {
            Ok(found) => self.names.of(&found),
            Err(Errno::NOENT) => self.unnamed(&path),
            Err(_) => None,
        }
    }

    /// What a call names, from the command's root on.
    fn path(&self, caller: &Caller<'_>, at: i32, path: u64) -> Option<PathBuf> {
        let path = caller.string(path).ok()?;
        let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
        if path.as_os_str().is_empty() {
            return None;
        }
        if path.is_absolute() {
            return Some(path.to_owned());
        }
        let base = if at == libc::AT_FDCWD {
            caller.link("cwd")
        } else {
            caller.link(&format!("fd/{at}"))
        };
        Some(self.inside(&base.ok()?)?.join(path))
    }

    /// Descriptors that have no name.
    fn unnamed(&self, path: &Path) -> Option<Item> {
        let number = path.file_name()?.to_str()?.parse().ok()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent = in_root::open(self.tree.as_fd(), path.parent()?, flags).ok()?;
        (self.names.of(&parent)? == Item::Descriptors && number >= 0)
            .then_some(Item::Descriptor(number))
    }

    /// A path of this process's as the command has it.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.shown_as).ok()?;
        Some(Path::new("/").join(below))
    }

    /// Where a link leads for the command.
    fn seen(&self, target: PathBuf) -> PathBuf {
        let ours = self.inside(&target).or_else(|| nodes::shown(&target));
        ours.unwrap_or(target)
    }

    /// `None`: it is the kernel's to open.
    fn give(
        &self,
        caller: &Caller<'_>,
        item: &Item,
        flags: OFlags,
    ) -> Result<Option<OwnedFd>, Errno> {
        let usual = flags & (OFlags::RWMODE | OFlags::APPEND | OFlags::NONBLOCK);
        let usual = usual | OFlags::CLOEXEC | OFlags::NOCTTY;
        if flags.contains(OFlags::DIRECTORY) && *item != Item::Descriptors && *item != Item::Own {
            return Err(Errno::NOTDIR);
        }
        let reads = flags & OFlags::RWMODE == OFlags::RDONLY;
        match item {
            Item::Device(index) => {
                let device = self.names.devices.get(*index).ok_or(Errno::NODEV)?;
                nodes::open(device, usual).map(Some)
            }
            Item::Terminal => caller.terminal(usual).map(Some),
            Item::Machine(_) | Item::Network(_) if !reads => Err(Errno::ACCESS),
            Item::Machine(path) => {
                let file = rustix::fs::open(path, usual, Mode::empty())?;
                let name = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
                nodes::copy(file, name).map(Some)
            }
            Item::Network(name) => {
                let path = Path::new("/proc")
                    .join(caller.process()?.to_string())
                    .join(name);
                nodes::copy(caller.open(name, usual)?, &path).map(Some)
            }
            Item::Process(name) if !reads && !names::WRITTEN.contains(name) => Err(Errno::ACCESS),
            Item::Process(name) => caller.open(name, usual).map(Some),
            Item::Link("exe") if reads => caller.open("exe", usual).map(Some),
            Item::Link(_) => Err(Errno::ACCESS),
            Item::Descriptor(number) => self.reopen(caller, *number, usual, reads).map(Some),
            Item::Descriptors if reads => self.list(caller).map(Some),
            Item::Descriptors | Item::Own => Ok(None),
        }
    }

    /// What one of the caller's descriptors stands for, opened again by the caller's rights. That of a FIFO waits for
    /// nobody, and what somebody has a lease on cannot be opened.
    fn reopen(
        &self,
        caller: &Caller<'_>,
        number: i32,
        flags: OFlags,
        reads: bool,
    ) -> Result<OwnedFd, Errno> {
        let allowed = |it: BorrowedFd<'_>| {
            let kind = rustix::fs::fstatfs(it)?.f_type;
            // It was opened here for reading, which says nothing of what the caller may write.
            let is_kernels = kind == rustix::fs::PROC_SUPER_MAGIC || kind == SYSFS_MAGIC;
            if is_kernels && !reads {
                return Err(Errno::ACCESS);
            }
            Ok(())
        };
        let opened = caller.open_again(number, allowed, flags | OFlags::NONBLOCK)?;
        if !flags.contains(OFlags::NONBLOCK) {
            let now = rustix::fs::fcntl_getfl(&opened)?;
            rustix::fs::fcntl_setfl(&opened, now - OFlags::NONBLOCK)?;
        }
        Ok(opened)
    }

    /// A directory with links as /proc/PID/fd has them.
    fn list(&self, caller: &Caller<'_>) -> Result<OwnedFd, Errno> {
        let made = self.made_lists.fetch_add(1, Ordering::Relaxed);
        let name = (made % MOST_LISTS).to_string();
        let path = Path::new(&name);
        let failed = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        match self.names.lists.remove_tree(path, Resolve::Beneath) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        self.names
            .lists
            .create_dir(path, 0o555, Resolve::Beneath)
            .map_err(failed)?;
        for number in caller.descriptors()? {
            // It may be closed by now.
            let Ok(target) = caller.link(&format!("fd/{number}")) else {
                continue;
            };
            let target = self.seen(target);
            let link = path.join(number.to_string());
            let target = target.as_os_str().as_bytes();
            self.names
                .lists
                .symlink(target, &link, Resolve::Beneath)
                .map_err(failed)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.names.lists.as_fd(), path, flags, Mode::empty())
    }

    fn read_link(
        &self,
        caller: &Caller<'_>,
        at: i32,
        path: u64,
        (buffer, size): (u64, u64),
    ) -> Result<Reply, Errno> {
        let target = match self.item(caller, at, path, false) {
            Some(Item::Link(name)) => caller.link(name)?,
            Some(Item::Descriptor(number)) => caller.link(&format!("fd/{number}"))?,
            Some(Item::Own) => PathBuf::from(caller.process()?.to_string()),
            _ => return Ok(Reply::Continue),
        };
        let target = self.seen(target);
        let bytes = target.as_os_str().as_bytes();
        let length = bytes.len().min(size as usize);
        if length == 0 {
            return Err(Errno::INVAL);
        }
        caller.write(buffer, bytes.get(..length).unwrap_or_default())?;
        Ok(Reply::Value(length as i64))
    }
}

/// Of `struct open_how`: flags, mode, and how to resolve, 64 bits each.
const HOW_BYTES: usize = 24;
const SYSFS_MAGIC: rustix::fs::FsWord = 0x6265_6572;

fn word(bytes: &[u8]) -> u32 {
    let word = bytes.first_chunk().copied().unwrap_or_default();
    u32::from_ne_bytes(word)
}
