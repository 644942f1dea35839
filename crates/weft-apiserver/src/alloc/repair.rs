//! Repair: Services, IPAddresses and pools are compared at the start and from time to time.
//!
//! Transactions keep them in step, so that there is something to do only after a journal of an
//! older version, a change of the flags, or an object that someone made or deleted by hand.

use super::{
    LABEL_FAMILY, LABEL_MANAGER, MANAGER, belongs_to, ip_address, ip_addresses, named, ports,
    service, services,
};
use crate::{
    server::State,
    store::{Entry, Expect, Key, Scope, Write},
    verbs::{Ctx, Part, Tracking, meta},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, hash::Hasher, net::IpAddr};
use weft_kinds::{Kind, decode::Decoded, lookup};

/// An IPAddress without its Service is left alone so long, as in kube-apiserver.
const GRACE_SECONDS: i64 = 60;

impl State {
    /// Takes over what the journal brought back.
    pub(crate) fn restore_pools(&self) {
        let all = |kind: &Kind| {
            let listed = self.store.list(self.table(kind), &Scope::default(), None, None, 0);
            listed.expect("invariant: the newest version is listed").items
        };
        let (addresses, cidrs, held) =
            (all(ip_addresses()), all(super::ranges::service_cidrs()), all(services()));
        let mut pools = self.pools();
        for (key, _) in addresses {
            if let Ok(ip) = key.name.parse() {
                pools.addresses(ip).take(ip);
            }
        }
        for (_, entry) in cidrs {
            let object = entry.value();
            let ranges = Some((meta(&object, "name").to_owned(), super::ranges::of(&object)));
            pools.apply(super::Effect { ranges, ..Default::default() });
        }
        for (_, entry) in held {
            let service = entry.value();
            ports::held(&service).into_iter().for_each(|port| pools.ports.take(port));
            // Also those whose IPAddress is missing.
            service::held_ips(&service).into_iter().for_each(|ip| pools.addresses(ip).take(ip));
        }
    }

    /// Compares and repairs; what cannot be repaired is reported by Events.
    pub(crate) fn repair_allocations(&self, now: jiff::Timestamp) {
        let list = |kind: &Kind| {
            let listed = self.store.list(self.table(kind), &Scope::default(), None, None, 0);
            listed.map(|listing| listing.items).unwrap_or_default()
        };
        let all: BTreeMap<Key, Value> =
            list(services()).into_iter().map(|(key, entry)| (key, entry.value())).collect();
        for (key, service) in &all {
            for ip in service::held_ips(service) {
                self.repair_service_address(key, service, ip, &all, now);
            }
        }
        for (key, entry) in list(ip_addresses()) {
            if entry.attrs.label(LABEL_MANAGER) == Some(MANAGER) {
                self.repair_address(&key, &entry, now);
            }
        }
        self.repair_pools(&all);
    }

    /// The IPAddress of one ClusterIP: there, labelled, and this Service's.
    fn repair_service_address(
        &self,
        key: &Key,
        service: &Value,
        ip: IpAddr,
        all: &BTreeMap<Key, Value>,
        now: jiff::Timestamp,
    ) {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        if !self.pools().ranges.iter().any(|range| range.contains(ip)) {
            let why = format!(
                "Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service"
            );
            return self.report(service, "ClusterIPOutOfRange", &why);
        }
        let address = Key::new("", &ip.to_string());
        let Some(found) = self.store.get(self.table(ip_addresses()), &address) else {
            let why = format!("Cluster IP [{family}]: {ip} is not allocated; repairing");
            self.report(service, "ClusterIPNotAllocated", &why);
            return self.replace_address(&address, None, key, ip, now);
        };
        let object = found.value();
        let parent = &object["spec"]["parentRef"];
        let text = |field: &str| parent[field].as_str().unwrap_or_default();
        if !belongs_to(&object, &key.namespace, &key.name) {
            // Two Services with one address would else take it from each other for ever.
            let rival = all
                .get(&Key::new(text("namespace"), text("name")))
                .filter(|_| text("group").is_empty() && text("resource") == "services")
                .is_some_and(|rival| service::held_ips(rival).contains(&ip));
            if rival {
                let why = format!(
                    "Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service"
                );
                return self.report(service, "ClusterIPAlreadyAllocated", &why);
            }
            let why = format!(
                "the ClusterIP [{family}]: {ip} for Service {}/{} has a wrong reference; repairing",
                key.namespace, key.name
            );
            self.report(service, "ClusterIPNotAllocated", &why);
            return self.replace_address(&address, Some(&found), key, ip, now);
        }
        let label = |name: &str| found.attrs.label(name);
        if label(LABEL_FAMILY) != Some(family) || label(LABEL_MANAGER) != Some(MANAGER) {
            self.replace_address(&address, Some(&found), key, ip, now);
        }
    }

