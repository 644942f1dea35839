//! From a snapshot to tables, all at once: the definition.

use crate::{
    Diagnostic, DiagnosticKind, FrontendKind, ServiceTables,
    service::{self, Claim, Inside, Place, Planned},
    shadow::Surroundings,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_model::{NamespacedName, NodeName, Snapshot};

/// What the planner is told beside the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanInput {
    /// Addresses where this node's own DNS listens on port 53, at most one a family. The DNS
    /// port of `kube-system/kube-dns` goes there, so that names resolve without leaving the
    /// node. A family that is absent keeps the Service's endpoints.
    pub node_dns: Vec<IpAddr>,
    /// Which of the node's addresses answer on node ports; all where empty
    /// (`nodePortAddresses` of kube-proxy).
    pub node_port_ranges: Vec<IpNet>,
    /// Whether the node's own processes reach node ports at 127.0.0.1 and ::1, where
    /// `node_port_ranges` do not exclude them.
    pub localhost_node_ports: bool,
}

/// Plans the Service tables of `node`. [`crate::Planner`] gives the same, from one snapshot to
/// the next.
pub fn plan(snapshot: &Snapshot, node: &NodeName, input: &PlanInput) -> ServiceTables {
    let own = snapshot.nodes.get(node).map(AsRef::as_ref);
    let around = Surroundings::of(snapshot);
    let place = Place { snapshot, node, own, input, around: &around };
    let ours = snapshot.services.values().filter(|s| service::is_ours(s));
    let planned: Vec<(&NamespacedName, Planned)> =
        ours.map(|s| (&s.id, service::plan(place, s))).collect();
    // Addresses that the API allocates come before those that people write, so that nobody
    // takes over another's Service by an externalIP; and who was there first keeps what a newer
    // Service writes as well.
    let mut by_age: Vec<&(&NamespacedName, Planned)> = planned.iter().collect();
    by_age.sort_by_key(|(id, planned)| (planned.created_s, *id));
    let mut owners = BTreeMap::new();
    for kind in FrontendKind::ALL {
        for (id, planned) in &by_age {
            for claim in planned.claims.iter().filter(|c| c.kind == kind) {
                owners.entry(claim.frontend).or_insert(*id);
            }
        }
    }
    let mut probed = BTreeMap::new();
    for (id, planned) in &by_age {
        if let Some((port, health)) = &planned.health {
            probed.entry(*port).or_insert((*id, health));
        }
    }
    let mut tables = ServiceTables { generation: snapshot.generation, ..Default::default() };
    tables.health = probed.iter().map(|(port, (_, health))| (*port, (*health).clone())).collect();
    let mut diagnostics = Vec::new();
    for (id, planned) in &planned {
        let mut complain = |kind| diagnostics.push(Diagnostic { service: (*id).clone(), kind });
        let mut groups = BTreeSet::new();
        for claim in &planned.claims {
            let (frontend, owner) = (claim.frontend, owners[&claim.frontend]);
            if owner == *id {
                tables.grant(claim);
                groups.extend(claim.group());
            } else {
                complain(DiagnosticKind::Conflict { frontend, owner: owner.clone() });
            }
        }
        for (group, backends) in planned.groups.iter().filter(|(g, _)| groups.contains(g)) {
            tables.groups.insert(group.clone(), backends.clone());
        }
        planned.complaints.iter().cloned().for_each(&mut complain);
        let asked = planned.health.as_ref().map(|(port, _)| (*port, probed[port].0));
        if let Some((port, owner)) = asked.filter(|(_, owner)| owner != id) {
            complain(DiagnosticKind::HealthPortConflict { port, owner: owner.clone() });
        }
    }
    tables.diagnostics = diagnostics.into();
    tables
}

impl ServiceTables {
    /// Enters a claim of the Service that gets the frontend. What is equal stays the same, so
    /// that the table before shares it.
    pub(crate) fn grant(&mut self, claim: &Claim) {
        let frontend = claim.frontend;
        match &claim.inside {
            Inside::Translated(balancer) => set(&mut self.frontends, frontend, Some(balancer)),
            Inside::WithoutBackends | Inside::LeftToStack => {
                set(&mut self.frontends, frontend, None);
            }
        }
        if claim.inside == Inside::WithoutBackends {
            self.without_backends.insert(frontend);
        } else {
            self.without_backends.remove(&frontend);
        }
        set(&mut self.outside, frontend, claim.outside.as_ref());
    }
}

/// Makes a map hold `value` for `key`, or nothing.
pub(crate) fn set<K: Ord + Clone, V: Clone + PartialEq>(
    map: &mut weft_model::Map<K, V>,
    key: K,
    value: Option<&V>,
) {
    match value {
        Some(value) if map.get(&key) != Some(value) => drop(map.insert(key, value.clone())),
        Some(_) => {}
        None => drop(map.remove(&key)),
    }
}
