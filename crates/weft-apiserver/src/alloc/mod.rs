//! ClusterIPs and node ports, given inside the transaction that stores the Service.
//!
//! As in Kubernetes, an address is taken by an IPAddress object, whoever made it, and given from
//! the ranges of ServiceCIDR objects that are ready. Both are ordinary objects of the store; the
//! pools are an index of them, brought up to date when a transaction is certain. A Service and
//! its IPAddresses change in one transaction, so that neither is ever without the other.

mod pool;
mod ports;
mod ranges;
mod repair;
mod service;
#[cfg(test)]
mod tests;

use crate::{
    Error,
    error::ApiError,
    fields,
    server::{State, attrs},
    store::{Key, Txn, Write},
    verbs::{Ctx, Part, has_finalizers, meta},
};
use ipnet::IpNet;
use pool::{Addresses, PortPool, Range};
use serde_json::{Value, json};
use service::{AllocError, Delta, Source};
use std::{net::IpAddr, ops::RangeInclusive};
use weft_kinds::{Kind, lookup, status, validate};

/// Who makes the IPAddresses of Services, as their label says.
const MANAGER: &str = "ipallocator.k8s.io";
const LABEL_MANAGER: &str = "ipaddress.kubernetes.io/managed-by";
const LABEL_FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// Everything that Services hold, and what they may be given.
#[derive(Debug, Clone)]
pub(crate) struct Pools {
    /// Whether each configured family is IPv4, the primary one first.
    families: Vec<bool>,
    ranges: Vec<Range>,
    v4: Addresses,
    v6: Addresses,
    ports: PortPool,
    /// Whether a ServiceCIDR may need its finalizer, its condition or its end.
    untended: bool,
}

/// What a transaction changes in the pools.
#[derive(Debug, Default)]
pub(crate) struct Effect {
    delta: Delta,
    /// The ranges of this ServiceCIDR become these.
    ranges: Option<(String, Vec<Range>)>,
}

impl Pools {
    pub(crate) fn new(cidrs: &[IpNet], ports: RangeInclusive<u16>) -> Result<Self, Error> {
        let families: Vec<bool> = cidrs.iter().map(|cidr| cidr.addr().is_ipv4()).collect();
        if families.iter().filter(|v4| **v4).count() > 1
            || families.iter().filter(|v4| !**v4).count() > 1
        {
            return Err(Error::Config("at most one service range of each family".into()));
        }
        Ok(Self {
            families,
            ranges: Vec::new(),
            v4: Addresses::default(),
            v6: Addresses::default(),
            ports: PortPool::new(ports),
            untended: true,
        })
    }

    /// Plans a Service; nothing is taken before the plan is applied.
    fn plan(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        random: &mut dyn FnMut() -> u128,
    ) -> Result<Delta, AllocError> {
        let mut source = Source {
            families: &self.families,
            ranges: &self.ranges,
            v4: &self.v4,
            v6: &self.v6,
            ports: &self.ports,
            random,
            dry_run,
        };
        service::plan(&mut source, new, old)
    }

    fn apply(&mut self, effect: Effect) {
        let Effect { delta, ranges } = effect;
        for ip in &delta.release_ips {
            self.addresses(*ip).release(*ip);
        }
        for ip in &delta.take_ips {
            self.addresses(*ip).take(*ip);
        }
        delta.release_ports.iter().for_each(|port| self.ports.release(*port));
        delta.take_ports.iter().for_each(|port| self.ports.take(*port));
        // A range that is going may have waited for one of these.
        self.untended |= !delta.release_ips.is_empty() && self.ranges.iter().any(|r| !r.ready);
        if let Some((owner, ranges)) = ranges {
            self.ranges.retain(|range| range.owner != owner);
            self.ranges.extend(ranges);
            self.ranges.sort_by(|a, b| a.owner.cmp(&b.owner));
            self.untended = true;
        }
    }