    /// Puts the IPAddress of a Service where none or a wrong one is. Whoever changes either
    /// meanwhile wins; the next repair looks again.
    fn replace_address(
        &self,
        address: &Key,
        found: Option<&Entry>,
        service: &Key,
        ip: IpAddr,
        now: jiff::Timestamp,
    ) {
        let kind = ip_addresses();
        let time = crate::verbs::time_text(now);
        let object = ip_address(ip, &service.namespace, &service.name, &time);
        let table = self.table(services());
        let committed = self.store.commit(
            crate::store::Commit {
                table: self.table(kind),
                key: address,
                expect: found.map_or(Expect::Absent, |found| Expect::At(found.rv)),
                write: Write::Put(object),
                dry_run: false,
            },
            |v| crate::server::attrs(kind, v),
            |txn, _| {
                let still = txn
                    .get(table, service)
                    .is_some_and(|entry| service::held_ips(&entry.value()).contains(&ip));
                still.then_some(()).ok_or(())
            },
            |()| self.pools().addresses(ip).take(ip),
        );
        if committed.is_err() {
            tracing::debug!(%ip, "the IPAddress is looked at again");
        }
    }

    /// An IPAddress of ours without a Service that has it goes.
    fn repair_address(&self, key: &Key, entry: &Entry, now: jiff::Timestamp) {
        let object = entry.value();
        let parent = &object["spec"]["parentRef"];
        let text = |field: &str| parent[field].as_str().unwrap_or_default();
        let (namespace, name) = (text("namespace"), text("name"));
        let (reason, why) = if !text("group").is_empty() || text("resource") != "services" {
            let why = format!(
                "IPAddress {} appears to have been modified, not referencing a Service {}: cleaning up",
                key.name, parent
            );
            ("IPAddressNotAllocated", why)
        } else {
            let owner = self.store.get(self.table(services()), &Key::new(namespace, name));
            match owner.map(|owner| owner.value()) {
                Some(owner) => {
                    let ip = named(&object);
                    if ip.is_some_and(|ip| service::held_ips(&owner).contains(&ip)) {
                        return;
                    }
                    let why = format!(
                        "IPAddress: {} for Service {namespace}/{name} has a wrong reference; cleaning up",
                        key.name
                    );
                    ("IPAddressWrongReference", why)
                }
                None => {
                    let made = meta(&object, "creationTimestamp").parse::<jiff::Timestamp>();
                    let age = made.map_or(i64::MAX, |made| now.as_second() - made.as_second());
                    if age <= GRACE_SECONDS {
                        return;
                    }
                    let why = format!(
                        "IPAddress: {} for Service {namespace}/{name} appears to have leaked: cleaning up",
                        key.name
                    );
                    ("IPAddressNotAllocated", why)
                }
            }
        };
        self.report(&object, reason, &why);
        let options = crate::verbs::delete::DeleteOptions {
            resource_version: Some(meta(&object, "resourceVersion").to_owned()),
            ..Default::default()
        };
        if let Err(e) = self.delete(&Ctx::internal(), ip_addresses(), key, &options) {
            tracing::debug!(name = &*key.name, error = e.message(), "IPAddress not cleaned up");
        }
    }

