//! NetworkPolicy in a running lab, judged by real packets: whoever is allowed gets through, all
//! others do not, and what changes counts for connections that are open.

use crate::{crash, harness::*};
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};
use weft_netlink::netns;

const APP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: other, labels: {team: b}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: node1
  containers:
  - name: c
    image: example.test/web
    ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 9090}]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: free, labels: {app: free}}
spec:
  nodeName: node2
  containers: [{name: c, image: example.test/web, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: near, labels: {role: friend}}
spec:
  nodeName: node1
  containers: [{name: c, image: example.test/client, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {role: friend}}
spec:
  nodeName: node2
  containers: [{name: c, image: example.test/client, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, labels: {role: stranger}}
spec:
  nodeName: node2
  containers: [{name: c, image: example.test/client, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: caged, labels: {role: friend, app: caged}}
spec:
  nodeName: node1
  containers: [{name: c, image: example.test/client, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: guest, namespace: other}
spec:
  nodeName: node2
  containers: [{name: c, image: example.test/client, command: [sleep, infinity]}]
"#;

const DENY: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
"#;

/// Friends reach the port by its name, the other namespace the other port.
const ALLOW: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: friend}}}]
    ports: [{port: http}]
  - from: [{namespaceSelector: {matchLabels: {team: b}}}]
    ports: [{port: 9090}]
"#;

/// DNS, and one address.
const CAGE: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: cage}
spec:
  podSelector: {matchLabels: {app: caged}}
  policyTypes: [Egress]
  egress:
  - to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
    ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  - to: [{ipBlock: {cidr: WEB/32}}]
    ports: [{port: 8080}]
"#;

/// Who has a client, and where.
const CLIENTS: [(&str, &str); 5] = [
    ("default", "near"),
    ("default", "far"),
    ("default", "stranger"),
    ("default", "caged"),
    ("other", "guest"),
];

struct World {
    lab: Lab,
    /// Namespaces of [`CLIENTS`].
    clients: [PathBuf; 5],
    web: Vec<IpAddr>,
    free: Vec<IpAddr>,
}

impl World {
    fn new(lab: Lab) -> Self {
        let (web, free) = (lab.pod("web").1, lab.pod("free").1);
        let clients = CLIENTS.map(|(_, client)| lab.pod(client).0);
        Self { lab, clients, web, free }
    }

    /// What each client gets, by address.
    fn reach(&self, to: &[IpAddr], port: u16) -> [Vec<bool>; 5] {
        let of = |netns: &PathBuf| to.iter().map(|ip| asks(netns, *ip, port)).collect();
        self.clients.each_ref().map(of)
    }

    /// The answers that shall be there at last.
    fn becomes(&self, what: &str, to: &[IpAddr], port: u16, wanted: [bool; 5]) {
        let mut last = Default::default();
        let wanted = wanted.map(|yes| vec![yes; to.len()]);
        let done = poll(|| {
            last = self.reach(to, port);
            last == wanted
        });
        assert!(done, "{what}: {CLIENTS:?} got {last:?}, not {wanted:?}\n{}", self.lab.logs());
        self.probed();
    }

    /// The node's probes reach their pod, whatever its policies say: one that failed would make
    /// it unready for as long as they do.
    fn probed(&self) {
        let status = self.lab.status();
        let pods = status["pods"].as_array().expect("pods");
        let web = pods.iter().find(|p| p["name"] == "web").expect("web");
        assert_eq!(web["ready"], true, "{web:#}");
    }

    fn stage(&self, node: &str) -> Value {
        let socket = self.lab.dir().join(node).join("agent.sock");
        let answer = weft_cni::call(&socket, &weft_cni::Request::Status).expect("agent");
        answer.status.expect("status")["stages"]["policy"].clone()
    }
}

fn connect(netns: &Path, ip: IpAddr, port: u16) -> std::io::Result<TcpStream> {
    let to = SocketAddr::new(ip, port);
    netns::run_in(netns, || TcpStream::connect_timeout(&to, Duration::from_millis(700)))
        .expect("entered")
}

