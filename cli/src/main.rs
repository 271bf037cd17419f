//! `rbuild`: arguments in, a build or a container out. Thin: what happens is the engine's.
//!
//! [`commands`] has one file a command; [`spec`] and [`values`] read what flags hold; [`progress`] draws the event
//! stream; [`render`] draws errors; [`exit`] has the exit codes. Only this crate prints, reads the environment and
//! owns the terminal.

mod allocator;
mod chosen;
mod commands;
mod config_file;
mod dns;
mod error;
mod exit;
mod explain;
mod files;
mod global;
mod human;
mod limits;
mod machine;
mod no_effect;
mod progress;
mod prompt;
mod render;
mod similar;
mod spec;
mod stdio;
mod table;
mod template;
mod terminal;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use crate::commands::first_word;
use crate::exit::Exit;

/// A daemonless, rootless builder of container images from Dockerfiles
///
/// `rbuild [OPTIONS] CONTEXT` is short for `rbuild build [OPTIONS] CONTEXT`.
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    version,
    arg_required_else_help = true,
    args_override_self = true,
    max_term_width = 110
)]
struct Cli {
    #[command(flatten)]
    global: global::GlobalArgs,
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    allocator::give_back_soon();
    allocator::keep_one_arena();
    let given: Vec<OsString> = std::env::args_os().collect();
    let arguments = first_word::with_default_command(given.clone());
    if let Some(foreign) = first_word::foreign(&given) {
        stdio::err(render::failure(&foreign, stdio::err_is_coloured()));
        return ExitCode::from(foreign.exit().code());
    }
    let read =
        commands::narrow::parse(&arguments).or_else(|| commands::narrow::parse_all(&arguments));
    let parsed = match read {
        Some(cli) => Ok(cli),
        None => commands::listing::grouped(Cli::command())
            .try_get_matches_from(arguments)
            .and_then(|matches| Cli::from_arg_matches(&matches)),
    };
    let cli = match parsed {
        Ok(cli) => cli,
        Err(mut error) => {
            if let Some(unknown) = first_word::unknown(&given).filter(|_| error.use_stderr()) {
                stdio::err(render::failure(&unknown, stdio::err_is_coloured()));
                return ExitCode::from(unknown.exit().code());
            }
            if let Some(told) = commands::misread::told(&error) {
                stdio::err(render::failure(&told, stdio::err_is_coloured()));
                return ExitCode::from(first_word::misused(&given).code());
            }
            if !given
                .iter()
                .any(|word| word.to_string_lossy().starts_with("--root"))
            {
                commands::misread::without_environment(&mut error);
            }
            // Help and version are asked for: on standard output, without failure. The printing may meet a closed
            // pipe, which is no failure either.
            drop(error.print());
            let exit = if error.use_stderr() {
                first_word::misused(&given)
            } else {
                Exit::Success
            };
            return ExitCode::from(exit.code());
        }
    };
    log_to_stderr();
    let exit = match cli.command.execute(&cli.global) {
        Ok(exit) => exit,
        Err(error) => {
            stdio::err(render::failure(&error, stdio::err_is_coloured()));
            error.exit()
        }
    };
    let exit = match stdio::finish() {
        Err(error) if exit == Exit::Success => {
            stdio::err(format!(
                "error: cannot write to standard output\n  caused by: {error}\n"
            ));
            Exit::Failed
        }
        _ => exit,
    };
    rbuild_engine::executor::exit(exit.code())
}

/// With `RBUILD_LOG` (as in `debug` or `rbuild_image=trace`), the libraries' diagnostics go to standard error.
fn log_to_stderr() {
    if let Ok(filter) = std::env::var("RBUILD_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
            .with_writer(std::io::stderr)
            .init();
    }
}
