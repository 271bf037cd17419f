//! An ssh agent of this process, for keys that are given as files (`--ssh ID=KEY`). It lists its keys and signs with
//! them, and nothing else: nobody can take a key out, add one, or lock it. RUN and `git` reach it by a socket, as they
//! reach an agent of the machine's.
//!
//! Protocol: draft-ietf-sshm-ssh-agent. Keys are read in `key`.

mod key;
mod wire;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use key::{Key, KeyError};
use wire::{Reader, put_string, put_u32};

/// Larger requests are no requests: what is signed is a few hundred bytes.
const REQUEST_BYTES_MAX: u32 = 256 << 10;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Serves keys from when its socket is asked for until it is dropped.
#[derive(Debug)]
pub struct Agent {
    keys: Arc<[Key]>,
    serving: Mutex<Option<Serving>>,
}

impl Agent {
    /// Starts nothing yet: where requests are read, there may be no threads.
    pub fn new(keys: Vec<Key>) -> Self {
        Self {
            keys: keys.into(),
            serving: Mutex::default(),
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> std::io::Result<PathBuf> {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(serving) = &*serving {
            return Ok(socket_in(serving.directory.path()));
        }
        let started = Serving::start(&self.keys)?;
        let socket = socket_in(started.directory.path());
        *serving = Some(started);
        Ok(socket)
    }
}

#[derive(Debug)]
struct Serving {
    /// Only this user gets into it.
    directory: tempfile::TempDir,
    is_over: Arc<AtomicBool>,
}

impl Serving {
    /// Serves on a thread of its own.
    fn start(keys: &Arc<[Key]>) -> std::io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("rbuild-ssh-").tempdir()?;
        let listener = UnixListener::bind(socket_in(directory.path()))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, keys) = (Arc::clone(&is_over), Arc::clone(keys));
        std::thread::Builder::new()
            .name("ssh-agent".to_owned())
            .spawn(move || listen(&listener, &keys, &over))?;
        Ok(Self { directory, is_over })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // A connection wakes the thread, which then sees that it is over.
        let _ = UnixStream::connect(socket_in(self.directory.path()));
    }
}

fn socket_in(directory: &Path) -> PathBuf {
    directory.join("agent")
}

fn listen(listener: &UnixListener, keys: &Arc<[Key]>, is_over: &AtomicBool) {
    for connection in listener.incoming() {
        if is_over.load(Ordering::Acquire) {
            return;
        }
        let Ok(connection) = connection else {
            // Out of descriptors, say: others may be freed.
            std::thread::sleep(std::time::Duration::from_millis(50));
            continue;
        };
        let keys = Arc::clone(keys);
        let thread = std::thread::Builder::new().name("ssh-agent".to_owned());
        if let Err(error) = thread.spawn(move || serve(connection, &keys)) {
            tracing::warn!(%error, "nobody answers a connection to the ssh agent");
        }
    }
}

/// Answers until the other side ends.
fn serve(mut connection: UnixStream, keys: &[Key]) {
    let mut length = [0; 4];
    while connection.read_exact(&mut length).is_ok() {
        let length = u32::from_be_bytes(length);
        if length == 0 || length > REQUEST_BYTES_MAX {
            return;
        }
        let mut request = vec![0; length as usize];
        if connection.read_exact(&mut request).is_err() {
            return;
        }
        let mut answer = Vec::new();
        put_string(
            &mut answer,
            &answer_to(&request, keys).unwrap_or_else(|| vec![FAILURE]),
        );
        if connection.write_all(&answer).is_err() {
            return;
        }
    }
}

