//! What collection takes and what holds things; what `check` finds, and where repair puts it.

use std::fs;

use rbuild_cache::Store;
use rbuild_cache::cache_mounts::Sharing;
use rbuild_cache::collect::PruneOptions;

use crate::{key, record, snapshot, store};

fn all() -> PruneOptions {
    PruneOptions {
        all: true,
        ..PruneOptions::default()
    }
}

#[test]
fn collection_takes_what_nothing_holds_and_check_finds_nothing_wrong() {
    let (directory, store) = store();
    let base = snapshot(&store, None, "base");
    let kept = snapshot(&store, Some(&base.id), "kept");
    let gone = snapshot(&store, Some(&base.id), "gone");
    store
        .save(&[key("gone")], &record(Some(gone.id.clone())))
        .unwrap();
    store
        .put_container("c1", &[base.id.clone(), kept.id.clone()])
        .unwrap();
    store
        .put_container("c10", std::slice::from_ref(&kept.id))
        .unwrap();
    assert_eq!(store.containers().unwrap().len(), 3);
    assert!(store.remove_container("c10").unwrap());
    assert_eq!(store.containers().unwrap().len(), 2);
    assert_eq!(store.usage().unwrap().containers.count, 1);
    let blob = store.put_blob(b"loose").unwrap();
    let mount = store.cache_mount("m", Sharing::Shared).unwrap();
    mount.filled().unwrap();
    drop(mount);
    // All of it was used by this process.
    assert_eq!(store.prune(&all()).unwrap().snapshots, 0);
    assert_eq!(store.usage().unwrap().reclaimable(), 0);
    drop(store);

    std::thread::sleep(std::time::Duration::from_millis(1100));
    let store = Store::open(&directory.path().join("store")).unwrap();
    assert!(store.usage().unwrap().reclaimable() > 0);
    assert_eq!(store.check(false).unwrap(), []);
    let pruned = store.prune(&all()).unwrap();
    assert_eq!(
        (
            pruned.records,
            pruned.snapshots,
            pruned.blobs,
            pruned.cache_mounts
        ),
        (1, 1, 1, 1)
    );
    assert!(pruned.bytes > 0);
    assert_eq!(store.lookup(key("gone")).unwrap(), None);
    assert!(store.snapshot(&gone.id).is_err() && !store.has_blob(&blob));
    assert_eq!(store.chain(&kept.id).unwrap().len(), 2);
    assert_eq!(store.check(false).unwrap(), []);
    assert!(store.remove_container("c1").unwrap());
    assert!(
        store
            .put_container("../x", std::slice::from_ref(&kept.id))
            .is_err()
    );
}

/// Until the clock that files are marked by has gone on, wherever it is slow.
fn next_tick() {
    std::thread::sleep(std::time::Duration::from_millis(30));
}

#[test]
fn who_lets_go_holds_what_rows_hold_and_nothing_else() {
    let (directory, living) = store();
    let base = snapshot(&living, None, "base");
    let stands = snapshot(&living, Some(&base.id), "stands");
    let loose = snapshot(&living, Some(&base.id), "loose");
    let built = record(Some(loose.id.clone()));
    living.save(&[key("loose")], &built).unwrap();
    living
        .put_passing_container("c1", std::slice::from_ref(&stands.id))
        .unwrap();
    let leases = || {
        let names = fs::read_dir(living.root().join("leases")).unwrap();
        names.count()
    };

    let other = Store::open(&directory.path().join("store")).unwrap();
    assert_eq!(other.prune(&all()).unwrap().snapshots, 0);
    drop(other);
    next_tick();
    living.let_go().unwrap();
    assert_eq!(leases(), 2);
    // What it makes and uses from here on is spared again.
    let later = snapshot(&living, Some(&base.id), "later");
    let temporary = living.temporary_directory().unwrap();
    let other = Store::open(&directory.path().join("store")).unwrap();
    assert_eq!(other.prune(&all()).unwrap().snapshots, 1);
    assert!(living.snapshot(&loose.id).is_err());
    assert_eq!(living.chain(&stands.id).unwrap().len(), 2);
    assert_eq!(living.chain(&later.id).unwrap().len(), 2);
    assert!(temporary.path().exists());
    assert_eq!(other.check(false).unwrap(), []);
    drop(other);
    // Again, after use: the mark is a new one.
    let used = record(Some(later.id.clone()));
    living.save(&[key("later")], &used).unwrap();
    next_tick();
    living.let_go().unwrap();
    assert!(living.lookup(key("later")).unwrap().is_some());
    let other = Store::open(&directory.path().join("store")).unwrap();
    assert_eq!(other.prune(&all()).unwrap().snapshots, 0);
    drop(other);
    next_tick();
    living.let_go().unwrap();
    let other = Store::open(&directory.path().join("store")).unwrap();
    assert_eq!(other.prune(&all()).unwrap().snapshots, 1);
    drop(other);
    drop(temporary);
    let root = living.root().to_owned();
    drop(living);
    assert_eq!(fs::read_dir(root.join("leases")).unwrap().count(), 0);
}

