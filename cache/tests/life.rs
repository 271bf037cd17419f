//! One life of a store through its public face: made, filled, opened again, synced.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use rbuild_cache::cache_mounts::Sharing;
use rbuild_cache::images::StoredImage;
use rbuild_cache::record::Record;
use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::{ChainId, DiffId, Digest, Error, Key, KeyWriter, SnapshotId, Store};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn key(text: &str) -> Key {
    KeyWriter::new("test.v1").field("text", text).finish()
}

fn snapshot(store: &Store, parent: Option<&SnapshotId>, name: &str) -> rbuild_cache::Snapshot {
    let active = store.prepare().unwrap();
    fs::write(active.upper().join(name), name).unwrap();
    fs::create_dir(active.work().join("work")).unwrap();
    active.commit(parent, 7).unwrap()
}

fn record(snapshot: Option<SnapshotId>) -> Record {
    Record {
        key: key("unused"),
        snapshot,
        extra: Vec::new(),
        step: "stage/1".to_owned(),
        ingredients: Vec::new(),
        created: 7,
        duration_ms: 1000,
    }
}

#[test]
fn what_was_put_is_found_again_by_another_process() {
    let (directory, first) = store();
    let blob = first.put_blob(b"hello").unwrap();
    let below = snapshot(&first, None, "below");
    let above = snapshot(&first, Some(&below.id), "above");
    let chain = ChainId(Digest::of(b"chain"));
    first.set_chain(&below.id, &chain).unwrap();
    let layer = LayerBlob {
        digest: blob,
        size: 5,
        media_type: "application/x".to_owned(),
        diff_id: DiffId(blob),
    };
    first.set_layer_blob(&above.id, "gzip", &layer).unwrap();
    let mut saved = record(Some(above.id.clone()));
    saved.extra.push(below.id.clone());
    first.save(&[key("a"), key("b")], &saved).unwrap();
    first.alias(key("a"), key("c")).unwrap();
    first.sync().unwrap();
    first.sync().unwrap();
    drop(first);

    let second = Store::open(&directory.path().join("store")).unwrap();
    assert_eq!(second.read_blob(&blob, 5).unwrap(), b"hello");
    assert!(matches!(
        second.read_blob(&blob, 4),
        Err(Error::TooLarge { .. })
    ));
    for name in ["a", "b", "c"] {
        let found = second.lookup(key(name)).unwrap().unwrap();
        assert_eq!(found.key, key(name));
        assert_eq!(found.snapshot.as_ref(), Some(&above.id));
        assert_eq!(found.extra, saved.extra);
    }
    assert_eq!(second.lookup(key("d")).unwrap(), None);
    assert_eq!(
        second.chain(&above.id).unwrap(),
        [below.clone(), above.clone()]
    );
    assert_eq!(
        second.snapshot_by_chain(&chain).unwrap().as_ref(),
        Some(&below)
    );
    assert_eq!(second.layer_blob(&above.id, "gzip").unwrap(), Some(layer));
    let view = second.merged_tree(&above.id).unwrap();
    let paths: Vec<_> = view.entries.iter().map(|e| e.path.as_slice()).collect();
    assert_eq!(paths, [&b""[..], b"above", b"below"]);
    assert!(
        !second
            .root()
            .join("snapshots")
            .join(above.id.as_str())
            .join("work")
            .exists()
    );
    assert_eq!(second.records_of_step("stage/1", 9).unwrap().len(), 1);
    second.forget(key("b")).unwrap();
    assert_eq!(second.lookup(key("a")).unwrap(), None);
}

#[test]
fn looking_whether_stacks_are_known_writes_down_only_those_that_are_not() {
    let (_directory, store) = store();
    let below = snapshot(&store, None, "below");
    let above = snapshot(&store, Some(&below.id), "above");
    let other = snapshot(&store, None, "other");
    let [one, two] = [b"one", b"two"].map(|name| ChainId(Digest::of(name)));
    store.set_chain(&below.id, &one).unwrap();
    let log = store.root().join("index.db-wal");
    let length = || fs::metadata(&log).unwrap().len();
    let before = length();
    store.set_chains_once(&[(&other.id, one)]).unwrap();
    assert_eq!(length(), before);
    let both = [(&below.id, one), (&above.id, two)];
    store.set_chains_once(&both).unwrap();
    assert!(length() > before);
    let found = |chain| store.snapshot_by_chain(chain).unwrap().map(|it| it.id);
    assert_eq!(found(&one).as_ref(), Some(&below.id));
    assert_eq!(found(&two).as_ref(), Some(&above.id));
    // Somebody tidied up in there.
    fs::remove_dir_all(store.root().join("snapshots").join(below.id.as_str())).unwrap();
    store.set_chains_once(&[(&other.id, one)]).unwrap();
    assert_eq!(found(&one), Some(other.id));
}

