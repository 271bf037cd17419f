//! Containers: made of images, run without a daemon, reached from any process.
//!
//! A container is a directory of the store (`rbuild_cache::containers`). [`Engine::create`] makes one; it runs in
//! the process that calls [`Engine::live`], in the foreground or behind, and that process answers on a socket what
//! others ask ([`control`]). Everybody finds containers in the [`Catalog`]; which are alive is told by a lock that
//! dies with its holder.
//!
//! * [`request`]: what is asked; `define`: the [`Definition`] made of that and of an image, `program`: what of both
//!   runs in it; `prepare`: that as a command for the executor;
//! * `supervise`: from the start to the last end, with restarts and probes (`health`); `life`: what is known meanwhile;
//!   `serve`: answering meanwhile;
//! * `files`, `cp`, `diff`, `commit`: its files, also where it does not run;
//! * [`networks`]: what they are in together, `neighbours`: how they reach one another there, `attach`: changing in which
//!   they are; `ports`: what of it the host can be spoken to for;
//! * `output`, [`log`]: what it writes; `volumes`: what outlives it; `inspect`: all of it, as Docker shows it;
//! * `update`: changing what it may use while it is there; `without`: where there are no namespaces.
//!
//! [`Engine::create`]: crate::Engine::create
//! [`Engine::live`]: crate::Engine::live

mod attach;
mod catalog;
mod commit;
pub mod control;
mod cp;
mod define;
mod definition;
mod diff;
mod exec;
mod files;
mod health;
mod inspect;
mod life;
pub mod log;
mod names;
mod neighbours;
pub mod networks;
mod output;
mod ports;
mod prepare;
mod program;
mod remove;
pub mod request;
mod serve;
mod state;
mod subnet;
mod supervise;
pub mod time;
mod update;
mod volumes;
mod without;

pub use catalog::{Catalog, Entry};
pub use commit::CommitRequest;
pub use cp::CopyOptions;
pub use define::{Created, Lifetime};
pub use definition::{Definition, MountKind, MountPoint};
pub use diff::Change;
pub use exec::ExecRequest;
pub use networks::{Attachment, Network, NetworkRequest, NetworkSummary};
pub use ports::Publish;
pub use request::{Ipc, Pull, Restart, RunRequest, Shown, Space, Spaces, Tmpfs, VolumeSource};
pub use state::{Health, Probe, State, Status};
pub use subnet::Subnet;
pub use supervise::Front;
pub use update::Changes;
pub use volumes::{Backing, NewVolume, PrunedVolumes, Volume};

/// The number of a signal: `9`, `KILL`, `SIGKILL`.
pub fn signal_number(name: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(real_time) = short.strip_prefix("RTMIN") {
        let more: i32 = match real_time.strip_prefix('+') {
            Some(more) => more.parse().ok()?,
            None if real_time.is_empty() => 0,
            None => return None,
        };
        return (0..=30).contains(&more).then_some(34 + more);
    }
    if let Some(real_time) = short.strip_prefix("RTMAX") {
        let less: i32 = match real_time.strip_prefix('-') {
            Some(less) => less.parse().ok()?,
            None if real_time.is_empty() => 0,
            None => return None,
        };
        return (0..=30).contains(&less).then_some(64 - less);
    }
    let short = match short {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        known => known,
    };
    let at = NAMES.iter().position(|known| *known == short)?;
    i32::try_from(at + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::signal_number;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in [
            ("KILL", Some(9)),
            ("sigterm", Some(15)),
            ("SIGSYS", Some(31)),
            ("10", Some(10)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX", Some(64)),
            ("rtmax-1", Some(63)),
            ("RTMAX-31", None),
            ("SIGCLD", Some(17)),
            ("POLL", Some(29)),
            ("0", None),
            ("65", None),
            ("NOPE", None),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }
}
