//! Two builds of the same, step by step: what differs in the result of each, where in the Dockerfile it stands, and
//! whether it was made there or came from a step before.

use std::collections::{HashMap, HashSet};

use rbuild_cache::tree::Tree;
use rbuild_cache::{Snapshot, SnapshotId};
use rbuild_solver::VertexId;

use super::{DifferingStep, Once, Reproduction};
use crate::assemble::{image_config, times};
use crate::compare::{Change, Closeness, Difference, EVERY_TIME, differences};
use crate::images::ConfigDifference;
use crate::images::compare::config_differences;
use crate::lower::StepInfo;
use crate::op::Op;
use crate::{Error, Result};

pub(super) fn compare(one: &Once, two: &Once) -> Result<Reproduction> {
    let digests = [digest(one)?, digest(two)?];
    let (first, second) = (&one.performed, &two.performed);
    let mut notes = Vec::new();
    if first.images.len() != second.images.len()
        || first.capture.graph.len() != second.capture.graph.len()
    {
        notes.push(
            "the builds have different steps: the Dockerfile or its arguments changed meanwhile"
                .to_owned(),
        );
    }
    let chains = [chains(one)?, chains(two)?];
    let mut found = Steps::new(one, two, &chains[0]);
    for &vertex in &first.needed() {
        found.look_at(vertex)?;
    }
    let mut config = Vec::new();
    for (place, (image, other)) in first.images.iter().zip(&second.images).enumerate() {
        let of = |chains: &[Vec<Snapshot>]| chains.get(place).cloned().unwrap_or_default();
        let before = image_config(image, &times(&of(&chains[0])));
        let after = image_config(other, &times(&of(&chains[1])));
        config.extend(config_differences(&before, &after));
        if before.history != after.history {
            config.push(ConfigDifference {
                field: "history".to_owned(),
                before: serde_json::to_value(&before.history).ok(),
                after: serde_json::to_value(&after.history).ok(),
            });
        }
    }
    let steps = found.steps;
    let reproducible = digests[0] == digests[1];
    if !reproducible && steps.is_empty() && config.is_empty() && notes.is_empty() {
        notes.push(
            "no file and no field differs, but the digests do: this is a mistake of rbuild"
                .to_owned(),
        );
    }
    Ok(Reproduction {
        reproducible,
        digests,
        source_date_epoch: String::new(),
        epoch_is_given: false,
        steps,
        config,
        notes,
    })
}

fn digest(once: &Once) -> Result<rbuild_cache::Digest> {
    let image = once.performed.outcome.image.as_ref();
    image
        .map(|image| image.digest)
        .ok_or_else(|| Error::Other("the build made no image".to_owned()))
}

/// Of each platform, bottom first.
fn chains(once: &Once) -> Result<Vec<Vec<Snapshot>>> {
    let chain = |top: &Option<Snapshot>| match top {
        Some(top) => Ok(once.store.chain(&top.id)?),
        None => Ok(Vec::new()),
    };
    once.performed.tops.iter().map(chain).collect()
}

/// What is found on the way.
struct Steps<'a> {
    one: &'a Once,
    two: &'a Once,
    /// Places in the image, of the first build's snapshots.
    layers: HashMap<SnapshotId, usize>,
    infos: HashMap<VertexId, &'a StepInfo>,
    epoch: i64,
    /// Vertices that something of differs, with the step to blame.
    differing: HashMap<VertexId, String>,
    /// Contents that differed before, and the step that made them so.
    contents: HashMap<(String, String), String>,
    steps: Vec<DifferingStep>,
}

impl<'a> Steps<'a> {
    fn new(one: &'a Once, two: &'a Once, chains: &[Vec<Snapshot>]) -> Self {
        let layers = chains
            .iter()
            .flat_map(|chain| chain.iter().zip(1..))
            .map(|(snapshot, place)| (snapshot.id.clone(), place));
        let steps = one.performed.capture.steps.iter();
        Self {
            one,
            two,
            layers: layers.collect(),
            infos: steps.map(|info| (info.vertex, info)).collect(),
            epoch: one
                .performed
                .images
                .first()
                .and_then(|image| image.epoch)
                .unwrap_or(EVERY_TIME),
            differing: HashMap::new(),
            contents: HashMap::new(),
            steps: Vec::new(),
        }
    }

