//! Why the engine could not do what it was asked.

use std::sync::Arc;

use rbuild_executor::Exit;
use rbuild_parser::{Diagnostic, Source};

use crate::DebugShell;

/// A diagnostic and the text it points into.
#[derive(Debug, Clone)]
pub struct Located {
    pub source: Arc<Source>,
    pub diagnostic: Diagnostic,
}

/// Why what was asked for was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile is wrong: all mistakes of one run, warnings among them.
    #[error("the Dockerfile has mistakes")]
    Dockerfile(Vec<Located>),
    /// A step failed.
    #[error("{}", .0.located.diagnostic.message)]
    Step(Box<StepFailure>),
    /// A wrong option or argument that only the engine could see.
    #[error("{0}")]
    Usage(String),
    #[error("{message}")]
    Io {
        message: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Image(#[from] rbuild_image::Error),
    /// Of a name, an ID or a digest.
    #[error("there is no image `{0}` in the store")]
    NoImage(String),
    #[error("{message}")]
    NotPulled {
        message: String,
        #[source]
        source: Box<Error>,
    },
    #[error(transparent)]
    Store(#[from] rbuild_cache::store::Error),
    /// Of `run`: the sandbox or the program.
    #[error(transparent)]
    Exec(#[from] rbuild_executor::sandbox::ExecError),
    /// What the store knows of a container, a volume or a network cannot be read.
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Other(String),
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// Of a pull of an image that the store does not have.
    pub(crate) fn of_missing(self, name: &str) -> Self {
        Self::NotPulled {
            message: format!("the image `{name}` is not in the store and cannot be pulled"),
            source: Box::new(self),
        }
    }
}

/// An error's words with those of its causes, in one line. Transparent errors repeat their cause: said once.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !words.contains(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        next = cause.source();
    }
    words
}

/// A step that failed: where it stands, how it ended, and what it printed last.
#[derive(Debug)]
pub struct StepFailure {
    pub located: Located,
    /// `[build 2/4] RUN make`
    pub name: String,
    /// Of commands that ran.
    pub exit: Option<Exit>,
    /// The last lines of its output.
    pub output: Vec<u8>,
    /// Where it was asked for: a shell on what the step left.
    pub shell: Option<Box<DebugShell>>,
    pub cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
    /// What else the Dockerfile was suspected of; `located` has what may be why.
    pub warnings: Vec<Located>,
}

/// With this crate's error, unless another one is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;
