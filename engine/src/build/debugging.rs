//! A shell where a step broke, or before or after a step: in its root, with its mounts, variables, user and directory.
//!
//! What is changed in there goes with the shell: it works on a layer that becomes no snapshot, and cache mounts are
//! seen through one of their own. In an image without a shell it is a busybox of the host's, where that has one that
//! needs nothing of the image.

mod tools;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::{ActiveSnapshot, RootDir, SnapshotId, TemporaryDirectory};
use rbuild_executor::sandbox::ExecError;
use rbuild_executor::sandbox::container::Top;
use rbuild_executor::spec::{Below, Exit, Mount, MountSource, Stdio};
use rbuild_solver::{Graph, SolveError, VertexId};
use tokio_util::sync::CancellationToken;

use super::Begun;
use super::solving::{Solving, failed};
use crate::event::Sink;
use crate::lower::{StepInfo, Surroundings};
use crate::op::{ExecOp, Op};
use crate::request::BuildRequest;
use crate::worker::failure::Failure;
use crate::worker::{self, Worker, blocking};
use crate::{Engine, Error, Result};

/// Where tools of the host are in a shell that has no others.
const TOOLS: &str = "/.rbuild";

/// A place in a build.
#[derive(Debug, Clone)]
pub struct Point {
    /// A line of the Dockerfile, `#3` as progress counts steps, or words of a step's name.
    pub step: String,
    pub when: When,
}

/// On which side of a step a shell is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

/// What a step that failed left, as the worker keeps it.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) vertex: VertexId,
    pub(crate) inputs: Vec<worker::Output>,
    /// Of a command: what it had written.
    pub(crate) layer: Option<ActiveSnapshot>,
}

/// A shell that can be opened. Dropping it lets go of what it would be opened on.
pub struct DebugShell {
    worker: Arc<Worker>,
    vertex: VertexId,
    /// What is given to a command there; its own words are not the shell's.
    op: ExecOp,
    inputs: Vec<worker::Output>,
    base: Option<SnapshotId>,
    layer: Option<ActiveSnapshot>,
    /// Of the stage.
    shell: Vec<String>,
    name: String,
}

impl std::fmt::Debug for DebugShell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DebugShell").field(&self.name).finish()
    }
}

impl Engine {
    /// Builds up to a point, and stands ready to open a shell there. What is built is kept as in any build.
    pub async fn debug(
        &self,
        request: BuildRequest,
        point: &Point,
        events: Arc<dyn Sink>,
        cancel: CancellationToken,
    ) -> Result<DebugShell> {
        let begun = self.begin(request, &[], HashMap::new(), &events, &cancel);
        let Begun {
            request,
            lowered,
            warnings,
            plan,
            worker,
            ..
        } = begun.await?;
        let graph = Arc::new(lowered.graph);
        let steps = lowered.steps;
        let number = |info: &StepInfo| plan.vertices.get(&info.vertex).map(|it| it.step.0);
        let info = choose(&steps, &graph, point, number)?;
        let (op, targets) = match (point.when, graph.operation(info.vertex)) {
            (When::Before, Op::Exec(op)) => (Some(ExecOp::clone(op)), graph.inputs(info.vertex)),
            (When::Before, Op::File(_) | Op::Merge) if has_base(info, &graph) => (
                None,
                graph.inputs(info.vertex).into_iter().take(1).collect(),
            ),
            // It is the first step on nothing: what is before it is an empty root.
            (When::Before, Op::File(_)) => (None, Vec::new()),
            (When::Before, _) => {
                return Err(Error::Usage(format!(
                    "nothing is before `{}`: it is where a stage begins; --after shows what it gives",
                    info.name
                )));
            }
            // After a command its mounts are there as well: they are among its inputs.
            (When::After, Op::Exec(op)) => {
                let mut targets = graph.inputs(info.vertex);
                targets.push(info.vertex);
                (Some(ExecOp::clone(op)), targets)
            }
            (When::After, _) => (None, vec![info.vertex]),
        };
        let solving = Solving {
            worker: &worker,
            plan: &plan,
            events: &events,
            cancel: &cancel,
            needs_files: true,
            going: None,
        };
        let (solved, _) = solving.outputs(&graph, &targets, &request).await;
        let mut outputs = match solved {
            Ok(outputs) => outputs,
            Err(error) => {
                solving.tell(&error);
                return Err(failed(error, &steps, &warnings, None));
            }
        };
        let after = (point.when == When::After).then(|| outputs.pop()).flatten();
        let op = match op {
            Some(op) => op,
            None => in_surroundings(info)?,
        };
        let before = outputs.first().filter(|_| has_base(info, &graph));
        let base = after.as_ref().or(before);
        let base = base.and_then(worker::Output::snapshot).cloned();
        Ok(DebugShell {
            shell: shell_of(info),
            name: info.name.clone(),
            vertex: info.vertex,
            op,
            inputs: outputs,
            base,
            layer: None,
            worker: Arc::clone(&worker),
        })
    }
}

