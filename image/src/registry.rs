//! The OCI distribution protocol: pulling and pushing over http and https.
//!
//! Redirects are followed by this code, never by the HTTP library, so that credentials stay with the host they are
//! for. What comes is bounded and compared with its digest by whoever asked. Requests that fail for reasons that pass
//! (connections, 429, 5xx) are tried again a few times; a blob that broke off goes on where it ended.
//!
//! * One request: `transport`; with which client, and by which scheme: `clients`; what the answer says, and whether
//!   it refuses: `answer`; how long is waited: `arriving`; whose certificates: `certificates`; tokens and challenges:
//!   `auth`; where passwords are kept: [`credentials`] and `helper`;
//! * pulling: `documents` (manifests, indexes, configs), `blobs`, `mirrors`; which tags there are: `tags`;
//! * pushing: [`push`] an image, `upload` a blob, `standby` where a part of one may be lost;
//! * files behind any address, for ADD: [`download`].

mod answer;
mod arriving;
mod auth;
mod blobs;
mod certificates;
mod clients;
pub mod credentials;
mod date;
mod direct;
mod documents;
pub mod download;
mod helper;
mod mirrors;
pub mod push;
mod standby;
mod tags;
mod transport;
mod upload;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use auth::{Access, Authorizations};
use clients::Clients;
use credentials::{Credentials, Login};
use reqwest::{Method, StatusCode};
use transport::Call;

use crate::reference::Reference;
use crate::{Error, Result};
pub(crate) use answer::passes;
pub(crate) use arriving::{Patience, Pulse};
pub(crate) use transport::{Failure, TRIES};

/// How registries are spoken to.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Hosts that may be spoken to without TLS, besides loopback.
    pub insecure: Vec<String>,
    /// How long a server may be silent. A minute where nothing is said.
    pub idle_timeout: Option<Duration>,
    /// Files of the form of `~/.docker/config.json`; the first that knows a host counts. Missing ones are empty.
    pub credential_files: Vec<PathBuf>,
    /// Directories as `/etc/docker/certs.d`: one directory a `HOST[:PORT]`, with `*.crt` (whom to trust besides the
    /// system's authorities) and `client.cert` with `client.key` (who we are).
    pub certificate_directories: Vec<PathBuf>,
    /// Files of authorities (PEM) that are trusted for every registry, besides the system's.
    pub authorities: Vec<PathBuf>,
    /// What `NO_PROXY` says; other variables of proxies are read by the HTTP library.
    pub no_proxy: String,
    /// By registry.
    pub registries: HashMap<String, RegistryOptions>,
}

/// How one registry is spoken to.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Where its images are looked for first: `HOST[:PORT][/PREFIX]`.
    pub mirrors: Vec<String>,
    /// A file of authorities (PEM) that are trusted for this host.
    pub authority: Option<PathBuf>,
}

/// Speaks to registries; keeps connections and tokens. Made lazily: a build that needs no registry pays nothing.
#[derive(Debug, Clone, Default)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    options: Options,
    clients: OnceLock<Clients>,
    authorizations: Authorizations,
    credentials: OnceLock<Arc<Credentials>>,
    /// Mirrors that failed: who waits for one once does not wait for each layer.
    done_without: Mutex<HashSet<String>>,
    /// Used instead of all that files know.
    login: Option<Login>,
}

impl Client {
    /// One that has spoken to nobody yet.
    pub fn new(options: Options) -> Self {
        Self {
            inner: Arc::new(Inner {
                options,
                ..Inner::default()
            }),
        }
    }

    /// Looks whether a registry accepts a login.
    pub async fn check_login(&self, registry: &str, login: &Login) -> Result<()> {
        let client = Self {
            inner: Arc::new(Inner {
                options: self.inner.options.clone(),
                login: Some(login.clone()),
                ..Inner::default()
            }),
        };
        let reference = Reference {
            registry: registry.to_owned(),
            repository: String::new(),
            tag: None,
            digest: None,
        };
        let base = client.base(&reference).await?;
        let url = base
            .join("/v2/")
            .map_err(|error| transport::failed(&base, error.to_string()))?;
        let mut call = Call::read(Method::GET, &reference, url);
        call.access = &Access::Login;
        let sent = client.send(&call).await;
        sent.map_err(|failure| match failure.status {
            Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Error::Credentials {
                what: registry.to_owned(),
                reason: "the registry does not accept this user and password".to_owned(),
            },
            _ => failure.error,
        })?;
        Ok(())
    }

    /// How it was told to speak to registries.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }
}
