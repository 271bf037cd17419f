//! Tools for images that have none: a busybox of the host's, with a name for each thing that it can do.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use rbuild_cache::{Store, TemporaryDirectory};

use crate::{Error, Result};

const PLACES: [&str; 8] = [
    "/bin/busybox",
    "/usr/bin/busybox",
    "/sbin/busybox",
    "/usr/sbin/busybox",
    "/usr/local/bin/busybox",
    "/bin/busybox.static",
    "/usr/bin/busybox.static",
    "/usr/local/bin/busybox.static",
];

/// What people look around with. A name that a busybox lacks says so when it is called.
const NAMES: &[&str] = &[
    "[",
    "ash",
    "awk",
    "base64",
    "basename",
    "cat",
    "chmod",
    "chown",
    "chroot",
    "clear",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "diff",
    "dirname",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "file",
    "find",
    "free",
    "grep",
    "gunzip",
    "gzip",
    "head",
    "hexdump",
    "hostname",
    "id",
    "ip",
    "kill",
    "less",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mktemp",
    "more",
    "mount",
    "mv",
    "nc",
    "netstat",
    "nslookup",
    "od",
    "ping",
    "printenv",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "strings",
    "stty",
    "tail",
    "tar",
    "tee",
    "test",
    "time",
    "top",
    "touch",
    "tr",
    "tree",
    "true",
    "tty",
    "umount",
    "uname",
    "uniq",
    "unzip",
    "vi",
    "wc",
    "wget",
    "which",
    "whoami",
    "xargs",
    "xxd",
    "zcat",
];

/// A copy is made, so that nothing of the host's own is seen in there. `None` where there is none that would run.
pub(super) fn bring(store: &Store) -> Result<Option<TemporaryDirectory>> {
    let usable = |path: &&&str| File::open(path).is_ok_and(|file| stands_alone(&file));
    let Some(busybox) = PLACES.iter().find(usable) else {
        return Ok(None);
    };
    let directory = store.temporary_directory()?;
    fill(Path::new(busybox), directory.path()).map_err(|source| Error::Io {
        message: format!("cannot copy `{busybox}`"),
        source,
    })?;
    Ok(Some(directory))
}

fn fill(busybox: &Path, directory: &Path) -> std::io::Result<()> {
    let readable = || std::fs::Permissions::from_mode(0o755);
    // Whoever the step's user is.
    std::fs::set_permissions(directory, readable())?;
    let copy = directory.join("busybox");
    std::fs::copy(busybox, &copy)?;
    std::fs::set_permissions(&copy, readable())?;
    for name in NAMES {
        symlink("busybox", directory.join(name))?;
    }
    Ok(())
}

/// Whether it is a program of this machine's that needs no interpreter and no library: an ELF file without
/// `PT_INTERP`.
fn stands_alone(file: &File) -> bool {
    const HEADER_BYTES: usize = 64;
    const PT_INTERP: u32 = 3;
    let header = |file: &File| {
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, 0).ok().map(|()| bytes)
    };
    let (Some(it), Some(own)) = (
        header(file),
        File::open("/proc/self/exe")
            .ok()
            .and_then(|own| header(&own)),
    ) else {
        return false;
    };
    // Magic, class, order of bytes; and the machine.
    if it[..6] != own[..6] || it[18..20] != own[18..20] || &it[..5] != b"\x7fELF\x02" {
        return false;
    }
    let wide = |at: usize| {
        let bytes = <[u8; 8]>::try_from(it.get(at..at + 8).unwrap_or_default());
        bytes.map_or(0, u64::from_ne_bytes)
    };
    let narrow = |at: usize| {
        let bytes = <[u8; 2]>::try_from(it.get(at..at + 2).unwrap_or_default());
        bytes.map_or(0, u16::from_ne_bytes)
    };
    let (table, size, count) = (wide(32), u64::from(narrow(54)), u64::from(narrow(56)));
    let mut headers = vec![
        0;
        usize::try_from(size * count)
            .unwrap_or_default()
            .min(1 << 16)
    ];
    if size < 4 || headers.is_empty() || file.read_exact_at(&mut headers, table).is_err() {
        return false;
    }
    headers.chunks(usize::from(narrow(54))).all(|entry| {
        let kind = <[u8; 4]>::try_from(entry.get(..4).unwrap_or_default());
        kind.is_ok_and(|kind| u32::from_ne_bytes(kind) != PT_INTERP)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_needs_a_loader_does_not_stand_alone() {
        let text = tempfile();
        assert!(!stands_alone(&text));
        // The tests themselves are linked as the machine's C library has it.
        let own = File::open("/proc/self/exe").expect("this program");
        let mut bytes = Vec::new();
        let mut whole = own.try_clone().expect("a descriptor");
        whole.read_to_end(&mut bytes).expect("this program");
        let needs_loader = bytes.windows(8).any(|it| it == b"ld-linux");
        assert_eq!(stands_alone(&own), !needs_loader);
    }

    fn tempfile() -> File {
        File::open("/etc/passwd").expect("a text file")
    }
}
