//! Random graphs against an evaluator that knows no keys, caches or tasks; twice, because the second solve is the
//! one that a cache can get wrong.

mod toy;

use proptest::prelude::*;
use rbuild_solver::{Graph, VertexId};
use toy::{Bench, CachePolicyName, Toy};

#[derive(Debug, Clone)]
struct Node {
    operation: Toy,
    /// Taken modulo the vertices that are there.
    inputs: Vec<usize>,
}

fn node() -> impl Strategy<Value = Node> {
    let operation = prop_oneof![
        3 => (0..20_i64).prop_map(Toy::Constant),
        1 => (0..20_i64).prop_map(Toy::Context),
        3 => Just(Toy::Sum),
        3 => Just(Toy::Product),
        2 => Just(Toy::LastDigit),
        1 => Just(Toy::With(CachePolicyName::Refresh)),
        1 => Just(Toy::With(CachePolicyName::Bypass)),
    ];
    (operation, proptest::collection::vec(any::<usize>(), 0..4)).prop_map(|(operation, inputs)| {
        let inputs = match operation {
            Toy::Constant(_) | Toy::Context(_) => Vec::new(),
            Toy::LastDigit => inputs.into_iter().take(1).collect(),
            _ => inputs,
        };
        Node { operation, inputs }
    })
}

/// The graph, and the value of each of its vertices.
fn build(nodes: &[Node]) -> (Graph<Toy>, Vec<VertexId>, Vec<i64>) {
    let mut graph = Graph::new();
    let (mut vertices, mut values): (Vec<VertexId>, Vec<i64>) = Default::default();
    for node in nodes {
        let places: Vec<usize> = node
            .inputs
            .iter()
            .filter(|_| !vertices.is_empty())
            .map(|input| input % vertices.len())
            .collect();
        let inputs: Vec<VertexId> = places.iter().map(|place| vertices[*place]).collect();
        let used = places.iter().map(|place| values[*place]);
        let sum = || used.clone().fold(0_i64, i64::wrapping_add);
        values.push(match &node.operation {
            Toy::Constant(value) | Toy::Context(value) => *value,
            Toy::Product => used.clone().fold(1, i64::wrapping_mul),
            Toy::LastDigit => sum() % 10,
            _ => sum(),
        });
        vertices.push(graph.add(node.operation.clone(), &inputs));
    }
    (graph, vertices, values)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn solves_as_the_naive_evaluator(
        nodes in proptest::collection::vec(node(), 1..30),
        changed in any::<prop::sample::Index>(),
        targets in proptest::collection::vec(any::<prop::sample::Index>(), 1..4),
        jobs in 1..4_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bench = Bench { jobs, ..Bench::default() };
        let check = |nodes: &[Node]| -> Result<usize, TestCaseError> {
            let (graph, vertices, values) = build(nodes);
            let places: Vec<usize> = targets.iter().map(|target| target.index(nodes.len())).collect();
            let wanted: Vec<VertexId> = places.iter().map(|place| vertices[*place]).collect();
            let expected: Vec<i64> = places.iter().map(|place| values[*place]).collect();
            let needed = graph.needed(&wanted);
            let solved = runtime.block_on(bench.solve(graph, &wanted));
            prop_assert_eq!(solved.values(), expected);
            // Everything needed ends once, and nothing else is told of.
            for vertex in &needed {
                let ends = solved.told.of(*vertex).iter().filter(|status| {
                    !matches!(status, rbuild_solver::Status::Started)
                }).count();
                prop_assert_eq!(ends, 1, "{:?}", vertex);
            }
            prop_assert!(solved.told.0.lock().unwrap().iter().all(|(of, _)| needed.contains(of)));
            Ok(solved.executed.len())
        };
        check(&nodes)?;
        let always = |op: &Toy| matches!(op, Toy::Context(_) | Toy::With(_));
        let again = check(&nodes)?;
        prop_assert!(again <= nodes.iter().filter(|node| always(&node.operation)).count());
        // Something changes: the cache must not hide it.
        let mut other = nodes.clone();
        let place = changed.index(other.len());
        other[place] = Node { operation: Toy::Constant(1000), inputs: Vec::new() };
        check(&other)?;
    }
}
