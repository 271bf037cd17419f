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
pub(crate) mod first_word;
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
pub(crate) mod misread;
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

use clap::Subcommand;

use container::{
    attach, commit, cp, diff, exec, export, kill, logs, pause, port, ps, rename, rm, start, stats,
    stop, top, update, wait,
};

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_all_arguments_is_consistent() {
        crate::Cli::command().debug_assert();
    }
}
