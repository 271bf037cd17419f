//! The directories that a command finds at /proc, /sys and /dev, and what stands behind which name in them.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rbuild_cache::RootDir;
use rbuild_cache::root_dir::{Metadata, Node, Resolve};
use rbuild_cache::tree::Kind;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::super::in_root::shown_path;
use super::super::plan;
use super::nodes;
use super::places::{Places, is_there};

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
pub(super) const WRITTEN: &[&str] = &["comm", "coredump_filter", "oom_adj", "oom_score_adj"];

/// As elsewhere: where, of what kind, and whether read-only.
pub(super) const MOUNTED: &[(&str, &str, bool)] = &[
    ("/", "overlay", false),
    ("/proc", "proc", false),
    ("/proc/sys", "proc", true),
    ("/sys", "sysfs", true),
    ("/dev", "tmpfs", false),
    ("/dev/shm", "tmpfs", false),
];

/// Descriptors that have names which can be looked at; others can be opened all the same.
const NAMED_DESCRIPTORS: i32 = 64;
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// What stands behind a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// A device that everybody may use: one of [`Names::devices`].
    Device(usize),
    /// The caller's, where it has one.
    Terminal,
    /// For reading.
    Machine(CString),
    /// Of the caller.
    Process(&'static str),
    /// Of the caller's network, which is not its own.
    Network(&'static str),
    Link(&'static str),
    Descriptor(i32),
    /// The directory of those.
    Descriptors,
    /// The caller's own directory, which elsewhere is a link.
    Own,
}

/// What stands behind names, and what is held open for that.
#[derive(Debug)]
pub(super) struct Names {
    /// By device and inode number.
    items: HashMap<(u64, u64), Item>,
    /// Of the directories among them: see [`Items::note`].
    _directories: Vec<Node>,
    pub(super) devices: Vec<OwnedFd>,
    /// Where lists of descriptors are made.
    pub(super) lists: RootDir,
    /// Mounts and mountinfo, to be written once.
    pub(super) tables: [File; 2],
}

impl Names {
    /// Makes the three directories and puts them into the tree.
    pub(super) fn put(places: &mut Places, tree: BorrowedFd<'_>) -> io::Result<Self> {
        let aside = places.aside()?;
        let mut items = Items::new(aside.try_clone()?)?;
        items.processes()?;
        items.system()?;
        items.devices()?;
        let table = |name: &str| {
            let path = Path::new("proc/self").join(name);
            aside.create_file(&path, 0o444, Resolve::Beneath)
        };
        let tables = [table("mounts")?, table("mountinfo")?];
        let lists = aside.directory(Path::new("proc/.lists"), Resolve::Beneath)?;
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
        Ok(Self {
            items: items.found,
            _directories: items.directories,
            devices: items.devices,
            lists,
            tables,
        })
    }

    /// `found`: a place of the tree.
    pub(super) fn of(&self, found: &OwnedFd) -> Option<Item> {
        let it = Metadata::of_fd(found.as_fd()).ok()?;
        self.items.get(&(it.file_system, it.inode)).cloned()
    }

    /// The null device.
    pub(super) fn null(&self) -> io::Result<OwnedFd> {
        let of_null = DEVICES.iter().position(|name| *name == "null");
        let null = of_null.and_then(|index| self.devices.get(index));
        Ok(nodes::open(null.ok_or(Errno::NODEV)?, OFlags::RDWR)?)
    }
}

/// The names while they are made.
struct Items {
    root: RootDir,
    found: HashMap<(u64, u64), Item>,
    directories: Vec<Node>,
    devices: Vec<OwnedFd>,
}

/// Further names of what is noted, outside of the tree.
const HELD: &str = "held";

impl Items {
    fn new(root: RootDir) -> io::Result<Self> {
        root.create_dir(Path::new(HELD), 0o700, Resolve::Beneath)?;
        Ok(Self {
            root,
            found: HashMap::new(),
            directories: Vec::new(),
            devices: Vec::new(),
        })
    }

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

    /// It is known by its number, which nothing else may get when the command removes it: what the command makes next
    /// would be taken for it.
    fn note(&mut self, path: &Path, item: Item) -> io::Result<()> {
        let node = self.root.node(path, Resolve::Beneath)?;
        let there = node.metadata()?;
        if there.kind == Kind::Directory {
            self.directories.push(node);
        } else {
            let held = Path::new(HELD).join(self.found.len().to_string());
            self.root.hard_link(path, &held, Resolve::Beneath)?;
        }
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
                let item = if name.starts_with("net/") {
                    Item::Network(name)
                } else {
                    Item::Process(name)
                };
                self.file(&format!("proc/self/{name}"), mode, item)?;
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
        let places = [Path::new("/dev").to_owned(), shown_path(self.root.as_fd())?];
        for (name, major, minor) in plan::DEVICES {
            let path = Path::new("dev").join(name);
            let number = rustix::fs::makedev(*major, *minor);
            let (kind, resolve) = (Kind::CharDevice, Resolve::Beneath);
            self.root.make_node(&path, kind, 0o666, number, resolve)?;
            // The node itself cannot be opened where the store's file system has none.
            if *name == "tty" {
                self.note(&path, Item::Terminal)?;
            }
            if DEVICES.contains(name) {
                self.note(&path, Item::Device(self.devices.len()))?;
                self.devices.push(nodes::make(&places, name, number)?);
            }
        }
        for (name, target) in plan::LINKS {
            if *name != "ptmx" {
                let path = Path::new("dev").join(name);
                self.root
                    .symlink(target.as_bytes(), &path, Resolve::Beneath)?;
            }
        }
        Ok(())
    }
}
