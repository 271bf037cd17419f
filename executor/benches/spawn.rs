//! One command in its sandbox, from the mount of its root to the snapshot it leaves.

#[path = "../tests/kit/mod.rs"]
#[allow(dead_code, reason = "tests use the rest of the kit")]
mod kit;

use criterion::Criterion;
use kit::{Kit, command};

/// No `criterion_main`: the process must set itself up before it has threads.
fn main() {
    let host = match rbuild_executor::host::init() {
        Ok(host) => host,
        Err(error) => {
            println!("SKIPPED: {error}: {}", error.source);
            return;
        }
    };
    let kit = Kit::new(host);
    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("exec true", |bencher| {
        bencher.iter(|| kit.exec(Some(&kit.base), command(&["/bin/true"])).result);
    });
    criterion.final_summary();
}
