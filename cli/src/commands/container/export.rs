//! `rbuild export`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use rbuild_engine::cache::whole::WholeFile;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::machine;

/// Write a container's root file system as a tar
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn execute(args: &ExportArgs, global: &GlobalArgs) -> Result<Exit> {
    let output = match &args.output {
        Some(path) => {
            let path = std::path::absolute(path).map_err(|error| Error::io("find", path, error))?;
            Some(path)
        }
        None if std::io::stdout().is_terminal() => {
            return Err(Error::usage("an archive is not for a terminal")
                .help("name a file with -o FILE, or redirect standard output"));
        }
        None => None,
    };
    let engine = machine::engine(global.options()?)?;
    let entry = engine.catalog().find(&args.container)?;
    match output {
        None => {
            let mut out = std::io::BufWriter::new(std::io::stdout().lock());
            engine.export_container(&entry, &mut out)?;
            out.flush()
                .map_err(|error| Error::failed("cannot write to standard output").because(error))?;
        }
        Some(path) => {
            let failed = |error| Error::io("write", &path, error);
            let file = WholeFile::at(&path, 0o644).map_err(failed)?;
            let mut out = std::io::BufWriter::new(file);
            engine.export_container(&entry, &mut out)?;
            let file = out
                .into_inner()
                .map_err(|error| failed(error.into_error()))?;
            file.finish().map_err(failed)?;
        }
    }
    Ok(Exit::Success)
}
