//! `rbuild top`.

use std::process::Command;

use rbuild_engine::containers::control::{Answer, Ask};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::stdio;

/// Show the processes of a container
#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// The container, then options of the host's `ps` (default: -ef)
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["CONTAINER", "PS OPTIONS"])]
    container: Vec<String>,
}

pub(crate) fn execute(args: &TopArgs, global: &GlobalArgs) -> Result<Exit> {
    let Some((name, options)) = args.container.split_first() else {
        return Err(Error::usage("a container is needed"));
    };
    let entry = super::catalog(global)?.find(name)?;
    let connection = entry.must_connect("list the processes of")?;
    let (Answer::Processes(pids), _) = connection.request(&Ask::Processes)? else {
        return Err(Error::failed("the container said something else"));
    };
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() {
        &default
    } else {
        options
    };
    let ps = |selection: &[String]| {
        let listed = Command::new("ps").args(options).args(selection).output();
        listed.map_err(|error| {
            Error::failed("cannot run the host's `ps`")
                .because(error)
                .help("install it (package procps)")
        })
    };
    // Without a selection `ps` shows the caller's own processes, and the container's may be of other users. Where the
    // options have one already, or the host's `ps` knows no such option, theirs is taken.
    let these: Vec<String> = pids.iter().map(u32::to_string).collect();
    let mut listed = ps(&["-q".to_owned(), these.join(",")])?;
    if !listed.status.success() {
        listed = ps(&[])?;
    }
    if !listed.status.success() {
        let said = String::from_utf8_lossy(&listed.stderr).trim().to_owned();
        return Err(Error::failed(format!("the host's `ps` failed: {said}")));
    }
    let text = String::from_utf8_lossy(&listed.stdout);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::usage("the columns that `ps` is asked for must have the PID"))?;
    stdio::out(format!("{header}\n"));
    for line in lines {
        let pid = line.split_whitespace().nth(column);
        let pid: Option<u32> = pid.and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            stdio::out(format!("{line}\n"));
        }
    }
    Ok(Exit::Success)
}
