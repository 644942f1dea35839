//! Where a pod may run. Each filter that fails gives a reason in Kubernetes' words.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, Taint, Toleration,
    TopologySpreadConstraint,
};

use super::node::{Amounts, HostPort, Nodes, OnNode, host_ports, requests};
use crate::kinds::World;
use crate::labels;
use crate::store::Object;

/// Why a node does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reason(pub(super) String);

/// What a pod asks of nodes, worked out once for all of them.
pub(super) struct Wants<'a> {
    world: &'a World,
    pod: &'a Pod,
    spec: &'a PodSpec,
    requests: Amounts,
    ports: Vec<HostPort>,
    spreads: Vec<Spread<'a>>,
}

struct Spread<'a> {
    constraint: &'a TopologySpreadConstraint,
    /// Matching pods by value of the topology key, over eligible nodes.
    counts: BTreeMap<&'a str, i64>,
}

impl<'a> Wants<'a> {
    pub(super) fn new(world: &'a World, nodes: &'a Nodes, pod: &'a Pod) -> Self {
        static NO_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        let spec = pod.spec.as_ref().unwrap_or(&NO_SPEC);
        let constraints = spec.topology_spread_constraints.iter().flatten();
        let spreads = constraints
            .filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
            .map(|constraint| Spread::new(constraint, spec, nodes, pod))
            .collect();
        Self { world, pod, spec, requests: requests(pod), ports: host_ports(pod), spreads }
    }
}

impl<'a> Spread<'a> {
    fn new(
        constraint: &'a TopologySpreadConstraint,
        spec: &PodSpec,
        nodes: &'a Nodes,
        pod: &Pod,
    ) -> Self {
        let mut counts = BTreeMap::new();
        for node in &nodes.all {
            let Some(domain) = node.labels.get(&constraint.topology_key) else { continue };
            if !affine(spec, &node.name, &node.labels) {
                continue;
            }
            let matching = node.pods.iter().filter(|other| {
                other.namespace() == pod.namespace()
                    && !other.deleting()
                    && constraint
                        .label_selector
                        .as_ref()
                        .is_some_and(|selector| labels::selects(selector, other.labels()))
            });
            *counts.entry(domain.as_str()).or_default() +=
                i64::try_from(matching.count()).unwrap_or(i64::MAX);
        }
        Self { constraint, counts }
    }
}

/// Why the pod cannot run on this node; `None` where it can.
pub(super) fn misfit(wants: &Wants<'_>, nodes: &Nodes, node: &OnNode) -> Option<Vec<Reason>> {
    let one = |text: String| Some(vec![Reason(text)]);
    let tolerations = wants.spec.tolerations.as_deref().unwrap_or_default();
    if node.unschedulable && !tolerates_unschedulable(tolerations) {
        return one("node(s) were unschedulable".into());
    }
    if let Some(taint) = untolerated(&node.taints, tolerations, &["NoSchedule", "NoExecute"]) {
        let value = taint.value.as_deref().unwrap_or_default();
        return one(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
    }
    if !affine(wants.spec, &node.name, &node.labels) {
        return one("node(s) didn't match Pod's node affinity/selector".into());
    }
    if wants.ports.iter().any(|port| node.ports.iter().any(|held| clash(port, held))) {
        return one("node(s) didn't have free ports for the requested pod ports".into());
    }
    let short = insufficient(&wants.requests, node);
    if !short.is_empty() {
        return Some(short);
    }
    spread_misfit(wants, node)
        .or_else(|| affinity_misfit(wants, nodes, node))
        .map(|text| vec![Reason(text.into())])
}

/// Whether a DaemonSet's pod belongs on a node: taints and node affinity only, as its
/// controller asks; room is the kubelet's business.
pub(crate) fn daemon_may_run(spec: &PodSpec, node: &Node) -> bool {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    untolerated(taints, tolerations, &["NoSchedule", "NoExecute"]).is_none()
        && affine(spec, node.name(), node.labels())
}

/// Whether a DaemonSet's pod that is on a node already may stay there.
pub(crate) fn daemon_may_stay(spec: &PodSpec, node: &Node) -> bool {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    untolerated(taints, tolerations, &["NoExecute"]).is_none()
        && affine(spec, node.name(), node.labels())
}

fn tolerates_unschedulable(tolerations: &[Toleration]) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    tolerations.iter().any(|toleration| tolerates(toleration, &taint))
}

/// The first taint with one of the effects that nothing tolerates.
pub(super) fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    taints.iter().find(|taint| {
        effects.contains(&taint.effect.as_str())
            && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let exists = toleration.operator.as_deref() == Some("Exists");
    if key.is_empty() {
        return exists;
    }
    key == taint.key
        && (exists
            || toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default())
}

/// nodeSelector and required node affinity.
pub(super) fn affine(spec: &PodSpec, name: &str, held: &BTreeMap<String, String>) -> bool {
    let selected =
        spec.node_selector.as_ref().is_none_or(|selector| labels::contains(selector, held));
    let required =
        spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()).and_then(
            |affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref(),
        );
    selected
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|one| term(one, name, held))
        })
}

