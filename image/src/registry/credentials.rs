//! Logins from files as `docker login` and `podman login` write them, and from the helpers that these name; and
//! their keeping: [`keep`] and [`forget`].
//!
//! The first file that knows a host counts. In a file, `credHelpers` and `credsStore` come before `auths`.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rbuild_cache::whole::WholeFile;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Client, helper};
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::source::blocking;

const FILE_LIMIT_BYTES: u64 = 4 << 20;
/// Docker Hub's key in these files, for historical reasons.
const HUB_KEY: &str = "https://index.docker.io/v1/";
const HUB: &str = "docker.io";

/// Who we are to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    Password {
        user: String,
        password: String,
    },
    /// Exchanged for access tokens by OAuth2.
    IdentityToken(String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(secret)")
    }
}

/// Where a login was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Readable by whoever reads the file.
    Plain(PathBuf),
    Helper(String),
}

/// All files, in order.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    files: Vec<Known>,
}

#[derive(Default)]
struct Known {
    /// By host, or by host and the beginning of a repository.
    logins: HashMap<String, Login>,
    helpers: HashMap<String, String>,
    store: Option<String>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Known({} hosts)", self.logins.len())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: HashMap<String, Item>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Client {
    fn credentials(&self) -> &Arc<Credentials> {
        self.inner.credentials.get_or_init(|| {
            let files = self.inner.options.credential_files.iter();
            Arc::new(Credentials {
                files: files.map(|path| Known::read(path)).collect(),
            })
        })
    }

    /// The login for a reference's registry. Helpers are asked each time: what they give may not live long.
    pub(super) async fn login_for(&self, reference: &Reference) -> Result<Option<Login>> {
        if let Some(login) = &self.inner.login {
            return Ok(Some(login.clone()));
        }
        if self.inner.options.credential_files.is_empty() {
            return Ok(None);
        }
        let (registry, repository) = (reference.registry.clone(), reference.repository.clone());
        let credentials = Arc::clone(self.credentials());
        blocking(move || credentials.find(&registry, &repository)).await
    }
}

