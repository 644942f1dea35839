//! From one snapshot to the next: plans what changed.

use crate::{
    Diagnostic, DiagnosticKind, Frontend, FrontendKind, Group, PlanInput, ServiceTables,
    plan::set,
    service::{self, Place, Planned},
    shadow::Surroundings,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weft_model::{NamespacedName, Node, NodeName, Port, Service, Snapshot};

/// Keeps the plan of every Service, and plans those again whose Service object or slices are
/// not those of the snapshot before; all of them where this node's own object or the input
/// changed, and those with addresses from outside where nodes or API servers moved. The tables are those of [`crate::plan`], after any history.
///
/// What changed in the tables is not told: the receiver compares the tables that it applied
/// with the new ones ([`weft_model::Map::diff`]), which costs as little, and cannot be wrong
/// after an error or a table that it never saw.
#[derive(Debug)]
pub struct Planner {
    node: NodeName,
    input: PlanInput,
    /// What the tables were planned from.
    seen: Snapshot,
    planned: BTreeMap<NamespacedName, Planned>,
    /// Who asks for what. The first claim to a frontend in this order is granted.
    claims: BTreeSet<(Frontend, FrontendKind, Age)>,
    /// The same for `healthCheckNodePort`.
    health: BTreeSet<(Port, Age)>,
    complaints: BTreeMap<NamespacedName, Vec<DiagnosticKind>>,
    tables: ServiceTables,
    /// Addresses that have an owner in the snapshot.
    around: Arc<Surroundings>,
    /// Comes before all Services.
    first: Age,
}

/// When a Service was created, and its name: in the order of claims.
type Age = (i64, NamespacedName);

/// What has to be looked at again.
#[derive(Default)]
struct Unsettled {
    frontends: BTreeSet<Frontend>,
    ports: BTreeSet<Port>,
    /// Services, with the groups that they had.
    services: BTreeMap<NamespacedName, Vec<Group>>,
}

impl Planner {
    /// A planner that has seen nothing.
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            input: PlanInput::default(),
            seen: Snapshot::default(),
            planned: BTreeMap::new(),
            claims: BTreeSet::new(),
            health: BTreeSet::new(),
            complaints: BTreeMap::new(),
            tables: ServiceTables::default(),
            around: Arc::default(),
            first: (i64::MIN, NamespacedName::new("", "")),
        }
    }

    /// Plans the next snapshot, in time that depends on what is different in it.
    pub fn plan(&mut self, snapshot: &Snapshot, input: &PlanInput) -> &ServiceTables {
        let own = snapshot.nodes.get(&self.node);
        let moved = self.look_around(snapshot);
        let mut stale = self.stale(snapshot, own.map(AsRef::as_ref), input);
        if moved {
            let external = |s: &Service| {
                let e = &s.external;
                !e.addresses.is_empty() || !e.balancer_addresses.is_empty()
            };
            let all = snapshot.services.iter().filter(|(_, s)| external(s));
            stale.extend(all.map(|(id, _)| id.clone()));
        }
        self.input = input.clone();
        self.seen = snapshot.clone();
        let node = self.node.clone();
        let around = self.around.clone();
        let own = own.map(AsRef::as_ref);
        let place = Place { snapshot, node: &node, own, input, around: &around };
        let mut unsettled = Unsettled::default();
        for id in stale {
            let service = snapshot.services.get(&id).filter(|s| service::is_ours(s));
            let new = service.map(|s| service::plan(place, s));
            if self.planned.get(&id) != new.as_ref() {
                self.replace(id, new, &mut unsettled);
            }
        }
        self.settle(unsettled);
        self.tables.generation = snapshot.generation;
        &self.tables
    }

    /// Learns who has which address; says whether that is different now.
    fn look_around(&mut self, snapshot: &Snapshot) -> bool {
        if !Surroundings::may_differ(&self.seen, snapshot) {
            return false;
        }
        let around = Arc::new(Surroundings::of(snapshot));
        std::mem::replace(&mut self.around, around.clone()) != around
    }

    /// The tables as last planned.
    pub fn tables(&self) -> &ServiceTables {
        &self.tables
    }

    /// The Services whose plan may be another one now.
    fn stale(
        &self,
        snapshot: &Snapshot,
        own: Option<&Node>,
        input: &PlanInput,
    ) -> BTreeSet<NamespacedName> {
        let own_before = self.seen.nodes.get(&self.node).map(AsRef::as_ref);
        if self.input != *input || own_before.map(relevant) != own.map(relevant) {
            return self.planned.keys().chain(snapshot.services.keys()).cloned().collect();
        }
        let services = self.seen.services.diff(&snapshot.services).map(|d| d.key);
        let slices = self.seen.slices.diff(&snapshot.slices).map(|d| d.key);
        services.chain(slices).cloned().collect()
    }

    /// Takes the new plan of a Service; `None` for one that is gone.
    fn replace(&mut self, id: NamespacedName, new: Option<Planned>, unsettled: &mut Unsettled) {
        let old = match new {
            Some(new) => self.planned.insert(id.clone(), new),
            None => self.planned.remove(&id),
        };
        let old = old.unwrap_or_default();
        let none = Planned::default();
        let new = self.planned.get(&id).unwrap_or(&none);
        let (was, is) = ((old.created_s, id.clone()), (new.created_s, id.clone()));
        // Who stays where it is leaves the claims of all others as they are.
        for c in old.claims.iter().filter(|c| was != is || !new.claims_as(c.frontend, c.kind)) {
            self.claims.remove(&(c.frontend, c.kind, was.clone()));
            unsettled.frontends.insert(c.frontend);
        }
        for c in new.claims.iter().filter(|c| was != is || !old.claims_as(c.frontend, c.kind)) {
            self.claims.insert((c.frontend, c.kind, is.clone()));
            unsettled.frontends.insert(c.frontend);
        }
        let port = |planned: &Planned| planned.health.as_ref().map(|(port, _)| *port);
        let (before, after) = (port(&old), port(new));
        if before != after || was != is {
            before.map(|port| self.health.remove(&(port, was)));
            after.map(|port| self.health.insert((port, is)));
            unsettled.ports.extend(before.into_iter().chain(after));
        }
        let groups = old.groups.into_iter().map(|(group, _)| group).collect();
        unsettled.services.insert(id, groups);
    }

    /// Grants claims anew and brings the tables up to date.
    fn settle(&mut self, unsettled: Unsettled) {
        let Unsettled { frontends, ports, mut services } = unsettled;
        // Whoever claims what somebody else claimed or gave up may have got or lost it.
        for frontend in frontends {
            let mut free = true;
            for id in self.claimants(frontend) {
                services.entry(id.clone()).or_default();
                free = false;
            }
            if free {
                set(&mut self.tables.frontends, frontend, None);
                self.tables.without_backends.remove(&frontend);
                set(&mut self.tables.outside, frontend, None);
            }
        }
        for port in ports {
            let mut free = true;
            for id in self.askers(port) {
                services.entry(id.clone()).or_default();
                free = false;
            }
            if free {
                set(&mut self.tables.health, port, None);
            }
        }
        let mut news = false;
        for (id, old_groups) in services {
            news |= self.settle_service(&id, &old_groups);
        }
        if news {
            let all = self.complaints.iter().flat_map(|(service, kinds)| {
                let of = |kind: &DiagnosticKind| Diagnostic {
                    service: service.clone(),
                    kind: kind.clone(),
                };
                kinds.iter().map(of)
            });
            self.tables.diagnostics = all.collect();
        }
    }

    /// Enters what a Service gets, and its groups; says whether its diagnostics changed.
    fn settle_service(&mut self, id: &NamespacedName, old_groups: &[Group]) -> bool {
        let none = Planned::default();
        let planned = self.planned.get(id).unwrap_or(&none);
        let (mut complaints, mut groups) = (Vec::new(), BTreeSet::new());
        for claim in &planned.claims {
            let frontend = claim.frontend;
            let owner = self.claimants(frontend).next().filter(|o| *o != id).cloned();
            match owner {
                Some(owner) => complaints.push(DiagnosticKind::Conflict { frontend, owner }),
                None => {
                    self.tables.grant(claim);
                    groups.extend(claim.group());
                }
            }
        }
        let planned_groups = planned.groups.iter().map(|(group, _)| group);
        for gone in old_groups.iter().chain(planned_groups).filter(|g| !groups.contains(g)) {
            self.tables.groups.remove(gone);
        }
        for (group, backends) in planned.groups.iter().filter(|(g, _)| groups.contains(g)) {
            set(&mut self.tables.groups, group.clone(), Some(backends));
        }
        complaints.extend(planned.complaints.iter().cloned());
        if let Some((port, health)) = &planned.health {
            let port = *port;
            let owner = self.askers(port).next().filter(|o| *o != id).cloned();
            match owner {
                Some(owner) => complaints.push(DiagnosticKind::HealthPortConflict { port, owner }),
                None => set(&mut self.tables.health, port, Some(health)),
            }
        }
        let old = match complaints.is_empty() {
            true => self.complaints.remove(id),
            false => self.complaints.insert(id.clone(), complaints),
        };
        old.as_ref() != self.complaints.get(id)
    }

    /// Who claims a frontend, the one that gets it first.
    fn claimants(&self, frontend: Frontend) -> impl Iterator<Item = &NamespacedName> {
        let first = (frontend, FrontendKind::ALL[0], self.first.clone());
        let all = self.claims.range(first..).take_while(move |(f, ..)| *f == frontend);
        all.map(|(.., (_, id))| id)
    }

    /// Who asks for a health port, the one that gets it first.
    fn askers(&self, port: Port) -> impl Iterator<Item = &NamespacedName> {
        let all = self.health.range((port, self.first.clone())..);
        all.take_while(move |(p, _)| *p == port).map(|(_, (_, id))| id)
    }
}

impl Planned {
    fn claims_as(&self, frontend: Frontend, kind: FrontendKind) -> bool {
        self.claims.iter().any(|c| c.frontend == frontend && c.kind == kind)
    }
}

/// What plans depend on of this node: not whether it is ready, which changes more often.
fn relevant(own: &Node) -> (&[std::net::IpAddr], &[ipnet::IpNet], Option<&str>) {
    (&own.internal_ips, &own.pod_cidrs, own.zone.as_deref())
}