    fn look_at(&mut self, vertex: VertexId) -> Result<()> {
        let graph = &self.one.performed.capture.graph;
        let inputs = graph.inputs(vertex);
        let blamed = inputs
            .iter()
            .find_map(|input| self.differing.get(input))
            .cloned();
        // What is stacked was made by the vertex that is stacked.
        let maker = match graph.operation(vertex) {
            Op::Exec(_) | Op::File(_) => vertex,
            Op::Merge => inputs.last().copied().unwrap_or(vertex),
            Op::Image(_) | Op::Context(_) | Op::Http(_) | Op::Git(_) => return Ok(()),
        };
        let (Some(before), Some(after)) = (result(self.one, vertex)?, result(self.two, vertex)?)
        else {
            return Ok(());
        };
        let closeness = Closeness {
            times: Some(self.epoch),
        };
        let same = before.tree == after.tree;
        let trees = (
            self.one.store.tree(&before.id)?,
            self.two.store.tree(&after.id)?,
        );
        let mut found = differences(&trees.0, &trees.1, closeness);
        if same {
            without_touched_parents(&mut found, &trees.0);
        }
        if found.is_empty() {
            if let Some(blamed) = blamed {
                self.differing.insert(vertex, blamed);
            }
            return Ok(());
        }
        let info = self
            .infos
            .get(&vertex)
            .or_else(|| self.infos.get(&maker))
            .copied();
        let (file, line, end_line, name) = match info {
            Some(info) => (
                info.source.name().to_owned(),
                info.start_line,
                info.end_line,
                info.name.clone(),
            ),
            None => (String::new(), 0, 0, "a step without a place".to_owned()),
        };
        let here = format!("{file}:{line}");
        let copied: HashSet<&String> = found
            .iter()
            .filter_map(contents)
            .filter_map(|pair| self.contents.get(&pair))
            .collect();
        let all_copied = found
            .iter()
            .all(|one| contents(one).is_some_and(|pair| self.contents.contains_key(&pair)));
        let follows = match (all_copied, blamed) {
            // Each file that differs here differed before in the same way.
            (true, _) => copied.into_iter().min().cloned(),
            (false, blamed) => blamed,
        };
        let blamed = match &follows {
            Some(before) if all_copied => before.clone(),
            _ => here.clone(),
        };
        for pair in found.iter().filter_map(contents) {
            self.contents.entry(pair).or_insert_with(|| here.clone());
        }
        self.differing.insert(vertex, blamed);
        self.steps.push(DifferingStep {
            name,
            file,
            line,
            end_line,
            layer: self.layers.get(&before.id).copied(),
            follows,
            differences: found,
        });
        Ok(())
    }
}

/// What a vertex came to.
fn result(once: &Once, vertex: VertexId) -> Result<Option<Snapshot>> {
    let Some(key) = once.performed.keys.get(&vertex) else {
        return Ok(None);
    };
    let record = once.store.lookup(*key)?;
    match record.and_then(|record| record.snapshot) {
        Some(id) => Ok(Some(once.store.snapshot(&id)?)),
        None => Ok(None),
    }
}

/// Content before and after, of a file that has changed.
fn contents(one: &Difference) -> Option<(String, String)> {
    let content = one.aspects.iter().find(|it| it.what == "content")?;
    Some((content.before.clone(), content.after.clone()))
}

/// Times of directories follow from what is done in them; alone they are named only where nothing else is.
fn without_touched_parents(found: &mut Vec<Difference>, tree: &Tree) {
    let has_files = found.iter().any(|one| one.kind != "directory");
    if has_files {
        let is_parent = |path: &str| {
            let below = tree.below(path.trim_start_matches('/').as_bytes());
            below.len() > 1
        };
        found.retain(|one| {
            one.change != Change::Changed || one.kind != "directory" || !is_parent(&one.path)
        });
    }
}
