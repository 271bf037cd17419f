//! Device nodes for root of a user namespace, which the kernel lets nobody make there.
//!
//! Where the machine's root is there to make them, it does: as the caller's, where the caller could make a file, and only
//! on mounts that are the sandbox's own. Nothing in there opens them; layers have them.
//!
//! Elsewhere something stands for them. In the sandbox's own /dev and tmpfs mounts, which no layer has, that is the one
//! node which everybody may make, 0:0: it can be opened by nobody either. In layers it would be a whiteout, so what
//! stands for a device there is a socket, and only for those that the command can open in its /dev anyway: an image made
//! by an ordinary user has no node of a disk or of the machine's memory.

use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, OnceLock};

use rbuild_cache::tree::Kind;
use rustix::fs::{FileType, Mode, RawMode};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::answer::{Answering, Result};
use super::target::{Named, Status, Target};
use crate::mapped::FileIds;
use crate::sandbox::in_root::mount_id;
use crate::sys::{self, notify::Reply};

/// Major and minor numbers of the character devices that a container has in its /dev (runtime specification, "Default
/// Devices"): null, zero, full, random, urandom, tty, console, ptmx.
const DEFAULT: [(u32, u32); 8] = [
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
];

/// A device by kind and number, as `mknod` takes it: `b 8:0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    pub(crate) kind: Kind,
    /// As `stat` has it.
    pub(crate) number: u64,
}

impl Device {
    fn is_default(self) -> bool {
        let number = (
            rustix::fs::major(self.number),
            rustix::fs::minor(self.number),
        );
        self.kind == Kind::CharDevice && DEFAULT.contains(&number)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind == Kind::BlockDevice {
            'b'
        } else {
            'c'
        };
        let (major, minor) = (
            rustix::fs::major(self.number),
            rustix::fs::minor(self.number),
        );
        write!(f, "{kind} {major}:{minor}")
    }
}

/// The first device that a command was refused, if one was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused(Arc<OnceLock<Device>>);

impl Refused {
    /// An error for devices that layers of ordinary users do not have.
    pub(crate) fn unless_default(&self, device: Device) -> Result<()> {
        if device.is_default() {
            return Ok(());
        }
        // Who was first is told.
        let _ = self.0.set(device);
        Err(Errno::PERM)
    }

    pub(crate) fn device(&self) -> Option<Device> {
        self.0.get().copied()
    }
}

impl Answering {
    /// Makes what stands for a device.
    pub(super) fn stand_in(
        &self,
        (parent, name): (BorrowedFd<'_>, &[u8]),
        device: Device,
        bits: Mode,
    ) -> Result<()> {
        let made = if self.own_mounts.contains(&mount_id(parent)?) {
            FileType::CharacterDevice
        } else {
            self.refused.unless_default(device)?;
            FileType::Socket
        };
        rustix::fs::mknodat(parent, name, made, bits, 0)
    }

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
