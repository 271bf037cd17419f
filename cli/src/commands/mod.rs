//! The commands, one file each. A command turns its arguments into a typed request once, here at the edge, asks the
//! engine, and prints.

mod build;

use std::ffi::OsString;

use clap::{CommandFactory, Subcommand};

use crate::error::Result;
use crate::exit::Exit;
use crate::global::{FLAGS_WITH_VALUE, GlobalArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Build(Box<build::BuildArgs>),
}

impl Command {
    pub(crate) fn execute(self, global: &GlobalArgs) -> Result<Exit> {
        match self {
            Self::Build(args) => build::execute(&args, global),
        }
    }
}

/// Puts `build` where no command is named: `rbuild -f Dockerfile .` builds.
pub(crate) fn with_default_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let mut at = 1;
    while let Some(argument) = arguments.get(at) {
        let text = argument.to_string_lossy();
        if FLAGS_WITH_VALUE.contains(&text.as_ref()) {
            at += 2;
        } else if FLAGS_WITH_VALUE.iter().any(|flag| {
            text.strip_prefix(flag)
                .is_some_and(|rest| rest.starts_with('='))
        }) {
            at += 1;
        } else {
            let own = ["-h", "--help", "-V", "--version", "help"].contains(&text.as_ref());
            if !own && !names().iter().any(|name| *name == text) {
                arguments.insert(at, "build".into());
            }
            break;
        }
    }
    arguments
}

/// All names and aliases of commands.
pub(crate) fn names() -> Vec<String> {
    crate::Cli::command()
        .get_subcommands()
        .flat_map(|command| {
            std::iter::once(command.get_name())
                .chain(command.get_all_aliases())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(arguments: &[&str]) -> String {
        let arguments = arguments.iter().map(OsString::from).collect();
        let completed: Vec<String> = with_default_command(arguments)
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect();
        completed.join(" ")
    }

    #[test]
    fn build_is_the_default_command() {
        assert_eq!(
            completed(&["rbuild", "-f", "F", "."]),
            "rbuild build -f F ."
        );
        assert_eq!(completed(&["rbuild", "."]), "rbuild build .");
        assert_eq!(completed(&["rbuild", "build", "."]), "rbuild build .");
        assert_eq!(
            completed(&["rbuild", "--root", "build", "."]),
            "rbuild --root build build ."
        );
        assert_eq!(
            completed(&["rbuild", "--root=x", "build", "."]),
            "rbuild --root=x build ."
        );
        assert_eq!(completed(&["rbuild", "--help"]), "rbuild --help");
        assert_eq!(completed(&["rbuild"]), "rbuild");
    }

    #[test]
    fn the_definition_of_all_arguments_is_consistent() {
        crate::Cli::command().debug_assert();
    }
}
