//! `--progress=tty`: finished steps are lines, running ones stay below with a timer and the last lines they printed.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use rbuild_engine::{Event, StepId};

use super::Draw;
use super::lines::Lines;
use crate::stdio::{err_is_coloured, escape_line};
use crate::{render, stdio};

/// Lines of a running step's output that are kept in sight.
const WINDOW_LINES: usize = 6;
/// How often timers are redrawn.
const TICK: Duration = Duration::from_millis(100);

pub(super) struct Tty {
    bars: MultiProgress,
    header: ProgressBar,
    coloured: bool,
    started: Instant,
    names: HashMap<StepId, String>,
    running: HashMap<StepId, Running>,
    finished: usize,
}

struct Running {
    bar: ProgressBar,
    name: String,
    stdout: Lines,
    stderr: Lines,
    window: VecDeque<String>,
    moved: String,
}

impl Tty {
    pub(super) fn new() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(15));
        let header = bars.add(ProgressBar::new_spinner());
        header.set_style(style("[+] {msg} {took}"));
        header.enable_steady_tick(TICK);
        Self {
            bars,
            header,
            coloured: err_is_coloured(),
            started: Instant::now(),
            names: HashMap::new(),
            running: HashMap::new(),
            finished: 0,
        }
    }

    fn start(&mut self, step: StepId) {
        if self.running.contains_key(&step) {
            return;
        }
        let name = self.names.get(&step).cloned().unwrap_or_default();
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(step_style());
        // The name must leave room for the timer: a line that wraps could not be redrawn.
        let room = width().saturating_sub(12);
        bar.set_prefix(name.chars().take(room).collect::<String>());
        bar.enable_steady_tick(TICK);
        let running = Running {
            bar,
            name,
            stdout: Lines::default(),
            stderr: Lines::default(),
            window: VecDeque::new(),
            moved: String::new(),
        };
        running.draw(self.coloured);
        self.running.insert(step, running);
        self.count();
    }

    fn count(&self) {
        let steps = self.names.len().max(self.finished);
        self.header
            .set_message(format!("Building {}/{steps}", self.finished));
    }

    fn end(&mut self, step: StepId, mark: &str, colour: &str, words: &str) {
        let running = self.running.remove(&step);
        let name = match &running {
            Some(running) => running.name.clone(),
            None => self.names.get(&step).cloned().unwrap_or_default(),
        };
        if let Some(running) = running {
            running.bar.finish_and_clear();
            self.bars.remove(&running.bar);
        }
        self.finished += 1;
        let line = if self.coloured {
            format!("{colour} {mark} {name} {words}\x1b[0m")
        } else {
            format!(" {mark} {name} {words}")
        };
        self.print(&line);
        self.count();
    }

    /// Prints above the running steps.
    fn print(&self, line: &str) {
        // A terminal that is gone does not stop the build.
        drop(self.bars.println(line.trim_end()));
    }
}

impl Running {
    fn draw(&self, coloured: bool) {
        let room = width().saturating_sub(6);
        let mut text = self.moved.clone();
        for line in &self.window {
            let line: String = line.chars().take(room).collect();
            text.push_str(if coloured { "\n    \x1b[2m" } else { "\n    " });
            text.push_str(&line);
            text.push_str(if coloured { "\x1b[0m" } else { "" });
        }
        self.bar.set_message(text);
    }

    fn feed(&mut self, stderr: bool, bytes: &[u8]) {
        let window = &mut self.window;
        let lines = if stderr {
            &mut self.stderr
        } else {
            &mut self.stdout
        };
        lines.feed(bytes, |line| {
            if window.len() == WINDOW_LINES {
                window.pop_front();
            }
            window.push_back(shown(line));
        });
    }
}

/// Columns of the terminal, 80 where it does not say.
fn width() -> usize {
    rustix::termios::tcgetwinsize(std::io::stderr())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(80)
}

fn step_style() -> ProgressStyle {
    style(" => {prefix} {took}{msg}")
}

/// A template, with `{took}` for the seconds since the bar was made.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .with_key(
            "took",
            |state: &ProgressState, text: &mut dyn std::fmt::Write| {
                // Nothing to be done for a line that cannot be written.
                write!(text, "{:.1}s", state.elapsed().as_secs_f64()).unwrap_or_default();
            },
        )
}

/// A line of output as it can stand in a window that is redrawn: no control characters, and after a carriage return
/// only what overwrote the rest.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    let last = text.rsplit('\r').next().unwrap_or(text);
    let mut plain = String::with_capacity(last.len());
    let mut chars = last.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.peek() == Some(&'[') {
            // A colour or cursor sequence ends with a byte from @ to ~.
            chars.next();
            while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
        } else if !c.is_control() || c == '\t' {
            plain.push(c);
        }
    }
    escape_line(&plain).chars().take(300).collect()
}

impl Draw for Tty {
    fn event(&mut self, event: Event) {
        match event {
            Event::Plan { steps } => {
                for step in steps {
                    self.names.insert(step.id, escape_line(&step.name));
                }
                self.count();
            }
            Event::Started { step } => self.start(step),
            Event::Cached { step } => self.end(step, "=> CACHED", "\x1b[2m", ""),
            Event::Log {
                step,
                stderr,
                bytes,
            } => {
                self.start(step);
                if let Some(running) = self.running.get_mut(&step) {
                    running.feed(stderr, &bytes);
                    running.draw(self.coloured);
                }
            }
            Event::Progress {
                step,
                what,
                done,
                total,
            } => {
                self.start(step);
                if let Some(running) = self.running.get_mut(&step) {
                    running.moved = format!(
                        " {} {} / {}",
                        escape_line(&what),
                        bytesize::ByteSize(done),
                        bytesize::ByteSize(total)
                    );
                    running.draw(self.coloured);
                }
            }
            Event::Done { step, took } => {
                self.end(
                    step,
                    "=>",
                    "\x1b[34m",
                    &format!("{:.1}s", took.as_secs_f64()),
                );
            }
            Event::Failed { step, message } => {
                // The tail of its output follows with the error itself.
                self.end(step, "=> ERROR", "\x1b[31m", &escape_line(&message));
            }
            Event::Cancelled { step } => self.end(step, "=> CANCELED", "\x1b[33m", ""),
            Event::Warning {
                located: None,
                message,
            } => {
                self.print(&render::warning(&message, self.coloured));
            }
            // With a place, it is drawn with its excerpt when the build is done.
            Event::Warning {
                located: Some(_), ..
            } => {}
        }
    }

    fn finish(&mut self, success: bool) {
        for running in self.running.values() {
            running.bar.finish_and_clear();
        }
        self.header.finish_and_clear();
        // From here on nothing is redrawn, so that what follows is not overdrawn.
        self.bars.set_draw_target(ProgressDrawTarget::hidden());
        let seconds = self.started.elapsed().as_secs_f64();
        let words = if success { "FINISHED" } else { "FAILED" };
        let steps = self.names.len().max(self.finished);
        stdio::err(format!(
            "[+] Building {seconds:.1}s ({}/{steps}) {words}\n",
            self.finished
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_plain_text() {
        assert_eq!(shown(b"\x1b[1;31mred\x1b[0m"), "red");
        assert_eq!(shown(b" 10%\r 50%\r"), " 50%");
        assert_eq!(shown(b"a\x07b\xffc"), "ab\u{fffd}c");
        assert_eq!(shown(b"\x1b["), "");
    }
}
