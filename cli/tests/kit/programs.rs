//! Other programs: whether they are here, what they print, and those that serve on a port of their own.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::skipped;

/// Whether a program is here; says so where it is not.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        skipped(&test, &format!("there is no `{program}`"));
    }
    found
}

/// Runs a program, which must succeed; returns what it printed.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    run_in(Path::new("."), program, arguments)
}

/// As [`run`], in a directory.
#[track_caller]
pub(crate) fn run_in(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(directory).output();
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A process that serves, and ends with its value.
pub(crate) struct Service {
    process: Child,
    pub(crate) port: u16,
    /// `127.0.0.1:PORT`
    pub(crate) host: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nobody has. It lies below those that the kernel gives to whoever asks for any, for such a one could be
/// somebody else's again before it is used.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let from = std::process::id().wrapping_mul(41);
        let port = 20_000 + u16::try_from(from.wrapping_add(next) % 12_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Starts what is going to listen on a port, and waits until it does.
pub(crate) fn serve(command: &mut Command, port: u16) -> Service {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    let service = Service {
        process: quiet.stderr(Stdio::null()).spawn().unwrap(),
        port,
        host: format!("127.0.0.1:{port}"),
    };
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{command:?} does not listen"
        );
        std::thread::sleep(Duration::from_millis(25));
    }
    service
}

/// Debian's `docker-registry`, which keeps what it has in the directory.
pub(crate) fn registry(directory: &Path) -> Service {
    let port = free_port();
    std::fs::create_dir_all(directory).unwrap();
    let config = directory.join("registry.yml");
    let storage = directory.join("registry");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        storage.display()
    );
    std::fs::write(&config, text).unwrap();
    serve(
        Command::new("docker-registry").arg("serve").arg(&config),
        port,
    )
}
