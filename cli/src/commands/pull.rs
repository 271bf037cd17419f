//! `rbuild pull`.

use std::sync::Arc;

use rbuild_engine::Engine;
use rbuild_engine::cache::images::StoredImage;
use rbuild_engine::image::source::{Platforms, Progress};
use rbuild_engine::image::{Platform, Reference};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::no_effect::TrustArgs;
use crate::progress::Transfer;
use crate::{machine, stdio, values};

/// Bring an image from its registry into the store
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    _trust: TrustArgs,
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
    /// Print only the name
    #[arg(short, long)]
    quiet: bool,
    /// For other platforms than this machine's, as in `linux/amd64,linux/arm64`
    #[arg(long, value_name = "P[,P...]")]
    platform: Vec<String>,
    /// For all platforms that the image has
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Pull all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
}

pub(crate) fn execute(args: &PullArgs, global: &GlobalArgs) -> Result<Exit> {
    let reference: Reference = args
        .image
        .parse()
        .map_err(|error| Error::usage(format!("{error}")))?;
    let platforms = match values::platforms(&args.platform)? {
        _ if args.all_platforms => Platforms::All,
        none if none.is_empty() => Platforms::Some(vec![Platform::host()]),
        some => Platforms::Some(some),
    };
    let is_bare = reference.tag.is_none() && reference.digest.is_none();
    if args.all_tags && !is_bare {
        return Err(Error::usage(
            "--all-tags: the name must have no tag and no digest",
        ));
    }
    machine::with_engine(global.options()?, async |engine, cancel| {
        if !args.all_tags {
            if is_bare && !args.quiet {
                stdio::out("Using default tag: latest\n");
            }
            one(&engine, &cancel, args, &reference, &platforms).await?;
            return Ok(Exit::Success);
        }
        let listing = engine.tags(&reference);
        let tags = machine::unless_cancelled(&cancel, listing).await?;
        for tag in tags {
            let reference = Reference {
                tag: Some(tag),
                ..reference.clone()
            };
            one(&engine, &cancel, args, &reference, &platforms).await?;
        }
        Ok(Exit::Success)
    })
}

async fn one(
    engine: &Engine,
    cancel: &CancellationToken,
    args: &PullArgs,
    reference: &Reference,
    platforms: &Platforms,
) -> Result<()> {
    let name = reference.canonical();
    if !args.quiet {
        let wanted = match (reference.tag_or_default(), &reference.digest) {
            (Some(tag), None) => tag.to_owned(),
            (_, Some(digest)) => digest.to_string(),
            (None, None) => String::new(),
        };
        let repository = match reference.registry.as_str() {
            "docker.io" => reference.repository.clone(),
            registry => format!("{registry}/{}", reference.repository),
        };
        stdio::out(format!("{wanted}: Pulling from {repository}\n"));
    }
    let shown = Arc::new(Transfer::new(args.quiet));
    let before = engine.find_image(&name).ok();
    let progress: Progress = Arc::new(move |blob, done, total| match done == total {
        true => shown.done(blob, "Pull complete"),
        false => shown.moved(blob, "Downloading", done, total),
    });
    let pulling = engine.pull_platforms(reference, platforms, progress);
    let (digest, only) = machine::unless_cancelled(cancel, pulling).await?;
    if let (Platforms::Some(wanted), Some(platform)) = (platforms, only)
        && !args.platform.is_empty()
        && let Some(wanted) = wanted.iter().find(|it| it.rank(&platform).is_none())
    {
        stdio::err(format!(
            "warning: `{}` is an image for {platform}, and --platform asks for {wanted}\n",
            reference.familiar()
        ));
    }
    let after = engine.find_image(&name).ok();
    if !args.quiet {
        let familiar = reference.familiar();
        stdio::out(format!("Digest: {digest}\n"));
        let blobs = |image: &Option<StoredImage>| image.as_ref().map(|image| image.blobs.len());
        let same = before.as_ref().map(|image| image.manifest) == Some(digest)
            && blobs(&before) == blobs(&after);
        let status = match same {
            true => "Image is up to date for",
            false => "Downloaded newer image for",
        };
        stdio::out(format!("Status: {status} {familiar}\n"));
    }
    stdio::out(format!("{name}\n"));
    Ok(())
}
