//! `rbuild push`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_engine::image::registry::push::{Progress, State};
use rbuild_engine::image::signature::Place;
use rbuild_engine::image::{Descriptor, Reference};

use super::sign;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::no_effect::TrustArgs;
use crate::progress::Transfer;
use crate::{machine, stdio, values};

/// Send an image of the store to the registry of its name
#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    _trust: TrustArgs,
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
    /// Push all tags of the name
    #[arg(short, long)]
    all_tags: bool,
    /// Of an image for several platforms, only the one for this
    #[arg(long, value_name = "P")]
    platform: Option<String>,
    /// Sign what was pushed, with this private key
    #[arg(long, value_name = "KEY")]
    sign_by: Option<PathBuf>,
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
    let platform = args.platform.as_deref().map(values::platform).transpose()?;
    let quiet = args.quiet;
    let key = args.sign_by.as_deref().map(sign::private_key).transpose()?;
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
            let is_bare = reference.tag.is_none() && reference.digest.is_none();
            if is_bare && !args.all_tags {
                stdio::out("Using default tag: latest\n");
            }
            stdio::out(format!("The push refers to repository [{repository}]\n"));
        }
        for name in &names {
            let progress = progress(Arc::new(Transfer::new(quiet)));
            let pushing = engine.push(name, platform.as_ref(), &progress);
            let pushed = machine::unless_cancelled(&cancel, pushing).await?;
            let root = pushed.root;
            if let Some(key) = &key {
                let place = Place::Registry(Reference {
                    digest: Some(root.digest),
                    ..name.clone()
                });
                let nothing_else = BTreeMap::new();
                let signing = engine.sign(&place, key, &nothing_else);
                machine::unless_cancelled(&cancel, signing).await?;
            }
            if !pushed.left_out.is_empty() {
                let left_out = pushed.left_out.join(", ");
                stdio::err(format!(
                    "warning: `{}` is here without {left_out}: what is here was pushed, under another digest\n  \
                     help: `rbuild pull --all-platforms` brings the others\n",
                    name.familiar()
                ));
            }
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

pub(super) fn progress(shown: Arc<Transfer>) -> Progress {
    Arc::new(move |blob: &Descriptor, state: State| {
        // As Docker: the config goes along with the layers, unnamed.
        if blob.media_type.contains("config") || blob.media_type.contains("container.image") {
            return;
        }
        let digest = blob.digest.to_string();
        match state {
            State::Fetching(done) => shown.moved(&digest, "Downloading", done, blob.size),
            State::Sending(done) => shown.moved(&digest, "Pushing", done, blob.size),
            State::Exists => shown.done(&digest, "Layer already exists"),
            State::Mounted(from) => shown.done(&digest, &format!("Mounted from {from}")),
            State::Sent => shown.done(&digest, "Pushed"),
        }
    })
}
