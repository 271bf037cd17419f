//! Holds the crates to the table of ARCHITECTURE.md: who may depend on whom.

use std::collections::BTreeSet;
use std::path::Path;

/// (crate, the crates of ours that it may depend on)
const MAY_DEPEND: [(&str, &[&str]); 7] = [
    ("parser", &[]),
    ("cache", &[]),
    ("image", &["cache"]),
    ("executor", &["cache"]),
    ("solver", &["cache"]),
    (
        "engine",
        &["parser", "cache", "image", "executor", "solver"],
    ),
    ("cli", &["engine"]),
];

/// (crate, what it must not use)
const MUST_NOT_USE: [(&str, &[&str]); 6] = [
    (
        "parser",
        &["tokio", "rustix", "libc", "reqwest", "rusqlite"],
    ),
    ("cache", &["reqwest", "pest", "clap"]),
    ("image", &["clap", "pest", "petgraph"]),
    ("executor", &["reqwest", "pest", "petgraph", "clap"]),
    ("solver", &["rustix", "libc", "reqwest", "clap", "pest"]),
    (
        "engine",
        &["clap", "indicatif", "annotate-snippets", "pest"],
    ),
];

/// Names in a manifest's tables of dependencies; development ones do not count.
fn dependencies(name: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(name)
        .join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut names = BTreeSet::new();
    let mut counts = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            counts = line == "[dependencies]" || line == "[build-dependencies]";
        } else if counts && !line.is_empty() && !line.starts_with('#') {
            let end = line.find(['.', ' ', '=']).unwrap_or(line.len());
            names.insert(line[..end].trim_matches('"').to_owned());
        }
    }
    assert!(
        !names.is_empty(),
        "{} has no dependencies at all",
        path.display()
    );
    names
}

#[test]
fn crates_know_each_other_in_one_direction() {
    for (name, allowed) in MAY_DEPEND {
        let ours: Vec<String> = dependencies(name)
            .iter()
            .filter_map(|dependency| dependency.strip_prefix("rbuild-").map(str::to_owned))
            .collect();
        for one in ours {
            assert!(
                allowed.contains(&one.as_str()),
                "{name} must not depend on {one}"
            );
        }
    }
}

#[test]
fn crates_touch_the_outside_where_they_may() {
    for (name, forbidden) in MUST_NOT_USE {
        let used = dependencies(name);
        for one in forbidden {
            assert!(!used.contains(*one), "{name} must not use {one}");
        }
    }
}
