//! `buildx` and `builder`: the commands on builds under the names that Docker has for them.

use super::{build, du, prune, version};
use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum BuilderCommand {
    #[command(visible_alias = "b")]
    Build(Box<build::BuildArgs>),
    Du(du::DuArgs),
    Prune(prune::CachePruneArgs),
    Version(version::VersionArgs),
}

impl BuilderCommand {
    pub(crate) fn execute(self, global: &GlobalArgs) -> Result<Exit> {
        match self {
            Self::Build(args) => build::execute(&args, global),
            Self::Du(args) => du::execute(&args, global),
            Self::Prune(args) => prune::cache(&args, global),
            Self::Version(args) => version::execute(&args),
        }
    }
}
