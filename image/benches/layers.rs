//! Layers: tar and compressor together, as they are made, and unpacking.

use std::io::Write as _;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rbuild_cache::{RootDir, SnapshotId, Store};
use rbuild_image::compression::Compression;
use rbuild_image::layer::{self, LayerOptions};
use rbuild_image::unpack::{self, Limits};

const FILES: usize = 500;
const FILE_BYTES: usize = 64 << 10;

/// Text, and a quarter of noise.
fn bytes(seed: usize) -> Vec<u8> {
    let mut state = seed as u32 + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    let mut out = Vec::with_capacity(FILE_BYTES + 64);
    while out.len() < FILE_BYTES * 3 / 4 {
        writeln!(out, "line {} of {}", next() % 911, next() % 97).expect("memory");
    }
    while out.len() < FILE_BYTES {
        out.push(next() as u8);
    }
    out
}

fn snapshot(store: &Store) -> SnapshotId {
    let active = store.prepare().expect("a snapshot");
    for number in 0..FILES {
        let at = active.upper().join(format!("d{}/f{number}", number / 50));
        std::fs::create_dir_all(at.parent().expect("a parent")).expect("made");
        std::fs::write(at, bytes(number)).expect("written");
    }
    active.commit(None, 0).expect("committed").id
}

fn layers(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut group = criterion.benchmark_group("a layer of 32 MB");
    group.throughput(Throughput::Bytes((FILES * FILE_BYTES) as u64));
    group.sample_size(10);
    for compression in [
        Compression::None,
        Compression::default(),
        Compression::Zstd { level: 3 },
    ] {
        let options = LayerOptions {
            compression,
            oci_media_types: true,
            clamp_mtime: None,
        };
        // A store of its own each time: a layer that is known is not made again.
        let fresh = || {
            let place = tempfile::tempdir_in(directory.path()).expect("a directory");
            let store = Store::open(&place.path().join("store")).expect("a store");
            let id = snapshot(&store);
            (place, store, id)
        };
        let name = format!("{compression:?}");
        group.bench_function(BenchmarkId::new("make", &name), |bencher| {
            bencher.iter_batched(
                fresh,
                |(place, store, id)| {
                    layer::layer(&store, &id, &options, false).expect("a layer");
                    (place, store)
                },
                BatchSize::PerIteration,
            );
        });
        let (_place, store, id) = fresh();
        let blob = layer::layer(&store, &id, &options, false).expect("a layer");
        let packed = std::fs::read(store.blob_path(&blob.digest)).expect("its bytes");
        group.bench_function(BenchmarkId::new("unpack", &name), |bencher| {
            bencher.iter_batched(
                || tempfile::tempdir_in(directory.path()).expect("a directory"),
                |place| {
                    let root = RootDir::open_ambient(place.path()).expect("opened");
                    let input = Box::new(packed.as_slice());
                    unpack::layer(input, &root, Limits::default(), "it").expect("unpacked");
                    place
                },
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, layers);
criterion_main!(benches);
