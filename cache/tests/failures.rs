//! What the outside does to a store: power cuts, other versions, full disks, missing permissions.

use std::error::Error as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use rbuild_cache::cache_mounts::Sharing;
use rbuild_cache::collect::PruneOptions;
use rbuild_cache::images::StoredImage;
use rbuild_cache::record::Record;
use rbuild_cache::stat_cache::{Known, Stamp};
use rbuild_cache::{ChainId, Digest, Error, Key, KeyWriter, Store};

fn key(text: &str) -> Key {
    KeyWriter::new("test.v1").field("text", text).finish()
}

fn publish(store: &Store, name: &str) -> (rbuild_cache::Snapshot, Digest) {
    try_publish(store, name).unwrap()
}

/// Does each thing that publishes.
fn try_publish(
    store: &Store,
    name: &str,
) -> rbuild_cache::Result<(rbuild_cache::Snapshot, Digest)> {
    let active = store.prepare()?;
    let path = active.upper().join(name);
    fs::write(&path, name).map_err(|source| Error::Io {
        action: "write",
        path,
        source,
    })?;
    let snapshot = active.commit(None, 0)?;
    let blob = store.put_blob(name.as_bytes())?;
    store.set_chain(&snapshot.id, &ChainId(Digest::of(name.as_bytes())))?;
    let record = Record {
        key: key(name),
        snapshot: Some(snapshot.id.clone()),
        extra: Vec::new(),
        step: name.to_owned(),
        ingredients: Vec::new(),
        created: 0,
        duration_ms: 0,
    };
    store.save(&[key(name)], &record)?;
    let image = StoredImage {
        name: name.to_owned(),
        manifest: blob,
        media_type: String::new(),
        size: 1,
        config: blob,
        snapshot: Some(snapshot.id.clone()),
        blobs: Vec::new(),
        tagged: 0,
    };
    store.put_image(&image)?;
    store.cache_mount(name, Sharing::Shared)?.filled()?;
    let mut cache = store.stat_cache(Path::new(name));
    let stamp = Stamp {
        device: 1,
        inode: 1,
        size: 1,
        mtime_ns: 1,
        ctime_ns: 1,
    };
    let known = Known {
        content: [1; 32],
        has_xattrs: false,
    };
    cache.put(name.as_bytes(), stamp, known);
    store.save_stat_cache(cache)?;
    Ok((snapshot, blob))
}

fn index(root: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(root.join("index.db")).unwrap()
}

#[test]
fn after_a_power_cut_only_what_was_synced_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = Store::open(&root).unwrap();
    let (synced, synced_blob) = publish(&store, "synced");
    store.sync().unwrap();
    let (torn, torn_blob) = publish(&store, "torn");
    // Another boot; the blob's bytes never reached the disk.
    drop(store);
    fs::write(root.join("content/blobs/sha256").join(torn_blob.hex()), "").unwrap();
    index(&root)
        .execute("UPDATE meta SET value = 'another' WHERE name = 'boot'", [])
        .unwrap();

    let store = Store::open(&root).unwrap();
    assert_eq!(store.read_blob(&synced_blob, 100).unwrap(), b"synced");
    assert_eq!(
        store.lookup(key("synced")).unwrap().unwrap().snapshot,
        Some(synced.id)
    );
    assert!(store.image_by_name("synced").unwrap().is_some());
    assert!(!store.has_blob(&torn_blob));
    assert!(store.snapshot(&torn.id).is_err());
    assert_eq!(store.lookup(key("torn")).unwrap(), None);
    assert_eq!(store.image_by_name("torn").unwrap(), None);
    let chain = ChainId(Digest::of(b"torn"));
    assert_eq!(store.snapshot_by_chain(&chain).unwrap(), None);
    assert_eq!(store.check(false).unwrap(), []);
    // Whoever brings the same bytes again replaces the torn file.
    assert_eq!(store.put_blob(b"torn").unwrap(), torn_blob);
    assert_eq!(store.read_blob(&torn_blob, 100).unwrap(), b"torn");
    // In the same boot, nothing more is dropped.
    drop(store);
    assert!(Store::open(&root).unwrap().has_blob(&torn_blob));
}

