//! Allocation against a plain model.

use super::{Pools, service};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

fn pools(cidrs: &[&str]) -> Pools {
    let cidrs: Vec<_> = cidrs.iter().map(|c| c.parse().unwrap()).collect();
    Pools::new(&cidrs, 30000..=30020).unwrap()
}

fn dual() -> Pools {
    pools(&["10.96.0.0/24", "fd00:96::/120"])
}

fn svc(spec: Value) -> Value {
    let mut all = json!({"type": "ClusterIP", "selector": {"a": "b"}, "ports": [{"port": 80, "protocol": "TCP"}]});
    json_patch::merge(&mut all, &spec);
    json!({"metadata": {"name": "s"}, "spec": all})
}

/// Create or update as the server does it; the counter stands for chance.
fn put(
    p: &mut Pools,
    old: Option<&Value>,
    mut new: Value,
    seed: &mut u128,
) -> Result<Value, String> {
    service::prepare(&mut new, old);
    let mut random = || {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *seed >> 7
    };
    let delta = p.plan(&mut new, old, &mut random).map_err(|e| match e {
        service::AllocError::Invalid(v) => {
            v.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        }
        service::AllocError::Exhausted(s) => s,
    })?;
    p.apply(delta);
    Ok(new)
}

fn families(v: &Value) -> Vec<&str> {
    v["spec"]["ipFamilies"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect()
}

#[test]
fn policy_decides_the_families() {
    let mut p = dual();
    let mut seed = 1;
    let mut make = |spec| put(&mut p, None, svc(spec), &mut seed);
    let s = make(json!({})).unwrap();
    assert_eq!(
        (s["spec"]["ipFamilyPolicy"].as_str(), families(&s)),
        (Some("SingleStack"), vec!["IPv4"])
    );
    let s = make(json!({"ipFamilies": ["IPv6"]})).unwrap();
    assert!(s["spec"]["clusterIP"].as_str().unwrap().contains(':'));
    let s = make(json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]})).unwrap();
    assert_eq!(families(&s), ["IPv6", "IPv4"]);
    assert_eq!(s["spec"]["clusterIP"], s["spec"]["clusterIPs"][0]);
    let s = make(json!({"clusterIP": "None", "selector": null})).unwrap();
    assert_eq!(
        (s["spec"]["ipFamilyPolicy"].as_str(), families(&s).len()),
        (Some("RequireDualStack"), 2)
    );
    assert_eq!(s["spec"]["clusterIPs"], json!(["None"]));
    let s = make(json!({"clusterIP": "None"})).unwrap();
    assert_eq!(families(&s), ["IPv4"]);
    let e = make(json!({"ipFamilies": ["IPv4", "IPv6"]})).unwrap_err();
    assert!(e.contains("spec.ipFamilyPolicy") && e.contains("must be 'RequireDualStack'"), "{e}");
    let s = make(json!({"type": "ExternalName", "externalName": "x"})).unwrap();
    assert!(s["spec"]["clusterIP"].is_null() && s["spec"]["ipFamilies"].is_null());

    let mut single = pools(&["10.96.0.0/24"]);
    let mut make = |spec| put(&mut single, None, svc(spec), &mut seed);
    let e = make(json!({"ipFamilyPolicy": "RequireDualStack"})).unwrap_err();
    assert!(e.contains("this cluster is not configured for dual-stack services"), "{e}");
    let e = make(json!({"ipFamilies": ["IPv6"]})).unwrap_err();
    assert!(e.starts_with("spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured"), "{e}");
    let s = make(json!({"ipFamilyPolicy": "PreferDualStack"})).unwrap();
    assert_eq!(families(&s), ["IPv4"]);
}

