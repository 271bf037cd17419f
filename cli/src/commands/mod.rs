//! The commands, one file each. A command turns its arguments into a typed request once, here at the edge, asks the
//! engine, and prints.

mod build;
mod builder;
mod cache;
mod completions;
mod container;
mod context;
mod debug;
mod du;
mod fmt;
mod graph;
mod history;
mod image_diff;
mod image_layers;
mod image_prune;
mod images;
mod import;
mod info;
mod inspect;
pub(crate) mod listing;
mod llb;
mod load;
mod login;
mod logout;
mod lsp;
mod manifest;
pub(crate) mod narrow;
mod network;
mod parse;
mod prune;
mod pull;
mod push;
mod repro;
mod rmi;
mod run;
mod save;
mod sign;
mod store;
mod system;
mod tag;
mod version;
mod volume;
mod why;

use std::ffi::OsString;

use clap::Subcommand;

use container::{
    attach, commit, cp, diff, exec, export, kill, logs, pause, port, ps, rename, rm, start, stats,
    stop, top, update, wait,
};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::{FLAGS_WITH_VALUE, GlobalArgs};
use crate::similar;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    OnContainer(OnContainer),
    #[command(flatten)]
    OnImage(OnImage),
    Ps(ps::PsArgs),
    Images(images::ImagesArgs),
    Rmi(rmi::RmiArgs),
    /// The commands on containers, as `container ls`
    Container {
        #[command(subcommand)]
        command: ContainerCommand,
    },
    /// The commands on images, as `image ls`
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    Inspect(inspect::InspectArgs),
    Volume(volume::VolumeArgs),
    Network(network::NetworkArgs),
    /// What the store takes as a whole, and clearing it up
    System {
        #[command(subcommand)]
        command: system::SystemCommand,
    },
    /// The commands on builds by Docker's other names
    #[command(visible_alias = "builder")]
    Buildx {
        #[command(subcommand)]
        command: builder::BuilderCommand,
    },
    Login(login::LoginArgs),
    Logout(logout::LogoutArgs),
    Manifest(manifest::ManifestArgs),
    Debug(Box<debug::DebugArgs>),
    Repro(Box<repro::ReproArgs>),
    Sign(sign::SignArgs),
    Verify(sign::VerifyArgs),
    GenerateKeyPair(sign::GenerateKeyPairArgs),
    Prune(prune::PruneArgs),
    Du(du::DuArgs),
    Store(store::StoreArgs),
    Why(why::WhyArgs),
    Cache(cache::CacheArgs),
    Context(context::ContextArgs),
    Parse(parse::ParseArgs),
    Graph(graph::GraphArgs),
    Llb(Box<llb::LlbArgs>),
    Fmt(fmt::FmtArgs),
    Lsp(lsp::LspArgs),
    Info(info::InfoArgs),
    Version(version::VersionArgs),
    Completions(completions::CompletionsArgs),
}

/// What is also said as `container …`.
#[derive(Debug, Subcommand)]
pub(crate) enum OnContainer {
    Run(Box<run::RunArgs>),
    Create(Box<run::CreateArgs>),
    Start(start::StartArgs),
    Exec(exec::ExecArgs),
    Attach(attach::AttachArgs),
    Logs(logs::LogsArgs),
    Stop(stop::StopArgs),
    Kill(kill::KillArgs),
    /// Stop containers and start them again
    Restart(stop::StopArgs),
    Wait(wait::WaitArgs),
    Pause(pause::PauseArgs),
    Unpause(pause::UnpauseArgs),
    Top(top::TopArgs),
    Cp(cp::CpArgs),
    Diff(diff::DiffArgs),
    Commit(commit::CommitArgs),
    Export(export::ExportArgs),
    Stats(stats::StatsArgs),
    Port(port::PortArgs),
    Rename(rename::RenameArgs),
    Update(update::UpdateArgs),
    Rm(rm::RmArgs),
}

/// What is also said as `image …`.
#[derive(Debug, Subcommand)]
pub(crate) enum OnImage {
    #[command(visible_alias = "b")]
    Build(Box<build::BuildArgs>),
    Tag(tag::TagArgs),
    History(history::HistoryArgs),
    Save(save::SaveArgs),
    Load(load::LoadArgs),
    Import(import::ImportArgs),
    Pull(pull::PullArgs),
    Push(push::PushArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::PsArgs),
    Prune(rm::PruneArgs),
    Inspect(inspect::InspectArgs),
    /// `rm` by its other name
    #[command(hide = true)]
    Remove(rm::RmArgs),
    #[command(flatten)]
    OnContainer(OnContainer),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    #[command(visible_alias = "list")]
    Ls(images::ImagesArgs),
    #[command(visible_alias = "remove")]
    Rm(rmi::RmiArgs),
    Inspect(inspect::InspectArgs),
    Prune(image_prune::ImagePruneArgs),
    Diff(image_diff::ImageDiffArgs),
    Layers(image_layers::ImageLayersArgs),
    #[command(flatten)]
    OnImage(OnImage),
}

impl From<OnContainer> for Command {
    fn from(command: OnContainer) -> Self {
        Self::OnContainer(command)
    }
}

impl From<OnImage> for Command {
    fn from(command: OnImage) -> Self {
        Self::OnImage(command)
    }
}

