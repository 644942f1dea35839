//! The `weft` binary: argument parsing and dispatch.
fn main() {}
