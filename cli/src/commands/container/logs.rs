//! `rbuild logs`.

use std::collections::VecDeque;

use rbuild_engine::containers::Entry;
use rbuild_engine::containers::log::{Driver, Line, Reader};

use super::wait::Changes;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{human, stdio};

/// Show what a container printed
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Only so many lines from the end, or `all`
    #[arg(short = 'n', long, value_name = "N", allow_hyphen_values = true)]
    tail: Option<String>,
    /// Only what is not older: a moment, or a duration such as `10m`
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what is older
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// With the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// With what `--log-opt labels=…` and `env=…` name of the container
    #[arg(long)]
    details: bool,
}

pub(crate) fn execute(args: &LogsArgs, global: &GlobalArgs) -> Result<Exit> {
    let tail = match args.tail.as_deref() {
        None | Some("" | "all") => None,
        Some(text) => match text.parse::<i64>() {
            Ok(number) => usize::try_from(number).ok(),
            Err(_) => {
                return Err(Error::usage(format!(
                    "--tail `{text}`: expected a number or `all`"
                )));
            }
        },
    };
    let moment = |flag: &str, text: &Option<String>| {
        text.as_deref()
            .map(|text| human::moment_or_duration(flag, text))
            .transpose()
    };
    let (since, until) = (
        moment("--since", &args.since)?,
        moment("--until", &args.until)?,
    );
    let mut entry = super::catalog(global)?.find(&args.container)?;
    let details = args.details.then(|| details(&entry));
    let path = entry.log()?;
    let opened = Reader::open(&path).map_err(|error| Error::io("read", &path, error))?;
    let Some(mut log) = opened else {
        return without_log(&entry);
    };
    let mut next = || {
        let line = log.next_line();
        line.map_err(|error| Error::io("read", &path, error))
    };
    let wanted = |line: &Line| {
        since.as_ref().is_none_or(|since| line.time >= *since)
            && until.as_ref().is_none_or(|until| line.time < *until)
    };
    let mut last: VecDeque<Line> = VecDeque::new();
    while let Some(line) = next()? {
        if !wanted(&line) {
            continue;
        }
        match tail {
            None => show(&line, args.timestamps, details.as_deref()),
            Some(tail) => {
                last.push_back(line);
                if last.len() > tail {
                    last.pop_front();
                }
            }
        }
    }
    for line in &last {
        show(line, args.timestamps, details.as_deref());
    }
    if !args.follow {
        return Ok(Exit::Success);
    }
    let changes = Changes::of(&entry)?;
    loop {
        // Asked before the last look, so that nothing is missed.
        let alive = entry.refresh().is_ok() && entry.state.status.is_alive();
        while let Some(line) = next()? {
            if until.as_ref().is_some_and(|until| line.time >= *until) {
                return Ok(Exit::Success);
            }
            if wanted(&line) {
                show(&line, args.timestamps, details.as_deref());
            }
        }
        if !alive {
            return Ok(Exit::Success);
        }
        changes.next()?;
    }
}

/// As Docker writes them: `a=1,b=2`.
fn details(entry: &Entry) -> String {
    let definition = &entry.definition;
    let keeping = &definition.request.log;
    let labels = definition.labels();
    let label = |name: &String| Some(format!("{name}={}", labels.get(name)?));
    let variable = |name: &String| {
        let mut all = definition.env.iter();
        let is_it = |variable: &&String| variable.split_once('=').is_some_and(|(of, _)| of == name);
        all.find(is_it).cloned()
    };
    let named = keeping.labels.iter().filter_map(label);
    let mut all: Vec<String> = named
        .chain(keeping.env.iter().filter_map(variable))
        .collect();
    all.sort();
    all.join(",")
}

fn show(line: &Line, timestamps: bool, details: Option<&str>) {
    let mut text = String::new();
    if timestamps {
        text.push_str(&line.time);
        text.push(' ');
    }
    if let Some(details) = details {
        text.push_str(details);
        text.push(' ');
    }
    text.push_str(&line.log);
    crate::terminal::show(line.stream == "stderr", text.as_bytes());
}

fn without_log(entry: &Entry) -> Result<Exit> {
    if entry.definition.request.log.driver == Driver::None {
        return Err(Error::failed(format!(
            "no output of `{}` is kept: it was made with --log-driver none",
            entry.name
        )));
    }
    if entry.definition.request.remove && entry.state.status.is_alive() {
        return Err(Error::failed(format!(
            "the output of `{}` went to the terminal that it was started from: containers in the foreground with --rm keep none",
            entry.name
        ))
        .help("start it with -d, or without --rm"));
    }
    stdio::out("");
    Ok(Exit::Success)
}
