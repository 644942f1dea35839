//! Every policy × placement × kind of Service × client × protocol × family, generated, against
//! the plain model of `cells.rs`. Four nodes in two zones, the client outside. Each cell states
//! which endpoints answer, which address they see, and how it fails where nobody does.

use crate::{cells::*, entrance::*, harness::*};
use std::collections::BTreeSet;

/// Two addresses a family and Service, so that each may be led to another node: `pool` names
/// the range.
fn external(pool: [&str; 2], service: usize, through: u8, v6: bool) -> String {
    let number = 2 * service + 1 + usize::from(through != 1);
    if v6 { format!("{}{number:x}", pool[1]) } else { format!("{}{number}", pool[0]) }
}

const BALANCER: [&str; 2] = ["192.0.2.", "2001:db8::"];
const EXTERNAL: [&str; 2] = ["198.51.100.", "2001:db8:1::"];
const NODE_PORTS: usize = 30_200;

/// All addresses of `service` out of a pool.
fn all_external(pool: [&str; 2], service: usize) -> Vec<String> {
    let four = [(1, false), (4, false), (1, true), (4, true)];
    four.iter().map(|(through, v6)| external(pool, service, *through, *v6)).collect()
}

fn manifest() -> String {
    let mut all = asker("pod1", "node1", false)
        + &asker("pod4", "node4", false)
        + &asker("host1", "node1", true);
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
        for (i, (internal, external_local, distribution)) in POLICIES.iter().enumerate() {
            let n = p * POLICIES.len() + i;
            let distribution = match *distribution {
                "" => String::new(),
                word => format!("  trafficDistribution: {word}\n"),
            };
            let addresses: Vec<String> =
                all_external(EXTERNAL, n).iter().map(|a| format!("\"{a}\"")).collect();
            // Of one's own choice, or chance may choose a port that a later Service wants.
            let health = match external_local {
                true => {
                    let last = PLACEMENTS.len() * POLICIES.len();
                    format!("  healthCheckNodePort: {}\n", NODE_PORTS + 2 * last + n)
                }
                false => String::new(),
            };
            all += &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: svc{n}}}\nspec:\n{health}  \
                 type: LoadBalancer\n  externalIPs: [{}]\n  \
                 ipFamilyPolicy: RequireDualStack\n  selector: {{p{p}: \"1\"}}\n  \
                 internalTrafficPolicy: {}\n  externalTrafficPolicy: {}\n{distribution}  ports:\n  \
                 - {{name: http, port: 80, targetPort: http, nodePort: {}}}\n  \
                 - {{name: udp, port: 81, targetPort: udp, protocol: UDP, nodePort: {}}}\n---\n",
                addresses.join(", "),
                word(*internal),
                word(*external_local),
                NODE_PORTS + 2 * n,
                NODE_PORTS + 2 * n + 1
            );
        }
    }
    all
}

/// What is where, IPv4 first.
struct Places {
    nodes: Vec<Vec<String>>,
    routers: Vec<Vec<String>>,
    pods: Vec<(u8, Vec<String>)>,
    cluster_ips: Vec<Vec<String>>,
}

impl Places {
    /// Where the cell's client asks.
    fn asked(&self, cell: &Cell) -> (String, u16) {
        let (v, at) = (usize::from(cell.v6), cell.client.node());
        let port = 80 + u16::from(cell.udp);
        match cell.kind {
            Kind::ClusterIp => (self.cluster_ips[cell.service][v].clone(), port),
            Kind::LoadBalancer => (external(BALANCER, cell.service, at, cell.v6), port),
            Kind::ExternalIp => (external(EXTERNAL, cell.service, at, cell.v6), port),
            Kind::NodePort => {
                let port = NODE_PORTS as u16 + 2 * cell.service as u16 + u16::from(cell.udp);
                (self.nodes[usize::from(at) - 1][v].clone(), port)
            }
        }
    }

    /// Which addresses an endpoint on `node` may see.
    fn sources(&self, cell: &Cell, node: u8) -> Vec<&str> {
        let (v, at) = (usize::from(cell.v6), cell.client.node());
        let router = &*self.routers[usize::from(at) - 1][v];
        match cell.client {
            Client::Pod(n) => {
                vec![&*self.pods.iter().find(|(p, _)| *p == n).expect("asker").1[v]]
            }
            // One of the node's own.
            Client::HostPod(_) | Client::Process(_) => {
                vec![router, &*self.nodes[usize::from(at) - 1][v]]
            }
            // Kept towards endpoints here, which is all that `Local` has.
            Client::Through(n) if n == node => vec![CLIENT[v]],
            Client::Through(_) => vec![router],
        }
    }
}

/// Asks until everything promised was seen; anything else than promised ends it.
fn check(lab: &Lab, places: &Places, cell: &Cell) -> Result<(), String> {
    let from = match cell.client {
        Client::Pod(n) => format!("pod{n}"),
        Client::HostPod(n) => format!("host{n}"),
        Client::Process(n) => format!("node/node{n}"),
        Client::Through(_) => "client".to_owned(),
    };
    let (address, port) = places.asked(cell);
    let ask = if cell.udp { udp } else { tcp };
    let promise = promise(cell);
    let mut pods = BTreeSet::new();
    let mut wrong = String::new();
    let all_seen = poll(|| {
        let seen = ask(lab, &from, &address, port);
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
                    let sources = places.sources(cell, node);
                    if !nodes.contains(&node) || !sources.contains(&&*answer.client) {
                        wrong = format!("{answer:?}, expected one of {nodes:?} to see {sources:?}");
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

/// The lab, its addresses led to nodes 1 and 4.
fn world() -> (Lab, Places) {
    let lab = Lab::up("policy", &["--nodes", "4", "--zones", "2"]);
    lab.apply(&manifest());
    let last = PLACEMENTS.len() * POLICIES.len();
    let (mut to_one, mut to_four) = (Vec::new(), Vec::new());
    for service in 0..last {
        let balancer = all_external(BALANCER, service);
        let texts: Vec<&str> = balancer.iter().map(String::as_str).collect();
        give_addresses(&lab, &format!("svc{service}"), &texts, "VIP");
        for v6 in [false, true] {
            for pool in [BALANCER, EXTERNAL] {
                to_one.push(external(pool, service, 1, v6));
                to_four.push(external(pool, service, 4, v6));
            }
        }
    }
    for (addresses, node) in [(to_one, "node1"), (to_four, "node4")] {
        let texts: Vec<&str> = addresses.iter().map(String::as_str).collect();
        lead(&lab, &texts, node);
    }
    lab.wait_ready(6);
    let names: Vec<String> = (1..=4).map(|n| format!("node{n}")).collect();
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
    (lab, places)
}

#[test]
fn every_policy_for_every_client() {
    let name = "every_policy_for_every_client";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let (lab, places) = world();
    // The last Service with endpoints everywhere, whose addresses were given last, has reached
    // every node when it answers there; the agents apply whole snapshots.
    let cells = cells();
    let last = PLACEMENTS.len() * POLICIES.len() - 1;
    for n in [1, 4] {
        let of_last = cells.iter().filter(|c| c.service == last && c.client.node() == n);
        for cell in of_last {
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