#[test]
fn a_blob_that_arrives_wrong_is_refused_and_leaves_nothing() {
    use std::io::Write as _;
    let (_directory, store) = store();
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(b"abc").unwrap();
    let wrong = Digest::of(b"abd");
    assert!(matches!(
        ingest.commit(Some(&wrong), None),
        Err(Error::DigestMismatch { .. })
    ));
    let mut ingest = store.ingest().unwrap();
    ingest.write_from(&mut &b"abc"[..], 3).unwrap();
    assert!(matches!(
        ingest.commit(None, Some(4)),
        Err(Error::SizeMismatch { actual: 3, .. })
    ));
    let mut ingest = store.ingest().unwrap();
    assert!(ingest.write_from(&mut &b"abc"[..], 2).is_err());
    drop(ingest);
    assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    assert!(!store.has_blob(&Digest::of(b"abc")));
}

#[test]
fn names_move_and_leave_unnamed_images_behind() {
    let (_directory, store) = store();
    let image = |name: &str, manifest: Digest| StoredImage {
        name: name.to_owned(),
        manifest,
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        size: 2,
        config: Digest::of(manifest.hex().as_bytes()),
        snapshot: None,
        blobs: vec![manifest],
        tagged: 1,
    };
    let one = store.put_blob(b"{}").unwrap();
    let two = store.put_blob(b"[]").unwrap();
    store.put_image(&image("a", one)).unwrap();
    store.put_image(&image("a", two)).unwrap();
    assert_eq!(store.image_by_name("a").unwrap().unwrap().manifest, two);
    let names = |store: &Store| -> Vec<String> {
        store
            .images()
            .unwrap()
            .into_iter()
            .map(|image| image.name)
            .collect()
    };
    assert_eq!(names(&store), ["", "a"]);
    store.put_image(&image("b", one)).unwrap();
    assert_eq!(names(&store), ["a", "b"]);
    let id = &image("", one).config.hex()[..12];
    assert_eq!(store.images_by_id(id).unwrap().len(), 1);
    assert_eq!(store.images_by_id("../x").unwrap(), []);
    let index = fs::read_to_string(store.root().join("content/index.json")).unwrap();
    assert!(index.contains(&one.to_string()) && index.contains("\"b\""));
    assert_eq!(
        store.remove_image("b", &one).unwrap().unwrap().manifest,
        one
    );
    assert_eq!(store.remove_image("b", &one).unwrap(), None);
    assert!(matches!(
        store.put_image(&image("c", Digest::of(b"nowhere"))),
        Err(Error::Missing(_))
    ));
}

/// Two pulls of one name, for different platforms of its index, at the same time.
#[test]
fn a_name_goes_on_holding_what_it_held_of_its_manifest() {
    let (_directory, store) = store();
    let manifest = store.put_blob(b"{}").unwrap();
    let other = store.put_blob(b"[]").unwrap();
    let image = |manifest: Digest, number: u8| StoredImage {
        name: "a".to_owned(),
        manifest,
        media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
        size: 2,
        config: Digest::of(&[number, 0]),
        snapshot: None,
        blobs: vec![manifest, Digest::of(&[number, 1])],
        tagged: 1,
    };
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (store, image) = (&store, image(manifest, number));
            scope.spawn(move || {
                for _ in 0..2 {
                    store.put_image(&image).unwrap();
                }
            });
        }
    });
    let found = store.image_by_name("a").unwrap().unwrap();
    let needs: Vec<&Digest> = found.needs().collect();
    for number in 0..8 {
        for part in 0..2 {
            assert!(needs.contains(&&Digest::of(&[number, part])), "{number}");
        }
    }
    // The manifest is its own blob, too.
    assert_eq!(needs.len(), 18);
    store.put_image(&image(other, 9)).unwrap();
    assert_eq!(store.image_by_name("a").unwrap(), Some(image(other, 9)));
}

