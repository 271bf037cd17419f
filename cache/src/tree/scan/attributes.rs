//! Extended attributes: which are content, and which are overlay's marks.

use std::io;

use crate::owners;
use crate::root_dir::{read_growing, split_names};
use crate::tree::Entry;

/// Overlay's marks on a directory.
#[derive(Clone, Copy, Default)]
pub(super) struct Marks {
    pub(super) opaque: bool,
    /// Empty files with a `*.overlay.whiteout` attribute in here are whiteouts (`opaque=x`, Linux 6.7).
    pub(super) xattr_whiteouts: bool,
    /// Of a file: it has that attribute.
    pub(super) whiteout: bool,
    /// What is made in here gets attributes that nobody gave it.
    pub(super) inherited: bool,
}

/// Fills in the attributes that are content; returns overlay's marks among the others.
pub(super) fn xattrs_of(
    entry: &mut Entry,
    list: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
    mut get: impl FnMut(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Marks> {
    let mut marks = Marks::default();
    let Some(names) = read_growing(list)? else {
        return Ok(marks);
    };
    for name in split_names(&names) {
        match overlay_mark(&name) {
            Some(b"opaque") => match read_growing(|buffer| get(&name, buffer))?.as_deref() {
                Some(b"y") => marks.opaque = true,
                Some(b"x") => marks.xattr_whiteouts = true,
                _ => {}
            },
            Some(b"whiteout") => marks.whiteout = true,
            Some(_) => {}
            None if is_content_xattr(&name) || is_record(&name) => {
                // Gone between list and get: as if never listed.
                if let Some(value) = read_growing(|buffer| get(&name, buffer))? {
                    entry.xattrs.push((name, value));
                }
            }
            None => {}
        }
    }
    entry.xattrs.sort();
    Ok(marks)
}

/// What [`owners::apply`] is to see.
fn is_record(name: &[u8]) -> bool {
    name.starts_with(owners::PREFIX) && owners::devices_recorded()
}

/// What follows `user.overlay.` or `trusted.overlay.`.
fn overlay_mark(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(b"user.overlay.")
        .or_else(|| name.strip_prefix(b"trusted.overlay."))
}

/// True for attributes that belong to the file's content and mean the same on any machine: the user's own, ACLs
/// and file capabilities. Not: labels and measurements of the host's security modules, `trusted.*` (which only
/// root sees), overlay's marks, owners that are written down.
pub fn is_content_xattr(name: &[u8]) -> bool {
    if overlay_mark(name).is_some() || name.starts_with(owners::PREFIX) {
        return false;
    }
    name.starts_with(b"user.")
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
}
