//! EndpointSlices of Services with a selector, per family and per set of ports.

mod reconcile;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};

pub(crate) use self::reconcile::{Desired, Groups, reconcile};
use crate::action::Plan;
use crate::endpoints::ZONE;
use crate::kinds::{Kind, Meta, World};
use crate::pods;
use crate::store::Object;
use crate::targets::{self, Family, HEADLESS, SERVICE_NAME};

/// Label that says whose slice it is.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// Brings the slices of one Service up to date. A deleted Service's go by their owner.
pub(crate) fn plan(world: &World, namespace: &str, name: &str, _now: Timestamp) -> Plan {
    let Some(service) = world.services.get(namespace, name).filter(|one| !one.deleting()) else {
        return Plan::default();
    };
    let Some(spec) = &service.spec else { return Plan::default() };
    let external = spec.type_.as_deref() == Some("ExternalName");
    if targets::selector(spec).is_none() && !external {
        return Plan::default();
    }
    let families = if external { Vec::new() } else { targets::families(spec) };
    let desired = Desired {
        meta: slice_meta(service, spec),
        groups: families.into_iter().map(|one| (one, groups(world, service, spec, one))).collect(),
        placeholder: true,
    };
    let held: Vec<_> = world
        .slices
        .controlled_by(service.uid())
        .filter(|slice| {
            !slice.deleting() && slice.labels().get(MANAGED_BY).is_some_and(|by| by == CONTROLLER)
        })
        .cloned()
        .collect();
    reconcile(&held, desired).into()
}

fn groups(world: &World, service: &Service, spec: &ServiceSpec, family: Family) -> Groups {
    let publish = spec.publish_not_ready_addresses == Some(true);
    let mut groups = Groups::new();
    for pod in targets::selected(world, service) {
        if let Some(endpoint) = endpoint(world, service, pod, family, publish) {
            groups.entry(targets::ports(service, pod)).or_default().push(endpoint);
        }
    }
    groups
}

fn endpoint(
    world: &World,
    service: &Service,
    pod: &Pod,
    family: Family,
    publish: bool,
) -> Option<Endpoint> {
    let address = targets::address(pod, family)?;
    let node = pods::node(pod);
    let held = node.and_then(|node| world.nodes.get("", node));
    // Its node is gone, so it will be soon. Kubernetes leaves such a pod out too.
    if node.is_some() && held.is_none() && !publish {
        return None;
    }
    let serving = pods::ready(pod);
    let terminating = pod.deleting();
    Some(Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: targets::hostname(pod, service),
        node_name: node.map(str::to_owned),
        zone: held.and_then(|node| node.labels().get(ZONE)).cloned(),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// What every slice of the Service bears. The Service's labels are passed on, so that a
/// selector over slices can use them.
fn slice_meta(service: &Service, spec: &ServiceSpec) -> Meta {
    let mut labels: BTreeMap<String, String> = service.labels().clone();
    if targets::headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels.insert(SERVICE_NAME.into(), service.name().into());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    Meta {
        namespace: service.metadata.namespace.clone(),
        generate_name: Some(format!("{}-", service.name())),
        labels: Some(labels),
        owner_references: Some(vec![pods::owner_reference(Kind::Service, &service.metadata)]),
        ..Meta::default()
    }
}

/// The address an endpoint is known by, for order.
fn first_address(endpoint: &Endpoint) -> &str {
    endpoint.addresses.first().map(String::as_str).unwrap_or_default()
}

/// Endpoints of the same pod, or of the same address where there is none.
fn same(one: &Endpoint, other: &Endpoint) -> bool {
    let uid = |endpoint: &Endpoint| {
        endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default()
    };
    first_address(one) == first_address(other) && uid(one) == uid(other)
}

#[cfg(test)]
mod tests;