/// Sends a request and says whether anything comes back.
fn answers(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(700))).expect("timeout");
    let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    stream.write_all(request).is_ok() && stream.read(&mut [0; 64]).is_ok_and(|n| n > 0)
}

fn asks(netns: &Path, ip: IpAddr, port: u16) -> bool {
    connect(netns, ip, port).is_ok_and(|mut stream| answers(&mut stream))
}

#[test]
fn policies_are_enforced_on_real_packets() {
    if !root_or_skip("policies_are_enforced_on_real_packets") {
        return;
    }
    let lab = Lab::up("policy", &["--nodes", "2"]);
    lab.apply(APP);
    lab.wait_ready(7);
    let world = World::new(lab);
    let lab = &world.lab;
    let [friends, all, nobody] = [[true, true, false, true, false], [true; 5], [false; 5]];
    world.becomes("no policy yet", &world.web, 8080, all);

    lab.apply(DENY);
    world.becomes("isolated", &world.web, 8080, nobody);
    world.becomes("another pod", &world.free, 8080, all);

    lab.apply(ALLOW);
    world.becomes("friends by the port's name", &world.web, 8080, friends);
    let guests = [false, false, false, false, true];
    world.becomes("the other namespace by number", &world.web, 9090, guests);
    // By name and Service: what is judged is the pod behind it.
    let said = lab.exec("default", "far", &["curl", "-sS", "-m", "5", "http://web/"]);
    assert!(said.contains("\"pod\":\"web\"") || said.contains("\"pod\": \"web\""), "{said}");
    assert!(
        !lab.try_exec("default", "stranger", &["curl", "-sS", "-m", "2", "http://web/"])
            .status
            .success()
    );

    // What it sends: the cluster's DNS and one address, and nothing else.
    let [v4, v6] = [true, false]
        .map(|v4| *world.web.iter().find(|ip| ip.is_ipv4() == v4).expect("an address"));
    lab.apply(&CAGE.replace("WEB", &v4.to_string()));
    let uncaged = [true, true, true, false, true];
    world.becomes("caged", &world.free, 8080, uncaged);
    world.becomes("the address that is allowed", &[v4], 8080, friends);
    lab.exec("default", "caged", &["getent", "ahostsv4", "web.default.svc.cluster.local"]);

    // Connections that are open are judged by the labels of now.
    let [near, far, stranger, ..] = &world.clients;
    let open =
        |netns| world.web.iter().map(|ip| connect(netns, *ip, 8080).expect("open")).collect();
    let (mut cut, mut kept): (Vec<TcpStream>, Vec<TcpStream>) = (open(far), open(near));
    let relabelled = APP.split("---").find(|d| d.contains("name: far,")).expect("the pod");
    lab.apply(&relabelled.replace("role: friend", "role: stranger"));
    let [left4, left6] = [true, false].map(|v4| [true, false, false, v4, false]);
    world.becomes("relabelled", &[v4], 8080, left4);
    assert!(cut.iter_mut().all(|s| !answers(s)), "open connections of who may no longer");
    assert!(kept.iter_mut().all(answers), "and of who may");

    // A killed agent takes nothing away and lets nothing in.
    let generation = world.stage("node1")["counts"]["kernelGeneration"].clone();
    std::thread::scope(|scope| {
        let killed = scope.spawn(|| crash::kill_agent(lab, "node1"));
        while !killed.is_finished() {
            for ip in &world.web {
                assert!(asks(near, *ip, 8080), "{ip}");
                assert!(!asks(stranger, *ip, 8080), "{ip}");
            }
        }
    });
    let back = || world.stage("node1")["counts"]["kernelGeneration"] != generation;
    assert!(poll(back), "{:#}", world.stage("node1"));
    world.becomes("as before", &[v4], 8080, left4);
    world.becomes("as before", &[v6], 8080, left6);
    let stage = world.stage("node1");
    assert!(
        stage["errors"] == serde_json::json!([]) && stage["counts"]["unknown"] == 0,
        "{stage:#}"
    );
    world.lab.down();
}
