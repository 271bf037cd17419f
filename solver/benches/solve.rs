//! Graphs of 10,000 vertices whose operations cost nothing: what is left is the solver.

#[path = "../tests/toy/mod.rs"]
mod toy;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rbuild_solver::{Graph, VertexId};
use toy::{Bench, Toy};

const VERTICES: usize = 10_000;

/// Each vertex stands on the one before.
fn chain() -> (Graph<Toy>, VertexId) {
    let mut graph = Graph::new();
    let mut last = graph.add(Toy::Constant(1), &[]);
    for i in 1..VERTICES {
        let one = graph.add(Toy::Constant(i as i64), &[]);
        last = graph.add(Toy::Sum, &[last, one]);
        if graph.len() >= VERTICES {
            break;
        }
    }
    (graph, last)
}

/// A thousand stages that one target needs.
fn wide() -> (Graph<Toy>, VertexId) {
    let mut graph = Graph::new();
    let mut tops = Vec::new();
    for stage in 0..1000 {
        let mut top = graph.add(Toy::Constant(stage), &[]);
        for step in 0..4 {
            let one = graph.add(Toy::Constant(stage * 10 + step), &[]);
            top = graph.add(Toy::Product, &[top, one]);
        }
        tops.push(top);
    }
    let last = graph.add(Toy::Sum, &tops);
    (graph, last)
}

fn solve(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let mut group = criterion.benchmark_group("solve");
    group.throughput(Throughput::Elements(VERTICES as u64));
    group.sample_size(10);
    type Make = fn() -> (Graph<Toy>, VertexId);
    for (name, make) in [("chain", chain as Make), ("wide", wide)] {
        group.bench_function(format!("{name}, nothing known"), |bencher| {
            bencher.iter_batched(
                make,
                |(graph, last)| runtime.block_on(Bench::default().solve(graph, &[last])),
                BatchSize::PerIteration,
            );
        });
        let bench = Bench::default();
        let (graph, last) = make();
        runtime.block_on(bench.solve(graph, &[last]));
        group.bench_function(format!("{name}, all known"), |bencher| {
            bencher.iter_batched(
                make,
                |(graph, last)| runtime.block_on(bench.solve(graph, &[last])),
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, solve);
criterion_main!(benches);
