//! `rbuild llb`: a Dockerfile as BuildKit's graph.

use std::io::IsTerminal;

use super::build::{self, BuildArgs};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{machine, stdio};

/// Write the operations of a build as BuildKit's LLB
///
/// In protobuf, to standard output. Takes the options of `build`. Base images are looked up as for a build; nothing
/// is run. For one platform.
#[derive(Debug, clap::Args)]
pub(crate) struct LlbArgs {
    #[command(flatten)]
    build: BuildArgs,
}

pub(crate) fn execute(args: &LlbArgs, global: &GlobalArgs) -> Result<Exit> {
    if let Some(flag) = args.build.writes() {
        return Err(Error::usage(format!(
            "{flag} has no place here: nothing is built"
        )));
    }
    if std::io::stdout().is_terminal() {
        return Err(Error::usage("a graph in protobuf is not for a terminal")
            .help("send it to a file or a pipe, as in `rbuild llb . > graph.pb`; `rbuild graph` draws it"));
    }
    let options = global.options()?;
    let request = build::build_request(&args.build)?;
    if request.platforms.len() > 1 {
        return Err(Error::usage(
            "a graph is for one platform: name one with --platform",
        ));
    }
    let graph = machine::with_engine(options, async |engine, cancel| {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(rbuild_engine::Error::Cancelled.into()),
            graph = engine.llb(&request) => Ok(graph?),
        }
    })?;
    stdio::out(graph);
    Ok(Exit::Success)
}
