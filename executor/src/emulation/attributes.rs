//! Calls about extended attributes: ours are nobody's to see or set, and access control lists may name users that the
//! kernel does not know.

use std::os::fd::{AsFd as _, OwnedFd};

use rbuild_cache::owners::{self, Record, acl};
use rustix::fs::{FileType, Stat, XattrFlags};
use rustix::io::Errno;

use super::Scope;
use super::answer::{Answering, Result};
use super::credentials::Credentials;
use super::target::{At, Target, name_of};
use crate::sys::notify::Reply;

/// The longest value and the longest list of names.
const MOST_BYTES: usize = 64 << 10;
const GROUP_BITS: u32 = 0o070;

impl Answering {
    /// `name`, `value`, `size` and `flags` as in `setxattr`.
    pub(super) fn set_attribute(
        &self,
        target: &Target<'_>,
        at: impl FnOnce() -> Result<At>,
        [name, value, size, flags]: [u64; 4],
    ) -> Result<Reply> {
        let name = target.string(name)?;
        if name.to_bytes().starts_with(owners::PREFIX) {
            return Err(Errno::OPNOTSUPP);
        }
        if self.scope != Scope::Owners || !acl::is_acl(name.to_bytes()) || size > MOST_BYTES as u64
        {
            return Ok(Reply::Continue);
        }
        let value = target.bytes(value, size as usize)?;
        let spelled = acl::spelled(name.to_bytes(), &value);
        if *spelled == *value {
            return Ok(Reply::Continue);
        }
        let Ok(node) = self.node(target, &at()?) else {
            return Ok(Reply::Continue);
        };
        let flags = XattrFlags::from_bits_retain(flags as u32);
        rustix::fs::setxattr(name_of(node.as_fd()).as_str(), &name, &spelled, flags)?;
        Ok(Reply::Value(0))
    }

    /// `name`, `value` and `size` as in `getxattr`.
    pub(super) fn get_attribute(
        &self,
        target: &Target<'_>,
        at: impl FnOnce() -> Result<At>,
        [name, buffer, size]: [u64; 3],
    ) -> Result<Reply> {
        let name = target.string(name)?;
        if name.to_bytes().starts_with(owners::PREFIX) {
            return Err(Errno::NODATA);
        }
        if !acl::is_acl(name.to_bytes()) {
            return Ok(Reply::Continue);
        }
        let Ok(node) = self.node(target, &at()?) else {
            return Ok(Reply::Continue);
        };
        match acl::read_at(name_of(node.as_fd()).as_str(), name.to_bytes()) {
            Ok(Some(value)) => tell(target, &value, (buffer, size)),
            _ => Ok(Reply::Continue),
        }
    }

    /// Ours cannot be removed; who may remove others is found elsewhere.
    pub(super) fn remove_attribute(target: &Target<'_>, name: u64) -> Result<Reply> {
        if target.string(name)?.to_bytes().starts_with(owners::PREFIX) {
            return Err(Errno::NODATA);
        }
        Ok(Reply::Continue)
    }

    /// The names of attributes, without ours.
    pub(super) fn list(
        &self,
        target: &Target<'_>,
        at: &At,
        buffer: u64,
        size: u64,
    ) -> Result<Reply> {
        let Ok(node) = self.node(target, at) else {
            return Ok(Reply::Continue);
        };
        let mut names = vec![0; MOST_BYTES];
        let path = name_of(node.as_fd());
        let Ok(length) = rustix::fs::listxattr(path.as_str(), &mut names) else {
            return Ok(Reply::Continue);
        };
        let all = names.get(..length).unwrap_or_default();
        let mut shown = Vec::with_capacity(all.len());
        for name in all.split_inclusive(|byte| *byte == 0) {
            if !name.starts_with(owners::PREFIX) {
                shown.extend_from_slice(name);
            }
        }
        if shown.len() == all.len() {
            return Ok(Reply::Continue);
        }
        tell(target, &shown, (buffer, size))
    }
}

/// Writes a value where there is room for it; asked with no room, tells how long it is.
fn tell(target: &Target<'_>, value: &[u8], (buffer, size): (u64, u64)) -> Result<Reply> {
    if size != 0 {
        if value.len() as u64 > size {
            return Err(Errno::RANGE);
        }
        target.write(buffer, value)?;
    }
    Ok(Reply::Value(value.len() as i64))
}

/// Whether permissions (4 read, 2 write, 1 execute) are granted on something, by its mode or by its list.
pub(super) fn may(
    who: &Credentials,
    wanted: u32,
    node: &OwnedFd,
    stat: &Stat,
    record: Record,
) -> bool {
    let owner = (record.uid, record.gid);
    // A list says something of owners neither, nor where nobody named has any permission.
    let has_list = ![0, owner.0].contains(&who.users.files)
        && stat.st_mode & GROUP_BITS != 0
        && FileType::from_raw_mode(stat.st_mode) != FileType::Symlink;
    let list = has_list.then(|| acl::of(name_of(node.as_fd()).as_str()));
    match list {
        Some(Ok(Some(list))) => {
            list.grants(wanted, who.users.files, owner.1, |group| who.is_in(group))
        }
        _ => who.may(wanted, stat.st_mode, owner),
    }
}
