//! The real registry on a port of its own, and a proxy that cuts connections at random bytes.
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod front;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::kit::{Kit, random};

/// `user:secret`, hashed with bcrypt.
pub(crate) const HTPASSWD: &str =
    "user:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

pub(crate) struct Registry {
    pub(crate) port: u16,
    process: Child,
}

impl Registry {
    /// `more` is added to its configuration: lines of `http:`, or sections.
    pub(crate) fn start(kit: &Kit, more: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let config = kit.path("registry.yml");
        let storage = kit.path("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: 127.0.0.1:{port}\n{more}",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..1200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { port, process }
    }

    /// Whether another tool reads an image whole.
    pub(crate) fn skopeo_reads(&self, name: &str) -> bool {
        let to = tempfile::tempdir().unwrap();
        let copied = Command::new("skopeo")
            .args(["copy", "-q", "--insecure-policy", "--src-tls-verify=false"])
            .arg(format!("docker://127.0.0.1:{}/{name}", self.port))
            .arg(format!("oci:{}:x", to.path().join("layout").display()))
            .status();
        copied.unwrap().success()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A certificate for 127.0.0.1 that is its own authority, and its key.
pub(crate) fn certificate(kit: &Kit) -> (PathBuf, PathBuf) {
    let (certificate, key) = (kit.path("own.crt"), kit.path("own.key"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=registry"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    (certificate, key)
}

/// Cuts every connection after a random number of bytes from the client; counts them.
pub(crate) struct CuttingProxy {
    pub(crate) port: u16,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    cuts: AtomicU64,
}

impl CuttingProxy {
    pub(crate) fn start(to: u16, mean: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts = Arc::new(Counts::default());
        let server = Arc::clone(&counts);
        std::thread::spawn(move || {
            let mut state = 42;
            for client in listener.incoming().flatten() {
                let Ok(upstream) = TcpStream::connect(("127.0.0.1", to)) else {
                    continue;
                };
                let limit = random(&mut state) % (2 * mean);
                let (back, counts) = (
                    (upstream.try_clone().unwrap(), client.try_clone().unwrap()),
                    Arc::clone(&server),
                );
                std::thread::spawn(move || pass(back.0, back.1, u64::MAX, &Counts::default()));
                std::thread::spawn(move || pass(client, upstream, limit, &counts));
            }
        });
        Self { port, counts }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn cuts(&self) -> u64 {
        self.counts.cuts.load(Ordering::Relaxed)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, limit: u64, counts: &Counts) {
    let mut buffer = vec![0; 64 << 10];
    let mut left = limit;
    while left > 0 {
        let Ok(count @ 1..) = from.read(&mut buffer) else {
            break;
        };
        let count = count.min(usize::try_from(left).unwrap_or(usize::MAX));
        counts.sent.fetch_add(count as u64, Ordering::Relaxed);
        left -= count as u64;
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    if left == 0 {
        counts.cuts.fetch_add(1, Ordering::Relaxed);
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
