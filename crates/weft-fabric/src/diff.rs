//! From what is to what shall be.

use crate::{
    POD_LINK_PREFIX,
    tables::{FabricTables, Neighbour, Route, Tunnel},
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// What the kernel has, within what Weft owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The link `weft0`: `Ok` where it is an external VXLAN device, `Err` where it is
    /// something else.
    pub tunnel: Option<Result<Tunnel, ()>>,
    /// Whether `weft0` is up.
    pub tunnel_up: bool,
    /// Addresses on `lo` that bear Weft's mark.
    pub addresses: BTreeSet<IpNet>,
    /// Routes of protocol 77. Those to pod links may be among them; they are left alone.
    pub routes: BTreeMap<(IpNet, u32), Route>,
    /// Permanent neighbours on `weft0`.
    pub neighbours: BTreeSet<Neighbour>,
    /// Sysctls of the desired tables, as they are.
    pub sysctls: BTreeMap<String, String>,
}

/// One change. They are in an order in which each finds what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Delete `weft0`; its routes and neighbours go with it.
    DeleteTunnel,
    /// Create `weft0`, or set MTU and hardware address of it; then set it up.
    PutTunnel(Tunnel),
    /// Write a sysctl.
    WriteSysctl(String, String),
    /// Add an address to `lo`.
    AddAddress(IpNet),
    /// Add or replace a permanent neighbour on `weft0`.
    PutNeighbour(Neighbour),
    /// Add or replace a route (destination, metric).
    PutRoute(IpNet, u32, Route),
    /// Delete a route.
    DeleteRoute(IpNet, u32, Route),
    /// Delete a neighbour.
    DeleteNeighbour(Neighbour),
    /// Delete an address from `lo`.
    DeleteAddress(IpNet),
}

fn is_pod_route(route: &Route) -> bool {
    route.link.as_deref().is_some_and(|l| l.starts_with(POD_LINK_PREFIX))
}

/// The changes that lead from `observed` to `desired`.
pub fn diff(desired: &FabricTables, observed: &Observed) -> Vec<Op> {
    let mut ops = Vec::new();
    let (mut had_routes, mut had_neighbours) = (observed.routes.clone(), &observed.neighbours);
    had_routes.retain(|_, r| !is_pod_route(r));
    let none = BTreeSet::new();
    let replace = match (&desired.tunnel, &observed.tunnel) {
        (None, Some(_)) | (Some(_), Some(Err(()))) => true,
        (Some(want), Some(Ok(have))) => want.port != have.port,
        _ => false,
    };
    if replace {
        ops.push(Op::DeleteTunnel);
        had_routes.retain(|_, r| r.link.as_deref() != Some(crate::TUNNEL_LINK));
        had_neighbours = &none;
    }
    if let Some(want) = &desired.tunnel {
        let same = observed.tunnel.as_ref().is_some_and(|t| t.as_ref() == Ok(want));
        if replace || !same || !observed.tunnel_up {
            ops.push(Op::PutTunnel(want.clone()));
        }
    }
    for (key, value) in &desired.sysctls {
        if observed.sysctls.get(key) != Some(value) {
            ops.push(Op::WriteSysctl(key.clone(), value.clone()));
        }
    }
    ops.extend(desired.addresses.difference(&observed.addresses).copied().map(Op::AddAddress));
    // A neighbour whose hardware address changed is in both differences: it is replaced.
    let new: Vec<&Neighbour> = desired.neighbours.difference(had_neighbours).collect();
    ops.extend(new.iter().map(|n| Op::PutNeighbour((*n).clone())));
    for ((dst, metric), route) in &desired.routes {
        if had_routes.get(&(*dst, *metric)) != Some(route) {
            ops.push(Op::PutRoute(*dst, *metric, route.clone()));
        }
    }
    for ((dst, metric), route) in &had_routes {
        if !desired.routes.contains_key(&(*dst, *metric)) {
            ops.push(Op::DeleteRoute(*dst, *metric, route.clone()));
        }
    }
    let wanted_ips: BTreeSet<_> = desired.neighbours.iter().map(|n| n.ip).collect();
    let orphans = had_neighbours.iter().filter(|n| !wanted_ips.contains(&n.ip));
    ops.extend(orphans.cloned().map(Op::DeleteNeighbour));
    ops.extend(observed.addresses.difference(&desired.addresses).copied().map(Op::DeleteAddress));
    ops
}
