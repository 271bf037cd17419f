//! Many processes on one store, some of them killed: nothing is lost that was published, nothing half is found.
//!
//! The test binary runs itself again for each process; `worker` does nothing unless it is asked to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rbuild_cache::cache_mounts::Sharing;
use rbuild_cache::collect::PruneOptions;
use rbuild_cache::images::StoredImage;
use rbuild_cache::record::Record;
use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::{ChainId, DiffId, Digest, Key, KeyWriter, Store};

const ROOT: &str = "RBUILD_CACHE_TEST_ROOT";
const ROLE: &str = "RBUILD_CACHE_TEST_ROLE";
/// So few keys that processes meet all the time.
const KEYS: u64 = 12;

/// A process that does not outlive the test.
struct Running(Child);

impl Running {
    fn assert_alive(&mut self) {
        // One that ended by itself found something wrong, and said so.
        assert!(self.0.try_wait().unwrap().is_none(), "a process failed");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(root: &Path, role: &str) -> Running {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "worker", "--nocapture", "--test-threads=1"])
        .env(ROOT, root)
        .env(ROLE, role)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn();
    Running(child.unwrap())
}

/// A small generator of numbers, so that a seed gives the same run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % sides
    }
}

fn key(number: u64) -> Key {
    KeyWriter::new("processes.v1")
        .field("number", number.to_string())
        .finish()
}

#[test]
fn worker() {
    let (Ok(root), Ok(role)) = (std::env::var(ROOT), std::env::var(ROLE)) else {
        return;
    };
    let root = PathBuf::from(root);
    match role.as_str() {
        "pruner" => loop {
            let store = Store::open(&root).unwrap();
            let options = PruneOptions {
                all: true,
                ..PruneOptions::default()
            };
            store.prune(&options).unwrap();
            store.usage().unwrap();
        },
        "once" => {
            // An error is fine; a panic is not.
            if let Err(error) = once(&root) {
                println!("{error}");
            }
        }
        "holder" => {
            let store = Store::open(&root).unwrap();
            let _lock = store.lock_key(key(0)).unwrap();
            let mount = store.cache_mount("m", Sharing::Locked).unwrap();
            mount.filled().unwrap();
            let active = store.prepare().unwrap();
            fs::write(active.upper().join("half"), "x").unwrap();
            fs::write(root.join("tmp/ready"), "").unwrap();
            std::thread::sleep(Duration::from_secs(600));
        }
        seed => {
            let mut dice = Dice(seed.parse().unwrap());
            let store = Store::open(&root).unwrap();
            loop {
                work(&store, &mut dice);
            }
        }
    }
}

/// Everything that a store does, once.
fn once(root: &Path) -> rbuild_cache::Result<()> {
    let store = Store::open(root)?;
    let name = format!("{}", std::process::id());
    let active = store.prepare()?;
    let _ = fs::write(active.upper().join(&name), &name);
    let snapshot = active.commit(None, 0)?;
    let chain = ChainId(Digest::of(name.as_bytes()));
    store.set_chain(&snapshot.id, &chain)?;
    store.lookup(key(0))?;
    let own = KeyWriter::new("once").field("name", &name).finish();
    let _lock = store.lock_key(own)?;
    let record = Record {
        key: own,
        snapshot: Some(snapshot.id.clone()),
        extra: Vec::new(),
        step: name.clone(),
        ingredients: Vec::new(),
        created: 0,
        duration_ms: 1,
    };
    store.save(&[own], &record)?;
    let manifest = store.put_blob(name.as_bytes())?;
    store.read_blob(&manifest, 100)?;
    let image = StoredImage {
        name: "image".to_owned(),
        manifest,
        media_type: String::new(),
        size: name.len() as u64,
        config: manifest,
        snapshot: Some(snapshot.id),
        blobs: Vec::new(),
        tagged: 0,
    };
    store.put_image(&image)?;
    store.cache_mount("m", Sharing::Private)?.filled()?;
    store.sync()?;
    store.prune(&PruneOptions {
        all: true,
        ..PruneOptions::default()
    })?;
    store.usage()?;
    store.check(true)?;
    Ok(())
}

