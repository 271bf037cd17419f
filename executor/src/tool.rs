//! Programs of the host that run outside of any sandbox, as this process does: `git`. They are given nothing of the
//! environment and do not outlive this process. What they may do is their caller's business.

use std::process::{Command, Stdio};

/// Where programs of the host are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with an empty standard input, an environment that has only `PATH`, and umask 022. It ends when the thread
/// that spawns it ends: spawn it from one that lasts.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).stdin(Stdio::null());
    crate::sys::accompany(&mut command);
    command
}
