//! What the solver promises, one behaviour a test.

mod toy;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rbuild_solver::{Graph, SolveError, Status, VertexId};
use tokio_util::sync::CancellationToken;
use toy::{Bench, CachePolicyName, Toy, ToyError};

fn done(status: &Status) -> bool {
    matches!(status, Status::Done { .. })
}

#[tokio::test]
async fn equal_vertices_are_one() {
    let mut graph = Graph::new();
    let one = graph.add(Toy::Constant(1), &[]);
    let again = graph.add(Toy::Constant(1), &[]);
    assert_eq!(one, again);
    let sum = graph.add(Toy::Sum, &[one, again]);
    assert_eq!(graph.inputs(sum), [one, one]);
    assert_ne!(sum, graph.add(Toy::Sum, &[one]));
    assert_eq!(graph.len(), 3);

    let solved = Bench::default().solve(graph, &[sum]).await;
    assert_eq!(solved.values(), [2]);
    assert_eq!(solved.executed.len(), 2);
}

#[test]
fn needed_is_in_order_and_without_the_rest() {
    let mut graph = Graph::new();
    let a = graph.add(Toy::Constant(1), &[]);
    let unneeded = graph.add(Toy::Fail("never"), &[]);
    let b = graph.add(Toy::LastDigit, &[a]);
    let c = graph.add(Toy::Sum, &[b, a]);
    assert_eq!(graph.needed(&[c]), [a, b, c]);
    assert!(!graph.needed(&[c]).contains(&unneeded));
    assert_eq!(graph.needed(&[]), []);
}

#[test]
#[should_panic(expected = "not a vertex of this graph")]
fn an_input_that_does_not_exist_is_refused() {
    Graph::new().add(Toy::Sum, &[VertexId(7)]);
}

#[tokio::test]
async fn what_is_not_needed_does_not_run() {
    let mut graph = Graph::new();
    let one = graph.add(Toy::Constant(1), &[]);
    let _ = graph.add(Toy::Fail("unneeded"), &[one]);
    let solved = Bench::default().solve(graph, &[one]).await;
    assert_eq!(solved.values(), [1]);
    assert_eq!(solved.executed, [Toy::Constant(1)]);
}

