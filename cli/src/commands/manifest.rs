//! `rbuild manifest inspect`.

use rbuild_engine::image::Reference;
use rbuild_engine::image::registry::Client;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{machine, stdio};

/// Look at manifests in registries
#[derive(Debug, clap::Args)]
pub(crate) struct ManifestArgs {
    #[command(subcommand)]
    command: ManifestCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ManifestCommand {
    /// Show the manifest or index that a name means in its registry
    Inspect {
        #[arg(value_name = "NAME[:TAG|@DIGEST]")]
        image: String,
        /// Also show its descriptor
        #[arg(short, long)]
        verbose: bool,
    },
}

pub(crate) fn execute(args: &ManifestArgs, global: &GlobalArgs) -> Result<Exit> {
    let ManifestCommand::Inspect { image, verbose } = &args.command;
    let reference: Reference = image
        .parse()
        .map_err(|error| Error::usage(format!("{error}")))?;
    let options = global.registry_options()?;
    let name = reference.canonical();
    let (descriptor, bytes) = machine::block_on(machine::Signals::Cancel, |cancel| async move {
        let client = Client::new(options);
        let fetching = async { Ok(client.manifest(&reference).await?) };
        machine::unless_cancelled(&cancel, fetching).await
    })?;
    let document: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::failed("the manifest cannot be read").because(error))?;
    let shown = match verbose {
        true => json!({"Ref": name, "Descriptor": descriptor, "Manifest": document}),
        false => document,
    };
    stdio::out(super::inspect::indented(&shown));
    Ok(Exit::Success)
}
