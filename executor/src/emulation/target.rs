//! The caller: its memory, what it names, who it is.
//!
//! Names are resolved by the kernel in the caller's root, from the caller's directories. All of it is the sandbox's:
//! this thread's root is the sandbox's, and /proc in there knows nothing of this process, or is not resolved for anybody.

use std::ffi::CString;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use crate::sys;

/// The longest path, with its final zero.
const PATH_BYTES: usize = 4096;
const PAGE_BYTES: u64 = 4096;
/// How many links the kernel follows for one name.
const MOST_LINKS: usize = 40;
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// The process (or thread) behind one call.
pub(super) struct Target<'a> {
    pub(super) pid: u32,
    /// The outer /proc.
    pub(super) processes: BorrowedFd<'a>,
    /// Where the call came from, and its number there: as long as that is valid, the process is this one.
    pub(super) listener: BorrowedFd<'a>,
    pub(super) call: u64,
    /// The sandbox's /proc knows this process.
    pub(super) outer_proc: bool,
}

/// A name in the caller's terms.
#[derive(Debug, Clone)]
pub(super) struct Named {
    /// As in `openat`; what it is does not matter where the path is absolute.
    pub(super) directory: i32,
    pub(super) path: CString,
}

/// What a call is about, where it is about a name.
pub(super) struct At {
    pub(super) named: Named,
    pub(super) follow: bool,
}

/// A path of a caller's memory, of which `read` gives so many bytes from an address on.
pub(crate) fn string_at(
    address: u64,
    read: impl Fn(u64, usize) -> Result<Vec<u8>, Errno>,
) -> Result<CString, Errno> {
    let mut bytes = Vec::with_capacity(256);
    let mut at = address;
    while bytes.len() < PATH_BYTES {
        // Never across the end of a page: the next one need not be there.
        let length = (PAGE_BYTES - at % PAGE_BYTES).min(256);
        let piece = read(at, length as usize)?;
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            bytes.extend_from_slice(piece.get(..end).unwrap_or_default());
            return CString::new(bytes).map_err(|_| Errno::INVAL);
        }
        bytes.extend_from_slice(&piece);
        at = at.checked_add(length).ok_or(Errno::FAULT)?;
    }
    Err(Errno::NAMETOOLONG)
}