/// Has the next one who opens the store believe that this was another boot.
fn boot_again(root: &Path) {
    let changed = index(root).execute("UPDATE meta SET value = 'another' WHERE name = 'boot'", []);
    assert_eq!(changed.unwrap(), 1);
    // What it says is of the boot that the rows are of.
    let said = root.join("synced");
    if let Ok(record) = fs::read(&said) {
        let mut record = record;
        let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(record[8..44], boot[..36]);
        record[8..44].copy_from_slice(&[b"another".as_slice(), &[0; 29]].concat());
        let sum = blake3::hash(&record[..44]);
        record[44..].copy_from_slice(&sum.as_bytes()[..20]);
        fs::write(&said, record).unwrap();
    }
}

fn marks(root: &Path) -> i64 {
    let count = "SELECT COUNT(*) FROM blobs WHERE unsynced IS NOT NULL";
    index(root).query_row(count, [], |row| row.get(0)).unwrap()
}

#[test]
fn after_a_power_cut_what_somebody_else_synced_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = Store::open(&root).unwrap();
    let (first, first_blob) = publish(&store, "first");
    let one = store.begin_sync().unwrap().unwrap();
    let (second, second_blob) = publish(&store, "second");
    let two = store.begin_sync().unwrap().unwrap();
    // In whatever order they come to it.
    two.finish().unwrap();
    one.finish().unwrap();
    assert!(store.begin_sync().unwrap().is_none());
    assert_eq!(marks(&root), 2);
    let (torn, torn_blob) = publish(&store, "torn");
    let three = store.begin_sync().unwrap().unwrap();
    assert_eq!(marks(&root), 1);
    drop(store);
    boot_again(&root);
    // Only now, in the boot before: nobody finished it.
    drop(three);

    let store = Store::open(&root).unwrap();
    for (name, snapshot, blob) in [
        ("first", first, first_blob),
        ("second", second, second_blob),
    ] {
        assert_eq!(store.read_blob(&blob, 100).unwrap(), name.as_bytes());
        let record = store.lookup(key(name)).unwrap().unwrap();
        assert_eq!(record.snapshot, Some(snapshot.id));
        assert!(store.image_by_name(name).unwrap().is_some());
    }
    assert!(!store.has_blob(&torn_blob));
    assert!(store.snapshot(&torn.id).is_err());
    assert_eq!(store.lookup(key("torn")).unwrap(), None);
    assert_eq!(marks(&root), 0);
    assert_eq!(store.check(false).unwrap(), []);
}

#[test]
fn what_was_not_finished_is_synced_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = Store::open(&root).unwrap();
    let (_, first) = publish(&store, "first");
    drop(store.begin_sync().unwrap().unwrap());
    let (_, second) = publish(&store, "second");
    store.begin_sync().unwrap().unwrap().finish().unwrap();
    drop(store);
    boot_again(&root);
    let store = Store::open(&root).unwrap();
    assert!(store.has_blob(&first) && store.has_blob(&second));
    // And one that waits for the disk leaves no marks.
    publish(&store, "third");
    drop(store.begin_sync().unwrap().unwrap());
    store.sync().unwrap();
    assert_eq!(marks(&root), 0);
    assert!(store.begin_sync().unwrap().is_none());
}

#[test]
fn an_index_made_anew_is_not_told_what_another_synced() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = Store::open(&root).unwrap();
    for name in ["one", "two", "three"] {
        publish(&store, name);
        store.begin_sync().unwrap().unwrap().finish().unwrap();
    }
    let late = store.begin_sync().unwrap();
    assert!(late.is_none());
    publish(&store, "four");
    let late = store.begin_sync().unwrap().unwrap();
    drop(store);
    for name in ["index.db", "index.db-wal", "index.db-shm"] {
        fs::remove_file(root.join(name)).unwrap();
    }
    let store = Store::open(&root).unwrap();
    // Of the index that is gone.
    late.finish().unwrap();
    let (_, torn) = publish(&store, "torn");
    drop(store);
    assert!(!root.join("synced").exists());
    boot_again(&root);
    let store = Store::open(&root).unwrap();
    assert!(!store.has_blob(&torn));
    assert_eq!(store.image_by_name("torn").unwrap(), None);
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    drop(Store::open(&root).unwrap());
    index(&root)
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(matches!(error, Error::Newer { found: 99, .. }));
    assert!(error.to_string().contains("newer version"));
    assert!(error.help().is_some());
    assert_eq!(fs::read_dir(root.join("leases")).unwrap().count(), 0);
}

