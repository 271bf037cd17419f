use super::contents::*;
use super::plan::{Plan, Situation};
use super::*;
use crate::snapshot::SnapshotId;

fn id(name: &str) -> SnapshotId {
    SnapshotId(name.to_owned())
}

/// `a` ← `b` ← `c`, and `d` alone; each of 100 bytes, last used at 10.
fn contents() -> Contents {
    let snapshot = |name: &str, parent: Option<&str>| SnapshotRow {
        id: id(name),
        parent: parent.map(id),
        bytes: 100,
        is_packed: false,
        shared: false,
        created: 0,
        used: 10,
    };
    Contents {
        snapshots: vec![
            snapshot("a", None),
            snapshot("b", Some("a")),
            snapshot("c", Some("b")),
            snapshot("d", None),
        ],
        ..Contents::default()
    }
}

fn result(number: i64, snapshot: &str, duration_ms: u64, used: i64) -> ResultRow {
    ResultRow {
        id: number,
        snapshots: vec![id(snapshot)],
        duration_ms,
        used,
    }
}

fn names(plan: &Plan) -> String {
    let mut names: Vec<_> = plan.snapshots.iter().map(SnapshotId::as_str).collect();
    names.sort_unstable();
    names.join(" ")
}

const ALL: PruneOptions = PruneOptions {
    all: true,
    keep_storage: None,
    until: None,
    kinds: Vec::new(),
    ids: Vec::new(),
    unpacked: false,
    dry_run: false,
};

fn plan(contents: &Contents, options: &PruneOptions, spare_since: i64, other_bytes: u64) -> Plan {
    let situation = Situation {
        now_ms: spare_since,
        spare_since,
        other_bytes,
    };
    super::plan::plan(contents, options, situation)
}

#[test]
fn what_nothing_holds_goes_whatever_the_options() {
    let mut contents = contents();
    contents.results = vec![result(1, "b", 1, 10)];
    let plan = plan(&contents, &PruneOptions::default(), 100, 0);
    assert_eq!(names(&plan), "c d");
    assert!(plan.results.is_empty());
}

#[test]
fn what_a_living_process_may_use_stays_with_all_below_it() {
    let mut contents = contents();
    contents.snapshots[1].used = 100;
    contents.results = vec![result(1, "c", 1, 10), result(2, "d", 1, 100)];
    let plan = plan(&contents, &ALL, 100, 0);
    assert_eq!(names(&plan), "c");
    assert_eq!(plan.results, [1]);
}

#[test]
fn names_and_containers_hold_and_unnamed_images_do_not() {
    let mut contents = contents();
    let image = |name: &str, manifest: &[u8], snapshot: &str| ImageRow {
        name: name.to_owned(),
        manifest: Digest::of(manifest),
        snapshot: Some(id(snapshot)),
        blobs: vec![Digest::of(manifest)],
        used: 10,
    };
    contents.blobs = [b"1", b"2", b"3"]
        .iter()
        .map(|bytes| BlobRow {
            digest: Digest::of(*bytes),
            bytes: 1,
            used: 10,
        })
        .collect();
    contents.images = vec![image("n", b"1", "a"), image("", b"2", "d")];
    contents.containers = vec![id("b")];
    let plan = plan(&contents, &PruneOptions::default(), 100, 0);
    assert_eq!(names(&plan), "c d");
    assert_eq!(plan.images, [Digest::of(b"2")]);
    let blobs: std::collections::HashSet<_> = [Digest::of(b"2"), Digest::of(b"3")].into();
    assert_eq!(plan.blobs, blobs);
}

#[test]
fn a_record_of_what_a_name_holds_costs_nothing_and_stays() {
    let mut contents = contents();
    contents.images = vec![ImageRow {
        name: "n".to_owned(),
        manifest: Digest::of(b"1"),
        snapshot: Some(id("c")),
        blobs: Vec::new(),
        used: 10,
    }];
    contents.results = vec![result(1, "b", 1, 10), result(2, "d", 1, 10)];
    let plan = plan(&contents, &ALL, 100, 0);
    assert_eq!(plan.results, [2]);
    assert_eq!(names(&plan), "d");
}

#[test]
fn the_least_valuable_goes_first_and_no_more_than_needed() {
    let mut contents = contents();
    contents.results = vec![result(1, "c", 50_000, 10), result(2, "d", 10, 20)];
    let options = PruneOptions {
        keep_storage: Some(350),
        ..PruneOptions::default()
    };
    let plan_of = |contents: &Contents, other| plan(contents, &options, 100, other);
    let some = plan_of(&contents, 0);
    assert_eq!((names(&some).as_str(), some.still_too_much), ("d", false));
    // Other things take room as well.
    let more = plan_of(&contents, 300);
    assert_eq!(
        (names(&more).as_str(), more.still_too_much),
        ("a b c d", false)
    );
    assert!(plan_of(&contents, 351).still_too_much);
}

