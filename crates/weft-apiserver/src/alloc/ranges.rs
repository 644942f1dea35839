//! ServiceCIDR objects: what they give, their finalizer, their condition and their end.
//!
//! kube-controller-manager does this a moment after each change; here it is done right after the
//! request that made it necessary.

use super::{LABEL_MANAGER, MANAGER, Range, ip_addresses};
use crate::{
    server::State,
    store::{Key, Scope},
    verbs::{Ctx, Part, Tracking, meta},
};
use serde_json::{Value, json};
use weft_kinds::{Kind, address::parse_cidr, lookup};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// The ServiceCIDR that the flags describe.
const DEFAULT: &str = "kubernetes";

pub(super) fn service_cidrs() -> &'static Kind {
    lookup("networking.k8s.io", "v1", "servicecidrs").expect("invariant: a row")
}

/// The ranges of a ServiceCIDR. Without a condition it counts as ready.
pub(super) fn of(object: &Value) -> Vec<Range> {
    let ready = ready_condition(object).is_none_or(|c| c["status"] == "True")
        && object["metadata"]["deletionTimestamp"].is_null();
    let cidrs = object["spec"]["cidrs"].as_array();
    cidrs
        .into_iter()
        .flatten()
        .filter_map(|cidr| parse_cidr(cidr.as_str()?))
        .map(|net| Range { owner: meta(object, "name").to_owned(), net: net.trunc(), ready })
        .collect()
}

fn ready_condition(object: &Value) -> Option<&Value> {
    let all = object.pointer("/status/conditions")?.as_array()?;
    all.iter().find(|condition| condition["type"] == "Ready")
}

fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Sets the Ready condition; its time says since when it has its status.
fn set_ready(object: &mut Value, status: &str, reason: &str, message: &str, now: &str) {
    let old = ready_condition(object).cloned();
    let same = |key: &str, value: &str| old.as_ref().is_some_and(|old| old[key] == value);
    if same("status", status) && same("reason", reason) && same("message", message) {
        return;
    }
    let condition = json!({"type": "Ready", "status": status, "reason": reason,
                           "message": message, "lastTransitionTime": now});
    let all = object.pointer("/status/conditions").and_then(Value::as_array);
    let mut all: Vec<Value> =
        all.into_iter().flatten().filter(|c| c["type"] != "Ready").cloned().collect();
    all.push(condition);
    object["status"]["conditions"] = all.into();
}

/// What the object should be: finalizer and condition of one that lives, the reason why one that
/// is being deleted still waits, or the end.
fn tended(object: &Value, needed: bool, now: &str) -> Value {
    let mut new = object.clone();
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    let mut finalizers: Vec<Value> = finalizers.cloned().unwrap_or_default();
    if !is_deleting(object) {
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        set_ready(&mut new, "True", "", "Kubernetes Service CIDR is ready", now);
    } else if needed {
        let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them \
                   or create a new ServiceCIDR";
        set_ready(&mut new, "False", "Terminating", why, now);
    } else {
        finalizers.retain(|f| f != FINALIZER);
    }
    new["metadata"]["finalizers"] = finalizers.into();
    new
}

impl State {
    /// Creates the ServiceCIDR of the flags where it is missing, and gives it the second family
    /// when the flags have one more than before.
    /// At the start, flags that say something else are reported.
    pub(crate) fn ensure_default_range(&self, start: bool) -> Result<(), crate::Error> {
        let ctx = &mut Ctx::internal();
        let cidrs: Vec<String> =
            self.config.service_cidrs.iter().map(|cidr| cidr.trunc().to_string()).collect();
        if cidrs.is_empty() {
            return Ok(());
        }
        let kind = service_cidrs();
        let key = Key::new("", DEFAULT);
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                            "metadata": {"name": DEFAULT}, "spec": {"cidrs": cidrs}});
        let made = match self.store.get(self.table(kind), &key).map(|entry| entry.value()) {
            None => {
                let decoded = weft_kinds::decode::Decoded { object, strict: Vec::new() };
                self.create(ctx, kind, None, decoded).map(drop)
            }
            Some(old) => {
                let before = old["spec"]["cidrs"].as_array().cloned().unwrap_or_default();
                if before.len() == 1 && cidrs.len() == 2 && before[0] == *cidrs[0] {
                    self.change(ctx, kind, &key, Part::Main, Tracking::Update, |_, old| {
                        let mut new = old.clone();
                        new["spec"]["cidrs"] = json!(cidrs);
                        Ok(new)
                    })
                    .map(drop)
                } else {
                    if start && json!(before) != json!(cidrs) {
                        let text = |v: &[Value]| {
                            let all: Vec<&str> = v.iter().filter_map(Value::as_str).collect();
                            all.join(" ")
                        };
                        let message = format!(
                            "The default ServiceCIDR [{}] does not match the controller flag \
                             configurations [{}]",
                            text(&before),
                            cidrs.join(" ")
                        );
                        self.report(&old, "KubernetesDefaultServiceCIDRInconsistent", &message);
                    }
                    Ok(())
                }
            }
        };
        made.map_err(|e| crate::Error::Config(format!("ServiceCIDR {DEFAULT}: {}", e.message())))
    }

    /// Does for ServiceCIDRs what the last requests made necessary.
    pub(crate) fn tend_ranges(&self) {
        if !std::mem::take(&mut self.pools().untended) {
            return;
        }
        let mut ctx = Ctx::internal();
        let kind = service_cidrs();
        let Ok(all) = self.store.list(self.table(kind), &Scope::default(), None, None, 0) else {
            return;
        };
        for (key, entry) in all.items {
            let object = entry.value();
            let needed = is_deleting(&object) && self.is_needed(&object);
            let now = ctx.now_text();
            let outcome =
                self.change(&mut ctx, kind, &key, Part::Main, Tracking::Update, |_, old| {
                    Ok(tended(old, needed, &now))
                });
            // Gone meanwhile is as good; another change will have this looked at again.
            if let Err(e) = outcome
                && e.code() != 404
            {
                tracing::warn!(name = &*key.name, error = e.message(), "ServiceCIDR not tended");
            }
        }
    }

    /// Whether an address of a Service is in this ServiceCIDR and in no other that stays.
    fn is_needed(&self, object: &Value) -> bool {
        let name = meta(object, "name");
        let others: Vec<Range> =
            self.pools().ranges.iter().filter(|r| r.owner != name && r.ready).cloned().collect();
        let own: Vec<Range> = of(object)
            .into_iter()
            .filter(|range| !others.iter().any(|other| other.covers(&range.net)))
            .collect();
        if own.is_empty() {
            return false;
        }
        let addresses = self.table(ip_addresses());
        let Ok(all) = self.store.list(addresses, &Scope::default(), None, None, 0) else {
            return true;
        };
        all.items.iter().filter(|(_, e)| e.attrs.label(LABEL_MANAGER) == Some(MANAGER)).any(
            |(key, _)| {
                let Ok(ip) = key.name.parse() else { return false };
                own.iter().any(|r| r.contains(ip)) && !others.iter().any(|r| r.contains(ip))
            },
        )
    }
}
