//! `rbuild debug`.

use std::sync::Arc;

use rbuild_engine::{Point, When};

use super::build::{self, BuildArgs};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::progress::Renderer;
use crate::{machine, stdio};

/// Open a shell before or after a step of a build
///
/// Takes the options of `build`. What the step needs is built, or found in the cache; then the shell has the step's
/// root, mounts, variables, user and directory. Nothing that is changed in it is kept. Exits with the shell's code.
#[derive(Debug, clap::Args)]
pub(crate) struct DebugArgs {
    /// A line of the Dockerfile, `#3` as progress counts steps, or words of a step's name
    step: String,
    /// As the step finds it
    #[arg(long, conflicts_with = "after")]
    before: bool,
    /// As the step leaves it
    #[arg(long)]
    after: bool,
    #[command(flatten)]
    build: BuildArgs,
}

pub(crate) fn execute(args: &DebugArgs, global: &GlobalArgs) -> Result<Exit> {
    if let Some(flag) = args.build.writes() {
        return Err(Error::usage(format!(
            "{flag} has no place here: nothing leaves the store"
        )));
    }
    let when = match (args.before, args.after) {
        (true, _) => When::Before,
        (false, true) => When::After,
        (false, false) => {
            return Err(Error::usage(
                "--before or --after is missing: is the shell to be before the step, or after it?",
            ));
        }
    };
    let mode = build::mode(&args.build)?;
    let options = global.options()?;
    let request = build::build_request(&args.build)?;
    build::shell::require_terminal("debug")?;
    let point = Point {
        step: args.step.clone(),
        when,
    };
    let exit = machine::with_engine(options, async |engine, cancel| {
        let renderer = Arc::new(Renderer::new(mode));
        let shell = engine
            .debug(request, &point, renderer.clone(), cancel.clone())
            .await;
        renderer.finish(shell.is_ok());
        let shell = shell?;
        let when = match when {
            When::Before => "before",
            When::After => "after",
        };
        let place = format!("{when} `{}`", stdio::escape_line(shell.name()));
        build::shell::open(shell, &place, cancel).await
    })?;
    Ok(Exit::of_command(exit))
}
