//! EndpointSlices for Endpoints that somebody else writes: those of Services without a selector.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};

use crate::action::Plan;
use crate::endpointslice::{Desired, Groups, MANAGED_BY, reconcile};
use crate::kinds::{Kind, Meta, World};
use crate::pods;
use crate::store::Object;
use crate::targets::{self, Family, Port, SERVICE_NAME};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses mirrored of one subset, at most (--mirroring-max-endpoints-per-subset).
const ADDRESSES_MAX: usize = 1000;

/// Brings the mirrored slices of one Endpoints object up to date.
pub(crate) fn plan(world: &World, namespace: &str, name: &str) -> Plan {
    let held: Vec<_> = world
        .slices
        .within(namespace)
        .filter(|slice| {
            !slice.deleting()
                && slice.labels().get(MANAGED_BY).is_some_and(|by| by == CONTROLLER)
                && slice.labels().get(SERVICE_NAME).is_some_and(|of| of == name)
        })
        .cloned()
        .collect();
    let source = world.endpoints.get(namespace, name).filter(|one| mirrored(world, one));
    if source.is_none() && held.is_empty() {
        return Plan::default();
    }
    let desired = Desired {
        meta: source.map(|one| slice_meta(one)).unwrap_or_default(),
        groups: source.map(|one| groups(one)).unwrap_or_default(),
        placeholder: false,
    };
    reconcile(&held, desired).into()
}

fn mirrored(world: &World, endpoints: &Endpoints) -> bool {
    let skipped = endpoints.labels().get(SKIP).is_some_and(|value| value == "true")
        || endpoints.annotation(LEADER).is_some()
        || endpoints.labels().contains_key(crate::endpoints::MANAGED_BY)
        // The API server writes the slice of its own Service itself.
        || (endpoints.namespace(), endpoints.name()) == ("default", "kubernetes");
    let service = world.services.get(endpoints.namespace(), endpoints.name());
    !endpoints.deleting()
        && !skipped
        && service.and_then(|service| service.spec.as_ref()).is_some_and(|spec| {
            targets::selector(spec).is_none() && spec.type_.as_deref() != Some("ExternalName")
        })
}

fn groups(endpoints: &Endpoints) -> BTreeMap<Family, Groups> {
    let mut families: BTreeMap<Family, Groups> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, is_ready) in ready.chain(not_ready).take(ADDRESSES_MAX) {
            let Ok(ip) = address.ip.parse() else { continue };
            let group = families.entry(Family::of(&ip)).or_default();
            group.entry(ports.clone()).or_default().push(endpoint(address, is_ready));
        }
    }
    families
}

fn ports(subset: &EndpointSubset) -> Vec<Port> {
    let of = |port: &k8s_openapi::api::core::v1::EndpointPort| Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        number: Some(port.port),
        app_protocol: port.app_protocol.clone(),
    };
    let mut ports: Vec<Port> = subset.ports.iter().flatten().map(of).collect();
    ports.sort();
    ports
}

fn endpoint(address: &EndpointAddress, is_ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(is_ready), ..Default::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice_meta(endpoints: &Endpoints) -> Meta {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.into(), endpoints.name().into());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    Meta {
        namespace: endpoints.metadata.namespace.clone(),
        generate_name: Some(format!("{}-", endpoints.name())),
        labels: Some(labels),
        owner_references: Some(vec![pods::owner_reference(Kind::Endpoints, &endpoints.metadata)]),
        ..Meta::default()
    }
}
