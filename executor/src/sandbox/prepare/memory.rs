//! Files in memory, which are mounted where a command looks for them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::setup;
use crate::mapped::Mapped;
use crate::sandbox::{ExecError, mounts};

/// Files in memory: a detached tmpfs.
pub(super) struct Files {
    pub(super) tree: OwnedFd,
    /// Where they are given to ids of a user namespace.
    pub(super) mapped: Option<Arc<Mapped>>,
}

impl Files {
    pub(super) fn new(mapped: Option<Arc<Mapped>>) -> Result<Self, ExecError> {
        let make = |options: &[(&str, &str)]| {
            mounts::make(
                "tmpfs",
                options,
                mounts::NO_SUID | mounts::NO_DEV | mounts::NO_EXEC,
            )
        };
        // Secrets are not to be swapped out either; only newer kernels can promise it.
        let tree = make(&[("mode", "0755"), ("noswap", "")])
            .or_else(|_| make(&[("mode", "0755")]))
            .map_err(|errno| setup("make files in memory", std::io::Error::from(errno)))?;
        Ok(Self { tree, mapped })
    }

    /// Who somebody of the command's is here; an id that there is not is nobody's, as root's is in there.
    pub(super) fn owner(&self, owner: (u32, u32)) -> (u32, u32) {
        match &self.mapped {
            None => owner,
            Some(mapped) => mapped.inside().ids().outside(owner).unwrap_or((0, 0)),
        }
    }

    pub(super) fn add(
        &mut self,
        name: &str,
        content: &[u8],
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<(), ExecError> {
        self.write(name, content, mode, (uid, gid))
            .map_err(|error| setup(format!("make the file `{name}` in memory"), error))
    }

    fn write(
        &self,
        name: &str,
        content: &[u8],
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> std::io::Result<()> {
        use std::io::Write;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.tree, name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = std::fs::File::from(fd);
        file.write_all(content)?;
        let (uid, gid) = self.owner((uid, gid));
        if (uid, gid) != (0, 0) {
            match rbuild_cache::owners::set(file.as_fd(), uid, gid) {
                // Memory keeps no attributes before Linux 6.6; the file is then shown as root's.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                result => result?,
            }
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(())
    }
}
