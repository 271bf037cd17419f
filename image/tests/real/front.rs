//! What stands before a real registry: it asks for tokens that expire, fails now and then, and writes down what it
//! was asked for. A request that it does not answer itself goes on to the registry.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn authorization(&self) -> &str {
        self.headers.get("authorization").map_or("", String::as_str)
    }
}

/// What happens to a request instead of going on.
pub(crate) enum Fate {
    /// Status and headers, with an empty body.
    Answer(u16, Vec<String>),
    /// Status and error code, in the specification's form.
    Refuse(u16, &'static str),
    /// The connection ends without an answer.
    Reset,
    /// It goes on, a little later.
    Late(Duration),
    /// It goes on, and the last byte of what comes back is another.
    Lie,
    /// It goes on, and what comes back lacks a header.
    Without(&'static str),
}

/// What becomes of the registry's answer.
type Change = dyn Fn(&mut Vec<u8>);

/// Called with the request and how many came before it.
pub(crate) type Hook = dyn Fn(&Asked, usize) -> Option<Fate> + Send + Sync;

/// Tokens for whoever asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tokens {
    pub(crate) live: Duration,
    /// What is said of that.
    pub(crate) said_seconds: Option<u64>,
    /// No token at all is given to who wants more than one repository.
    pub(crate) one_scope_each: bool,
}

pub(crate) struct Front {
    pub(crate) port: u16,
    state: Arc<State>,
}

struct State {
    registry: u16,
    port: u16,
    tokens: Option<Tokens>,
    hook: Box<Hook>,
    log: Mutex<Vec<Asked>>,
    issued: Mutex<Vec<(String, Instant)>>,
}

impl Front {
    pub(crate) fn start(registry: u16, tokens: Option<Tokens>, hook: Box<Hook>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            registry,
            port,
            tokens,
            hook,
            log: Mutex::default(),
            issued: Mutex::default(),
        });
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || {
                    // What ends early is for the client to notice.
                    let _ = served.serve(client);
                });
            }
        });
        Self { port, state }
    }

    pub(crate) fn log(&self) -> Vec<Asked> {
        self.state.log.lock().unwrap().clone()
    }

    pub(crate) fn issued(&self) -> usize {
        self.state.issued.lock().unwrap().len()
    }
}

impl State {
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        // It does not speak TLS, and says so at once.
        let mut first = [0];
        if client.peek(&mut first)? == 0 || first == [0x16] {
            return Ok(());
        }
        let asked = read(&client)?;
        let before = {
            let mut log = self.log.lock().unwrap();
            log.push(asked.clone());
            log.len() - 1
        };
        let mut changes: Option<Box<Change>> = None;
        match (self.hook)(&asked, before) {
            Some(Fate::Lie) => {
                changes = Some(Box::new(|answer| {
                    if let Some(last) = answer.last_mut() {
                        *last ^= 1;
                    }
                }));
            }
            Some(Fate::Without(header)) => {
                changes = Some(Box::new(|answer| without(answer, header)));
            }
            Some(Fate::Reset) => return Ok(()),
            Some(Fate::Answer(status, headers)) => {
                return answer(&mut client, status, &headers, b"");
            }
            Some(Fate::Refuse(status, code)) => {
                let body = format!(r#"{{"errors":[{{"code":"{code}","message":"so"}}]}}"#);
                return answer(&mut client, status, &[], body.as_bytes());
            }
            Some(Fate::Late(by)) => std::thread::sleep(by),
            None => {}
        }
        if let Some(tokens) = self.tokens {
            if asked.path.starts_with("/token") {
                if tokens.one_scope_each && asked.path.matches("scope=").count() > 1 {
                    return answer(&mut client, 403, &[], b"{}");
                }
                let mut issued = self.issued.lock().unwrap();
                let token = format!("token-{}", issued.len());
                issued.push((token.clone(), Instant::now() + tokens.live));
                let said = tokens.said_seconds;
                let said = said.map_or(String::new(), |said| format!(",\"expires_in\":{said}"));
                let body = format!("{{\"token\":\"{token}\"{said}}}");
                return answer(&mut client, 200, &[], body.as_bytes());
            }
            let given = asked.authorization().strip_prefix("Bearer ");
            let issued = self.issued.lock().unwrap().clone();
            let is_good = issued
                .iter()
                .any(|(token, until)| Some(token.as_str()) == given && *until > Instant::now());
            if !is_good {
                let challenge = format!(
                    "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{}/token\",service=\"front\"",
                    self.port
                );
                return answer(&mut client, 401, &[challenge], b"{}");
            }
        }
        self.pass_on(client, &asked, changes.as_deref())
    }

    fn pass_on(
        &self,
        mut client: TcpStream,
        asked: &Asked,
        changes: Option<&Change>,
    ) -> std::io::Result<()> {
        let mut registry = TcpStream::connect(("127.0.0.1", self.registry))?;
        let mut head = format!("{} {} HTTP/1.1\r\n", asked.method, asked.path);
        for (name, value) in &asked.headers {
            if !["authorization", "connection"].contains(&name.as_str()) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str("connection: close\r\n\r\n");
        registry.write_all(head.as_bytes())?;
        registry.write_all(&asked.body)?;
        if let Some(changes) = changes {
            let mut answer = Vec::new();
            registry.read_to_end(&mut answer)?;
            changes(&mut answer);
            return client.write_all(&answer);
        }
        std::io::copy(&mut registry, &mut client)?;
        Ok(())
    }
}

fn without(answer: &mut Vec<u8>, header: &str) {
    let text = String::from_utf8_lossy(answer).into_owned();
    let (head, _) = text.split_once("\r\n\r\n").unwrap();
    let kept: Vec<&str> = head
        .split("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with(header))
        .collect();
    let kept = kept.join("\r\n").into_bytes();
    answer.splice(..head.len(), kept);
}

fn read(client: &TcpStream) -> std::io::Result<Asked> {
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        let all = headers.entry(name.to_ascii_lowercase()).or_default();
        if !all.is_empty() {
            all.push_str(", ");
        }
        all.push_str(value.trim());
    }
    let length = headers
        .get("content-length")
        .map(|text| text.parse().unwrap());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    if headers.remove("transfer-encoding").is_some() {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            let start = body.len();
            body.resize(start + length, 0);
            reader.read_exact(&mut body[start..])?;
            line.clear();
            reader.read_line(&mut line)?;
            if length == 0 {
                break;
            }
        }
        headers.insert("content-length".to_owned(), body.len().to_string());
    }
    Ok(Asked {
        method,
        path,
        headers,
        body,
    })
}

fn answer(
    client: &mut TcpStream,
    status: u16,
    headers: &[String],
    body: &[u8],
) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {status} So\r\ncontent-length: {}\r\nconnection: close\r\n",
        body.len()
    );
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    client.write_all(format!("{head}\r\n").as_bytes())?;
    client.write_all(body)
}