impl Target<'_> {
    /// A string of the caller's.
    pub(super) fn string(&self, address: u64) -> Result<CString, Errno> {
        string_at(address, |at, length| self.bytes(at, length))
    }

    pub(super) fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        match sys::caller::read_memory(self.pid, address, &mut bytes) {
            Ok(read) if read == length => Ok(bytes),
            _ => Err(Errno::FAULT),
        }
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        // Never into a process that merely has the number now.
        if !sys::notify::is_valid(self.listener, self.call) {
            return Err(Errno::SRCH);
        }
        match sys::caller::write_memory(self.pid, address, bytes) {
            Ok(written) if written == bytes.len() => Ok(()),
            _ => Err(Errno::FAULT),
        }
    }

    pub(super) fn write_words(&self, address: u64, words: &[u32]) -> Result<(), Errno> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.write(address, &bytes)
    }

    /// What one of its descriptors stands for.
    pub(super) fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        if number < 0 {
            return Err(Errno::BADF);
        }
        self.process_file(&format!("fd/{number}"))
            .map_err(|errno| match errno {
                Errno::NOENT => Errno::BADF,
                errno => errno,
            })
    }

    /// One of its descriptors, as a descriptor of this process (Linux 5.6).
    pub(super) fn duplicate(&self, number: i32) -> Result<OwnedFd, Errno> {
        let leader = Numbers::parse(&self.status_text(self.pid)?).ok_or(Errno::IO)?;
        let process = Pid::from_raw(leader.process).ok_or(Errno::SRCH)?;
        let process = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
        rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())
    }

    /// The number that its process has in its own pid namespace.
    pub(super) fn own_pid(&self) -> Option<u32> {
        let text = self.status_text(self.pid).ok()?;
        let numbers = field(&text, "NStgid:")?.split_whitespace();
        numbers.last()?.parse().ok()
    }

    /// The number that a process has for this one; 0 where it is not among those that this one can see.
    pub(super) fn pid_of(&self, other: u32) -> Option<u32> {
        let depth = Numbers::parse(&self.status_text(self.pid).ok()?)?
            .inner
            .len();
        let others = Numbers::parse(&self.status_text(other).ok()?)?.inner;
        let namespace = |pid: u32| {
            let path = format!("{pid}/ns/pid");
            rustix::fs::readlinkat(self.processes, path, Vec::new())
        };
        if others.len() == depth && namespace(self.pid).ok()? != namespace(other).ok()? {
            return Some(0);
        }
        Some(
            depth
                .checked_sub(1)
                .and_then(|index| others.get(index).copied())
                .unwrap_or(0),
        )
    }

    pub(super) fn root(&self) -> Result<OwnedFd, Errno> {
        self.process_file("root")
    }

    /// The file that it executes.
    pub(super) fn program(&self) -> Result<OwnedFd, Errno> {
        self.process_file("exe")
    }

    /// Whether there is a process of this number.
    pub(super) fn is_there(&self, process: u32) -> bool {
        let flags = AtFlags::empty();
        rustix::fs::accessat(self.processes, process.to_string(), Access::EXISTS, flags).is_ok()
    }

    /// The number of its process.
    pub(super) fn process(&self) -> Result<u32, Errno> {
        let leader = Numbers::parse(&self.status_text(self.pid)?).ok_or(Errno::IO)?;
        u32::try_from(leader.process).map_err(|_| Errno::SRCH)
    }

    fn process_file(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let path = format!("{}/{name}", self.pid);
        rustix::fs::openat(self.processes, path, flags, Mode::empty())
    }

    /// Where a relative name starts.
    pub(super) fn base(&self, named: &Named) -> Result<OwnedFd, Errno> {
        if named.directory == libc::AT_FDCWD {
            self.process_file("cwd")
        } else {
            self.descriptor(named.directory)
        }
    }

    /// Opens a name. `flags` are those of `openat`.
    pub(super) fn open(&self, named: &Named, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        let path = named.path.to_bytes();
        if let Some(number) = own_descriptor(path) {
            // The sandbox's /proc does not know this thread. The link itself is the kernel's to show.
            if flags.contains(OFlags::NOFOLLOW) || !flags.contains(OFlags::PATH) {
                return Err(Errno::NOENT);
            }
            return self.descriptor(number);
        }
        if path.starts_with(b"/") {
            if let Some(own) = self.own_process(path, flags)
                && let Ok(found) = self.resolve(CWD, &own, flags, mode)
            {
                return Ok(found);
            }
            return self.resolve(CWD, &named.path, flags, mode);
        }
        let base = self.base(named)?;
        self.resolve(base.as_fd(), &named.path, flags, mode)
    }

    /// What the caller calls its own process is another to this thread, or none. For its threads the process stands.
    fn own_process(&self, path: &[u8], flags: OFlags) -> Option<CString> {
        let names: [(&[u8], &str); 3] = [
            (b"/proc/self", ""),
            (b"/proc/thread-self", ""),
            (b"/dev/fd", "/fd"),
        ];
        let mut named = names.iter();
        let (rest, place) =
            named.find_map(|(own, place)| Some((path.strip_prefix(*own)?, place)))?;
        let is_inside = rest.starts_with(b"/");
        let is_followed = rest.is_empty() && !flags.contains(OFlags::NOFOLLOW);
        if self.outer_proc || !(is_inside || is_followed) {
            return None;
        }
        let mut own = format!("/proc/{}{place}", self.own_pid()?).into_bytes();
        own.extend_from_slice(rest);
        CString::new(own).ok()
    }

    /// Where /proc knows this process, links in there would lead to what this process may see and the caller may not:
    /// to its own files, and to those of other commands.
    fn resolve(
        &self,
        base: BorrowedFd<'_>,
        path: &CString,
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, Errno> {
        if !self.outer_proc {
            return rustix::fs::openat(base, path, flags, mode);
        }
        let found = rustix::fs::openat2(base, path, flags, mode, ResolveFlags::NO_MAGICLINKS)?;
        if rustix::fs::fstatfs(&found)?.f_type == rustix::fs::PROC_SUPER_MAGIC {
            return Err(Errno::PERM);
        }
        Ok(found)
    }

    pub(super) fn node(&self, named: &Named, follow: bool) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        self.open(named, flags, Mode::empty())
    }

    /// The directory that holds a name, and the name in it.
    pub(super) fn parent(&self, named: &Named) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let (parent, name) = split(named.path.to_bytes())?;
        let parent = Named {
            directory: named.directory,
            path: parent,
        };
        let directory = self.open(&parent, DIRECTORY, Mode::empty())?;
        Ok((directory, name.to_vec()))
    }

    /// The name that one stands for which may be a link to what is not there yet.
    pub(super) fn behind(
        &self,
        (mut directory, mut name): (OwnedFd, Vec<u8>),
    ) -> Result<(OwnedFd, Vec<u8>), Errno> {
        for _ in 0..MOST_LINKS {
            let link = match rustix::fs::readlinkat(&directory, name.as_slice(), Vec::new()) {
                Ok(link) => link,
                Err(Errno::NOENT | Errno::INVAL) => return Ok((directory, name)),
                Err(errno) => return Err(errno),
            };
            if link.to_bytes().ends_with(b"/") {
                return Err(Errno::ISDIR);
            }
            let (parent, last) = split(link.to_bytes())?;
            let flags = DIRECTORY | OFlags::CLOEXEC;
            directory = self.resolve(directory.as_fd(), &parent, flags, Mode::empty())?;
            name = last.to_vec();
        }
        Err(Errno::LOOP)
    }

    pub(super) fn status(&self) -> Result<Status, Errno> {
        Status::parse(&self.status_text(self.pid)?).ok_or(Errno::IO)
    }

    fn status_text(&self, pid: u32) -> Result<String, Errno> {
        self.text_of(pid, "status")
    }

    /// What the kernel says of a process in a file of its directory, as far as it is short.
    pub(super) fn text_of(&self, pid: u32, name: &str) -> Result<String, Errno> {
        let path = format!("{pid}/{name}");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.processes, path, flags, Mode::empty())?;
        let mut text = Vec::new();
        std::fs::File::from(file)
            .take(4096)
            .read_to_end(&mut text)
            .map_err(|_| Errno::IO)?;
        // Its name may be anything, and is cut anywhere.
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Status {
    pub(super) umask: u32,
    /// Those that files get.
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) may_make_devices: bool,
    /// Files' owners give it nothing.
    pub(super) no_new_privileges: bool,
    /// Effective ones.
    pub(super) capabilities: u64,
}