#[test]
fn a_store_whose_maker_died_is_finished() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    fs::create_dir_all(root.join("content")).unwrap();
    fs::write(root.join("index.db"), "").unwrap();
    let store = Store::open(&root).unwrap();
    store.put_blob(b"x").unwrap();
    assert_eq!(store.check(false).unwrap(), []);
}

#[test]
fn nobody_else_can_enter_a_store() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("a/b/store");
    drop(Store::open(&root).unwrap());
    let mode = || fs::metadata(&root).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o700);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    drop(Store::open(&root).unwrap());
    assert_eq!(mode(), 0o700);
}

#[test]
fn something_else_than_a_store_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = Store::open(&file).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
    let root = directory.path().join("store");
    fs::create_dir(&root).unwrap();
    fs::write(
        root.join("index.db"),
        "this is not a database at all, but long enough",
    )
    .unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(matches!(error, Error::Index { .. }), "{error}");
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// A file system of 12 MiB; `None` where it cannot be mounted.
fn small_file_system(at: &Path) -> Option<Mounted> {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", at, "tmpfs", flags, c"size=12m").ok()?;
    Some(Mounted(at.to_owned()))
}

#[test]
fn a_full_disk_is_said_and_leaves_a_whole_store() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mounted) = small_file_system(directory.path()) else {
        println!("SKIPPED: no file system can be mounted here");
        return;
    };
    let store = Store::open(&directory.path().join("store")).unwrap();
    let (_, kept) = publish(&store, "kept");
    for number in 0..50 {
        store.put_blob(format!("{number:4000}").as_bytes()).unwrap();
    }
    let filler = directory.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let mut ingest = store.ingest().unwrap_or_else(|error| panic!("{error}"));
    let error = ingest
        .write_from(&mut std::io::repeat(1).take(8 << 20), u64::MAX)
        .unwrap_err();
    assert!(error.is_storage_full(), "{error:?}");
    assert!(error.help().unwrap().contains("prune"));
    assert!(error.source().is_some());
    drop(ingest);
    // Whatever fails, at whichever step, is this error; nothing of it is visible.
    for number in 0..300_u32 {
        let bytes = [number.to_le_bytes().as_slice(), &[0; 2000]].concat();
        if let Err(error) = store.put_blob(&bytes) {
            assert!(error.is_storage_full(), "{error:?}");
            assert!(!store.has_blob(&Digest::of(&bytes)));
        }
        let active = store.prepare();
        if let Err(error) = active.and_then(|active| active.commit(None, 0)) {
            assert!(error.is_storage_full(), "{error:?}");
        }
    }
    assert_eq!(store.check(false).unwrap(), []);
    // Collection works nevertheless.
    let loose = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    drop(store);
    while file.write_all(&[1; 4096]).is_ok() {}
    while file.write_all(&[1]).is_ok() {}
    let store = match Store::open(&directory.path().join("store")) {
        Ok(store) => store,
        Err(error) => panic!("{error:?}"),
    };
    assert!(store.prune(&loose).unwrap().blobs >= 50);
    fs::remove_file(&filler).unwrap();
    assert_eq!(store.read_blob(&kept, 100).unwrap(), b"kept");
    publish(&store, "after");
    assert_eq!(store.check(false).unwrap(), []);
}

/// The disk gets full at every step in turn.
#[test]
fn wherever_the_disk_gets_full_nothing_half_is_visible() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mounted) = small_file_system(directory.path()) else {
        println!("SKIPPED: no file system can be mounted here");
        return;
    };
    let root = directory.path().join("store");
    drop(Store::open(&root).unwrap());
    let filler = directory.path().join("filler");
    let mut failures = 0;
    for pages in 0..200 {
        let name = format!("n{pages}");
        fs::write(directory.path().join("spare"), vec![0; pages * 4096]).unwrap();
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        fs::remove_file(directory.path().join("spare")).unwrap();
        let result = Store::open(&root).and_then(|store| try_publish(&store, &name));
        drop(file);
        fs::remove_file(&filler).unwrap();
        let store = Store::open(&root).unwrap();
        assert_eq!(store.check(false).unwrap(), [], "with {pages} pages");
        match result {
            Ok((snapshot, blob)) => {
                assert!(store.has_blob(&blob));
                assert_eq!(
                    store.lookup(key(&name)).unwrap().unwrap().snapshot,
                    Some(snapshot.id)
                );
                if failures > 0 && pages > 60 {
                    break;
                }
            }
            Err(error) => {
                failures += 1;
                assert!(error.is_storage_full(), "with {pages} pages: {error:?}");
            }
        }
    }
    assert!(failures > 5, "{failures}");
}

