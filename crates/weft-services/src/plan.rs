//! From a snapshot to tables.

use crate::{Diagnostic, DiagnosticKind, Frontend, LoadBalancer, ServiceTables, eligible};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};
use weft_model::{
    IpFamily, NamespacedName, NodeName, Port, Protocol, Service, ServiceKind, ServicePort, Snapshot,
};

/// What the planner is told beside the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanInput {
    /// Addresses where this node's own DNS listens on port 53, at most one a family. The DNS
    /// port of `kube-system/kube-dns` goes there, so that names resolve without leaving the
    /// node. A family that is absent keeps the Service's endpoints.
    pub node_dns: Vec<IpAddr>,
}

/// Port of DNS (RFC 1035).
const DNS_PORT: u16 = 53;

/// Plans the Service tables of `node`.
pub fn plan(snapshot: &Snapshot, node: &NodeName, input: &PlanInput) -> ServiceTables {
    let mut tables = ServiceTables { generation: snapshot.generation, ..Default::default() };
    let mut owners: BTreeMap<Frontend, &NamespacedName> = BTreeMap::new();
    for service in snapshot.services.values() {
        if service.foreign_proxy || service.kind != ServiceKind::Virtual {
            continue;
        }
        for port in &service.ports {
            for &addr in &service.cluster_ips {
                let frontend = Frontend { addr, port: port.port, protocol: port.protocol };
                match owners.entry(frontend) {
                    Entry::Vacant(free) => {
                        free.insert(&service.id);
                        plan_frontend(snapshot, node, input, service, port, frontend, &mut tables);
                    }
                    Entry::Occupied(taken) => tables.diagnostics.push(Diagnostic {
                        service: service.id.clone(),
                        kind: DiagnosticKind::Conflict { frontend, owner: (*taken.get()).clone() },
                    }),
                }
            }
        }
    }
    tables
}

/// Plans one frontend that nobody else claims.
fn plan_frontend(
    snapshot: &Snapshot,
    node: &NodeName,
    input: &PlanInput,
    service: &Service,
    port: &ServicePort,
    frontend: Frontend,
    tables: &mut ServiceTables,
) {
    if port.protocol == Protocol::Sctp {
        tables.diagnostics.push(Diagnostic {
            service: service.id.clone(),
            kind: DiagnosticKind::NotTranslatable(frontend),
        });
        return;
    }
    let family = IpFamily::of(frontend.addr);
    let mut backends = node_dns_backends(service, port.port, family, input);
    if backends.is_empty() {
        backends = eligible::backends(snapshot, node, service, port, family);
    }
    if backends.is_empty() {
        tables.without_backends.insert(frontend);
    } else {
        tables.frontends.insert(
            frontend,
            LoadBalancer {
                service: service.id.clone(),
                backends,
                affinity_timeout_s: service.affinity_timeout_s,
            },
        );
    }
}

/// The node's own DNS where `port` is the DNS port of the cluster DNS Service, else nothing.
fn node_dns_backends(
    service: &Service,
    port: Port,
    family: IpFamily,
    input: &PlanInput,
) -> Vec<crate::Backend> {
    let is_dns = &*service.id.namespace == "kube-system"
        && &*service.id.name == "kube-dns"
        && port.get() == DNS_PORT;
    if !is_dns {
        return Vec::new();
    }
    let mut backends: Vec<_> = input
        .node_dns
        .iter()
        .filter(|a| IpFamily::of(**a) == family)
        .map(|&addr| crate::Backend { addr, port })
        .collect();
    backends.sort_unstable();
    backends.dedup();
    backends
}
