//! Node ports at the node's loopback addresses, and clients that are their own backend.

use super::*;

/// How to ask: over TCP or UDP.
type Ask = fn(&Lab, &str, &str, u16) -> Seen;

#[test]
fn node_processes_reach_node_ports_on_loopback_and_pods_do_not() {
    let name = "node_processes_reach_node_ports_on_loopback_and_pods_do_not";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("local", &["--nodes", "2"]);
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: NodePort\n  \
        ipFamilyPolicy: RequireDualStack\n  selector: {app: web}\n  ports:\n  \
        - {name: http, port: 80, targetPort: http, nodePort: 30080}\n  \
        - {name: udp, port: 81, targetPort: udp, protocol: UDP, nodePort: 30081}\n---\n";
    lab.apply(
        &(server("one", "web", "node1")
            + &server("two", "web", "node2")
            + &asker("pod", "node1", false)
            + &asker("host", "node1", true)
            + service),
    );
    lab.wait_ready(4);
    let node = node_ips(&lab, "node1");
    for (v, loopback) in ["127.0.0.1", "::1"].into_iter().enumerate() {
        for from in ["node/node1", "host"] {
            // The source is the node: to a pod on it the address towards pods, else its own.
            let own = [&*node[v], &*router_of(&lab, "node1")[v]].map(str::to_owned);
            let asks: [(Ask, u16); 2] = [(tcp, 30_080), (udp, 30_081)];
            for (ask, port) in asks {
                let seen = until(&lab, &["one", "two"], || ask(&lab, from, loopback, port));
                let strange: Vec<&str> =
                    seen.clients().into_iter().filter(|c| !own.iter().any(|o| o == c)).collect();
                assert!(strange.is_empty(), "{from} {loopback}: {strange:?} of {own:?}");
            }
        }
        assert_eq!(tcp(&lab, "pod", loopback, 30_080), Seen::Refused, "a pod's is its own");
        assert_eq!(udp(&lab, "pod", loopback, 30_081), Seen::Refused, "a pod's is its own");
        // A pod that is its own backend.
        let web = cluster_ips(&lab, "web")[v].clone();
        let own = pod_ips(&lab, "one")[v].clone();
        let seen = until(&lab, &["one", "two"], || tcp(&lab, "one", &web, 80));
        assert_eq!(seen.clients(), [&*own].into(), "hairpin");
        until(&lab, &["one", "two"], || udp(&lab, "one", &web, 81));
    }
    // Nobody is there: refused at once, also on loopback.
    lab.k(&["patch", "service", "web", "-p", r#"{"spec":{"selector":{"app":"nobody"}}}"#]);
    for loopback in ["127.0.0.1", "::1"] {
        assert!(poll(|| tcp(&lab, "node/node1", loopback, 30_080) == Seen::Refused));
        assert!(poll(|| udp(&lab, "node/node1", loopback, 30_081) == Seen::Refused));
    }
    lab.down();
}
