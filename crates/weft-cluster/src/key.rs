//! What a planner is asked about, and which change asks whom.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};

use crate::kinds::{Delta, Kind, Meta, World};
use crate::labels;
use crate::store::Object;

/// The planners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Controller {
    Namespace,
    NodeCidr,
    NodeLife,
    Deployment,
    ReplicaSet,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
    Budget,
    Replication,
    Scheduler,
    EndpointSlice,
    Endpoints,
    Mirror,
    Garbage,
    PodGarbage,
    Claim,
    Volume,
    /// The class of volumes that is there from the start; asked once.
    StandardClass,
}

/// One question for one planner. Questions of one key never run at the same time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) controller: Controller,
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(controller: Controller, kind: Kind, namespace: &str, name: &str) -> Self {
        Self { controller, kind, namespace: namespace.into(), name: name.into() }
    }

    fn of(controller: Controller, kind: Kind, meta: &Meta) -> Self {
        Self::new(
            controller,
            kind,
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
}

/// The keys that a change concerns. May name too many, never too few.
pub(crate) fn concerned(world: &World, delta: &Delta) -> Vec<Key> {
    let mut keys = Vec::new();
    let (kind, old, new) = delta.metadata();
    own(kind, old.or(new), &mut keys);
    for meta in [old, new].into_iter().flatten() {
        owners(kind, meta, &mut keys);
    }
    garbage(world, kind, old, new, &mut keys);
    match delta {
        Delta::Pod(old, new) => pod(world, old.as_ref(), new.as_ref(), &mut keys),
        Delta::Node(old, new) => node(world, old.as_ref(), new.as_ref(), &mut keys),
        Delta::Service(old, new) => service(old.as_ref().or(new.as_ref()), &mut keys),
        Delta::EndpointSlice(old, new) => {
            for slice in [old, new].into_iter().flatten() {
                if let Some(name) = slice.labels().get(crate::targets::SERVICE_NAME) {
                    let of = slice.namespace();
                    keys.push(Key::new(Controller::EndpointSlice, Kind::Service, of, name));
                    keys.push(Key::new(Controller::Mirror, Kind::Endpoints, of, name));
                }
            }
        }
        Delta::Endpoints(old, new) => {
            for meta in [old, new].into_iter().flatten() {
                let (of, name) = (meta.namespace(), meta.name());
                // Without a Service they may be earlier than it: only those that were made for
                // one are left over from it.
                let ours = meta.labels().contains_key(crate::endpoints::MANAGED_BY);
                if ours || world.services.get(of, name).is_some() {
                    keys.push(Key::new(Controller::Endpoints, Kind::Service, of, name));
                }
                keys.push(Key::new(Controller::Mirror, Kind::Endpoints, of, name));
            }
        }
        Delta::ServiceAccount(..) | Delta::ConfigMap(..) => {
            for meta in [delta.metadata().1, delta.metadata().2].into_iter().flatten() {
                let name = meta.namespace.as_deref().unwrap_or_default();
                keys.push(Key::new(Controller::Namespace, Kind::Namespace, "", name));
            }
        }
        Delta::Deployment(..)
        | Delta::ReplicaSet(..)
        | Delta::StatefulSet(..)
        | Delta::ReplicationController(..) => {
            let namespace = new.or(old).and_then(|meta| meta.namespace.as_deref());
            for budget in world.budgets.within(namespace.unwrap_or_default()) {
                own(Kind::PodDisruptionBudget, Some(&budget.metadata), &mut keys);
            }
        }
        Delta::Job(Some(old), None) => {
            let left = world.pods.owned_by(old.uid());
            keys.extend(left.map(|pod| Key::of(Controller::PodGarbage, Kind::Pod, &pod.metadata)));
        }
        Delta::PersistentVolumeClaim(old, new) => {
            for claim in [old, new].into_iter().flatten() {
                claim_changed(world, claim, &mut keys);
            }
        }
        Delta::PersistentVolume(old, new) => {
            for volume in [old, new].into_iter().flatten() {
                match crate::storage::holder(volume) {
                    Some((namespace, name, _)) => keys.push(claim_key(namespace, name)),
                    None => unbound(world, &mut keys),
                }
            }
        }
        Delta::StorageClass(..) => unbound(world, &mut keys),
        Delta::Lease(..) => {
            let meta = new.or(old);
            if let Some(meta) = meta
                && meta.namespace.as_deref() == Some(crate::nodelife::LEASES)
            {
                let name = meta.name.as_deref().unwrap_or_default();
                keys.push(Key::new(Controller::NodeLife, Kind::Node, "", name));
            }
        }
        _ => {}
    }
    keys
}

fn own(kind: Kind, meta: Option<&Meta>, keys: &mut Vec<Key>) {
    let controller = match kind {
        Kind::Namespace => Controller::Namespace,
        Kind::Deployment => Controller::Deployment,
        Kind::ReplicaSet => Controller::ReplicaSet,
        Kind::StatefulSet => Controller::StatefulSet,
        Kind::DaemonSet => Controller::DaemonSet,
        Kind::Job => Controller::Job,
        Kind::CronJob => Controller::CronJob,
        Kind::PodDisruptionBudget => Controller::Budget,
        Kind::ReplicationController => Controller::Replication,
        Kind::PersistentVolumeClaim => Controller::Claim,
        Kind::PersistentVolume => Controller::Volume,
        _ => return,
    };
    keys.extend(meta.map(|meta| Key::of(controller, kind, meta)));
}

fn owners(kind: Kind, meta: &Meta, keys: &mut Vec<Key>) {
    if !matches!(kind, Kind::Pod | Kind::ReplicaSet | Kind::ControllerRevision | Kind::Job) {
        return;
    }
    for owner in meta.owner_references.iter().flatten() {
        if let Some(kind) = Kind::of(&owner.api_version, &owner.kind) {
            let mut of = Meta { name: Some(owner.name.clone()), ..Meta::default() };
            of.namespace = meta.namespace.clone();
            own(kind, Some(&of), keys);
        }
    }
}

/// Collection of garbage: an object is asked about when it has owners or waits for its
/// dependents; dependents are asked about when their owner goes.
fn garbage(world: &World, kind: Kind, old: Option<&Meta>, new: Option<&Meta>, keys: &mut Vec<Key>) {
    let ask = |kind, meta: &Meta| Key::of(Controller::Garbage, kind, meta);
    if let Some(new) = new {
        let owned = new.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
        let waits = new.deletion_timestamp.is_some()
            && new.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        if owned || waits {
            keys.push(ask(kind, new));
        }
        if let Some(namespace) = new.namespace.as_deref()
            && world.namespaces.get("", namespace).is_some_and(|of| of.deleting())
        {
            keys.push(Key::new(Controller::Namespace, Kind::Namespace, "", namespace));
        }
    }
    // An owner that is deleted in the foreground, or orphans, waits for its dependents.
    for owner in old.into_iter().flat_map(|old| old.owner_references.iter().flatten()) {
        let Some(kind) = world.kind_of(&owner.api_version, &owner.kind) else { continue };
        let namespace = match kind.namespaced() {
            true => old.and_then(|old| old.namespace.as_deref()).unwrap_or_default(),
            false => "",
        };
        let held = world.metadata(kind, namespace, &owner.name);
        if held.is_some_and(|held| held.deletion_timestamp.is_some()) {
            keys.push(Key::new(Controller::Garbage, kind, namespace, &owner.name));
        }
    }
    let going = new.is_none_or(|new| new.deletion_timestamp.is_some());
    if let Some(old) = old.filter(|_| going) {
        if let Some(uid) = &old.uid {
            keys.extend(world.dependents(uid).into_iter().map(|(kind, meta)| ask(kind, meta)));
        }
        if new.is_none()
            && let Some(namespace) = old.namespace.as_deref()
            && world.namespaces.get("", namespace).is_some_and(|of| of.deleting())
        {
            keys.push(Key::new(Controller::Namespace, Kind::Namespace, "", namespace));
        }
    }
}

fn pod(world: &World, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>, keys: &mut Vec<Key>) {
    let Some(any) = new.or(old) else { return };
    let namespace = any.namespace();
    for state in [old, new].into_iter().flatten() {
        for service in world.services.within(namespace) {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if selector.is_some_and(|wanted| {
                !wanted.is_empty() && labels::contains(wanted, state.labels())
            }) {
                keys.push(Key::new(
                    Controller::EndpointSlice,
                    Kind::Service,
                    namespace,
                    service.name(),
                ));
                keys.push(Key::new(
                    Controller::Endpoints,
                    Kind::Service,
                    namespace,
                    service.name(),
                ));
            }
        }
        // A Recreate deployment waits for the pods of its old ReplicaSets.
        if let Some(owner) = state.controller()
            && owner.kind == "ReplicaSet"
            && let Some(set) = world.replica_sets.get(namespace, &owner.name)
        {
            owners(Kind::ReplicaSet, &set.metadata, keys);
        }
    }
    for budget in world.budgets.within(namespace) {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let mut states = [old, new].into_iter().flatten();
        if selector.is_some_and(|wanted| states.any(|one| labels::selects(wanted, one.labels()))) {
            own(Kind::PodDisruptionBudget, Some(&budget.metadata), keys);
        }
    }
    for state in [old, new].into_iter().flatten() {
        keys.extend(crate::storage::claims(state).map(|name| claim_key(namespace, name)));
    }
    keys.push(Key::of(Controller::Scheduler, Kind::Pod, &any.metadata));
    keys.push(Key::of(Controller::PodGarbage, Kind::Pod, &any.metadata));
    // A pod that comes to a node with a NoExecute taint does not stay for ever, and one that
    // says it is ready there may have missed that its node is lost.
    if let Some(node) = new.and_then(|pod| crate::pods::node(pod))
        && world.nodes.get("", node).is_some_and(|node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
            taints.is_some_and(|taints| taints.iter().any(|taint| taint.effect == "NoExecute"))
        })
    {
        keys.push(Key::new(Controller::NodeLife, Kind::Node, "", node));
    }
    if let Some(new) = new
        && new.controller().is_none()
    {
        adopters(world, new, keys);
    }
}