impl Status {
    /// Has this thread make files as the process would.
    pub(super) fn take_umask(&self) {
        rustix::process::umask(Mode::from_raw_mode(self.umask));
    }

    fn parse(text: &str) -> Option<Self> {
        const MKNOD: u64 = 1 << 27;
        let field = |name: &str| field(text, name);
        let fourth = |name: &str| field(name)?.split_whitespace().nth(3)?.parse().ok();
        let umask = u32::from_str_radix(field("Umask:")?.trim(), 8).ok()?;
        let capabilities = u64::from_str_radix(field("CapEff:")?.trim(), 16).ok()?;
        Some(Self {
            umask,
            uid: fourth("Uid:")?,
            gid: fourth("Gid:")?,
            may_make_devices: capabilities & MKNOD != 0,
            no_new_privileges: field("NoNewPrivs:").is_some_and(|set| set.trim() == "1"),
            capabilities,
        })
    }
}

/// The numbers that a thread has.
struct Numbers {
    /// Of its process.
    process: i32,
    /// Its own, in each pid namespace from this process's down to its own.
    inner: Vec<u32>,
}

impl Numbers {
    fn parse(text: &str) -> Option<Self> {
        let inner = field(text, "NSpid:")?.split_whitespace();
        Some(Self {
            process: field(text, "Tgid:")?.trim().parse().ok()?,
            inner: inner.map(str::parse).collect::<Result<_, _>>().ok()?,
        })
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

/// The directory and the last name of a path.
fn split(mut path: &[u8]) -> Result<(CString, &[u8]), Errno> {
    while path.len() > 1
        && let Some(rest) = path.strip_suffix(b"/")
    {
        path = rest;
    }
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        None => (&b"."[..], path),
        Some(slash) => (
            path.get(..=slash).unwrap_or_default(),
            path.get(slash + 1..).unwrap_or_default(),
        ),
    };
    if matches!(name, b"" | b"." | b"..") {
        return Err(Errno::EXIST);
    }
    Ok((CString::new(parent).map_err(|_| Errno::INVAL)?, name))
}

/// The number of a descriptor that a process names by what it calls its own in /proc.
pub(super) fn own_descriptor(path: &[u8]) -> Option<i32> {
    let number = match path {
        b"/dev/stdin" => return Some(0),
        b"/dev/stdout" => return Some(1),
        b"/dev/stderr" => return Some(2),
        _ => path
            .strip_prefix(b"/dev/fd/")
            .or_else(|| path.strip_prefix(b"/proc/self/fd/"))?,
    };
    // Digits and nothing else: no path of the caller's is ever resolved in the outer /proc.
    if number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// The name of a descriptor of this process, from the directory that this thread stays in.
pub(super) fn name_of(fd: BorrowedFd<'_>) -> String {
    fd.as_raw_fd().to_string()
}

/// Opens a name in a directory itself, also if it is a link.
pub(super) fn node_at(directory: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory.as_fd(), name, flags, Mode::empty())
}

pub(super) fn name(target: &Target<'_>, directory: i32, path: u64) -> Result<Named, Errno> {
    Ok(Named {
        directory,
        path: target.string(path)?,
    })
}

pub(super) fn at(target: &Target<'_>, directory: i32, path: u64, flags: i32) -> Result<At, Errno> {
    // Kernels since 6.11 take no path for an empty one.
    let named = if path == 0 && flags & libc::AT_EMPTY_PATH != 0 {
        Named {
            directory,
            path: CString::default(),
        }
    } else {
        name(target, directory, path)?
    };
    if named.path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
        return Err(Errno::NOENT);
    }
    Ok(At {
        named,
        follow: flags & libc::AT_SYMLINK_NOFOLLOW == 0,
    })
}

