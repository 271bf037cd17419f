//! `rbuild graph`: the operations that a Dockerfile comes to, with how the last build of it went.
//! Text forms in [`text`], pictures in [`picture`].

mod picture;
mod text;

use std::collections::HashMap;
use std::path::PathBuf;

use clap::ValueEnum;
use rbuild_engine::explain::{self, ExplainedStep, StepOutcome};
use rbuild_engine::lint::{self, Graph, Vertex};
use rbuild_engine::{BuildRequest, cache::Key};

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{machine, stdio, values};

/// Show the operations of a build, and how the last one went
#[derive(Debug, clap::Args)]
pub(crate) struct GraphArgs {
    /// As for `build`
    #[arg(default_value = ".")]
    context: String,
    /// The Dockerfile (default: CONTEXT/Dockerfile; `-` is standard input)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The stage to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Platforms to build for, as in `linux/amd64,linux/arm64`
    #[arg(long, value_name = "P[,P...]")]
    platform: Vec<String>,
    /// A build argument; without a value it is taken from the environment
    #[arg(long, value_name = "K[=V]", allow_hyphen_values = true)]
    build_arg: Vec<String>,
    /// A named context: a directory, docker-image://, oci-layout://, oci-archive:// or target:
    #[arg(long, value_name = "NAME=VALUE")]
    build_context: Vec<String>,
    #[arg(long, value_enum, default_value_t = Format::Dot)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For Graphviz
    Dot,
    /// For Mermaid, as in Markdown
    Mermaid,
    Json,
    /// A picture
    Svg,
    /// A page with the picture
    Html,
}

/// A vertex and how it went.
struct Node<'a> {
    vertex: &'a Vertex,
    /// `None`: no build is known, or it is no step.
    last: Option<&'a ExplainedStep>,
}

pub(crate) fn execute(args: &GraphArgs, global: &GlobalArgs) -> Result<Exit> {
    let (context, dockerfile) = super::build::locate(&args.context, args.file.as_deref())?;
    let key = explain::build_key(&context, &dockerfile);
    let mut contexts = Vec::new();
    for text in &args.build_context {
        contexts.push(super::build::named_context(text)?);
    }
    let request = BuildRequest {
        target: args.target.clone().filter(|target| !target.is_empty()),
        platforms: values::platforms(&args.platform)?,
        build_args: super::build::build_args(&args.build_arg)?,
        contexts,
        ..BuildRequest::new(context, dockerfile)
    };
    let graph = lint::graph(&request)?;
    let steps = last_build(key, global)?;
    let by_name: HashMap<&str, &ExplainedStep> = steps
        .iter()
        .map(|step| (step.name.as_str(), step))
        .collect();
    let nodes: Vec<Node<'_>> = graph
        .vertices
        .iter()
        .map(|vertex| Node {
            vertex,
            last: by_name.get(vertex.name.as_str()).copied(),
        })
        .collect();
    stdio::out(print(args.format, &graph, &nodes));
    Ok(Exit::Success)
}

fn print(format: Format, graph: &Graph, nodes: &[Node<'_>]) -> String {
    match format {
        Format::Dot => text::dot(nodes),
        Format::Mermaid => text::mermaid(nodes),
        Format::Json => text::json(graph, nodes),
        Format::Svg => picture::svg(nodes),
        Format::Html => picture::html(nodes),
    }
}

/// A graph needs no store; where there is one, it may know of a build.
fn last_build(key: Key, global: &GlobalArgs) -> Result<Vec<ExplainedStep>> {
    let options = global.options()?;
    if !options.root.exists() {
        return Ok(Vec::new());
    }
    let explanation = machine::engine(options)?.explanation(key)?;
    Ok(explanation.map_or_else(Vec::new, |explanation| explanation.steps))
}

impl Node<'_> {
    fn state(&self) -> Option<&'static str> {
        Some(match self.last?.outcome {
            StepOutcome::Cached => "cached",
            StepOutcome::Ran => "ran",
            StepOutcome::Failed => "failed",
            StepOutcome::NotReached => "not reached",
        })
    }

    /// `#dfd`
    fn colour(&self) -> &'static str {
        match self.last.map(|step| step.outcome) {
            Some(StepOutcome::Cached) => "#d8f0d8",
            Some(StepOutcome::Ran) => "#d8e4f8",
            Some(StepOutcome::Failed) => "#f8d8d8",
            Some(StepOutcome::NotReached) | None => "#f4f4f4",
        }
    }

    /// The name, and below it how the last build went.
    fn lines(&self) -> (String, String) {
        const NAME_LENGTH: usize = 64;
        let name = stdio::escape_line(&self.vertex.name);
        let took = self.last.and_then(|step| step.duration_ms);
        let state = match (self.state(), took) {
            (Some(state), Some(took)) => format!("{state}, {}", seconds(took)),
            (Some(state), None) => state.to_owned(),
            (None, _) => String::new(),
        };
        (crate::table::shorten(&name, NAME_LENGTH), state)
    }
}

/// `1.25s`
fn seconds(milliseconds: u64) -> String {
    format!("{}.{:02}s", milliseconds / 1000, milliseconds % 1000 / 10)
}
