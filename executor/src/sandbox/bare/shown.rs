//! What a command sees of the kernel where nothing can be mounted: directories with names of files of /proc, /sys and
//! /dev. Opening such a file is a call that waits for an answer, and the answer is the true one, opened here.
//!
//! Never given is a directory from outside of the root (it would be a way out), nor what may be written to but is
//! somebody else's.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_cache::RootDir;
use rbuild_cache::root_dir::{Metadata, Node, Resolve};
use rbuild_cache::tree::Kind;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::in_root;
use super::caller::Caller;
use super::places::{Places, is_there};
use crate::merged::StandIns;
use crate::sys::{
    self,
    notify::{Call, Reply},
};

/// Of the machine, below /proc: for reading.
const MACHINE: &[&str] = &[
    "cmdline",
    "cpuinfo",
    "devices",
    "diskstats",
    "filesystems",
    "loadavg",
    "meminfo",
    "partitions",
    "stat",
    "swaps",
    "uptime",
    "version",
    "vmstat",
    "sys/fs/file-max",
    "sys/fs/inotify/max_user_instances",
    "sys/fs/inotify/max_user_watches",
    "sys/fs/nr_open",
    "sys/fs/pipe-max-size",
    "sys/kernel/cap_last_cap",
    "sys/kernel/core_pattern",
    "sys/kernel/domainname",
    "sys/kernel/hostname",
    "sys/kernel/msgmax",
    "sys/kernel/msgmnb",
    "sys/kernel/msgmni",
    "sys/kernel/ngroups_max",
    "sys/kernel/osrelease",
    "sys/kernel/ostype",
    "sys/kernel/overflowgid",
    "sys/kernel/overflowuid",
    "sys/kernel/perf_event_paranoid",
    "sys/kernel/pid_max",
    "sys/kernel/random/boot_id",
    "sys/kernel/random/entropy_avail",
    "sys/kernel/random/poolsize",
    "sys/kernel/random/uuid",
    "sys/kernel/randomize_va_space",
    "sys/kernel/sem",
    "sys/kernel/shmall",
    "sys/kernel/shmmax",
    "sys/kernel/shmmni",
    "sys/kernel/threads-max",
    "sys/kernel/version",
    "sys/net/core/somaxconn",
    "sys/net/ipv4/ip_local_port_range",
    "sys/vm/max_map_count",
    "sys/vm/mmap_min_addr",
    "sys/vm/nr_hugepages",
    "sys/vm/overcommit_memory",
    "sys/vm/overcommit_ratio",
    "sys/vm/swappiness",
];

/// Of the machine, below /sys: for reading.
const SYSTEM: &[&str] = &[
    "devices/system/cpu/kernel_max",
    "devices/system/cpu/online",
    "devices/system/cpu/possible",
    "devices/system/cpu/present",
    "devices/system/node/online",
    "kernel/mm/transparent_hugepage/defrag",
    "kernel/mm/transparent_hugepage/enabled",
    "kernel/mm/transparent_hugepage/hpage_pmd_size",
    "kernel/mm/transparent_hugepage/shmem_enabled",
];

/// Of a process, below /proc/PID.
const PROCESS: &[&str] = &[
    "attr/current",
    "auxv",
    "cgroup",
    "cmdline",
    "comm",
    "coredump_filter",
    "environ",
    "gid_map",
    "io",
    "limits",
    "loginuid",
    "maps",
    "net/arp",
    "net/dev",
    "net/if_inet6",
    "net/route",
    "net/tcp",
    "net/tcp6",
    "net/udp",
    "net/udp6",
    "net/unix",
    "oom_adj",
    "oom_score",
    "oom_score_adj",
    "personality",
    "sched",
    "schedstat",
    "sessionid",
    "setgroups",
    "smaps",
    "smaps_rollup",
    "stat",
    "statm",
    "status",
    "timerslack_ns",
    "uid_map",
    "wchan",
];

/// Of those, the ones that it may write.
const WRITTEN: &[&str] = &["comm", "coredump_filter", "oom_adj", "oom_score_adj"];

