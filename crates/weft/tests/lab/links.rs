//! Packets that met no socket hook: translated at the pod's link, to pods of this node and of
//! another.

use crate::{
    harness::*,
    sctp_packet::{INIT, INIT_ACK, Raw, packet},
};
use serde_json::Value;
use std::{collections::BTreeSet, net::IpAddr};
use weft_netlink::netns;

const APP: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: near, labels: {app: web}}
spec:
  nodeName: node1
  containers: [{name: c, image: example.test/web, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: web, tunnel: "yes"}}
spec:
  nodeName: node2
  containers: [{name: c, image: example.test/web, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
---
apiVersion: v1
kind: Service
metadata: {name: tunnel}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {tunnel: "yes"}
  ports: [{name: sctp, port: 9, targetPort: 19, protocol: SCTP}]
---
apiVersion: v1
kind: Pod
metadata: {name: meshed, annotations: {weft.dev/socket-lb: disabled}}
spec:
  nodeName: node1
  containers: [{name: c, image: example.test/client, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec:
  nodeName: node1
  containers: [{name: c, image: example.test/client, command: [sleep, infinity]}]
"#;

/// What node1's agent counts at its pods' links.
fn counts(lab: &Lab) -> Value {
    crate::transitions::stage(lab, "node1", "podLinks")["counts"].clone()
}

/// The addresses of a Service, as a pod's resolver says.
fn cluster_ip(lab: &Lab, name: &str, v4: bool) -> IpAddr {
    let kind = if v4 { "ahostsv4" } else { "ahostsv6" };
    let name = format!("{name}.default.svc.cluster.local");
    let out = lab.exec("default", "plain", &["getent", kind, &name]);
    let first = out.split_whitespace().next().expect("an address");
    first.parse().unwrap_or_else(|e| panic!("{first}: {e}"))
}

#[test]
fn packets_that_met_no_hook_reach_services() {
    if !root_or_skip("packets_that_met_no_hook_reach_services") {
        return;
    }
    let lab = Lab::up("link", &["--nodes", "2"]);
    lab.apply(APP);
    lab.wait_ready(4);
    // A pod that opted out: by name, over both families, to this node and the other.
    let (_, own) = lab.pod("meshed");
    for family in ["-4", "-6"] {
        let mut seen = BTreeSet::new();
        let both = poll(|| {
            let command = ["curl", family, "-sS", "-m", "10", "http://web/"];
            let said = lab.exec("default", "meshed", &command);
            let said: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{said}: {e}"));
            let client = said["clientAddress"].as_str().expect("client");
            let known = own.iter().any(|ip| client.contains(&ip.to_string()));
            assert!(known, "the backend saw {client}, not one of {own:?}");
            seen.insert(said["pod"].as_str().expect("pod").to_owned());
            seen.len() == 2
        });
        assert!(both, "{family} reached only {seen:?}");
    }
    let counted = poll(|| {
        let counts = counts(&lab);
        counts["optedOut"] == 1 && counts["translated"].as_u64() > Some(8)
    });
    assert!(counted, "{}", counts(&lab));
    assert_eq!(counts(&lab)["spoofed"], 0, "{}", counts(&lab));
    // SCTP, through the tunnel and back, checksums included.
    let ((client, own), (server, _)) = (lab.pod("plain"), lab.pod("far"));
    for v4 in [true, false] {
        let service = cluster_ip(&lab, "tunnel", v4);
        let own = *own.iter().find(|ip| ip.is_ipv4() == v4).expect("an address");
        let c = netns::run_in(&client, || Raw::new(v4)).expect("client");
        let s = netns::run_in(&server, || Raw::new(v4)).expect("server");
        c.send(service, &packet((5000, 9), INIT, 100));
        assert_eq!(s.receive(), (own, (5000, 19), INIT, 100));
        s.send(own, &packet((19, 5000), INIT_ACK, 100));
        assert_eq!(c.receive(), (service, (9, 5000), INIT_ACK, 100));
    }
    lab.down();
}