/// The step that a person means: as `rbuild why` has it, and one.
fn choose<'s>(
    steps: &'s [StepInfo],
    graph: &Graph<Op>,
    point: &Point,
    number: impl Fn(&StepInfo) -> Option<u32>,
) -> Result<&'s StepInfo> {
    let text = point.step.as_str();
    let fits = |info: &StepInfo| {
        if let Ok(line) = text.parse::<usize>() {
            return (info.start_line..=info.end_line).contains(&line);
        }
        match text.strip_prefix('#').map(str::parse::<u32>) {
            Some(Ok(wanted)) => number(info).and_then(|it| it.checked_add(1)) == Some(wanted),
            _ => info.name.to_lowercase().contains(&text.to_lowercase()),
        }
    };
    let has_files = |info: &&StepInfo| {
        info.surroundings.is_some()
            && match graph.operation(info.vertex) {
                Op::Exec(_) | Op::File(_) | Op::Merge | Op::Image(_) => true,
                Op::Context(_) | Op::Http(_) | Op::Git(_) => false,
            }
    };
    let list = |steps: &[&StepInfo]| {
        let line = |info: &&StepInfo| {
            let number = number(info).map_or(0, |number| number + 1);
            format!("line {}, #{number}: {}", info.start_line, info.name)
        };
        let lines: Vec<String> = steps.iter().take(20).map(line).collect();
        lines.join("\n")
    };
    let candidates: Vec<&StepInfo> = steps.iter().filter(has_files).collect();
    let chosen: Vec<&StepInfo> = candidates.iter().copied().filter(|it| fits(it)).collect();
    let (Some(first), Some(last)) = (chosen.first(), chosen.last()) else {
        return Err(Error::Usage(format!(
            "this build has no step `{text}`; it has\n{}",
            list(&candidates)
        )));
    };
    // An instruction may be made in several steps, one after the other.
    if chosen.iter().any(|info| info.span != first.span) || platforms(&chosen) > 1 {
        return Err(Error::Usage(format!(
            "`{text}` means several steps; name one of\n{}",
            list(&chosen)
        )));
    }
    let standing = chosen.iter().find(|info| has_base(info, graph));
    Ok(match point.when {
        When::Before => standing.unwrap_or(first),
        When::After => last,
    })
}

/// Whether a step stands on the root before it, as its first input.
fn has_base(info: &StepInfo, graph: &Graph<Op>) -> bool {
    match graph.operation(info.vertex) {
        Op::Exec(op) => op.base,
        Op::File(op) => op.base,
        Op::Merge => true,
        Op::Image(_) | Op::Context(_) | Op::Http(_) | Op::Git(_) => false,
    }
}

fn platforms(steps: &[&StepInfo]) -> usize {
    let mut platforms: Vec<_> = steps
        .iter()
        .filter_map(|info| Some(&info.surroundings.as_ref()?.platform))
        .collect();
    platforms.dedup();
    platforms.len()
}

