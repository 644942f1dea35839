//! EndpointSlices of Services with a selector, per family and per set of ports.

mod hints;
mod memory;
mod place;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};

use self::hints::Mode;
pub(crate) use self::hints::{mode, relevant as relevant_to_hints};
pub(crate) use self::memory::Memory;
pub(crate) use self::place::{
    Annotations, Desired, Draft, Groups, TRIGGER_TIME, first_phase, place,
};
use crate::action::{About, Action, Plan, Severity};
use crate::config::Config;
use crate::endpoints::ZONE;
use crate::kinds::{Kind, Meta, World};
use crate::pods;
use crate::store::Object;
use crate::targets::{self, Family, HEADLESS, SERVICE_NAME};

/// Label that says whose slice it is.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// Whether the Service's hints follow the CPUs of the nodes.
pub(crate) fn follows_cpus(service: &Service) -> bool {
    mode(service) == Mode::Auto
}

/// Brings the slices of one Service up to date. A deleted Service's go by their owner; those of
/// a Service without a selector, or with a name elsewhere (`ExternalName`), are left alone.
pub(crate) fn plan(
    world: &World,
    config: &Config,
    memory: &mut Memory,
    (namespace, name): (&str, &str),
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let Some(service) = world.services.get(namespace, name).filter(|one| !one.deleting()) else {
        *memory = Memory::default();
        return plan;
    };
    let Some(spec) = service.spec.as_ref().filter(|spec| targets::selector(spec).is_some()) else {
        return plan;
    };
    let time = memory.trigger(service, targets::selected(world, service));
    let families = targets::families(spec);
    let mut desired = Desired {
        meta: slice_meta(service, spec),
        annotations: Annotations::Trigger(time),
        groups: families.into_iter().map(|one| (one, groups(world, service, spec, one))).collect(),
        placeholder: true,
        per_slice: config.endpoints_per_slice.max(1),
    };
    let (held, foreign): (Vec<_>, Vec<_>) = world
        .slices
        .of_service(namespace, name)
        .filter(|slice| {
            !slice.deleting() && slice.labels().get(MANAGED_BY).is_some_and(|by| by == CONTROLLER)
        })
        .cloned()
        .partition(|slice| owned_by(slice, service));
    let mut placed = place(&held, &mut desired);
    let about = About {
        kind: Kind::Service,
        meta: &service.metadata,
        component: "endpoint-slice-controller",
        now,
    };
    hint(world, service, memory, &mut placed.drafts, &about, &mut plan);
    let mut writes = placed.writes(&desired);
    // Of an earlier Service of this name.
    writes.extend(foreign.iter().map(|one| Action::delete(Kind::EndpointSlice, &one.metadata)));
    if writes.is_empty() {
        memory.published();
    }
    plan.actions.extend(first_phase(writes));
    plan
}

fn owned_by(slice: &EndpointSlice, service: &Service) -> bool {
    slice.owners().iter().any(|owner| {
        owner.uid == service.uid() && owner.kind == "Service" && owner.api_version == "v1"
    })
}

/// Sets the hints, and says so where that is news.
fn hint(
    world: &World,
    service: &Service,
    memory: &mut Memory,
    drafts: &mut BTreeMap<Family, Vec<Draft>>,
    about: &About<'_>,
    plan: &mut Plan,
) {
    const ON: &str = "TopologyAwareHintsEnabled";
    const OFF: &str = "TopologyAwareHintsDisabled";
    let mode = hints::mode(service);
    let was_on = |memory: &Memory| memory.hints.values().any(Result::is_ok);
    let mut say = |severity, reason, text: &str, family: Family| {
        let message = format!("{text}, addressType: {}", family.text());
        plan.push(Action::event(about, severity, reason, &message));
    };
    let ratios = if mode == Mode::Auto { hints::ratios(world) } else { None };
    for (family, drafts) in drafts {
        if mode != Mode::Auto {
            if was_on(memory) {
                say(Severity::Warning, OFF, "Topology Aware Hints has been disabled", *family);
            }
            memory.hints.clear();
            match mode {
                Mode::Close { nodes } => hints::close(drafts, nodes),
                _ => hints::clear(drafts),
            }
            continue;
        }
        let hinted = |draft: &Draft| draft.endpoints.iter().any(|one| one.hints.is_some());
        // After a restart the slices tell what was said before it.
        if !memory.hints.contains_key(family) && drafts.iter().any(hinted) {
            memory.hints.insert(*family, Ok(()));
        }
        let result = hints::proportional(drafts, ratios.as_ref());
        match &result {
            Ok(()) if !was_on(memory) => {
                say(Severity::Normal, ON, "Topology Aware Hints has been enabled", *family);
            }
            Err(text) if memory.hints.get(family) != Some(&result) => {
                say(Severity::Warning, OFF, text, *family);
            }
            _ => {}
        }
        memory.hints.insert(*family, result);
    }
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
    if held.is_none() && !publish {
        return None;
    }
    let serving = pods::ready(pod);
    let terminating = pod.deleting();
    let zone = held.and_then(|node| node.labels().get(ZONE)).filter(|zone| !zone.is_empty());
    Some(Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: targets::hostname(pod, service),
        node_name: node.map(str::to_owned),
        zone: zone.cloned(),
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

/// What makes an endpoint the same one, whatever else of it changes: a pod that comes back
/// under its name and address keeps its place.
type Identity = (Vec<String>, Option<String>, Option<(Option<String>, Option<String>)>);

fn identity(endpoint: &Endpoint) -> Identity {
    let target = endpoint.target_ref.as_ref();
    (
        endpoint.addresses.clone(),
        endpoint.hostname.clone(),
        target.map(|target| (target.namespace.clone(), target.name.clone())),
    )
}

/// Whether two endpoints of one identity say the same, hints aside.
fn alike(one: &Endpoint, other: &Endpoint) -> bool {
    let target = |endpoint: &Endpoint| {
        let mut target = endpoint.target_ref.clone();
        if let Some(target) = &mut target {
            target.resource_version = None;
        }
        target
    };
    one.conditions == other.conditions
        && one.node_name == other.node_name
        && one.zone == other.zone
        && target(one) == target(other)
}

#[cfg(test)]
mod hints_tests;
#[cfg(test)]
mod tests;
