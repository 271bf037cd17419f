//! The commands by what one wants to do: for `rbuild --help`, and for knowing their names without their definition.

use std::fmt::Write as _;

use clap::builder::StyledStr;

/// Headings, and the commands below them in the order in which they are shown.
const GROUPS: &[(&str, &[&str])] = &[
    ("Builds", &["build", "debug", "why", "repro"]),
    (
        "Dockerfiles",
        &["fmt", "lsp", "parse", "graph", "llb", "context"],
    ),
    (
        "Containers",
        &[
            "run", "create", "start", "ps", "exec", "attach", "logs", "stop", "kill", "restart",
            "wait", "pause", "unpause", "top", "stats", "port", "cp", "diff", "commit", "export",
            "rename", "update", "rm",
        ],
    ),
    (
        "Images",
        &[
            "images", "history", "inspect", "tag", "rmi", "save", "load", "import",
        ],
    ),
    (
        "Registries",
        &[
            "pull",
            "push",
            "login",
            "logout",
            "manifest",
            "sign",
            "verify",
            "generate-key-pair",
        ],
    ),
    ("Volumes and networks", &["volume", "network"]),
    ("The store", &["du", "prune", "store", "cache", "system"]),
    (
        "The same as Docker groups it",
        &["container", "image", "buildx"],
    ),
    ("This program", &["info", "version", "completions", "help"]),
];

/// Names that stand for others.
const ALIASES: &[&str] = &["b", "builder"];

/// All names of commands but `help`, which the argument parser adds. They are asked for at every start, and the
/// definition they could be taken from takes long to make.
pub(crate) fn names() -> impl Iterator<Item = &'static str> + Clone {
    let grouped = GROUPS.iter().flat_map(|(_, names)| names.iter());
    let all = grouped.chain(ALIASES).copied();
    all.filter(|name| *name != "help")
}

pub(crate) fn is_name(word: &str) -> bool {
    names().any(|name| name == word)
}

/// The definition with its commands below headings in the help, where it would have them in one list.
pub(crate) fn grouped(mut definition: clap::Command) -> clap::Command {
    // The parser adds `help` when it is built.
    definition.build();
    let template = template(&definition);
    definition.help_template(template)
}

fn template(definition: &clap::Command) -> StyledStr {
    let styles = definition.get_styles();
    let (heading, name_style) = (styles.get_header(), styles.get_literal());
    let width = names().map(str::len).max().unwrap_or_default();
    let mut text = "{before-help}{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (title, names) in GROUPS {
        let _ = write!(text, "\n{heading}{title}:{heading:#}\n");
        for name in *names {
            let about = definition
                .find_subcommand(name)
                .and_then(|command| command.get_about())
                .map(ToString::to_string);
            let _ = writeln!(
                text,
                "  {name_style}{name}{name_style:#}{:pad$}  {}",
                "",
                about.unwrap_or_default(),
                pad = width - name.len(),
            );
        }
    }
    let _ = write!(text, "\n{heading}Everywhere:{heading:#}\n");
    text.push_str("{options}{after-help}");
    text.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_is_listed_once_and_on_one_line() {
        let mut definition = crate::Cli::command();
        definition.build();
        let mut defined: Vec<&str> = definition
            .get_subcommands()
            .flat_map(|command| {
                std::iter::once(command.get_name()).chain(command.get_all_aliases())
            })
            .filter(|name| *name != "help")
            .collect();
        let mut listed: Vec<&str> = names().collect();
        defined.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, defined);
        let help = grouped(crate::Cli::command()).render_help().to_string();
        let (commands, _) = help.split_once("\nEverywhere:").unwrap();
        for line in commands.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
