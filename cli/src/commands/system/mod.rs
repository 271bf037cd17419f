//! `system`: what the store as a whole takes, and removing what of it is not in use.

mod df;
mod prune;

use super::info;
use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum SystemCommand {
    Df(df::DfArgs),
    Prune(prune::SystemPruneArgs),
    Info(info::InfoArgs),
}

impl SystemCommand {
    pub(crate) fn execute(&self, global: &GlobalArgs) -> Result<Exit> {
        match self {
            Self::Df(args) => df::execute(args, global),
            Self::Prune(args) => prune::execute(args, global),
            Self::Info(args) => info::execute(args, global),
        }
    }
}
