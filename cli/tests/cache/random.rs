//! Random sequences of changes of a context: what the warm store gives is what an empty one gives.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use crate::dice::{Random, number};
use crate::require_machine;
use crate::twin::{Twin, assert_same};

const DOCKERFILE: &str = "\
FROM busybox AS build
COPY a b /ab/
COPY --exclude=**/skip* src /src
RUN find /src -type f | sort | xargs cat /dev/null > /sum
FROM scratch
COPY --from=build /sum /sum
COPY --from=build /ab /ab
COPY src/*/deep* src/to* /flat/
COPY src /all
";

const ROUNDS: u64 = 30;

/// Makes one change; says which.
fn change(random: &mut Random, context: &std::path::Path) -> String {
    const NAMES: [&str; 10] = [
        "a",
        "b",
        "src/top",
        "src/d1/deep1",
        "src/d1/deep2",
        "src/d2/deep1",
        "src/d2/skipped",
        "src/d2/x",
        "src/box",
        "src/d1/sub/y",
    ];
    let name = NAMES[random.below(NAMES.len())];
    let path: PathBuf = context.join(name);
    // What COPY names must stay.
    let must_stay = ["a", "b", "src/top", "src/d1/deep1"].contains(&name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let exists = path.symlink_metadata().is_ok();
    match random.below(8) {
        0..=2 => {
            let content = random.below(3).to_string();
            if path.is_symlink() {
                std::fs::remove_file(&path).unwrap();
            }
            std::fs::write(&path, &content).unwrap();
            format!("{name}: content {content}")
        }
        3 if exists && !path.is_symlink() => {
            let mode = [0o644, 0o600, 0o755][random.below(3)];
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            format!("{name}: mode {mode:o}")
        }
        4 if exists && !must_stay => {
            std::fs::remove_file(&path).unwrap();
            format!("{name}: removed")
        }
        // Links that lead nowhere are copied, but cannot be named.
        5 if !must_stay && !name.contains("deep") => {
            if exists {
                std::fs::remove_file(&path).unwrap();
            }
            let target = ["top", "../top", "missing"][random.below(3)];
            symlink(target, &path).unwrap();
            format!("{name}: symlink to {target}")
        }
        6 => {
            let lines = ["", "src/d2\n", "**/deep2\n", "src/**\n!src/top\n!src/d1\n"];
            let ignore = lines[random.below(lines.len())];
            std::fs::write(context.join(".dockerignore"), ignore).unwrap();
            format!("ignore file {ignore:?}")
        }
        7 if exists && !must_stay => {
            let other = context.join("src/d1/moved");
            std::fs::rename(&path, other).unwrap();
            format!("{name}: moved to src/d1/moved")
        }
        _ => "nothing".to_owned(),
    }
}

#[test]
fn any_sequence_of_changes_gives_what_an_empty_store_gives() {
    require_machine!();
    let rounds = number("RBUILD_PROPERTY_ROUNDS", ROUNDS);
    let seed = number("RBUILD_PROPERTY_SEED", 0x9e37_79b9_7f4a_7c15);
    let twin = Twin::new();
    for name in ["a", "b", "src/top", "src/d1/deep1", "src/d2/x"] {
        twin.write(name, "0");
    }
    let mut random = Random::new(seed);
    let mut history = Vec::new();
    let (mut ran, mut steps, mut failed) = (0, 0, 0);
    for round in 0..rounds {
        for _ in 0..=random.below(3) {
            history.push(change(&mut random, &twin.kit.path("context")));
        }
        let Some((warm, cold)) = twin.both(DOCKERFILE) else {
            failed += 1;
            continue;
        };
        let last = &history[history.len().saturating_sub(12)..];
        assert_same(
            &warm,
            &cold,
            &format!("round {round}, seed {seed}: {last:#?}"),
        );
        if round % 100 == 99 {
            println!("{} of {rounds} rounds", round + 1);
        }
        ran += warm.ran().len();
        steps += warm.steps.len();
    }
    println!(
        "{rounds} rounds, {} changes: {ran} of {steps} steps ran, {failed} failed in both",
        history.len()
    );
    twin.kit.store_is_whole();
}
