//! `--progress=plain`: line by line, in the manner of BuildKit's.
//!
//! ```text
//! #5 [build 2/4] RUN make
//! #5 0.123 a line of its output
//! #5 DONE 0.3s
//! ```

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rbuild_engine::{Event, StepId};

use super::Draw;
use super::lines::Lines;
use crate::render;
use crate::stdio::escape_line;

/// Bytes moved are told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Plain<W> {
    write: W,
    /// What is written together, while it is gathered.
    gathered: Option<Vec<u8>>,
    names: HashMap<StepId, String>,
    running: HashMap<StepId, Running>,
}

struct Running {
    since: Instant,
    stdout: Lines,
    stderr: Lines,
    last_progress: Instant,
}

impl Running {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            since: now,
            stdout: Lines::default(),
            stderr: Lines::default(),
            last_progress: now,
        }
    }
}

impl<W: FnMut(&[u8]) + Send> Plain<W> {
    pub(super) fn new(write: W) -> Self {
        Self {
            write,
            gathered: None,
            names: HashMap::new(),
            running: HashMap::new(),
        }
    }

    fn put(&mut self, text: &[u8]) {
        match &mut self.gathered {
            Some(gathered) => gathered.extend_from_slice(text),
            None => (self.write)(text),
        }
    }

    fn line(&mut self, step: StepId, words: &str) {
        self.put(format!("#{} {words}\n", number(step)).as_bytes());
    }

    /// A step is named when it is first heard of.
    fn start(&mut self, step: StepId) {
        if !self.running.contains_key(&step) {
            let name = self.name(step);
            self.put(name.as_bytes());
            self.running.insert(step, Running::new());
        }
    }

    fn name(&self, step: StepId) -> String {
        let name = self.names.get(&step).map_or("", String::as_str);
        format!("#{} {name}\n", number(step))
    }

    fn log(&mut self, step: StepId, stderr: bool, bytes: &[u8]) {
        self.start(step);
        let Some(running) = self.running.get_mut(&step) else {
            return;
        };
        let since = running.since.elapsed();
        let lines = if stderr {
            &mut running.stderr
        } else {
            &mut running.stdout
        };
        let mut text = Vec::with_capacity(bytes.len() + 32);
        lines.feed(bytes, |line| log_line(&mut text, step, since, line));
        if !text.is_empty() {
            self.put(&text);
        }
    }

    /// Ends a step: what is left of its output, the last word, an empty line.
    fn end(&mut self, step: StepId, words: &str) {
        let mut text = Vec::new();
        // Most steps of a cached build begin and end at once: that is one write.
        if !self.running.contains_key(&step) {
            text.extend_from_slice(self.name(step).as_bytes());
        }
        if let Some(mut running) = self.running.remove(&step) {
            let since = running.since.elapsed();
            for rest in [running.stdout.take_rest(), running.stderr.take_rest()]
                .into_iter()
                .flatten()
            {
                log_line(&mut text, step, since, &rest);
            }
        }
        text.extend_from_slice(format!("#{} {words}\n\n", number(step)).as_bytes());
        self.put(&text);
    }
}

/// People count from one.
fn number(step: StepId) -> u64 {
    u64::from(step.0) + 1
}

fn log_line(text: &mut Vec<u8>, step: StepId, since: Duration, line: &[u8]) {
    text.extend_from_slice(format!("#{} {:.3} ", number(step), since.as_secs_f64()).as_bytes());
    text.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
    text.push(b'\n');
}

impl<W: FnMut(&[u8]) + Send> Draw for Plain<W> {
    fn event(&mut self, event: Event) {
        match event {
            Event::Plan { steps } => {
                for step in steps {
                    self.names.insert(step.id, escape_line(&step.name));
                }
            }
            Event::Started { step } => self.start(step),
            Event::Cached { step } => self.end(step, "CACHED"),
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
                self.start(step);
                let due = self.running.get_mut(&step).is_some_and(|running| {
                    let due = running.last_progress.elapsed() >= PROGRESS_EVERY;
                    if due {
                        running.last_progress = Instant::now();
                    }
                    due
                });
                if due {
                    let what = escape_line(&what);
                    self.line(
                        step,
                        &format!(
                            "{what} {} / {}",
                            bytesize::ByteSize(done),
                            bytesize::ByteSize(total)
                        ),
                    );
                }
            }
            Event::Done { step, took } => {
                self.end(step, &format!("DONE {:.1}s", took.as_secs_f64()));
            }
            Event::Failed { step, message } => {
                self.end(step, &format!("ERROR: {}", escape_line(&message)));
            }
            Event::Cancelled { step } => self.end(step, "CANCELED"),
            Event::Warning {
                located: None,
                message,
            } => {
                self.put(render::warning(&message, false).as_bytes());
            }
            // With a place, it is drawn with its excerpt when the build is done.
            Event::Warning {
                located: Some(_), ..
            } => {}
        }
    }

    fn events(&mut self, events: Vec<Event>) {
        self.gathered = Some(Vec::new());
        for event in events {
            self.event(event);
        }
        if let Some(text) = self.gathered.take().filter(|text| !text.is_empty()) {
            (self.write)(&text);
        }
    }

    fn finish(&mut self, _success: bool) {
        let left: Vec<StepId> = self.running.keys().copied().collect();
        for step in left {
            self.end(step, "CANCELED");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_engine::Step;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_step_that_was_found_is_one_write() {
        let writes = Arc::new(Mutex::new(Vec::new()));
        let copy = writes.clone();
        let mut plain = Plain::new(move |bytes: &[u8]| copy.lock().unwrap().push(bytes.to_vec()));
        plain.event(Event::Cached { step: StepId(0) });
        assert_eq!(*writes.lock().unwrap(), [b"#1 \n#1 CACHED\n\n"]);
        let cached = |number| Event::Cached {
            step: StepId(number),
        };
        plain.events(vec![cached(1), cached(2)]);
        plain.events(Vec::new());
        let together = "#2 \n#2 CACHED\n\n#3 \n#3 CACHED\n\n";
        assert_eq!(writes.lock().unwrap().split_off(1), [together.as_bytes()]);
    }

    #[test]
    fn steps_lines_and_ends() {
        let text = Arc::new(Mutex::new(Vec::new()));
        let copy = text.clone();
        let mut plain =
            Plain::new(move |bytes: &[u8]| copy.lock().unwrap().extend_from_slice(bytes));
        let step = |id, name: &str| Step {
            id: StepId(id),
            name: name.to_owned(),
            line: None,
        };
        let (one, two) = (StepId(0), StepId(1));
        plain.event(Event::Plan {
            steps: vec![step(0, "[1/2] FROM a\u{1b}"), step(1, "[2/2] RUN make")],
        });
        plain.event(Event::Cached { step: one });
        plain.event(Event::Started { step: two });
        plain.event(Event::Log {
            step: two,
            stderr: false,
            bytes: b"hel".to_vec(),
        });
        plain.event(Event::Log {
            step: two,
            stderr: true,
            bytes: b"oops\x1b[0m\r\nrest".to_vec(),
        });
        plain.event(Event::Log {
            step: two,
            stderr: false,
            bytes: b"lo\n".to_vec(),
        });
        plain.event(Event::Failed {
            step: two,
            message: "exited with code 2".into(),
        });
        let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "#1 [1/2] FROM a\\u{1b}\n#1 CACHED\n\n#2 [2/2] RUN make\n#2 0.000 oops\u{1b}[0m\n#2 0.000 hello\n\
             #2 0.000 rest\n#2 ERROR: exited with code 2\n\n"
        );
    }
}
