//! `rbuild save`.

use std::io::IsTerminal;
use std::path::PathBuf;

use rbuild_engine::image::export::Sink;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::machine;

/// Write images to an archive for `load`, Docker and OCI tools
#[derive(Debug, clap::Args)]
pub(crate) struct SaveArgs {
    /// Names or IDs; a name without a tag stands for all its tags
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The file to write (default: standard output)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn execute(args: &SaveArgs, global: &GlobalArgs) -> Result<Exit> {
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(
            Error::failed("the archive will not be written to a terminal")
                .help("use --output FILE, or redirect standard output"),
        );
    }
    machine::with_engine(global.options()?, async |engine, cancel| {
        let finding = engine.to_save(&args.images);
        let images = machine::unless_cancelled(&cancel, finding).await?;
        match &args.output {
            Some(path) => engine.save(&images, Sink::File(path))?,
            None => engine.save(&images, Sink::Stream(&mut std::io::stdout().lock()))?,
        }
        Ok(Exit::Success)
    })
}