fn claim_key(namespace: &str, name: &str) -> Key {
    Key::new(Controller::Claim, Kind::PersistentVolumeClaim, namespace, name)
}

/// The claims that wait for a volume.
fn unbound(world: &World, keys: &mut Vec<Key>) {
    let all = world.claims.iter().filter(|one| crate::storage::volume_name(one).is_none());
    keys.extend(all.map(|one| claim_key(one.namespace(), one.name())));
}

/// What else a change of a claim concerns: its volumes, and the StatefulSet that it may be of.
fn claim_changed(world: &World, claim: &PersistentVolumeClaim, keys: &mut Vec<Key>) {
    let (namespace, name) = (claim.namespace(), claim.name());
    let of = |one: &&Arc<PersistentVolume>| {
        crate::storage::holder(one).is_some_and(|(of, by, _)| (of, by) == (namespace, name))
    };
    for volume in world.volumes.iter().filter(of) {
        own(Kind::PersistentVolume, Some(&volume.metadata), keys);
    }
    for set in world.stateful_sets.within(namespace) {
        if set.spec.as_ref().is_some_and(|spec| spec.volume_claim_templates.is_some())
            && name.contains(set.name())
        {
            own(Kind::StatefulSet, Some(&set.metadata), keys);
        }
    }
}

