//! A registry made here that fails and lies.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as the fake registry sees it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Told instead of the body's own length.
    pub(crate) length: Option<usize>,
    /// So many bytes of the body at once, and a pause after each.
    pub(crate) pace: Option<(usize, Duration)>,
    /// Neither the rest nor the end ever comes.
    pub(crate) hangs: bool,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            length: None,
            pace: None,
            hangs: false,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn without(mut self, header: &str) -> Self {
        self.headers.retain(|(name, _)| name != header);
        self
    }

    pub(crate) fn paced(mut self, bytes: usize, pause: Duration) -> Self {
        self.pace = Some((bytes, pause));
        self
    }

    /// Only so many bytes of the body come, and then nothing.
    pub(crate) fn hanging_after(mut self, bytes: usize) -> Self {
        self.length = Some(self.body.len());
        self.body.truncate(bytes);
        self.hangs = true;
        self
    }

    /// Nothing comes.
    pub(crate) fn silent() -> Self {
        Self {
            hangs: true,
            ..Self::new(0)
        }
    }
}

pub(crate) type Hook = dyn Fn(&Request, &Fake) -> Option<Answer> + Send + Sync;

/// Serves one layout under `/v2/r/`; the hook may answer first.
pub(crate) struct Fake {
    pub(crate) layout: PathBuf,
    pub(crate) manifest: String,
    pub(crate) port: u16,
    pub(crate) log: Mutex<Vec<Request>>,
    /// How bodies of requests are read: so many bytes, and a pause after each.
    pub(crate) taking: Mutex<Option<(usize, Duration)>>,
}

/// Until the other side is tired of it.
fn hang(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

impl Fake {
    pub(crate) fn start(layout: PathBuf, hook: Box<Hook>) -> Arc<Self> {
        Self::start_at("127.0.0.1", layout, hook)
    }

    /// At one of this machine's own addresses.
    pub(crate) fn start_at(address: &str, layout: PathBuf, hook: Box<Hook>) -> Arc<Self> {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        let fake = Arc::new(Self {
            layout,
            manifest: index["manifests"][0]["digest"].as_str().unwrap().to_owned(),
            port: listener.local_addr().unwrap().port(),
            log: Mutex::default(),
            taking: Mutex::default(),
        });
        let (server, hook) = (Arc::clone(&fake), Arc::new(hook));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, hook) = (Arc::clone(&server), Arc::clone(&hook));
                std::thread::spawn(move || server.serve(stream, hook.as_ref()));
            }
        });
        fake
    }

    pub(crate) fn name(&self) -> String {
        format!("127.0.0.1:{}/r:latest", self.port)
    }

    /// The digest of the largest blob.
    pub(crate) fn largest(&self) -> String {
        let blobs = std::fs::read_dir(self.layout.join("blobs/sha256")).unwrap();
        let blobs = blobs.map(|blob| blob.unwrap());
        let largest = blobs.max_by_key(|blob| blob.metadata().unwrap().len());
        format!("sha256:{}", largest.unwrap().file_name().display())
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.log
            .lock()
            .unwrap()
            .iter()
            .filter(|request| request.path.contains(part))
            .count()
    }

    fn serve(&self, stream: TcpStream, hook: &Hook) {
        // It does not speak TLS, and says so at once.
        let mut first = [0];
        if stream.peek(&mut first).unwrap_or(0) == 0 || first == [0x16] {
            return;
        }
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        loop {
            let mut line = Vec::new();
            if reader.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            let parts: Vec<&str> = line.split_whitespace().collect();
            let [method, path, version] = parts[..] else {
                return;
            };
            if !version.starts_with("HTTP/") {
                return;
            }
            let mut headers = HashMap::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                    break;
                }
                if let Some((name, value)) = line.split_once(':') {
                    headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
                }
            }
            let request = Request {
                method: method.to_owned(),
                path: path.to_owned(),
                headers,
            };
            if !self.takes(&request, &mut reader) {
                return;
            }
            self.log.lock().unwrap().push(request.clone());
            let answer = hook(&request, self).unwrap_or_else(|| self.usual(&request));
            let length = answer.length.unwrap_or(answer.body.len());
            if answer.status == 0 {
                hang(stream);
                return;
            }
            let mut head = format!(
                "HTTP/1.1 {} X\r\nContent-Length: {length}\r\n",
                answer.status
            );
            for (name, value) in &answer.headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str("\r\n");
            let _ = stream.write_all(head.as_bytes());
            if request.method != "HEAD" {
                let (size, pause) = answer.pace.unwrap_or((usize::MAX, Duration::ZERO));
                for piece in answer.body.chunks(size) {
                    if stream.write_all(piece).is_err() {
                        return;
                    }
                    std::thread::sleep(pause);
                }
            }
            if answer.hangs {
                hang(stream);
                return;
            }
            if length != answer.body.len() {
                return;
            }
        }
    }

    /// Reads a body, as slowly as `taking` says.
    fn takes(&self, request: &Request, reader: &mut impl Read) -> bool {
        let length = request.headers.get("content-length");
        let mut left: usize = length.map_or(0, |text| text.parse().unwrap());
        let taking = *self.taking.lock().unwrap();
        let (size, pause) = taking.unwrap_or((1 << 20, Duration::ZERO));
        let mut buffer = vec![0; size];
        while left > 0 {
            let most = left.min(size);
            let Ok(count @ 1..) = reader.read(&mut buffer[..most]) else {
                return false;
            };
            left -= count;
            std::thread::sleep(pause);
        }
        true
    }

    pub(crate) fn usual(&self, request: &Request) -> Answer {
        let Some((kind, name)) = request
            .path
            .strip_prefix("/v2/r/")
            .and_then(|rest| rest.split_once('/'))
        else {
            return Answer::new(404);
        };
        let digest = if name == "latest" {
            &self.manifest
        } else {
            name
        };
        let path = self
            .layout
            .join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:"));
        let Ok(bytes) = std::fs::read(path) else {
            return Answer::new(404);
        };
        let range = request.headers.get("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        if let Some(start) = range {
            let total = bytes.len();
            return Answer::new(206)
                .header(
                    "Content-Range",
                    format!("bytes {start}-{}/{total}", total - 1),
                )
                .body(bytes[start..].to_vec());
        }
        let media_type = match kind {
            "manifests" => "application/vnd.oci.image.manifest.v1+json",
            _ => "application/octet-stream",
        };
        Answer::new(200)
            .header("Content-Type", media_type)
            .header("Docker-Content-Digest", digest)
            .body(bytes)
    }
}
