//! Expansion of words, and matching of ignore files.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rbuild_parser::ast::Escape;
use rbuild_parser::expand;
use rbuild_parser::ignore::Patterns;

const WORDS: [&str; 6] = [
    "plain",
    "/usr/local/bin:$PATH",
    "${HOME:-/root}/.cache/${NAME}",
    "'single $quoted' and \"double $NAME\"",
    "${NAME#app-}",
    "${VERSION%%.*}",
];

const IGNORE: &[u8] =
    b"**/node_modules\n.git\n**/*.log\n!important.log\ntarget/\ndocs/**/*.md\n*.tmp\n";

struct Set;

impl expand::Variables for Set {
    fn get(&self, name: &str) -> Option<String> {
        let value = match name {
            "PATH" => "/usr/bin:/bin",
            "NAME" => "app-server",
            "VERSION" => "1.22.3",
            _ => return None,
        };
        Some(value.to_owned())
    }
}

fn words(criterion: &mut Criterion) {
    criterion.bench_function("expand six words", |bencher| {
        bencher.iter(|| {
            for word in WORDS {
                drop(black_box(expand::word(word, Escape::Backslash, &Set)));
            }
        });
    });
}

fn ignore(criterion: &mut Criterion) {
    let patterns = Patterns::from_file(IGNORE).expect("good patterns");
    let paths: Vec<String> = (0..1000)
        .map(|i| match i % 4 {
            0 => format!("src/module{i}/file{i}.rs"),
            1 => format!("packages/p{}/node_modules/m{i}/index.js", i % 7),
            2 => format!("logs/day{i}.log"),
            _ => format!("docs/chapter{i}/page.md"),
        })
        .collect();
    let mut group = criterion.benchmark_group("ignore");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1,000 paths against seven patterns", |bencher| {
        bencher.iter(|| {
            for path in &paths {
                black_box(patterns.verdict(path.as_bytes()));
            }
        });
    });
}

criterion_group!(benches, words, ignore);
criterion_main!(benches);
