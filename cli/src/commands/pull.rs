//! `rbuild pull`.

use std::sync::Arc;

use rbuild_engine::image::Reference;
use rbuild_engine::image::source::Progress;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::progress::Transfer;
use crate::{machine, stdio, values};

/// Bring an image from its registry into the store
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
    /// Print only the name
    #[arg(short, long)]
    quiet: bool,
    #[arg(long, value_name = "P")]
    platform: Option<String>,
}

pub(crate) fn execute(args: &PullArgs, global: &GlobalArgs) -> Result<Exit> {
    let reference: Reference = args
        .image
        .parse()
        .map_err(|error| Error::usage(format!("{error}")))?;
    let platform = args.platform.as_deref().map(values::platform).transpose()?;
    let name = reference.canonical();
    let repository = reference.repository.clone();
    if let (false, Some(tag)) = (args.quiet, reference.tag_or_default()) {
        stdio::out(format!("{tag}: Pulling from {repository}\n"));
    }
    let shown = Arc::new(Transfer::new(args.quiet));
    let (digest, before) = machine::with_engine(global.options()?, async |engine, cancel| {
        let before = engine.find_image(&name).ok().map(|image| image.manifest);
        let progress: Progress = Arc::new(move |blob, done, total| match done == total {
            true => shown.done(blob, "Pull complete"),
            false => shown.moved(blob, "Downloading", done, total),
        });
        let pulling = engine.pull(&reference, platform.as_ref(), progress);
        let digest = machine::unless_cancelled(&cancel, pulling).await?;
        Ok((digest, before))
    })?;
    if !args.quiet {
        stdio::out(format!("Digest: {digest}\n"));
        let status = match before == Some(digest) {
            true => "Image is up to date for",
            false => "Downloaded newer image for",
        };
        stdio::out(format!("Status: {status} {}\n", args.image));
    }
    stdio::out(format!("{name}\n"));
    Ok(Exit::Success)
}
