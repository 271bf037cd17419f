//! What a command is given of the machine's, so that nothing it does with it happens to the machine's own: by a
//! descriptor, whoever is root can change mode, owner and times of what was opened. Of devices the command has nodes of
//! its own, of the kernel's files copies.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;

/// No such file is larger, but tables of connections, which none then reads to their end.
const MOST_BYTES: u64 = 256 << 20;
/// How names begin, by which links of descriptors are told from those of other files.
const NODE: &str = ".rbuild-";
const COPY: &str = "rbuild:";

/// A device node that nobody else has: without a name, in the first of the directories where one can be made and opened.
/// In a container that has no such place, it is the container's own.
pub(super) fn make(places: &[PathBuf], name: &str, number: u64) -> Result<OwnedFd, Errno> {
    let own = places
        .iter()
        .find_map(|place| make_in(place, name, number).ok());
    own.map_or_else(
        || {
            let path = Path::new("/dev").join(name);
            rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        },
        Ok,
    )
}

fn make_in(place: &Path, name: &str, number: u64) -> Result<OwnedFd, Errno> {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let made = MADE.fetch_add(1, Ordering::Relaxed);
    let path = place.join(format!("{NODE}{}-{made}-{name}", std::process::id()));
    // Of a process that had this number and was killed.
    let _ = rustix::fs::unlink(&path);
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, mode, number)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node =
        rustix::fs::chmod(&path, mode).and_then(|()| rustix::fs::open(&path, flags, Mode::empty()));
    rustix::fs::unlink(&path)?;
    let node = node?;
    // On some file systems devices cannot be opened.
    open(&node, OFlags::RDONLY)?;
    Ok(node)
}

/// Opens what is known by a descriptor.
pub(super) fn open(node: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", node.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// What a file of the kernel's says now, for reading. `name`: where the command finds it.
pub(super) fn copy(file: OwnedFd, name: &Path) -> Result<OwnedFd, Errno> {
    let failed = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL;
    let name = format!("{COPY}{}", name.display());
    let copy = File::from(rustix::fs::memfd_create(name, flags)?);
    let mut file = File::from(file).take(MOST_BYTES);
    io::copy(&mut file, &mut &copy).map_err(failed)?;
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(0o444))?;
    open(&copy.into(), OFlags::RDONLY)
}

/// What a link of a descriptor says of something made here: where the command finds it.
pub(super) fn shown(target: &Path) -> Option<PathBuf> {
    let target = target.to_str()?.strip_suffix(" (deleted)")?;
    if let Some(name) = target.strip_prefix("/memfd:") {
        return name.strip_prefix(COPY).map(PathBuf::from);
    }
    let name = Path::new(target).file_name()?.to_str()?;
    let (_, name) = name.strip_prefix(NODE)?.rsplit_once('-')?;
    Some(Path::new("/dev").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_where_the_command_finds_things() {
        for (target, expected) in [
            ("/dev/.rbuild-7-0-null (deleted)", Some("/dev/null")),
            (
                "/store/tmp/1/.rbuild-7-12-urandom (deleted)",
                Some("/dev/urandom"),
            ),
            (
                "/memfd:rbuild:/proc/meminfo (deleted)",
                Some("/proc/meminfo"),
            ),
            ("/memfd:mine (deleted)", None),
            ("/dev/.rbuild-7-0-null", None),
            ("/a/b (deleted)", None),
            ("pipe:[17]", None),
        ] {
            let expected = expected.map(PathBuf::from);
            assert_eq!(shown(Path::new(target)), expected, "{target}");
        }
    }

    #[test]
    fn a_copy_says_what_the_file_said_and_is_not_it() {
        let file = File::open("/proc/version").expect("a file of the kernel's");
        let copy = copy(file.into(), Path::new("/proc/version")).expect("a copy");
        rustix::fs::fchmod(&copy, Mode::from_raw_mode(0o400)).expect("its mode is its own");
        let link = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let link = std::fs::read_link(link).expect("a descriptor");
        assert_eq!(shown(&link), Some("/proc/version".into()));
        let mut text = String::new();
        File::from(copy).read_to_string(&mut text).expect("text");
        assert_eq!(Some(text), std::fs::read_to_string("/proc/version").ok());
    }
}
