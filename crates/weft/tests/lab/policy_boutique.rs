//! The Online Boutique with its own network policies, in a lab: every connection that the
//! application needs passes, directly and through its Services, and every other one is denied.

use crate::{entrance::*, harness::*, policy_world::*};
use std::{collections::BTreeMap, net::IpAddr};
use weft_lab::probe::{
    doors::Door,
    knock::{Carrier, Knock},
};

/// What the services call, from their environment (`*_SERVICE_ADDR`, `REDIS_ADDR`) and the
/// Services' target ports.
const NEEDED: [(&str, &str, u16); 16] = [
    ("frontend", "productcatalogservice", 3550),
    ("frontend", "currencyservice", 7000),
    ("frontend", "cartservice", 7070),
    ("frontend", "recommendationservice", 8080),
    ("frontend", "shippingservice", 50051),
    ("frontend", "checkoutservice", 5050),
    ("frontend", "adservice", 9555),
    ("checkoutservice", "productcatalogservice", 3550),
    ("checkoutservice", "shippingservice", 50051),
    ("checkoutservice", "paymentservice", 50051),
    ("checkoutservice", "emailservice", 8080),
    ("checkoutservice", "currencyservice", 7000),
    ("checkoutservice", "cartservice", 7070),
    ("recommendationservice", "productcatalogservice", 3550),
    ("cartservice", "redis-cart", 6379),
    ("loadgenerator", "frontend", 8080),
];

/// Wider than the application needs, but what its policies say: the frontend is for everybody,
/// at every port, and nobody is limited in what goes out of the cluster.
const OPEN: &str = "frontend";

const WORKLOADS: [&str; 12] = [
    "adservice",
    "cartservice",
    "checkoutservice",
    "currencyservice",
    "emailservice",
    "frontend",
    "loadgenerator",
    "paymentservice",
    "productcatalogservice",
    "recommendationservice",
    "redis-cart",
    "shippingservice",
];

/// Every port that somebody serves, and one that nobody does.
const PORTS: [u16; 11] = [3550, 5050, 6379, 7000, 7070, 8080, 9555, 50051, 53, 80, 4242];

/// Every pair of pods, port, protocol and family, and whether it shall pass.
fn direct(world: &World) -> Vec<(String, Knock, bool)> {
    let mut all = Vec::new();
    for from in WORKLOADS {
        for to in WORKLOADS {
            for address in &world.addresses[to] {
                let mut add = |carrier, port, allowed| {
                    all.push((from.to_owned(), Knock { to: *address, carrier, port }, allowed));
                };
                let free = from == to || to == OPEN;
                for port in PORTS {
                    add(Carrier::Tcp, port, free || NEEDED.contains(&(from, to, port)));
                }
                add(Carrier::Udp, 53, free);
                add(Carrier::Echo, 0, free);
            }
        }
        for (carrier, port) in [(Carrier::Tcp, 80), (Carrier::Udp, 53), (Carrier::Echo, 0)] {
            for outside in CLIENT {
                let to = outside.parse().expect("address");
                all.push((from.to_owned(), Knock { to, carrier, port }, true));
            }
        }
    }
    all
}

/// Every pod to every Service, and the cluster's DNS.
fn through_services(world: &World) -> Vec<(String, Knock, bool)> {
    let mut all = Vec::new();
    for service in objects(&world.lab, "services") {
        let (meta, spec) = (&service["metadata"], &service["spec"]);
        let name = meta["name"].as_str().expect("name");
        let addresses = spec["clusterIPs"].as_array().into_iter().flatten();
        let addresses: Vec<IpAddr> = addresses.filter_map(|a| a.as_str()?.parse().ok()).collect();
        for from in WORKLOADS {
            let mut add = |carrier, port, allowed| {
                for to in &addresses {
                    all.push((from.to_owned(), Knock { to: *to, carrier, port }, allowed));
                }
            };
            if name == "kube-dns" {
                add(Carrier::Udp, 53, true);
                continue;
            }
            let Some(app) = spec["selector"]["app"].as_str() else { continue };
            for port in spec["ports"].as_array().into_iter().flatten() {
                let number = |field: &str| port[field].as_u64().and_then(|n| n.try_into().ok());
                let port: u16 = number("port").expect("a port");
                let target = number("targetPort").unwrap_or(port);
                let needed = NEEDED.contains(&(from, app, target));
                add(Carrier::Tcp, port, needed || from == app || app == OPEN);
            }
        }
    }
    assert!(all.len() >= 12 * 13, "{} connections through Services", all.len());
    all
}

