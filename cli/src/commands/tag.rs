//! `rbuild tag`.

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::machine;

/// Give an image another name
#[derive(Debug, clap::Args)]
pub(crate) struct TagArgs {
    /// A name, an ID, the beginning of one, or a digest
    source: String,
    /// The new name
    #[arg(value_name = "NAME[:TAG]")]
    target: String,
}

pub(crate) fn execute(args: &TagArgs, global: &GlobalArgs) -> Result<Exit> {
    let target = super::build::tag("the new name", &args.target)?;
    machine::engine(global.options()?)?.tag(&args.source, &target)?;
    Ok(Exit::Success)
}