/// As elsewhere: where, of what kind, and whether read-only.
const MOUNTED: &[(&str, &str, bool)] = &[
    ("/", "overlay", false),
    ("/proc", "proc", false),
    ("/proc/sys", "proc", true),
    ("/sys", "sysfs", true),
    ("/dev", "tmpfs", false),
    ("/dev/shm", "tmpfs", false),
];

/// Descriptors that have names which can be looked at; others can be opened all the same.
const NAMED_DESCRIPTORS: i32 = 64;
const MOST_LISTS: usize = 256;

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// What stands behind a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    /// A device that everybody may use.
    Device(CString),
    /// For reading.
    Machine(CString),
    /// Of the caller.
    Process(&'static str),
    Link(&'static str),
    Descriptor(i32),
    /// The directory of those.
    Descriptors,
    /// The caller's own directory, which elsewhere is a link.
    Own,
}

/// What a command finds at which names, and the answers.
#[derive(Debug)]
pub(crate) struct Shown {
    tree: OwnedFd,
    /// Where it is, for this process.
    shown_as: PathBuf,
    /// By device and inode number.
    items: HashMap<(u64, u64), Item>,
    /// Where lists of descriptors are made.
    lists: RootDir,
    made_lists: AtomicUsize,
    /// Mounts and mountinfo, to be written once.
    tables: [File; 2],
    /// Where nothing is to be changed. What is there is the command's own, and nobody else's: this spares it to find out
    /// later that it was lost.
    read_only: Vec<PathBuf>,
    devices: Arc<StandIns>,
    /// A pipe: see [`super::super::plan::Bare`].
    ended: OwnedFd,
}

/// Makes the three directories and puts them into the tree.
pub(super) fn put(
    places: &mut Places,
    tree: BorrowedFd<'_>,
    devices: Arc<StandIns>,
    ended: OwnedFd,
) -> io::Result<Shown> {
    let aside = places.aside()?;
    let mut items = Items {
        root: aside.try_clone()?,
        found: HashMap::new(),
    };
    items.processes()?;
    items.system()?;
    items.devices()?;
    let table = |name: &str| {
        let path = Path::new("proc/self").join(name);
        aside.create_file(&path, 0o444, Resolve::Beneath)
    };
    let tables = [table("mounts")?, table("mountinfo")?];
    let lists = aside.directory(Path::new("proc/.lists"), Resolve::Beneath)?;
    let found = items.found;
    for name in ["proc", "sys", "dev"] {
        let is_wrong =
            is_there(tree, name) && Metadata::at(tree, name.as_ref())?.kind != Kind::Directory;
        if is_wrong {
            return Err(Errno::NOTDIR.into());
        }
        places.put(&Path::new("/").join(name), name)?;
        if name != "dev" {
            places.guard()?;
        }
    }
    Ok(Shown {
        tree: tree.try_clone_to_owned()?,
        shown_as: places.shown_as().to_owned(),
        items: found,
        lists,
        made_lists: AtomicUsize::new(0),
        tables,
        read_only: Vec::new(),
        devices,
        ended,
    })
}

struct Items {
    root: RootDir,
    found: HashMap<(u64, u64), Item>,
}

impl Items {
    fn directory(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|it| !it.as_os_str().is_empty())
            .filter(|it| !self.root.exists(it, Resolve::Beneath).unwrap_or(true))
            .collect();
        for directory in missing.into_iter().rev() {
            self.root.create_dir(directory, 0o755, Resolve::Beneath)?;
        }
        Ok(())
    }

    fn note(&mut self, path: &Path, item: Item) -> io::Result<()> {
        let there = self.root.metadata(path, Resolve::Beneath)?;
        self.found.insert((there.file_system, there.inode), item);
        Ok(())
    }

    fn file(&mut self, path: &str, mode: u32, item: Item) -> io::Result<()> {
        let path = Path::new(path);
        self.directory(path.parent().unwrap_or(Path::new("")))?;
        drop(self.root.create_file(path, mode, Resolve::Beneath)?);
        self.note(path, item)
    }

    fn processes(&mut self) -> io::Result<()> {
        for name in MACHINE {
            self.outer("proc", name)?;
        }
        for name in PROCESS {
            if Path::new("/proc/self").join(name).exists() {
                let mode = if WRITTEN.contains(name) { 0o666 } else { 0o444 };
                self.file(&format!("proc/self/{name}"), mode, Item::Process(name))?;
            }
        }
        for name in ["exe", "cwd"] {
            self.file(&format!("proc/self/{name}"), 0o444, Item::Link(name))?;
        }
        let fd = Path::new("proc/self/fd");
        self.directory(fd)?;
        self.note(fd, Item::Descriptors)?;
        self.note(Path::new("proc/self"), Item::Own)?;
        for number in 0..NAMED_DESCRIPTORS {
            let path = fd.join(number.to_string());
            let (kind, resolve) = (Kind::Fifo, Resolve::Beneath);
            self.root.make_node(&path, kind, 0o600, 0, resolve)?;
            self.note(&path, Item::Descriptor(number))?;
        }
        self.directory(Path::new("proc/.lists"))?;
        for (target, path) in [
            ("/", "proc/self/root"),
            // Elsewhere that is the command, which has another number here.
            ("self", "proc/1"),
            ("self", "proc/thread-self"),
            ("self/mounts", "proc/mounts"),
            ("self/net", "proc/net"),
        ] {
            let resolve = Resolve::Beneath;
            self.root
                .symlink(target.as_bytes(), Path::new(path), resolve)?;
        }
        Ok(())
    }

    /// A file of this process's /proc or /sys, where there is one.
    fn outer(&mut self, top: &str, name: &str) -> io::Result<()> {
        let outer = format!("/{top}/{name}");
        if !Path::new(&outer).exists() {
            return Ok(());
        }
        let item = Item::Machine(CString::new(outer)?);
        self.file(&format!("{top}/{name}"), 0o444, item)
    }

    fn system(&mut self) -> io::Result<()> {
        self.directory(Path::new("sys/fs/cgroup"))?;
        for name in SYSTEM {
            self.outer("sys", name)?;
        }
        Ok(())
    }

    fn devices(&mut self) -> io::Result<()> {
        self.directory(Path::new("dev/pts"))?;
        for name in ["dev/shm", "dev/mqueue"] {
            self.root
                .create_dir(Path::new(name), 0o1777, Resolve::Beneath)?;
        }
        for (name, major, minor) in super::super::plan::DEVICES {
            let path = Path::new("dev").join(name);
            let number = rustix::fs::makedev(*major, *minor);
            let (kind, resolve) = (Kind::CharDevice, Resolve::Beneath);
            self.root.make_node(&path, kind, 0o666, number, resolve)?;
            // The node itself cannot be opened where the store's file system has none; another's terminal is not the
            // caller's.
            if DEVICES.contains(name) {
                let outer = CString::new(format!("/dev/{name}"))?;
                self.note(&path, Item::Device(outer))?;
            }
        }
        for (name, target) in super::super::plan::LINKS {
            if *name != "ptmx" {
                let path = Path::new("dev").join(name);
                self.root
                    .symlink(target.as_bytes(), &path, Resolve::Beneath)?;
            }
        }
        Ok(())
    }
}

