//! Device nodes for root of a user namespace, made by the machine's root: as the caller's, where the caller could make a
//! file, and only on mounts that are the sandbox's own. Nothing in there opens them; layers have them.

use std::os::fd::AsFd as _;

use rustix::fs::{FileType, Mode, RawMode};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::answer::{Answering, Result};
use super::target::{Named, Status, Target};
use crate::mapped::FileIds;
use crate::sandbox::in_root::mount_id;
use crate::sys::{self, notify::Reply};

impl Answering {
    /// `status`: the caller's; its ids are the machine's.
    pub(super) fn make_device(
        &self,
        target: &Target<'_>,
        named: &Named,
        status: &Status,
        (mode, device): (RawMode, u64),
    ) -> Result<Reply> {
        let kind = FileType::from_raw_mode(mode);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        // What it may not do, and what the kernel is to say something else of, is the kernel's. 0:0 would remove what
        // lies below it.
        if !is_device || !status.may_make_devices || device == 0 {
            return Ok(Reply::Continue);
        }
        let Ok((parent, name)) = target.parent(named) else {
            return Ok(Reply::Continue);
        };
        if !self.own_mounts.contains(&mount_id(parent.as_fd())?) {
            return Err(Errno::PERM);
        }
        status.take_umask();
        let caller = CapabilitySet::from_bits_retain(status.capabilities);
        let _ids = FileIds::take_with((status.uid, status.gid), caller)?;
        let bits = Mode::from_raw_mode(mode & 0o7777);
        let device = sys::caller::device_number(device);
        rustix::fs::mknodat(&parent, name.as_slice(), kind, bits, device)?;
        Ok(Reply::Value(0))
    }
}
