//! `rbuild update`.

use rbuild_engine::containers::Changes;

use crate::commands::run::{blocks, request};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::limits::CgroupArgs;

/// Change limits and restart policies of containers
#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    limits: CgroupArgs,
    /// Relative weight of what they read from and write to devices, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// What becomes of the containers when they end: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn execute(args: &UpdateArgs, global: &GlobalArgs) -> Result<Exit> {
    let mut limits = args.limits.limits()?;
    limits.blkio_weight = blocks::weight("--blkio-weight", args.blkio_weight)?;
    let changes = Changes {
        limits,
        restart: match args.restart.as_deref() {
            None => None,
            text => Some(request::restart(text)?),
        },
    };
    if changes == Changes::default() {
        return Err(Error::usage(
            "nothing is to be changed: give a limit, or --restart",
        ));
    }
    Ok(super::each(
        &super::catalog(global)?,
        &args.containers,
        |entry| {
            entry.update(&changes)?;
            Ok(())
        },
    ))
}
