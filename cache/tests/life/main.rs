//! One life of a store through its public face: made, filled, opened again, synced.

mod cache_mounts;
mod collection;

use std::fs;
use std::os::unix::fs::symlink;

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