#[test]
fn a_read_only_disk_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mounted) = small_file_system(directory.path()) else {
        println!("SKIPPED: no file system can be mounted here");
        return;
    };
    let root = directory.path().join("store");
    let store = Store::open(&root).unwrap();
    drop(store);
    rustix::mount::mount_remount(directory.path(), rustix::mount::MountFlags::RDONLY, c"").unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(error.is_read_only(), "{error:?}");
    assert!(error.help().is_some());
    let error = Store::open(&directory.path().join("other")).unwrap_err();
    assert!(error.is_read_only(), "{error:?}");
    assert!(error.to_string().contains("other"), "{error}");
}

#[test]
fn every_flipped_bit_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = Store::open(&root).unwrap();
    let (snapshot, blob) = publish(&store, "some bytes");
    let holder = root.join("snapshots").join(snapshot.id.as_str());
    let files = [
        store.blob_path(&blob),
        holder.join("tree"),
        holder.join("fs/some bytes"),
    ];
    for file in files {
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&file, &bad).unwrap();
            let found = store.check(false).unwrap();
            assert_eq!(found.len(), 1, "{} at {at}: {found:?}", file.display());
        }
        fs::write(&file, &good).unwrap();
        assert_eq!(store.check(false).unwrap(), []);
    }
    // A blob that was swapped for one of the same length is not handed out.
    fs::write(store.blob_path(&blob), "SOME BYTES").unwrap();
    assert!(matches!(
        store.read_blob(&blob, 100),
        Err(Error::Damaged { .. })
    ));
}

#[test]
fn a_listing_that_names_a_path_twice_is_refused() {
    use rbuild_cache::tree::{Entry, Kind, Tree};
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    let tree = |paths: &[&str]| Tree {
        entries: paths
            .iter()
            .map(|path| Entry::new(path.as_bytes().to_vec(), Kind::Directory))
            .collect(),
    };
    let commit = |tree| store.prepare().unwrap().commit_with_tree(None, 0, tree);
    assert!(matches!(
        commit(tree(&["", "a", "a"])),
        Err(Error::Damaged { .. })
    ));
    let made = commit(tree(&["b", "", "a"])).unwrap();
    assert!(store.tree(&made.id).unwrap().is_in_order());
}

#[test]
fn what_is_no_store_is_left_as_it_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let top = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let give = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let file = top.path().join("file");
    fs::write(&file, "x").unwrap();
    let home = top.path().join("home");
    fs::create_dir_all(home.join("containers")).unwrap();
    fs::write(home.join("letter"), "x").unwrap();
    let shared = top.path().join("shared");
    fs::create_dir(&shared).unwrap();
    for (path, bits, why) in [
        (&file, 0o644, "it is no directory"),
        (&home, 0o755, "there is `letter` in it"),
    ] {
        give(path, bits);
        let error = Store::open(path).unwrap_err();
        assert!(matches!(error, Error::NoStore { .. }), "{error:?}");
        assert!(error.to_string().ends_with(why), "{error}");
        assert!(error.help().unwrap().contains("--root"));
        assert_eq!(mode(path), bits);
    }
    assert_eq!(fs::read_dir(&home).unwrap().count(), 2);
    // A new file system is everybody's, and what is one's own already may hold other things.
    give(&shared, 0o1777);
    give(&home, 0o700);
    for path in [&shared, &home] {
        drop(Store::open(path).unwrap());
        assert_eq!(mode(path), 0o700);
    }
    // An empty directory becomes one, as one does whose maker died, and one whose index is gone stays one.
    let empty = top.path().join("empty");
    fs::create_dir_all(empty.join("content/blobs")).unwrap();
    give(&empty, 0o755);
    drop(Store::open(&empty).unwrap());
    assert_eq!(mode(&empty), 0o700);
    for name in ["index.db", "index.db-wal", "index.db-shm"] {
        fs::remove_file(empty.join(name)).unwrap_or_default();
    }
    fs::write(empty.join("letter"), "x").unwrap();
    drop(Store::open(&empty).unwrap());
}
