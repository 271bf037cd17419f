//! `--check` and `--call check|outline|targets`: looking at a Dockerfile. Needs no store and builds nothing.
//! As JSON and SARIF in [`super::look_formats`].

use rbuild_engine::lint::{self, Check, Outline, Target, rule};
use rbuild_engine::{BuildRequest, Error as EngineError};

use super::args::{Call, CallFormat};
use super::look_formats;
use crate::error::Result;
use crate::exit::Exit;
use crate::render;
use crate::stdio::{self, escape_line};

/// Answers any call but `build`.
pub(crate) fn execute(call: Call, request: &BuildRequest) -> Result<Exit> {
    match call {
        Call::Build => Ok(Exit::Success),
        Call::Check(format) => check(format, request),
        Call::Outline(format) => {
            let outline = lint::outline(request)?;
            stdio::out(match format {
                CallFormat::Json => look_formats::outline(&outline),
                CallFormat::Text | CallFormat::Sarif => outline_text(&outline),
            });
            Ok(Exit::Success)
        }
        Call::Targets(format) => {
            let targets = lint::targets(request)?;
            stdio::out(match format {
                CallFormat::Json => look_formats::targets(&targets),
                CallFormat::Text | CallFormat::Sarif => targets_text(&targets),
            });
            Ok(Exit::Success)
        }
    }
}

fn check(format: CallFormat, request: &BuildRequest) -> Result<Exit> {
    let check = lint::check(request)?;
    match format {
        CallFormat::Json => stdio::out(look_formats::check(&check)),
        CallFormat::Sarif => stdio::out(look_formats::sarif(&check)),
        CallFormat::Text => {
            stdio::out(check_text(&check));
            if !check.errors.is_empty() {
                return Err(EngineError::Dockerfile(check.errors).into());
            }
        }
    }
    Ok(if check.fails {
        Exit::Failed
    } else {
        Exit::Success
    })
}

fn check_text(check: &Check) -> String {
    let mut text = match check.warnings.len() {
        0 if !check.errors.is_empty() => String::new(),
        0 => "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        n => format!("Check complete, {n} warnings have been found!\n"),
    };
    for warning in &check.warnings {
        let code = warning.located.diagnostic.code;
        text.push('\n');
        text.push_str(&render::located(&warning.located, stdio::out_is_coloured()));
        if let Some(url) = rule::find(code).and_then(rule::Rule::url) {
            text.push_str(&format!("see {url}\n"));
        }
    }
    text
}

fn outline_text(outline: &Outline) -> String {
    let mut head = vec![vec![
        "TARGET:".to_owned(),
        outline.name.clone().unwrap_or_else(|| "default".to_owned()),
    ]];
    if let Some(description) = &outline.description {
        head.push(vec!["DESCRIPTION:".to_owned(), description.clone()]);
    }
    let mut text = table(&head);
    let mut section = |header: &[&str], rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            let mut all = vec![header.iter().map(|&title| title.to_owned()).collect()];
            all.extend(rows);
            text.push('\n');
            text.push_str(&table(&all));
        }
    };
    let args = outline.args.iter().map(|arg| {
        vec![
            arg.name.clone(),
            arg.value.clone().unwrap_or_default(),
            arg.description.clone().unwrap_or_default(),
        ]
    });
    section(&["BUILD ARG", "VALUE", "DESCRIPTION"], args.collect());
    for (title, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        let rows = list.iter().map(|needed| {
            let required = if needed.required { "true" } else { "" };
            vec![needed.name.clone(), required.to_owned()]
        });
        section(&[title, "REQUIRED"], rows.collect());
    }
    let caches = outline
        .caches
        .iter()
        .map(|cache| vec![cache.id.clone(), cache.target.clone()]);
    section(&["CACHE MOUNT", "TARGET"], caches.collect());
    text
}

fn targets_text(targets: &[Target]) -> String {
    let mut rows = vec![vec![
        "TARGET".to_owned(),
        "BASE".to_owned(),
        "DESCRIPTION".to_owned(),
    ]];
    for target in targets {
        // A stage that cannot be named cannot be asked for, unless it is the last.
        let name = match (&target.name, target.default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            (None, false) => continue,
        };
        rows.push(vec![
            name,
            target.base.clone(),
            target.description.clone().unwrap_or_default(),
        ]);
    }
    table(&rows)
}

/// Columns as wide as their widest cell, three blanks between.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| escape_line(cell).chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{:<width$}   ", escape_line(cell)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
