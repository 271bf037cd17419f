//! `rbuild commit`.

use rbuild_engine::containers::CommitRequest;
use rbuild_engine::image::Reference;

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{machine, stdio};

/// Make an image of a container
#[derive(Debug, clap::Args)]
pub(crate) struct CommitArgs {
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "NAME[:TAG]")]
    reference: Option<String>,
    #[arg(short, long, value_name = "AUTHOR", allow_hyphen_values = true)]
    author: Option<String>,
    #[arg(short, long, value_name = "MESSAGE", allow_hyphen_values = true)]
    message: Option<String>,
    /// A Dockerfile instruction that changes the config
    #[arg(short, long, value_name = "INSTRUCTION", allow_hyphen_values = true)]
    change: Vec<String>,
    /// Do not halt the container meanwhile with --pause=false
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pause: Option<bool>,
}

pub(crate) fn execute(args: &CommitArgs, global: &GlobalArgs) -> Result<Exit> {
    let reference: Option<Reference> = args.reference.as_deref().map(str::parse).transpose()?;
    let engine = machine::engine(global.options()?)?;
    let entry = engine.catalog().find(&args.container)?;
    let request = CommitRequest {
        reference,
        author: args.author.clone(),
        message: args.message.clone(),
        changes: args.change.clone(),
        pause: args.pause.unwrap_or(true),
    };
    let id = engine.commit_container(&entry, &request)?;
    stdio::out(format!("{id}\n"));
    Ok(Exit::Success)
}
