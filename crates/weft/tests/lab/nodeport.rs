//! NodePort, LoadBalancer and externalIPs, for clients in the cluster and outside.

use crate::{entrance::*, harness::*};

/// One backend on node1 and one on node2; node3 has clients only.
fn world() -> String {
    let mut all = server("one", "web", "node1") + &server("two", "web", "node2");
    for node in ["node1", "node3"] {
        all += &asker(&format!("pod-{node}"), node, false);
        all += &asker(&format!("host-{node}"), node, true);
    }
    all
}

/// The Service `name`, reachable in every way; `more` are further lines of its spec.
fn service(
    name: &str,
    app: &str,
    policy: &str,
    external: &str,
    node_ports: u16,
    more: &str,
) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: LoadBalancer\n  \
         ipFamilyPolicy: RequireDualStack\n  selector: {{app: {app}}}\n  \
         externalTrafficPolicy: {policy}\n  externalIPs: [{external}]\n  ports:\n  \
         - {{name: http, port: 80, targetPort: http, nodePort: {node_ports}}}\n  \
         - {{name: udp, port: 81, targetPort: udp, protocol: UDP, nodePort: {}}}\n{more}---\n",
        node_ports + 1
    )
}

#[test]
fn clients_in_the_cluster_reach_every_entrance() {
    let name = "clients_in_the_cluster_reach_every_entrance";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("entr", &[]);
    let two = "\"198.51.100.1\", \"2001:db8:1::1\"";
    let three = "\"198.51.100.2\", \"2001:db8:1::2\"";
    lab.apply(
        &(world()
            + &service("wide", "web", "Cluster", two, 30_080, "")
            + &service("near", "web", "Local", three, 30_090, "")),
    );
    give_addresses(&lab, "wide", &["192.0.2.1", "2001:db8::1"], "VIP");
    give_addresses(&lab, "near", &["192.0.2.2", "2001:db8::2"], "VIP");
    lab.wait_ready(6);
    for node in ["node1", "node3"] {
        let own = node_ips(&lab, node);
        let other = if node == "node1" { "node/node1" } else { "host-node3" };
        for from in [format!("pod-{node}"), other.to_owned()] {
            for (family, n) in [("v4", 1), ("v6", 1), ("v4", 2), ("v6", 2)] {
                let v6 = family == "v6";
                let own = &own[usize::from(v6)];
                let vip = if v6 { format!("2001:db8::{n}") } else { format!("192.0.2.{n}") };
                let extra = if v6 { format!("2001:db8:1::{n}") } else { format!("198.51.100.{n}") };
                let node_port = 30_070 + n * 10;
                // Both policies: clients in the cluster are not from outside, wherever the
                // backends are.
                for (address, port) in [(own, node_port), (&vip, 80), (&extra, 80)] {
                    let seen = until(&lab, &["one", "two"], || tcp(&lab, &from, address, port));
                    if from.starts_with("pod") {
                        let ip = pod_ips(&lab, &from)[usize::from(v6)].clone();
                        assert_eq!(seen.clients(), [&*ip].into(), "{from} → {address}:{port}");
                    }
                }
                for (address, port) in [(own, node_port + 1), (&vip, 81), (&extra, 81)] {
                    until(&lab, &["one", "two"], || udp(&lab, &from, address, port));
                }
            }
        }
    }
    // A load balancer that opens connections of its own keeps its address to itself: nothing
    // on the node answers for it any more, and the underlay knows no way there.
    give_addresses(&lab, "wide", &["192.0.2.1"], "Proxy");
    assert!(poll(|| tcp(&lab, "pod-node1", "192.0.2.1", 80).pods().is_empty()));
    lab.down();
}
