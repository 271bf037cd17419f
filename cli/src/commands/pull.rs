//! `rbuild pull`.

use rbuild_engine::image::Reference;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{machine, stdio, values};

/// Bring an image from its registry into the store
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
    /// Print only the name
    #[arg(short, long)]
    quiet: bool,
    #[arg(long, value_name = "P")]
    platform: Option<String>,
}

pub(crate) fn execute(args: &PullArgs, global: &GlobalArgs) -> Result<Exit> {
    let reference: Reference = args
        .image
        .parse()
        .map_err(|error| Error::usage(format!("{error}")))?;
    let platform = args.platform.as_deref().map(values::platform).transpose()?;
    let name = reference.canonical();
    let digest = machine::with_engine(global.options()?, async |engine, cancel| {
        machine::unless_cancelled(&cancel, engine.pull(&reference, platform.as_ref())).await
    })?;
    if !args.quiet {
        stdio::out(format!("Digest: {digest}\n"));
    }
    stdio::out(format!("{name}\n"));
    Ok(Exit::Success)
}
