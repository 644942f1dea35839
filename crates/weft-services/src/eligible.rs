//! Which endpoints a frontend uses, as kube-proxy decides it (`CategorizeEndpoints` in
//! `pkg/proxy/topology.go`, KEP-1669 for terminating endpoints, KEP-2086 for
//! `internalTrafficPolicy`).

use crate::Backend;
use std::collections::BTreeMap;
use weft_model::{IpFamily, NodeName, Service, ServicePort, Snapshot, TrafficPolicy};

/// What the slices say about one backend, merged over all slices that name it.
#[derive(Clone, Copy, Default)]
struct Conditions {
    ready: bool,
    serving_terminating: bool,
}

/// The backends of one port and family: the ready endpoints; if there are none, those that
/// are terminating and still serving. `Local` looks at this node's endpoints only.
///
/// `publishNotReadyAddresses` needs nothing here: the EndpointSlice controller already
/// publishes such endpoints as ready.
pub(crate) fn backends(
    snapshot: &Snapshot,
    node: &NodeName,
    service: &Service,
    port: &ServicePort,
    family: IpFamily,
) -> Vec<Backend> {
    let local_only = service.internal_policy == TrafficPolicy::Local;
    let mut found: BTreeMap<Backend, Conditions> = BTreeMap::new();
    for slice in snapshot.slices_of(&service.id).filter(|s| s.family == family) {
        let matching =
            slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        // A slice port without a number means "all ports", which a Service with a virtual
        // address cannot use; kube-proxy ignores it too.
        for number in matching.filter_map(|p| p.port) {
            for endpoint in &slice.endpoints {
                let elsewhere = endpoint.node.as_ref() != Some(node);
                if (local_only && elsewhere) || IpFamily::of(endpoint.address) != family {
                    continue;
                }
                // An endpoint that moves between slices is in both for a while, and which
                // one is newer is not known: one slice that calls it usable is enough.
                let merged =
                    found.entry(Backend { addr: endpoint.address, port: number }).or_default();
                merged.ready |= endpoint.ready;
                merged.serving_terminating |= endpoint.serving && endpoint.terminating;
            }
        }
    }
    let pick = |usable: fn(&Conditions) -> bool| -> Vec<Backend> {
        found.iter().filter(|(_, c)| usable(c)).map(|(b, _)| *b).collect()
    };
    let ready = pick(|c| c.ready);
    if ready.is_empty() { pick(|c| c.serving_terminating) } else { ready }
}
