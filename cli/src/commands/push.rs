//! `rbuild push`.

use std::sync::Arc;

use rbuild_engine::image::registry::push::{Progress, State};
use rbuild_engine::image::{Descriptor, Reference};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::progress::Transfer;
use crate::{machine, stdio};

/// Send an image of the store to the registry of its name
#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
    /// Push all tags of the name
    #[arg(short, long)]
    all_tags: bool,
    /// Print only the name
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn execute(args: &PushArgs, global: &GlobalArgs) -> Result<Exit> {
    let reference: Reference = args
        .image
        .parse()
        .map_err(|error| Error::usage(format!("{error}")))?;
    if args.all_tags && (reference.tag.is_some() || reference.digest.is_some()) {
        return Err(Error::usage(
            "--all-tags: the name must have no tag and no digest",
        ));
    }
    let quiet = args.quiet;
    machine::with_engine(global.options()?, async |engine, cancel| {
        let names = match args.all_tags {
            true => engine.names_of(&reference)?,
            false => vec![reference.clone()],
        };
        if names.is_empty() {
            let repository = args.image.as_str();
            return Err(Error::failed(format!(
                "the store has no tag of `{repository}`"
            )));
        }
        if !quiet {
            let repository = format!("{}/{}", reference.registry, reference.repository);
            stdio::out(format!("The push refers to repository [{repository}]\n"));
        }
        for name in &names {
            let progress = progress(quiet);
            let pushing = engine.push(name, &progress);
            let root = machine::unless_cancelled(&cancel, pushing).await?;
            match (quiet, name.tag_or_default()) {
                (true, _) => stdio::out(format!("{}\n", name.canonical())),
                (false, tag) => {
                    let (digest, size) = (root.digest, root.size);
                    let tag = tag.map_or_else(|| digest.to_string(), str::to_owned);
                    stdio::out(format!("{tag}: digest: {digest} size: {size}\n"));
                }
            }
        }
        Ok(Exit::Success)
    })
}

fn progress(quiet: bool) -> Progress {
    let shown = Transfer::new(quiet);
    Arc::new(move |blob: &Descriptor, state: State| {
        // As Docker: the config goes along with the layers, unnamed.
        if blob.media_type.contains("config") || blob.media_type.contains("container.image") {
            return;
        }
        let digest = blob.digest.to_string();
        match state {
            State::Sending(done) => shown.moved(&digest, "Pushing", done, blob.size),
            State::Exists => shown.done(&digest, "Layer already exists"),
            State::Mounted(from) => shown.done(&digest, &format!("Mounted from {from}")),
            State::Sent => shown.done(&digest, "Pushed"),
        }
    })
}
