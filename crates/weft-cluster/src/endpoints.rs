//! The Endpoints object of a Service with a selector: what older clients read. Its primary
//! family only, and at most [`ADDRESSES_MAX`](crate::subsets::ADDRESSES_MAX) addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};

use crate::action::{Action, Plan};
use crate::endpointslice::{Memory, TRIGGER_TIME};
use crate::kinds::{Kind, Meta, World};
use crate::pods;
use crate::store::Object;
use crate::subsets::{repack, truncate};
use crate::targets::{self, HEADLESS, Port};

/// Label of a node and of an endpoint's place: its zone.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
/// Annotation of Endpoints that are a lock of older leader elections, not addresses.
pub(crate) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Label of Endpoints that this controller made (KEP-4974).
pub(crate) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";

/// Brings the Endpoints of one Service up to date. Those of a Service that has gone go with it,
/// whoever wrote them; that is asked only when a Service goes (see [`crate::key`]), since Endpoints
/// may be there before their Service.
pub(crate) fn plan(world: &World, memory: &mut Memory, (namespace, name): (&str, &str)) -> Plan {
    let mut plan = Plan::default();
    let held = world.endpoints.get(namespace, name).filter(|held| !held.deleting());
    let Some(service) = world.services.get(namespace, name) else {
        *memory = Memory::default();
        let kept = |held: &&Arc<Endpoints>| held.annotation(LEADER).is_some();
        if let Some(held) = held.filter(|held| !kept(held)) {
            plan.push(Action::delete(Kind::Endpoints, &held.metadata));
        }
        return plan;
    };
    if service.deleting() || service.spec.as_ref().and_then(targets::selector).is_none() {
        return plan;
    }
    let time = memory.trigger(service, targets::selected(world, service));
    let (wanted, truncated) = desired(world, service);
    let annotate = |annotations: &mut BTreeMap<String, String>| {
        annotations.remove(OVER_CAPACITY);
        annotations.remove(TRIGGER_TIME);
        annotations.extend(truncated.then(|| (OVER_CAPACITY.into(), "truncated".into())));
        annotations.extend(time.map(|time| (TRIGGER_TIME.into(), time)));
    };
    let Some(held) = held else {
        let mut wanted = wanted;
        annotate(wanted.metadata.annotations.get_or_insert_default());
        plan.push(Action::create(Kind::Endpoints, &wanted));
        return plan;
    };
    let same = held.subsets.as_deref().unwrap_or_default()
        == wanted.subsets.as_deref().unwrap_or_default()
        && held.labels() == wanted.labels()
        && held.annotation(OVER_CAPACITY) == truncated.then_some("truncated");
    if same {
        memory.published();
        return plan;
    }
    let mut next = Endpoints::clone(held);
    next.metadata.labels = wanted.metadata.labels;
    next.metadata.managed_fields = None;
    annotate(next.metadata.annotations.get_or_insert_default());
    next.subsets = wanted.subsets;
    plan.push(Action::replace(Kind::Endpoints, &next));
    plan
}

/// What the Endpoints shall be, annotations aside, and whether that is not all.
fn desired(world: &World, service: &Service) -> (Endpoints, bool) {
    let spec = service.spec.clone().unwrap_or_default();
    let family = targets::families(&spec)[0];
    let publish = spec.publish_not_ready_addresses == Some(true);
    let mut subsets = Vec::new();
    for pod in targets::selected(world, service).filter(|pod| publish || !pod.deleting()) {
        let Some(address) = targets::address(pod, family) else { continue };
        let ports = targets::ports(service, pod);
        // Without ports only a headless Service that has none at all.
        if ports.is_empty() && spec.ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
            continue;
        }
        let list = Some(vec![endpoint_address(service, pod, address)]);
        let (ready, not_ready) =
            if publish || pods::ready(pod) { (list, None) } else { (None, list) };
        subsets.push(EndpointSubset {
            addresses: ready,
            not_ready_addresses: not_ready,
            ports: Some(ports.into_iter().map(endpoint_port).collect()),
        });
    }
    let mut subsets = repack(&subsets);
    let truncated = truncate(&mut subsets);
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    if targets::headless(&spec) {
        labels.insert(HEADLESS.into(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    let endpoints = Endpoints {
        metadata: Meta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            ..Meta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    };
    (endpoints, truncated)
}

fn endpoint_port(port: Port) -> EndpointPort {
    EndpointPort {
        name: (!port.name.is_empty()).then_some(port.name),
        port: port.number.unwrap_or_default(),
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    }
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
