//! `rbuild kill`.

use rbuild_engine::containers::control::Ask;

use crate::commands::run::request::signal_number;
use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;

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
            connection.request(&Ask::Signal(number))?;
            Ok(())
        },
    ))
}
