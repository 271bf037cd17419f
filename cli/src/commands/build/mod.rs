//! `rbuild build`: arguments to a request ([`request`]), events to a renderer, the outcome to files.

mod args;
mod attest;
mod caches;
mod look;
mod look_formats;
mod metadata;
mod output;
mod request;
pub(super) mod shell;
mod sources;

use std::io::IsTerminal;
use std::sync::Arc;

use rbuild_engine::request::{Output, OutputKind};
use rbuild_engine::{Located, explain};

pub(crate) use args::BuildArgs;
use args::Call;
pub(crate) use request::{build_args, build_request, environment, tag};
pub(crate) use sources::{locate, locate_context, named_context};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::progress::{Mode, Renderer};
use crate::{files, machine, render, stdio};

pub(crate) fn execute(args: &BuildArgs, global: &GlobalArgs) -> Result<Exit> {
    let args = &args.without_empty();
    let mode = mode(args)?;
    let call = args.call()?;
    let options = global.options()?;
    let request = request::build_request(args)?;
    let opens_shell = args.opens_shell()?;
    if opens_shell {
        shell::require_terminal("--on-error shell")?;
    }
    if call != Call::Build {
        return look::execute(call, &request);
    }
    check_places(args, &request.outputs)?;
    let names = metadata::names(&request);
    let key = explain::build_key(&request.context, &request.dockerfile);
    let wants_explanation = args.explain;
    let (outcome, renderer, explanation, shown) =
        machine::with_engine(options, async |engine, cancel| {
            let mut renderer = Renderer::new(mode);
            if args.trace.is_some() {
                renderer = renderer.tracing();
            }
            let renderer = Arc::new(renderer);
            let result = engine
                .build(request, renderer.clone(), cancel.clone())
                .await;
            // Whatever failed before the first step has nothing to explain.
            let has_steps = matches!(&result, Ok(_) | Err(rbuild_engine::Error::Step(_)));
            let explanation = if wants_explanation && has_steps {
                engine.explanation(key)?
            } else {
                None
            };
            if let Some(explanation) = &explanation {
                renderer.explained(explanation);
            }
            renderer.finish(result.is_ok());
            if mode != Mode::Quiet
                && let Err(rbuild_engine::Error::Step(failure)) = &result
            {
                print_warnings(&failure.warnings);
            }
            let mut result = result.map_err(Error::from);
            let shown = match &mut result {
                Err(error) if opens_shell => shell::after(error, cancel).await,
                _ => false,
            };
            Ok((result, renderer, explanation, shown))
        })?;
    if let Some(explanation) = &explanation
        && mode != Mode::RawJson
    {
        stdio::err(crate::explain::text(explanation));
    }
    // A build that failed has a trace, too.
    if let (Some(path), Some(trace)) = (&args.trace, renderer.trace()) {
        files::write_whole(path, &trace)?;
    }
    let outcome = match outcome {
        // The error was told before the shell was opened.
        Err(error) if shown => return Ok(error.exit()),
        outcome => outcome?,
    };
    if mode != Mode::Quiet {
        print_warnings(&outcome.warnings);
    }
    if let (Some(path), Some(image)) = (&args.iidfile, &outcome.image) {
        files::write_whole(path, image.id.to_string().as_bytes())?;
    }
    if let Some(path) = &args.metadata_file {
        files::write_whole(
            path,
            &metadata::document(&outcome, explanation.as_ref(), &names, renderer.elapsed()),
        )?;
    }
    if let (Mode::Quiet, Some(image)) = (mode, &outcome.image) {
        stdio::out(format!("{}\n", image.id));
    }
    Ok(Exit::Success)
}

/// Says at once what could not be written in the end. An ID that is there already is not that of this build.
fn check_places(args: &BuildArgs, outputs: &[Output]) -> Result<()> {
    for path in [&args.iidfile, &args.metadata_file, &args.trace] {
        path.iter()
            .try_for_each(|path| files::check_can_write(path))?;
    }
    for output in outputs {
        let Some(path) = &output.destination else {
            continue;
        };
        match output.kind {
            OutputKind::Oci { tar: true } | OutputKind::Docker { tar: true } | OutputKind::Tar => {
                files::check_can_write(path)?;
            }
            _ => files::check_can_fill(path)?,
        }
    }
    match &args.iidfile {
        Some(path) if path.is_file() => {
            std::fs::remove_file(path).map_err(|error| Error::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn mode(args: &BuildArgs) -> Result<Mode> {
    if args.quiet {
        return Ok(Mode::Quiet);
    }
    match args.progress.as_deref().unwrap_or("auto") {
        "auto" if std::io::stderr().is_terminal() => Ok(Mode::Tty),
        "auto" | "plain" => Ok(Mode::Plain),
        "tty" if std::io::stderr().is_terminal() => Ok(Mode::Tty),
        "tty" => Err(
            Error::failed("--progress=tty: standard error is not a terminal")
                .help("use --progress=plain"),
        ),
        "quiet" | "none" => Ok(Mode::Quiet),
        "rawjson" => Ok(Mode::RawJson),
        other => Err(Error::usage(format!(
            "--progress `{other}`: there is no such way to show progress"
        ))
        .help("it is `auto`, `tty`, `plain`, `quiet` or `rawjson`")),
    }
}

fn print_warnings(warnings: &[Located]) {
    for warning in warnings {
        stdio::err(render::located(warning, stdio::err_is_coloured()));
    }
}
