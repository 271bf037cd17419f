//! Docker's daemon, for what is checked against it.

use crate::kit::Kit;
use crate::kit::programs::run;

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
        let mut process = std::process::Command::new("dockerd")
            .args([
                "--data-root",
                &path("docker"),
                "--exec-root",
                &path("docker-exec"),
            ])
            .args(["-p", &path("docker.pid"), "-H", &host])
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .arg("--storage-driver=vfs")
            .stdout(std::process::Stdio::null())
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
    let asked = std::process::Command::new("docker")
        .args(["-H", host, "version"])
        .output();
    asked.is_ok_and(|output| output.status.success())
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It takes its containerd along.
        let id = self.process.id().to_string();
        let _ = std::process::Command::new("kill").arg(&id).status();
        let _ = self.process.wait();
    }
}
