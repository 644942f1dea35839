//! The Endpoints object of a Service with a selector: what older clients read. Its primary
//! family only, and at most [`ADDRESSES_MAX`] addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};

use crate::action::{Action, Plan};
use crate::kinds::{Kind, Meta, World};
use crate::pods;
use crate::store::Object;
use crate::targets::{self, HEADLESS, Port};

/// Label of a node and of an endpoint's place: its zone.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
/// Addresses in one Endpoints object, at most.
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Label of Endpoints that this controller made (KEP-4974).
pub(crate) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
pub(crate) const CONTROLLER: &str = "endpoint-controller";

/// Brings the Endpoints of one Service up to date.
pub(crate) fn plan(world: &World, namespace: &str, name: &str, _now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let held = world.endpoints.get(namespace, name).filter(|held| !held.deleting());
    let ours = |held: &Endpoints| held.labels().get(MANAGED_BY).is_some_and(|by| by == CONTROLLER);
    let Some(service) = world.services.get(namespace, name).filter(|one| !one.deleting()) else {
        if let Some(held) = held.filter(|held| ours(held)) {
            plan.push(Action::delete(Kind::Endpoints, &held.metadata));
        }
        return plan;
    };
    if service.spec.as_ref().and_then(targets::selector).is_none() {
        return plan;
    }
    let wanted = desired(world, service);
    let Some(held) = held else {
        plan.push(Action::create(Kind::Endpoints, &wanted));
        return plan;
    };
    let truncated = |one: &Endpoints| one.annotation(OVER_CAPACITY) == Some("truncated");
    let same = held.subsets.as_deref().unwrap_or_default()
        == wanted.subsets.as_deref().unwrap_or_default()
        && held.labels() == wanted.labels()
        && truncated(held) == truncated(&wanted);
    if !same {
        let mut next = Endpoints::clone(held);
        next.metadata.labels = wanted.metadata.labels;
        next.metadata.managed_fields = None;
        let annotations = next.metadata.annotations.get_or_insert_default();
        annotations.remove(OVER_CAPACITY);
        annotations.extend(wanted.metadata.annotations.into_iter().flatten());
        next.subsets = wanted.subsets;
        plan.push(Action::replace(Kind::Endpoints, &next));
    }
    plan
}

#[derive(Default)]
struct Split {
    ready: Vec<(IpAddr, EndpointAddress)>,
    not_ready: Vec<(IpAddr, EndpointAddress)>,
}

fn desired(world: &World, service: &Service) -> Endpoints {
    let spec = service.spec.clone().unwrap_or_default();
    let family = targets::families(&spec)[0];
    let publish = spec.publish_not_ready_addresses == Some(true);
    let mut groups: BTreeMap<Vec<Port>, Split> = BTreeMap::new();
    for pod in targets::selected(world, service).filter(|pod| publish || !pod.deleting()) {
        let Some(address) = targets::address(pod, family) else { continue };
        let ports = targets::ports(service, pod);
        if ports.is_empty() && !targets::headless(&spec) {
            continue;
        }
        let split = groups.entry(ports).or_default();
        let entry = (address, endpoint_address(service, pod, address));
        if publish || pods::ready(pod) {
            split.ready.push(entry);
        } else {
            split.not_ready.push(entry);
        }
    }
    let truncated = truncate(&mut groups);
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    if targets::headless(&spec) {
        labels.insert(HEADLESS.into(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    let annotations = truncated.then(|| [(OVER_CAPACITY.into(), "truncated".into())].into());
    Endpoints {
        metadata: Meta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations,
            ..Meta::default()
        },
        subsets: (!groups.is_empty()).then(|| groups.into_iter().map(subset).collect()),
    }
}

/// Cuts to the limit, ready addresses first. Says whether it had to.
fn truncate(groups: &mut BTreeMap<Vec<Port>, Split>) -> bool {
    let total: usize = groups.values().map(|split| split.ready.len() + split.not_ready.len()).sum();
    for split in groups.values_mut() {
        split.ready.sort_by_key(|(address, _)| *address);
        split.not_ready.sort_by_key(|(address, _)| *address);
    }
    if total <= ADDRESSES_MAX {
        return false;
    }
    let mut left = ADDRESSES_MAX;
    for split in groups.values_mut() {
        split.ready.truncate(left);
        left -= split.ready.len();
    }
    for split in groups.values_mut() {
        split.not_ready.truncate(left);
        left -= split.not_ready.len();
    }
    groups.retain(|_, split| !split.ready.is_empty() || !split.not_ready.is_empty());
    true
}

fn endpoint_address(service: &Service, pod: &Pod, address: IpAddr) -> EndpointAddress {
    EndpointAddress {
        ip: address.to_string(),
        hostname: targets::hostname(pod, service),
        node_name: pods::node(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

fn subset((ports, split): (Vec<Port>, Split)) -> EndpointSubset {
    let list = |all: Vec<(IpAddr, EndpointAddress)>| {
        (!all.is_empty()).then(|| all.into_iter().map(|(_, address)| address).collect())
    };
    let port = |port: Port| EndpointPort {
        name: (!port.name.is_empty()).then_some(port.name),
        port: port.number.unwrap_or_default(),
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    };
    EndpointSubset {
        addresses: list(split.ready),
        not_ready_addresses: list(split.not_ready),
        ports: (!ports.is_empty()).then(|| ports.into_iter().map(port).collect()),
    }
}
