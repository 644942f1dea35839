//! What every namespace has, and how one ends: its contents first, then its finalizer.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::action::{Action, Plan, Verb, value};
use crate::config::Config;
use crate::kinds::{Kind, Meta, World};
use crate::store::Object;

const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";

/// Gives a namespace its defaults, or takes everything from it.
pub(crate) fn plan(world: &World, config: &Config, name: &str, now: Timestamp) -> Plan {
    let Some(namespace) = world.namespaces.get("", name) else { return Plan::default() };
    if namespace.deleting() {
        return end(world, namespace, now);
    }
    let mut plan = Plan::default();
    let meta =
        |of: &str| Meta { name: Some(of.into()), namespace: Some(name.into()), ..Meta::default() };
    if world.service_accounts.get(name, "default").is_none() {
        let account = ServiceAccount { metadata: meta("default"), ..ServiceAccount::default() };
        plan.push(Action::create(Kind::ServiceAccount, &account));
    }
    if config.ca_pem.is_empty() {
        return plan;
    }
    match world.config_maps.get(name, ROOT_CA) {
        None => {
            let map = ConfigMap {
                metadata: meta(ROOT_CA),
                data: Some([(ROOT_CA_KEY.into(), config.ca_pem.clone())].into()),
                ..ConfigMap::default()
            };
            plan.push(Action::create(Kind::ConfigMap, &map));
        }
        Some(held) => {
            let current = held.data.as_ref().and_then(|data| data.get(ROOT_CA_KEY));
            if current != Some(&config.ca_pem) && !held.deleting() {
                let body = json!({"data": {ROOT_CA_KEY: config.ca_pem}});
                plan.push(Action::merge(Kind::ConfigMap, &held.metadata, None, body));
            }
        }
    }
    plan
}

/// Deletes what the watches show, and says in the status what is left of it. Once nothing is,
/// one sweep asks the API for every kind it serves and, when the namespace is empty, lets it go.
fn end(world: &World, namespace: &Namespace, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut contents = world.contents(namespace.name());
    // Pods first (KEP-5080): what protects them, a NetworkPolicy for one, outlives them.
    if contents.iter().any(|(kind, _)| *kind == Kind::Pod) {
        contents.retain(|(kind, _)| *kind == Kind::Pod);
    }
    let alive = contents.iter().filter(|(_, meta)| meta.deletion_timestamp.is_none());
    plan.actions = alive.map(|(kind, meta)| Action::delete(*kind, meta)).collect();
    if !plan.actions.is_empty() {
        return plan;
    }
    report(namespace, &remains(&contents), now, &mut plan);
    if contents.is_empty() && world.others_synced() {
        plan.push(Action::on(Kind::Namespace, &namespace.metadata, Verb::Sweep));
    }
    plan
}

/// Type, whether there is a problem, reason and message.
type Finding = (&'static str, bool, &'static str, String);

fn remains(contents: &[(Kind, &Meta)]) -> [Finding; 5] {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (kind, meta) in contents {
        let group = kind.api_version().rsplit_once('/').map_or("", |(group, _)| group);
        *kinds.entry(format!("{}.{group}", kind.plural())).or_default() += 1;
        for finalizer in meta.finalizers.iter().flatten() {
            *finalizers.entry(finalizer).or_default() += 1;
        }
    }
    let kinds: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{kind} has {count} resource instances"))
        .collect();
    let finalizers: Vec<String> = finalizers
        .iter()
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect();
    let content = match kinds.is_empty() {
        true => ("ContentRemoved", "All content successfully removed".to_owned()),
        false => {
            ("SomeResourcesRemain", format!("Some resources are remaining: {}", kinds.join(", ")))
        }
    };
    let held = match finalizers.is_empty() {
        true => ("ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned()),
        false => (
            "SomeFinalizersRemain",
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                finalizers.join(", ")
            ),
        ),
    };
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".into(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".into(),
        ),
        (
            "NamespaceDeletionContentFailure",
            false,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".into(),
        ),
        ("NamespaceContentRemaining", !kinds.is_empty(), content.0, content.1),
        ("NamespaceFinalizersRemaining", !finalizers.is_empty(), held.0, held.1),
    ]
}

/// Writes the findings where they differ. Numbers that fall by the moment are written once a
/// second.
fn report(namespace: &Namespace, findings: &[Finding], now: Timestamp, plan: &mut Plan) {
    let held = namespace.status.as_ref().and_then(|status| status.conditions.as_deref());
    let held = held.unwrap_or_default();
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let text = |problem: bool| if problem { "True" } else { "False" };
    let mut next = Vec::new();
    let mut latest = None;
    for (kind, problem, reason, message) in findings {
        let before = held.iter().find(|one| one.type_ == *kind);
        let same = before.filter(|one| {
            one.status == text(*problem)
                && one.reason.as_deref() == Some(*reason)
                && one.message.as_deref() == Some(message)
        });
        if same.is_none() {
            next.push(json!({"type": kind, "status": text(*problem), "reason": reason,
                "message": message, "lastTransitionTime": value(&Time(now))}));
            let only_message = before.filter(|one| one.status == text(*problem));
            let time = only_message.and_then(|one| one.last_transition_time.as_ref());
            latest = latest.max(time.map(|time| time.0));
        }
    }
    if next.is_empty() || (held.is_empty() && findings.iter().all(|(_, problem, ..)| !problem)) {
        return;
    }
    if let Some(at) = latest.and_then(|at| at.checked_add(SignedDuration::from_secs(1)).ok())
        && at > now
    {
        return plan.ask_again(at);
    }
    let body = json!({"metadata": {"uid": namespace.uid()}, "status": {"conditions": next}});
    plan.push(Action::strategic(Kind::Namespace, &namespace.metadata, Some("status"), body));
}
