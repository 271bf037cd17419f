//! `rbuild kill`.

use rbuild_engine::containers::control::{Answer, Ask};

use crate::commands::run::request::signal_number;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;

const KILL: i32 = 9;

/// Send containers a signal
#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    /// By name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
}

pub(crate) fn execute(args: &KillArgs, global: &GlobalArgs) -> Result<Exit> {
    let signal = match args.signal.as_str() {
        "" => "KILL",
        given => given,
    };
    let number = signal_number("--signal", signal)?;
    Ok(super::each(
        &super::catalog(global)?,
        &args.containers,
        |entry| {
            let connection = entry.must_connect("kill")?;
            connection.ask(&Ask::Signal(number), &[])?;
            match connection.answer()? {
                Some((Answer::Failed { message, .. }, _)) => Err(Error::failed(message)),
                // The end of what answers is the end of the container, which is what was asked for.
                None if number != KILL => Err(Error::failed("the container ended meanwhile")),
                Some(_) | None => Ok(()),
            }
        },
    ))
}
