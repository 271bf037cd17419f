//! The walk of a build context, with an ignore file, when nothing in it has changed.

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rbuild_cache::Store;
use rbuild_engine::context::{Context, Ignore, Wanted};
use rbuild_parser::ignore::Patterns;

const FILES: usize = 5000;

fn walk(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("context");
    for number in 0..FILES {
        let at = root.join(format!("packages/p{}/file{number}.txt", number / 100));
        std::fs::create_dir_all(at.parent().expect("a parent")).expect("made");
        std::fs::write(at, format!("file {number}")).expect("written");
    }
    let store = Arc::new(Store::open(&directory.path().join("store")).expect("a store"));
    let ignore = Ignore {
        file: ".dockerignore".to_owned(),
        patterns: Patterns::from_file(b"**/node_modules\n**/*.log\n.git\n").expect("patterns"),
    };
    let wanted = [Wanted {
        sources: vec![".".to_owned()],
        parents: false,
        wildcards: true,
    }];
    // Files that have just been written are not trusted.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let context = Context::open(&root, Some(ignore), store).expect("a context");
    let tree = context.tree(&wanted).expect("a tree");
    assert!(tree.entries.len() > FILES);
    let mut group = criterion.benchmark_group("walk");
    group.throughput(Throughput::Elements(FILES as u64));
    group.sample_size(20);
    group.bench_function("5,000 files that are known", |bencher| {
        bencher.iter(|| context.tree(&wanted).expect("a tree"));
    });
}

criterion_group!(benches, walk);
criterion_main!(benches);
