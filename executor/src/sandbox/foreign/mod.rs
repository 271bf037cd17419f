//! A container under somebody else's OCI runtime (`--runtime`). The sandbox's first process stays ours: it has the
//! network, the cgroups and a pid namespace around the runtime's own, lays the bundle out in memory, has the runtime
//! create and start the container, and ends as that ends. So whatever kills rbuild kills the runtime and the container
//! too, and the runtime leaves nothing anywhere: its state and the bundle go with this mount namespace.

mod bundle;
mod config;

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions};

use super::child::{self, Descriptors, Stop};
use super::plan::{Report, Stdio, Task};
use super::step::{Failure, Step};
use super::{explain, program, reaper, wire};
use crate::sys::{self, Forked};
use bundle::Bundle;

/// The container's name to the runtime, which knows no other.
const NAME: &str = "rbuild";
/// A message of the runtime's: no reason to read more.
const MOST_LOG: usize = 64 << 10;

type Result<T> = std::result::Result<T, Stop>;

/// Goes on from where the process has its namespaces, cgroups and network. Ends with the container.
pub(super) fn run(task: &Task, runtime: &Path, descriptors: &Descriptors) -> Result<Infallible> {
    let status = descriptors.get(task.status)?;
    if task.is_kept() {
        // Otherwise it is the first of its pid namespace, which is that anyway.
        sys::become_reaper().step("become the parent of the container")?;
    }
    let bundle = Bundle::make(task, runtime, descriptors)?;
    // The runtime's namespace begins with it. The field of config.json is younger than many runtimes.
    if !task.spaces.machines_names {
        child::set_domainname(task)?;
    }
    for (path, value) in task
        .sysctls
        .iter()
        .filter(|(path, _)| config::is_of_network(path))
    {
        // The network is ours; a runtime sets no parameter of one that it did not make.
        std::fs::write(Path::new("/proc/sys").join(path), value).step(format!(
            "set the kernel parameter {}",
            path.replace('/', ".")
        ))?;
    }
    probe(task, &bundle)?;
    let runtime = Runtime {
        path: runtime,
        bundle: &bundle,
    };
    let console = match task.stdio {
        Stdio::Terminal { .. } => {
            Some(UnixListener::bind(bundle.console()).step("listen for the terminal")?)
        }
        Stdio::Streams(_) => {
            child::streams::take_streams(task, descriptors, None)?;
            None
        }
    };
    // Everything but the standard streams is this process's own.
    sys::close_on_exec_from(3).step("close descriptors")?;
    runtime.create(console.is_some())?;
    let master = match (&console, task.stdio) {
        (Some(console), Stdio::Terminal { rows, columns }) => {
            Some(receive_terminal(console, (rows, columns))?)
        }
        _ => None,
    };
    let container = bundle.container()?;
    let ready = Report::Ready {
        stubs: bundle.stubs.clone(),
        parents: bundle.parents.clone(),
    };
    match &master {
        Some(master) => wire::send(status, &ready, &[master.as_fd()]),
        None => wire::send(status, &ready, &[]),
    }
    .step("report")?;
    drop(master);
    runtime.call("start", &["start", NAME])?;
    if let Some(slot) = task.announced {
        let step = "tell of the container's first process";
        let pidfd = rustix::process::pidfd_open(container, PidfdFlags::empty()).step(step)?;
        // Whoever asked for it may be gone.
        let _ = wire::send(descriptors.get(slot)?, &(), &[pidfd.as_fd()]);
    }
    // From now on others hold the container's streams; the report's end is seen when no copy is left.
    crate::background::let_go().step("let go of the container's streams")?;
    sys::block_signals().step("prepare the first process")?;
    let _ = sys::close_from(3);
    let code = reaper::attend(container);
    let _ = sys::reset_signals();
    // Whatever hooks and state it has; nobody is left to tell of a failure.
    let _ = runtime.call("delete", &["delete", "--force", NAME]);
    sys::exit_now(code)
}

/// The program, and where it works.
struct Runtime<'a> {
    path: &'a Path,
    bundle: &'a Bundle,
}

