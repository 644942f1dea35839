//! Sockets that must not stay with their backend.
//!
//! Translation happens once, when a socket connects, so a socket keeps its backend when that
//! leaves. Whether it may is Kubernetes' to say:
//!
//! - **Connected UDP** has no connection to finish: it must go where a new one would go. Its
//!   backend is stale as soon as it is not eligible, whatever the reason (kube-proxy forgets
//!   such flows in the kernel's connection table).
//! - **TCP** drains: a backend that is unready, or terminates and still serves, keeps its
//!   connections (KEP-1669). It is stale when its address is a pod's and in no slice any more,
//!   which means that the pod is gone and nobody would ever answer; or when nobody owns the frontend's
//!   address any more, because the Service was deleted.

use crate::{Backend, Frontend, ServiceTables};
use std::{collections::BTreeSet, net::IpAddr};
use weft_model::{NodeName, Protocol, Snapshot};

/// A backend, and the frontend as which a socket knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Used {
    /// What the application connected to.
    pub frontend: Frontend,
    /// Where it was sent.
    pub backend: Backend,
}

/// Those of `used` whose sockets must be closed, by the tables of `node` that were planned from
/// `snapshot`. Costs as much as there is in `used`; where a TCP backend is not eligible also one
/// walk over all endpoints, and where a frontend has no owner one over all Services.
pub fn stale(
    snapshot: &Snapshot,
    node: &NodeName,
    tables: &ServiceTables,
    used: &BTreeSet<Used>,
) -> BTreeSet<Used> {
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
    let gone = absent(
        tcp.iter().map(|u| u.backend.addr).filter(of_pods).collect(),
        snapshot.slices.values().flat_map(|of_service| {
            of_service.values().flat_map(|s| s.endpoints.iter().map(|e| e.address))
        }),
    );
    let own = snapshot.nodes.get(node).map_or(&[][..], |n| &n.internal_ips);
    // A node port says nothing about its Service: the node's addresses outlive all of them.
    let unowned = |f: &Frontend| {
        !tables.frontends.contains_key(f)
            && !tables.outside.contains_key(f)
            && !f.addr.is_loopback()
            && !own.contains(&f.addr)
    };
    let left = absent(
        tcp.iter().map(|u| &u.frontend).filter(|f| unowned(f)).map(|f| f.addr).collect(),
        snapshot.services.values().flat_map(|s| {
            let external = &s.external;
            let others = external.balancer_addresses.iter().chain(&external.addresses);
            s.cluster_ips.iter().chain(others).copied()
        }),
    );
    let ends = |u: &Used| {
        gone.contains(&u.backend.addr) || (unowned(&u.frontend) && left.contains(&u.frontend.addr))
    };
    stale.extend(tcp.into_iter().filter(ends));
    stale
}

/// Those of `asked` that are not among `all`.
fn absent(mut asked: BTreeSet<IpAddr>, all: impl Iterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
    if asked.is_empty() {
        return asked;
    }
    for one in all {
        asked.remove(&one);
        if asked.is_empty() {
            break;
        }
    }
    asked
}
