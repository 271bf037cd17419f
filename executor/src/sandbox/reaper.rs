//! A tiny init: PID 1 that reaps what is orphaned and hands signals on to the command. It has the command's own user,
//! capabilities and filter, and ends with it.

use rustix::process::{Pid, WaitOptions};

use super::step::{Result, Step};
use crate::sys::{self, Forked};

/// Returns in the child, which goes on to become the command; the caller stays behind as PID 1.
pub(super) fn become_init(terminal: bool) -> Result<()> {
    sys::block_signals().step("prepare the init process")?;
    match sys::fork().step("start the command below the init process")? {
        Forked::Child => {
            // SIGTTOU is blocked here, so taking the terminal does not stop this process.
            rustix::process::setpgid(None, None).step("make a process group")?;
            if terminal {
                rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid())
                    .step("give the terminal to the command")?;
            }
            sys::reset_signals().step("reset signals")
        }
        Forked::Parent(child) => {
            let _ = rustix::thread::set_name(c"rbuild-init");
            // The report's end is seen when no copy is left.
            let _ = sys::close_from(3);
            serve(child)
        }
    }
}

fn serve(child: Pid) -> ! {
    sys::exit_now(attend(child))
}

/// Reaps and hands signals on, which must be blocked, until the child ends: with what code.
pub(super) fn attend(child: Pid) -> i32 {
    loop {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let signal = status.terminating_signal().map(|signal| 128 + signal);
            match status.exit_status().or(signal) {
                Some(code) if pid == child => return code,
                _ => {}
            }
        }
        let signal = sys::wait_for_signal();
        if signal != libc::SIGCHLD
            && let Some(signal) = sys::signal(signal)
        {
            let _ = rustix::process::kill_process(child, signal);
        }
    }
}
