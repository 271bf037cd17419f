//! `rbuild diff`.

use rbuild_engine::containers::Change;

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{machine, stdio};

/// Show what a container added (A), changed (C), deleted (D)
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    #[arg(value_name = "CONTAINER")]
    container: String,
}

pub(crate) fn execute(args: &DiffArgs, global: &GlobalArgs) -> Result<Exit> {
    let engine = machine::engine(global.options()?)?;
    let entry = engine.catalog().find(&args.container)?;
    for (path, change) in engine.container_changes(&entry)? {
        let letter = match change {
            Change::Added => 'A',
            Change::Changed => 'C',
            Change::Deleted => 'D',
        };
        stdio::out(format!("{letter} /{}\n", stdio::escape_line(&path)));
    }
    Ok(Exit::Success)
}
