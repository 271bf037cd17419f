//! Whether git still gets on. Over http it looks after that itself; what it reads of ssh and of its own protocol it waits
//! for as long as the server likes.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::process::Child;

use crate::worker::blocking;

/// In one patience it is looked so often.
const LOOKS: u32 = 6;

/// A call of git with all that it started: they are a process group, and end with this.
pub(super) struct Family(pub(super) Child);

impl Drop for Family {
    fn drop(&mut self) {
        // It has a number as long as nobody has waited for it: until then the number is no other process's.
        let leader = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(leader) = leader.and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Ends when the processes of git in a group neither moved a byte nor computed for so long.
pub(super) async fn of_group(group: u32, patience: Duration) {
    let mut last = None;
    let mut since = Instant::now();
    loop {
        let now = blocking(move || activity(group)).await;
        if now.is_none() || now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() >= patience {
            return;
        }
        tokio::time::sleep(patience / LOOKS).await;
    }
}

/// A number that changes while git does something; `None` where it is not to be had.
fn activity(group: u32) -> Option<u64> {
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut sum: Option<u64> = None;
    for process in processes {
        if let Some(done) = done_by(&process.path(), group) {
            sum = Some(sum.unwrap_or(0).wrapping_add(done));
        }
    }
    sum
}

/// Bytes and ticks of a process, if it is git's: ssh has a conversation of its own with the server, about being alive.
fn done_by(process: &Path, group: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    let (_, named) = stat.split_once('(')?;
    let (name, fields) = named.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // `state ppid pgrp …`, proc_pid_stat(5); utime and stime are the 14th and 15th of all.
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    if number(2)? != u64::from(group) || !name.starts_with("git") {
        return None;
    }
    let ticks = number(11)?.wrapping_add(number(12)?);
    let io = std::fs::read_to_string(process.join("io")).ok()?;
    let bytes = io
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| matches!(*name, "rchar" | "wchar"))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .fold(0, u64::wrapping_add);
    Some(bytes.wrapping_add(ticks))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::fetch::Access;
    use crate::fetch::git::address::Address;
    use crate::fetch::git::program::Git;

    fn anybody_mentions(words: &str) -> bool {
        let processes = std::fs::read_dir("/proc").unwrap();
        processes.filter_map(Result::ok).any(|process| {
            std::fs::read(process.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(words))
        })
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up() {
        let has = |program: &str| Path::new("/usr/bin").join(program).exists();
        for scheme in ["git", "ssh"] {
            if !has("git") && !Path::new("/usr/local/bin/git").exists()
                || !has(scheme) && scheme == "ssh"
            {
                eprintln!("SKIPPED {scheme}: the programs are not here");
                continue;
            }
            // The kernel accepts connections that nobody answers.
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let url = format!("{scheme}://127.0.0.1:{port}/a.git");
            let home = tempfile::tempdir().unwrap();
            let git = Git {
                address: &Address::new(&url, &Access::default()).unwrap(),
                home: home.path().to_owned(),
                repository: home.path().join("repository"),
                ssh_socket: None,
                patience: Duration::from_secs(1),
                held: false,
            };
            let began = Instant::now();
            let failure = git.run_remote(None, &["ls-remote", "--", &url]).await;
            let said = failure.unwrap_err().to_string();
            assert!(began.elapsed() < Duration::from_secs(15), "{scheme}");
            assert_eq!(
                said,
                format!("git cannot fetch `{url}`: the server sent nothing for 1 seconds")
            );
            // What was killed takes a moment to die.
            while anybody_mentions(&port.to_string()) {
                let is_late = began.elapsed() > Duration::from_secs(30);
                assert!(!is_late, "{scheme}: something is left");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
