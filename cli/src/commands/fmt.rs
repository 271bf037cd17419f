//! `rbuild fmt`: Dockerfiles in one style. Needs no store and no machine.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_engine::parser::{Source, format};
use rbuild_engine::{Error as EngineError, Located};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::{files, stdio};

/// Put Dockerfiles into one style, which changes no build
#[derive(Debug, clap::Args)]
pub(crate) struct FmtArgs {
    /// Rewritten in place; `-` goes from standard input to standard output
    #[arg(default_value = "Dockerfile")]
    files: Vec<PathBuf>,
    /// Only say which files are not in style, and fail if there is one
    #[arg(long)]
    check: bool,
}

pub(crate) fn execute(args: &FmtArgs) -> Result<Exit> {
    let mut exit = Exit::Success;
    for path in &args.files {
        let is_stdin = path.as_os_str() == "-";
        let (name, bytes) = if is_stdin {
            ("<stdin>".to_owned(), read_stdin()?)
        } else {
            let bytes = std::fs::read(path).map_err(|error| Error::io("read", path, error))?;
            (path.display().to_string(), bytes)
        };
        // What is no UTF-8 would be written back as something else.
        if std::str::from_utf8(&bytes).is_err() {
            return Err(Error::failed(format!("`{name}` is not UTF-8")));
        }
        let source = Arc::new(Source::new(name.clone(), &bytes));
        let text = format::format(&source).map_err(|mistakes| wrong(&source, mistakes))?;
        let is_in_style = text.as_bytes() == bytes;
        if args.check {
            if !is_in_style {
                stdio::out(format!("{name}\n"));
                exit = Exit::Failed;
            }
        } else if is_stdin {
            stdio::out(text);
        } else if !is_in_style {
            rewrite(path, &text)?;
        }
    }
    Ok(exit)
}

fn read_stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|error| Error::failed("cannot read standard input").because(error))?;
    Ok(bytes)
}

/// A link stays one: the file that it leads to is written. Its mode is kept.
fn rewrite(path: &Path, text: &str) -> Result<()> {
    let real = std::fs::canonicalize(path).map_err(|error| Error::io("find", path, error))?;
    let mode = std::fs::metadata(&real)
        .map_err(|error| Error::io("look up", path, error))?
        .permissions();
    files::write_whole(&real, text.as_bytes())?;
    std::fs::set_permissions(&real, mode).map_err(|error| Error::io("write", path, error))
}

fn wrong(source: &Arc<Source>, mistakes: Vec<rbuild_engine::parser::Diagnostic>) -> Error {
    let located = mistakes.into_iter().map(|diagnostic| Located {
        source: Arc::clone(source),
        diagnostic,
    });
    EngineError::Dockerfile(located.collect()).into()
}
