//! Pods nobody will ever finish: those of nodes that are gone, deleted ones without a node, and
//! those that wait to be counted by a Job that is gone.

use jiff::{SignedDuration, Timestamp};

use crate::action::{Action, Delete, Plan};
use crate::config::Config;
use crate::kinds::{Kind, World};
use crate::pods;
use crate::store::Object;

/// The node that a pod names and that is not there.
pub(crate) fn missing_node<'a>(world: &'a World, namespace: &str, name: &str) -> Option<&'a str> {
    let node = pods::node(world.pods.get(namespace, name)?)?;
    world.nodes.get("", node).is_none().then_some(node)
}

/// Whether one pod is garbage. `missing_since`: when its node was first seen missing.
pub(crate) fn plan(
    world: &World,
    config: &Config,
    missing_since: Timestamp,
    namespace: &str,
    name: &str,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let Some(pod) = world.pods.get(namespace, name) else { return plan };
    if let Some(release) = crate::job::abandoned(world, pod) {
        plan.push(release);
        return plan;
    }
    let at_once = Delete { grace_seconds: Some(0), ..Delete::default() };
    match pods::node(pod) {
        None if pod.deleting() => {
            plan.push(Action::delete_with(Kind::Pod, &pod.metadata, at_once));
        }
        Some(node) if world.nodes.get("", node).is_none() => {
            // A pod may name its node before the node has registered, and a node may come back.
            let grace = SignedDuration::try_from(config.orphan_pod_grace);
            let at = missing_since.saturating_add(grace.unwrap_or(SignedDuration::MAX));
            match at.unwrap_or(Timestamp::MAX) {
                at if at <= now => {
                    plan.push(Action::delete_with(Kind::Pod, &pod.metadata, at_once));
                }
                at => plan.ask_again(at),
            }
        }
        _ => {}
    }
    plan
}