#[test]
fn cache_mounts_are_shared_private_or_locked() {
    let (_directory, store) = store();
    let id = "../../etc";
    let one = store.cache_mount(id, Sharing::Shared).unwrap();
    assert!(one.is_new());
    one.filled().unwrap();
    let two = store.cache_mount(id, Sharing::Shared).unwrap();
    assert_eq!((one.path(), two.is_new()), (two.path(), false));
    assert!(one.path().starts_with(store.root().join("mounts")));
    let own = store.cache_mount(id, Sharing::Private).unwrap();
    assert_ne!(own.path(), one.path());
    assert!(
        store
            .try_cache_mount(id, Sharing::Locked)
            .unwrap()
            .is_none()
    );
    let first = one.path().to_owned();
    drop((one, two));
    let locked = store.cache_mount(id, Sharing::Locked).unwrap();
    assert_eq!(locked.path(), first);
    store.reset_cache_mount(id).unwrap();
    assert!(locked.path().exists());
    let fresh = store.cache_mount(id, Sharing::Locked).unwrap();
    assert!(fresh.is_new());
    assert!(store.cache_mounts().unwrap().is_empty());
    fresh.filled().unwrap();
    assert_eq!(store.cache_mounts().unwrap().len(), 1);
}

#[test]
fn a_cache_mount_that_is_being_filled_is_waited_for() {
    let (_directory, store) = store();
    for (filler, user) in [
        (Sharing::Shared, Sharing::Shared),
        (Sharing::Locked, Sharing::Shared),
        (Sharing::Private, Sharing::Shared),
        (Sharing::Shared, Sharing::Locked),
    ] {
        let id = format!("{filler:?} {user:?}");
        let made = store.cache_mount(&id, filler).unwrap();
        assert!(store.try_cache_mount(&id, user).unwrap().is_none(), "{id}");
        assert!(store.has_cache_mount(&id).unwrap());
        let own = store.cache_mount(&id, Sharing::Private).unwrap();
        assert!(own.is_new() && own.path() != made.path());
        drop(own);
        let waiter = {
            let (store, id) = (store.clone(), id.clone());
            std::thread::spawn(move || {
                let mount = store.cache_mount(&id, user).unwrap();
                (
                    mount.is_new(),
                    std::fs::read(mount.path().join("f")).unwrap(),
                )
            })
        };
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!waiter.is_finished());
        std::fs::write(made.path().join("f"), "whole").unwrap();
        made.filled().unwrap();
        if (filler, user) != (Sharing::Shared, Sharing::Shared) {
            drop(made);
        }
        assert_eq!(waiter.join().unwrap(), (false, b"whole".to_vec()), "{id}");
    }
}

#[test]
fn a_cache_mount_that_nobody_filled_is_made_anew() {
    let (_directory, store) = store();
    for sharing in [Sharing::Shared, Sharing::Private, Sharing::Locked] {
        let id = format!("{sharing:?}");
        let made = store.cache_mount(&id, sharing).unwrap();
        let place = made.path().to_owned();
        std::fs::write(place.join("half"), "").unwrap();
        drop(made);
        assert!(!store.has_cache_mount(&id).unwrap());
        assert!(store.cache_mounts().unwrap().is_empty());
        let next = store.cache_mount(&id, sharing).unwrap();
        assert!(next.is_new() && !next.path().join("half").exists());
        // Reset while it is filled: whoever has it keeps it, and nobody else gets it.
        store.reset_cache_mount(&id).unwrap();
        next.filled().unwrap();
        let last = store.cache_mount(&id, sharing).unwrap();
        assert!(last.is_new());
        drop((next, last));
        store
            .prune(&rbuild_cache::collect::PruneOptions::default())
            .unwrap();
        assert!(!place.exists());
        assert_eq!(store.check(false).unwrap(), []);
    }
}

#[test]
fn who_measures_a_cache_mount_does_not_keep_it_from_a_build() {
    let (_directory, store) = store();
    let first = store.cache_mount("x", Sharing::Shared).unwrap();
    first.filled().unwrap();
    let path = first.path().to_owned();
    drop(first);
    let end = Instant::now() + Duration::from_secs(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                store.usage().unwrap();
            }
        });
        while Instant::now() < end {
            let mount = store.cache_mount("x", Sharing::Shared).unwrap();
            assert_eq!(mount.path(), path);
        }
    });
}

/// Whoever began it was killed, or had no room for its id.
#[test]
fn a_cache_mount_that_was_only_begun_is_no_damage() {
    let (_directory, store) = store();
    let made = store.cache_mount("id", Sharing::Shared).unwrap();
    let directory = made.path().parent().unwrap().to_owned();
    let place = made.path().to_owned();
    made.filled().unwrap();
    drop(made);
    std::fs::remove_file(directory.join("id")).unwrap();
    // Something may be lost here: directories come after the id.
    assert_eq!(store.check(false).unwrap().len(), 1);
    std::fs::remove_dir(place).unwrap();
    assert_eq!(store.check(false).unwrap(), []);
    assert!(store.cache_mounts().unwrap().is_empty());
    let made = store.cache_mount("id", Sharing::Shared).unwrap();
    assert!(made.is_new());
    made.filled().unwrap();
    assert_eq!(store.cache_mounts().unwrap().len(), 1);
}

