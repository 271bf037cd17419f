//! The value of `RUN --mount=`: one CSV record of options, after expansion.

use crate::diagnostic::Diagnostic;
use crate::source::Span;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    /// As written; the executor's caller resolves it against WORKDIR. `None` only for secrets given as `env=`.
    pub target: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    Bind {
        from: Option<String>,
        source: String,
        writable: bool,
    },
    Cache {
        id: Option<String>,
        from: Option<String>,
        source: String,
        sharing: Sharing,
        readonly: bool,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    /// Size in bytes.
    Tmpfs { size: Option<u64> },
    Secret {
        id: String,
        env: Option<String>,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Ssh {
        id: Option<String>,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// Reads one `--mount` value. Errors point into `span`, the place of the raw value.
pub fn parse(_value: &str, _span: Span) -> Result<Mount, Box<Diagnostic>> {
    todo!()
}
