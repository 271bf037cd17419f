//! `rbuild parse`: a Dockerfile as the builder understands it. Needs no store and no machine.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use rbuild_engine::Located;
use rbuild_engine::parser::{self, Severity, Source};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::{render, stdio};

/// Show how a Dockerfile is understood
#[derive(Debug, clap::Args)]
pub(crate) struct ParseArgs {
    /// The Dockerfile; `-` is standard input
    file: PathBuf,
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Tree,
}

/// Prints the tree even where the Dockerfile has mistakes; fails where one of them is an error.
pub(crate) fn execute(args: &ParseArgs) -> Result<Exit> {
    let is_stdin = args.file.as_os_str() == "-";
    let bytes = if is_stdin {
        let mut bytes = Vec::new();
        std::io::stdin()
            .lock()
            .read_to_end(&mut bytes)
            .map_err(|error| Error::failed("cannot read standard input").because(error))?;
        bytes
    } else {
        std::fs::read(&args.file).map_err(|error| Error::io("read", &args.file, error))?
    };
    let name = if is_stdin {
        "<stdin>".to_owned()
    } else {
        args.file.display().to_string()
    };
    let source = Arc::new(Source::new(name, &bytes));
    let parsed = parser::parse(&source);
    stdio::out(match args.format {
        Format::Json => format!("{}\n", parser::json::to_json(&parsed, &source)),
        Format::Tree => parser::json::to_tree(&parsed, &source),
    });
    let mut exit = Exit::Success;
    for diagnostic in parsed.diagnostics {
        if diagnostic.severity == Severity::Error {
            exit = Exit::Failed;
        }
        let located = Located {
            source: source.clone(),
            diagnostic,
        };
        stdio::err(render::located(&located, stdio::err_is_coloured()));
    }
    Ok(exit)
}