/// One node selector term. An empty one selects nothing.
pub(super) fn term(term: &NodeSelectorTerm, name: &str, held: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = name.to_owned();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|want| {
            let values = want.values.as_deref().unwrap_or_default();
            labels::requirement(&want.operator, held.get(&want.key), values)
        })
        && fields.iter().all(|want| {
            let values = want.values.as_deref().unwrap_or_default();
            want.key == "metadata.name" && labels::requirement(&want.operator, Some(&name), values)
        })
}

fn clash(wanted: &HostPort, held: &HostPort) -> bool {
    wanted.1 == held.1
        && wanted.2 == held.2
        && (wanted.0 == held.0 || wanted.0.is_empty() || held.0.is_empty())
}

fn insufficient(requests: &Amounts, node: &OnNode) -> Vec<Reason> {
    // A node that does not say what it has is taken to have enough (a fresh lab node).
    if node.allocatable.is_empty() {
        return Vec::new();
    }
    let lacks = |name: &String, wanted: i64| {
        let limit = node.allocatable.get(name).copied().unwrap_or(0);
        let used = node.used.get(name).copied().unwrap_or(0);
        wanted > 0 && used.saturating_add(wanted) > limit
    };
    requests
        .iter()
        .filter(|(name, wanted)| lacks(name, **wanted))
        .map(|(name, _)| match name.as_str() {
            "pods" => Reason("Too many pods".into()),
            name => Reason(format!("Insufficient {name}")),
        })
        .collect()
}

fn spread_misfit(wants: &Wants<'_>, node: &OnNode) -> Option<&'static str> {
    for spread in &wants.spreads {
        let Some(domain) = node.labels.get(&spread.constraint.topology_key) else {
            return Some(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            );
        };
        let enough = spread
            .constraint
            .min_domains
            .is_none_or(|least| i32::try_from(spread.counts.len()).unwrap_or(i32::MAX) >= least);
        let fewest = match enough {
            true => spread.counts.values().min().copied().unwrap_or(0),
            false => 0,
        };
        let selector = spread.constraint.label_selector.as_ref();
        let itself = selector.is_some_and(|selector| labels::selects(selector, wants.pod.labels()));
        let count = spread.counts.get(domain.as_str()).copied().unwrap_or(0) + i64::from(itself);
        if count - fewest > i64::from(spread.constraint.max_skew) {
            return Some("node(s) didn't match pod topology spread constraints");
        }
    }
    None
}

fn affinity_misfit(wants: &Wants<'_>, nodes: &Nodes, node: &OnNode) -> Option<&'static str> {
    // Those that are already there.
    for (other, at) in &nodes.repellers {
        let affinity = other.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
        let terms = affinity
            .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
            .and_then(|anti| anti.required_during_scheduling_ignored_during_execution.as_deref());
        for term in terms.unwrap_or_default() {
            if same_domain(&nodes.all[*at], node, &term.topology_key)
                && meant(wants.world, term, other, wants.pod)
            {
                return Some("node(s) didn't satisfy existing pods anti-affinity rules");
            }
        }
    }
    let affinity = wants.spec.affinity.as_ref()?;
    let anti = affinity
        .pod_anti_affinity
        .as_ref()
        .and_then(|anti| anti.required_during_scheduling_ignored_during_execution.as_deref());
    for term in anti.unwrap_or_default() {
        if anyone(wants, nodes, term, Some(node)) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
    }
    let with = affinity
        .pod_affinity
        .as_ref()
        .and_then(|with| with.required_during_scheduling_ignored_during_execution.as_deref());
    for term in with.unwrap_or_default() {
        if !node.labels.contains_key(&term.topology_key) {
            return Some("node(s) didn't match pod affinity rules");
        }
        // The first pod of a group that wants to be together may go anywhere.
        let first =
            meant(wants.world, term, wants.pod, wants.pod) && !anyone(wants, nodes, term, None);
        if !first && !anyone(wants, nodes, term, Some(node)) {
            return Some("node(s) didn't match pod affinity rules");
        }
    }
    None
}

fn same_domain(one: &OnNode, other: &OnNode, key: &str) -> bool {
    one.labels.get(key).is_some_and(|value| other.labels.get(key) == Some(value))
}

/// Whether a pod that the term means runs in the domain of `near` (anywhere where absent).
fn anyone(wants: &Wants<'_>, nodes: &Nodes, term: &PodAffinityTerm, near: Option<&OnNode>) -> bool {
    nodes
        .all
        .iter()
        .filter(|node| near.is_none_or(|near| same_domain(node, near, &term.topology_key)))
        .any(|node| node.pods.iter().any(|pod| meant(wants.world, term, wants.pod, pod)))
}

/// Whether the term of `holder` means `pod`.
fn meant(world: &World, term: &PodAffinityTerm, holder: &Pod, pod: &Pod) -> bool {
    let named = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match &term.namespace_selector {
        None if named.is_empty() => holder.namespace() == pod.namespace(),
        selector => {
            named.iter().any(|name| name == pod.namespace())
                || selector.as_ref().is_some_and(|selector| {
                    world
                        .namespaces
                        .get("", pod.namespace())
                        .is_some_and(|of| labels::selects(selector, of.labels()))
                })
        }
    };
    in_namespace
        && term
            .label_selector
            .as_ref()
            .is_some_and(|selector| labels::selects(selector, pod.labels()))
}
