//! EndpointSlices for Endpoints that somebody else writes: those of Services without a selector.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};

use crate::action::{About, Action, Plan, Severity};
use crate::endpoints::LEADER;
use crate::endpointslice::{
    Annotations, Desired, Groups, MANAGED_BY, Memory, TRIGGER_TIME, first_phase, place,
};
use crate::kinds::{Kind, Meta, World};
use crate::pods;
use crate::store::Object;
use crate::subsets::repack;
use crate::targets::{Family, Port, SERVICE_NAME};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Addresses mirrored of one subset, at most (--mirroring-max-endpoints-per-subset). All of a
/// subset go into one slice of a family.
const ADDRESSES_MAX: usize = 1000;

/// Brings the mirrored slices of one Endpoints object up to date.
pub(crate) fn plan(
    world: &World,
    memory: &mut Memory,
    (namespace, name): (&str, &str),
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let held: Vec<_> = world
        .slices
        .of_service(namespace, name)
        .filter(|slice| {
            !slice.deleting() && slice.labels().get(MANAGED_BY).is_some_and(|by| by == CONTROLLER)
        })
        .cloned()
        .collect();
    let source = world.endpoints.get(namespace, name).filter(|one| mirrored(world, one));
    let Some(source) = source else {
        *memory = Memory::default();
        let deletions =
            held.iter().map(|slice| Action::delete(Kind::EndpointSlice, &slice.metadata));
        return deletions.collect::<Vec<_>>().into();
    };
    let (groups, skipped) = groups(source);
    let mut desired = Desired {
        meta: slice_meta(source),
        annotations: Annotations::Exactly(annotations(source)),
        groups,
        placeholder: false,
        per_slice: ADDRESSES_MAX,
    };
    let placed = place(&held, &mut desired);
    plan.actions = first_phase(placed.writes(&desired));
    complain(source, memory, skipped, now, &mut plan);
    plan
}

fn mirrored(world: &World, endpoints: &Endpoints) -> bool {
    let skipped = endpoints.labels().get(SKIP).is_some_and(|value| value == "true")
        || endpoints.annotation(LEADER).is_some()
        // The API server writes the slice of its own Service itself.
        || (endpoints.namespace(), endpoints.name()) == ("default", "kubernetes");
    let service = world.services.get(endpoints.namespace(), endpoints.name());
    !endpoints.deleting()
        && !skipped
        && service
            .and_then(|service| service.spec.as_ref())
            .is_some_and(|spec| spec.selector.as_ref().is_none_or(|selector| selector.is_empty()))
}

/// Addresses that are not mirrored.
#[derive(Default)]
struct Skipped {
    invalid: usize,
    all: usize,
}

fn complain(
    source: &Endpoints,
    memory: &mut Memory,
    skipped: Skipped,
    now: Timestamp,
    plan: &mut Plan,
) {
    let invalid = format!(
        "Skipped {} invalid IP addresses when mirroring to EndpointSlices",
        skipped.invalid
    );
    let too_many = format!(
        "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints \
         subset. {} addresses were skipped",
        skipped.all
    );
    let notices: Vec<(&str, &str)> = [
        (skipped.invalid > 0).then_some(("InvalidIPAddress", invalid.as_str())),
        (skipped.all > skipped.invalid).then_some(("TooManyAddressesToMirror", too_many.as_str())),
    ]
    .into_iter()
    .flatten()
    .collect();
    let text = notices.iter().map(|(_, text)| *text).collect::<Vec<_>>().join("\n");
    if memory.is_news((!text.is_empty()).then_some(text.as_str())) {
        let component = "endpoint-slice-mirroring-controller";
        let about = About { kind: Kind::Endpoints, meta: &source.metadata, component, now };
        for (reason, text) in notices {
            plan.push(Action::event(&about, Severity::Warning, reason, text));
        }
    }
}

fn groups(endpoints: &Endpoints) -> (BTreeMap<Family, Groups>, Skipped) {
    let mut families: BTreeMap<Family, Groups> = BTreeMap::new();
    let mut skipped = Skipped::default();
    for subset in repack(endpoints.subsets.as_deref().unwrap_or_default()) {
        let ports = ports(&subset);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut left = ADDRESSES_MAX;
        for (address, is_ready) in ready.chain(not_ready) {
            if left == 0 {
                skipped.all += 1;
                continue;
            }
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                skipped.invalid += 1;
                skipped.all += 1;
                continue;
            };
            left -= 1;
            let ip = ip.to_canonical();
            let group = families.entry(Family::of(&ip)).or_default();
            group.entry(ports.clone()).or_default().push(endpoint(address, ip, is_ready));
        }
    }
    (families, skipped)
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

fn endpoint(address: &EndpointAddress, ip: IpAddr, is_ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(is_ready), ..Default::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
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

/// Every annotation is passed on, but those that speak of the Endpoints themselves.
fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut all = endpoints.metadata.annotations.clone().unwrap_or_default();
    all.remove(TRIGGER_TIME);
    all.remove(APPLIED);
    all
}
