//! Names and passwords from files as `docker login` and `podman login` write them. Read when first asked for.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use base64::Engine;
use serde::Deserialize;

use super::Client;

const FILE_LIMIT_BYTES: u64 = 4 << 20;

/// By host, or by host and the beginning of a repository.
#[derive(Default)]
pub(super) struct Credentials {
    known: HashMap<String, (String, String)>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({} hosts)", self.known.len())
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Item>,
}

#[derive(Deserialize)]
struct Item {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl Client {
    pub(super) fn credentials(&self) -> &Credentials {
        self.inner.credentials.get_or_init(|| {
            let mut credentials = Credentials::default();
            for path in &self.inner.options.credential_files {
                credentials.add(path);
            }
            credentials
        })
    }
}

impl Credentials {
    /// The most specific entry for a repository.
    pub(super) fn find(&self, registry: &str, repository: &str) -> Option<(&str, &str)> {
        let mut name = format!("{registry}/{repository}");
        loop {
            if let Some((user, password)) = self.known.get(&name) {
                return Some((user, password));
            }
            name.truncate(name.rfind('/')?);
        }
    }

    /// Adds what a file knows; a file that cannot be read knows nothing, and says so in the log.
    fn add(&mut self, path: &Path) {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(FILE_LIMIT_BYTES).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "credentials cannot be read");
                return;
            }
        }
        self.add_bytes(&bytes, path);
    }

    fn add_bytes(&mut self, bytes: &[u8], path: &Path) {
        let Ok(file) = serde_json::from_slice::<File>(bytes) else {
            tracing::warn!(path = %path.display(), "credentials cannot be read: not the form of config.json");
            return;
        };
        for (key, item) in file.auths {
            if let Some(login) = item.login() {
                self.known.entry(normalised(&key)).or_insert(login);
            }
        }
    }
}

impl Item {
    fn login(self) -> Option<(String, String)> {
        if let Some(auth) = self.auth.filter(|auth| !auth.is_empty()) {
            let decoded = base64::engine::general_purpose::STANDARD
                .decode(auth.trim())
                .ok()?;
            let text = String::from_utf8(decoded).ok()?;
            let (user, password) = text.split_once(':')?;
            // Docker pads passwords with zero bytes.
            return Some((user.to_owned(), password.trim_end_matches('\0').to_owned()));
        }
        Some((self.username?, self.password?))
    }
}

/// Keys are hosts, hosts with repositories, or addresses: `https://index.docker.io/v1/` is Docker Hub's.
fn normalised(key: &str) -> String {
    let (is_address, rest) = match key.split_once("://") {
        Some((_, rest)) => (true, rest),
        None => (false, key),
    };
    let mut rest = rest.trim_end_matches('/');
    if is_address || rest.ends_with("/v1") || rest.ends_with("/v2") {
        rest = rest.split('/').next().unwrap_or(rest);
    }
    let (host, repository) = match rest.split_once('/') {
        Some((host, repository)) => (host, Some(repository)),
        None => (rest, None),
    };
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    match repository {
        Some(repository) => format!("{host}/{repository}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_entry_counts() {
        let mut credentials = Credentials::default();
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnA="},"r.example:5000":{"auth":"YTpi"},
            "r.example:5000/team":{"username":"t","password":"x:y"},"empty":{}}}"#;
        credentials.add_bytes(text.as_bytes(), Path::new("config.json"));
        assert_eq!(
            credentials.find("docker.io", "library/x"),
            Some(("hub", "p"))
        );
        assert_eq!(
            credentials.find("r.example:5000", "other/x"),
            Some(("a", "b"))
        );
        assert_eq!(
            credentials.find("r.example:5000", "team/x"),
            Some(("t", "x:y"))
        );
        assert_eq!(credentials.find("r.example", "x"), None);
        assert_eq!(credentials.find("empty", "x"), None);
    }
}
