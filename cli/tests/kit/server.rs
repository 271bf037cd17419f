//! A web server on loopback that says what it was asked for.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// What a path gives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    pub(crate) body: Vec<u8>,
    /// Further headers, as in `ETag: "1"`. With one of those, requests that know it get no body.
    pub(crate) headers: Vec<String>,
    /// 200 where it is 0.
    pub(crate) status: u16,
}

#[derive(Debug, Default)]
struct State {
    pages: HashMap<String, Page>,
    /// Below it, files are served that are no pages.
    directory: Option<PathBuf>,
    /// Status and path, in order.
    log: Vec<(u16, String)>,
    /// Values of `Authorization`.
    authorizations: Vec<String>,
}

/// Ends with the test's process.
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    address: String,
}

impl Server {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || answer(&stream, &served));
            }
        });
        Self { state, address }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn page(&self, path: &str, page: Page) {
        let mut state = self.state.lock().unwrap();
        state.pages.insert(path.to_owned(), page);
    }

    pub(crate) fn text(&self, path: &str, body: impl AsRef<[u8]>, headers: &[&str]) {
        let page = Page {
            body: body.as_ref().to_vec(),
            headers: headers.iter().map(|&header| header.to_owned()).collect(),
            status: 0,
        };
        self.page(path, page);
    }

    pub(crate) fn redirect(&self, path: &str, to: &str) {
        let page = Page {
            headers: vec![format!("Location: {to}")],
            status: 302,
            ..Page::default()
        };
        self.page(path, page);
    }

    pub(crate) fn directory(&self, directory: PathBuf) {
        self.state.lock().unwrap().directory = Some(directory);
    }

    /// What was asked for since the last time, as `200 /path`.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = std::mem::take(&mut self.state.lock().unwrap().log);
        log.iter()
            .map(|(status, path)| format!("{status} {path}"))
            .collect()
    }

    pub(crate) fn authorizations(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().authorizations)
    }
}

fn answer(stream: &TcpStream, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        headers.iter().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let target = request.split(' ').nth(1).unwrap_or("/").to_owned();
    let path = target.split('?').next().unwrap_or("/").to_owned();
    let mut state = state.lock().unwrap();
    state.authorizations.extend(header("authorization"));
    let page = state.pages.get(&path).cloned().or_else(|| {
        let directory = state.directory.as_ref()?;
        let body = std::fs::read(directory.join(path.trim_start_matches('/'))).ok()?;
        Some(Page {
            body,
            ..Page::default()
        })
    });
    let mut page = page.unwrap_or(Page {
        status: 404,
        ..Page::default()
    });
    let knows = |name: &str, asked: &str| {
        let own = page.headers.iter().find_map(|line| line.strip_prefix(name));
        own.is_some() && own.map(|own| own.trim_start_matches(": ")) == header(asked).as_deref()
    };
    let status = if knows("ETag", "if-none-match") || knows("Last-Modified", "if-modified-since") {
        page.body.clear();
        304
    } else if page.status == 0 {
        200
    } else {
        page.status
    };
    state.log.push((status, target));
    drop(state);
    let mut answer = format!("HTTP/1.1 {status} Words\r\nConnection: close\r\n");
    for line in &page.headers {
        answer.push_str(line);
        answer.push_str("\r\n");
    }
    answer.push_str(&format!("Content-Length: {}\r\n\r\n", page.body.len()));
    let mut stream = stream;
    let sent = stream
        .write_all(answer.as_bytes())
        .and_then(|()| stream.write_all(&page.body));
    // A client that has seen enough may be gone.
    sent.unwrap_or_default();
}