/// Whose numbers calls have that are asked about files.
const NATIVE: u32 = if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else {
    0xc000_003e
};

impl Shown {
    /// Tells the command what is mounted, as it were.
    pub(super) fn mounted(&mut self, more: &[(PathBuf, &'static str, bool)]) -> io::Result<()> {
        let usual = MOUNTED.iter();
        let usual = usual.map(|(path, kind, read_only)| (PathBuf::from(path), *kind, *read_only));
        let [mounts, info] = &mut self.tables;
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
            libc::SYS_openat2 => match caller.bytes(c, 8) {
                // The flags come first. What resolving is to keep to holds for names, and these lead nowhere.
                Ok(flags) => self.open(&caller, a as i32, b, word(&flags)),
                Err(_) => Ok(Reply::Continue),
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

    /// Whether nothing of the command is left. Where its keeper was killed, nobody knows.
    pub(super) fn is_over(&self) -> bool {
        let told = rustix::io::read(&self.ended, &mut [0; 1][..]);
        told.is_ok_and(|length| length == 1)
    }

    /// For who would be root with the capability: a device in the layer, and for commands something that nobody can open.
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
        let device = sys::caller::device_number(device);
        let made = self.devices.make(parent.as_fd(), name, (kind, device));
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

    fn open(&self, caller: &Caller<'_>, at: i32, path: u64, flags: u32) -> Result<Reply, Errno> {
        let flags = OFlags::from_bits_retain(flags);
        if flags.contains(OFlags::PATH) {
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
            Ok(found) => self.known(&found),
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

    fn known(&self, found: &OwnedFd) -> Option<Item> {
        let it = Metadata::of_fd(found.as_fd()).ok()?;
        self.items.get(&(it.file_system, it.inode)).cloned()
    }

    /// Descriptors that have no name.
    fn unnamed(&self, path: &Path) -> Option<Item> {
        let number = path.file_name()?.to_str()?.parse().ok()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent = in_root::open(self.tree.as_fd(), path.parent()?, flags).ok()?;
        (self.known(&parent)? == Item::Descriptors && number >= 0)
            .then_some(Item::Descriptor(number))
    }

    /// A path of this process's as the command has it.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.shown_as).ok()?;
        Some(Path::new("/").join(below))
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
            Item::Device(path) => Ok(Some(rustix::fs::open(path, usual, Mode::empty())?)),
            Item::Machine(_) if !reads => Err(Errno::ACCESS),
            Item::Machine(path) => Ok(Some(rustix::fs::open(path, usual, Mode::empty())?)),
            Item::Process(name) if !reads && !WRITTEN.contains(name) => Err(Errno::ACCESS),
            Item::Process(name) => caller.open(name, usual).map(Some),
            Item::Link("exe") if reads => caller.open("exe", usual).map(Some),
            Item::Link(_) => Err(Errno::ACCESS),
            Item::Descriptor(number) => self.reopen(caller, *number, usual, reads).map(Some),
            Item::Descriptors if reads => self.list(caller).map(Some),
            Item::Descriptors | Item::Own => Ok(None),
        }
    }

    /// What one of the caller's descriptors stands for, opened again by the caller's rights.
    fn reopen(
        &self,
        caller: &Caller<'_>,
        number: i32,
        flags: OFlags,
        reads: bool,
    ) -> Result<OwnedFd, Errno> {
        let name = format!("fd/{number}");
        let it = caller.open(&name, OFlags::PATH | OFlags::CLOEXEC)?;
        let kind = rustix::fs::fstatfs(&it)?.f_type;
        // It was opened here for reading, which says nothing of what the caller may write.
        let is_kernels = kind == rustix::fs::PROC_SUPER_MAGIC || kind == SYSFS_MAGIC;
        if is_kernels && !reads {
            return Err(Errno::ACCESS);
        }
        caller.open(&name, flags)
    }

    /// A directory with links as /proc/PID/fd has them.
    fn list(&self, caller: &Caller<'_>) -> Result<OwnedFd, Errno> {
        let made = self.made_lists.fetch_add(1, Ordering::Relaxed);
        let name = (made % MOST_LISTS).to_string();
        let path = Path::new(&name);
        let failed = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        match self.lists.remove_tree(path, Resolve::Beneath) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        self.lists
            .create_dir(path, 0o555, Resolve::Beneath)
            .map_err(failed)?;
        for number in caller.descriptors()? {
            // It may be closed by now.
            let Ok(target) = caller.link(&format!("fd/{number}")) else {
                continue;
            };
            let target = self.inside(&target).unwrap_or(target);
            let link = path.join(number.to_string());
            let target = target.as_os_str().as_bytes();
            self.lists
                .symlink(target, &link, Resolve::Beneath)
                .map_err(failed)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.lists.as_fd(), path, flags, Mode::empty())
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
        let target = self.inside(&target).unwrap_or(target);
        let bytes = target.as_os_str().as_bytes();
        let length = bytes.len().min(size as usize);
        if length == 0 {
            return Err(Errno::INVAL);
        }
        caller.write(buffer, bytes.get(..length).unwrap_or_default())?;
        Ok(Reply::Value(length as i64))
    }
}

const SYSFS_MAGIC: rustix::fs::FsWord = 0x6265_6572;

fn word(bytes: &[u8]) -> u32 {
    let word = bytes.first_chunk().copied().unwrap_or_default();
    u32::from_ne_bytes(word)
}
