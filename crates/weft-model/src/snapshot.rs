//! The immutable picture that planners read.

use crate::{EndpointSlice, NamespacedName, Node, NodeName, Service};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Everything the planners know, at one generation. Published only after every source has
/// finished its first list, so that an absent object is known to be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows by one with every published change.
    pub generation: u64,
    /// Names of all namespaces (DNS tells an empty answer from a missing name by them).
    pub namespaces: BTreeSet<Arc<str>>,
    /// Nodes by name.
    pub nodes: BTreeMap<NodeName, Arc<Node>>,
    /// Services by namespace and name.
    pub services: BTreeMap<NamespacedName, Arc<Service>>,
    /// Slices, keyed by their Service and then by their own name: all slices of one
    /// Service are one lookup.
    pub slices: BTreeMap<NamespacedName, BTreeMap<Arc<str>, Arc<EndpointSlice>>>,
}

impl Snapshot {
    /// The slices of a Service, in the order of their names.
    pub fn slices_of(&self, service: &NamespacedName) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.get(service).into_iter().flat_map(|s| s.values().map(Arc::as_ref))
    }
}