/// What a build does with the store, with an eye on what must hold.
fn work(store: &Store, dice: &mut Dice) {
    let number = dice.roll(KEYS);
    match dice.roll(10) {
        0 => {
            let bytes = vec![number as u8; 10 + number as usize * 1000];
            let digest = store.put_blob(&bytes).unwrap();
            assert_eq!(store.read_blob(&digest, 1 << 20).unwrap(), bytes);
        }
        1 => {
            let bytes = vec![number as u8; 10 + number as usize * 1000];
            let digest = Digest::of(&bytes);
            if store.has_blob(&digest) {
                // What was seen stays while this process lives.
                assert_eq!(store.read_blob(&digest, 1 << 20).unwrap(), bytes);
            }
        }
        2 => {
            let manifest = store
                .put_blob(format!("{{\"n\":{number}}}").as_bytes())
                .unwrap();
            let image = StoredImage {
                name: format!("image{}", number % 3),
                manifest,
                media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                size: store.blob_size(&manifest).unwrap(),
                config: manifest,
                snapshot: None,
                blobs: Vec::new(),
                tagged: 0,
            };
            store.put_image(&image).unwrap();
        }
        3 => {
            if let Some(image) = store
                .image_by_name(&format!("image{}", number % 3))
                .unwrap()
            {
                store.read_blob(&image.manifest, 1 << 20).unwrap();
                store.remove_image(&image.name, &image.manifest).unwrap();
            }
        }
        4 => {
            let mount = store.cache_mount("m", Sharing::Private).unwrap();
            // Whoever was killed between the two left nothing that is seen.
            let place = mount.path().join("content");
            assert_ne!(mount.is_new(), place.exists());
            if mount.is_new() {
                fs::write(&place, "x").unwrap();
            }
            mount.filled().unwrap();
        }
        5 if dice.roll(8) == 0 => store.sync().unwrap(),
        6 if dice.roll(8) == 0 => store.reset_cache_mount("m").unwrap(),
        _ => step(store, number),
    }
}

/// One step: look up, lock, look up again, make, save.
fn step(store: &Store, number: u64) {
    if let Some(record) = store.lookup(key(number)).unwrap() {
        // Whatever is found stays while this process lives: all of its chain, with its files.
        let id = record.snapshot.unwrap();
        for snapshot in store.chain(&id).unwrap() {
            assert!(store.snapshot_directory(&snapshot.id).unwrap().is_dir());
        }
        let view = store.merged_tree(&id).unwrap();
        assert!(view.get(number.to_string().as_bytes()).is_some());
        return;
    }
    let _lock = store.lock_key(key(number)).unwrap();
    if store.lookup(key(number)).unwrap().is_some() {
        return;
    }
    // Found records pin what they lead to, so a parent that is found can be built on.
    let parent = match number {
        0 => None,
        _ => store
            .lookup(key(number / 2))
            .unwrap()
            .and_then(|record| record.snapshot),
    };
    let active = store.prepare().unwrap();
    let name = number.to_string();
    fs::write(active.upper().join(&name), &name).unwrap();
    fs::create_dir_all(active.work().join("work")).unwrap();
    let snapshot = active.commit(parent.as_ref(), 0).unwrap();
    let blob = store
        .put_blob(snapshot.tree.to_string().as_bytes())
        .unwrap();
    let layer = LayerBlob {
        digest: blob,
        size: 64,
        media_type: String::new(),
        diff_id: DiffId(blob),
    };
    store.set_layer_blob(&snapshot.id, "none", &layer).unwrap();
    store
        .set_chain(&snapshot.id, &ChainId(Digest::of(name.as_bytes())))
        .unwrap();
    let record = Record {
        key: key(number),
        snapshot: Some(snapshot.id),
        extra: Vec::new(),
        step: name,
        ingredients: Vec::new(),
        created: 0,
        duration_ms: 1,
    };
    store.save(&[key(number)], &record).unwrap();
}