/// What a shell can be opened on after a step failed; `None` where there are no files to look at, or nobody asked.
pub(super) async fn at_failure(
    solving: &Solving<'_>,
    graph: &Arc<Graph<Op>>,
    steps: &[StepInfo],
    request: &BuildRequest,
    error: &SolveError<Failure>,
) -> Option<Box<DebugShell>> {
    let SolveError::Vertex { vertex, .. } = error else {
        return None;
    };
    let worker = solving.worker;
    if !worker.keeps_left {
        return None;
    }
    let info = steps.iter().find(|info| info.vertex == *vertex)?;
    let left = match worker.take_left(*vertex) {
        Some(left) => left,
        // The step failed before it began, because files to copy were missing, for instance.
        None if has_base(info, graph) => {
            let base = graph.inputs(*vertex).into_iter().take(1);
            let base: Vec<VertexId> = base.collect();
            let events: Arc<dyn Sink> = Arc::new(|_| {});
            let quietly = Solving {
                events: &events,
                ..*solving
            };
            let (solved, _) = quietly.outputs(graph, &base, request).await;
            Left {
                vertex: *vertex,
                inputs: solved.ok()?,
                layer: None,
            }
        }
        None => return None,
    };
    let op = match graph.operation(*vertex) {
        Op::Exec(op) => ExecOp::clone(op),
        _ => in_surroundings(info).ok()?,
    };
    // The inputs of a command that are not there can be no mounts.
    let op = ExecOp {
        mounts: if left.inputs.len() < graph.inputs(*vertex).len() {
            Vec::new()
        } else {
            op.mounts
        },
        ..op
    };
    let base = left.inputs.first().filter(|_| has_base(info, graph));
    Some(Box::new(DebugShell {
        base: base.and_then(worker::Output::snapshot).cloned(),
        worker: Arc::clone(worker),
        vertex: *vertex,
        op,
        inputs: left.inputs,
        layer: left.layer,
        shell: shell_of(info),
        name: info.name.clone(),
    }))
}

fn shell_of(info: &StepInfo) -> Vec<String> {
    info.surroundings
        .as_ref()
        .map_or_else(Vec::new, |around| around.shell.clone())
}

/// A command where a step is none.
fn in_surroundings(info: &StepInfo) -> Result<ExecOp> {
    let Some(around) = &info.surroundings else {
        return Err(Error::Usage(format!(
            "`{}` has no root that a shell could be in",
            info.name
        )));
    };
    let Surroundings {
        env,
        cwd,
        user,
        platform,
        hosts,
        limits,
        network,
        shell: _,
    } = Surroundings::clone(around);
    Ok(ExecOp {
        base: true,
        argv: Vec::new(),
        env,
        env_unkeyed: Vec::new(),
        cwd,
        user,
        mounts: Vec::new(),
        network,
        reach: None,
        insecure: false,
        hosts,
        hostname: None,
        limits,
        platform,
        refresh: false,
        reset_cache_mounts: false,
    })
}

impl DebugShell {
    /// `[build 2/4] RUN make`
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The command of the step, where it is one.
    pub fn command(&self) -> &[String] {
        &self.op.argv
    }

    /// Opens it in this process's terminal, until it is left. `term`: what kind of terminal that is.
    pub async fn open(self, term: &str, cancel: CancellationToken) -> Result<Exit> {
        worker::check_platform(&self.op.platform).map_err(plain)?;
        let store = Arc::clone(self.worker.store());
        let layer = match &self.layer {
            Some(_) => None,
            None => Some(blocking(move || store.prepare()).await?),
        };
        let Some(layer) = self.layer.as_ref().or(layer.as_ref()) else {
            return Err(Error::Other("there is no layer for the shell".to_owned()));
        };
        for program in programs(&self.shell) {
            match self.run(layer, program, None, term, &cancel).await {
                Err(Error::Exec(ExecError::NotExecutable { .. })) => {}
                result => return result,
            }
        }
        let executor = Arc::clone(&self.worker.executor);
        let tools = blocking(move || tools::bring(executor.store())).await?;
        let Some(tools) = tools else {
            return Err(Error::Other(format!(
                "there is no shell in `{}`, and this machine has no statically linked busybox to bring in: \
                 install one (Debian: busybox-static; Alpine: busybox-static)",
                self.name
            )));
        };
        let program = vec![format!("{TOOLS}/busybox"), "sh".to_owned()];
        self.run(layer, program, Some(tools), term, &cancel).await
    }