impl Command {
    pub(crate) fn execute(self, global: &GlobalArgs) -> Result<Exit> {
        match self {
            Self::OnContainer(command) => command.execute(global),
            Self::OnImage(command) => command.execute(global),
            Self::Ps(args) => ps::execute(&args, global),
            Self::Images(args) => images::execute(&args, global),
            Self::Rmi(args) => rmi::execute(&args, global),
            Self::Container { command } => command.execute(global),
            Self::Image { command } => command.execute(global),
            Self::Inspect(args) => inspect::execute(&args, inspect::Kind::Any, global),
            Self::Volume(args) => volume::execute(&args, global),
            Self::Network(args) => network::execute(&args, global),
            Self::System { command } => command.execute(global),
            Self::Buildx { command } => command.execute(global),
            Self::Login(args) => login::execute(&args, global),
            Self::Logout(args) => logout::execute(&args),
            Self::Manifest(args) => manifest::execute(&args, global),
            Self::Sign(args) => sign::sign(&args, global),
            Self::Verify(args) => sign::verify(&args, global),
            Self::GenerateKeyPair(args) => sign::generate_key_pair(&args),
            Self::Debug(args) => debug::execute(&args, global),
            Self::Repro(args) => repro::execute(&args, global),
            Self::Prune(args) => prune::execute(&args, global),
            Self::Du(args) => du::execute(&args, global),
            Self::Store(args) => store::execute(&args, global),
            Self::Cache(args) => cache::execute(&args, global),
            Self::Context(args) => context::execute(&args, global),
            Self::Why(args) => why::execute(&args, global),
            Self::Parse(args) => parse::execute(&args),
            Self::Fmt(args) => fmt::execute(&args),
            Self::Lsp(args) => lsp::execute(&args),
            Self::Graph(args) => graph::execute(&args, global),
            Self::Llb(args) => llb::execute(&args, global),
            Self::Info(args) => info::execute(&args, global),
            Self::Version(args) => version::execute(&args),
            Self::Completions(args) => Ok(completions::execute(&args)),
        }
    }
}

impl OnContainer {
    fn execute(self, global: &GlobalArgs) -> Result<Exit> {
        match self {
            Self::Run(args) => run::execute(&args, global),
            Self::Create(args) => run::create(&args, global),
            Self::Start(args) => start::execute(&args, global),
            Self::Exec(args) => exec::execute(&args, global),
            Self::Attach(args) => attach::execute(&args, global),
            Self::Logs(args) => logs::execute(&args, global),
            Self::Stop(args) => stop::execute(&args, global),
            Self::Kill(args) => kill::execute(&args, global),
            Self::Restart(args) => stop::restart(&args, global),
            Self::Wait(args) => wait::execute(&args, global),
            Self::Pause(args) => pause::execute(&args, global),
            Self::Unpause(args) => pause::undo(&args, global),
            Self::Cp(args) => cp::execute(&args, global),
            Self::Diff(args) => diff::execute(&args, global),
            Self::Commit(args) => commit::execute(&args, global),
            Self::Export(args) => export::execute(&args, global),
            Self::Top(args) => top::execute(&args, global),
            Self::Stats(args) => stats::execute(&args, global),
            Self::Port(args) => port::execute(&args, global),
            Self::Rename(args) => rename::execute(&args, global),
            Self::Update(args) => update::execute(&args, global),
            Self::Rm(args) => rm::execute(&args, global),
        }
    }
}

impl OnImage {
    fn execute(self, global: &GlobalArgs) -> Result<Exit> {
        match self {
            Self::Build(args) => build::execute(&args, global),
            Self::Tag(args) => tag::execute(&args, global),
            Self::History(args) => history::execute(&args, global),
            Self::Save(args) => save::execute(&args, global),
            Self::Load(args) => load::execute(&args, global),
            Self::Import(args) => import::execute(&args, global),
            Self::Pull(args) => pull::execute(&args, global),
            Self::Push(args) => push::execute(&args, global),
        }
    }
}

impl ContainerCommand {
    fn execute(self, global: &GlobalArgs) -> Result<Exit> {
        match self {
            Self::Ls(args) => ps::execute(&args, global),
            Self::Prune(args) => rm::prune(&args, global),
            Self::Inspect(args) => inspect::execute(&args, inspect::Kind::Container, global),
            Self::Remove(args) => rm::execute(&args, global),
            Self::OnContainer(command) => command.execute(global),
        }
    }
}

impl ImageCommand {
    fn execute(self, global: &GlobalArgs) -> Result<Exit> {
        match self {
            Self::Ls(args) => images::execute(&args, global),
            Self::Rm(args) => rmi::execute(&args, global),
            Self::Inspect(args) => inspect::execute(&args, inspect::Kind::Image, global),
            Self::Prune(args) => image_prune::execute(&args, global),
            Self::Diff(args) => image_diff::execute(&args, global),
            Self::Layers(args) => image_layers::execute(&args, global),
            Self::OnImage(command) => command.execute(global),
        }
    }
}

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
fn command_at(arguments: &[OsString]) -> usize {
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
    use clap::CommandFactory;

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

    #[test]
    fn the_definition_of_all_arguments_is_consistent() {
        crate::Cli::command().debug_assert();
    }
}
