//! What things cost, printed. Not part of a test run: `cargo test --release --test figures -- --ignored --nocapture`.

use std::fs;
use std::time::{Duration, Instant};

use rbuild_cache::record::Record;
use rbuild_cache::stat_cache::{Known, Stamp};
use rbuild_cache::{Digest, Key, KeyWriter, Store};

fn time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what:<48} {:>12.3?}", start.elapsed());
    result
}

/// The mean of many.
fn each(what: &str, count: u32, mut work: impl FnMut(u32)) {
    let start = Instant::now();
    (0..count).for_each(&mut work);
    println!("{what:<48} {:>12.3?}", start.elapsed() / count);
}

#[test]
#[ignore = "prints figures, takes a while"]
fn figures() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = time("open, making the store", || Store::open(&root).unwrap());
    each("open, warm", 200, |_| drop(Store::open(&root).unwrap()));
    each("put_blob of 100 bytes", 1000, |n| {
        store.put_blob(format!("{n:100}").as_bytes()).unwrap();
    });
    let digest = Digest::of(format!("{:100}", 1).as_bytes());
    each("has_blob", 10_000, |_| assert!(store.has_blob(&digest)));

    let active = store.prepare().unwrap();
    for outer in 0..500 {
        let path = active.upper().join(format!("directory{outer}"));
        fs::create_dir(&path).unwrap();
        for inner in 0..100 {
            fs::write(
                path.join(format!("file{inner}.txt")),
                format!("{outer} {inner} {:900}", 0),
            )
            .unwrap();
        }
    }
    let base = time("commit of 50,000 small files", || {
        active.commit(None, 0).unwrap()
    });
    let root_dir =
        rbuild_cache::RootDir::open_ambient(&store.snapshot_directory(&base.id).unwrap()).unwrap();
    let tree = time("scan of 50,000 small files", || {
        rbuild_cache::tree::Tree::scan(std::os::fd::AsFd::as_fd(&root_dir)).unwrap()
    });
    let bytes = time("encode", || tree.encode());
    println!("{:<48} {:>12}", "encoded bytes", bytes.len());
    time("decode", || {
        rbuild_cache::tree::Tree::decode(&bytes).unwrap()
    });
    time("digest", || tree.digest());

    let mut top = base.id.clone();
    for number in 0..50 {
        let active = store.prepare().unwrap();
        fs::create_dir(active.upper().join("directory7")).unwrap();
        fs::write(active.upper().join("directory7/new"), number.to_string()).unwrap();
        top = active.commit(Some(&top), 0).unwrap().id;
    }
    each("commit of one file", 100, |number| {
        let active = store.prepare().unwrap();
        fs::write(active.upper().join("f"), number.to_string()).unwrap();
        active.commit(Some(&base.id), 0).unwrap();
    });
    drop(store);
    let store = Store::open(&root).unwrap();
    each("chain of 51", 100, |_| {
        assert_eq!(store.chain(&top).unwrap().len(), 51);
    });
    time("merged tree of 51 layers, 50,500 entries", || {
        store.merged_tree(&top).unwrap()
    });
    each("merged tree again", 1000, |_| {
        drop(store.merged_tree(&top).unwrap());
    });

    let key = |number: u32| {
        KeyWriter::new("figures")
            .field("n", number.to_string())
            .finish()
    };
    let record = Record {
        key: Key([0; 32]),
        snapshot: Some(top.clone()),
        extra: Vec::new(),
        step: "step".to_owned(),
        ingredients: Vec::new(),
        created: 0,
        duration_ms: 1,
    };
    each("save", 1000, |number| {
        store.save(&[key(number)], &record).unwrap();
    });
    each("lookup, found", 1000, |number| {
        assert!(store.lookup(key(number)).unwrap().is_some());
    });
    drop(store);
    let store = Store::open(&root).unwrap();
    each("lookup, first of its process", 1000, |number| {
        assert!(store.lookup(key(number)).unwrap().is_some());
    });
    each("lookup, not found", 1000, |number| {
        assert!(store.lookup(key(number + 5000)).unwrap().is_none());
    });
    each("lock_key and unlock", 1000, |number| {
        drop(store.lock_key(key(number)).unwrap());
    });
    time("sync", || store.sync().unwrap());

    let context = std::path::Path::new("/context");
    let mut cache = store.stat_cache(context);
    let stamp = |inode| Stamp {
        device: 1,
        inode,
        size: 1,
        mtime_ns: 1,
        ctime_ns: 1,
    };
    for number in 0..50_000 {
        cache.put(
            format!("directory/sub/file{number:05}.txt").as_bytes(),
            stamp(number),
            Known {
                content: [1; 32],
                has_xattrs: false,
            },
        );
    }
    time("save a stat cache of 50,000", || {
        store.save_stat_cache(cache).unwrap();
    });
    let cache = time("load it", || store.stat_cache(context));
    let paths: Vec<_> = (0..50_000)
        .map(|n| format!("directory/sub/file{n:05}.txt"))
        .collect();
    time("ask for each, in order", || {
        for (number, path) in paths.iter().enumerate() {
            assert!(cache.get(path.as_bytes(), &stamp(number as u64)).is_some());
        }
    });
    time("usage", || store.usage().unwrap());
    time("check", || assert_eq!(store.check(false).unwrap(), []));
    drop(store);
    std::thread::sleep(Duration::from_millis(5));
    let store = Store::open(&root).unwrap();
    let all = rbuild_cache::collect::PruneOptions {
        all: true,
        ..Default::default()
    };
    println!("{:?}", time("prune of all", || store.prune(&all).unwrap()));
}
