//! How much the store takes, what goes when it must, and what never goes.

use serde_json::Value;

use crate::kit::Kit;
use crate::require_machine;

/// Builds a snapshot of so many bytes that takes so long to make.
fn step(kit: &Kit, name: &str, kilobytes: usize, arguments: &[&str]) {
    let dockerfile = format!(
        "FROM busybox\nRUN head -c {} /dev/urandom > /{name}\n",
        kilobytes * 1024
    );
    kit.must_build(&dockerfile, arguments);
}

const CACHE_ONLY: &[&str] = &["-o", "type=cacheonly"];

/// `du -v`, thing by thing.
fn items(kit: &Kit) -> Vec<Value> {
    let text = kit.must(&["du", "-v", "--format", "json"]).stdout;
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Bytes of the store as the disk has them.
fn on_disk(kit: &Kit) -> u64 {
    let output = std::process::Command::new("du")
        .args(["-s", "-B1"])
        .arg(kit.path("store"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn total(kit: &Kit) -> u64 {
    let text = kit.must(&["du", "--format", "json"]).stdout;
    let total = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|row| row["Type"] == "Total");
    total.unwrap()["Bytes"].as_u64().unwrap()
}

#[test]
fn du_says_what_the_disk_says() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1"), ("large", &"x".repeat(300_000))]);
    // The second copy shares its blocks with the first.
    let dockerfile = "\
FROM busybox AS one
COPY large /one
RUN --mount=type=cache,target=/c,id=mine head -c 50000 /dev/zero > /c/f && mkdir /many && \
    for i in 1 2 3 4 5 6 7 8 9; do echo $i > /many/$i; done
FROM busybox
COPY --from=one /one /one
COPY --from=one /many /many
";
    kit.must_build(dockerfile, &["-t", "kept"]);
    step(&kit, "loose", 100, CACHE_ONLY);
    let (said, there) = (total(&kit), on_disk(&kit));
    // The index's files grow while they are looked at.
    assert!(said.abs_diff(there) < 200_000, "{said} {there}");
    let all = items(&kit);
    let of = |word: &str| {
        let found = all
            .iter()
            .find(|item| item["Description"].as_str().unwrap().contains(word));
        found.unwrap_or_else(|| panic!("{word}: {all:#?}")).clone()
    };
    assert_eq!(of("cache mount mine")["Type"], "exec.cachemount");
    assert!(of("cache mount mine")["Bytes"].as_u64().unwrap() >= 50_000);
    assert_eq!(of("/loose")["Reclaimable"], true);
    assert!(of("/loose")["Bytes"].as_u64().unwrap() >= 100 * 1024);
    let snapshots: u64 = all
        .iter()
        .filter(|item| item["Type"] == "regular")
        .map(|item| item["Bytes"].as_u64().unwrap())
        .sum();
    let by_kind = kit.must(&["du", "--format", "{{.Type}} {{.Bytes}}"]).stdout;
    assert!(
        by_kind.contains(&format!("Snapshots {snapshots}\n")),
        "{snapshots}\n{by_kind}"
    );
    let mounts = kit.must(&["du", "--filter", "type=exec.cachemount"]).stdout;
    assert_eq!(mounts.lines().count(), 4, "{mounts}");
    assert!(mounts.starts_with("ID "), "{mounts}");
    let wrong = kit.rbuild(&["du", "--filter", "kind=x"]);
    assert_eq!(wrong.code, 2, "{wrong}");
}

#[test]
fn prune_takes_what_is_asked_for_and_no_more() {
    require_machine!();
    let kit = Kit::new();
    step(&kit, "named", 40, &["-t", "named"]);
    step(&kit, "loose", 40, CACHE_ONLY);
    let mount = "FROM busybox\nRUN --mount=type=cache,target=/c,id=m echo 1 > /c/f\n";
    kit.must_build(mount, CACHE_ONLY);
    let descriptions = || -> Vec<String> {
        let all = items(&kit).into_iter();
        all.map(|it| it["Description"].as_str().unwrap().to_owned())
            .collect()
    };
    let has = |word: &str| descriptions().iter().any(|it| it.contains(word));

    let before = descriptions();
    let dry = kit.must(&["prune", "--dry-run", "--all"]).stdout;
    assert!(dry.contains("Would remove 1 cache mount\n"), "{dry}");
    assert!(dry.contains("/loose"), "{dry}");
    assert!(!dry.contains("/named"), "{dry}");
    assert_eq!(before, descriptions());

    let old = kit.must(&["prune", "-f", "--filter", "until=1h"]).stdout;
    assert!(!old.contains("snapshot") && !old.contains("mount"), "{old}");
    let mounts = kit.must(&["prune", "-f", "--filter", "type=exec.cachemount"]);
    assert!(
        mounts.stdout.contains("Removed 1 cache mount\n"),
        "{mounts}"
    );
    assert!(!has("cache mount m") && has("/loose"));

    let id = items(&kit)
        .into_iter()
        .find(|it| it["Description"].as_str().unwrap().contains("/loose"))
        .unwrap();
    let filter = format!("id={}", id["ShortID"].as_str().unwrap());
    let verbose = kit.must(&["prune", "-f", "--verbose", "--filter", &filter]);
    assert!(verbose.stdout.contains("/loose"), "{verbose}");
    assert!(!has("/loose") && has("/named"));
    assert!(has("mount=type=cache"), "{:#?}", descriptions());

    kit.must(&["prune", "-f", "-a"]);
    assert!(has("/named"));
    assert_eq!(
        kit.must(&["run", "named", "wc", "-c", "/named"]).stdout,
        "40960 /named\n"
    );
    for filter in ["until=x", "type=x", "type=blob", "id=", "x=1", "x"] {
        let wrong = kit.rbuild(&["prune", "-f", "--filter", filter]);
        assert_eq!(wrong.code, 2, "{wrong}");
    }
    kit.store_is_whole();
}

#[test]
fn a_limit_is_kept_without_being_asked() {
    require_machine!();
    let kit = Kit::new();
    // Found without --config.
    std::fs::create_dir_all(kit.path(".config/rbuild")).unwrap();
    let limit = |text: &str| std::fs::write(kit.path(".config/rbuild/config.toml"), text).unwrap();
    limit("[store]\nmax-size = '9m'\n");
    step(&kit, "named", 300, &["-t", "named"]);
    let mut removed = 0;
    for number in 0..8 {
        let name = format!("step{number}");
        let dockerfile = format!("FROM busybox\nRUN head -c 900000 /dev/urandom > /{name}\n");
        let built = kit.must_build(&dockerfile, CACHE_ONLY);
        removed += usize::from(built.stderr.contains("note: the store reached its limit"));
        let size = on_disk(&kit);
        assert!(size < (9 << 20) + 300_000, "{size} after {number}: {built}");
        // What was just built stays.
        assert_eq!(kit.must_build(&dockerfile, CACHE_ONLY).cached(), 2);
    }
    assert!(removed > 2, "{removed}");
    assert_eq!(
        kit.must(&["run", "named", "wc", "-c", "/named"]).stdout,
        "307200 /named\n"
    );
    kit.store_is_whole();

    // What is held is more than the limit: said, and left.
    limit("[store]\nmax-size = '1k'\n");
    let over = kit.must_build("FROM busybox\nRUN echo 1 > /over\n", CACHE_ONLY);
    assert!(
        over.stderr.contains("warning: the store is over its limit"),
        "{over}"
    );
    // A build that adds nothing looks at nothing.
    let cached = kit.must_build("FROM busybox\nRUN echo 1 > /over\n", CACHE_ONLY);
    assert!(!cached.stderr.contains("limit"), "{cached}");
    assert_eq!(
        kit.must(&["run", "named", "wc", "-c", "/named"]).stdout,
        "307200 /named\n"
    );

    limit("[store]\nmax-size = 'much'\n");
    let wrong = kit.rbuild(&["images"]);
    assert_eq!(wrong.code, 2, "{wrong}");
    assert!(
        wrong.stderr.contains(".config/rbuild/config.toml"),
        "{wrong}"
    );
    limit("");
    std::fs::write(kit.path("other.toml"), "").unwrap();
    kit.must(&["--config", "other.toml", "images"]);
    kit.store_is_whole();
}

#[test]
fn what_took_long_outlives_what_was_quick() {
    require_machine!();
    let kit = Kit::new();
    let slow = "FROM busybox\nRUN sleep 3; head -c 500000 /dev/urandom > /slow\n";
    let quick = "FROM busybox\nRUN head -c 500000 /dev/urandom > /quick\n";
    kit.must_build(slow, CACHE_ONLY);
    kit.must_build(quick, CACHE_ONLY);
    let size = total(&kit);
    let keep = (size - 100_000).to_string();
    let said = kit.must(&["prune", "-f", "--keep-storage", &keep, "--verbose"]);
    assert!(
        said.stdout.contains("/quick") && !said.stdout.contains("/slow"),
        "{said}"
    );
    assert_eq!(kit.must_build(slow, CACHE_ONLY).cached(), 2);
    assert_eq!(kit.must_build(quick, CACHE_ONLY).cached(), 0);
}

#[test]
fn a_container_that_goes_on_holds_what_it_stands_on_and_no_more() {
    require_machine!();
    for flags in [
        &["run", "--rm", "-i", "named", "cat"][..],
        &["run", "-i", "named", "cat"],
    ] {
        let kit = Kit::new();
        step(&kit, "named", 40, &["-t", "named"]);
        let mut container = kit
            .command(flags)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = container.stdin.take();
        let all = || kit.must(&["prune", "-f", "--all", "--verbose"]).stdout;
        let is_running = || kit.must(&["ps", "-q"]).stdout.lines().count() == 1;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !is_running() {
            assert!(std::time::Instant::now() < deadline, "{flags:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        step(&kit, "loose", 40, CACHE_ONLY);
        kit.must(&["rmi", "-f", "named"]);
        // It lets go of what was used since it began a second after it started.
        while !all().contains("/loose") {
            assert!(
                std::time::Instant::now() < deadline,
                "{flags:?}: {:#?}",
                items(&kit)
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert!(is_running());
        let left = items(&kit);
        let base = |item: &&Value| item["Description"].as_str().unwrap().contains("/named");
        assert_eq!(left.iter().filter(base).count(), 1, "{flags:?}: {left:#?}");
        kit.store_is_whole();
        drop(stdin);
        assert!(container.wait().unwrap().success());
        kit.must(&["container", "prune", "-f"]);
        kit.must(&["prune", "-f", "--all"]);
        let left = items(&kit);
        assert!(
            !left.iter().any(|item| item["Type"] == "regular"),
            "{flags:?}: {left:#?}"
        );
    }
}
