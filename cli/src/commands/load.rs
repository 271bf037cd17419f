//! `rbuild load`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use rbuild_engine::Engine;
use rbuild_engine::image::source::Platforms;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::machine::{self, Signals};
use crate::{stdio, values};

/// Take images from archives of `save`, Docker and OCI tools
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// The archive, or a directory of `podman save` or skopeo (default: standard input)
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// As Docker's: nothing but what was loaded is printed anyway
    #[arg(short, long)]
    quiet: bool,
    /// Only the images for these platforms, as in `linux/amd64,linux/arm64`
    #[arg(long, value_name = "P[,P...]")]
    platform: Vec<String>,
}

pub(crate) fn execute(args: &LoadArgs, global: &GlobalArgs) -> Result<Exit> {
    let platforms = match values::platforms(&args.platform)? {
        all if all.is_empty() => Platforms::All,
        some => Platforms::Some(some),
    };
    let engine = machine::engine(global.options()?)?;
    let names = match args.input.as_deref() {
        Some(path) if path != Path::new("-") => load(&engine, path, &platforms)?,
        _ => {
            // An archive is read in any order, so a stream is kept first; the guard takes it away.
            let directory = engine.store().temporary_directory()?;
            let path = directory.path().join("archive.tar");
            spool(&path)?;
            load(&engine, &path, &platforms).map_err(|error| of_stdin(error, &path))?
        }
    };
    machine::keep_within_limits(&engine);
    for name in names {
        let what = match name.starts_with("sha256:") {
            true => "Loaded image ID",
            false => "Loaded image",
        };
        stdio::out(format!("{what}: {name}\n"));
    }
    Ok(Exit::Success)
}

fn load(engine: &Engine, path: &Path, platforms: &Platforms) -> Result<Vec<String>> {
    machine::block_on(Signals::Cancel, async |cancel| {
        machine::unless_cancelled(&cancel, engine.load_platforms(path, platforms)).await
    })
}

/// An error that tells of what was given, and not of the file that it was kept in.
fn of_stdin(error: Error, path: &Path) -> Error {
    let Error::Engine(engine_error) = &error else {
        return error;
    };
    let path = path.display().to_string();
    let first: &dyn std::error::Error = engine_error;
    let chain = std::iter::successors(Some(first), |error| error.source());
    let words: Vec<String> = chain.map(ToString::to_string).collect();
    if !words.iter().any(|words| words.contains(&path)) {
        return error;
    }
    let mut told = words
        .into_iter()
        .map(|words| words.replace(&path, "standard input"));
    let first = told.next().unwrap_or_default();
    match told.reduce(|all, next| format!("{all}: {next}")) {
        Some(causes) => Error::failed(first).because(causes),
        None => Error::failed(first),
    }
}

fn spool(path: &Path) -> Result<()> {
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return Err(
            Error::failed("there is no archive: standard input is a terminal")
                .help("use --input FILE"),
        );
    }
    let mut file =
        std::fs::File::create_new(path).map_err(|error| Error::io("create", path, error))?;
    std::io::copy(&mut stdin, &mut file).map_err(|error| {
        Error::failed("cannot keep the archive from standard input").because(error)
    })?;
    Ok(())
}