    /// Ports that several Services have or that are outside the range are reported; the pools
    /// become what the objects say.
    fn repair_pools(&self, all: &BTreeMap<Key, Value>) {
        let mut owners: BTreeMap<u16, &Key> = BTreeMap::new();
        for (key, service) in all {
            for port in ports::held(service) {
                if self.pools().ports.covers(port.into()).is_none() {
                    let range = &self.config.node_ports;
                    let why = format!(
                        "Port {port} is not within the port range {}-{}; please recreate service",
                        range.start(),
                        range.end()
                    );
                    self.report(service, "PortOutOfRange", &why);
                } else if owners.insert(port, key).is_some() {
                    let why = format!(
                        "Port {port} was assigned to multiple services; please recreate service"
                    );
                    self.report(service, "PortAlreadyAllocated", &why);
                }
            }
        }
        // Under the store's lock, so that no Service comes or goes between the look and the change.
        self.store.look(|txn| {
            let table = self.table(services());
            let (mut held, mut ips) = (Vec::new(), Vec::new());
            for (_, entry) in txn.all(table) {
                let service = entry.value();
                held.extend(ports::held(&service));
                ips.extend(service::held_ips(&service));
            }
            let addresses = txn.all(self.table(ip_addresses()));
            ips.extend(addresses.filter_map(|(key, _)| key.name.parse::<IpAddr>().ok()));
            let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = ips.into_iter().partition(IpAddr::is_ipv4);
            let mut pools = self.pools();
            let changed = [
                pools.ports.rebuild(held.into_iter()),
                pools.v4.rebuild(v4.into_iter()),
                pools.v6.rebuild(v6.into_iter()),
            ];
            if changed.contains(&true) {
                tracing::warn!("the pools did not match the objects; repaired");
            }
        });
    }

    /// A Warning Event about an object; said again, it counts.
    pub(crate) fn report(&self, object: &Value, reason: &str, message: &str) {
        let kind = lookup("", "v1", "events").expect("invariant: a row");
        let mut ctx = Ctx::internal();
        let namespace = match meta(object, "namespace") {
            "" => "default",
            namespace => namespace,
        };
        let mut hash = std::hash::DefaultHasher::new();
        hash.write(format!("{reason} {message} {}", meta(object, "uid")).as_bytes());
        let prefix: String = meta(object, "name").chars().take(200).collect();
        // An address is no name for an Event.
        let name = format!("{}.{:016x}", prefix.replace(':', "-").trim_matches('-'), hash.finish());
        let now = ctx.now_text();
        let mut involved = json!({"kind": object["kind"], "apiVersion": object["apiVersion"],
                                  "name": meta(object, "name"), "uid": meta(object, "uid")});
        if !meta(object, "namespace").is_empty() {
            involved["namespace"] = namespace.into();
        }
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": involved, "reason": reason, "message": message, "type": "Warning",
            "source": {"component": "ipallocator-repair-controller"},
            "reportingComponent": "ipallocator-repair-controller", "reportingInstance": "",
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        tracing::warn!(object = meta(object, "name"), reason, message);
        let key = Key::new(namespace, &name);
        let again = self.change(&mut ctx, kind, &key, Part::Main, Tracking::Update, |_, old| {
            let mut new = old.clone();
            new["count"] = old["count"].as_i64().unwrap_or(0).saturating_add(1).into();
            new["lastTimestamp"] = now.as_str().into();
            Ok(new)
        });
        if again.is_err() {
            let decoded = Decoded { object: event, strict: Vec::new() };
            if let Err(e) = self.create(&mut ctx, kind, Some(namespace), decoded) {
                tracing::warn!(error = e.message(), "the Event is not stored");
            }
        }
    }
}
