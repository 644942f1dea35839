//! Golden answers on one small world: two nodes in zone za, one in zb.

mod policy;

use super::*;
use std::sync::Arc;
use weft_model::{
    Endpoint, EndpointPort, EndpointSlice, External, Labels, Namespace, Node, Port, Protocol,
    Service, ServiceKind, ServicePort, TrafficPolicy,
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn port(n: i32) -> Port {
    Port::try_from(n).expect("port")
}

fn id(name: &str) -> NamespacedName {
    NamespacedName::new("shop", name)
}

fn service(name: &str, n: u8, kind: ServiceKind) -> Service {
    let of = |p: &str| ip(&format!("{p}{n}"));
    let ips = match kind {
        ServiceKind::Virtual => vec![of("10.96.0."), of("fd00:10:96::")],
        _ => Vec::new(),
    };
    Service {
        id: id(name),
        kind,
        cluster_ips: ips,
        families: vec![IpFamily::V4, IpFamily::V6],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: port(80),
            node_port: None,
        }],
        internal_policy: TrafficPolicy::Cluster,
        external: External::default(),
        affinity_timeout_s: None,
        publish_not_ready: false,
        foreign_proxy: false,
        created_s: 0,
        balance: weft_model::Balance::default(),
    }
}

/// Pod `w<n>` on `node<n>`, not ready where `n` is 3.
fn slice(of: &str, v6: bool) -> EndpointSlice {
    let endpoint = |n: u8| Endpoint {
        address: ip(&if v6 { format!("fd00:10:244:{n}::2") } else { format!("10.244.{n}.2") }),
        ready: n != 3,
        serving: n != 3,
        terminating: false,
        hostname: None,
        node: Some(format!("node{n}").parse().expect("name")),
        zone: Some(if n == 3 { "zb" } else { "za" }.into()),
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
        pod: Some(id(&format!("w{n}"))),
    };
    EndpointSlice {
        id: id(&format!("{of}-{}", u8::from(v6))),
        service: id(of),
        family: if v6 { IpFamily::V6 } else { IpFamily::V4 },
        ports: vec![EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: Some(port(8080)),
        }],
        endpoints: [1, 2, 3].map(endpoint).into(),
    }
}