#[test]
fn killed_at_any_instant_among_others_the_store_is_whole() {
    let seconds: u64 = std::env::var("RBUILD_CACHE_TEST_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4);
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let mut dice = Dice(seconds);
    // All of them open a store that is not there yet.
    let mut workers: Vec<Running> = (1..=4)
        .map(|seed| spawn(&root, &seed.to_string()))
        .collect();
    let mut pruner = spawn(&root, "pruner");
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut kills = 0;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20 + dice.roll(80)));
        let which = dice.roll(5) as usize;
        let (child, role) = match workers.get_mut(which) {
            Some(child) => (child, (dice.roll(1 << 30)).to_string()),
            None => (&mut pruner, "pruner".to_owned()),
        };
        child.assert_alive();
        *child = spawn(&root, &role);
        kills += 1;
        if kills % 8 == 0 {
            let store = Store::open(&root).unwrap();
            assert_eq!(store.check(false).unwrap(), [], "after {kills} kills");
        }
    }
    workers.push(pruner);
    workers.iter_mut().for_each(Running::assert_alive);
    drop(workers);
    let store = Store::open(&root).unwrap();
    assert_eq!(store.check(false).unwrap(), []);
    let options = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    store.prune(&options).unwrap();
    // Nothing of the dead is left.
    let count = |name: &str| fs::read_dir(root.join(name)).unwrap().count();
    assert_eq!((count("tmp"), count("leases")), (0, 1));
    let names = fs::read_dir(root.join("locks")).unwrap();
    assert!(names.flatten().all(|name| name.file_name().len() < 64));
    assert_eq!(store.check(false).unwrap(), []);
    println!("{kills} processes were killed");
}

#[test]
fn death_frees_locks_mounts_and_what_was_in_the_making() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = Store::open(&root).unwrap();
    let mut child = spawn(&root, "holder");
    while !root.join("tmp/ready").exists() {
        child.assert_alive();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(store.try_lock_key(key(0)).unwrap().is_none());
    assert!(store.try_lock_key(key(1)).unwrap().is_some());
    assert!(
        store
            .try_cache_mount("m", Sharing::Locked)
            .unwrap()
            .is_none()
    );
    let waiting = {
        let store = store.clone();
        std::thread::spawn(move || drop(store.lock_key(key(0)).unwrap()))
    };
    drop(child);
    waiting.join().unwrap();
    drop(store.cache_mount("m", Sharing::Locked).unwrap());
    // What it was making goes in the background when a store is opened next.
    let _next = Store::open(&root).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_dir(root.join("tmp")).unwrap().count() > 0 {
        assert!(Instant::now() < deadline, "garbage stays");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The n-th call of each kind fails, for every n up to a limit.
#[test]
fn whichever_system_call_fails_the_store_is_whole() {
    const CALLS: [&str; 15] = [
        "rename",
        "renameat",
        "mkdir",
        "pwrite64",
        "pread64",
        "fdatasync",
        "flock",
        "unlink",
        "unlinkat",
        "fchmod",
        "ftruncate",
        "openat2",
        "getdents64",
        "syncfs",
        "fallocate",
    ];
    let limit: u32 = std::env::var("RBUILD_CACHE_TEST_CALLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2);
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    drop(Store::open(&root).unwrap());
    let (mut runs, mut errors) = (0, 0);
    for call in CALLS {
        for nth in 1..=limit {
            // Spread over more calls than are tried; which ones is the same in each run.
            let nth = if limit <= 2 { nth * nth } else { nth };
            let errno = ["EIO", "ENOSPC", "EMFILE"][nth as usize % 3];
            let output = Command::new("strace")
                .args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")])
                .args(["-e", &format!("inject={call}:error={errno}:when={nth}")])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "worker", "--nocapture", "--test-threads=1"])
                .env(ROOT, &root)
                .env(ROLE, "once")
                .output();
            let Ok(output) = output else {
                println!("SKIPPED: there is no strace here");
                return;
            };
            let said = String::from_utf8_lossy(&output.stderr);
            if said.contains("while loading shared libraries") {
                continue;
            }
            if !output.status.success() && !said.contains("panicked") {
                println!("SKIPPED: strace cannot trace here: {said}");
                return;
            }
            assert!(output.status.success(), "{call} {nth} {errno}: {said}");
            let store = Store::open(&root).unwrap();
            let found = store.check(false).unwrap();
            assert_eq!(found, [], "after {call} {nth} {errno}");
            runs += 1;
            errors += u32::from(String::from_utf8_lossy(&output.stdout).contains("cannot"));
        }
    }
    assert!(errors > runs / 5, "{errors} of {runs}");
    println!("{runs} system calls were made to fail, {errors} of them were errors");
}
