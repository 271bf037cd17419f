//! What the first word of the command line means: a command, something to build, or neither.

use std::ffi::OsString;

use super::{listing, run};
use crate::error::Error;
use crate::exit::Exit;
use crate::global::FLAGS_WITH_VALUE;
use crate::similar;

/// Puts `build` where no command is named: `rbuild -f Dockerfile .` builds.
pub(crate) fn with_default_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let at = command_at(&arguments);
    if let Some(argument) = arguments.get(at) {
        let text = argument.to_string_lossy();
        if text == "-v" && arguments.len() == at + 1 {
            return vec!["rbuild".into(), "--version".into()];
        }
        let own = ["-h", "--help", "-V", "--version", "help"].contains(&text.as_ref());
        // Many a context is called so; the command has a word after it.
        let is_directory = text == "context" && !names_context_command(arguments.get(at + 1));
        if is_directory || !own && !listing::is_name(&text) {
            arguments.insert(at, "build".into());
        }
    }
    arguments
}

/// Says of arguments that could not be understood what is wrong with them, where it is that the first word names no
/// command and nothing to build: what is said about `build`'s arguments would be of no help then.
pub(crate) fn unknown(arguments: &[OsString]) -> Option<Error> {
    let word = arguments.get(command_at(arguments))?.to_str()?;
    let is_plain = !word.starts_with('-') && !word.contains(['/', ':', '.']);
    if !is_plain || listing::is_name(word) || std::fs::symlink_metadata(word).is_ok() {
        return None;
    }
    let message = format!("`{word}` is neither a command nor a build context");
    let mut error = Error::usage(message);
    if let Some(near) = similar::nearest(word, listing::names()).first() {
        error = error.help(format!("there is a command `{near}`"));
    }
    Some(error.help("`rbuild --help` lists the commands"))
}

/// Commands of Docker's that cannot be had, and why. They would be taken for build contexts.
const FOREIGN: [(&str, &str); 14] = [
    (
        "events",
        "no process watches all containers; `rbuild wait`, `rbuild logs -f` and `rbuild ps` tell of them",
    ),
    (
        "search",
        "registries are not searched; `rbuild pull` takes an image's name",
    ),
    (
        "compose",
        "containers are started one by one, with `rbuild network create` and `rbuild run --network`",
    ),
    ("swarm", ONE_MACHINE),
    ("service", ONE_MACHINE),
    ("stack", ONE_MACHINE),
    ("node", ONE_MACHINE),
    ("secret", ONE_MACHINE),
    ("config", ONE_MACHINE),
    ("plugin", "there are no plugins"),
    ("checkpoint", "what processes hold in memory is not kept"),
    (
        "trust",
        "`rbuild sign` and `rbuild verify` are for signatures",
    ),
    ("scout", "`rbuild build --sbom` lists what is in an image"),
    ("model", "rbuild runs containers only"),
];
const ONE_MACHINE: &str = "rbuild runs the containers of one machine, without a daemon";

/// Refuses a command of Docker's by its name, unless a build context is called so.
pub(crate) fn foreign(arguments: &[OsString]) -> Option<Error> {
    let word = arguments.get(command_at(arguments))?.to_str()?;
    let (_, why) = FOREIGN.iter().find(|(name, _)| *name == word)?;
    if std::fs::symlink_metadata(word).is_ok() {
        return None;
    }
    Some(Error::usage(format!("`{word}` cannot be had: {why}")))
}

/// How arguments end that could not be understood. Of `run` and `exec`, 2 is the command's own to end with.
pub(crate) fn misused(arguments: &[OsString]) -> Exit {
    let at = command_at(arguments);
    let at = at + usize::from(arguments.get(at).is_some_and(|word| word == "container"));
    match arguments.get(at).and_then(|word| word.to_str()) {
        Some("run" | "exec") => Exit::Command(run::FAILED),
        _ => Exit::Usage,
    }
}

/// Where the name of the command stands, or would stand.
pub(crate) fn command_at(arguments: &[OsString]) -> usize {
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
            break;
        }
    }
    at
}

fn names_context_command(word: Option<&OsString>) -> bool {
    word.is_some_and(|word| {
        ["ls", "list", "help", "-h", "--help"]
            .iter()
            .any(|known| word == known)
    })
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
        assert_eq!(completed(&["rbuild", "context"]), "rbuild build context");
        assert_eq!(completed(&["rbuild", "context", "ls"]), "rbuild context ls");
    }
}