fn check(world: &mut World, what: &str, all: &[(String, Knock, bool)]) {
    let knocks: Vec<(String, Knock)> = all.iter().map(|(f, k, _)| (f.clone(), *k)).collect();
    let expected: Vec<bool> = all.iter().map(|(_, _, allowed)| *allowed).collect();
    let heard = world.passes(&knocks, &expected);
    let wrong: Vec<String> = all
        .iter()
        .zip(&heard)
        .filter(|((_, _, allowed), heard)| heard.passed() != *allowed)
        .map(|((from, knock, allowed), heard)| {
            let to = world.addresses.iter().find(|(_, a)| a.contains(&knock.to));
            let to = to.map_or("", |(name, _)| name);
            format!("{from} → {to} {knock:?}: {heard:?}, shall pass: {allowed}")
        })
        .collect();
    let allowed = expected.iter().filter(|a| **a).count();
    println!("{what}: {allowed} pass and shall, {} are denied", all.len() - allowed);
    let shown = &wrong[..wrong.len().min(10)];
    assert!(wrong.is_empty(), "{what}: {} wrong: {shown:#?}\n{}", wrong.len(), world.lab.logs());
}

#[test]
fn the_boutique_has_what_it_needs_and_nothing_else() {
    let name = "the_boutique_has_what_it_needs_and_nothing_else";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let Some(file) = upstream_or_skip(name, "online-boutique/kubernetes-manifests.yaml") else {
        return;
    };
    let lab = Lab::up("boutique", &["--nodes", "3"]);
    lab.apply_file(&file);
    lab.wait_ready(WORKLOADS.len());
    let mut world = World::new(lab);
    let status = world.lab.status();
    let apps: BTreeMap<String, String> = objects(&world.lab, "pods")
        .iter()
        .filter_map(|p| {
            let meta = &p["metadata"];
            let app = meta["labels"]["app"].as_str()?;
            Some((app.to_owned(), meta["name"].as_str()?.to_owned()))
        })
        .collect();
    assert_eq!(apps.keys().map(String::as_str).collect::<Vec<_>>(), WORKLOADS, "{status}");
    for (app, pod) in &apps {
        let (probe, addresses) = in_pod(&world.lab, "default", pod);
        world.probes.insert(app.clone(), probe);
        world.addresses.insert(app.clone(), addresses);
    }
    let client = outside(&world.lab);
    world.probes.insert("client".to_owned(), client);
    // Whoever does not listen refuses, but says so for UDP six times and then once a second.
    world.open(&[Door { carrier: Carrier::Udp, port: 53 }]);

    // Without policies everything passes: so nothing else is in the way.
    let open = |all: Vec<(String, Knock, bool)>| -> Vec<_> {
        all.into_iter().map(|(f, k, _)| (f, k, true)).collect()
    };
    let all = open(direct(&world));
    check(&mut world, "without policies", &all);
    let all = open(through_services(&world));
    check(&mut world, "without policies, through Services", &all);

    let mut policies = Vec::new();
    for entry in std::fs::read_dir(file.parent().expect("a directory")).expect("list").flatten() {
        if entry.file_name().to_string_lossy().starts_with("network-policy-") {
            policies.push(upstream(&entry.path()));
        }
    }
    assert_eq!(policies.len(), 13);
    world.add_markers(&["node1", "node2", "node3"], false);
    world.lab.wait_ready(WORKLOADS.len() + 3);
    world.enter_markers();
    world.lab.apply(&policies.join("\n---\n"));
    world.change(&[]);
    let all = direct(&world);
    check(&mut world, "direct", &all);
    let all = through_services(&world);
    check(&mut world, "through Services", &all);
    // Kubelets go on probing.
    world.lab.wait_ready(WORKLOADS.len() + 3);

    // And again without them.
    world.lab.k(&["delete", "networkpolicies", "--all"]);
    world.change(&[]);
    let all = open(direct(&world));
    check(&mut world, "policies deleted", &all);
    world.lab.down();
}
