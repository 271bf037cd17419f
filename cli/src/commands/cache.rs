//! `rbuild cache mounts`.

use std::io::{IsTerminal, Read, Write};

use clap::Subcommand;
use rbuild_engine::cache::whole::WholeFile;
use serde_json::json;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{Columns, Format, Row};
use crate::{human, machine, stdio};

/// Look after what builds keep besides images
#[derive(Debug, clap::Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// The directories of `RUN --mount=type=cache`
    Mounts {
        #[command(subcommand)]
        command: MountsCommand,
    },
}

#[derive(Debug, Subcommand)]
enum MountsCommand {
    /// List them
    #[command(visible_alias = "list")]
    Ls {
        /// Only IDs
        #[arg(short, long)]
        quiet: bool,
        /// `json`, or a template such as `{{.ID}} {{.LastUsed}}`
        #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
        format: Option<String>,
    },
    /// Empty some of them
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true)]
        id: Vec<String>,
    },
    /// Write one as a tar
    Export {
        id: String,
        /// `-` is standard output
        #[arg(short, long, default_value = "-", value_name = "FILE")]
        output: String,
    },
    /// Fill one from a tar; what it held before goes
    Import {
        id: String,
        /// A tar, compressed or not; `-` is standard input
        #[arg(short, long, default_value = "-", value_name = "FILE")]
        input: String,
    },
}

const COLUMNS: Columns<'_> = &[
    ("ID", "ID"),
    ("SIZE", "Size"),
    ("LAST USED", "LastUsed"),
    ("PATH", "Path"),
];

pub(crate) fn execute(args: &CacheArgs, global: &GlobalArgs) -> Result<Exit> {
    let CacheCommand::Mounts { command } = &args.command;
    match command {
        MountsCommand::Ls { quiet, format } => list(*quiet, format.as_deref(), global)?,
        MountsCommand::Rm { id } => {
            machine::engine(global.options()?)?.remove_cache_mounts(id)?;
            for id in id {
                stdio::out(format!("{}\n", stdio::escape_line(id)));
            }
        }
        MountsCommand::Export { id, output } => export(id, output, global)?,
        MountsCommand::Import { id, input } => import(id, input, global)?,
    }
    Ok(Exit::Success)
}

fn list(quiet: bool, format: Option<&str>, global: &GlobalArgs) -> Result<()> {
    let format = Format::parse(format)?;
    // In rbuild's user namespace, directories of the steps' users can be looked into.
    let _host = machine::enter()?;
    let mounts = machine::engine(global.options()?)?.store().cache_mounts()?;
    if quiet {
        for mount in mounts {
            stdio::out(format!("{}\n", stdio::escape_line(&mount.id)));
        }
        return Ok(());
    }
    let rows: Vec<Row> = mounts
        .iter()
        .filter_map(|mount| {
            let used = jiff::Timestamp::from_second(mount.last_used).ok();
            let used = used.map(|used| used.to_string());
            json!({
                "ID": mount.id,
                "LastUsed": human::since(used.as_deref()),
                "LastUsedAt": used,
                "Path": mount.path,
                "Size": human::size(mount.bytes()),
            })
            .as_object()
            .cloned()
        })
        .collect();
    format.print(COLUMNS, &rows)
}

fn export(id: &str, output: &str, global: &GlobalArgs) -> Result<()> {
    if output == "-" {
        let stdout = std::io::stdout();
        if stdout.is_terminal() {
            return Err(Error::failed("a tar is not for a terminal")
                .help("redirect standard output, or name a file with --output"));
        }
        let mut stdout = std::io::BufWriter::new(stdout.lock());
        machine::engine(global.options()?)?.export_cache_mount(id, &mut stdout)?;
        return stdout
            .flush()
            .map_err(|error| Error::failed("cannot write the tar").because(error));
    }
    let path = std::path::Path::new(output);
    let failed = |error| Error::io("write", path, error);
    let mut file = WholeFile::at(path, 0o644).map_err(failed)?;
    {
        let mut buffered = std::io::BufWriter::new(file.file());
        machine::engine(global.options()?)?.export_cache_mount(id, &mut buffered)?;
        buffered.flush().map_err(failed)?;
    }
    file.finish().map_err(failed)
}

fn import(id: &str, input: &str, global: &GlobalArgs) -> Result<()> {
    let mut tar: Box<dyn Read + Send> = if input == "-" {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            return Err(Error::failed(
                "there is no tar: standard input is a terminal",
            ));
        }
        Box::new(stdin)
    } else {
        let file = std::fs::File::open(input).map_err(|error| Error::io("open", input, error))?;
        Box::new(file)
    };
    machine::engine(global.options()?)?.import_cache_mount(id, &mut *tar)?;
    Ok(())
}