/// `None`: it cannot be done.
fn answer_to(request: &[u8], keys: &[Key]) -> Option<Vec<u8>> {
    let (kind, rest) = request.split_first()?;
    match *kind {
        REQUEST_IDENTITIES => {
            let mut answer = vec![IDENTITIES_ANSWER];
            put_u32(&mut answer, u32::try_from(keys.len()).ok()?);
            for key in keys {
                put_string(&mut answer, key.public());
                put_string(&mut answer, key.comment());
            }
            Some(answer)
        }
        SIGN_REQUEST => {
            let mut rest = Reader(rest);
            let public = rest.string()?;
            let data = rest.string()?;
            let flags = rest.u32()?;
            let key = keys.iter().find(|key| key.public() == public)?;
            let mut answer = vec![SIGN_RESPONSE];
            put_string(&mut answer, &key.sign(data, flags)?);
            Some(answer)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Runs a program of OpenSSH with an agent's socket; `None` where there is none.
    fn ssh(program: &str, arguments: &[&str], agent: &Agent, input: &[u8]) -> Option<String> {
        let child = Command::new(program)
            .args(arguments)
            .env("SSH_AUTH_SOCK", agent.socket().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            println!("SKIPPED: there is no `{program}`");
            return None;
        };
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
        Some(String::from_utf8(output.stdout).unwrap())
    }

    /// OpenSSH makes the keys, asks the agent to sign, and verifies.
    #[test]
    fn openssh_takes_what_it_signs() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for (kind, bits, format) in [
            ("ed25519", "256", "RFC4716"),
            ("rsa", "2048", "RFC4716"),
            ("rsa", "3072", "PEM"),
            ("rsa", "2048", "PKCS8"),
            ("ecdsa", "256", "RFC4716"),
            ("ecdsa", "384", "RFC4716"),
            ("ecdsa", "256", "PEM"),
            ("ecdsa", "384", "PEM"),
            ("ecdsa", "256", "PKCS8"),
            ("ecdsa", "384", "PKCS8"),
        ] {
            let what = format!("{kind} {bits} {format}");
            let file = path(&what);
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", kind, "-b", bits, "-m", format, "-N", "", "-f"])
                .arg(&file)
                .status();
            let Ok(made) = made else {
                println!("SKIPPED: there is no `ssh-keygen`");
                return;
            };
            assert!(made.success());
            let key = Key::parse(&std::fs::read(&file).unwrap());
            let key = key.unwrap_or_else(|error| panic!("{what}: {error}"));
            let agent = Agent::new(vec![key]);
            let Some(listed) = ssh("ssh-add", &["-L"], &agent, b"") else {
                return;
            };
            let public = format!("{file}.pub");
            let text = std::fs::read_to_string(&public).unwrap();
            let words = |text: &str| text.split(' ').take(2).collect::<Vec<_>>().join(" ");
            assert_eq!(words(listed.trim()), words(text.trim()), "{what}");
            let sign = ["-q", "-Y", "sign", "-n", "test", "-f", &public];
            let signature = ssh("ssh-keygen", &sign, &agent, b"what is signed").unwrap();
            std::fs::write(path("signature"), signature).unwrap();
            let signature = path("signature");
            let check = ["-Y", "check-novalidate", "-n", "test", "-s", &signature];
            ssh("ssh-keygen", &check, &agent, b"what is signed").unwrap();
            let socket = agent.socket().unwrap();
            drop(agent);
            assert!(!socket.exists());
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let parsed = |text: &str| Key::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(parsed("hello").contains("no private key"));
        assert!(parsed("ssh-ed25519 AAAA me").contains("no private key"));
        let encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        assert!(parsed(encrypted).contains("passphrase"));
        for kind in ["OPENSSH", "RSA", "EC", ""] {
            let kind = format!("{kind} PRIVATE KEY");
            let kind = kind.trim();
            for body in ["", "AAAA", "====", "b3BlbnNzaC1rZXktdjEA", "MIIB"] {
                parsed(&format!(
                    "-----BEGIN {kind}-----\n{body}\n-----END {kind}-----"
                ));
            }
        }
    }

    #[test]
    fn a_request_that_is_none_is_answered_so() {
        let none: [Key; 0] = [];
        for request in [
            &[][..],
            &[0],
            &[SIGN_REQUEST],
            &[SIGN_REQUEST, 0xff, 0xff, 0xff, 0xff, 1],
            &[SIGN_REQUEST, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[17, 0, 0, 0, 0],
        ] {
            assert_eq!(answer_to(request, &none), None, "{request:?}");
        }
        let listed = answer_to(&[REQUEST_IDENTITIES], &none);
        assert_eq!(listed, Some(vec![IDENTITIES_ANSWER, 0, 0, 0, 0]));
    }
}
