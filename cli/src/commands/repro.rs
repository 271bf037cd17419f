//! `rbuild repro`.

use std::sync::{Arc, Mutex, PoisonError};

use rbuild_engine::Sink;
use rbuild_engine::repro::{DifferingStep, Reproduction};

use super::build::{self, BuildArgs};
use super::image_diff::{details, letter};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::progress::Renderer;
use crate::{machine, stdio};

/// Build twice from nothing, and say which files differ
///
/// Takes the options of `build`. Both builds have empty stores of their own; jobs, umask and time differ. Says which
/// step made a file that differs, and exits with 1 where the images do.
#[derive(Debug, clap::Args)]
pub(crate) struct ReproArgs {
    #[command(flatten)]
    build: BuildArgs,
    /// `text` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    format: String,
}

/// How many files of a step are named, without `--format json`.
const FILES_MAX: usize = 50;

pub(crate) fn execute(args: &ReproArgs, global: &GlobalArgs) -> Result<Exit> {
    if let Some(flag) = args.build.writes() {
        return Err(Error::usage(format!(
            "{flag} has no place here: both builds begin from nothing, and nothing is kept of them"
        ))
        .help("leave it out: images are made as for a push, with `rewrite-timestamp=true`"));
    }
    let mode = build::mode(&args.build)?;
    let options = global.options()?;
    let request = build::build_request(&args.build)?;
    let found = machine::with_engine(options, async |engine, cancel| {
        let last: Mutex<Option<Arc<Renderer>>> = Mutex::default();
        let finish = |next: Option<Arc<Renderer>>, success: bool| {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(before) = std::mem::replace(&mut *last, next) {
                before.finish(success);
            }
        };
        let sink = || -> Arc<dyn Sink> {
            let renderer = Arc::new(Renderer::new(mode));
            finish(Some(Arc::clone(&renderer)), true);
            renderer
        };
        let result = engine.repro(request, sink, cancel).await;
        finish(None, result.is_ok());
        Ok(result?)
    })?;
    if args.format == "json" {
        stdio::out(format!("{:#}\n", serde_json::json!(found)));
    } else {
        stdio::out(text(&found));
    }
    Ok(if found.reproducible {
        Exit::Success
    } else {
        Exit::Failed
    })
}

fn text(found: &Reproduction) -> String {
    let mut text = String::new();
    let mut say = |line: &str| {
        text.push_str(line.trim_end());
        text.push('\n');
    };
    if found.reproducible {
        say(&format!(
            "reproducible: both builds made {}",
            found.digests[0]
        ));
        let elsewhere = found.steps.len();
        if elsewhere > 0 {
            say(&format!(
                "{elsewhere} steps differ in what the image does not have:"
            ));
        }
    } else {
        say("not reproducible: the builds made");
        for digest in &found.digests {
            say(&format!("  {digest}"));
        }
    }
    for one in &found.steps {
        say("");
        step(one, &mut say);
    }
    if !found.config.is_empty() {
        say("\nconfig");
    }
    for one in &found.config {
        let value = |value: &Option<serde_json::Value>| {
            let text = value
                .as_ref()
                .map_or("none".to_owned(), ToString::to_string);
            crate::table::shorten(&text, 200)
        };
        let (before, after) = (value(&one.before), value(&one.after));
        say(&format!(
            "  C {}  {before} → {after}",
            stdio::escape_line(&one.field)
        ));
    }
    for note in &found.notes {
        say(&format!("\nnote: {note}"));
    }
    if !found.epoch_is_given {
        say(&format!(
            "\nnote: SOURCE_DATE_EPOCH is not set: it was {} in both builds, so that later times of files are no difference",
            found.source_date_epoch
        ));
    }
    text
}

fn step(one: &DifferingStep, say: &mut impl FnMut(&str)) {
    let place = stdio::escape_line(&format!("{}:{}", one.file, one.line));
    let layer = one
        .layer
        .map_or("in no layer of the image".to_owned(), |layer| {
            format!("layer {layer}")
        });
    let name = stdio::escape_line(&crate::table::shorten(&one.name.replace('\n', " "), 120));
    say(&format!("{place}: {name} ({layer})"));
    if let Some(before) = &one.follows {
        say(&format!("  follows from {}", stdio::escape_line(before)));
    }
    for file in one.differences.iter().take(FILES_MAX) {
        let path = stdio::escape_line(&file.path);
        say(&format!(
            "  {} {path}  {}",
            letter(file.change),
            stdio::escape_line(&details(file))
        ));
    }
    if one.differences.len() > FILES_MAX {
        let more = one.differences.len() - FILES_MAX;
        say(&format!("  and {more} more; --format json names all"));
    }
}