fn world() -> World {
    let mut snapshot = Snapshot { generation: 1, ..Snapshot::default() };
    let namespace = |name: &str| {
        let namespace = Namespace { name: name.into(), labels: Labels::default(), audit: false };
        (namespace.name.clone(), Arc::new(namespace))
    };
    snapshot.namespaces = ["default", "shop"].map(namespace).into_iter().collect();
    let mut pods = BTreeMap::new();
    for n in 1..=3u8 {
        let name: NodeName = format!("node{n}").parse().expect("name");
        let cidrs = [format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")];
        let node = Node {
            name: name.clone(),
            internal_ips: vec![ip(&format!("172.30.1.1{n}")), ip(&format!("fd00:30::1{n}"))],
            pod_cidrs: cidrs.map(|c| c.parse().expect("range")).into(),
            zone: Some(if n == 3 { "zb" } else { "za" }.into()),
            ready: true,
            eligible: true,
        };
        snapshot.nodes.insert(name.clone(), Arc::new(node));
        for (pod, last) in [("w", 2), ("c", 5)] {
            let pod = Pod {
                id: id(&format!("{pod}{n}")),
                node: Some(name.clone()),
                ips: vec![
                    ip(&format!("10.244.{n}.{last}")),
                    ip(&format!("fd00:10:244:{n}::{last}")),
                ],
                host_network: false,
                phase: "Running".to_owned(),
                opted_out: false,
                host_ports: Vec::new(),
            };
            pods.insert(pod.id.clone(), pod);
        }
    }
    let host = Pod {
        id: id("host"),
        node: Some("node1".parse().expect("name")),
        ips: vec![ip("172.30.1.11"), ip("fd00:30::11")],
        host_network: true,
        phase: "Running".to_owned(),
        opted_out: false,
        host_ports: Vec::new(),
    };
    pods.insert(host.id.clone(), host);
    let mut near = service("near", 6, ServiceKind::Virtual);
    near.ports[0].node_port = Some(port(30_080));
    near.external.policy = TrafficPolicy::Local;
    near.external.balancer_addresses = vec![ip("192.0.2.1")];
    near.external.source_ranges = vec!["203.0.113.0/24".parse().expect("range")];
    let mut loyal = service("loyal", 9, ServiceKind::Virtual);
    loyal.affinity_timeout_s = Some(600);
    loyal.internal_policy = TrafficPolicy::Local;
    let mut foreign = service("foreign", 8, ServiceKind::Virtual);
    foreign.foreign_proxy = true;
    for s in [
        service("web", 5, ServiceKind::Virtual),
        near,
        service("empty", 7, ServiceKind::Virtual),
        foreign,
        loyal,
        service("peers", 0, ServiceKind::Headless),
        service("alias", 0, ServiceKind::ExternalName("web.shop.svc.cluster.local".into())),
        service("away", 0, ServiceKind::ExternalName("db.example.org".into())),
    ] {
        if &*s.id.name != "empty" {
            for v6 in [false, true] {
                snapshot.insert_slice(Arc::new(slice(&s.id.name, v6)));
            }
        }
        snapshot.services.insert(s.id.clone(), Arc::new(s));
    }
    World {
        policy: policy::unrestricted(&snapshot, &pods),
        snapshot,
        pods,
        service_types: BTreeMap::new(),
        complaints: BTreeMap::new(),
        setup: Setup {
            mode: Mode::Vxlan,
            service_cidrs: ["10.96.0.0/16", "fd00:10:96::/112"]
                .map(|c| c.parse().expect("range"))
                .into(),
            node_port_ranges: Vec::new(),
            localhost_node_ports: true,
            zone: Zone::new("cluster.local").expect("zone"),
            uplink_mtu: Some(1500),
            outside: vec![ip("203.0.113.10"), ip("2001:db8::10")],
        },
    }
}

/// Reads `weft why …` as the golden files have it.
fn question(words: &str) -> Question {
    let mut q = Question { namespace: "shop".to_owned(), ..Question::default() };
    let mut words = words.split(' ').skip(2);
    let mut ends = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "-4" => q.family = Some(IpFamily::V4),
            "-6" => q.family = Some(IpFamily::V6),
            "--through" => q.through = words.next().map(str::to_owned),
            end => ends.push(end),
        }
    }
    let [from, to] = ends.as_slice() else { panic!("two ends in {ends:?}") };
    (q.from, q.to) = ((*from).to_owned(), (*to).to_owned());
    q
}

/// Runs the commands of a golden file (`$ …`) and compares what they say; with `BLESS=1` in the
/// environment the file is written anew.
fn golden(file: &str, run: impl Fn(&str) -> String) {
    let path = format!("{}/src/tests/{file}", env!("CARGO_MANIFEST_DIR"));
    let before = std::fs::read_to_string(&path).expect("golden file");
    let commands = before.lines().filter_map(|l| l.strip_prefix("$ "));
    let after: Vec<String> = commands.map(|c| format!("$ {c}\n{}", run(c).trim_end())).collect();
    let after = after.join("\n\n") + "\n";
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, after).expect("write golden file");
    } else {
        assert!(before == after, "{file} differs:\n{after}");
    }
}

#[test]
fn answers_for_people() {
    let world = world();
    golden("why.txt", |command| match why(&world, &question(command)) {
        Ok(answer) => answer.render(),
        Err(e) => format!("error: {e}"),
    });
}

#[test]
fn all_services_in_a_table() {
    let world = world();
    golden("services.txt", |command| {
        let node = command.split_once("--node ").map(|(_, n)| n);
        let rows = services(&world, Some("shop"), node).expect("rows");
        ServiceRow::render(&rows, command.contains("-A"), command.contains("wide"))
    });
}

#[test]
fn answers_for_programs() {
    let answer = why(&world(), &question("weft why c1 svc/near:80 -4")).expect("an answer");
    let json = serde_json::to_value(&answer).expect("JSON");
    let path = &json["paths"][0];
    assert_eq!(json["ok"], true);
    assert_eq!(json["from"]["kind"], "pod");
    assert_eq!(path["destination"]["address"], "10.96.0.6");
    assert_eq!(path["frontend"]["kind"], "ClusterIP");
    assert_eq!(path["outcome"], "forwarded");
    assert_eq!(path["translatedAt"], "socket");
    assert_eq!(path["backends"][1]["route"]["kind"], "tunnel");
    assert_eq!(path["backends"][1]["sourceSeen"], "10.244.1.5");
    assert_eq!(path["excluded"][0]["reason"], "notReady");
    assert_eq!(path["frontend"]["affinitySeconds"], serde_json::Value::Null);
}
