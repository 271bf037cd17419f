//! `rbuild context`: what a build context holds, and what is ignored and why.

use std::path::PathBuf;

use clap::Subcommand;
use rbuild_engine::cache::tree::Kind;
use rbuild_engine::context::list::Listed;
use rbuild_engine::request::ContextLocation;
use rbuild_engine::{BuildRequest, list_directory};
use serde_json::json;

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{Columns, Format, Row};
use crate::{human, machine, stdio};

/// Look at a build context
#[derive(Debug, clap::Args)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    #[command(visible_alias = "list")]
    Ls(LsArgs),
}

/// List what COPY can see, or what the ignore file keeps out
#[derive(Debug, clap::Args)]
struct LsArgs {
    /// A directory, `-` for a tar on standard input, a git or http URL
    #[arg(default_value = ".")]
    context: String,
    /// The Dockerfile, whose NAME.dockerignore wins (default: CONTEXT/Dockerfile)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What is ignored, instead of what is not
    #[arg(long)]
    ignored: bool,
    /// Also what decided: the line of the ignore file and its pattern
    #[arg(long)]
    why: bool,
    /// `json`, or a template such as `{{.Path}}`
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
}

const COLUMNS: Columns<'_> = &[("SIZE", "Size"), ("PATH", "Path")];
const COLUMNS_WITH_REASONS: Columns<'_> =
    &[("SIZE", "Size"), ("PATH", "Path"), ("DECIDED BY", "Rule")];

pub(crate) fn execute(args: &ContextArgs, global: &GlobalArgs) -> Result<Exit> {
    match &args.command {
        ContextCommand::Ls(args) => ls(args, global),
    }
}

fn ls(args: &LsArgs, global: &GlobalArgs) -> Result<Exit> {
    let format = Format::parse(args.format.as_deref())?;
    let (context, dockerfile) = super::build::locate_context(&args.context, args.file.as_deref())?;
    let listed = match &context {
        // What is here needs no store.
        ContextLocation::Directory(path) => list_directory(path, &dockerfile)?,
        _ => {
            let request = BuildRequest::new(context, dockerfile);
            machine::with_engine(global.options()?, async |engine, cancel| {
                machine::unless_cancelled(&cancel, engine.list_context(&request)).await
            })?
        }
    };
    let rows: Vec<Row> = listed
        .iter()
        .filter(|listed| listed.is_ignored == args.ignored)
        .filter_map(row)
        .collect();
    let columns = if args.why {
        COLUMNS_WITH_REASONS
    } else {
        COLUMNS
    };
    format.print(columns, &rows)?;
    if matches!(format, Format::Table) {
        stdio::err(summary(&listed));
    }
    Ok(Exit::Success)
}

fn row(listed: &Listed) -> Option<Row> {
    let is_directory = listed.kind == Kind::Directory;
    let mut path = String::from_utf8_lossy(&listed.path).into_owned();
    if is_directory {
        path.push('/');
    }
    let kind = match listed.kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice | Kind::BlockDevice | Kind::Whiteout => "device",
    };
    let rule = listed.rule.as_ref().map_or_else(String::new, |rule| {
        format!("{}:{} {}", rule.file, rule.line, rule.pattern)
    });
    json!({
        "Path": path,
        "Type": kind,
        "Size": if listed.kind == Kind::File { human::size(listed.size) } else { "-".to_owned() },
        "Bytes": listed.size,
        "Ignored": listed.is_ignored,
        "Rule": rule,
        "File": listed.rule.as_ref().map(|rule| &rule.file),
        "Line": listed.rule.as_ref().map(|rule| rule.line),
        "Pattern": listed.rule.as_ref().map(|rule| &rule.pattern),
    })
    .as_object()
    .cloned()
}

fn summary(listed: &[Listed]) -> String {
    let seen = listed.iter().filter(|listed| !listed.is_ignored);
    let bytes: u64 = seen.clone().map(|listed| listed.size).sum();
    let ignored = listed.iter().filter(|listed| listed.is_ignored).count();
    let entries = |count: usize| match count {
        1 => "1 entry".to_owned(),
        count => format!("{count} entries"),
    };
    format!(
        "{} of {} in the context; {} ignored, directories counted as one\n",
        entries(seen.count()),
        human::size(bytes),
        entries(ignored)
    )
}
