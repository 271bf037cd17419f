//! Docker's daemon, for what is checked against it, and containers of it that rbuild runs in.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::kit::programs::{run, run_in};
use crate::kit::{Kit, Output};

/// Docker's daemon, with everything it has in the kit's directory.
pub(crate) struct Docker {
    process: std::process::Child,
    host: String,
}

impl Docker {
    /// `None`, and why, where it cannot run.
    pub(crate) fn start(kit: &Kit) -> Option<Self> {
        let path = |name: &str| kit.path(name).to_str().unwrap().to_owned();
        let host = format!("unix://{}", path("docker.sock"));
        let log = std::fs::File::create(kit.path("docker.log")).unwrap();
        let mut process = Command::new("dockerd")
            .args([
                "--data-root",
                &path("docker"),
                "--exec-root",
                &path("docker-exec"),
            ])
            .args(["-p", &path("docker.pid"), "-H", &host])
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .arg("--storage-driver=vfs")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        for _ in 0..240 {
            if kit.path("docker.sock").exists() && answers(&host) {
                return Some(Self { process, host });
            }
            if process.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(250));
        }
        let _ = process.kill();
        let _ = process.wait();
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        crate::kit::skipped(&test, "dockerd does not run here");
        None
    }

    /// What `-H` takes.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let mut all = vec!["-H", &self.host];
        all.extend(arguments);
        run("docker", &all)
    }
}

fn answers(host: &str) -> bool {
    let asked = Command::new("docker")
        .args(["-H", host, "version"])
        .output();
    asked.is_ok_and(|output| output.status.success())
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It takes its containerd along.
        let id = self.process.id().to_string();
        let _ = Command::new("kill").arg(&id).status();
        let _ = self.process.wait();
    }
}

const IMAGE: &str = "plain:1";

/// The inside of containers as Docker starts them: no options, so neither namespaces nor mounts. The kit's directory is
/// the same in there, and the store is `inside`.
pub(crate) struct Inside<'k> {
    kit: &'k Kit,
    docker: &'k Docker,
}

impl<'k> Inside<'k> {
    /// Makes a container's image that has next to nothing of its own: programs and libraries are the machine's.
    pub(crate) fn new(kit: &'k Kit, docker: &'k Docker) -> Self {
        let root = kit.path("image");
        for name in [
            "bin", "etc", "proc", "sys", "dev", "tmp", "usr", "lib", "lib64",
        ] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
        run_in(&root, "tar", &["-cf", "../image.tar", "."]);
        let archive = kit.path("image.tar");
        docker.run(&["import", archive.to_str().unwrap(), IMAGE]);
        Self { kit, docker }
    }

    /// Whether commands run in there; says so where the kernel does not let them.
    pub(crate) fn has_commands(&self, test: &str) -> bool {
        let info = self.rbuild(&["info"]).success();
        let has = info.stdout.contains("\nCommands: of RUN");
        if !has {
            crate::kit::skipped(
                test,
                "this kernel has no Landlock of version 6 (Linux 6.12)",
            );
        }
        has
    }

    /// `docker run` with what the container is to have.
    fn start(&self, more: &[&str]) -> Command {
        let kit = self.kit.path("");
        let kit = kit.to_str().unwrap();
        let plain = self.kit.command([""]);
        let binary = Path::new(plain.get_program());
        let beside = binary.parent().unwrap().to_str().unwrap();
        let temporary = std::env::temp_dir();
        let temporary = temporary.to_str().unwrap();
        let mut command = Command::new("docker");
        command.args(["-H", self.docker.host(), "run", "--network=none"]);
        command.args(more);
        for (from, to) in [
            ("/lib", ":ro"),
            ("/lib64", ":ro"),
            ("/usr", ":ro"),
            (beside, ":ro"),
        ] {
            command.args(["-v", &format!("{from}:{from}{to}")]);
        }
        command
            .args(["-v", &format!("{temporary}:{temporary}"), "-w", kit])
            .args(["-e", &format!("RBUILD={}", binary.display())])
            .args(["-e", &format!("RBUILD_ROOT={kit}/inside")])
            .arg(IMAGE);
        command
    }

    /// Runs a script of busybox in a fresh container; `$RBUILD` is the builder.
    pub(crate) fn sh(&self, script: &str, arguments: &[&str]) -> Output {
        let mut command = self.start(&["--rm"]);
        command
            .args(["/bin/busybox", "sh", "-c", script, "sh"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.kit.finish(command.spawn().unwrap())
    }

    pub(crate) fn rbuild(&self, arguments: &[&str]) -> Output {
        self.sh("\"$RBUILD\" \"$@\"", arguments)
    }

    /// A container that stays: its name.
    pub(crate) fn stay(&self) -> &'static str {
        const NAME: &str = "stays";
        let mut command = self.start(&["-d", "--name", NAME]);
        command.args(["/bin/busybox", "sleep", "36000"]);
        let started = command.output().unwrap();
        assert!(started.status.success(), "{started:?}");
        NAME
    }

    /// A program in one that stays, with `PATH` and `HOME`, and with the kit's own store.
    pub(crate) fn within(&self, name: &str, directory: &Path, path: &str) -> Command {
        let mut command = Command::new("docker");
        command.args(["-H", self.docker.host(), "exec", "-w"]);
        command.arg(directory);
        for variable in [
            format!("PATH={path}"),
            format!("HOME={}", self.kit.path("").display()),
            format!("RBUILD_ROOT={}", self.kit.path("store").display()),
        ] {
            command.args(["-e", &variable]);
        }
        command.arg(name);
        command
    }
}