/// Workloads that may adopt a pod without a managing owner.
fn adopters(world: &World, pod: &Pod, keys: &mut Vec<Key>) {
    let namespace = pod.namespace();
    for set in world.replica_sets.within(namespace) {
        if set.spec.as_ref().is_some_and(|spec| labels::selects(&spec.selector, pod.labels())) {
            own(Kind::ReplicaSet, Some(&set.metadata), keys);
        }
    }
    for set in world.replications.within(namespace) {
        let selector = set.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        if selector.is_some_and(|wanted| labels::contains(wanted, pod.labels())) {
            own(Kind::ReplicationController, Some(&set.metadata), keys);
        }
    }
    for set in world.stateful_sets.within(namespace) {
        if set.spec.as_ref().is_some_and(|spec| labels::selects(&spec.selector, pod.labels())) {
            own(Kind::StatefulSet, Some(&set.metadata), keys);
        }
    }
    for set in world.daemon_sets.within(namespace) {
        if set.spec.as_ref().is_some_and(|spec| labels::selects(&spec.selector, pod.labels())) {
            own(Kind::DaemonSet, Some(&set.metadata), keys);
        }
    }
}

fn node(world: &World, old: Option<&Arc<Node>>, new: Option<&Arc<Node>>, keys: &mut Vec<Key>) {
    let Some(any) = new.or(old) else { return };
    // Heartbeats change the status only.
    if old.map(|node| &node.spec) != new.map(|node| &node.spec) {
        keys.push(Key::new(Controller::NodeCidr, Kind::Node, "", ""));
    }
    keys.push(Key::of(Controller::NodeLife, Kind::Node, &any.metadata));
    let zone = |node: &Arc<Node>| node.labels().get(crate::endpoints::ZONE).cloned();
    let moved = old.map(zone) != new.map(zone);
    let relevant = |node| crate::endpointslice::relevant_to_hints(node);
    let shares = old.map(|node| relevant(node)) != new.map(|node| relevant(node));
    if moved || shares {
        let all = world.services.iter();
        for service in all.filter(|one| moved || crate::endpointslice::follows_cpus(one)) {
            keys.push(Key::of(Controller::EndpointSlice, Kind::Service, &service.metadata));
        }
    }
    if old.is_none() || new.is_none() {
        let of_node = |pod: &&Arc<Pod>| crate::pods::node(pod) == Some(any.name());
        for pod in world.pods.iter().filter(of_node) {
            keys.push(Key::of(Controller::PodGarbage, Kind::Pod, &pod.metadata));
        }
    }
    if !crate::scheduler::same_to_us(old, new) {
        for set in world.daemon_sets.iter() {
            keys.push(Key::of(Controller::DaemonSet, Kind::DaemonSet, &set.metadata));
        }
    }
}

fn service(any: Option<&Arc<Service>>, keys: &mut Vec<Key>) {
    let Some(service) = any else { return };
    for controller in [Controller::EndpointSlice, Controller::Endpoints] {
        keys.push(Key::of(controller, Kind::Service, &service.metadata));
    }
    keys.push(Key::of(Controller::Mirror, Kind::Endpoints, &service.metadata));
}