impl Credentials {
    fn find(&self, registry: &str, repository: &str) -> Result<Option<Login>> {
        for file in &self.files {
            if let Some(login) = file.find(registry, repository)? {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }
}

impl Known {
    /// A file that cannot be read knows nothing, and says so in the log.
    fn read(path: &Path) -> Self {
        match read(path).map(|bytes| bytes.map(|bytes| Self::parse(&bytes))) {
            Ok(None) => Self::default(),
            Ok(Some(Some(known))) => known,
            Ok(Some(None)) => {
                tracing::warn!(path = %path.display(), "credentials cannot be read: not the form of config.json");
                Self::default()
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "credentials cannot be read");
                Self::default()
            }
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let file: File = serde_json::from_slice(bytes).ok()?;
        let login = |(key, item): (String, Item)| Some((normalised(&key), item.login()?));
        Some(Self {
            logins: file.auths.into_iter().filter_map(login).collect(),
            helpers: file
                .cred_helpers
                .into_iter()
                .map(|(key, helper)| (normalised(&key), helper))
                .collect(),
            store: file.creds_store.filter(|store| !store.is_empty()),
        })
    }

    fn helper(&self, registry: &str) -> Option<&String> {
        self.helpers.get(registry).or(self.store.as_ref())
    }

    fn find(&self, registry: &str, repository: &str) -> Result<Option<Login>> {
        if let Some(helper) = self.helper(registry) {
            match helper::get(helper, key(registry)) {
                Ok(Some(login)) => return Ok(Some(login)),
                Ok(None) => {}
                // Named for this very host, its failure is what the user must know; otherwise others may help.
                Err(error) if self.helpers.contains_key(registry) => return Err(error),
                Err(error) => tracing::warn!(%error, "a credential helper is passed over"),
            }
        }
        // The most specific entry counts: of the repository, of what it is in, of the registry.
        let mut name = format!("{registry}/{repository}");
        loop {
            if let Some(login) = self.logins.get(&name) {
                return Ok(Some(login.clone()));
            }
            match name.rfind('/') {
                Some(slash) => name.truncate(slash),
                None => return Ok(None),
            }
        }
    }
}

impl Item {
    fn login(self) -> Option<Login> {
        if let Some(token) = self.identitytoken.filter(|token| !token.is_empty()) {
            return Some(Login::IdentityToken(token));
        }
        if let Some(auth) = self.auth.filter(|auth| !auth.is_empty()) {
            let decoded = STANDARD.decode(auth.trim()).ok()?;
            let text = String::from_utf8(decoded).ok()?;
            let (user, password) = text.split_once(':')?;
            // Docker pads passwords with zero bytes.
            return Some(Login::Password {
                user: user.to_owned(),
                password: password.trim_end_matches('\0').to_owned(),
            });
        }
        Some(Login::Password {
            user: self.username?,
            password: self.password?,
        })
    }
}

/// Keeps a login: with the helper that the file names, else in the file itself. Blocking.
pub fn keep(file: &Path, registry: &str, login: &Login) -> Result<Kept> {
    let mut document = document(file)?;
    if let Some(helper) = helper_of(&document, registry) {
        helper::store(&helper, key(registry), login)?;
        return Ok(Kept::Helper(helper));
    }
    let item = match login {
        Login::Password { user, password } => {
            json!({ "auth": STANDARD.encode(format!("{user}:{password}")) })
        }
        Login::IdentityToken(token) => json!({ "identitytoken": token }),
    };
    let auths = document.entry("auths").or_insert_with(|| json!({}));
    let Some(auths) = auths.as_object_mut() else {
        return Err(not_the_form(file));
    };
    auths.retain(|known, _| normalised(known) != registry);
    auths.insert(key(registry).to_owned(), item);
    write(file, &document)?;
    Ok(Kept::Plain(file.to_owned()))
}

/// Forgets a registry's login, in the helper and in the file; says whether the file had one or a helper was asked.
/// Blocking.
pub fn forget(file: &Path, registry: &str) -> Result<bool> {
    let mut document = document(file)?;
    let helper = helper_of(&document, registry);
    if let Some(helper) = &helper {
        helper::erase(helper, key(registry))?;
    }
    let mut found = helper.is_some();
    if let Some(auths) = document.get_mut("auths").and_then(Value::as_object_mut) {
        let before = auths.len();
        auths.retain(|known, _| normalised(known) != registry);
        if auths.len() != before {
            found = true;
            write(file, &document)?;
        }
    }
    Ok(found)
}

fn helper_of(document: &Map<String, Value>, registry: &str) -> Option<String> {
    let helpers = document.get("credHelpers").and_then(Value::as_object);
    let own = helpers.into_iter().flatten();
    let own = own
        .into_iter()
        .find(|(known, _)| normalised(known) == registry);
    let named = own.map(|(_, helper)| helper).or(document.get("credsStore"));
    let named = named.and_then(Value::as_str);
    named.filter(|name| !name.is_empty()).map(str::to_owned)
}

/// The file with all its fields, also those that are not ours.
fn document(file: &Path) -> Result<Map<String, Value>> {
    let bytes = read(file).map_err(|source| Error::Io {
        action: "read",
        path: file.display().to_string(),
        source,
    })?;
    let Some(bytes) = bytes.filter(|bytes| !bytes.trim_ascii().is_empty()) else {
        return Ok(Map::new());
    };
    serde_json::from_slice(&bytes).map_err(|_| not_the_form(file))
}

fn not_the_form(file: &Path) -> Error {
    Error::Credentials {
        what: format!("`{}`", file.display()),
        reason: "it has not the form of Docker's config.json: mend it, or move it away".to_owned(),
    }
}

fn read(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// In one step, and readable by its owner only.
fn write(file: &Path, document: &Map<String, Value>) -> Result<()> {
    let unwritable = |source| Error::Io {
        action: "write",
        path: file.display().to_string(),
        source,
    };
    // A symlink stays one.
    let target = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let directory = match target.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(unwritable)?;
    }
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(document, &mut serializer)
        .map_err(|error| unwritable(error.into()))?;
    let mut new = WholeFile::at(&target, 0o600).map_err(unwritable)?;
    new.write_all(&bytes).map_err(unwritable)?;
    new.file().sync_all().map_err(unwritable)?;
    new.finish().map_err(unwritable)
}

/// What a host is called in files and by helpers.
fn key(registry: &str) -> &str {
    match registry {
        HUB => HUB_KEY,
        other => other,
    }
}

/// A registry as people name it to `login`: a host, or an address of it. Docker Hub where there is none.
pub fn registry_name(text: &str) -> String {
    let name = normalised(text);
    match name.split('/').next() {
        Some("") | None => HUB.to_owned(),
        Some(host) => host.to_owned(),
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
        "index.docker.io" | "registry-1.docker.io" => HUB,
        other => other,
    };
    match repository {
        Some(repository) => format!("{host}/{repository}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn password(user: &str, password: &str) -> Login {
        Login::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn the_most_specific_entry_counts() {
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnA="},"r.example:5000":{"auth":"YTpi"},
            "r.example:5000/team":{"username":"t","password":"x:y"},"empty":{},
            "token.example":{"auth":"","identitytoken":"abc"}}}"#;
        let known = Known::parse(text.as_bytes()).unwrap();
        let find = |registry, repository| known.find(registry, repository).unwrap();
        assert_eq!(find("docker.io", "library/x"), Some(password("hub", "p")));
        assert_eq!(find("r.example:5000", "other/x"), Some(password("a", "b")));
        assert_eq!(find("r.example:5000", "team/x"), Some(password("t", "x:y")));
        assert_eq!(find("r.example", "x"), None);
        assert_eq!(find("empty", "x"), None);
        let token = Login::IdentityToken("abc".to_owned());
        assert_eq!(find("token.example", "x"), Some(token));
    }

    #[test]
    fn names_of_registries() {
        for (text, name) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("r.example:5000", "r.example:5000"),
            ("https://r.example/", "r.example"),
            ("http://r.example:1/v2/", "r.example:1"),
            ("r.example/team", "r.example"),
        ] {
            assert_eq!(registry_name(text), name, "{text}");
        }
    }

    #[test]
    fn keeping_and_forgetting_leave_the_rest_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("new/config.json");
        let login = password("u", "p:w");
        assert_eq!(
            keep(&file, "docker.io", &login).unwrap(),
            Kept::Plain(file.clone())
        );
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = r#"{"psFormat":"x","auths":{"https://r.example/v2/":{"auth":"YTpi"}},"z":[1]}"#;
        std::fs::write(&file, text).unwrap();
        keep(&file, "docker.io", &login).unwrap();
        keep(&file, "r.example", &login).unwrap();
        let read = || -> Value { serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap() };
        assert_eq!(
            read(),
            json!({"psFormat":"x", "auths": {
                HUB_KEY: {"auth": "dTpwOnc="}, "r.example": {"auth": "dTpwOnc="}}, "z": [1]})
        );
        assert!(forget(&file, "docker.io").unwrap());
        assert!(!forget(&file, "docker.io").unwrap());
        assert_eq!(read()["auths"], json!({"r.example": {"auth": "dTpwOnc="}}));
        std::fs::write(&file, "no json").unwrap();
        assert!(keep(&file, "docker.io", &login).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"no json");
    }
}
