//! Where images of a registry are looked for first, and when that is given up.

use std::sync::PoisonError;

use super::Client;
use crate::error::Error;
use crate::reference::Reference;

/// Tries of a request to a mirror: behind it is the registry itself.
pub(super) const MIRROR_TRIES: u32 = 1;

impl Client {
    /// Does not ask a mirror again.
    pub(super) fn do_without(&self, mirror: &Reference) {
        let done_without = self.inner.done_without.lock();
        let mut done_without = done_without.unwrap_or_else(PoisonError::into_inner);
        done_without.insert(mirror.registry.clone());
    }

    /// The same image where mirrors of its registry have it.
    pub(super) fn mirrors(&self, reference: &Reference) -> Vec<Reference> {
        let options = self.inner.options.registries.get(&reference.registry);
        let mirrors = options.map(|options| options.mirrors.as_slice());
        let done_without = self.inner.done_without.lock();
        let done_without = done_without.unwrap_or_else(PoisonError::into_inner);
        mirrors
            .unwrap_or_default()
            .iter()
            .map(|mirror| {
                let mirror = mirror.trim_end_matches('/');
                let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
                let mut repository = reference.repository.clone();
                if !prefix.is_empty() {
                    repository = format!("{prefix}/{repository}");
                }
                Reference {
                    registry: host.to_owned(),
                    repository,
                    ..reference.clone()
                }
            })
            .filter(|mirror| !done_without.contains(&mirror.registry))
            .collect()
    }

    /// A mirror that lacks something may have another thing. One that fails otherwise is not asked again.
    pub(super) fn pass_over(&self, mirror: &Reference, error: &Error) {
        tracing::info!(%mirror, %error, "a mirror is passed over");
        if !matches!(error, Error::NotFound(_)) {
            self.do_without(mirror);
        }
    }
}
