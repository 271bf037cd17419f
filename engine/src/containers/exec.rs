//! `exec`: a further process in a container that runs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What is to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecRequest {
    pub argv: Vec<String>,
    /// Replaces and adds to the container's.
    pub env: Vec<String>,
    pub user: Option<String>,
    pub workdir: Option<PathBuf>,
    pub privileged: bool,
    /// Rows and columns of a terminal of its own.
    pub terminal: Option<(u16, u16)>,
    /// Nobody waits for it.
    pub detach: bool,
}
