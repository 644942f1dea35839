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

/// How to ask: over TCP or UDP.
type Ask = fn(&Lab, &str, &str, u16) -> Seen;

#[test]
fn clients_outside_reach_every_entrance() {
    let name = "clients_outside_reach_every_entrance";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("out", &["--zones", "2"]);
    let affinity = "  sessionAffinity: ClientIP\n";
    let ranges = "  loadBalancerSourceRanges: [203.0.113.0/24, 2001:db8:9::/48]\n";
    let host = "apiVersion: v1\nkind: Pod\nmetadata: {name: hosted, labels: {app: hosted}}\nspec:\n  \
        nodeName: node1\n  hostNetwork: true\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
        - name: c\n    image: example.test/web\n    ports: [{containerPort: 8080, name: http}, \
        {containerPort: 9000, protocol: UDP, name: udp}]\n---\n";
    lab.apply(
        &(world()
            + host
            + &service("wide", "web", "Cluster", "198.51.100.1, \"2001:db8:1::1\"", 30_080, "")
            + &service("near", "web", "Local", "198.51.100.2, \"2001:db8:1::2\"", 30_090, "")
            + &service("loyal", "web", "Cluster", "198.51.100.3", 30_100, affinity)
            + &service("picky", "web", "Cluster", "198.51.100.4", 30_110, ranges)
            + &service("empty", "nobody", "Local", "198.51.100.5, \"2001:db8:1::5\"", 30_120, "")
            + &service("hosted", "hosted", "Cluster", "198.51.100.6", 30_130, "")),
    );
    let vips = |n: u8| [format!("192.0.2.{n}"), format!("2001:db8::{n}")];
    for (n, service) in ["wide", "near", "loyal", "picky", "empty"].iter().enumerate() {
        let vips = vips(n as u8 + 1);
        give_addresses(&lab, service, &[&vips[0], &vips[1]], "VIP");
    }
    let extra = |n: u8| [format!("198.51.100.{n}"), format!("2001:db8:1::{n}")];
    lab.wait_ready(7);
    for node in ["node1", "node3"] {
        let own = node_ips(&lab, node);
        let router = router_of(&lab, node);
        for n in [1, 2, 3, 4, 5] {
            let all = [vips(n), extra(n)].concat();
            lead(&lab, &all.iter().map(String::as_str).collect::<Vec<_>>(), node);
        }
        // To a target on the node that was reached first the client is itself; to one on
        // another node it is the first node, as long as the policy allows that way at all.
        for v in [0, 1] {
            let entrances = |n: u8| {
                [
                    (own[v].clone(), 30_070 + u16::from(n) * 10),
                    (vips(n)[v].clone(), 80),
                    (extra(n)[v].clone(), 80),
                ]
            };
            let asks: [(Ask, u16); 2] = [(tcp, 0), (udp, 1)];
            for (ask, offset) in asks {
                for (address, port) in entrances(1) {
                    let port = port + offset;
                    let seen = until(&lab, &["one", "two"], || ask(&lab, "client", &address, port));
                    let expected = match node {
                        "node1" => [CLIENT[v], &router[v]].into(),
                        _ => std::collections::BTreeSet::from([&*router[v]]),
                    };
                    assert_eq!(seen.clients(), expected, "{node} {address}:{port}");
                }
                for (address, port) in entrances(2) {
                    let port = port + offset;
                    if node == "node1" {
                        let seen = until(&lab, &["one"], || ask(&lab, "client", &address, port));
                        assert_eq!(seen.clients(), [CLIENT[v]].into(), "{address}:{port}");
                    } else {
                        let seen = ask(&lab, "client", &address, port);
                        assert_eq!(seen, Seen::Nothing, "{address}:{port}: no endpoint on {node}");
                    }
                }
                for (address, port) in entrances(5) {
                    let seen = ask(&lab, "client", &address, port + offset);
                    assert_eq!(seen, Seen::Refused, "{address}:{}", port + offset);
                }
                let (address, port) = &entrances(3)[1];
                let seen = ask(&lab, "client", address, port + offset);
                assert_eq!(seen.pods().len(), 1, "clients stay with their target: {seen:?}");
                // The ranges are the load balancer's alone.
                let [node_port, vip, _] = entrances(4);
                assert_eq!(ask(&lab, "client", &vip.0, vip.1 + offset), Seen::Nothing);
                assert_eq!(ask(&lab, "pod-node1", &vip.0, vip.1 + offset), Seen::Nothing);
                until(&lab, &["one", "two"], || {
                    ask(&lab, "client", &node_port.0, node_port.1 + offset)
                });
            }
        }
        // A target that is a node's own process.
        let seen = until(&lab, &["hosted"], || tcp(&lab, "client", &own[0], 30_130));
        let expected = if node == "node1" { CLIENT[0] } else { &router[0] };
        assert_eq!(seen.clients(), [expected].into(), "hostNetwork target through {node}");
    }
    // What a load balancer asks: which nodes have an endpoint, and which take connections.
    let path = "jsonpath={.spec.healthCheckNodePort}";
    let health = lab.k(&["get", "service", "near", "-o", path]);
    let code = |node: &str, port: &str, path: &str| {
        let url = format!("http://{}:{port}{path}", node_ips(&lab, node)[0]);
        let ask = ["curl", "-s", "-m", "4", "-o", "/dev/null", "-w", "%{http_code}", &url];
        text(&lab.try_exec("default", "client", &ask).stdout)
    };
    assert!(poll(|| code("node1", &health, "/") == "200"));
    assert!(poll(|| code("node3", &health, "/") == "503"));
    assert_eq!(
        (code("node3", "10256", "/healthz"), code("node3", "10256", "/livez")),
        ("200".into(), "200".into())
    );
    lab.k(&["taint", "node", "node3", "ToBeDeletedByClusterAutoscaler=1:NoSchedule"]);
    assert!(poll(|| code("node3", "10256", "/healthz") == "503"));
    assert_eq!(code("node3", "10256", "/livez"), "200");
    // Another node's node port, from a pod and from a node's process.
    let other = node_ips(&lab, "node2");
    for from in ["pod-node1", "host-node3"] {
        for address in &other {
            until(&lab, &["one", "two"], || tcp(&lab, from, address, 30_080));
            until(&lab, &["two"], || tcp(&lab, from, address, 30_090));
            until(&lab, &["two"], || udp(&lab, from, address, 30_091));
        }
    }
    // Whom the ranges name may come in: also a pod, whose socket knows no ranges.
    let ranges = format!(r#"["172.30.250.0/24","{}/32"]"#, pod_ips(&lab, "pod-node1")[0]);
    let patch = format!(r#"{{"spec":{{"loadBalancerSourceRanges":{ranges}}}}}"#);
    lab.k(&["patch", "service", "picky", "--type=merge", "-p", &patch]);
    for from in ["client", "pod-node1"] {
        until(&lab, &["one", "two"], || tcp(&lab, from, "192.0.2.4", 80));
    }
    assert_eq!(tcp(&lab, "pod-node3", "192.0.2.4", 80), Seen::Nothing);
    // A restarted agent serves on, and node1 loses its endpoint: the policy follows.
    lab.k(&["delete", "pod", "one", "--wait=true"]);
    lead(&lab, &["192.0.2.2"], "node1");
    assert!(poll(|| tcp(&lab, "client", "192.0.2.2", 80) == Seen::Nothing));
    assert!(poll(|| code("node1", &health, "/") == "503"));
    lab.down();
}

/// A client outside has no socket here: only the node's table knows where it was sent.
#[test]
fn clients_outside_stay_with_their_target_when_agents_are_killed() {
    let name = "clients_outside_stay_with_their_target_when_agents_are_killed";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("loyal", &["--nodes", "2"]);
    let affinity = "  sessionAffinity: ClientIP\n";
    lab.apply(
        &(server("one", "web", "node1")
            + &server("two", "web", "node2")
            + &service("loyal", "web", "Cluster", "198.51.100.3", 30_100, affinity)),
    );
    lab.wait_ready(2);
    let own = node_ips(&lab, "node1");
    let asks: [(Ask, u16); 2] = [(tcp, 30_100), (udp, 30_101)];
    let asked = || -> Vec<String> {
        let all = own.iter().flat_map(|at| asks.map(|(ask, port)| ask(&lab, "client", at, port)));
        all.map(|seen| {
            assert_eq!(seen.pods().len(), 1, "{seen:?}");
            seen.pods().into_iter().collect()
        })
        .collect()
    };
    for at in &own {
        assert!(poll(|| tcp(&lab, "client", at, 30_100).pods().len() == 1), "{}", lab.logs());
    }
    let before = asked();
    // Four clients of two targets each: six times the same is no accident.
    for n in 1..=6 {
        crate::crash::kill_agent(&lab, "node1");
        let applied = || {
            let stage = crate::transitions::stage(&lab, "node1", "services");
            stage["generation"].as_u64() > Some(0)
        };
        assert!(poll(applied), "{}", lab.logs());
        assert_eq!(asked(), before, "kill {n}");
    }
    lab.down();
}
