//! Topology hints: which zone or node an endpoint shall serve.
//!
//! Two ways to ask for them. `spec.trafficDistribution` names an endpoint's own zone (and node).
//! The annotation `service.kubernetes.io/topology-mode: Auto` (KEP-2433) gives every zone its
//! share of the endpoints after its share of the CPUs, and gives no hints where that would
//! overload a zone. The annotation wins.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForNode, ForZone};

use super::place::Draft;
use crate::endpoints::ZONE;
use crate::kinds::World;
use crate::quantity;
use crate::store::Object;

/// By how much an endpoint may be loaded beyond its share.
const OVERLOAD: f64 = 0.2;
const MODE: &str = "service.kubernetes.io/topology-mode";
const MODE_BEFORE: &str = "service.kubernetes.io/topology-aware-hints";
/// Nodes with these labels carry no workload to speak of.
const EXCLUDED: [&str; 2] =
    ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// What a Service asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    None,
    /// Hints in proportion to the zones' CPUs.
    Auto,
    /// The endpoint's own zone, and its own node where `nodes` is set.
    Close {
        nodes: bool,
    },
}

/// The older spelling of the annotation wins over the newer one, and both over the field.
pub(crate) fn mode(service: &Service) -> Mode {
    let annotation = service.annotation(MODE_BEFORE).or_else(|| service.annotation(MODE));
    if matches!(annotation, Some("Auto" | "auto")) {
        return Mode::Auto;
    }
    let spec = service.spec.as_ref();
    match spec.and_then(|spec| spec.traffic_distribution.as_deref()) {
        Some("PreferClose" | "PreferSameZone") => Mode::Close { nodes: false },
        Some("PreferSameNode") => Mode::Close { nodes: true },
        _ => Mode::None,
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|all| all.ready) == Some(true)
}

/// Takes all hints away.
pub(crate) fn clear(drafts: &mut [Draft]) {
    for draft in drafts {
        for endpoint in &mut draft.endpoints {
            draft.changed |= endpoint.hints.take().is_some();
        }
    }
}

/// Each ready endpoint is for its own zone, and for its own node.
pub(crate) fn close(drafts: &mut [Draft], nodes: bool) {
    let wanted = |endpoint: &Endpoint| {
        let zones = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
        let nodes = endpoint.node_name.clone().filter(|_| nodes);
        let nodes = nodes.map(|name| vec![ForNode { name }]);
        (zones.is_some() || nodes.is_some())
            .then_some(EndpointHints { for_zones: zones, for_nodes: nodes })
    };
    for draft in drafts {
        for endpoint in draft.endpoints.iter_mut().filter(|endpoint| is_ready(endpoint)) {
            let hints = wanted(endpoint);
            if endpoint.hints != hints {
                endpoint.hints = hints;
                draft.changed = true;
            }
        }
    }
}

/// Each zone's share of the CPUs; `None` where a node does not tell its zone or its CPUs, or
/// where there is one zone only.
pub(crate) fn ratios(world: &World) -> Option<BTreeMap<String, f64>> {
    let mut by_zone: BTreeMap<String, i64> = BTreeMap::new();
    for node in world.nodes.iter().filter(|node| counts(node)) {
        let (zone, cpu) = (zone(node)?, cpu(node).filter(|cpu| *cpu > 0)?);
        let sum = by_zone.entry(zone.to_owned()).or_default();
        *sum = sum.saturating_add(cpu);
    }
    let total = by_zone.values().fold(0i64, |sum, cpu| sum.saturating_add(*cpu));
    if by_zone.len() < 2 || total == 0 {
        return None;
    }
    let share = |cpu: i64| cpu as f64 / total as f64;
    Some(by_zone.into_iter().map(|(zone, cpu)| (zone, share(cpu))).collect())
}

/// Whether a node's CPUs count.
fn counts(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|one| one.type_ == "Ready");
    !EXCLUDED.iter().any(|label| node.labels().contains_key(*label))
        && ready.is_some_and(|ready| ready.status == "True")
}

fn zone(node: &Node) -> Option<&str> {
    node.labels().get(ZONE).map(String::as_str).filter(|zone| !zone.is_empty())
}

/// Thousandths of a CPU.
fn cpu(node: &Node) -> Option<i64> {
    quantity::milli(node.status.as_ref()?.allocatable.as_ref()?.get("cpu")?)
}

/// What of a node the shares follow from.
pub(crate) fn relevant(node: &Node) -> (bool, Option<&str>, Option<i64>) {
    (counts(node), zone(node), cpu(node))
}

/// How many endpoints a zone shall have.
struct Allocation {
    minimum: usize,
    maximum: usize,
    desired: f64,
}

/// Gives every zone its share. Where that cannot be, takes all hints away and says why.
pub(crate) fn proportional(
    drafts: &mut [Draft],
    ratios: Option<&BTreeMap<String, f64>>,
) -> Result<(), String> {
    let total = drafts.iter().flat_map(|draft| &draft.endpoints).filter(|one| is_ready(one));
    let total = total.count();
    let done = allocations(ratios, total).and_then(|shares| assign(drafts, &shares));
    if done.is_err() {
        clear(drafts);
    }
    done
}

