//! `--progress=rawjson`: one JSON object a line, for programs.
//!
//! Every object has `time` (seconds since the start, a number) and `event`; the others depend on it:
//!
//! | event | fields |
//! |---|---|
//! | `plan` | `steps`: a list of `{id, name, line}` |
//! | `started`, `cached`, `cancelled` | `step` |
//! | `log` | `step`, `stream` (`stdout` or `stderr`), `data` (bytes that are no UTF-8 become U+FFFD) |
//! | `progress` | `step`, `what`, `done`, `total` (bytes) |
//! | `done` | `step`, `seconds` |
//! | `failed` | `step`, `message` |
//! | `warning` | `message`, `line` (or null) |
//! | `explained` | `step`, `outcome`, `reasons` and more of `build --explain`, a line for each step |
//! | `end` | `success` |

use std::collections::HashMap;
use std::time::Instant;

use rbuild_engine::explain::Explanation;
use rbuild_engine::{Event, StepId};
use serde_json::{Value, json};

use super::Draw;

pub(super) struct RawJson<W> {
    write: W,
    started: Instant,
    /// Beginnings of characters at the end of a piece, by step and stream.
    partial: HashMap<(StepId, bool), Vec<u8>>,
}

impl<W: FnMut(&[u8]) + Send> RawJson<W> {
    pub(super) fn new(write: W) -> Self {
        Self {
            write,
            started: Instant::now(),
            partial: HashMap::new(),
        }
    }

    fn object(&mut self, event: &str, fields: Value) {
        let mut object = json!({ "time": self.started.elapsed().as_secs_f64(), "event": event });
        if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
            object.extend(fields);
        }
        (self.write)(format!("{object}\n").as_bytes());
    }

    fn log(&mut self, step: StepId, stderr: bool, bytes: &[u8]) {
        let mut data = self.partial.remove(&(step, stderr)).unwrap_or_default();
        data.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&data) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => data.len(),
        };
        let rest = data.split_off(whole);
        if !rest.is_empty() {
            self.partial.insert((step, stderr), rest);
        }
        if !data.is_empty() {
            let stream = if stderr { "stderr" } else { "stdout" };
            let data = String::from_utf8_lossy(&data);
            self.object(
                "log",
                json!({ "step": step, "stream": stream, "data": data }),
            );
        }
    }
}

impl<W: FnMut(&[u8]) + Send> Draw for RawJson<W> {
    fn event(&mut self, event: Event) {
        match event {
            Event::Plan { steps } => self.object("plan", json!({ "steps": steps })),
            Event::Started { step } => self.object("started", json!({ "step": step })),
            Event::Cached { step } => self.object("cached", json!({ "step": step })),
            Event::Log {
                step,
                stderr,
                bytes,
            } => self.log(step, stderr, &bytes),
            Event::Progress {
                step,
                what,
                done,
                total,
            } => {
                let fields = json!({ "step": step, "what": what, "done": done, "total": total });
                self.object("progress", fields);
            }
            Event::Done { step, took } => {
                self.object(
                    "done",
                    json!({ "step": step, "seconds": took.as_secs_f64() }),
                );
            }
            Event::Failed { step, message } => {
                self.object("failed", json!({ "step": step, "message": message }));
            }
            Event::Cancelled { step } => self.object("cancelled", json!({ "step": step })),
            Event::Warning { located, message } => {
                let line = located.map(|located| {
                    located
                        .source
                        .position(located.diagnostic.primary.span.start)
                        .line
                });
                self.object("warning", json!({ "message": message, "line": line }));
            }
        }
    }

    fn explained(&mut self, explanation: &Explanation) {
        for step in &explanation.steps {
            self.object("explained", json!(step));
        }
    }

    fn finish(&mut self, success: bool) {
        self.object("end", json!({ "success": success }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn characters_are_not_cut() {
        let text = Arc::new(Mutex::new(Vec::new()));
        let copy = text.clone();
        let mut raw =
            RawJson::new(move |bytes: &[u8]| copy.lock().unwrap().extend_from_slice(bytes));
        for piece in [
            "ä".as_bytes().split_at(1).0,
            "ä".as_bytes().split_at(1).1,
            b"\xff",
        ] {
            raw.event(Event::Log {
                step: StepId(3),
                stderr: false,
                bytes: piece.to_vec(),
            });
        }
        let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
        let data: Vec<String> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["data"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(data, ["ä", "\u{fffd}"]);
    }
}