    async fn run(
        &self,
        layer: &ActiveSnapshot,
        program: Vec<String>,
        tools: Option<TemporaryDirectory>,
        term: &str,
        cancel: &CancellationToken,
    ) -> Result<Exit> {
        layer.renew_work()?;
        let top = Top::Kept {
            upper: layer.upper().to_owned(),
            work: layer.work().to_owned(),
            durable: false,
        };
        let op = ExecOp {
            argv: program,
            reset_cache_mounts: false,
            ..self.op.clone()
        };
        let executor = self.worker.counting().await.map_err(plain)?;
        let network = self.worker.network(
            &executor,
            op.network,
            op.insecure,
            self.worker.watch(&op, None),
        );
        let given = self.worker.given(self.vertex, &op, &self.inputs, network);
        let (mut exec, _) = given.await.map_err(plain)?;
        for mount in &mut exec.mounts {
            if let MountSource::Cache { throw_away, .. } = &mut mount.source {
                *throw_away = true;
            }
        }
        exec.env.retain(|variable| !variable.starts_with(b"TERM="));
        exec.env.push(format!("TERM={term}").into_bytes());
        if let Some(tools) = &tools {
            exec.mounts.push(mount_of(tools)?);
            with_tools(&mut exec.env);
        }
        let stdio = Stdio::Terminal { interactive: true };
        let run = executor.run(self.base.as_ref(), top, exec, stdio, cancel.clone());
        Ok(run.await?)
    }
}

/// Programs that may be a shell, the likeliest first.
fn programs(shell: &[String]) -> Vec<Vec<String>> {
    const INTERACTIVE: [&str; 8] = ["sh", "bash", "ash", "dash", "zsh", "ksh", "mksh", "fish"];
    let own = shell.first().filter(|program| {
        let name = program.rsplit('/').next().unwrap_or_default();
        INTERACTIVE.contains(&name) && *program != "/bin/sh"
    });
    let mut programs: Vec<Vec<String>> = own
        .map(|program| vec![program.clone()])
        .into_iter()
        .collect();
    for known in ["/bin/bash", "/bin/sh", "/bin/busybox sh", "/busybox/sh"] {
        programs.push(known.split(' ').map(str::to_owned).collect());
    }
    programs
}

fn mount_of(tools: &TemporaryDirectory) -> Result<Mount> {
    let root = RootDir::open_ambient(tools.path()).map_err(|source| Error::Io {
        message: format!("cannot open `{}`", tools.path().display()),
        source,
    })?;
    Ok(Mount {
        target: PathBuf::from(TOOLS),
        read_only: true,
        below: Below::Included,
        source: MountSource::Directory {
            root: Arc::new(root),
            path: PathBuf::from("."),
            volume: None,
        },
    })
}

/// The image's own programs win.
fn with_tools(env: &mut Vec<Vec<u8>>) {
    match env
        .iter_mut()
        .find(|variable| variable.starts_with(b"PATH="))
    {
        Some(path) => path.extend_from_slice(format!(":{TOOLS}").as_bytes()),
        None => env.push(format!("PATH={TOOLS}").into_bytes()),
    }
}

fn plain(failure: Failure) -> Error {
    Error::Other(failure.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stages_own_shell_comes_first() {
        let first = |shell: &[&str]| {
            let shell: Vec<String> = shell.iter().map(|word| (*word).to_owned()).collect();
            programs(&shell).swap_remove(0).join(" ")
        };
        assert_eq!(first(&["/bin/sh", "-c"]), "/bin/bash");
        assert_eq!(first(&["/usr/bin/zsh", "-ec"]), "/usr/bin/zsh");
        assert_eq!(first(&["/usr/bin/python3", "-c"]), "/bin/bash");
    }

    #[test]
    fn tools_are_looked_for_last() {
        let mut env = vec![b"A=1".to_vec(), b"PATH=/bin".to_vec()];
        with_tools(&mut env);
        assert_eq!(env[1], b"PATH=/bin:/.rbuild");
        let mut env = Vec::new();
        with_tools(&mut env);
        assert_eq!(env, [b"PATH=/.rbuild".to_vec()]);
    }
}
