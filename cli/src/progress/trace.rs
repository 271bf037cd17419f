//! `--trace FILE`: the build on a line of time, in Chrome's trace event format (a JSON object with `traceEvents`), which
//! Perfetto and `chrome://tracing` draw. Times are microseconds since the command began. Steps that ran at the same
//! time are on lanes of their own (`tid`); each has its line of the Dockerfile, how it ended and the bytes it moved.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rbuild_engine::{Event, Step, StepId};
use serde_json::{Map, Value, json};

/// Collects what becomes the file.
#[derive(Debug)]
pub(crate) struct Trace {
    began: Instant,
    steps: BTreeMap<StepId, Step>,
    running: BTreeMap<StepId, Running>,
    /// Whether each lane has a step.
    lanes: Vec<bool>,
    events: Vec<Value>,
}

#[derive(Debug)]
struct Running {
    since: Duration,
    lane: usize,
    /// Bytes by what was moved.
    moved: BTreeMap<String, u64>,
}

impl Trace {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            steps: BTreeMap::new(),
            running: BTreeMap::new(),
            lanes: Vec::new(),
            events: Vec::new(),
        }
    }

    pub(super) fn event(&mut self, event: &Event) {
        let now = self.began.elapsed();
        match event {
            Event::Plan { steps } => {
                self.steps = steps.iter().map(|step| (step.id, step.clone())).collect();
                let lane = self.take_lane();
                self.span("plan", "plan", lane, Duration::ZERO, now, &Map::new());
                self.leave_lane(lane);
            }
            Event::Started { step } => {
                let lane = self.take_lane();
                let running = Running {
                    since: now,
                    lane,
                    moved: BTreeMap::new(),
                };
                self.running.insert(*step, running);
            }
            Event::Progress {
                step, what, done, ..
            } => {
                if let Some(running) = self.running.get_mut(step) {
                    running.moved.insert(what.clone(), *done);
                }
            }
            Event::Cached { step } => self.ended(*step, now, "cached", None),
            Event::Done { step, .. } => self.ended(*step, now, "done", None),
            Event::Failed { step, message } => self.ended(*step, now, "failed", Some(message)),
            Event::Cancelled { step } => self.ended(*step, now, "cancelled", None),
            Event::Log { .. } | Event::Warning { .. } => {}
        }
    }

    /// The file, of what has happened so far.
    pub(super) fn document(&mut self) -> Vec<u8> {
        let now = self.began.elapsed();
        let running: Vec<StepId> = self.running.keys().copied().collect();
        for step in running {
            self.ended(step, now, "cancelled", None);
        }
        let mut events = vec![json!({
            "name": "process_name", "ph": "M", "pid": 1, "tid": 0, "args": { "name": "rbuild" },
        })];
        events.append(&mut self.events);
        let document = json!({ "displayTimeUnit": "ms", "traceEvents": events });
        format!("{document}\n").into_bytes()
    }

    fn ended(&mut self, step: StepId, now: Duration, how: &str, message: Option<&str>) {
        let mut about = Map::new();
        about.insert("ended".to_owned(), how.into());
        if let Some(message) = message {
            about.insert("message".to_owned(), message.into());
        }
        let known = self.steps.get(&step);
        let name = known.map_or_else(String::new, |known| known.name.clone());
        if let Some(line) = known.and_then(|known| known.line) {
            about.insert("line".to_owned(), line.into());
        }
        match self.running.remove(&step) {
            Some(running) => {
                if !running.moved.is_empty() {
                    about.insert("bytes".to_owned(), json!(running.moved));
                }
                self.span(&name, how, running.lane, running.since, now, &about);
                self.leave_lane(running.lane);
            }
            None => {
                let lane = self.take_lane();
                self.span(&name, how, lane, now, now, &about);
                self.leave_lane(lane);
            }
        }
    }

    fn span(
        &mut self,
        name: &str,
        category: &str,
        lane: usize,
        since: Duration,
        until: Duration,
        about: &Map<String, Value>,
    ) {
        self.events.push(json!({
            "name": name,
            "cat": category,
            "ph": "X",
            "ts": microseconds(since),
            "dur": microseconds(until.saturating_sub(since)),
            "pid": 1,
            "tid": lane + 1,
            "args": about,
        }));
    }

    fn take_lane(&mut self) -> usize {
        let free = self.lanes.iter().position(|taken| !taken);
        let lane = free.unwrap_or(self.lanes.len());
        match self.lanes.get_mut(lane) {
            Some(taken) => *taken = true,
            None => self.lanes.push(true),
        }
        lane
    }

    fn leave_lane(&mut self, lane: usize) {
        if let Some(taken) = self.lanes.get_mut(lane) {
            *taken = false;
        }
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(id: u32, name: &str, line: usize) -> Step {
        Step {
            id: StepId(id),
            name: name.to_owned(),
            line: Some(line),
        }
    }

    #[test]
    fn steps_at_the_same_time_are_on_lanes_of_their_own() {
        let mut trace = Trace::new(Instant::now());
        let steps = ["a", "b", "c", "d"];
        let steps = (0..).zip(steps).map(|(id, name)| step(id, name, 7));
        trace.event(&Event::Plan {
            steps: steps.collect(),
        });
        let [a, b, c, d] = [0, 1, 2, 3].map(StepId);
        trace.event(&Event::Started { step: a });
        trace.event(&Event::Started { step: b });
        trace.event(&Event::Progress {
            step: a,
            what: "layer".to_owned(),
            done: 5,
            total: 9,
        });
        trace.event(&Event::Done {
            step: a,
            took: Duration::ZERO,
        });
        trace.event(&Event::Cached { step: c });
        trace.event(&Event::Failed {
            step: b,
            message: "no".to_owned(),
        });
        trace.event(&Event::Started { step: d });
        let document: Value = serde_json::from_slice(&trace.document()).unwrap();
        let events = document["traceEvents"].as_array().unwrap();
        let told: Vec<_> = events
            .iter()
            .filter(|event| event["ph"] == "X")
            .map(|event| {
                let name = event["name"].as_str().unwrap();
                (
                    name,
                    event["tid"].as_u64().unwrap(),
                    event["cat"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("plan", 1, "plan"),
                ("a", 1, "done"),
                ("c", 1, "cached"),
                ("b", 2, "failed"),
                ("d", 1, "cancelled"),
            ]
        );
        assert_eq!(
            events[2]["args"],
            json!({"ended": "done", "line": 7, "bytes": {"layer": 5}})
        );
        assert_eq!(events[4]["args"]["message"], "no");
    }
}
