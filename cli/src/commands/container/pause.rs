//! `rbuild pause` and `unpause`.

use rbuild_engine::containers::control::Ask;

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;

/// Halt all processes of containers
#[derive(Debug, clap::Args)]
pub(crate) struct PauseArgs {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Let the processes of containers go on
#[derive(Debug, clap::Args)]
pub(crate) struct UnpauseArgs {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn execute(args: &PauseArgs, global: &GlobalArgs) -> Result<Exit> {
    freeze(&args.containers, true, global)
}

pub(crate) fn undo(args: &UnpauseArgs, global: &GlobalArgs) -> Result<Exit> {
    freeze(&args.containers, false, global)
}

fn freeze(containers: &[String], frozen: bool, global: &GlobalArgs) -> Result<Exit> {
    let action = if frozen { "pause" } else { "unpause" };
    Ok(super::each(&super::catalog(global)?, containers, |entry| {
        let connection = entry.must_connect(action)?;
        connection.request(&Ask::Freeze(frozen))?;
        Ok(())
    }))
}