#[test]
fn a_key_is_held_by_one_at_a_time() {
    let (_directory, store) = store();
    let held = store.lock_key(key("x")).unwrap();
    assert!(store.try_lock_key(key("x")).unwrap().is_none());
    assert!(store.try_lock_key(key("y")).unwrap().is_some());
    let waiter = {
        let store = store.clone();
        std::thread::spawn(move || drop(store.lock_key(key("x")).unwrap()))
    };
    drop(held);
    waiter.join().unwrap();
    assert!(store.try_lock_key(key("x")).unwrap().is_some());
}

#[test]
fn links_in_a_snapshot_are_listed_not_followed() {
    let (_directory, store) = store();
    let active = store.prepare().unwrap();
    symlink("/etc", active.upper().join("out")).unwrap();
    fs::write(active.upper().join("a-b"), "x").unwrap();
    fs::create_dir(active.upper().join("a")).unwrap();
    fs::write(active.upper().join("a/b"), "x").unwrap();
    fs::hard_link(active.upper().join("a/b"), active.upper().join("z")).unwrap();
    let made = active.commit(None, 0).unwrap();
    let tree = store.tree(&made.id).unwrap();
    let paths: Vec<_> = tree.entries.iter().map(|e| e.path.as_slice()).collect();
    assert_eq!(paths, [&b""[..], b"a", b"a/b", b"a-b", b"out", b"z"]);
    assert_eq!(tree.get(b"a/b").unwrap().hard_link, 1);
    assert_eq!(tree.get(b"z").unwrap().hard_link, 1);
    assert_eq!(tree.below(b"a").len(), 2);
    assert_eq!(tree.below(b"").len(), 6);
    assert_eq!(made.size_bytes, 2);
}

#[test]
fn collection_takes_what_nothing_holds_and_check_finds_nothing_wrong() {
    use rbuild_cache::collect::PruneOptions;
    let (directory, store) = store();
    let all = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
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
    assert_eq!(store.prune(&all).unwrap().snapshots, 0);
    assert_eq!(store.usage().unwrap().reclaimable(), 0);
    drop(store);

    std::thread::sleep(std::time::Duration::from_millis(1100));
    let store = Store::open(&directory.path().join("store")).unwrap();
    assert!(store.usage().unwrap().reclaimable() > 0);
    assert_eq!(store.check(false).unwrap(), []);
    let pruned = store.prune(&all).unwrap();
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
    use rbuild_cache::collect::PruneOptions;
    let (directory, living) = store();
    let all = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
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
    assert_eq!(other.prune(&all).unwrap().snapshots, 0);
    drop(other);
    next_tick();
    living.let_go().unwrap();
    assert_eq!(leases(), 2);
    // What it makes and uses from here on is spared again.
    let later = snapshot(&living, Some(&base.id), "later");
    let temporary = living.temporary_directory().unwrap();
    let other = Store::open(&directory.path().join("store")).unwrap();
    assert_eq!(other.prune(&all).unwrap().snapshots, 1);
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
    assert_eq!(other.prune(&all).unwrap().snapshots, 0);
    drop(other);
    next_tick();
    living.let_go().unwrap();
    let other = Store::open(&directory.path().join("store")).unwrap();
    assert_eq!(other.prune(&all).unwrap().snapshots, 1);
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
fn other_tools_read_the_content_as_an_oci_layout() {
    let (_directory, store) = store();
    let config = br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let config_digest = store.put_blob(config).unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": config.len(),
        },
        "layers": [],
    })
    .to_string();
    let digest = store.put_blob(manifest.as_bytes()).unwrap();
    let name = "docker.io/library/example:1.0";
    store
        .put_image(&StoredImage {
            name: name.to_owned(),
            manifest: digest,
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size: manifest.len() as u64,
            config: config_digest,
            snapshot: None,
            blobs: Vec::new(),
            tagged: 0,
        })
        .unwrap();
    let layout = store.root().join("content");
    let output = std::process::Command::new("skopeo")
        .args([
            "inspect",
            "--raw",
            &format!("oci:{}:{name}", layout.display()),
        ])
        .output();
    let Ok(output) = output else {
        println!("SKIPPED: there is no skopeo here");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), manifest);
}
