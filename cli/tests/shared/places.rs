//! Where caches lie in these tests, and what a build says of its steps.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use crate::kit::programs::{Service, free_port, serve};
use crate::kit::{Kit, Output};

/// Debian's `redis-server`, with a password.
pub(crate) fn redis(directory: &Path) -> Service {
    let port = free_port();
    std::fs::create_dir_all(directory).unwrap();
    serve(
        Command::new("redis-server")
            .args([
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--requirepass",
                "secret",
            ])
            .args(["--port", &port.to_string()])
            .current_dir(directory),
        port,
    )
}

/// `s3rver` of npm, with the bucket `caches`.
pub(crate) fn s3(directory: &Path) -> Service {
    let port = free_port();
    std::fs::create_dir_all(directory).unwrap();
    serve(
        Command::new("s3rver")
            .args(["--address", "127.0.0.1", "--silent"])
            .args(["--port", &port.to_string(), "--directory"])
            .arg(directory)
            .args(["--configure-bucket", "caches"]),
        port,
    )
}

/// Passes connections on and counts what comes back.
pub(crate) struct Counter {
    pub(crate) port: u16,
    bytes: Arc<AtomicU64>,
}

impl Counter {
    pub(crate) fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&bytes);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                    continue;
                };
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || pass(back.0, back.1, &counted));
                std::thread::spawn(move || pass(client, server, &AtomicU64::new(0)));
            }
        });
        Self { port, bytes }
    }

    /// Bytes that came since the last time.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.swap(0, Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, counted: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        counted.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// The steps of the Dockerfile that ran.
pub(crate) fn ran(output: &Output) -> Vec<String> {
    let mut names = std::collections::HashMap::new();
    let mut ran = Vec::new();
    for line in output.stderr.lines() {
        let Some((number, rest)) = line.split_once(' ') else {
            continue;
        };
        if !number.starts_with('#') {
            continue;
        }
        if rest.starts_with('[') {
            names.insert(number, rest);
        }
        let is_done = rest.starts_with("DONE ");
        if let Some(name) = names.get(number).filter(|_| is_done)
            && ["] RUN ", "] COPY ", "] WORKDIR "]
                .iter()
                .any(|instruction| name.contains(instruction))
        {
            let (_, instruction) = name.split_once("] ").unwrap();
            ran.push(instruction.to_owned());
        }
    }
    ran.sort();
    ran
}

/// The digest of the image that the last build with `--metadata-file=metadata` made.
pub(crate) fn digest(kit: &Kit) -> String {
    let bytes = std::fs::read(kit.path("metadata")).unwrap();
    let metadata: Value = serde_json::from_slice(&bytes).unwrap();
    metadata["containerimage.digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// A build that must succeed, from an empty store.
#[track_caller]
pub(crate) fn fresh(kit: &Kit, dockerfile: &str, flags: &[&str]) -> Output {
    let store = kit.path("store");
    if store.exists() {
        kit.must(&["prune", "-a", "-f"]);
        std::fs::remove_dir_all(&store).unwrap();
    }
    let mut all = vec!["--metadata-file=metadata"];
    all.extend(flags);
    kit.must_build(dockerfile, &all)
}
