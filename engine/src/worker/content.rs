//! What of an input an operation uses, as a key: a base is used whole, COPY and mounts use what they select. An
//! input that is used in several ways has all of them in its key.

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_cache::tree::Tree;
use rbuild_cache::{Key, KeyWriter, Store};
use rbuild_parser::ignore::Patterns;
use rbuild_solver::{Graph, VertexId};

use super::failure::{Failure, Result};
use super::{Output, View, root_content};
use crate::context::Wanted;
use crate::explain::paths;
use crate::op::{CopyOp, FileAction, MountOpKind, Op};
use crate::select::{self, Request, Selection};

/// The content key of `operation`'s input `index`.
pub(super) fn of(store: &Store, operation: &Op, index: usize, input: &Output) -> Result<Key> {
    let uses = uses(store, operation, index, input)?;
    match uses.as_slice() {
        [one] => Ok(*one),
        [] => Ok(whole(input)),
        several => {
            let mut writer = KeyWriter::new("uses.v1");
            for key in several {
                writer.add_key("use", *key);
            }
            Ok(writer.finish())
        }
    }
}

/// Whether the key of `operation`'s input `index` needs more than the input's own content: which paths it has.
pub(super) fn looks_inside(operation: &Op, index: usize) -> bool {
    match operation {
        Op::File(file) => file
            .actions
            .iter()
            .any(|action| matches!(action, FileAction::Copy(copy) if copy.input == index)),
        Op::Exec(exec) => exec.mounts.iter().any(|mount| match &mount.kind {
            MountOpKind::Bind { input, source } | MountOpKind::Cache { input, source, .. } => {
                *input == Some(index) && !source.trim_matches('/').is_empty()
            }
            MountOpKind::Tmpfs { .. } | MountOpKind::Secret { .. } | MountOpKind::Ssh { .. } => {
                false
            }
        }),
        Op::Merge | Op::Image(_) | Op::Context(_) | Op::Http(_) | Op::Git(_) => false,
    }
}

/// Writes down which files of contexts an operation that is about to run uses, so that it can be said of the next
/// run which of them differ.
pub(super) fn remember(store: &Store, operation: &Op, inputs: &[Output]) -> Result<()> {
    for (index, input) in inputs.iter().enumerate() {
        let Output::Context(view) = input else {
            continue;
        };
        let mut sources = Vec::new();
        match operation {
            Op::File(file) => {
                for action in &file.actions {
                    if let FileAction::Copy(copy) = action
                        && copy.input == index
                    {
                        sources.extend(copied(store, copy, input)?.sources);
                    }
                }
            }
            Op::Exec(exec) => {
                for mount in &exec.mounts {
                    if let MountOpKind::Bind {
                        input: place,
                        source,
                    }
                    | MountOpKind::Cache {
                        input: place,
                        source,
                        ..
                    } = &mount.kind
                        && *place == Some(index)
                    {
                        sources.extend(mount_selection(&view.tree, source, input)?.sources);
                    }
                }
            }
            Op::Image(_) | Op::Context(_) | Op::Http(_) | Op::Git(_) | Op::Merge => {}
        }
        if !sources.is_empty() {
            paths::remember(store, of(store, operation, index, input)?, sources);
        }
    }
    Ok(())
}

/// What `vertices` of a graph name of each context.
pub(crate) fn wanted(graph: &Graph<Op>, vertices: &[VertexId]) -> HashMap<String, Vec<Wanted>> {
    let mut wanted: HashMap<String, Vec<Wanted>> = HashMap::new();
    for &vertex in vertices {
        let inputs = graph.inputs(vertex);
        let mut add = |input: usize, one: Wanted| {
            if let Some(Op::Context(context)) = inputs.get(input).map(|it| graph.operation(*it)) {
                wanted.entry(context.name.clone()).or_default().push(one);
            }
        };
        match graph.operation(vertex) {
            Op::File(file) => {
                for action in &file.actions {
                    if let FileAction::Copy(copy) = action {
                        let one = Wanted {
                            sources: copy.sources.clone(),
                            parents: copy.parents,
                            wildcards: true,
                        };
                        add(copy.input, one);
                    }
                }
            }
            Op::Exec(exec) => {
                for mount in &exec.mounts {
                    if let MountOpKind::Bind { input, source }
                    | MountOpKind::Cache { input, source, .. } = &mount.kind
                        && let Some(input) = input
                    {
                        let one = Wanted {
                            sources: vec![source.clone()],
                            parents: false,
                            wildcards: false,
                        };
                        add(*input, one);
                    }
                }
            }
            Op::Image(_) | Op::Context(_) | Op::Http(_) | Op::Git(_) | Op::Merge => {}
        }
    }
    wanted
}

