//! The subsets of Endpoints in the one form that Kubernetes writes: addresses with the same ports
//! together, ports with the same addresses together, everything in order.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};

/// Addresses in one Endpoints object, at most.
pub(crate) const ADDRESSES_MAX: usize = 1000;

/// Two pods may share an address (host network), so the pod's uid is part of the key.
type AddressKey = (String, String);
/// Name, protocol, number and application protocol; `None` where the subset has no ports.
type PortKey = Option<(String, String, i32, Option<String>)>;

/// Brings subsets into their one form. An address that is ready in one subset and not in another
/// with the same port counts as not ready.
pub(crate) fn repack(subsets: &[EndpointSubset]) -> Vec<EndpointSubset> {
    let mut addresses: BTreeMap<AddressKey, EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<PortKey, BTreeMap<AddressKey, bool>> = BTreeMap::new();
    for subset in subsets {
        let ready = subset.addresses.iter().flatten().map(|one| (one, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|one| (one, false));
        let ports: Vec<PortKey> = match subset.ports.as_deref().unwrap_or_default() {
            [] => vec![None],
            ports => ports.iter().map(|port| Some(port_key(port))).collect(),
        };
        for (address, is_ready) in ready.chain(not_ready) {
            let key = address_key(address);
            addresses.entry(key.clone()).or_insert_with(|| address.clone());
            for port in &ports {
                let held = by_port.entry(port.clone()).or_default().entry(key.clone());
                *held.or_insert(is_ready) &= is_ready;
            }
        }
    }
    let mut by_addresses: BTreeMap<BTreeMap<AddressKey, bool>, Vec<EndpointPort>> = BTreeMap::new();
    for (port, held) in by_port {
        by_addresses.entry(held).or_default().extend(port.map(endpoint_port));
    }
    let pick = |held: &BTreeMap<AddressKey, bool>, wanted: bool| {
        let all = held.iter().filter(|(_, ready)| **ready == wanted);
        let all: Vec<_> = all.filter_map(|(key, _)| addresses.get(key).cloned()).collect();
        (!all.is_empty()).then_some(all)
    };
    by_addresses
        .into_iter()
        .map(|(held, ports)| EndpointSubset {
            addresses: pick(&held, true),
            not_ready_addresses: pick(&held, false),
            ports: (!ports.is_empty()).then_some(ports),
        })
        .collect()
}

fn address_key(address: &EndpointAddress) -> AddressKey {
    let uid = address.target_ref.as_ref().and_then(|target| target.uid.clone());
    (address.ip.clone(), uid.unwrap_or_default())
}

fn port_key(port: &EndpointPort) -> (String, String, i32, Option<String>) {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
    (port.name.clone().unwrap_or_default(), protocol, port.port, port.app_protocol.clone())
}

fn endpoint_port(key: (String, String, i32, Option<String>)) -> EndpointPort {
    let (name, protocol, port, app_protocol) = key;
    let name = (!name.is_empty()).then_some(name);
    EndpointPort { name, port, protocol: Some(protocol), app_protocol }
}

/// Cuts to [`ADDRESSES_MAX`]: each subset in proportion, ready addresses before others. Says
/// whether it had to.
pub(crate) fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let len = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| len(&subset.addresses)).sum();
    let others: usize = subsets.iter().map(|subset| len(&subset.not_ready_addresses)).sum();
    if ready + others <= ADDRESSES_MAX {
        return false;
    }
    let cut_ready = ready > ADDRESSES_MAX;
    let (room, total) =
        if cut_ready { (ADDRESSES_MAX, ready) } else { (ADDRESSES_MAX - ready, others) };
    let mut left = room;
    for subset in subsets {
        if cut_ready {
            subset.not_ready_addresses = None;
        }
        let list = match cut_ready {
            true => &mut subset.addresses,
            false => &mut subset.not_ready_addresses,
        };
        let share = (len(list) * room).div_ceil(total.max(1)).min(left);
        if let Some(all) = list {
            all.truncate(share);
            left -= all.len();
        }
        *list = list.take().filter(|all| !all.is_empty());
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn subsets(body: Value) -> Vec<EndpointSubset> {
        serde_json::from_value(body).expect("subsets")
    }

    #[test]
    fn one_form() {
        let port = |name: &str, port: i32| json!({"name": name, "port": port, "protocol": "TCP"});
        let split = subsets(json!([
            {"addresses": [{"ip": "10.0.0.2"}], "ports": [port("b", 2)]},
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [port("a", 1)]},
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [port("b", 2)]},
            {"notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [port("a", 1)]},
            {"addresses": [{"ip": "10.0.0.3"}]},
        ]));
        let wanted = subsets(json!([
            {"addresses": [{"ip": "10.0.0.1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}],
                "ports": [port("a", 1)]},
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [port("b", 2)]},
            {"addresses": [{"ip": "10.0.0.3"}]},
        ]));
        assert_eq!(repack(&split), wanted);
        assert_eq!(repack(&wanted), wanted);
        let both = subsets(json!([
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [port("a", 1)]},
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [port("b", 2)]},
        ]));
        let merged = subsets(json!([
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [port("a", 1), port("b", 2)]}]));
        assert_eq!(repack(&both), merged, "the same addresses, so one subset");
    }

    #[test]
    fn cut_in_proportion() {
        let many = |prefix: u8, count: usize| -> Vec<Value> {
            (0..count)
                .map(|n| json!({"ip": format!("10.{prefix}.{}.{}", n / 250, n % 250)}))
                .collect()
        };
        let sizes = |all: &[EndpointSubset]| {
            let len = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
            all.iter()
                .map(|one| (len(&one.addresses), len(&one.not_ready_addresses)))
                .collect::<Vec<_>>()
        };
        let mut fits =
            subsets(json!([{"addresses": many(1, 900), "notReadyAddresses": many(2, 100)}]));
        assert!(!truncate(&mut fits));
        let mut ready = subsets(json!([
            {"addresses": many(1, 900), "notReadyAddresses": many(2, 10), "ports": [{"port": 1}]},
            {"addresses": many(3, 300), "ports": [{"port": 2}]},
        ]));
        assert!(truncate(&mut ready));
        assert_eq!(sizes(&ready), [(750, 0), (250, 0)]);
        let mut others = subsets(json!([
            {"addresses": many(1, 600), "notReadyAddresses": many(2, 300), "ports": [{"port": 1}]},
            {"addresses": many(3, 200), "notReadyAddresses": many(4, 100), "ports": [{"port": 2}]},
        ]));
        assert!(truncate(&mut others));
        assert_eq!(sizes(&others), [(600, 150), (200, 50)]);
    }
}
