//! What every namespace has, and how one ends: its contents first, then its finalizer.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use serde_json::json;

use crate::action::{Action, Plan, Verb};
use crate::config::Config;
use crate::kinds::{Kind, Meta, World};
use crate::store::Object;

const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";

/// Gives a namespace its defaults, or takes everything from it.
pub(crate) fn plan(world: &World, config: &Config, name: &str, _now: Timestamp) -> Plan {
    let Some(namespace) = world.namespaces.get("", name) else { return Plan::default() };
    if namespace.deleting() {
        return end(world, &namespace.metadata, name).into();
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

/// Deletes what the watches show. Once nothing of that is left, one sweep asks the API for
/// every other kind it serves and, when the namespace is empty, lets it go.
fn end(world: &World, meta: &Meta, name: &str) -> Vec<Action> {
    let contents = world.contents(name);
    if contents.is_empty() {
        return vec![Action::on(Kind::Namespace, meta, Verb::Sweep)];
    }
    contents
        .into_iter()
        .filter(|(_, meta)| meta.deletion_timestamp.is_none())
        .map(|(kind, meta)| Action::delete(kind, meta))
        .collect()
}
