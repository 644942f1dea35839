//! Whole labs through the public command: real kernel, real packets, real clients.
//!
//! Every test makes labs of its own with names that hold this process's ID, and proves on
//! teardown that nothing of them is left.

mod harness;

mod applications;
mod bad_input;
mod cells;
mod crash;
mod disk;
mod entrance;
mod hostport;
mod kubectl;
mod model;
mod nodeport;
mod observe;
mod policies;
mod services;
mod transitions;
mod why;
