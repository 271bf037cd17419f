//! `rbuild stop` and `restart`.

use rbuild_engine::containers::control::Ask;

use super::start;
use crate::commands::run::request::signal_number;
use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;

/// Stop containers: with their signal, and later with KILL
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    /// How long to wait before they are killed (default: 10); -1 is for ever
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    time: Option<i64>,
    /// Instead of the container's own stop signal
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
}

impl StopArgs {
    fn number(&self) -> Result<Option<i32>> {
        self.signal
            .as_deref()
            .filter(|signal| !signal.is_empty())
            .map(|signal| signal_number("--signal", signal))
            .transpose()
    }
}

pub(crate) fn execute(args: &StopArgs, global: &GlobalArgs) -> Result<Exit> {
    let signal = args.number()?;
    Ok(super::each(
        &super::catalog(global)?,
        &args.containers,
        |entry| {
            // One that does not run is stopped.
            if let Some(connection) = entry.connect()? {
                let seconds = args.time;
                connection.ask(&Ask::Stop { signal, seconds }, &[])?;
                // The end of the connection is as good as an answer: the container's process is gone.
                connection.answer()?;
            }
            Ok(())
        },
    ))
}

pub(crate) fn restart(args: &StopArgs, global: &GlobalArgs) -> Result<Exit> {
    let signal = args.number()?;
    let catalog = super::catalog(global)?;
    Ok(super::each(
        &catalog,
        &args.containers,
        |entry| match entry.connect()? {
            Some(connection) => {
                let seconds = args.time;
                connection.request(&Ask::Restart { signal, seconds })?;
                Ok(())
            }
            None => start::in_background(&entry, global),
        },
    ))
}
