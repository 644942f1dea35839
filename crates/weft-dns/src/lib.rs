//! DNS answers of the cluster zone from a Snapshot; wire codec and query evaluation.
