//! `rbuild stats`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rbuild_engine::containers::control::{Answer, Ask};
use rbuild_engine::containers::{Catalog, Entry};
use rbuild_engine::executor::sandbox::Usage;
use serde_json::json;

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{self, Columns, Format, Row};
use crate::{human, stdio};

/// Show what containers use
#[derive(Debug, clap::Args)]
pub(crate) struct StatsArgs {
    /// All that run, where none is named
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Once, instead of again and again
    #[arg(long)]
    no_stream: bool,
    /// Whole IDs
    #[arg(long)]
    no_trunc: bool,
    /// `json`, or a template such as `{{.Name}} {{.MemUsage}}`
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
}

const COLUMNS: Columns<'_> = &[
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
];

/// Over less the processor's share says nothing.
const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn execute(args: &StatsArgs, global: &GlobalArgs) -> Result<Exit> {
    let format = Format::parse(args.format.as_deref())?;
    let catalog = super::catalog(global)?;
    let mut before: HashMap<String, (Usage, Instant)> = HashMap::new();
    let redraws = !args.no_stream && std::io::IsTerminal::is_terminal(&std::io::stdout());
    let mut first = true;
    loop {
        let entries = entries(args, &catalog)?;
        let mut rows = Vec::new();
        for entry in &entries {
            let now = usage(entry)?;
            let previous = before.get(entry.id()).cloned();
            rows.push(row(entry, now.as_ref(), previous.as_ref(), args.no_trunc));
            if let Some(now) = now {
                before.insert(entry.id().to_owned(), (now, Instant::now()));
            }
        }
        // The first look is what the next one is compared with.
        if !first {
            if redraws {
                stdio::out("\x1b[H\x1b[2J");
            }
            format.print(COLUMNS, &rows)?;
            if args.no_stream {
                return Ok(Exit::Success);
            }
        }
        first = false;
        std::thread::sleep(INTERVAL);
    }
}

fn entries(args: &StatsArgs, catalog: &Catalog) -> Result<Vec<Entry>> {
    if args.containers.is_empty() {
        // `ps` says which are damaged.
        let mut entries = catalog.readable()?.0;
        entries.retain(|entry| args.all || entry.state.status.is_alive());
        return Ok(entries);
    }
    args.containers
        .iter()
        .map(|name| Ok(catalog.find(name)?))
        .collect()
}

fn usage(entry: &Entry) -> Result<Option<Usage>> {
    let Some(connection) = entry.connect()? else {
        return Ok(None);
    };
    // It may end meanwhile.
    Ok(match connection.request(&Ask::Usage) {
        Ok((Answer::Usage(usage), _)) => Some(usage),
        _ => None,
    })
}

fn row(entry: &Entry, now: Option<&Usage>, before: Option<&(Usage, Instant)>, whole: bool) -> Row {
    let id = if whole {
        entry.id().to_owned()
    } else {
        table::short_id(entry.id())
    };
    let none = "--".to_owned();
    let share = match (now, before) {
        (Some(now), Some((usage, then))) => {
            let used = now.processor.saturating_sub(usage.processor) as f64;
            format!(
                "{:.2}%",
                used / then.elapsed().as_nanos().max(1) as f64 * 100.0
            )
        }
        _ => none.clone(),
    };
    let machine = memory_of_machine();
    let (memory, part) = now.map_or((none.clone(), none.clone()), |now| {
        let limit = now.memory_limit.map_or(machine, |limit| limit.min(machine));
        let part = now.memory as f64 / limit.max(1) as f64 * 100.0;
        let text = format!(
            "{} / {}",
            human::binary_size(now.memory),
            human::binary_size(limit)
        );
        (text, format!("{part:.2}%"))
    });
    let blocks = now.and_then(|now| {
        let (read, written) = (now.block_read?, now.block_written?);
        Some(format!("{} / {}", human::size(read), human::size(written)))
    });
    let network = now.and_then(|_| network(entry.state.pid));
    json!({
        "ID": id,
        "Container": id,
        "Name": entry.name,
        "CPUPerc": share,
        "MemUsage": memory,
        "MemPerc": part,
        "NetIO": network.unwrap_or_else(|| none.clone()),
        "BlockIO": blocks.unwrap_or_else(|| none.clone()),
        "PIDs": now.map_or(none, |now| now.tasks.to_string()),
    })
    .as_object()
    .cloned()
    .unwrap_or_default()
}

/// Bytes in and out of all interfaces but `lo`.
fn network(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let (mut received, mut sent) = (0, 0);
    for line in text.lines().skip(2) {
        let (name, counters) = line.split_once(':')?;
        if name.trim() == "lo" {
            continue;
        }
        let counters: Vec<u64> = counters
            .split_whitespace()
            .map(|word| word.parse().unwrap_or(0))
            .collect();
        received += counters.first()?;
        sent += counters.get(8)?;
    }
    Some(format!("{} / {}", human::size(received), human::size(sent)))
}

pub(crate) fn memory_of_machine() -> u64 {
    std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        })
        .map_or(u64::MAX, |kilobytes| kilobytes * 1024)
}
