//! `rbuild completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::exit::Exit;
use crate::stdio;

/// Print what makes a shell complete commands and flags
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    shell: Shell,
}

pub(crate) fn execute(args: &CompletionsArgs) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut crate::Cli::command(),
        "rbuild",
        &mut script,
    );
    stdio::out(script);
    Exit::Success
}
