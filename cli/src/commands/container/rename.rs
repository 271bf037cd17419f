//! `rbuild rename`.

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;

/// Give a container another name
#[derive(Debug, clap::Args)]
pub(crate) struct RenameArgs {
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "NAME")]
    name: String,
}

pub(crate) fn execute(args: &RenameArgs, global: &GlobalArgs) -> Result<Exit> {
    let catalog = super::catalog(global)?;
    let entry = catalog.find(&args.container)?;
    let name = args.name.strip_prefix('/').unwrap_or(&args.name);
    catalog.rename(&entry, name)?;
    Ok(Exit::Success)
}
