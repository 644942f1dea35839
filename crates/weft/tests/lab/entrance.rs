//! What the tests of Services reachable from outside share: pods that say who they are, and
//! clients that ask them.

use crate::harness::*;
use std::collections::BTreeSet;

/// One answer: the pod that gave it, and the address that it saw.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    pub pod: String,
    pub client: String,
}

/// How asking ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// These answered.
    Answers(BTreeSet<Answer>),
    /// Refused at once.
    Refused,
    /// No answer at all.
    Nothing,
}

impl Seen {
    /// The pods that answered; empty where nobody did.
    pub fn pods(&self) -> BTreeSet<&str> {
        match self {
            Self::Answers(all) => all.iter().map(|a| &*a.pod).collect(),
            _ => BTreeSet::new(),
        }
    }

    /// The addresses that they saw.
    pub fn clients(&self) -> BTreeSet<&str> {
        match self {
            Self::Answers(all) => all.iter().map(|a| &*a.client).collect(),
            _ => BTreeSet::new(),
        }
    }
}

/// `10.0.0.1` or `[fd00::1]`, as it stands in a URL.
fn in_url(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// The host of `host:port`.
fn host(text: &str) -> String {
    let host = text.rsplit_once(':').map_or(text, |(h, _)| h);
    host.trim_matches(['[', ']']).to_owned()
}

/// Connections a question: enough that a backend of two or three is missed once in thousands
/// of runs.
const TRIES: u32 = 16;

/// Asks over TCP, a new connection each time.
pub fn tcp(lab: &Lab, from: &str, address: &str, port: u16) -> Seen {
    let url = format!("http://{}:{port}/?[1-{TRIES}]", in_url(address));
    let fast = ["curl", "-sS", "-m", "4", "-H", "Connection: close", "--fail-early", &url];
    let out = lab.try_exec("default", from, &fast);
    let said = text(&out.stdout);
    match out.status.code() {
        Some(0) => {}
        Some(7) => return Seen::Refused,
        Some(28) => return Seen::Nothing,
        _ => panic!("{from} → {address}:{port}: {} {said} {}", out.status, text(&out.stderr)),
    }
    let field = |part: &str, name: &str| -> Option<String> {
        let rest = part.split(&format!("\"{name}\": \"")).nth(1)?;
        Some(rest.split('"').next()?.to_owned())
    };
    let answers = said.split("\"path\"").skip(1).filter_map(|part| {
        Some(Answer { pod: field(part, "pod")?, client: host(&field(part, "clientAddress")?) })
    });
    let answers: Vec<Answer> = answers.collect();
    assert_eq!(answers.len(), TRIES as usize, "{from} → {address}:{port}: {said}");
    Seen::Answers(answers.into_iter().collect())
}

/// Asks over UDP, a new connected socket each time.
pub fn udp(lab: &Lab, from: &str, address: &str, port: u16) -> Seen {
    // Not bash's `read`: it takes byte by byte, and a datagram is gone after the first.
    let script = format!(
        "for i in {{1..{TRIES}}}; do exec 3<>/dev/udp/{address}/{port} && echo hi >&3 && \
         timeout 3 head -n 1 <&3 2>/dev/null; s=$?; \
         [ $s = 124 ] && echo NOTHING && exit; [ $s != 0 ] && echo REFUSED && exit; done; true"
    );
    let said = text(&lab.try_exec("default", from, &["bash", "-c", &script]).stdout);
    if said.contains("NOTHING") {
        return Seen::Nothing;
    }
    if said.contains("REFUSED") {
        return Seen::Refused;
    }
    // `<namespace>/<pod> <node> <pod IP> client=<address>`
    let answers = said.lines().filter_map(|line| {
        let pod = line.split(' ').next()?.split('/').nth(1)?.to_owned();
        Some(Answer { pod, client: host(line.split("client=").nth(1)?) })
    });
    let answers: Vec<Answer> = answers.collect();
    assert_eq!(answers.len(), TRIES as usize, "{from} → {address}:{port}/UDP: {said}");
    Seen::Answers(answers.into_iter().collect())
}

/// A pod with a stand-in that listens on 8080 (HTTP) and 9000 (UDP).
pub fn server(name: &str, app: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nspec:\n  \
         nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    \
         image: example.test/web\n    ports: [{{containerPort: 8080, name: http}}, \
         {{containerPort: 9000, protocol: UDP, name: udp}}]\n    \
         readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}\n---\n"
    )
}

