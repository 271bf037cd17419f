//! A content-addressed graph of operations, and the schedule that solves it.
//!
//! Generic over the operation: knows no Dockerfiles, snapshots or sandboxes; its own tests do arithmetic.
//! * [`graph`]: vertices and edges; equal vertices are one, wherever they were added;
//! * [`worker`]: what an executor of operations must offer;
//! * [`solve`]: keys and outputs as memoised queries, single-flight, a limit on what runs at once, cancellation.

pub mod graph;
pub mod solve;
pub mod worker;

pub use graph::{Graph, VertexId};
pub use solve::{Observer, SolveError, Solver, Status};
pub use worker::{CachePolicy, Operation, Worker};
