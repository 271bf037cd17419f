//! Why a step failed, before it is joined with its place in the Dockerfile.

use std::sync::Arc;

use rbuild_executor::Exit;

/// What the worker's errors carry to [`crate::error::StepFailure`].
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// Stable kebab-case name of the kind of failure.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) help: Vec<String>,
    /// The word of the instruction that it is about. One pointer: failures are returned by value.
    pub(crate) word: Option<Arc<String>>,
    pub(crate) exit: Option<Exit>,
    /// The last lines that a command printed.
    pub(crate) output: Vec<u8>,
    pub(crate) cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause
            .as_ref()
            .map(|cause| &**cause as &(dyn std::error::Error + 'static))
    }
}

impl Failure {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            help: Vec::new(),
            word: None,
            exit: None,
            output: Vec::new(),
            cause: None,
        }
    }

    /// Keeps the error's words as message, and the error for what caused it.
    pub(crate) fn of(
        code: &'static str,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self {
            cause: Some(Arc::new(error)),
            ..Self::new(code, "")
        }
        .with_message_of_cause()
    }

    /// With words of its own for what `cause` led to.
    pub(crate) fn caused(
        code: &'static str,
        message: impl Into<String>,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self {
            cause: Some(Arc::new(cause)),
            ..Self::new(code, message)
        }
    }

    /// Points at a word of the instruction, where it stands there as it is.
    #[must_use]
    pub(crate) fn about(mut self, word: impl Into<String>) -> Self {
        self.word = Some(Arc::new(word.into()));
        self
    }

    fn with_message_of_cause(mut self) -> Self {
        if let Some(cause) = &self.cause {
            self.message = cause.to_string();
        }
        self
    }

    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    pub(crate) fn cancelled() -> Self {
        Self::new("cancelled", "cancelled")
    }
}

impl From<rbuild_cache::Error> for Failure {
    fn from(error: rbuild_cache::Error) -> Self {
        Self::of("store", error)
    }
}

impl From<rbuild_image::Error> for Failure {
    fn from(error: rbuild_image::Error) -> Self {
        Self::of("image", error)
    }
}
