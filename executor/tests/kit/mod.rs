//! A store with a busybox root, an executor, and a table of tests run by our own `main`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use rbuild_cache::{Snapshot, SnapshotId, Store};
use rbuild_executor::host::{self, Privilege};
use rbuild_executor::sandbox::ExecError;
use rbuild_executor::spec::{Limits, Network, Security, Users};
use rbuild_executor::{Exec, Executor, Host, Output, Stdio};
use tokio_util::sync::CancellationToken;

pub(crate) type Failed = Box<dyn std::error::Error>;
pub(crate) type Outcome = Result<(), Failed>;
pub(crate) type Test = fn(&Kit) -> Outcome;

pub(crate) struct Kit {
    pub(crate) executor: Arc<Executor>,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) base: SnapshotId,
    /// The process of each command is begun before it.
    ahead: bool,
    _directory: tempfile::TempDir,
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) result: Result<Snapshot, ExecError>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn main(tests: &[(&str, Test)]) -> ExitCode {
    let host = match host::init() {
        Ok(host) => host,
        Err(error) => {
            println!("SKIPPED all: {error}: {}", error.source);
            return ExitCode::SUCCESS;
        }
    };
    if the_busybox().is_none() {
        println!("SKIPPED all: there is no busybox (package busybox-static)");
        return ExitCode::SUCCESS;
    }
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let privilege = host.privilege();
    let mut kit = Kit::new(host);
    let (mut passed, mut failed) = (0, 0);
    let twice = tests.iter().map(|test| (test, false));
    let twice = twice.chain(tests.iter().map(|test| (test, true)));
    for ((name, test), ahead) in twice {
        kit.ahead = ahead;
        if filter
            .as_ref()
            .is_some_and(|filter| !name.contains(filter.as_str()))
        {
            continue;
        }
        match test(&kit) {
            Ok(()) => passed += 1,
            Err(error) => {
                failed += 1;
                let how = if ahead { ", begun ahead" } else { "" };
                println!("FAILED ({privilege:?}{how}) {name}: {error}");
            }
        }
    }
    println!("{privilege:?}: {passed} passed, {failed} failed");
    let mut good = failed == 0;
    if privilege == Privilege::Root && std::env::var_os(CHILD).is_none() {
        drop(kit);
        good &= as_ordinary_users(filter.as_deref());
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one thing in a process of its own.
pub(crate) fn alone(role: Test) -> ExitCode {
    let outcome = host::init()
        .map_err(Failed::from)
        .and_then(|host| role(&Kit::new(host)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Set where this program was started by itself.
const CHILD: &str = "RBUILD_TEST_CHILD";

/// Runs everything again as a user who has subordinate ids, if there is one, and as one who has none.
fn as_ordinary_users(filter: Option<&str>) -> bool {
    let subordinate = std::fs::read_to_string("/etc/subuid")
        .unwrap_or_default()
        .lines()
        .find_map(|line| user_id(line.split(':').next()?));
    let mut good = true;
    match subordinate {
        Some(ids) => good &= again(ids, filter),
        None => println!("SKIPPED as a user with subordinate ids: /etc/subuid names nobody"),
    }
    // An id without an entry anywhere.
    good & again((64_321, 64_321), filter)
}

fn user_id(name: &str) -> Option<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            [known, _, uid, gid, ..] if *known == name => {
                Some((uid.parse().ok()?, gid.parse().ok()?))
            }
            _ => None,
        }
    })
}

fn again((uid, gid): (u32, u32), filter: Option<&str>) -> bool {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    // The build directory may be closed to others.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let program = directory.path().join("test");
    std::fs::copy(std::env::current_exe().expect("this program"), &program).expect("a copy");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).expect("open the directory");
    let mut command = std::process::Command::new(program);
    command
        .args(filter)
        .env(CHILD, "1")
        .current_dir("/")
        .uid(uid)
        .gid(gid);
    command.status().is_ok_and(|status| status.success())
}

