//! Calling `git`: with nothing of the user's or the system's configuration, no hooks, no prompts, and only over the
//! protocols that the repository's own address calls for. What a repository holds is data to it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::address::Address;
use super::silence::{self, Family};
use crate::worker::failure::{Failure, Result};

/// Of what git prints; references of a repository are the longest.
const OUTPUT_BYTES: usize = 4 << 20;
/// Of its words in an error.
const SHOWN_LINES: usize = 6;
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// With servers that send nothing, as with those of files; `http.lowSpeedTime` says the same.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Variables of the caller that say how the network is reached.
const PASSED_ON: [&str; 9] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
];

/// In every call.
const CONFIGURATION: [(&str, &str); 9] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("credential.helper", ""),
    // Nothing goes on in the background once the command is done.
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("advice.detachedHead", "false"),
    ("init.defaultBranch", "master"),
    // A connection that brings nothing for a minute is dead.
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
];

/// Redirects are errors.
const FOLLOW_NOBODY: (&str, &str) = ("http.followRedirects", "false");

const SSH: &str =
    "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15";

/// How git is called for one repository.
pub(super) struct Git<'a> {
    pub(super) address: &'a Address,
    /// Empty, and nobody else's.
    pub(super) home: PathBuf,
    pub(super) repository: PathBuf,
    pub(super) ssh_socket: Option<&'a Path>,
    pub(super) patience: Duration,
    /// Only the repository's own host may be reached.
    pub(super) held: bool,
}

/// A call that did not end well.
struct Failed {
    stderr: String,
}

impl Git<'_> {
    /// Runs git on the repository; gives what it printed.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<String> {
        match self.call(None, arguments, None).await? {
            Ok(output) => Ok(output),
            Err(failed) => Err(self.failure(&failed)),
        }
    }

    /// As [`Git::run`], with a directory that the repository's files go to.
    pub(super) async fn run_in(&self, work_tree: &Path, arguments: &[&str]) -> Result<String> {
        match self.call(Some(work_tree), arguments, None).await? {
            Ok(output) => Ok(output),
            Err(failed) => Err(self.failure(&failed)),
        }
    }

    /// For what goes over the network: again where the failure may pass, and without `--depth=1` where the server
    /// cannot leave history out.
    pub(super) async fn run_remote(
        &self,
        work_tree: Option<&Path>,
        arguments: &[&str],
    ) -> Result<String> {
        let mut arguments = arguments.to_vec();
        let mut tries = 0;
        loop {
            let called = self.call(work_tree, &arguments, Some(self.patience));
            let failed = match called.await? {
                Ok(output) => return Ok(output),
                Err(failed) => failed,
            };
            let depth = arguments
                .iter()
                .position(|argument| *argument == "--depth=1");
            if let Some(depth) = depth
                && (failed.stderr.contains("shallow") || failed.stderr.contains("--depth"))
            {
                arguments.remove(depth);
                continue;
            }
            tries += 1;
            if tries >= TRIES || !failed.may_pass() {
                return Err(self.failure(&failed));
            }
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(tries)).await;
        }
    }

    async fn call(
        &self,
        work_tree: Option<&Path>,
        arguments: &[&str],
        patience: Option<Duration>,
    ) -> Result<Result<String, Failed>> {
        let mut command = rbuild_executor::tool::command("git");
        command.arg("--git-dir").arg(&self.repository);
        if let Some(work_tree) = work_tree {
            command.arg("--work-tree").arg(work_tree);
        }
        command
            .args(arguments)
            .current_dir(work_tree.unwrap_or(&self.home))
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.environment(&mut command);
        let mut command = tokio::process::Command::from(command);
        let child = command.kill_on_drop(true).spawn().map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let failure = Failure::caused("git", "cannot start `git`", error);
            if missing {
                return failure.help("git repositories are fetched with git: install it");
            }
            failure
        })?;
        let mut family = Family(child);
        let (group, child) = (family.0.id(), &mut family.0);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ended = async { tokio::join!(bounded(stdout), bounded(stderr), child.wait()) };
        let (stdout, stderr, status) = match (group, patience) {
            (Some(group), Some(patience)) => tokio::select! {
                ended = ended => ended,
                () = silence::of_group(group, patience) => return Err(self.silent(patience)),
            },
            _ => ended.await,
        };
        let status =
            status.map_err(|error| Failure::caused("git", "cannot wait for `git`", error))?;
        if status.success() {
            return Ok(Ok(stdout));
        }
        Ok(Err(Failed { stderr }))
    }

    fn environment(&self, command: &mut std::process::Command) {
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("HOME", &self.home)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", self.address.protocols())
            .env("GIT_SSH_COMMAND", SSH)
            .env("GIT_SSH_VARIANT", "ssh");
        if let Some(socket) = self.ssh_socket {
            command.env("SSH_AUTH_SOCK", socket);
        }
        // By environment and not by arguments, which every process of the machine can read.
        let header = self.address.header.as_ref();
        let header = header.map(|(scope, header)| {
            let name = format!("http.{scope}.extraHeader");
            (name, format!("Authorization: {header}"))
        });
        let fixed = CONFIGURATION.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut count = 0;
        let held = self.held.then(|| {
            let (name, value) = FOLLOW_NOBODY;
            (name.to_owned(), value.to_owned())
        });
        for (name, value) in fixed.into_iter().chain(header).chain(held) {
            command
                .env(format!("GIT_CONFIG_KEY_{count}"), name)
                .env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
    }

    fn silent(&self, patience: Duration) -> Failure {
        let (shown, seconds) = (&self.address.shown, patience.as_secs());
        let message =
            format!("git cannot fetch `{shown}`: the server sent nothing for {seconds} seconds");
        Failure::new("git", message)
    }

    fn failure(&self, failed: &Failed) -> Failure {
        let lines: Vec<&str> = failed
            .stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let first = lines.len().saturating_sub(SHOWN_LINES);
        let words = lines.get(first..).unwrap_or_default().join("; ");
        let words = crate::lower::remote::without_userinfo(&words);
        let words: String = words
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let shown = &self.address.shown;
        let failure = Failure::new("git", format!("git cannot fetch `{shown}`: {words}"));
        if words.contains("Host key verification failed") {
            return failure.help("add the host's key to ~/.ssh/known_hosts");
        }
        if words.contains("could not read Username") || words.contains("Authentication failed") {
            return failure.help(
                "a private repository needs a token: --secret id=GIT_AUTH_TOKEN,env=GIT_AUTH_TOKEN",
            );
        }
        if words.contains("Permission denied (publickey") {
            return failure.help("pass an ssh agent that has the key: --ssh default");
        }
        failure
    }
}

impl Failed {
    /// Whether it is the network's fault rather than the repository's.
    fn may_pass(&self) -> bool {
        [
            "Could not resolve host",
            "Connection timed out",
            "Connection reset",
            "Operation too slow",
            "Empty reply from server",
            "early EOF",
            "unexpected disconnect",
            "The requested URL returned error: 5",
            "The requested URL returned error: 429",
        ]
        .iter()
        .any(|words| self.stderr.contains(words))
    }
}

/// Reads to the end and keeps the beginning.
async fn bounded(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut kept = Vec::new();
    let Some(mut from) = from else {
        return String::new();
    };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let room = count.min(OUTPUT_BYTES - kept.len());
        kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
    String::from_utf8_lossy(&kept).into_owned()
}
