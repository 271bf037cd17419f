//! The OCI distribution protocol: pulling over http and https.

use std::time::Duration;

/// How registries are spoken to.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Hosts that may be spoken to without TLS, besides loopback.
    pub insecure: Vec<String>,
    /// Total time a request may stall.
    pub idle_timeout: Option<Duration>,
}

/// Speaks to registries; keeps connections and tokens. Made lazily: a build that needs no registry pays nothing.
#[derive(Debug, Clone, Default)]
pub struct Client {
    options: Options,
}

impl Client {
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }
}
