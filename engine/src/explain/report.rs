//! From what a build noted to why each of its steps ran; and into the store, for the next build to compare with.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rbuild_cache::{Ingredient, Key, KeyWriter, Store};
use rbuild_solver::{CachePolicy, Graph, Operation as _, VertexId};

use super::memory::{self, Last, Memory, Remembered};
use super::nearest::{self, of_input, own_key};
use super::notebook::{Notebook, State};
use super::{ExplainedStep, Explanation, Reason, StepOutcome, paths};
use crate::event::StepId;
use crate::lower::StepInfo;
use crate::op::{ImageSource, MountOpKind, Op};
use crate::worker::VertexInfo;

/// A build that ended, well or not.
pub(crate) struct Ended {
    pub(crate) store: Arc<Store>,
    pub(crate) build: Key,
    pub(crate) dockerfile: String,
    pub(crate) graph: Arc<Graph<Op>>,
    pub(crate) steps: Vec<StepInfo>,
    pub(crate) vertices: HashMap<VertexId, VertexInfo>,
    pub(crate) notebook: Arc<Notebook>,
}

/// One step while it is explained.
struct Subject<'a> {
    vertex: VertexId,
    id: StepId,
    info: &'a StepInfo,
    outcome: StepOutcome,
    now: Vec<Ingredient>,
    own: Key,
}

impl Ended {
    /// Explains the build and keeps that in the store. Blocking.
    pub(crate) fn write_down(self) {
        let state = self.notebook.state();
        let last = Last::of(&self.store, self.build);
        let found = self.found(&state);
        if let (Some(found), Some(last)) = (found, &last)
            && last.found() == Some(found.to_string().as_bytes())
        {
            memory::touch(&self.store, self.build);
            return;
        }
        let before = last.and_then(|last| last.memory());
        let subjects = self.subjects(&state, before.as_ref());
        let present: HashSet<Key> = subjects.iter().map(|subject| subject.own).collect();
        let by_vertex: HashMap<VertexId, &Subject<'_>> = subjects
            .iter()
            .map(|subject| (subject.vertex, subject))
            .collect();
        let explained = Explained {
            ended: &self,
            state: &state,
            before: before.as_ref(),
            present,
            by_vertex,
        };
        let explanation = Explanation {
            dockerfile: self.dockerfile.clone(),
            steps: subjects
                .iter()
                .map(|subject| explained.step(subject))
                .collect(),
        };
        let remembered = subjects
            .iter()
            .filter(|it| matches!(it.outcome, StepOutcome::Cached | StepOutcome::Ran))
            .filter_map(|subject| {
                Some(Remembered {
                    place: subject.info.record_step.clone(),
                    definition: state.planned.get(&subject.vertex)?.key.to_string(),
                    ingredients: subject.now.clone(),
                })
            });
        let memory = Memory {
            explanation,
            steps: remembered.collect(),
            ..Memory::default()
        };
        memory::write(&self.store, self.build, memory, before, found);
    }

    /// The key of what was found, if everything was: what the last build says of the same still holds.
    fn found(&self, state: &State) -> Option<Key> {
        let mut key = KeyWriter::new("found.v1");
        for (id, info) in self.numbered_steps() {
            let planned = state.planned.get(&info.vertex)?;
            if state.outcomes.get(&info.vertex) != Some(&StepOutcome::Cached) {
                return None;
            }
            key.add("step", id.0.to_le_bytes());
            key.add("line", info.start_line.to_le_bytes());
            key.add("end", info.end_line.to_le_bytes());
            key.add("name", &info.name);
            key.add("place", &info.record_step);
            key.add_key("definition", planned.key);
        }
        Some(key.finish())
    }

    /// What counts as a step here: neither base images nor contexts and other sources.
    fn numbered_steps(&self) -> impl Iterator<Item = (StepId, &StepInfo)> {
        self.steps.iter().filter_map(|info| {
            let is_step = match self.graph.operation(info.vertex) {
                Op::Exec(_) | Op::File(_) | Op::Merge => true,
                Op::Image(_) | Op::Context(_) | Op::Http(_) | Op::Git(_) => false,
            };
            let numbered = self.vertices.get(&info.vertex).filter(|_| is_step)?;
            Some((numbered.step, info))
        })
    }

