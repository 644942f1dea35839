//! Allocation against a plain model.
