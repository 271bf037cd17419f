//! The process as a whole: its private namespaces, its id maps and its spawner.

/// What this process may do about ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Root of the host: a private mount namespace.
    Root,
    /// An ordinary user with subordinate ids: a user namespace with 65536 ids or more.
    Subordinate,
    /// An ordinary user without: a user namespace with one id; ownership changes inside succeed without effect.
    SingleId,
}

/// Made once by [`init`]; cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {}

/// Why the process could not be set up; says what the machine lacks and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct InitError {
    pub step: &'static str,
    /// What to do about it.
    pub advice: &'static str,
    #[source]
    pub source: std::io::Error,
}

/// Moves this process into its private namespaces and forks the spawner. Must be called from `main` before any
/// thread exists; in an ordinary user's process, also before anything in the store is touched.
pub fn init() -> Result<Host, InitError> {
    todo!()
}

impl Host {
    pub fn privilege(&self) -> Privilege {
        todo!()
    }
}
