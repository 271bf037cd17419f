//! Which crate may know which: the table of ARCHITECTURE, held against every `Cargo.toml` of the workspace.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A crate, what of ours it may depend on, and what of others' it must not (development included).
const TABLE: [(&str, &[&str], &[&str]); 7] = [
    (
        "parser",
        &[],
        &["tokio", "rustix", "libc", "reqwest", "rusqlite"],
    ),
    ("cache", &[], &["tokio", "reqwest", "pest", "clap"]),
    (
        "image",
        &["cache"],
        &["pest", "clap", "rusqlite", "petgraph"],
    ),
    (
        "executor",
        &["cache"],
        &["pest", "clap", "reqwest", "rusqlite", "petgraph"],
    ),
    (
        "solver",
        &["cache"],
        &["pest", "clap", "reqwest", "rusqlite", "rustix"],
    ),
    (
        "engine",
        &["parser", "cache", "image", "executor", "solver"],
        &["clap", "indicatif", "anyhow", "rusqlite", "pest"],
    ),
    (
        "cli",
        &["engine"],
        &["reqwest", "rusqlite", "pest", "petgraph", "oci-spec"],
    ),
];

fn workspace() -> PathBuf {
    let engine = Path::new(env!("CARGO_MANIFEST_DIR"));
    engine.parent().expect("the workspace").to_owned()
}

/// Names under `[dependencies]` and `[dev-dependencies]`, also of targets; (is for development, name).
fn dependencies(manifest: &str) -> Vec<(bool, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            name.clone_into(&mut section);
            continue;
        }
        let development = section.ends_with("dev-dependencies");
        let counts = section.ends_with("dependencies") && !line.starts_with('#');
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        if counts && !name.is_empty() {
            found.push((development, name.to_owned()));
        }
    }
    found
}

#[test]
fn crates_depend_only_on_what_the_table_allows() {
    let mut wrong = Vec::new();
    for (name, ours, never) in TABLE {
        let path = workspace().join(name).join("Cargo.toml");
        let manifest = std::fs::read_to_string(&path).expect("the crate's manifest");
        for (development, dependency) in dependencies(&manifest) {
            if let Some(room) = dependency.strip_prefix("rbuild-") {
                if !ours.contains(&room) && !development {
                    wrong.push(format!("{name} depends on {room}"));
                }
            } else if never.contains(&dependency.as_str()) && !development {
                wrong.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_crate_is_in_the_table() {
    let manifest = std::fs::read_to_string(workspace().join("Cargo.toml")).expect("the workspace");
    let members = manifest
        .lines()
        .find_map(|line| line.strip_prefix("members = ["))
        .expect("the members on one line");
    let members: BTreeSet<&str> = members
        .trim_end_matches(']')
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
        .filter(|member| !member.is_empty() && *member != "testdata" && *member != "xtask")
        .collect();
    let table: BTreeSet<&str> = TABLE.iter().map(|(name, _, _)| *name).collect();
    assert_eq!(members, table);
}

#[test]
fn dependencies_are_found_in_all_their_forms() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = \"1\"\n# c = 1\n\
                    [target.'cfg(unix)'.dependencies]\nd = { version = \"1\" }\n[dev-dependencies]\ne = \"1\"\n\
                    [lib]\nf = 1\n";
    let found = dependencies(manifest);
    let names: Vec<(bool, &str)> = found
        .iter()
        .map(|(is, name)| (*is, name.as_str()))
        .collect();
    assert_eq!(
        names,
        [(false, "a"), (false, "b"), (false, "d"), (true, "e")]
    );
}