impl Kit {
    pub(crate) fn new(host: Host) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(Store::open(&directory.path().join("store")).expect("a store"));
        let base = busybox(&store);
        Self {
            executor: Arc::new(Executor::new(host, store)),
            runtime,
            base,
            ahead: false,
            _directory: directory,
        }
    }

    pub(crate) fn privilege(&self) -> Privilege {
        self.executor.host().privilege()
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        self.executor.store()
    }

    /// Runs a shell script on the base.
    pub(crate) fn sh(&self, script: &str) -> Result<Ran, Failed> {
        let ran = self.exec(Some(&self.base), shell(script));
        ran.ok()?;
        Ok(ran)
    }

    /// Says that a part of a test cannot run.
    pub(crate) fn skip(&self, what: &str, why: &str) -> Outcome {
        println!("SKIPPED ({:?}) {what}: {why}", self.privilege());
        Ok(())
    }

    /// The base with something written on top.
    pub(crate) fn snapshot_with<T>(
        &self,
        write: impl FnOnce(&Path) -> std::io::Result<T>,
    ) -> Result<SnapshotId, Failed> {
        let active = self.store().prepare()?;
        write(active.upper())?;
        Ok(active.commit(Some(&self.base), 0)?.id)
    }

    pub(crate) fn exec(&self, base: Option<&SnapshotId>, exec: Exec) -> Ran {
        self.exec_until(base, exec, CancellationToken::new())
    }

    /// On the base, whose process nobody but the test may have begun.
    pub(crate) fn plain(&self, exec: Exec) -> Ran {
        self.exec_as_it_is(Some(&self.base), exec, CancellationToken::new())
    }

    pub(crate) fn exec_until(
        &self,
        base: Option<&SnapshotId>,
        exec: Exec,
        cancel: CancellationToken,
    ) -> Ran {
        if self.ahead {
            self.executor.host().begin_sandbox(exec.users);
        }
        self.exec_as_it_is(base, exec, cancel)
    }

    fn exec_as_it_is(
        &self,
        base: Option<&SnapshotId>,
        exec: Exec,
        cancel: CancellationToken,
    ) -> Ran {
        let collected = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let sink = collected.clone();
        let stdio = Stdio::Capture(Arc::new(move |output, piece: &[u8]| {
            let mut collected = sink.lock().expect("no panic while locked");
            match output {
                Output::Stdout => collected.0.extend_from_slice(piece),
                Output::Stderr => collected.1.extend_from_slice(piece),
            }
        }));
        let result = self
            .runtime
            .block_on(self.executor.exec(base, exec, stdio, cancel));
        let collected = collected.lock().expect("no panic while locked");
        Ran {
            result,
            stdout: String::from_utf8_lossy(&collected.0).into_owned(),
            stderr: String::from_utf8_lossy(&collected.1).into_owned(),
        }
    }

    /// What a successful command left, as a sorted list of paths.
    pub(crate) fn layer(&self, ran: &Ran) -> Result<Vec<String>, Failed> {
        let snapshot = ran.result.as_ref().map_err(describe)?;
        let tree = self.store().tree(&snapshot.id)?;
        Ok(tree
            .entries
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.path).into_owned())
            .filter(|path| !path.is_empty())
            .collect())
    }
}

impl Ran {
    pub(crate) fn ok(&self) -> Result<&Self, Failed> {
        match &self.result {
            Ok(_) => Ok(self),
            Err(error) => Err(format!(
                "{}; stdout {:?}, stderr {:?}",
                describe(error),
                self.stdout,
                self.stderr
            )
            .into()),
        }
    }
}

/// An error with its causes.
pub(crate) fn describe(error: &ExecError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

pub(crate) fn shell(script: &str) -> Exec {
    command(&["/bin/sh", "-c", script])
}

pub(crate) fn command(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/usr/bin:/bin".to_vec()],
        cwd: "/".into(),
        user: String::new(),
        groups: Vec::new(),
        mounts: Vec::new(),
        network: Network::None,
        security: Security::Sandbox,
        users: Users::Own,
        hostname: "rbuild".to_owned(),
        domainname: String::new(),
        hosts: Vec::new(),
        dns: rbuild_executor::spec::Dns::default(),
        limits: Limits::default(),
        read_only_root: false,
        writable_names: false,
        capabilities_add: Vec::new(),
        options: rbuild_executor::spec::SecurityOptions::default(),
        capabilities_drop: Vec::new(),
        init: false,
        runtime: None,
        annotations: std::collections::BTreeMap::new(),
        timeout: None,
        spaces: rbuild_executor::spec::Spaces::default(),
        followed: false,
        alone: false,
    }
}

pub(crate) fn equal(left: &str, right: &str) -> Outcome {
    if left == right {
        Ok(())
    } else {
        Err(format!("{left:?} is not {right:?}").into())
    }
}

pub(crate) fn holds(condition: bool, what: impl std::fmt::Display) -> Outcome {
    if condition {
        Ok(())
    } else {
        Err(what.to_string().into())
    }
}

fn the_busybox() -> Option<&'static Path> {
    let mut places = ["/bin/busybox", "/usr/bin/busybox"]
        .map(Path::new)
        .into_iter();
    places.find(|path| path.exists())
}

/// A root with busybox, its links, and the usual files of /etc.
fn busybox(store: &Store) -> SnapshotId {
    let active = store.prepare().expect("a snapshot in the making");
    let root = active.upper();
    for directory in ["bin", "etc", "tmp", "root"] {
        std::fs::create_dir(root.join(directory)).expect("a directory");
    }
    let busybox = the_busybox().expect("without it nothing is run");
    std::fs::copy(busybox, root.join("bin/busybox")).expect("a copy");
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    let files = [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nuser:x:1000:1000::/home/user:/bin/sh\n",
        ),
        (
            "etc/group",
            "root:x:0:\ndaemon:x:1:\nextra:x:500:user\nuser:x:1000:\n",
        ),
    ];
    for (path, content) in files {
        std::fs::write(root.join(path), content).expect("a file");
    }
    active.commit(None, 0).expect("a snapshot").id
}

const APPLETS: &[&str] = &[
    "sh", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "echo", "env", "false", "find",
    "grep", "head", "hostname", "id", "df", "kill", "ln", "ls", "mkdir", "mkfifo", "mknod",
    "mount", "mv", "printf", "ps", "pwd", "readlink", "rm", "rmdir", "sed", "seq", "setsid",
    "sleep", "sort", "stat", "stty", "tail", "test", "touch", "tr", "true", "tty", "umask",
    "umount", "uname", "unshare", "wc", "xargs", "yes", "chroot", "su", "nc",
];