    fn subjects<'a>(&'a self, state: &State, before: Option<&Memory>) -> Vec<Subject<'a>> {
        let mut subjects = Vec::new();
        for (id, info) in self.numbered_steps() {
            let vertex = info.vertex;
            let outcome = state.outcomes.get(&vertex).copied();
            let now = self.ingredients(state, before, vertex);
            subjects.push(Subject {
                vertex,
                id,
                info,
                outcome: outcome.unwrap_or(StepOutcome::NotReached),
                own: own_key(&now),
                now,
            });
        }
        subjects
    }

    /// What a vertex is made of, with the content of its inputs as far as that is known, and where they come from.
    fn ingredients(
        &self,
        state: &State,
        before: Option<&Memory>,
        vertex: VertexId,
    ) -> Vec<Ingredient> {
        let planned = state.planned.get(&vertex);
        let known = || {
            let planned = planned?;
            if state.outcomes.get(&vertex) != Some(&StepOutcome::Cached) {
                return Some(planned.ingredients.to_vec());
            }
            let definition = planned.key.to_string();
            let same = |step: &&Remembered| step.definition == definition;
            if let Some(step) = before.and_then(|before| before.steps.iter().find(same)) {
                return Some(step.ingredients.clone());
            }
            let record = self.store.lookup(planned.key).ok().flatten();
            // What an image carried does not tell.
            let record = record.filter(|record| !record.ingredients.is_empty());
            Some(record.map_or_else(|| planned.ingredients.to_vec(), |it| it.ingredients))
        };
        let made = state.made.get(&vertex);
        let mut ingredients = made
            .map(|made| made.ingredients.clone())
            .or_else(known)
            .unwrap_or_default();
        ingredients.retain(|ingredient| !ingredient.name.ends_with(FROM));
        for (place, input) in self.graph.inputs(vertex).into_iter().enumerate() {
            ingredients.push(provenance(place, self.from(state, input)));
        }
        ingredients
    }

    fn from(&self, state: &State, input: VertexId) -> String {
        match self.graph.operation(input) {
            Op::Image(image) => of_image(image),
            Op::Context(context) => format!("context {}", context.name),
            Op::Http(http) => format!("url {}", http.url),
            Op::Git(git) => format!("url {}", git.url),
            Op::Exec(_) | Op::File(_) | Op::Merge => {
                let planned = state.planned.get(&input);
                let own = planned.map(|planned| own_key(&planned.ingredients).to_string());
                let info = self.steps.iter().find(|info| info.vertex == input);
                let name = info.map_or("", |info| instruction(&info.name));
                format!("step {} {name}", own.unwrap_or_default())
            }
        }
    }
}

/// The end of the names of ingredients that say where an input comes from. They are in no key.
const FROM: &str = "].from";

fn provenance(place: usize, value: String) -> Ingredient {
    Ingredient {
        name: format!("input[{place}{FROM}"),
        value,
    }
}

fn of_image(image: &ImageSource) -> String {
    format!("image {}@{}", image.name, image.digest)
}

/// What the record of a step keeps besides the ingredients of its keys: its text, and the images that it stands on or
/// copies from.
pub(crate) fn besides(graph: &Graph<Op>, info: &StepInfo) -> Vec<Ingredient> {
    let text = Ingredient {
        name: rbuild_cache::record::INSTRUCTION.to_owned(),
        value: instruction(&info.name).to_owned(),
    };
    let inputs = graph.inputs(info.vertex).into_iter().enumerate();
    let images = inputs.filter_map(|(place, input)| match graph.operation(input) {
        Op::Image(image) => Some(provenance(place, of_image(image))),
        _ => None,
    });
    std::iter::once(text).chain(images).collect()
}

/// `[build 2/4] RUN make` → `RUN make`
fn instruction(name: &str) -> &str {
    name.split_once("] ").map_or(name, |(_, text)| text)
}

/// A `from` as people read it.
fn shown(from: &str) -> String {
    match from.split_once(' ') {
        Some(("step", rest)) => rest.split_once(' ').map_or(rest, |(_, name)| name),
        Some((_, rest)) => rest,
        None => from,
    }
    .to_owned()
}

struct Explained<'a> {
    ended: &'a Ended,
    state: &'a State,
    before: Option<&'a Memory>,
    /// The operations that this build has: an earlier record of one of them is no earlier record of another.
    present: HashSet<Key>,
    by_vertex: HashMap<VertexId, &'a Subject<'a>>,
}

