//! The OCI distribution protocol: pulling over http and https.
//!
//! Redirects are followed by this code, never by the HTTP library, so that credentials stay with the host they are
//! for. What comes is bounded and compared with its digest by whoever asked. Requests that fail for reasons that pass
//! (connections, 429, 5xx) are tried again a few times; a blob that broke off goes on where it ended.
//!
//! One request: `transport`. Tokens and challenges: `auth`. Names and passwords: `credentials`. Manifests and blobs:
//! `pull`. Files behind any address, for ADD: [`file`].

mod auth;
mod credentials;
pub mod file;
mod pull;
mod transport;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use auth::Authorizations;
use credentials::Credentials;
use transport::Transport;

/// How registries are spoken to.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Hosts that may be spoken to without TLS, besides loopback.
    pub insecure: Vec<String>,
    /// Total time a request may stall.
    pub idle_timeout: Option<Duration>,
    /// Files of the form of `~/.docker/config.json`; the first that knows a host counts. Missing ones are empty.
    pub credential_files: Vec<PathBuf>,
}

/// Speaks to registries; keeps connections and tokens. Made lazily: a build that needs no registry pays nothing.
#[derive(Debug, Clone, Default)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    options: Options,
    transport: OnceLock<Transport>,
    authorizations: Authorizations,
    credentials: OnceLock<Credentials>,
}

impl Client {
    pub fn new(options: Options) -> Self {
        Self {
            inner: Arc::new(Inner {
                options,
                ..Inner::default()
            }),
        }
    }

    pub fn options(&self) -> &Options {
        &self.inner.options
    }
}
