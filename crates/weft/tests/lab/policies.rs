//! Every policy × placement × entrance × client × protocol × family, generated, against the
//! sentences of the documentation. Four nodes in two zones, the client outside.

use crate::{entrance::*, harness::*};
use std::collections::BTreeSet;

/// Nodes with an endpoint. Odd nodes are in zone 1, even ones in zone 2.
const PLACEMENTS: [&[u8]; 4] = [&[], &[1], &[2, 3], &[1, 2, 3]];

/// `internalTrafficPolicy: Local`, `externalTrafficPolicy: Local`, `trafficDistribution`.
const POLICIES: [(bool, bool, &str); 4] = [
    (false, false, ""),
    (true, true, ""),
    (false, false, "PreferSameZone"),
    (false, true, "PreferSameNode"),
];

#[derive(Clone, Copy, Debug)]
enum Client {
    /// A pod on this node; asks its own node where a node port is meant.
    Pod(u8),
    /// Outside; comes in through this node.
    Through(u8),
}

#[derive(Clone, Debug)]
struct Cell {
    service: usize,
    nodes: &'static [u8],
    policy: (bool, bool, &'static str),
    client: Client,
    node_port: bool,
    udp: bool,
    v6: bool,
}

/// What the documentation promises.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Promise {
    /// Endpoints on these nodes, and no other.
    Nodes(BTreeSet<u8>),
    Refused,
    Nothing,
}

fn promise(cell: &Cell) -> Promise {
    let (internal_local, external_local, distribution) = cell.policy;
    let at = match cell.client {
        Client::Pod(n) | Client::Through(n) => n,
    };
    // "If there are no endpoints, the connection is refused."
    if cell.nodes.is_empty() {
        return Promise::Refused;
    }
    let here: BTreeSet<u8> = cell.nodes.iter().copied().filter(|n| *n == at).collect();
    let near: BTreeSet<u8> = cell.nodes.iter().copied().filter(|n| n % 2 == at % 2).collect();
    let all: BTreeSet<u8> = cell.nodes.iter().copied().collect();
    match (cell.node_port, cell.client) {
        // "Local: as if there were no endpoints elsewhere."
        (false, _) if internal_local && here.is_empty() => return Promise::Refused,
        (false, _) if internal_local => return Promise::Nodes(here),
        // "Traffic from outside that reaches a node without a local endpoint is dropped."
        (true, Client::Through(_)) if external_local && here.is_empty() => return Promise::Nothing,
        (true, Client::Through(_)) if external_local => return Promise::Nodes(here),
        _ => {}
    }
    // "Prefer": the nearest that there is.
    let prefers_node = distribution == "PreferSameNode";
    let prefers_zone = prefers_node || distribution == "PreferSameZone";
    if prefers_node && !here.is_empty() {
        Promise::Nodes(here)
    } else if prefers_zone && !near.is_empty() {
        Promise::Nodes(near)
    } else {
        Promise::Nodes(all)
    }
}

fn cells() -> Vec<Cell> {
    let clients = [
        (Client::Pod(1), false),
        (Client::Pod(4), false),
        (Client::Pod(1), true),
        (Client::Pod(4), true),
        (Client::Through(1), true),
        (Client::Through(4), true),
    ];
    let mut cells = Vec::new();
    let mut service = 0;
    for nodes in PLACEMENTS {
        for policy in POLICIES {
            for (client, node_port) in clients {
                for (udp, v6) in [(false, false), (false, true), (true, false), (true, true)] {
                    cells.push(Cell { service, nodes, policy, client, node_port, udp, v6 });
                }
            }
            service += 1;
        }
    }
    cells
}

fn manifest() -> String {
    let mut all = asker("pod1", "node1", false) + &asker("pod4", "node4", false);
    for node in 1..=3u8 {
        let of =
            |(p, nodes): (usize, &&[u8])| nodes.contains(&node).then(|| format!("p{p}: \"1\""));
        let labels: Vec<String> = PLACEMENTS.iter().enumerate().filter_map(of).collect();
        let labels = format!("labels: {{{}}}", labels.join(", "));
        let app = format!("labels: {{app: s{node}}}");
        all += &server(&format!("s{node}"), &format!("s{node}"), &format!("node{node}"))
            .replace(&app, &labels);
    }
    let word = |local| if local { "Local" } else { "Cluster" };
    for (p, _) in PLACEMENTS.iter().enumerate() {
        for (i, (internal, external, distribution)) in POLICIES.iter().enumerate() {
            let n = p * POLICIES.len() + i;
            let distribution = match *distribution {
                "" => String::new(),
                word => format!("  trafficDistribution: {word}\n"),
            };
            all += &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: svc{n}}}\nspec:\n  type: NodePort\n  \
                 ipFamilyPolicy: RequireDualStack\n  selector: {{p{p}: \"1\"}}\n  \
                 internalTrafficPolicy: {}\n  externalTrafficPolicy: {}\n{distribution}  ports:\n  \
                 - {{name: http, port: 80, targetPort: http, nodePort: {}}}\n  \
                 - {{name: udp, port: 81, targetPort: udp, protocol: UDP, nodePort: {}}}\n---\n",
                word(*internal),
                word(*external),
                30_200 + 2 * n,
                30_201 + 2 * n
            );
        }
    }
    all
}

