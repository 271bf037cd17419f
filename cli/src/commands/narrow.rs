//! Reading the arguments of one command without the definitions of all the others, which take a millisecond to make.
//! What cannot be read so, because it is wrong or asks for help, is left to the whole definition and its messages.

use std::ffi::OsString;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches};

use super::{Command, OnContainer, OnImage};
use crate::Cli;
use crate::global::GlobalArgs;

/// `None`: nothing is said of these arguments.
pub(crate) fn parse(arguments: &[OsString]) -> Option<Cli> {
    let name = arguments.get(super::first_word::command_at(arguments))?;
    let name = super::listing::names().find(|known| name == *known)?;
    match name {
        "build" | "b" => only(arguments, name, |args| OnImage::Build(Box::new(args))),
        "run" => only(arguments, name, |args| OnContainer::Run(Box::new(args))),
        "create" => only(arguments, name, |args| OnContainer::Create(Box::new(args))),
        "start" => only(arguments, name, OnContainer::Start),
        "ps" => only(arguments, name, Command::Ps),
        "exec" => only(arguments, name, OnContainer::Exec),
        "attach" => only(arguments, name, OnContainer::Attach),
        "logs" => only(arguments, name, OnContainer::Logs),
        "stop" => only(arguments, name, OnContainer::Stop),
        "kill" => only(arguments, name, OnContainer::Kill),
        "restart" => only(arguments, name, OnContainer::Restart),
        "wait" => only(arguments, name, OnContainer::Wait),
        "cp" => only(arguments, name, OnContainer::Cp),
        "rm" => only(arguments, name, OnContainer::Rm),
        "images" => only(arguments, name, Command::Images),
        "tag" => only(arguments, name, OnImage::Tag),
        "rmi" => only(arguments, name, Command::Rmi),
        "inspect" => only(arguments, name, Command::Inspect),
        "save" => only(arguments, name, OnImage::Save),
        "load" => only(arguments, name, OnImage::Load),
        "pull" => only(arguments, name, OnImage::Pull),
        "push" => only(arguments, name, OnImage::Push),
        "version" => only(arguments, name, Command::Version),
        _ => None,
    }
}

/// Reads the arguments of all other commands.
pub(crate) fn parse_all(arguments: &[OsString]) -> Option<Cli> {
    let definition = all_switchable(Cli::command());
    let matches = definition.try_get_matches_from(arguments).ok()?;
    Cli::from_arg_matches(&matches).ok()
}

fn all_switchable(command: clap::Command) -> clap::Command {
    switchable(command).mut_subcommands(all_switchable)
}

/// Has flags that are on or off take a value after `=`, as Docker's do: `--rm=false`. Only for reading: help and messages
/// show them as they are written.
fn switchable(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .value_parser(BoolishValueParser::new()),
        _ => arg,
    })
}

fn only<T: Args, C: Into<Command>>(
    arguments: &[OsString],
    name: &'static str,
    command: impl FnOnce(T) -> C,
) -> Option<Cli> {
    let root = clap::Command::new("rbuild")
        .args_override_self(true)
        .disable_help_subcommand(true)
        .subcommand(switchable(T::augment_args(clap::Command::new(name))));
    let matches = GlobalArgs::augment_args(root)
        .try_get_matches_from(arguments)
        .ok()?;
    let global = GlobalArgs::from_arg_matches(&matches).ok()?;
    let (_, of_command) = matches.subcommand()?;
    let command = command(T::from_arg_matches(of_command).ok()?).into();
    Some(Cli { global, command })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn words(text: &str) -> Vec<OsString> {
        let words = std::iter::once("rbuild").chain(text.split_whitespace());
        words.map(OsString::from).collect()
    }

    #[test]
    fn what_is_read_is_what_the_whole_definition_reads() {
        for text in [
            "build .",
            "b -t a:b --build-arg X=1 --build-arg X=2 -f F --no-cache .",
            "--root /r build --target t -o type=oci,dest=x --progress plain .",
            "build --root /r --root /s .",
            "run --rm -it --name n -e A=1 -v /a:/b image sh -c true --flag",
            "--root=/r run --network host --network none image true",
            "create image",
            "start -a n",
            "ps -a --no-trunc",
            "exec -it n sh",
            "attach n",
            "logs -f n",
            "stop -t 3 a b",
            "kill -s TERM a",
            "restart a",
            "wait a",
            "cp a:/b c",
            "rm -f a b",
            "images",
            "tag a b",
            "rmi a",
            "inspect a",
            "save -o f a",
            "load -i f",
            "pull a",
            "push a",
            "version",
        ] {
            let arguments = words(text);
            let narrow = parse(&arguments);
            let whole = Cli::try_parse_from(&arguments).expect(text);
            assert_eq!(
                format!("{narrow:?}"),
                format!("{:?}", Some(whole)),
                "{text}"
            );
        }
    }

    #[test]
    fn nothing_is_said_of_what_is_wrong_or_asks_for_help() {
        for text in [
            "run",
            "build --no-such-flag .",
            "run --help",
            "-V",
            "help",
            "nothing",
            "",
        ] {
            assert!(parse(&words(text)).is_none(), "{text}");
        }
    }
}
