//! Keys, trees and stat caches.

use std::hint::black_box;
use std::os::fd::AsFd as _;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rbuild_cache::stat_cache::{Known, Stamp};
use rbuild_cache::tree::{Entry, Kind, Tree};
use rbuild_cache::{KeyWriter, RootDir, Store};

const FILES: u64 = 20_000;

fn path(number: u64) -> String {
    format!("packages/p{:03}/file{number:06}.txt", number / 200)
}

fn tree() -> Tree {
    let mut tree = Tree {
        entries: (0..FILES)
            .map(|number| Entry {
                mode: 0o644,
                size: 4096,
                content: [number as u8; 32],
                ..Entry::new(path(number).into_bytes(), Kind::File)
            })
            .collect(),
    };
    tree.sort();
    tree
}

fn keys(criterion: &mut Criterion) {
    criterion.bench_function("a key of ten fields", |bencher| {
        bencher.iter(|| {
            let mut writer = KeyWriter::new("bench.v1");
            for field in 0..10 {
                writer.add("field", format!("value {field}"));
            }
            black_box(writer.finish())
        });
    });
}

fn trees(criterion: &mut Criterion) {
    let tree = tree();
    let mut group = criterion.benchmark_group("a tree of 20,000 files");
    group.throughput(Throughput::Elements(FILES));
    group.bench_function("digest", |bencher| bencher.iter(|| tree.digest()));
    let bytes = tree.encode();
    group.bench_function("encode", |bencher| bencher.iter(|| tree.encode()));
    group.bench_function("decode", |bencher| bencher.iter(|| Tree::decode(&bytes)));
    let other = Tree {
        entries: tree.entries.iter().step_by(100).cloned().collect(),
    };
    group.bench_function("merge with one of 200", |bencher| {
        bencher.iter(|| Tree::merge(&[&tree, &other]));
    });
}

fn scan(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    for number in 0..2000_u64 {
        let at = directory.path().join(path(number));
        std::fs::create_dir_all(at.parent().expect("a parent")).expect("made");
        std::fs::write(at, [number as u8; 4096]).expect("written");
    }
    let root = RootDir::open_ambient(directory.path()).expect("opened");
    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Elements(2000));
    group.sample_size(20);
    group.bench_function("2,000 files", |bencher| {
        bencher.iter(|| Tree::scan(root.as_fd()).expect("scanned"));
    });
}

fn stat_cache(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(&directory.path().join("store")).expect("a store");
    let context = Path::new("/context");
    let stamp = |inode| Stamp {
        device: 1,
        inode,
        size: 1,
        mtime_ns: 1,
        ctime_ns: 1,
    };
    let known = Known {
        content: [1; 32],
        has_xattrs: false,
    };
    let paths: Vec<String> = (0..FILES).map(path).collect();
    let mut cache = store.stat_cache(context);
    for (number, path) in paths.iter().enumerate() {
        cache.put(path.as_bytes(), stamp(number as u64), known);
    }
    store.save_stat_cache(cache).expect("saved");
    let mut group = criterion.benchmark_group("a stat cache of 20,000 files");
    group.throughput(Throughput::Elements(FILES));
    group.bench_function("load and ask for each", |bencher| {
        bencher.iter(|| {
            let cache = store.stat_cache(context);
            for (number, path) in paths.iter().enumerate() {
                black_box(cache.get(path.as_bytes(), &stamp(number as u64)));
            }
        });
    });
    group.bench_function("merge with one that changed", |bencher| {
        bencher.iter_batched(
            || {
                let mut cache = store.stat_cache(context);
                cache.put(paths[7].as_bytes(), stamp(FILES + 1), known);
                cache
            },
            |cache| store.save_stat_cache(cache).expect("saved"),
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, keys, trees, scan, stat_cache);
criterion_main!(benches);
