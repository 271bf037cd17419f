//! Text in, graph and config out.