impl Runtime<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.path);
        command.env_clear();
        command.env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        // The cgroups are ours, and it is in them already.
        if is(self.path, "crun") {
            command.arg("--cgroup-manager=disabled");
        } else if is(self.path, "runc") {
            command.arg("--rootless=true");
        }
        command.arg("--root").arg(self.bundle.state());
        command.arg("--log").arg(self.bundle.log());
        command.arg("--log-format=json");
        command
    }

    fn create(&self, terminal: bool) -> Result<()> {
        let mut command = self.command();
        command
            .arg("create")
            .arg("--bundle")
            .arg(self.bundle.path());
        command.arg("--pid-file").arg(self.bundle.pid_file());
        if terminal {
            command.arg("--console-socket").arg(self.bundle.console());
        }
        command.arg(NAME);
        self.finish("create", command)
    }

    fn call(&self, what: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.command();
        command.args(arguments);
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        self.finish(what, command)
    }

    fn finish(&self, what: &str, mut command: Command) -> Result<()> {
        let step = format!("have {} {what} the container", self.path.display());
        let refused = |reason: String| Stop::Refused {
            step: step.clone(),
            reason,
        };
        let status = command.status();
        let status = status.map_err(|error| refused(error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        Err(refused(match self.bundle.last_words() {
            Some(words) => words,
            None => format!("it ended with {status} and wrote nothing to its log"),
        }))
    }
}

/// Runtimes are known by their names.
fn is(runtime: &Path, name: &str) -> bool {
    let file = runtime.file_name();
    file.is_some_and(|file| file.as_bytes().starts_with(name.as_bytes()))
}

/// Says what is wrong with the command in our own words, before the runtime says it in its: a process that has the
/// container's root and user looks.
fn probe(task: &Task, bundle: &Bundle) -> Result<()> {
    let failed = "look for the command";
    let (ours, theirs) = wire::pair().step(failed)?;
    let child = match sys::fork().step(failed)? {
        Forked::Parent(child) => child,
        Forked::Child => {
            let report = match look(task, bundle) {
                Ok(()) => None,
                Err(Stop::NotExecutable {
                    explanation,
                    not_found,
                }) => Some((explanation, not_found)),
                // What cannot be looked at, the runtime may say.
                Err(Stop::Step(_) | Stop::Refused { .. }) => None,
            };
            let _ = wire::send(theirs.as_fd(), &report, &[]);
            sys::exit_now(0)
        }
    };
    drop(theirs);
    let found = wire::receive::<Option<(String, bool)>>(ours.as_fd());
    while let Err(Errno::INTR) = rustix::process::waitpid(Some(child), WaitOptions::empty()) {}
    match found.step(failed)? {
        Some((Some((explanation, not_found)), _)) => Err(Stop::NotExecutable {
            explanation,
            not_found,
        }),
        _ => Ok(()),
    }
}

fn look(task: &Task, bundle: &Bundle) -> Result<()> {
    rustix::process::chroot(bundle.root()).step("enter the root")?;
    rustix::process::chdir("/").step("enter the root")?;
    if rustix::process::chdir(child::path_of(&task.command.cwd)).is_err() {
        // Below a mount, which is not there yet.
        rustix::process::chdir("/").step("enter the root")?;
    }
    child::privileges::take_ids(task)?;
    let candidate = program::find(&task.command.argv, &task.command.env)?;
    if bundle.is_mounted_over(&candidate) {
        return Ok(());
    }
    let access = match std::fs::metadata(&candidate) {
        Ok(file) if file.is_dir() => Err(Errno::ACCESS),
        Ok(file) if file.permissions().mode() & 0o111 == 0 => Err(Errno::ACCESS),
        Ok(_) => rustix::fs::accessat(CWD, &candidate, Access::EXEC_OK, AtFlags::EACCESS),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    };
    access.map_err(|errno| {
        let (explanation, not_found) = explain::explain(&candidate, &errno.into());
        Stop::NotExecutable {
            explanation,
            not_found,
        }
    })
}

/// The master of the container's terminal, which the runtime sends as one descriptor.
fn receive_terminal(console: &UnixListener, (rows, columns): (u16, u16)) -> Result<OwnedFd> {
    let step = "receive the terminal";
    // It has sent it, or it never will.
    console.set_nonblocking(true).step(step)?;
    let (socket, _) = console.accept().step(step)?;
    let master = wire::receive_descriptor(socket.as_fd()).step(step)?;
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).step("set the size of the terminal")?;
    Ok(master)
}

/// The last error of a runtime's log, which has a JSON object a line.
fn last_error(log: &[u8]) -> Option<String> {
    let log = log.get(log.len().saturating_sub(MOST_LOG)..)?;
    let lines = log.split(|byte| *byte == b'\n');
    let messages = lines.filter(|line| !line.is_empty()).map(|line| {
        match serde_json::from_slice::<serde_json::Value>(line) {
            Ok(entry) => {
                let level = entry.get("level").and_then(|it| it.as_str());
                let is_error = level.is_none_or(|it| matches!(it, "error" | "fatal"));
                let message = entry.get("msg").and_then(|it| it.as_str());
                (is_error, message.map(str::to_owned))
            }
            Err(_) => (true, Some(String::from_utf8_lossy(line).into_owned())),
        }
    });
    let mut errors = messages.filter_map(|(is_error, message)| message.filter(|_| is_error));
    errors.next_back()
}

/// The number in a file that the runtime wrote.
fn pid_in(text: &str) -> std::result::Result<Pid, Failure> {
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    pid.ok_or(Failure {
        step: "read the container's number, which the runtime did not write".to_owned(),
        errno: libc::EINVAL,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_what_is_told() {
        let log = br#"{"level":"warning","msg":"w"}
{"level":"error","msg":"first"}
{"msg":"last","level":"error","time":"t"}
{"level":"debug","msg":"d"}
"#;
        assert_eq!(last_error(log).as_deref(), Some("last"));
        assert_eq!(last_error(b"plain words\n").as_deref(), Some("plain words"));
        assert_eq!(last_error(b""), None);
    }
}
