//! A content-addressed graph of operations, and the schedule that solves it.
//!
//! Generic over the operation: knows no Dockerfiles, snapshots or sandboxes; its own tests do arithmetic.
//! * [`graph`]: vertices and edges; equal vertices are one, wherever they were added;
//! * [`worker`]: what an executor of operations must offer;
//! * [`solve`]: keys and outputs as memoised queries, single-flight, a limit on what runs at once, cancellation;
//! * [`places`]: how many operations execute at once;
//! * `key`: the two keys of a vertex; `plan`: what is known of each vertex before anything runs; `progress`: who is
//!   told what, once; `run`: the queries of one solve; `at_once`: many small questions in turn.

mod at_once;
pub mod graph;
mod key;
pub mod places;
mod plan;
mod progress;
mod run;
pub mod solve;
pub mod worker;

pub use graph::{Graph, VertexId};
pub use places::{Idle, Jobs};
pub use solve::{Observer, SolveError, Solver, Status};
pub use worker::{CachePolicy, Operation, Worker};
