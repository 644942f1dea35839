//! Host ports: a pod answers on its node's addresses.

use crate::{crash::kill_agent, entrance::*, harness::*};

/// A server whose HTTP port is also the node's port 8000 and whose UDP port is 8001.
fn hosted(name: &str, node: &str) -> String {
    server(name, name, node)
        .replace(
            "{containerPort: 8080, name: http}",
            "{containerPort: 8080, hostPort: 8000, name: http}",
        )
        .replace(
            "{containerPort: 9000, protocol: UDP, name: udp}",
            "{containerPort: 9000, hostPort: 8001, protocol: UDP, name: udp}",
        )
}

#[test]
fn a_pod_answers_on_its_nodes_addresses() {
    let name = "a_pod_answers_on_its_nodes_addresses";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("hostport", &["--nodes", "2"]);
    lab.apply(
        &(hosted("web", "node1") + &asker("near", "node1", false) + &asker("far", "node2", false)),
    );
    // Ready means: ADD came back, and with it the host port.
    lab.wait_ready(3);
    let (own, other) = (node_ips(&lab, "node1"), node_ips(&lab, "node2"));
    for v in [0, 1] {
        for from in ["client", "near", "far", "node/node1", "node/node2", "web"] {
            for (ask, port) in [(tcp as fn(&Lab, &str, &str, u16) -> Seen, 8000), (udp, 8001)] {
                let seen = ask(&lab, from, &own[v], port);
                assert_eq!(seen.pods(), ["web"].into(), "{from} → {}:{port}: {seen:?}", own[v]);
                if from == "client" {
                    assert_eq!(seen.clients(), [CLIENT[v]].into(), "the pod sees who asks");
                }
            }
        }
        // The other node has no such pod.
        assert_eq!(tcp(&lab, "client", &other[v], 8000), Seen::Refused);
    }

    // The agent's memory is the kernel's and the journal's.
    kill_agent(&lab, "node1");
    assert_eq!(tcp(&lab, "client", &own[0], 8000).pods(), ["web"].into());
    lab.k(&["delete", "pod", "web"]);
    assert!(poll(|| tcp(&lab, "client", &own[0], 8000) == Seen::Refused), "{}", lab.logs());
    // The port is free for the next.
    lab.apply(&hosted("next", "node1"));
    lab.wait_ready(3);
    assert_eq!(tcp(&lab, "client", &own[1], 8000).pods(), ["next"].into());
    lab.down();
}
