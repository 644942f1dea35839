//! Sockets that must not stay with their backend.
//!
//! Translation happens once, when a socket connects, so a socket keeps its backend when that
//! leaves. Whether it may is Kubernetes' to say:
//!
//! - **Connected UDP** has no connection to finish: it must go where a new one would go. Its
//!   backend is stale as soon as it is not eligible, whatever the reason (kube-proxy forgets
//!   such flows in the kernel's connection table).
//! - **TCP** drains: a backend that is unready, or terminates and still serves, keeps its
//!   connections (KEP-1669), and so does one whose Service was changed or deleted, as with
//!   kube-proxy, which never looks at TCP. It is stale only when its address is a pod's and in
//!   no slice any more: then the pod is gone as far as anybody can tell, and nobody would ever
//!   answer. While a Service is deleted and made again its pods are in no slice either, so
//!   whoever closes waits a while first, and asks again.

use crate::{Backend, Frontend, ServiceTables};
use std::{collections::BTreeSet, net::IpAddr};
use weft_model::{Protocol, Snapshot};

/// A backend, and the frontend as which a socket knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Used {
    /// What the application connected to.
    pub frontend: Frontend,
    /// Where it was sent.
    pub backend: Backend,
}

/// Those of `used` whose sockets must be closed, by the tables that were planned from
/// `snapshot`. Costs as much as there is in `used`, and where a TCP backend is not eligible one
/// walk over all endpoints.
pub fn stale(snapshot: &Snapshot, tables: &ServiceTables, used: &BTreeSet<Used>) -> BTreeSet<Used> {
    let eligible = |u: &Used| {
        let lb = tables.frontends.get(&u.frontend);
        lb.is_some_and(|lb| lb.backends.binary_search(&u.backend).is_ok())
    };
    let (tcp, others): (BTreeSet<Used>, BTreeSet<Used>) =
        used.iter().filter(|u| !eligible(u)).partition(|u| u.frontend.protocol == Protocol::Tcp);
    let mut stale: BTreeSet<Used> =
        others.into_iter().filter(|u| u.frontend.protocol == Protocol::Udp).collect();
    // What is no pod's address may be served on although nobody lists it any more: an API
    // server that ends lets go of its endpoint first.
    let of_pods = |addr: &IpAddr| {
        snapshot.nodes.values().any(|n| n.pod_cidrs.iter().any(|cidr| cidr.contains(addr)))
    };
    let mut gone: BTreeSet<IpAddr> = tcp.iter().map(|u| u.backend.addr).filter(of_pods).collect();
    let slices = snapshot.slices.values().flat_map(weft_model::Map::values);
    for endpoint in slices.flat_map(|slice| &slice.endpoints) {
        if gone.is_empty() {
            break;
        }
        gone.remove(&endpoint.address);
    }
    stale.extend(tcp.into_iter().filter(|u| gone.contains(&u.backend.addr)));
    stale
}