#[test]
fn what_was_put_away_is_told_of_and_goes_when_it_is_old_or_meant() {
    use rbuild_cache::collect::{Kind, PruneOptions};
    let (_directory, store) = store();
    let put_away = |name: &str| {
        fs::write(store.root().join("snapshots").join(name), "mine").unwrap();
        let found = store.check(true).unwrap();
        assert!(found.iter().all(|finding| finding.repaired), "{found:?}");
    };
    let here = || {
        let items = store.items().unwrap().into_iter();
        items
            .filter(|item| item.kind == Kind::Quarantine)
            .collect::<Vec<_>>()
    };
    put_away("stranger");
    let items = here();
    assert_eq!(items.len(), 1);
    assert_eq!(
        items[0].description,
        "`stranger`, put away by `store check`"
    );
    assert!(items[0].reclaimable && items[0].bytes > 0);
    let usage = store.usage().unwrap();
    assert_eq!(usage.quarantine.count, 1);
    assert_eq!(usage.quarantine.reclaimable, items[0].bytes);

    // It is new, and nobody means it.
    let mut options = PruneOptions::default();
    assert_eq!(store.prune(&options).unwrap().quarantined, 0);
    options.keep_storage = Some(1 << 30);
    assert_eq!(store.prune(&options).unwrap().quarantined, 0);
    options = PruneOptions {
        kinds: vec![Kind::CacheMount],
        ..PruneOptions::default()
    };
    assert_eq!(store.prune(&options).unwrap().quarantined, 0);
    options = PruneOptions {
        until: Some(items[0].last_used - 10),
        ..PruneOptions::default()
    };
    assert_eq!(store.prune(&options).unwrap().quarantined, 0);
    // By kind, in any case.
    options = PruneOptions {
        kinds: vec![Kind::Quarantine],
        dry_run: true,
        ..PruneOptions::default()
    };
    assert_eq!(store.prune(&options).unwrap().quarantined, 1);
    assert_eq!(here().len(), 1);
    options.dry_run = false;
    let pruned = store.prune(&options).unwrap();
    assert_eq!(pruned.quarantined, 1);
    assert!(pruned.bytes >= items[0].bytes);
    assert_eq!(here(), []);
    // With everything.
    put_away("another");
    options = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    assert_eq!(store.prune(&options).unwrap().quarantined, 1);
    // Where what is to be kept is too much.
    put_away("third");
    options = PruneOptions {
        keep_storage: Some(0),
        ..PruneOptions::default()
    };
    assert_eq!(store.prune(&options).unwrap().quarantined, 1);
    assert_eq!(here(), []);
}

#[test]
fn check_finds_every_kind_of_damage_and_repair_puts_it_away() {
    let (_directory, store) = store();
    let blob = store.put_blob(b"good bytes").unwrap();
    let other = store.put_blob(b"other").unwrap();
    let below = snapshot(&store, None, "below");
    let above = snapshot(&store, Some(&below.id), "above");
    let fine = snapshot(&store, None, "fine");
    store
        .save(&[key("a")], &record(Some(above.id.clone())))
        .unwrap();
    store
        .save(&[key("f")], &record(Some(fine.id.clone())))
        .unwrap();
    fs::write(store.blob_path(&blob), "evil bytes").unwrap();
    fs::remove_file(store.blob_path(&other)).unwrap();
    fs::write(
        store.snapshot_directory(&below.id).unwrap().join("below"),
        "BELOW",
    )
    .unwrap();
    fs::write(store.root().join("snapshots/stranger"), "").unwrap();

    let found = store.check(false).unwrap();
    let whats: Vec<_> = found.iter().map(|finding| finding.what.clone()).collect();
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(whats.contains(&format!("blob {blob}")));
    assert!(whats.contains(&format!("blob {other}")));
    assert!(whats.contains(&format!("snapshot {}", below.id.as_str())));
    assert!(whats.contains(&"`snapshots/stranger`".to_owned()));
    assert!(
        found
            .iter()
            .any(|f| f.reason == "`/below` is not what it was")
    );

    assert!(
        store
            .check(true)
            .unwrap()
            .iter()
            .filter(|f| f.repaired)
            .count()
            == 4
    );
    assert_eq!(store.check(false).unwrap(), []);
    assert!(!store.has_blob(&blob));
    assert_eq!(store.lookup(key("a")).unwrap(), None);
    assert!(store.lookup(key("f")).unwrap().is_some());
    assert!(
        fs::read_dir(store.root().join("quarantine"))
            .unwrap()
            .count()
            >= 2
    );
}

#[test]
fn blobs_that_are_marked_at_once_stay_and_others_go() {
    let (directory, before) = store();
    let digests = [b"one", b"two", b"six"].map(|bytes| before.put_blob(bytes).unwrap());
    drop(before);
    next_tick();
    let user = Store::open(&directory.path().join("store")).unwrap();
    let other = Store::open(&directory.path().join("store")).unwrap();
    let [one, two, six] = &digests;
    let absent = rbuild_cache::Digest::of(b"absent");
    user.use_blobs(&[one, &absent, two]).unwrap();
    assert_eq!(other.prune(&all()).unwrap().blobs, 1);
    assert!(user.has_blob(one) && user.has_blob(two));
    assert!(!user.has_blob(six) && !user.has_blob(&absent));
}
