//! What behaviour tests are made with: a store, a context and the binary, in a temporary directory.
//!
//! ```ignore
//! let kit = Kit::new();
//! kit.context(&[("app.txt", "hi")]);
//! let output = kit.build("FROM scratch\nCOPY app.txt /", &[]);
//! assert_eq!(output.code, 0);
//! ```
//!
//! [`base`] makes the image that tests build on; [`Archive`] reads what was built; [`server`]
//! gives what is fetched; [`programs`] are those of others.

mod archive;
mod base;
mod filter;
pub(crate) mod programs;
pub(crate) mod server;

use std::ffi::OsStr;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) use archive::Archive;

/// A store, a context and the binary. Everything is removed with it.
pub(crate) struct Kit {
    directory: tempfile::TempDir,
}

/// How a command ended and what it printed.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// What differs from run to run is replaced in [`fmt::Display`].
    directory: PathBuf,
}

/// Says that a test cannot run here, past the harness's capture.
pub(crate) fn skipped(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Returns whether containers can be run here; says why not.
pub(crate) fn machine_can(test: &str) -> bool {
    if !Path::new("/bin/busybox").exists() {
        skipped(test, "there is no /bin/busybox (package busybox-static)");
        return false;
    }
    let unshare = || {
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "true"])
            .output()
    };
    if !is_root() && !unshare().is_ok_and(|output| output.status.success()) {
        skipped(test, "user namespaces are not allowed here");
        return false;
    }
    true
}

pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self")
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}

/// Ends the test where the machine cannot run containers.
#[macro_export]
macro_rules! require_machine {
    () => {
        if !$crate::kit::machine_can(std::thread::current().name().unwrap_or("test")) {
            return;
        }
    };
}

impl Kit {
    pub(crate) fn new() -> Self {
        let kit = Self {
            directory: tempfile::Builder::new()
                .prefix("rbuild-test-")
                .tempdir()
                .unwrap(),
        };
        std::fs::create_dir(kit.path("context")).unwrap();
        kit
    }

    /// A path in the kit's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes files of the build context.
    pub(crate) fn context(&self, files: &[(&str, &str)]) {
        for (name, content) in files {
            let path = self.path("context").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    /// A command on this kit's store, in its directory, with a closed set of variables.
    pub(crate) fn command<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        // Long runs are done with a binary that nobody builds anew meanwhile.
        let binary = std::env::var_os("RBUILD_TEST_BINARY");
        let mut command = Command::new(binary.unwrap_or(env!("CARGO_BIN_EXE_rbuild").into()));
        command
            .args(arguments)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", self.directory.path())
            .env("RBUILD_ROOT", self.path("store"))
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn rbuild(&self, arguments: &[&str]) -> Output {
        self.finish(self.command(arguments).spawn().unwrap())
    }

    /// As [`Kit::rbuild`], with something on standard input.
    pub(crate) fn rbuild_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that does not read its input may be gone already.
        stdin.write_all(input).unwrap_or_default();
        drop(stdin);
        self.finish(child)
    }

    /// Waits for a command of this kit.
    pub(crate) fn finish(&self, child: Child) -> Output {
        use std::os::unix::process::ExitStatusExt;
        let output = child.wait_with_output().unwrap();
        let output = Output {
            code: output
                .status
                .code()
                .unwrap_or_else(|| -output.status.signal().unwrap_or_default()),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            directory: self.directory.path().to_owned(),
        };
        assert!(output.code >= 0, "killed by a signal:\n{output}");
        assert!(
            !output.stderr.contains("panicked at"),
            "panicked:\n{output}"
        );
        output
    }

    /// The arguments of a build of `dockerfile`, on top of the busybox base where it is named.
    pub(crate) fn build_arguments(&self, dockerfile: &str, more: &[&str]) -> Vec<String> {
        std::fs::write(self.path("context/Dockerfile"), dockerfile).unwrap();
        let mut arguments: Vec<String> = ["build", "--progress=plain"].map(str::to_owned).to_vec();
        if dockerfile.contains("busybox") {
            let layout = base::layout().display();
            arguments.push(format!(
                "--build-context=busybox=oci-layout://{layout}:latest"
            ));
        }
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        arguments.push("context".to_owned());
        arguments
    }

    pub(crate) fn build(&self, dockerfile: &str, more: &[&str]) -> Output {
        self.finish(
            self.command(self.build_arguments(dockerfile, more))
                .spawn()
                .unwrap(),
        )
    }

    /// Builds, which must succeed.
    #[track_caller]
    pub(crate) fn must_build(&self, dockerfile: &str, more: &[&str]) -> Output {
        self.build(dockerfile, more).success()
    }

    /// Runs a command, which must succeed.
    #[track_caller]
    pub(crate) fn must(&self, arguments: &[&str]) -> Output {
        self.rbuild(arguments).success()
    }

    /// Checks that the store is whole.
    #[track_caller]
    pub(crate) fn store_is_whole(&self) {
        let output = self.must(&["store", "check"]);
        assert_eq!(output.stdout, "The store is whole.\n");
    }
}

impl Output {
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.code, 0, "{self}");
        self
    }

    /// The lines of the plain progress that say that a step was taken from the cache.
    pub(crate) fn cached(&self) -> usize {
        self.stderr
            .lines()
            .filter(|line| line.ends_with(" CACHED"))
            .count()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exit code: {}", self.code)?;
        writeln!(f, "--- stdout")?;
        f.write_str(&filter::filtered(&self.stdout, &self.directory))?;
        writeln!(f, "--- stderr")?;
        f.write_str(&filter::filtered(&self.stderr, &self.directory))
    }
}

/// Waits until something holds; says what is wrong where it never does.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2400 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{what}");
}
