//! Credential helpers: programs `docker-credential-NAME` that keep logins elsewhere (a keyring, a cloud's tool).
//! Asked with one word as argument and one document on standard input; given little time and little room.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::credentials::Login;
use crate::error::{Error, Result, shown};

/// A helper may ask a keyring or a cloud; more than this is no answer.
const TIME_LIMIT: Duration = Duration::from_secs(60);
const OUTPUT_LIMIT_BYTES: u64 = 1 << 20;
/// How helpers call a user whose secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// How helpers say that they know nothing of a host.
const NOT_FOUND: &str = "credentials not found";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    #[serde(rename = "ServerURL", default)]
    server: String,
    username: String,
    secret: String,
}

/// What a helper knows of a host. Blocking.
pub(super) fn get(helper: &str, server: &str) -> Result<Option<Login>> {
    let answer = run(helper, "get", server.as_bytes())?;
    if !answer.success {
        if answer.said.to_ascii_lowercase().contains(NOT_FOUND) {
            return Ok(None);
        }
        return Err(failed(helper, answer.said));
    }
    let document: Document = serde_json::from_slice(&answer.output)
        .map_err(|_| failed(helper, "its answer cannot be read".to_owned()))?;
    if document.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(match document.username.as_str() {
        TOKEN_USER => Login::IdentityToken(document.secret),
        _ => Login::Password {
            user: document.username,
            password: document.secret,
        },
    }))
}

/// Gives a login to a helper. Blocking.
pub(super) fn store(helper: &str, server: &str, login: &Login) -> Result<()> {
    let (user, secret) = match login {
        Login::Password { user, password } => (user.as_str(), password),
        Login::IdentityToken(token) => (TOKEN_USER, token),
    };
    let document = Document {
        server: server.to_owned(),
        username: user.to_owned(),
        secret: secret.clone(),
    };
    let input = serde_json::to_vec(&document).unwrap_or_default();
    let answer = run(helper, "store", &input)?;
    match answer.success {
        true => Ok(()),
        false => Err(failed(helper, answer.said)),
    }
}

/// Makes a helper forget a host; one that knew nothing is no error. Blocking.
pub(super) fn erase(helper: &str, server: &str) -> Result<()> {
    let answer = run(helper, "erase", server.as_bytes())?;
    match answer.success || answer.said.to_ascii_lowercase().contains(NOT_FOUND) {
        true => Ok(()),
        false => Err(failed(helper, answer.said)),
    }
}

struct Answer {
    success: bool,
    output: Vec<u8>,
    /// Its words, where it did not succeed.
    said: String,
}

fn run(helper: &str, action: &str, input: &[u8]) -> Result<Answer> {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if helper.is_empty() || !helper.bytes().all(name) {
        return Err(failed(
            helper,
            "that is not the name of a helper".to_owned(),
        ));
    }
    let io = |source: std::io::Error| Error::Io {
        action: "run the credential helper",
        path: format!("docker-credential-{helper}"),
        source,
    };
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io)?;
    let ended = converse(&mut child, input);
    if ended.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(io)?;
    let (output, errors) = ended.map_err(|reason| failed(helper, reason))?;
    // Helpers complain on standard output.
    let words = if output.is_empty() { &errors } else { &output };
    Ok(Answer {
        success: status.success(),
        said: shown(words.trim_ascii()),
        output,
    })
}

/// Feeds and drains a child, all pipes at once. The error says why it is to be killed.
fn converse(child: &mut Child, input: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let deadline = Instant::now() + TIME_LIMIT;
    let (sender, receiver) = mpsc::channel();
    let pipe = |is_output: bool, pipe: Option<Box<dyn Read + Send>>| {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(pipe) = pipe {
                let _ = pipe.take(OUTPUT_LIMIT_BYTES + 1).read_to_end(&mut bytes);
            }
            let _ = sender.send((is_output, bytes));
        });
    };
    pipe(true, child.stdout.take().map(|pipe| Box::new(pipe) as _));
    pipe(false, child.stderr.take().map(|pipe| Box::new(pipe) as _));
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A helper that does not read its input says why on its output.
        std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
    }
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let left = deadline.saturating_duration_since(Instant::now());
        let (is_output, bytes) = receiver
            .recv_timeout(left)
            .map_err(|_| format!("it did not end within {} seconds", TIME_LIMIT.as_secs()))?;
        if bytes.len() as u64 > OUTPUT_LIMIT_BYTES {
            return Err("it answers without end".to_owned());
        }
        match is_output {
            true => output = bytes,
            false => errors = bytes,
        }
    }
    Ok((output, errors))
}

fn failed(helper: &str, reason: String) -> Error {
    Error::Credentials {
        what: format!("the credential helper `{}`", shown(helper.as_bytes())),
        reason,
    }
}