impl Explained<'_> {
    fn step(&self, subject: &Subject<'_>) -> ExplainedStep {
        let reasons = match subject.outcome {
            StepOutcome::Ran | StepOutcome::Failed => self.reasons(subject),
            StepOutcome::Cached | StepOutcome::NotReached => Vec::new(),
        };
        ExplainedStep {
            step: subject.id.0,
            name: subject.info.name.clone(),
            line: subject.info.start_line,
            end_line: subject.info.end_line,
            outcome: subject.outcome,
            reasons,
            duration_ms: self.duration(subject),
            not_in_key: not_in_key(self.ended.graph.operation(subject.vertex)),
        }
    }

    fn duration(&self, subject: &Subject<'_>) -> Option<u64> {
        let has_result = matches!(subject.outcome, StepOutcome::Ran | StepOutcome::Cached);
        let planned = self
            .state
            .planned
            .get(&subject.vertex)
            .filter(|_| has_result)?;
        let record = self.ended.store.lookup(planned.key).ok()??;
        Some(record.duration_ms)
    }

    fn reasons(&self, subject: &Subject<'_>) -> Vec<Reason> {
        let operation = self.ended.graph.operation(subject.vertex);
        if operation.cache_policy() == CachePolicy::Refresh {
            return vec![Reason::NoCache];
        }
        // Failed over what it selects of a context, before it had a key.
        if !self.state.planned.contains_key(&subject.vertex) {
            return Vec::new();
        }
        let Some(before) = self.nearest(subject) else {
            return vec![match self.before {
                None => Reason::FirstBuild,
                Some(_) => Reason::NewInstruction,
            }];
        };
        let mut reasons: Vec<Reason> = nearest::own_differences(before, &subject.now)
            .into_iter()
            .map(|difference| Reason::Changed {
                what: difference.name,
                before: difference.before,
                after: difference.after,
            })
            .collect();
        let count = |list: &[Ingredient]| {
            let inputs = list.iter().find(|it| it.name == "inputs");
            inputs.map(|inputs| inputs.value.clone())
        };
        let comparable = count(before) == count(&subject.now);
        let inputs = self.ended.graph.inputs(subject.vertex);
        for (place, input) in inputs.into_iter().enumerate() {
            // Where one was added or taken away, that is told already, and the others have other places.
            if comparable || place == 0 {
                self.input(subject, before, place, input, &mut reasons);
            }
        }
        if reasons.is_empty() {
            reasons.push(Reason::Pruned);
        }
        reasons
    }

    /// The nearest earlier record: of this build's last time the steps with the same stage and keyword, and of all
    /// builds the records of the same instruction.
    fn nearest(&self, subject: &Subject<'_>) -> Option<&[Ingredient]> {
        let group = |place: &str| place.rsplit_once('/').map(|(group, _)| group.to_owned());
        let place = &subject.info.record_step;
        let remembered = || self.before.iter().flat_map(|before| &before.steps);
        let same_place = remembered().filter(|step| step.place == *place);
        let neighbours =
            remembered().filter(|step| step.place != *place && group(&step.place) == group(place));
        let remembered = same_place
            .chain(neighbours)
            .map(|step| (step.ingredients.as_slice(), false));
        let made = self.state.made.get(&subject.vertex);
        let records = made.into_iter().flat_map(|made| &made.earlier);
        let records = records.map(|earlier| (earlier.as_slice(), true));
        let fits = |(candidate, any_dockerfile): &(&[Ingredient], bool)| {
            let own = own_key(candidate);
            let may_be = || !self.present.contains(&own);
            let same = || nearest::is_same_instruction(candidate, &subject.now);
            own == subject.own || may_be() && (!any_dockerfile || same())
        };
        let candidates = remembered.chain(records).filter(fits);
        nearest::nearest(&subject.now, candidates.map(|(candidate, _)| candidate))
    }

    fn input(
        &self,
        subject: &Subject<'_>,
        before: &[Ingredient],
        place: usize,
        input: VertexId,
        reasons: &mut Vec<Reason>,
    ) {
        let old = of_input(before, place, "content");
        let new = of_input(&subject.now, place, "content");
        let above = self.by_vertex.get(&input);
        let ran = above
            .is_some_and(|above| matches!(above.outcome, StepOutcome::Ran | StepOutcome::Failed));
        // What failed has no content of what it stands on: then it is enough that that ran.
        if new == old || new.is_none() && !ran {
            return;
        }
        let old_from = of_input(before, place, "from");
        let new_from = of_input(&subject.now, place, "from").unwrap_or_default();
        let order = |old: &str| Reason::Order {
            before: shown(old),
            after: shown(new_from),
        };
        match self.ended.graph.operation(input) {
            Op::Context(context) => {
                reasons.extend(paths::compare(&self.ended.store, &context.name, old, new));
            }
            Op::Image(_) => reasons.push(match old_from {
                Some(old) if !old.starts_with("image ") => order(old),
                old => Reason::BaseImage {
                    before: old.map(shown),
                    after: shown(new_from),
                },
            }),
            Op::Http(http) => reasons.push(Reason::Source {
                url: http.url.clone(),
            }),
            Op::Git(git) => reasons.push(Reason::Source {
                url: git.url.clone(),
            }),
            Op::Exec(_) | Op::File(_) | Op::Merge => {
                let moved = old_from.filter(|old| *old != new_from && !ran);
                reasons.push(match (moved, above) {
                    (None, Some(above)) => Reason::Step {
                        step: above.id.0,
                        name: above.info.name.clone(),
                        line: above.info.start_line,
                    },
                    (Some(old), _) => order(old),
                    (None, None) => Reason::Changed {
                        what: format!("input[{place}]"),
                        before: old.map(str::to_owned),
                        after: new.map(str::to_owned),
                    },
                });
            }
        }
    }
}

/// What a step uses although its key does not hold it.
fn not_in_key(operation: &Op) -> Vec<String> {
    let Op::Exec(exec) = operation else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for mount in &exec.mounts {
        match &mount.kind {
            MountOpKind::Secret { id, .. } => found.push(format!("the value of the secret `{id}`")),
            MountOpKind::Ssh { id, .. } => found.push(format!("the ssh agent `{id}`")),
            MountOpKind::Cache { .. } => {
                found.push(format!("what is in the cache mount `{}`", mount.target));
            }
            MountOpKind::Bind { .. } | MountOpKind::Tmpfs { .. } => {}
        }
    }
    for variable in &exec.env_unkeyed {
        let name = variable.split('=').next().unwrap_or_default();
        found.push(format!("the variable `{name}`"));
    }
    found
}
