//! Reading a directory by descriptor.

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{FileType, Mode, OFlags, RawDir};

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: OsString,
    /// As the file system told it in passing; `Unknown` where it did not.
    pub file_type: FileType,
    pub inode: u64,
}

/// Room for a few hundred entries a system call.
const BUFFER_BYTES: usize = 32 * 1024;

/// Everything in an open directory but `.` and `..`, in the order of the file system. The directory may be open
/// with `O_PATH`; its own read position is not touched.
pub fn read_dir(directory: BorrowedFd<'_>) -> io::Result<Vec<DirEntry>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(directory, c".", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
    let mut reader = RawDir::new(directory.as_fd(), &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push(DirEntry {
                name: OsStr::from_bytes(name).to_owned(),
                file_type: entry.file_type(),
                inode: entry.ino(),
            });
        }
    }
    Ok(entries)
}
