//! `rbuild rmi`, `image rm`.

use rbuild_engine::Error as EngineError;
use rbuild_engine::images::Removed;

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{machine, render, stdio};

/// Remove images, or names of images
#[derive(Debug, clap::Args)]
pub(crate) struct RmiArgs {
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove an ID with all its names; what is not there fails nothing
    #[arg(short, long)]
    force: bool,
    /// As Docker's; the store keeps no untagged parents
    #[arg(long)]
    no_prune: bool,
}

/// Removes all that can be removed, and fails where one could not.
pub(crate) fn execute(args: &RmiArgs, global: &GlobalArgs) -> Result<Exit> {
    // Docker has the flag. Nothing but what is named is removed with it or without.
    let _ = args.no_prune;
    let engine = machine::engine(global.options()?)?;
    let mut exit = Exit::Success;
    for name in &args.images {
        match engine.remove_image(name, args.force) {
            Ok(removed) => {
                for one in removed {
                    stdio::out(match one {
                        Removed::Untagged(name) => format!("Untagged: {name}\n"),
                        Removed::Deleted(digest) => format!("Deleted: {digest}\n"),
                    });
                }
            }
            Err(error) => {
                let is_missing = matches!(error, EngineError::NoImage(_));
                stdio::err(render::failure(&error.into(), stdio::err_is_coloured()));
                // With force, what is not there is as it should be.
                if !(args.force && is_missing) {
                    exit = Exit::Failed;
                }
            }
        }
    }
    Ok(exit)
}
