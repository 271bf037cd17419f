//! One life of a store through its public face: made, filled, opened again, synced.

use std::fs;
use std::os::unix::fs::symlink;

use rbuild_cache::images::StoredImage;
use rbuild_cache::mounts::Sharing;
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
        assert_eq!(found.extra, [below.id.clone()]);
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

#[test]
fn cache_mounts_are_shared_private_or_locked() {
    let (_directory, store) = store();
    let id = "../../etc";
    let one = store.cache_mount(id, Sharing::Shared).unwrap();
    assert!(one.is_new());
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