    fn addresses(&mut self, ip: IpAddr) -> &mut Addresses {
        if ip.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

/// The `kubernetes` Service comes back this fast, as with kube-apiserver.
const TEND_EVERY: std::time::Duration = std::time::Duration::from_secs(10);
/// Repairs are rarer: every this many times.
const REPAIR_EVERY: usize = 18;

/// Keeps the `kubernetes` Service there and repairs, until the server ends.
pub(crate) async fn run(server: crate::ApiServer) {
    for round in 1usize.. {
        tokio::select! {
            () = server.0.shutdown.cancelled() => return,
            () = tokio::time::sleep(TEND_EVERY) => {}
        }
        let kept = server.0.ensure_default_range(false);
        if let Err(e) = kept.and_then(|()| server.0.ensure_kubernetes_service()) {
            tracing::warn!(error = %e, "the kubernetes Service cannot be kept");
        }
        if round % REPAIR_EVERY == 0 {
            server.0.repair_allocations(jiff::Timestamp::now());
        }
        server.0.tend_ranges();
    }
}

fn services() -> &'static Kind {
    lookup("", "v1", "services").expect("invariant: a row")
}

fn ip_addresses() -> &'static Kind {
    lookup("networking.k8s.io", "v1", "ipaddresses").expect("invariant: a row")
}

fn is_service(kind: &Kind) -> bool {
    kind.kind == "Service" && kind.group.is_empty()
}

fn is_networking(kind: &Kind, name: &str) -> bool {
    kind.group == "networking.k8s.io" && kind.kind == name
}

/// Whether an object is validated inside the transaction, after allocation.
pub(crate) fn validates(kind: &Kind, part: Part) -> bool {
    is_service(kind) && part == Part::Main
}

/// Before defaults: what a Service's fields say about each other.
pub(crate) fn prepare(kind: &Kind, new: &mut Value, old: Option<&Value>) {
    if is_service(kind) {
        service::prepare(new, old);
    }
}

/// The object that takes an address for a Service.
fn ip_address(ip: IpAddr, namespace: &str, name: &str, now: &str) -> Value {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(), "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": now,
            "labels": {LABEL_FAMILY: family, LABEL_MANAGER: MANAGER},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    })
}

/// Whether the IPAddress says that this Service has it.
fn belongs_to(address: &Value, namespace: &str, name: &str) -> bool {
    let parent = &address["spec"]["parentRef"];
    let text = |key: &str| parent[key].as_str().unwrap_or_default();
    text("group").is_empty()
        && text("resource") == "services"
        && text("namespace") == namespace
        && text("name") == name
}

impl State {
    /// Inside the transaction of a create or an update: completes a Service with what it is
    /// given, judges it, and adds the changes of its IPAddresses. Nothing is taken in the pools
    /// until [`allocated`](Self::allocated). `None` when the update turns out to change nothing.
    pub(crate) fn allocate(
        &self,
        ctx: &Ctx,
        txn: &mut Txn<'_>,
        kind: &Kind,
        part: Part,
        old: Option<&Value>,
        write: &mut Write,
    ) -> Result<Option<Effect>, ApiError> {
        let Write::Put(new) = write else { return Ok(Some(self.release(txn, kind, old, write))) };
        if !validates(kind, part) {
            return Ok(Some(other_effect(kind, new, old.is_none())));
        }
        let mut delta = self.complete(ctx, kind, new, old)?;
        if new["spec"]["type"] == "ExternalName"
            && let Some(spec) = new["spec"].as_object_mut()
        {
            // The real API stores it and never shows it.
            spec.shift_remove("internalTrafficPolicy");
        }
        if old.is_some_and(|old| fields::same_but_times(new, old)) {
            return Ok(None);
        }
        let (namespace, name) = (meta(new, "namespace"), meta(new, "name"));
        let (addresses, now) = (ip_addresses(), ctx.now_text());
        self.let_go(txn, &mut delta, namespace, name);
        for ip in &delta.take_ips {
            let object = ip_address(*ip, namespace, name, &now);
            let key = Key::new("", &ip.to_string());
            let attrs = attrs(addresses, &object);
            txn.put(self.table(addresses), key, object, attrs);
        }
        Ok(Some(Effect { delta, ranges: None }))
    }

