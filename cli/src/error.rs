//! What a command can fail with, before it is drawn by [`crate::render`].

use std::fmt;

use rbuild_engine as engine;

use crate::exit::Exit;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub(crate) enum Error {
    /// A flag or argument that makes no sense: exit code 2.
    Usage(Message),
    /// Anything else that the command line found itself.
    Failed(Message),
    /// From the engine; may carry places in a Dockerfile.
    Engine(engine::Error),
    /// `run` failed before or at the start of the command: exit codes 125 to 127.
    Run(u8, Box<Error>),
}

/// What happened, why, and what to do.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) text: String,
    pub(crate) help: Vec<String>,
    pub(crate) source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(Message::new(text))
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::Failed(Message::new(text))
    }

    /// A flag or form that the contract knows and this version cannot do: said, never ignored.
    pub(crate) fn unsupported(what: impl fmt::Display) -> Self {
        Self::failed(format!("{what} is not supported yet"))
    }

    pub(crate) fn io(
        action: &str,
        path: impl AsRef<std::path::Path>,
        source: std::io::Error,
    ) -> Self {
        Self::failed(format!("cannot {action} `{}`", path.as_ref().display())).because(source)
    }

    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        if let Self::Usage(message) | Self::Failed(message) = &mut self {
            message.help.push(help.into());
        }
        self
    }

    #[must_use]
    pub(crate) fn because(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        if let Self::Usage(message) | Self::Failed(message) = &mut self {
            message.source = Some(source.into());
        }
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Engine(engine::Error::Usage(_)) => Exit::Usage,
            Self::Engine(
                engine::Error::Cancelled
                | engine::Error::Exec(engine::executor::sandbox::ExecError::Cancelled),
            ) => Exit::Interrupted,
            Self::Failed(_) | Self::Engine(_) => Exit::Failed,
            Self::Run(code, error) => match error.exit() {
                interrupted @ Exit::Interrupted => interrupted,
                _ => Exit::Command(*code),
            },
        }
    }
}

impl Message {
    fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            help: Vec::new(),
            source: None,
        }
    }
}

impl From<engine::Error> for Error {
    fn from(error: engine::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<engine::image::Error> for Error {
    fn from(error: engine::image::Error) -> Self {
        Self::Engine(engine::Error::Image(error))
    }
}

impl From<engine::cache::Error> for Error {
    fn from(error: engine::cache::Error) -> Self {
        Self::Engine(engine::Error::Store(error))
    }
}