#[test]
fn until_spares_what_was_used_since() {
    let mut contents = contents();
    contents.results = vec![result(1, "c", 1, 5_000), result(2, "d", 1, 500)];
    let options = PruneOptions {
        until: Some(1),
        ..PruneOptions::default()
    };
    assert_eq!(plan(&contents, &options, 10_000, 0).results, [2]);
}

#[test]
fn what_others_stand_on_goes_after_them() {
    let mut contents = contents();
    contents.snapshots[0].bytes = 1000;
    // The bottom is the least valuable, and gives nothing back before what stands on it is gone.
    contents.results = vec![
        result(1, "a", 1, 10),
        result(2, "b", 1000, 10),
        result(3, "c", 5000, 10),
        result(4, "d", 70_000, 10),
    ];
    let keep = |bytes| {
        let options = PruneOptions {
            keep_storage: Some(bytes),
            ..PruneOptions::default()
        };
        plan(&contents, &options, 100, 0)
    };
    assert_eq!(keep(1299).results, [3]);
    assert_eq!(names(&keep(1200)), "c");
    assert_eq!(keep(1099).results, [3, 2, 1]);
    assert_eq!(names(&keep(100)), "a b c");
    // By its own, an inner one stays.
    let one = PruneOptions {
        ids: vec!["a".to_owned()],
        ..PruneOptions::default()
    };
    assert_eq!(names(&plan(&contents, &one, 100, 0)), "");
}

#[test]
fn what_nobody_wanted_for_long_is_worth_less() {
    const WEEK: i64 = 7 * 24 * 3_600_000;
    let mut contents = contents();
    contents.results = vec![result(1, "c", 3000, 10), result(2, "d", 1000, 2 * WEEK)];
    let options = PruneOptions {
        keep_storage: Some(399),
        ..PruneOptions::default()
    };
    assert_eq!(plan(&contents, &options, 2 * WEEK + 1, 0).results, [1]);
    assert_eq!(plan(&contents, &options, 2 * WEEK + 1, 0).left, 100);
    contents.results[0].used = WEEK + WEEK / 2;
    assert_eq!(plan(&contents, &options, 2 * WEEK + 1, 0).results, [2]);
}

#[test]
fn cache_mounts_and_images_without_names_go_as_far_as_needed() {
    let mut contents = contents();
    contents.results = vec![result(1, "c", 50_000, 10), result(2, "d", 50_000, 10)];
    let mount = |number, used| MountRow {
        number,
        directory: "/m/abc".into(),
        id: "m".to_owned(),
        bytes: 1000,
        used,
    };
    contents.mounts = vec![mount(0, 20), mount(1, 10), mount(2, 100)];
    contents.images = vec![ImageRow {
        name: String::new(),
        manifest: Digest::of(b"1"),
        snapshot: Some(id("d")),
        blobs: Vec::new(),
        used: 10,
    }];
    let keep = |bytes| PruneOptions {
        keep_storage: Some(bytes),
        ..PruneOptions::default()
    };
    let some = plan(&contents, &keep(2400), 100, 0);
    let numbers = |plan: &Plan| plan.mounts.iter().map(|it| it.number).collect::<Vec<_>>();
    assert_eq!((numbers(&some), some.images.len()), (vec![1], 1));
    let all = plan(&contents, &keep(1), 100, 0);
    // The third may be in use.
    assert_eq!(numbers(&all), [1, 0]);
    assert!(all.still_too_much && all.left == 1000, "{all:?}");
    assert!(plan(&contents, &keep(3400), 100, 0).images.is_empty());
    let kind = PruneOptions {
        kinds: vec![Kind::CacheMount],
        ..PruneOptions::default()
    };
    let only = plan(&contents, &kind, 100, 0);
    assert_eq!((numbers(&only), names(&only).as_str()), (vec![1, 0], ""));
    assert!(only.images.is_empty());
    let one = PruneOptions {
        ids: vec!["abc-1".to_owned()],
        ..PruneOptions::default()
    };
    assert_eq!(numbers(&plan(&contents, &one, 100, 0)), [1]);
}

