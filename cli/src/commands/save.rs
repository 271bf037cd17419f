//! `rbuild save`.

use std::io::IsTerminal;
use std::path::PathBuf;

use rbuild_engine::image::export::Sink;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::machine;

/// Write images to an archive that `load`, Docker and OCI tools read
#[derive(Debug, clap::Args)]
pub(crate) struct SaveArgs {
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The file to write (default: standard output)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn execute(args: &SaveArgs, global: &GlobalArgs) -> Result<Exit> {
    let engine = machine::engine(global.options()?)?;
    match &args.output {
        Some(path) => engine.save(&args.images, Sink::File(path))?,
        None => {
            let mut stdout = std::io::stdout().lock();
            if stdout.is_terminal() {
                return Err(
                    Error::failed("the archive will not be written to a terminal")
                        .help("use --output FILE, or redirect standard output"),
                );
            }
            engine.save(&args.images, Sink::Stream(&mut stdout))?;
        }
    }
    Ok(Exit::Success)
}