/// What is where.
struct Places {
    nodes: Vec<Vec<String>>,
    routers: Vec<Vec<String>>,
    pods: Vec<(u8, Vec<String>)>,
    cluster_ips: Vec<Vec<String>>,
}

/// Asks until everything promised was seen; anything else than promised ends it.
fn check(lab: &Lab, places: &Places, cell: &Cell) -> Result<(), String> {
    let v = usize::from(cell.v6);
    let (from, at) = match cell.client {
        Client::Pod(n) => (format!("pod{n}"), n),
        Client::Through(n) => ("client".to_owned(), n),
    };
    let (address, port) = if cell.node_port {
        let port = 30_200 + 2 * cell.service as u16 + u16::from(cell.udp);
        (&places.nodes[usize::from(at) - 1][v], port)
    } else {
        (&places.cluster_ips[cell.service][v], 80 + u16::from(cell.udp))
    };
    let ask = if cell.udp { udp } else { tcp };
    let promise = promise(cell);
    let mut pods = BTreeSet::new();
    let mut wrong = String::new();
    let all_seen = poll(|| {
        let seen = ask(lab, &from, address, port);
        match (&promise, &seen) {
            (Promise::Refused, Seen::Refused) | (Promise::Nothing, Seen::Nothing) => return true,
            // A kernel sends one host a few ICMP errors a second: refusals of UDP may be lost.
            (Promise::Refused, Seen::Nothing) if cell.udp => return false,
            (Promise::Nodes(nodes), Seen::Answers(answers)) => {
                for answer in answers {
                    let Some(node) = answer.pod.strip_prefix('s').and_then(|n| n.parse().ok())
                    else {
                        wrong = format!("{answer:?}");
                        return true;
                    };
                    let source = match cell.client {
                        Client::Pod(n) => {
                            &places.pods.iter().find(|(p, _)| *p == n).expect("asker").1[v]
                        }
                        Client::Through(n) if n == node => CLIENT[v],
                        Client::Through(n) => &*places.routers[usize::from(n) - 1][v],
                    };
                    if !nodes.contains(&node) || answer.client != source {
                        wrong = format!("{answer:?}, expected one of {nodes:?} to see {source}");
                        return true;
                    }
                    pods.insert(node);
                }
                return pods == *nodes;
            }
            _ => {}
        }
        wrong = format!("{seen:?}");
        true
    });
    match (all_seen, wrong.is_empty()) {
        (true, true) => Ok(()),
        (_, false) => Err(format!("{cell:?}\n  promised {promise:?}\n  seen {wrong}")),
        (false, true) => Err(format!("{cell:?}\n  promised {promise:?}\n  seen only {pods:?}")),
    }
}

#[test]
fn every_policy_for_every_client() {
    let name = "every_policy_for_every_client";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("policy", &["--nodes", "4", "--zones", "2"]);
    lab.apply(&manifest());
    lab.wait_ready(5);
    let names: Vec<String> = (1..=4).map(|n| format!("node{n}")).collect();
    let last = PLACEMENTS.len() * POLICIES.len();
    let cluster_ips = |n: usize| {
        let path = "jsonpath={.spec.clusterIPs[*]}";
        let said = lab.k(&["get", "service", &format!("svc{n}"), "-o", path]);
        let mut all: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
        all.sort_by_key(|a| a.contains(':'));
        all
    };
    let places = Places {
        nodes: names.iter().map(|n| node_ips(&lab, n)).collect(),
        routers: names.iter().map(|n| router_of(&lab, n)).collect(),
        pods: [1, 4].map(|n| (n, pod_ips(&lab, &format!("pod{n}")))).into(),
        cluster_ips: (0..last).map(cluster_ips).collect(),
    };
    // The last Service with endpoints everywhere has reached every node when it answers there;
    // the agents apply whole snapshots.
    let cells = cells();
    for n in [1, 4] {
        let of_last = cells.iter().filter(|c| c.service == last - 1);
        for cell in of_last.filter(|c| matches!(c.client, Client::Pod(m) if m == n)) {
            assert!(poll(|| check(&lab, &places, cell).is_ok()), "{cell:?}\n{}", lab.logs());
        }
    }
    const WORKERS: usize = 4;
    let failures: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|w| {
                let (lab, places, cells) = (&lab, &places, &cells);
                scope.spawn(move || {
                    let mine = cells.iter().skip(w).step_by(WORKERS);
                    mine.filter_map(|c| check(lab, places, c).err()).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().expect("worker")).collect()
    });
    println!("{} cells", cells.len());
    let shown = failures.len().min(5);
    assert!(
        failures.is_empty(),
        "{} of {} cells:\n{}",
        failures.len(),
        cells.len(),
        failures[..shown].join("\n")
    );
    lab.down();
}
