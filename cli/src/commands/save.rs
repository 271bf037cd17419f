//! `rbuild save`.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd as _;
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
        let output = args.output.clone();
        // Its lock would be held as long as that takes.
        let stdout = std::io::stdout().as_fd().try_clone_to_owned();
        let mut stdout = File::from(
            stdout.map_err(|error| Error::failed("cannot write the archive").because(error))?,
        );
        // Not on this thread: whoever reads the archive may do so slowly, or not at all, and this one hears of signals.
        let writing = tokio::task::spawn_blocking(move || match &output {
            Some(path) => engine.save(&images, Sink::File(path)),
            None => engine.save(&images, Sink::Stream(&mut stdout)),
        });
        let written = async {
            let written = writing.await;
            written.map_err(|error| rbuild_engine::Error::Other(error.to_string()))?
        };
        machine::unless_cancelled(&cancel, written).await?;
        Ok(Exit::Success)
    })
}