/// A pod that only asks.
pub fn asker(name: &str, node: &str, host_network: bool) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  \
         hostNetwork: {host_network}\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{{name: c, image: example.test/client, command: [sleep, infinity]}}]\n---\n"
    )
}

/// Addresses of a node on the underlay, IPv4 first.
pub fn node_ips(lab: &Lab, node: &str) -> Vec<String> {
    let path = "jsonpath={.status.addresses[?(@.type=='InternalIP')].address}";
    let said = lab.k(&["get", "node", node, "-o", path]);
    let mut all: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
    all.sort_by_key(|a| a.contains(':'));
    all
}

/// Addresses of a pod, IPv4 first.
pub fn pod_ips(lab: &Lab, pod: &str) -> Vec<String> {
    let said = lab.k(&["get", "pod", pod, "-o", "jsonpath={.status.podIPs[*].ip}"]);
    let mut all: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
    all.sort_by_key(|a| a.contains(':'));
    all
}

/// Gives a Service of type LoadBalancer its addresses, as a load balancer's controller does.
pub fn give_addresses(lab: &Lab, service: &str, addresses: &[&str], mode: &str) {
    let ingress: Vec<String> =
        addresses.iter().map(|a| format!(r#"{{"ip":"{a}","ipMode":"{mode}"}}"#)).collect();
    let patch = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{}]}}}}}}"#, ingress.join(","));
    let what = ["patch", "service", service, "--subresource=status", "--type=merge", "-p", &patch];
    lab.k(&what);
}

/// Asks until the pods that answer are the expected ones; gives back the last answers.
pub fn until(lab: &Lab, pods: &[&str], mut ask: impl FnMut() -> Seen) -> Seen {
    let wanted: BTreeSet<&str> = pods.iter().copied().collect();
    let mut last = Seen::Nothing;
    let there = poll(|| {
        last = ask();
        last.pods() == wanted
    });
    assert!(there, "expected {wanted:?}, seen {last:?}\n{}", lab.logs());
    last
}
/// Leads addresses to a node, as a network does that learnt them by ARP or BGP.
pub fn lead(lab: &Lab, addresses: &[&str], node: &str) {
    let to = node_ips(lab, node);
    let netns = format!("--net=/run/netns/weft.{}.underlay", lab.name);
    for address in addresses {
        let (option, via) = if address.contains(':') { ("-6", &to[1]) } else { ("-4", &to[0]) };
        let args = [&netns, "ip", option, "route", "replace", address, "via", via];
        let done = std::process::Command::new("nsenter").args(args).status().expect("nsenter");
        assert!(done.success(), "route {address} to {node}");
    }
}

/// The address of the outside client, as a target sees it.
pub const CLIENT: [&str; 2] = ["172.30.250.10", "fd00:30:250::10"];

/// The node's own addresses out of its pod ranges, which stand for clients elsewhere.
pub fn router_of(lab: &Lab, node: &str) -> Vec<String> {
    let said = lab.k(&["get", "node", node, "-o", "jsonpath={.spec.podCIDRs[*]}"]);
    let first = |range: &str| {
        let net: std::net::IpAddr = range.split('/').next().expect("range").parse().expect("ip");
        match net {
            std::net::IpAddr::V4(a) => std::net::Ipv4Addr::from(u32::from(a) + 1).to_string(),
            std::net::IpAddr::V6(a) => std::net::Ipv6Addr::from(u128::from(a) + 1).to_string(),
        }
    };
    let mut all: Vec<String> = said.split_whitespace().map(first).collect();
    all.sort_by_key(|a| a.contains(':'));
    all
}
