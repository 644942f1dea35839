//! The tables of one node, at once.

use crate::{Limits, Planner, PolicyInput, PolicyTables, Start};
use weft_model::NodeName;

/// The tables of `node`.
pub fn compile(input: &PolicyInput, node: &NodeName) -> PolicyTables {
    compile_within(input, node, Limits::default())
}

/// As [`compile`], with bounds of one's own.
pub fn compile_within(input: &PolicyInput, node: &NodeName, limits: Limits) -> PolicyTables {
    let mut planner = Planner::new(node.clone(), limits, Start::default());
    planner.plan(input);
    planner.tables()
}