pub(super) fn fd(number: u64) -> At {
    At {
        named: Named {
            directory: number as i32,
            path: CString::default(),
        },
        follow: true,
    }
}

#[cfg(test)]
mod tests {
    use super::{Numbers, Status, own_descriptor};

    #[test]
    fn a_process_is_known_by_its_status() {
        let text = "Name:\tx\nUmask:\t0027\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nCapEff:\t0000000008000000\nNoNewPrivs:\t1\n";
        let status = Status {
            umask: 0o027,
            uid: 4,
            gid: 8,
            may_make_devices: true,
            no_new_privileges: true,
            capabilities: 1 << 27,
        };
        assert_eq!(Status::parse(text), Some(status));
        assert_eq!(Status::parse("Umask:\t0022\n"), None);
    }

    #[test]
    fn a_thread_has_a_number_in_each_namespace() {
        let text = "Name:\tx\nTgid:\t70\nNgid:\t0\nNSpid:\t71\t8\t2\nNSpgid:\t70\t7\t1\n";
        let numbers = Numbers::parse(text).expect("all is there");
        assert_eq!((numbers.process, numbers.inner), (70, vec![71, 8, 2]));
        assert!(Numbers::parse("Tgid:\t70\n").is_none());
    }

    #[test]
    fn own_descriptors_are_numbers_only() {
        let own = |path: &str| own_descriptor(path.as_bytes());
        assert_eq!(own("/dev/stdout"), Some(1));
        assert_eq!(own("/dev/fd/7"), Some(7));
        assert_eq!(own("/proc/self/fd/3"), Some(3));
        for path in [
            "/proc/1/fd/3",
            "/dev/stdoutx",
            "/proc/self/fd/",
            "/proc/self/fd/../../..",
            "/proc/self/fd/3/..",
            "/proc/self/fd/99999999999",
        ] {
            assert_eq!(own(path), None, "{path}");
        }
    }
}
