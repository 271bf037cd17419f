//! `rbuild store check`.

use clap::Subcommand;
use rbuild_engine::cache::Store;

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{machine, stdio};

/// Look after the store
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Read everything again and say what is damaged
    Check {
        /// Put damaged things away, so that they are made again
        #[arg(long)]
        repair: bool,
    },
}

/// Fails where anything is damaged and stays so.
pub(crate) fn execute(args: &StoreArgs, global: &GlobalArgs) -> Result<Exit> {
    let StoreCommand::Check { repair } = args.command;
    let options = global.options()?;
    machine::enter()?;
    let findings = Store::look_after(&options.root, repair)?;
    for finding in &findings {
        let state = if finding.repaired {
            "repaired"
        } else {
            "damaged"
        };
        stdio::out(format!(
            "{state}: {}: {}\n",
            stdio::escape_line(&finding.what),
            stdio::escape_line(&finding.reason)
        ));
    }
    let damaged = findings.iter().filter(|finding| !finding.repaired).count();
    stdio::out(match (findings.len(), damaged) {
        (0, _) => "The store is whole.\n".to_owned(),
        (repaired, 0) => format!("Repaired {repaired}; the store is whole.\n"),
        (_, 1) => "1 thing is damaged; `store check --repair` puts it away.\n".to_owned(),
        (_, damaged) => {
            format!("{damaged} things are damaged; `store check --repair` puts them away.\n")
        }
    });
    Ok(if damaged == 0 {
        Exit::Success
    } else {
        Exit::Failed
    })
}
