//! Errors of a sandbox's set-up: which step, and the error number. Small enough to be sent.

use std::io;

use rustix::io::Errno;

/// A step of the set-up that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) step: String,
    pub(super) errno: i32,
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

/// Names the step at which something failed.
pub(super) trait Step<T> {
    fn step(self, name: impl Into<String>) -> Result<T>;
}

impl<T> Step<T> for std::result::Result<T, Errno> {
    fn step(self, name: impl Into<String>) -> Result<T> {
        self.map_err(|errno| Failure {
            step: name.into(),
            errno: errno.raw_os_error(),
        })
    }
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, name: impl Into<String>) -> Result<T> {
        self.map_err(|error| Failure {
            step: name.into(),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }
}
