//! `rbuild why`.

use std::path::PathBuf;

use rbuild_engine::explain::{self, ExplainedStep, Explanation};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{machine, stdio};

/// Say why the steps of the last build ran
#[derive(Debug, clap::Args)]
pub(crate) struct WhyArgs {
    /// A line of the Dockerfile, `#3` as progress counts steps, or words of a step's name
    step: Option<String>,
    /// Of the last build of this context, instead of the last build
    #[arg(long, value_name = "DIR")]
    context: Option<String>,
    /// Its Dockerfile (default: CONTEXT/Dockerfile)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// `json`
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
}

pub(crate) fn execute(args: &WhyArgs, global: &GlobalArgs) -> Result<Exit> {
    let json = match args.format.as_deref() {
        None | Some("text") => false,
        Some("json") => true,
        Some(other) => {
            return Err(Error::usage(format!(
                "--format `{other}`: expected `text` or `json`"
            )));
        }
    };
    let explanation = read(args, global)?;
    let Some(mut explanation) = explanation else {
        return Err(Error::failed("no such build is known to this store")
            .help("build first; what was built in another store is known there (`--root`)"));
    };
    let chosen: Vec<ExplainedStep> = match &args.step {
        None => explanation.steps.clone(),
        Some(text) => choose(&explanation, text)?,
    };
    if json {
        explanation.steps = chosen;
        let document = serde_json::to_string_pretty(&explanation)
            .map_err(|error| Error::failed("cannot write JSON").because(error))?;
        stdio::out(format!("{document}\n"));
    } else {
        stdio::out(crate::explain::steps(&explanation, chosen.iter()));
    }
    Ok(Exit::Success)
}

fn read(args: &WhyArgs, global: &GlobalArgs) -> Result<Option<Explanation>> {
    if args.context.is_none() && args.file.is_none() {
        return Ok(machine::engine(global.options()?)?.last_explanation()?);
    }
    let context = args.context.as_deref().unwrap_or(".");
    let (context, dockerfile) = super::build::locate(context, args.file.as_deref())?;
    let key = explain::build_key(&context, &dockerfile);
    Ok(machine::engine(global.options()?)?.explanation(key)?)
}

/// The steps that a person means.
fn choose(explanation: &Explanation, text: &str) -> Result<Vec<ExplainedStep>> {
    let fits = |step: &ExplainedStep| {
        if let Ok(line) = text.parse::<usize>() {
            return (step.line..=step.end_line).contains(&line);
        }
        match text.strip_prefix('#').map(str::parse::<u32>) {
            Some(Ok(number)) => step.step.checked_add(1) == Some(number),
            _ => step.name.to_lowercase().contains(&text.to_lowercase()),
        }
    };
    let chosen: Vec<ExplainedStep> = explanation
        .steps
        .iter()
        .filter(|step| fits(step))
        .cloned()
        .collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let mut error = Error::failed(format!("the last build has no step `{text}`"));
    for step in explanation.steps.iter().take(20) {
        error = error.help(format!(
            "line {}, #{}: {}",
            step.line,
            step.step + 1,
            step.name
        ));
    }
    Err(error)
}