#[test]
fn stacks_are_added_and_removed() {
    let mut p = dual();
    let mut seed = 2;
    let one = put(&mut p, None, svc(json!({})), &mut seed).unwrap();
    let mut more = one.clone();
    more["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
    let two = put(&mut p, Some(&one), more, &mut seed).unwrap();
    assert_eq!(two["spec"]["clusterIPs"][0], one["spec"]["clusterIP"]);
    assert_eq!(families(&two), ["IPv4", "IPv6"]);
    // Fewer addresses need the word.
    let mut fewer = two.clone();
    fewer["spec"]["clusterIPs"] = json!([one["spec"]["clusterIP"]]);
    let e = put(&mut p, Some(&two), fewer, &mut seed).unwrap_err();
    assert!(e.contains("must be 'SingleStack' to release the secondary cluster IP"), "{e}");
    let mut back = two.clone();
    back["spec"]["ipFamilyPolicy"] = "SingleStack".into();
    let back = put(&mut p, Some(&two), back, &mut seed).unwrap();
    assert_eq!(back["spec"]["clusterIPs"], one["spec"]["clusterIPs"]);
    assert_eq!(p.ips[1].used(), 0);
    // To ExternalName and back.
    let mut name = back.clone();
    name["spec"]["type"] = "ExternalName".into();
    let name = put(&mut p, Some(&back), name, &mut seed).unwrap();
    assert!(name["spec"].get("clusterIP").is_none());
    assert_eq!(p.ips[0].used(), 0);
    let mut again = name.clone();
    again["spec"]["type"] = "ClusterIP".into();
    let again = put(&mut p, Some(&name), again, &mut seed).unwrap();
    assert!(again["spec"]["clusterIP"].is_string());
}

#[test]
fn an_update_that_leaves_things_out_keeps_them() {
    let mut p = dual();
    let mut seed = 3;
    let made = put(&mut p, None, svc(json!({"type": "NodePort"})), &mut seed).unwrap();
    let same = put(&mut p, Some(&made), svc(json!({"type": "NodePort"})), &mut seed).unwrap();
    for field in ["clusterIP", "clusterIPs", "ports", "ipFamilies", "ipFamilyPolicy"] {
        assert_eq!(made["spec"][field], same["spec"][field], "{field}");
    }
    let mut plain = made.clone();
    plain["spec"]["type"] = "ClusterIP".into();
    let plain = put(&mut p, Some(&made), plain, &mut seed).unwrap();
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
    assert_eq!(p.ports.used(), 0);
}

#[test]
fn node_ports_are_shared_by_protocols_and_refused_when_taken() {
    let mut p = dual();
    let mut seed = 4;
    let dns = json!({"type": "NodePort", "ports": [
        {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53, "protocol": "TCP"}]});
    let s = put(&mut p, None, svc(dns), &mut seed).unwrap();
    assert_eq!(s["spec"]["ports"][0]["nodePort"], s["spec"]["ports"][1]["nodePort"]);
    let ask = |n: u16| svc(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": n}]}));
    put(&mut p, None, ask(30001), &mut seed).unwrap();
    let e = put(&mut p, None, ask(30001), &mut seed).unwrap_err();
    assert_eq!(
        e,
        "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"
    );
    let e = put(&mut p, None, ask(80), &mut seed).unwrap_err();
    assert!(e.contains("The range of valid ports is 30000-30020"), "{e}");
    let lb = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let s = put(&mut p, None, svc(lb), &mut seed).unwrap();
    assert!(s["spec"]["healthCheckNodePort"].is_u64());
    let lb = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
    let s = put(&mut p, None, svc(lb), &mut seed).unwrap();
    assert!(s["spec"]["ports"][0].get("nodePort").is_none());
}

#[derive(Clone, Debug)]
enum Op {
    Put { name: u8, kind: u8, policy: u8, fixed: Option<u8>, node_port: Option<u8> },
    Delete(u8),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0u8..12, 0u8..4, 0u8..4, proptest::option::of(0u8..12), proptest::option::of(0u8..24))
            .prop_map(|(name, kind, policy, fixed, node_port)| Op::Put { name, kind, policy, fixed, node_port }),
        3 => (0u8..12).prop_map(Op::Delete),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is asked in whatever order: what the pools hold is exactly what the Services
    /// have, and no two Services have the same.
    #[test]
    fn no_address_is_given_twice_and_none_is_lost(
        ops in proptest::collection::vec(op(), 1..60), mut seed in any::<u128>()
    ) {
        // Ranges smaller than the demand, so that they run full.
        let fresh = || pools(&["10.96.0.0/28", "fd00:96::/124"]);
        let mut p = fresh();
        let mut live: BTreeMap<u8, Value> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Put { name, kind, policy, fixed, node_port } => {
                    let old = live.get(&name).cloned();
                    let mut new = old.clone().unwrap_or_else(|| svc(json!({})));
                    let spec = &mut new["spec"];
                    spec["type"] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"][kind as usize].into();
                    match ["", "SingleStack", "PreferDualStack", "RequireDualStack"][policy as usize] {
                        "" => {}
                        p => spec["ipFamilyPolicy"] = p.into(),
                    }
                    // An address cannot be changed (validation refuses that before).
                    if old.is_none() && let Some(n) = fixed {
                        spec["clusterIP"] = if n == 0 { "None".into() } else { format!("10.96.0.{n}").into() };
                    }
                    if (kind == 1 || kind == 2) && let Some(n) = node_port {
                        spec["ports"][0]["nodePort"] = (30000 + u16::from(n)).into();
                    }
                    if let Ok(v) = put(&mut p, old.as_ref(), new, &mut seed) {
                        live.insert(name, v);
                    }
                }
                Op::Delete(name) => {
                    if let Some(old) = live.remove(&name) {
                        p.apply(service::release(&old));
                    }
                }
                Op::Restart => {
                    p = fresh();
                    live.values().for_each(|s| p.restore(s));
                }
            }
            let ips: Vec<IpAddr> = live.values().flat_map(service::held_ips).collect();
            let distinct: BTreeSet<_> = ips.iter().collect();
            prop_assert_eq!(distinct.len(), ips.len(), "given twice: {:?}", ips);
            prop_assert_eq!(p.ips[0].used() + p.ips[1].used(), ips.len(), "lost: {:?}", live);
            let ports: Vec<u16> = live.values().flat_map(service::held_ports).collect();
            let distinct: BTreeSet<_> = ports.iter().collect();
            prop_assert_eq!(distinct.len(), ports.len(), "port given twice: {:?}", ports);
            prop_assert_eq!(p.ports.used(), ports.len(), "port lost: {:?}", live);
            for s in live.values().filter(|s| s["spec"]["type"] != "ExternalName") {
                prop_assert_eq!(&s["spec"]["clusterIP"], &s["spec"]["clusterIPs"][0]);
            }
        }
    }
}
