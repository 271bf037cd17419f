//! `rbuild cp`.

use std::path::PathBuf;

use rbuild_engine::containers::CopyOptions;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::machine;

/// Copy files out of a container, or into one
///
/// CONTAINER:PATH names what is in a container; `-` is a tar on standard output, or on standard input.
#[derive(Debug, clap::Args)]
pub(crate) struct CpArgs {
    /// What to copy; of a directory with `/.` at its end only what it holds
    #[arg(value_name = "SOURCE")]
    source: String,
    #[arg(value_name = "DESTINATION")]
    destination: String,
    /// Keep the owners
    #[arg(short, long)]
    archive: bool,
    /// Follow the link that the source is
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// As Docker's: nothing but errors is printed anyway
    #[arg(short, long)]
    quiet: bool,
}

/// `CONTAINER:PATH`; `None` for paths of the host.
fn in_container(text: &str) -> Option<(&str, &str)> {
    if text.starts_with(['/', '.']) {
        return None;
    }
    text.split_once(':').filter(|(name, _)| !name.contains('/'))
}

pub(crate) fn execute(args: &CpArgs, global: &GlobalArgs) -> Result<Exit> {
    let options = CopyOptions {
        archive: args.archive,
        follow: args.follow_link,
    };
    let (from, to) = (in_container(&args.source), in_container(&args.destination));
    let absolute = |text: &str| -> Result<PathBuf> {
        let path = std::path::absolute(text).map_err(|error| Error::io("find", text, error))?;
        // `/.` and `/` at the end have a meaning, and `absolute` takes them away.
        Ok(if text.ends_with("/.") || text == "." {
            path.join(".")
        } else if text.ends_with('/') {
            path.join("")
        } else {
            path
        })
    };
    if let Some((name, _)) = from.or(to).filter(|(_, path)| path.is_empty()) {
        return Err(Error::usage(format!(
            "`{name}:`: the path in the container is missing; `/` is its root"
        )));
    }
    let engine = match (from, to) {
        (Some(_), None) | (None, Some(_)) => machine::engine(global.options()?)?,
        (Some(_), Some(_)) => {
            return Err(Error::usage(
                "copying between containers is not supported: go through the host",
            ));
        }
        (None, None) => {
            return Err(Error::usage("one of the two must be CONTAINER:PATH"));
        }
    };
    let catalog = engine.catalog();
    match (from, to) {
        (Some((name, path)), _) => {
            let entry = catalog.find(name)?;
            if args.destination == "-" {
                let mut out = std::io::BufWriter::new(std::io::stdout().lock());
                engine.archive_from_container(&entry, path, options, &mut out)?;
                std::io::Write::flush(&mut out).map_err(|error| {
                    Error::failed("cannot write to standard output").because(error)
                })?;
            } else {
                engine.copy_from_container(&entry, path, &absolute(&args.destination)?, options)?;
            }
        }
        (None, Some((name, path))) => {
            let entry = catalog.find(name)?;
            if args.source == "-" {
                engine.archive_into_container(&entry, path, &mut std::io::stdin())?;
            } else {
                engine.copy_into_container(&absolute(&args.source)?, &entry, path, options)?;
            }
        }
        (None, None) => {}
    }
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::in_container;

    #[test]
    fn containers_are_told_from_paths() {
        assert_eq!(in_container("web:/etc"), Some(("web", "/etc")));
        for host in ["/a:b", "./a:b", "../a:b", "plain", "a/b:c", "-"] {
            assert_eq!(in_container(host), None, "{host}");
        }
    }
}