    /// What a create of a Service that exists is told: the real one looks at names last.
    pub(crate) fn judge(&self, ctx: &Ctx, kind: &Kind, new: &Value) -> Result<(), ApiError> {
        if !is_service(kind) {
            return Ok(());
        }
        self.complete(ctx, kind, &mut new.clone(), None).map(drop)
    }

    /// Completes a Service with what it is to be given, and judges it.
    fn complete(
        &self,
        ctx: &Ctx,
        kind: &Kind,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<Delta, ApiError> {
        let planned = self.pools().plan(new, old, ctx.dry_run, &mut rand::random::<u128>);
        let name = meta(new, "name");
        let delta = planned.map_err(|e| {
            ApiError::from(match e {
                AllocError::Invalid(errors) => status::invalid(kind, name, &errors),
                AllocError::Exhausted(why) => status::internal(why),
                AllocError::Plain(why) => status::failure(500, "", why),
            })
        })?;
        let errors = validate(kind, new, old);
        if errors.is_empty() { Ok(delta) } else { Err(status::invalid(kind, name, &errors).into()) }
    }

    /// Inside the transaction of a deletion, be it only its mark.
    pub(crate) fn release(
        &self,
        txn: &mut Txn<'_>,
        kind: &Kind,
        old: Option<&Value>,
        write: &Write,
    ) -> Effect {
        let last = match write {
            Write::Put(new) => return other_effect(kind, new, false),
            Write::Delete(last) => old.unwrap_or(last),
        };
        let mut effect = Effect::default();
        if is_service(kind) {
            effect.delta = service::release(last);
            let (namespace, name) = (meta(last, "namespace"), meta(last, "name"));
            self.let_go(txn, &mut effect.delta, namespace, name);
            // As in Kubernetes: a Service of that name made next does not find old endpoints.
            let endpoints = lookup("", "v1", "endpoints").expect("invariant: a row");
            let key = Key::new(namespace, name);
            if txn.get(self.table(endpoints), &key).is_some_and(|e| !has_finalizers(&e.value())) {
                txn.delete(self.table(endpoints), key);
            }
        } else if is_networking(kind, "IPAddress") {
            // An address that a Service has is not free, whatever becomes of its IPAddress.
            effect.delta.release_ips.extend(named(last).filter(|ip| !self.is_held(txn, last, *ip)));
        } else if is_networking(kind, "ServiceCIDR") {
            effect.ranges = Some((meta(last, "name").to_owned(), Vec::new()));
        }
        effect
    }

    /// Whether the Service that the IPAddress names has the address.
    fn is_held(&self, txn: &Txn<'_>, address: &Value, ip: IpAddr) -> bool {
        let parent = &address["spec"]["parentRef"];
        let text = |key: &str| parent[key].as_str().unwrap_or_default();
        let key = Key::new(text("namespace"), text("name"));
        text("resource") == "services"
            && txn
                .get(self.table(services()), &key)
                .is_some_and(|entry| service::held_ips(&entry.value()).contains(&ip))
    }

    /// Deletes the IPAddresses that a Service gives back. One that another has is not its own.
    fn let_go(&self, txn: &mut Txn<'_>, delta: &mut Delta, namespace: &str, name: &str) {
        let table = self.table(ip_addresses());
        delta.release_ips.retain(|ip| {
            let key = Key::new("", &ip.to_string());
            // Someone may have deleted it: then the address is free all the same.
            let own = txn.get(table, &key).is_none_or(|e| belongs_to(&e.value(), namespace, name));
            if own {
                txn.delete(table, key);
            }
            own
        });
    }

    /// The transaction is certain.
    pub(crate) fn allocated(&self, effect: Option<Effect>) {
        if let Some(effect) = effect {
            self.pools().apply(effect);
        }
    }
}

fn named(address: &Value) -> Option<IpAddr> {
    meta(address, "name").parse().ok()
}

/// What a write of another kind changes in the pools.
fn other_effect(kind: &Kind, new: &Value, created: bool) -> Effect {
    let mut effect = Effect::default();
    if is_networking(kind, "IPAddress") && created {
        effect.delta.take_ips.extend(named(new));
    } else if is_networking(kind, "ServiceCIDR") {
        effect.ranges = Some((meta(new, "name").to_owned(), ranges::of(new)));
    }
    effect
}