fn uses(store: &Store, operation: &Op, index: usize, input: &Output) -> Result<Vec<Key>> {
    let mut uses = Vec::new();
    match operation {
        Op::File(file) => {
            if file.base && index == 0 {
                uses.push(whole(input));
            }
            for action in &file.actions {
                if let FileAction::Copy(copy) = action
                    && copy.input == index
                {
                    uses.push(copied(store, copy, input)?.key());
                }
            }
        }
        Op::Exec(exec) => {
            if exec.base && index == 0 {
                uses.push(whole(input));
            }
            for mount in &exec.mounts {
                match &mount.kind {
                    MountOpKind::Bind {
                        input: Some(place),
                        source,
                    }
                    | MountOpKind::Cache {
                        input: Some(place),
                        source,
                        ..
                    } if *place == index => uses.push(mounted(store, source, input)?),
                    MountOpKind::Bind { .. }
                    | MountOpKind::Cache { .. }
                    | MountOpKind::Tmpfs { .. }
                    | MountOpKind::Secret { .. }
                    | MountOpKind::Ssh { .. } => {}
                }
            }
        }
        Op::Merge => uses.push(whole(input)),
        Op::Image(_) | Op::Context(_) | Op::Http(_) | Op::Git(_) => {}
    }
    Ok(uses)
}

fn whole(input: &Output) -> Key {
    match input {
        Output::Snapshot(snapshot) => root_content(snapshot.as_ref()),
        Output::There(there) => there.content,
        // Nothing uses a context whole; its own digest is the safe answer.
        Output::Context(view) => view.tree.digest(),
    }
}

/// What a bind mount's source holds.
fn mounted(store: &Store, source: &str, input: &Output) -> Result<Key> {
    if matches!(input, Output::Snapshot(_) | Output::There(_))
        && source.trim_matches('/').is_empty()
    {
        return Ok(whole(input));
    }
    let tree = tree(store, input)?;
    Ok(mount_selection(&tree, source, input)?.key())
}

/// The tree of an input.
pub(super) fn tree(store: &Store, input: &Output) -> Result<Arc<Tree>> {
    match input {
        Output::Context(view) => Ok(Arc::clone(&view.tree)),
        Output::Snapshot(Some(snapshot)) => Ok(store.merged_tree(&snapshot.id)?),
        Output::Snapshot(None) => Ok(Arc::default()),
        Output::There(there) => there
            .known_tree()
            .ok_or_else(|| Failure::new("internal", "the listing of a cached result is missing")),
    }
}

/// What a COPY or ADD selects of its input.
pub(super) fn copied(store: &Store, copy: &CopyOp, input: &Output) -> Result<Selection> {
    let excludes =
        Patterns::from_list(&copy.excludes).map_err(|error| Failure::of("bad-pattern", error))?;
    let request = Request {
        sources: &copy.sources,
        excludes: &excludes,
        parents: copy.parents,
        wildcards: true,
    };
    select::select(&*tree(store, input)?, &request).map_err(|error| failed(&error, input))
}

/// What a mount shows of its input.
pub(super) fn mount_selection(tree: &Tree, source: &str, input: &Output) -> Result<Selection> {
    let request = Request {
        sources: &[source.to_owned()],
        excludes: &Patterns::default(),
        parents: false,
        wildcards: false,
    };
    select::select(tree, &request).map_err(|error| failed(&error, input))
}

fn failed(error: &select::Error, input: &Output) -> Failure {
    let view: Option<&View> = match input {
        Output::Context(view) => Some(view),
        Output::Snapshot(_) | Output::There(_) => None,
    };
    let mut failure = Failure::new("not-found", error.to_string());
    let pattern = match error {
        select::Error::Missing { pattern, path, .. } => {
            if let Some(view) = view {
                let path = String::from_utf8_lossy(path);
                failure = failure.help(view.context.why_missing(&path).to_string());
            }
            pattern
        }
        select::Error::BadPattern { pattern, .. } => pattern,
        select::Error::TooManyLinks { pattern } => pattern,
    };
    if let Some(help) = misunderstood(pattern, view.is_some()) {
        failure = failure.help(help);
    }
    failure.about(pattern)
}

/// What people take a source for that is none.
fn misunderstood(pattern: &str, is_context: bool) -> Option<String> {
    if !is_context {
        return None;
    }
    if rbuild_parser::Keyword::find(pattern).is_some() && pattern.to_ascii_uppercase() == pattern {
        return Some(format!(
            "`{pattern}` is no instruction here: the line above goes on, it ends in an escape character"
        ));
    }
    if matches!(pattern, "&&" | "||" | "|" | ";" | ">" | ">>")
        || pattern.trim_start_matches(['1', '2']).starts_with(">/")
    {
        return Some(format!(
            "no shell reads this line: `{pattern}` is taken for a path"
        ));
    }
    if pattern.starts_with("http:/") || pattern.starts_with("https:/") {
        return Some("a URL has two slashes after its scheme".to_owned());
    }
    if pattern.starts_with('~') {
        return Some(
            "`~` is no home directory here: paths begin at the root of the build context"
                .to_owned(),
        );
    }
    pattern
        .starts_with('/')
        .then(|| "paths begin at the root of the build context, not of this machine".to_owned())
}