#[tokio::test]
async fn inputs_keep_their_places() {
    let mut graph = Graph::new();
    let targets: Vec<_> = (0..5).map(|n| graph.add(Toy::Constant(n), &[])).collect();
    let reversed: Vec<_> = targets.iter().rev().copied().collect();
    let solved = Bench::default().solve(graph, &reversed).await;
    assert_eq!(solved.values(), [4, 3, 2, 1, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_more_than_jobs_run_at_once_and_as_many_do() {
    let mut graph = Graph::new();
    let slow: Vec<_> = (0..8)
        .map(|n| {
            let n = graph.add(Toy::Constant(n), &[]);
            graph.add(Toy::Slow(30), &[n])
        })
        .collect();
    let sum = graph.add(Toy::Sum, &slow);
    let bench = Bench {
        jobs: 3,
        ..Bench::default()
    };
    let solved = bench.solve(graph, &[sum]).await;
    assert_eq!(solved.values(), [28]);
    assert_eq!(bench.worker.most_running.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn vertices_that_turn_out_equal_run_once() {
    let mut graph = Graph::new();
    let first = graph.add(Toy::Unkeyed(5, 1), &[]);
    let second = graph.add(Toy::Unkeyed(5, 2), &[]);
    // Different definitions, equal content.
    let ten = graph.add(Toy::Constant(10), &[]);
    let twenty = graph.add(Toy::Constant(20), &[]);
    let of_ten = graph.add(Toy::LastDigit, &[ten]);
    let of_twenty = graph.add(Toy::LastDigit, &[twenty]);
    let solved = Bench::default()
        .solve(graph, &[first, second, of_ten, of_twenty])
        .await;
    assert_eq!(solved.values(), [5, 5, 0, 0]);
    assert_eq!(solved.executed.len(), 4, "{:?}", solved.executed);
    let cached = |a, b| {
        let told = [solved.told.of(a), solved.told.of(b)].concat();
        told.iter().filter(|s| **s == Status::Cached).count()
    };
    assert_eq!(cached(first, second), 1);
    assert_eq!(cached(of_ten, of_twenty), 1);
}

#[tokio::test]
async fn two_solves_at_once_run_a_step_once() {
    let bench = Bench::default();
    let build = || {
        let mut graph = Graph::new();
        let one = graph.add(Toy::Constant(1), &[]);
        let slow = graph.add(Toy::Slow(50), &[one]);
        (graph, slow)
    };
    let ((a, target), (b, _)) = (build(), build());
    let targets = [target];
    let (first, second) = tokio::join!(bench.solve(a, &targets), bench.solve(b, &targets));
    assert_eq!((first.values(), second.values()), (&[1][..], &[1][..]));
    let executed = bench.worker.executed.lock().unwrap();
    assert_eq!(
        executed.iter().filter(|op| **op == Toy::Slow(50)).count(),
        1
    );
}

#[tokio::test]
async fn a_second_solve_looks_only_at_the_target() {
    let bench = Bench::default();
    let build = || {
        let mut graph = Graph::new();
        let a = graph.add(Toy::Constant(3), &[]);
        let b = graph.add(Toy::Constant(4), &[]);
        let c = graph.add(Toy::Product, &[a, b]);
        let d = graph.add(Toy::Sum, &[c, a]);
        (graph, d)
    };
    let (graph, target) = build();
    assert_eq!(bench.solve(graph, &[target]).await.values(), [15]);
    let before = bench.worker.lookups.load(Ordering::SeqCst);
    let (graph, target) = build();
    let needed = graph.needed(&[target]);
    let solved = bench.solve(graph, &[target]).await;
    assert_eq!(solved.values(), [15]);
    assert!(solved.executed.is_empty());
    assert_eq!(bench.worker.lookups.load(Ordering::SeqCst), before + 1);
    for vertex in needed {
        assert_eq!(solved.told.of(vertex), [Status::Cached], "{vertex:?}");
    }
}

#[tokio::test]
async fn an_input_that_somebody_still_wants_is_not_called_cached_too_early() {
    let bench = Bench::default();
    let mut graph = Graph::new();
    let shared = graph.add(Toy::Constant(3), &[]);
    let known = graph.add(Toy::Sum, &[shared]);
    assert_eq!(bench.solve(graph, &[known]).await.values(), [3]);
    // The record of the shared vertex is lost; one of its users is still known, the other is new.
    let key = rbuild_cache::KeyWriter::new("constant.v1")
        .field("value", "3")
        .field("inputs", "0")
        .finish();
    assert!(bench.worker.records.lock().unwrap().remove(&key).is_some());

    let mut graph = Graph::new();
    let shared = graph.add(Toy::Constant(3), &[]);
    let known = graph.add(Toy::Sum, &[shared]);
    let new = graph.add(Toy::Product, &[shared]);
    let solved = bench.solve(graph, &[known, new]).await;
    assert_eq!(solved.values(), [3, 3]);
    assert_eq!(solved.told.of(known), [Status::Cached]);
    let told = solved.told.of(shared);
    assert_eq!(told[0], Status::Started);
    assert!(done(&told[1]) && told.len() == 2, "{told:?}");
}

#[tokio::test]
async fn equal_content_cuts_off_what_follows() {
    let bench = Bench::default();
    let build = |n| {
        let mut graph = Graph::new();
        let n = graph.add(Toy::Constant(n), &[]);
        let digit = graph.add(Toy::LastDigit, &[n]);
        let product = graph.add(Toy::Product, &[digit, digit]);
        (graph, product)
    };
    let (graph, target) = build(13);
    assert_eq!(bench.solve(graph, &[target]).await.values(), [9]);
    // Another input with the same last digit: only the constant runs.
    let (graph, target) = build(23);
    let solved = bench.solve(graph, &[target]).await;
    assert_eq!(solved.values(), [9]);
    assert_eq!(solved.executed, [Toy::Constant(23)]);
    // And now it is known by its definition as well.
    let before = bench.worker.lookups.load(Ordering::SeqCst);
    let (graph, target) = build(23);
    assert!(bench.solve(graph, &[target]).await.executed.is_empty());
    assert_eq!(bench.worker.lookups.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn users_of_a_handle_are_keyed_by_what_they_select() {
    let bench = Bench::default();
    let build = |context| {
        let mut graph = Graph::new();
        let context = graph.add(Toy::Context(context), &[]);
        let digit = graph.add(Toy::LastDigit, &[context]);
        let whole = graph.add(Toy::Sum, &[context]);
        (graph, digit, whole)
    };
    let (graph, digit, whole) = build(15);
    let first = bench.solve(graph, &[digit, whole]).await;
    assert_eq!(first.values(), [5, 15]);
    let (graph, digit, whole) = build(25);
    let second = bench.solve(graph, &[digit, whole]).await;
    assert_eq!(second.values(), [5, 25]);
    assert_eq!(second.executed, [Toy::Context(25), Toy::Sum]);
    assert_eq!(second.told.of(digit), [Status::Cached]);
}

#[tokio::test]
async fn a_selection_that_fails_names_who_selected() {
    let mut graph = Graph::new();
    let context = graph.add(Toy::Context(1), &[]);
    let fails = graph.add(Toy::Fail("selection"), &[context]);
    let target = graph.add(Toy::Sum, &[fails]);
    let solved = Bench::default().solve(graph, &[target]).await;
    match solved.outputs {
        Err(SolveError::Vertex { vertex, source }) => {
            assert_eq!(vertex, fails);
            assert_eq!(source.0, "nothing selected");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(solved.told.of(fails), [Status::Failed]);
}

#[tokio::test]
async fn refresh_runs_again_and_what_follows_goes_by_content() {
    let bench = Bench::default();
    let build = || {
        let mut graph = Graph::new();
        let one = graph.add(Toy::Constant(1), &[]);
        let refreshed = graph.add(Toy::With(CachePolicyName::Refresh), &[one]);
        let target = graph.add(Toy::Product, &[refreshed]);
        (graph, refreshed, target)
    };
    let (graph, _, target) = build();
    assert_eq!(bench.solve(graph, &[target]).await.values(), [1]);
    let (graph, refreshed, target) = build();
    let solved = bench.solve(graph, &[target]).await;
    assert_eq!(solved.executed, [Toy::With(CachePolicyName::Refresh)]);
    assert_eq!(solved.told.of(target), [Status::Cached]);
    assert!(done(&solved.told.of(refreshed)[1]));
    // It gives something else now: what follows runs, and that is what is found from now on.
    *bench.worker.offset.lock().unwrap() = 7;
    let (graph, _, target) = build();
    assert_eq!(bench.solve(graph, &[target]).await.values(), [15]);
    let mut graph = Graph::new();
    let one = graph.add(Toy::Constant(1), &[]);
    let sum = graph.add(Toy::Sum, &[one]);
    let target = graph.add(Toy::Product, &[sum]);
    let solved = bench.solve(graph, &[target]).await;
    assert_eq!(solved.values(), [15]);
    assert!(solved.executed.is_empty());
}

#[tokio::test]
async fn bypass_neither_looks_up_nor_saves() {
    let bench = Bench::default();
    for _ in 0..2 {
        let mut graph = Graph::new();
        let bypass = graph.add(Toy::With(CachePolicyName::Bypass), &[]);
        let solved = bench.solve(graph, &[bypass]).await;
        assert_eq!(solved.values(), [0]);
        assert_eq!(solved.executed.len(), 1);
        assert!(done(&solved.told.of(bypass)[1]));
    }
    assert!(bench.worker.records.lock().unwrap().is_empty());
    assert_eq!(bench.worker.lookups.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_error_cancels_siblings_and_names_its_vertex() {
    let mut graph = Graph::new();
    let forever = graph.add(Toy::Forever, &[]);
    let fails = graph.add(Toy::Fail("on purpose"), &[]);
    let sum = graph.add(Toy::Sum, &[forever, fails]);
    let bench = Bench::default();
    let solved = bench.solve(graph, &[sum]).await;
    match &solved.outputs {
        Err(SolveError::Vertex { vertex, source }) => {
            assert_eq!(*vertex, fails);
            assert_eq!(**source, ToyError("on purpose".into()));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.worker.cancelled.load(Ordering::SeqCst), 1);
    assert_eq!(
        solved.told.of(forever),
        [Status::Started, Status::Cancelled]
    );
    assert_eq!(solved.told.of(fails), [Status::Started, Status::Failed]);
    assert_eq!(solved.told.of(sum), []);
}

#[tokio::test]
async fn what_runs_when_a_solve_is_to_begin_anew_ends_first() {
    let build = || {
        let mut graph = Graph::new();
        let slow = graph.add(Toy::Slow(300), &[]);
        let follows = graph.add(Toy::LastDigit, &[slow]);
        let again = graph.add(Toy::Fail("again"), &[]);
        let sum = graph.add(Toy::Sum, &[follows, again]);
        (graph, slow, follows, again, sum)
    };
    let bench = Bench::default();
    let (graph, slow, follows, again, sum) = build();
    let solved = bench.solve(graph, &[sum]).await;
    assert!(matches!(&solved.outputs, Err(SolveError::Vertex { vertex, .. }) if *vertex == again));
    // Nothing new was begun meanwhile.
    assert!(solved.told.of(slow).last().is_some_and(done));
    assert_eq!(solved.told.of(follows), []);
    let (graph, slow, ..) = build();
    let solved = bench.solve(graph, &[slow]).await;
    assert!(solved.executed.is_empty());

    // An error of what runs is told, and ends the rest.
    let mut graph = Graph::new();
    let again = graph.add(Toy::Fail("again"), &[]);
    let late = graph.add(Toy::Fail("late"), &[]);
    let forever = graph.add(Toy::Forever, &[]);
    let sum = graph.add(Toy::Sum, &[again, late, forever]);
    let solved = bench.solve(graph, &[sum]).await;
    assert!(matches!(&solved.outputs, Err(SolveError::Vertex { vertex, .. }) if *vertex == late));
    assert_eq!(bench.worker.cancelled.load(Ordering::SeqCst), 1);

    // Who cancels does not wait for it.
    let mut graph = Graph::new();
    let again = graph.add(Toy::Fail("again"), &[]);
    let forever = graph.add(Toy::Forever, &[]);
    let sum = graph.add(Toy::Sum, &[again, forever]);
    let cancel = CancellationToken::new();
    let later = async {
        while bench.worker.running.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        cancel.cancel();
    };
    let targets = [sum];
    let solving = bench.solve_until(graph, &targets, cancel.clone());
    let (solved, ()) = tokio::join!(solving, later);
    assert!(solved.outputs.is_err());
    assert_eq!(bench.worker.cancelled.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_succeeded_beside_an_error_is_kept() {
    let bench = Bench::default();
    let mut graph = Graph::new();
    let one = graph.add(Toy::Constant(1), &[]);
    let fails = graph.add(Toy::Fail("later"), &[one]);
    assert!(bench.solve(graph, &[fails]).await.outputs.is_err());
    let mut graph = Graph::new();
    let one = graph.add(Toy::Constant(1), &[]);
    assert!(bench.solve(graph, &[one]).await.executed.is_empty());
}

#[tokio::test]
async fn cancelling_ends_what_runs_and_what_waits() {
    let mut graph = Graph::new();
    let targets: Vec<_> = (0..3)
        .map(|n| {
            let n = graph.add(Toy::Constant(n), &[]);
            graph.add(Toy::Forever, &[n])
        })
        .collect();
    let bench = Bench {
        jobs: 2,
        ..Bench::default()
    };
    let cancel = CancellationToken::new();
    let later = async {
        while bench.worker.running.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        cancel.cancel();
    };
    let (solved, ()) = tokio::join!(bench.solve_until(graph, &targets, cancel.clone()), later);
    assert!(matches!(solved.outputs, Err(SolveError::Cancelled)));
    assert_eq!(bench.worker.cancelled.load(Ordering::SeqCst), 2);
    assert_eq!(bench.worker.running.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_solve_cancelled_before_it_began_runs_nothing() {
    let mut graph = Graph::new();
    let one = graph.add(Toy::Constant(1), &[]);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let solved = Bench::default().solve_until(graph, &[one], cancel).await;
    assert!(matches!(solved.outputs, Err(SolveError::Cancelled)));
    assert!(solved.executed.is_empty());
}

#[tokio::test]
async fn a_result_that_is_gone_is_made_again() {
    let bench = Bench::default();
    let build = || {
        let mut graph = Graph::new();
        let one = graph.add(Toy::Constant(1), &[]);
        let target = graph.add(Toy::Sum, &[one]);
        (graph, target)
    };
    let (graph, target) = build();
    assert_eq!(bench.solve(graph, &[target]).await.values(), [1]);
    bench.worker.records.lock().unwrap().clear();
    let (graph, target) = build();
    let solved = bench.solve(graph, &[target]).await;
    assert_eq!(solved.values(), [1]);
    assert_eq!(solved.executed, [Toy::Constant(1), Toy::Sum]);
}

#[tokio::test]
async fn ingredients_name_the_operation_and_both_kinds_of_input_keys() {
    let bench = Bench::default();
    let mut graph = Graph::new();
    let one = graph.add(Toy::Constant(1), &[]);
    let context = graph.add(Toy::Context(2), &[]);
    let sum = graph.add(Toy::Sum, &[one, context]);
    bench.solve(graph, &[sum]).await;
    let all = bench.worker.ingredients.lock().unwrap();
    let names: Vec<_> = all
        .last()
        .unwrap()
        .iter()
        .map(|ingredient| ingredient.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "inputs",
            "input[0].definition",
            "input[1].content",
            "input[0].content"
        ]
    );
}

#[tokio::test]
async fn a_chain_of_ten_thousand_needs_no_stack() {
    let mut graph = Graph::new();
    let one = graph.add(Toy::Constant(1), &[]);
    let mut last = one;
    for _ in 0..10_000 {
        // The second input keeps every link different.
        last = graph.add(Toy::Sum, &[last, one]);
    }
    let bench = Bench::default();
    let began = Instant::now();
    assert_eq!(bench.solve(graph, &[last]).await.values(), [10_001]);
    println!("10,000 links in {:?}", began.elapsed());
}

#[tokio::test]
async fn a_wide_graph_is_solved() {
    let mut graph = Graph::new();
    let wide: Vec<_> = (0..5_000)
        .map(|n| graph.add(Toy::Constant(n), &[]))
        .collect();
    let sum = graph.add(Toy::Sum, &wide);
    let solved = Bench::default().solve(graph, &[sum]).await;
    assert_eq!(solved.values(), [4_999 * 5_000 / 2]);
}

#[tokio::test]
async fn no_targets_is_no_work() {
    let solved = Bench::default().solve(Graph::new(), &[]).await;
    assert!(solved.values().is_empty());
}