fn allocations(
    ratios: Option<&BTreeMap<String, f64>>,
    total: usize,
) -> Result<BTreeMap<String, Allocation>, String> {
    let Some(ratios) = ratios else {
        return Err("Insufficient Node information: allocatable CPU or zone not specified on one \
                    or more nodes"
            .into());
    };
    let zones = ratios.len();
    let amounts = format!("({total} endpoints, {zones} zones)");
    if zones > total {
        return Err(format!("Insufficient number of endpoints {amounts}"));
    }
    let mut all = BTreeMap::new();
    let mut least = 0;
    for (zone, ratio) in ratios {
        let desired = ratio * total as f64;
        // The same order of operations as in Kubernetes, so that the rounding is the same.
        let minimum = (desired * (1.0 / (1.0 + OVERLOAD))).ceil();
        least += minimum as usize;
        let desired = desired.max(minimum);
        all.insert(zone.clone(), Allocation { minimum: minimum as usize, maximum: 0, desired });
    }
    if least > total {
        return Err(format!(
            "Unable to allocate minimum required endpoints to each zone without exceeding \
             overload threshold {amounts}"
        ));
    }
    for share in all.values_mut() {
        share.maximum = share.minimum + total - least;
    }
    Ok(all)
}

fn assign(drafts: &mut [Draft], shares: &BTreeMap<String, Allocation>) -> Result<(), String> {
    let mut given: BTreeMap<String, usize> = BTreeMap::new();
    for draft in drafts.iter_mut().filter(|draft| !draft.changed) {
        match still_right(draft, &given, shares) {
            Some(hints) => {
                hints.into_iter().for_each(|(zone, n)| *given.entry(zone).or_default() += n);
            }
            None => draft.changed = true,
        }
    }
    // First everybody serves the own zone, then some are lent.
    for endpoint in
        drafts.iter_mut().filter(|draft| draft.changed).flat_map(|one| &mut one.endpoints)
    {
        endpoint.hints = None;
        if !is_ready(endpoint) {
            continue;
        }
        let Some(zone) = endpoint.zone.as_ref().filter(|zone| !zone.is_empty()) else {
            return Err("One or more endpoints do not have a zone specified".into());
        };
        *given.entry(zone.clone()).or_default() += 1;
        endpoint.hints = for_zone(zone);
    }
    if given.is_empty() {
        return Err("No hints allocated for zones".into());
    }
    let (mut giving, mut receiving) = transfers(&given, shares);
    for endpoint in
        drafts.iter_mut().filter(|draft| draft.changed).flat_map(|one| &mut one.endpoints)
    {
        let Some(zone) = endpoint.zone.clone().filter(|_| is_ready(endpoint)) else { continue };
        let Some(left) = giving.get_mut(&zone).filter(|left| **left > 0) else { continue };
        let Some((to, wants)) = receiving.iter_mut().find(|(_, wants)| **wants > 0) else { break };
        endpoint.hints = for_zone(to);
        *left -= 1;
        *wants -= 1;
    }
    Ok(())
}

fn for_zone(zone: &str) -> Option<EndpointHints> {
    let zones = vec![ForZone { name: zone.to_owned() }];
    Some(EndpointHints { for_zones: Some(zones), for_nodes: None })
}

/// The hints of a slice by zone, if it can stay as it is: every ready endpoint has one, for a
/// zone that wants some, and none has more than leaves the others their minimum.
fn still_right(
    draft: &Draft,
    given: &BTreeMap<String, usize>,
    shares: &BTreeMap<String, Allocation>,
) -> Option<BTreeMap<String, usize>> {
    let mut hints: BTreeMap<String, usize> = BTreeMap::new();
    for endpoint in draft.endpoints.iter().filter(|endpoint| is_ready(endpoint)) {
        let zones = endpoint.hints.as_ref()?.for_zones.as_ref().filter(|all| !all.is_empty())?;
        for zone in zones {
            shares.get(&zone.name)?;
            *hints.entry(zone.name.clone()).or_default() += 1;
        }
    }
    let fits = |(zone, n): (&String, &usize)| {
        let before = given.get(zone).copied().unwrap_or(0);
        shares.get(zone).is_some_and(|share| before + n <= share.maximum)
    };
    hints.iter().all(fits).then_some(hints)
}

/// How many endpoints each zone lends and borrows, in whole numbers.
fn transfers(
    given: &BTreeMap<String, usize>,
    shares: &BTreeMap<String, Allocation>,
) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let (mut too_many, mut too_few) = (BTreeMap::new(), BTreeMap::new());
    for (zone, share) in shares {
        let difference = given.get(zone).copied().unwrap_or(0) as f64 - share.desired;
        if difference > 0.0 {
            too_many.insert(zone.as_str(), difference);
        } else if difference < 0.0 {
            too_few.insert(zone.as_str(), -difference);
        }
    }
    let (mut giving, mut receiving) = (BTreeMap::new(), BTreeMap::new());
    while let (Some((from, gives)), Some((to, wants))) = (most(&too_many), most(&too_few)) {
        if (gives < 1.0 && wants < 1.0) || gives < 0.5 || wants < 0.5 {
            break;
        }
        *giving.entry(from.to_owned()).or_default() += 1;
        *receiving.entry(to.to_owned()).or_default() += 1;
        too_many.entry(from).and_modify(|left| *left -= 1.0);
        too_few.entry(to).and_modify(|left| *left -= 1.0);
    }
    (giving, receiving)
}

fn most<'a>(zones: &BTreeMap<&'a str, f64>) -> Option<(&'a str, f64)> {
    let positive = zones.iter().filter(|(_, amount)| **amount > 0.0);
    positive.max_by(|one, other| one.1.total_cmp(other.1)).map(|(zone, amount)| (*zone, *amount))
}
