//! Reads passwd and group files line by line. Files of an image are hostile: they can be links to anywhere, pipes
//! that never end, sparse files of a terabyte, or lines without an end.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use rbuild_cache::RootDir;

use super::Error;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// Longer lines are skipped. A group of many thousand members fits.
const LINE_LIMIT_BYTES: usize = 1024 * 1024;
/// Reading stops with an error here.
const FILE_LIMIT_BYTES: u64 = 64 * 1024 * 1024;

/// A line of passwd that is one.
pub(super) struct Passwd<'a> {
    pub(super) name: &'a [u8],
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: &'a [u8],
}

/// A line of group that is one.
pub(super) struct Group<'a> {
    pub(super) name: &'a [u8],
    pub(super) gid: u32,
    /// Separated by commas.
    pub(super) members: &'a [u8],
}

/// Shows the users in order until `visit` returns false. A root without the file has no users.
pub(super) fn each_user(
    root: &RootDir,
    mut visit: impl FnMut(Passwd<'_>) -> bool,
) -> Result<(), Error> {
    each_line(root, PASSWD, |line| {
        passwd_line(line).is_none_or(&mut visit)
    })
}

/// Shows the groups in order until `visit` returns false. A root without the file has no groups.
pub(super) fn each_group(
    root: &RootDir,
    mut visit: impl FnMut(Group<'_>) -> bool,
) -> Result<(), Error> {
    each_line(root, GROUP, |line| group_line(line).is_none_or(&mut visit))
}

fn passwd_line(line: &[u8]) -> Option<Passwd<'_>> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let _password = fields.next()?;
    let uid = id(fields.next()?)?;
    let gid = id(fields.next()?)?;
    let _comment = fields.next();
    let home = fields.next().unwrap_or_default();
    Some(Passwd {
        name,
        uid,
        gid,
        home,
    })
}

fn group_line(line: &[u8]) -> Option<Group<'_>> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let _password = fields.next()?;
    let gid = id(fields.next()?)?;
    let members = fields.next().unwrap_or_default();
    Some(Group { name, gid, members })
}

fn id(field: &[u8]) -> Option<u32> {
    if field.is_empty() || !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let id = std::str::from_utf8(field).ok()?.parse::<u32>().ok()?;
    (id != u32::MAX).then_some(id)
}

fn each_line(
    root: &RootDir,
    path: &'static str,
    visit: impl FnMut(&[u8]) -> bool,
) -> Result<(), Error> {
    let file = match root.open_file(Path::new(path)) {
        Ok(file) => file,
        Err(error) if rbuild_cache::root_dir::is_absence(&error) => return Ok(()),
        Err(source) => return Err(Error::Io { path, source }),
    };
    lines(file, visit).map_err(|source| Error::Io { path, source })
}

/// Trimmed lines until `visit` returns false; lines over the limit are passed over in pieces, never kept.
fn lines(file: File, mut visit: impl FnMut(&[u8]) -> bool) -> std::io::Result<()> {
    let mut reader = BufReader::new(file.take(FILE_LIMIT_BYTES));
    let mut line = Vec::new();
    let mut too_long = false;
    let mut read = 0_u64;
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            if read >= FILE_LIMIT_BYTES {
                return Err(std::io::Error::new(
                    std::io::ErrorKind::FileTooLarge,
                    format!("it is larger than {} MiB", FILE_LIMIT_BYTES >> 20),
                ));
            }
            if !too_long {
                visit(line.trim_ascii());
            }
            return Ok(());
        }
        let end = piece.iter().position(|byte| *byte == b'\n');
        let (text, used) = match end {
            Some(end) => (piece.get(..end).unwrap_or_default(), end + 1),
            None => (piece, piece.len()),
        };
        if line.len() + text.len() > LINE_LIMIT_BYTES {
            too_long = true;
            line.clear();
        }
        if !too_long {
            line.extend_from_slice(text);
        }
        reader.consume(used);
        read += used as u64;
        if end.is_some() {
            if !too_long && !visit(line.trim_ascii()) {
                return Ok(());
            }
            line.clear();
            too_long = false;
        }
    }
}