#[test]
fn what_was_put_away_goes_after_a_week() {
    const NOW: i64 = 100 * 24 * 3600;
    const WEEK: i64 = 7 * 24 * 3600;
    let limit = |options: &PruneOptions, too_much| quarantine::limit(options, too_much, NOW);
    let keep = PruneOptions {
        keep_storage: Some(1),
        ..PruneOptions::default()
    };
    for options in [&PruneOptions::default(), &keep] {
        assert_eq!(limit(options, false), NOW - WEEK);
        assert_eq!(limit(options, true), i64::MAX);
    }
    assert_eq!(limit(&ALL, false), i64::MAX);
    let until = |time| PruneOptions {
        until: Some(time),
        ..PruneOptions::default()
    };
    assert_eq!(limit(&until(NOW - 60), false), NOW - 60);
    let both = PruneOptions {
        until: Some(NOW - 60),
        ..keep
    };
    assert_eq!(limit(&both, false), NOW - WEEK);
    assert_eq!(limit(&both, true), NOW - 60);
}

#[test]
fn parts_of_shared_files_add_up() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    std::fs::create_dir(&one).unwrap();
    std::fs::create_dir(&two).unwrap();
    std::fs::write(one.join("file"), vec![1; 100_000]).unwrap();
    std::fs::hard_link(one.join("file"), one.join("again")).unwrap();
    let alone = meter::part(&one);
    assert!(!alone.shared && alone.bytes == allocated(&one));
    std::fs::hard_link(one.join("file"), two.join("file")).unwrap();
    std::fs::hard_link(one.join("file"), two.join("more")).unwrap();
    let (first, second) = (meter::part(&one), meter::part(&two));
    assert!(first.shared && second.shared);
    let both = Meter::new(Count::Once).tree(directory.path()) - allocated_of(directory.path());
    assert_eq!(first.bytes + second.bytes, both);
}

fn allocated_of(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(directory).unwrap().blocks() * 512
}

#[test]
fn a_cycle_of_parents_does_not_hang() {
    let mut contents = contents();
    contents.snapshots[0].parent = Some(id("b"));
    contents.results = vec![result(1, "c", 1, 10)];
    let plan = plan(&contents, &ALL, 100, 0);
    assert_eq!(plan.results, [1]);
    assert_eq!(item::list(&contents, &plan, Vec::new()).len(), 4);
}

#[test]
fn what_stands_on_a_snapshot_uses_it() {
    let mut contents = contents();
    for (row, used) in contents.snapshots.iter_mut().zip([10, 30, 20, 5]) {
        row.used = used * 1000;
    }
    let mut listed: Vec<_> = item::list(&contents, &Plan::default(), Vec::new())
        .into_iter()
        .map(|item| (item.id, item.last_used))
        .collect();
    listed.sort();
    let expected = [("a", 30), ("b", 30), ("c", 20), ("d", 5)];
    assert_eq!(listed, expected.map(|(id, used)| (id.to_owned(), used)));
}

#[test]
fn a_file_with_several_names_counts_once() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    std::fs::create_dir(&one).unwrap();
    std::fs::create_dir(&two).unwrap();
    std::fs::write(one.join("file"), vec![1; 100_000]).unwrap();
    std::fs::hard_link(one.join("file"), two.join("file")).unwrap();
    std::os::unix::fs::symlink("/", one.join("link")).unwrap();
    let mut meter = Meter::new(Count::Once);
    let (first, second) = (meter.tree(&one), meter.tree(&two));
    assert!(first >= 100_000 && second < 100_000, "{first} {second}");
    // The other name keeps the bytes.
    assert!(allocated(&one) < 100_000);
    assert!(allocated(directory.path()) >= 100_000);
    assert_eq!(allocated(&directory.path().join("none")), 0);
}

/// Who removes a lock that nobody holds must not take away the name of another that somebody has by then.
#[test]
fn a_key_has_one_holder_while_stale_locks_are_removed() {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::time::{Duration, Instant};
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let key = crate::KeyWriter::new("test").finish();
    let (is_held, both) = (AtomicBool::new(false), AtomicU32::new(0));
    let end = Instant::now() + Duration::from_secs(1);
    let hold = || {
        while Instant::now() < end {
            let lock = store.lock_key(key).unwrap();
            if is_held.swap(true, Ordering::SeqCst) {
                both.fetch_add(1, Ordering::SeqCst);
            }
            std::thread::yield_now();
            is_held.store(false, Ordering::SeqCst);
            drop(lock);
        }
    };
    let sweep = || {
        while Instant::now() < end {
            store.remove_stale_locks().unwrap();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(hold);
        }
        for _ in 0..2 {
            scope.spawn(sweep);
        }
    });
    assert_eq!(both.into_inner(), 0);
}
