//! Constant load from every kind of client while everything changes.
//!
//! Pods terminate as the documentation asks for: a `preStop` that outlasts the news of their
//! end, a grace period, a readiness probe. Then nobody misses an answer; and where nobody is
//! left to answer, nobody waits.

use super::*;

/// A Deployment whose pods end gracefully. `more`: further lines of the pod's spec.
fn deployment(name: &str, replicas: u8, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  \
         replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n  strategy: \
         {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}\n  template:\n    metadata: \
         {{labels: {{app: {name}}}}}\n    spec:\n{more}      terminationGracePeriodSeconds: 20\n      \
         containers:\n      - name: c\n        image: example.test/web\n        lifecycle: \
         {{preStop: {{sleep: {{seconds: 3}}}}}}\n        ports: [{{containerPort: 8080, name: \
         http}}, {{containerPort: 8081, name: other}}, {{containerPort: 9000, protocol: UDP, \
         name: udp}}]\n        readinessProbe: {{httpGet: {{path: /, port: http}}, \
         periodSeconds: 1}}\n---\n"
    )
}

fn service(name: &str, kind: &str, policy: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: {kind}\n  \
         ipFamilyPolicy: RequireDualStack\n  selector: {{app: {name}}}\n  externalTrafficPolicy: \
         {policy}\n  ports:\n  - {{name: http, port: 80, targetPort: http, nodePort: {port}}}\n  \
         - {{name: udp, port: 81, targetPort: udp, protocol: UDP, nodePort: {}}}\n---\n",
        port + 1
    )
}

const ALL: [Kind; 4] = [Kind::Tcp, Kind::KeepAlive, Kind::UdpConnected, Kind::UdpUnconnected];

/// Flows of these kinds to a Service's two ports.
fn to_service(from: &str, kinds: &[Kind], address: &str, ports: [u16; 2]) -> Vec<Flow> {
    let one = |kind: &Kind| {
        let udp = matches!(kind, Kind::UdpConnected | Kind::UdpUnconnected);
        let port = ports[usize::from(udp)];
        let v = if address.contains(':') { "v6" } else { "v4" };
        flow(&format!("{from} {v} {port} {kind:?}"), *kind, at(address, port))
    };
    kinds.iter().map(one).collect()
}

/// Every kind of client; `wide` is reached everywhere, `near` has its pods on node1 and is
/// reached there.
struct Clients {
    probes: Vec<(Probe, Vec<Flow>)>,
}

impl Clients {
    fn new(lab: &Lab) -> Self {
        let (wide, near) = (cluster_ips(lab, "wide"), cluster_ips(lab, "near"));
        let (one, two) = (node_ips(lab, "node1"), node_ips(lab, "node2"));
        let mut pod = to_service("pod", &ALL, &wide[0], [80, 81]);
        pod.extend(to_service("pod", &ALL, &wide[1], [80, 81]));
        pod.extend(to_service("pod", &[Kind::KeepAlive], &two[0], [30_080, 30_081]));
        let mut host = to_service("hostNetwork pod", &ALL, &wide[0], [80, 81]);
        host.extend(to_service("hostNetwork pod", &[Kind::Tcp], &near[1], [80, 81]));
        let mut node = to_service("node", &ALL, "127.0.0.1", [30_080, 30_081]);
        node.extend(to_service("node", &[Kind::Tcp], "::1", [30_080, 30_081]));
        let direct = [Kind::Tcp, Kind::KeepAlive, Kind::UdpUnconnected];
        let mut client = to_service("outside", &direct, &two[0], [30_080, 30_081]);
        client.extend(to_service("outside", &direct[..2], &two[1], [30_080, 30_081]));
        client.extend(to_service("outside, Local", &direct, &one[0], [30_090, 30_091]));
        let probes = vec![
            (in_pod(lab, "pod"), pod),
            (in_pod(lab, "host"), host),
            (on_node(lab, "node2"), node),
            (outside(lab), client),
        ];
        Self { probes }
    }

    /// Lets all clients ask while `change` runs.
    fn during(&mut self, lab: &Lab, change: impl FnOnce()) -> Vec<Report> {
        self.choose(lab, |_| true, change)
    }

    /// The same for some flows. All of them are answered before the change and after it.
    fn choose(
        &mut self,
        lab: &Lab,
        which: impl Fn(&Flow) -> bool,
        change: impl FnOnce(),
    ) -> Vec<Report> {
        for (probe, flows) in &mut self.probes {
            probe.load(flows.iter().filter(|f| which(f)).cloned().collect()).expect("load");
        }
        self.probes.iter_mut().for_each(|(probe, _)| progress(lab, probe));
        change();
        self.probes.iter_mut().for_each(|(probe, _)| progress(lab, probe));
        self.probes.iter_mut().flat_map(|(p, _)| p.end_load().expect("reports")).collect()
    }
}

fn world() -> String {
    let wide = deployment("wide", 3, "");
    // Pinned, so that externalTrafficPolicy Local has somebody there at any time.
    let near = deployment("near", 2, "      nodeName: node1\n");
    wide + &near
        + &service("wide", "NodePort", "Cluster", 30_080)
        + &service("near", "NodePort", "Local", 30_090)
        + &asker("pod", "node2", false)
        + &asker("host", "node2", true)
}

fn rolled_out(lab: &Lab, name: &str) {
    lab.k(&["rollout", "status", &format!("deployment/{name}"), "--timeout=120s"]);
}

/// Waits until no pod of an application is left that is on its way out.
fn settled(lab: &Lab, app: &str, pods: usize) {
    let selector = format!("app={app}");
    let there = || {
        let path = "jsonpath={range .items[*]}{.metadata.name}{\" \"}{end}";
        let said = lab.k(&["get", "pods", "-l", &selector, "-o", path]);
        said.split_whitespace().count() == pods
    };
    assert!(poll(there), "{} pods of {app}\n{}", pods, lab.logs());
}

fn patch(lab: &Lab, service: &str, patch: &str) {
    lab.k(&["patch", "service", service, "--type=strategic", "-p", patch]);
}

/// Makes a Deployment replace its pods.
fn restart(lab: &Lab, name: &str) {
    lab.k(&["rollout", "restart", &format!("deployment/{name}")]);
}

#[test]
fn nobody_misses_an_answer_while_backends_come_and_go() {
    let name = "nobody_misses_an_answer_while_backends_come_and_go";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("roll", &["--nodes", "2"]);
    lab.apply(&world());
    lab.wait_ready(7);
    let mut clients = Clients::new(&lab);
    let reports = clients.during(&lab, || {
        for app in ["wide", "near"] {
            restart(&lab, app);
        }
        for (app, pods) in [("wide", 3), ("near", 2)] {
            rolled_out(&lab, app);
            settled(&lab, app, pods);
        }
    });
    print("rolling update", &reports);
    assert_clean(&lab, "rolling update", &reports);

    let reports = clients.during(&lab, || {
        for app in ["wide", "near"] {
            let selector = format!("app={app}");
            let path = "jsonpath={.items[0].metadata.name}";
            let first = lab.k(&["get", "pods", "-l", &selector, "-o", path]);
            lab.k(&["delete", "pod", &first]);
            rolled_out(&lab, app);
        }
    });
    print("one pod deleted", &reports);
    assert_clean(&lab, "one pod deleted", &reports);

    let reports = clients.during(&lab, || {
        for node in ["node1", "node2"] {
            let old = crate::crash::pid_of(&lab, node, "agent");
            crate::crash::signal(old, "-KILL");
            let anew = || ![0, old].contains(&crate::crash::pid_of(&lab, node, "agent"));
            assert!(poll(anew), "{node}: not started again");
            let applied = || stage(&lab, node, "services")["generation"].as_u64() > Some(0);
            assert!(poll(applied), "{}", lab.logs());
        }
    });
    print("agents killed", &reports);
    assert_clean(&lab, "agents killed", &reports);

    // To nothing and back: whoever is not answered hears so at once.
    let reports = clients.during(&lab, || {
        lab.k(&["scale", "deployment", "wide", "near", "--replicas=0"]);
        settled(&lab, "wide", 0);
        settled(&lab, "near", 0);
        lab.k(&["scale", "deployment", "wide", "--replicas=3"]);
        lab.k(&["scale", "deployment", "near", "--replicas=2"]);
        rolled_out(&lab, "wide");
        rolled_out(&lab, "near");
    });
    print("to nothing and back", &reports);
    let quick = ["refused", "reset", "aborted", "unreachable"];
    for r in &reports {
        // UDP: a datagram that is on its way when the last pod ends is lost; a socket that is not
        // connected is never told of a refusal; and to one that is, in a pod, the kernel says it
        // six times and then once a second (`icmp_ratelimit`). They hear from the next pod.
        // So is a request on a connection through the node's stack whose pod, and with it the last
        // word of its socket, has gone in this moment: that nobody is there is no end for TCP.
        let stack = r.name.contains("outside") && r.name.contains("KeepAlive");
        let may_wait = u64::from(r.name.contains("Udp") || stack);
        let waited: u64 =
            r.failures.iter().filter(|(k, _)| !quick.contains(&k.as_str())).map(|(_, n)| n).sum();
        assert!(waited <= may_wait && r.answered > 0, "{r:#?}\n{}", lab.logs());
    }
    lab.down();
}

#[test]
fn nobody_misses_an_answer_while_services_change() {
    let name = "nobody_misses_an_answer_while_services_change";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("turn", &["--nodes", "2"]);
    let marker = "apiVersion: v1\nkind: Service\nmetadata: {name: marker}\nspec:\n  selector: \
        {app: wide}\n  ports: [{port: 1000, targetPort: 8080}]\n---\n";
    lab.apply(&(world() + marker));
    lab.wait_ready(7);
    let mut clients = Clients::new(&lab);
    // A change is in the kernel of a node when a later one is: the ports of `marker` count up.
    let marker = cluster_ips(&lab, "marker")[0].clone();
    let mut port = 1000;
    let mut change = |service: &str, change: &str| {
        patch(&lab, service, change);
        port += 1;
        let ports = format!(r#"[{{"op":"replace","path":"/spec/ports/0/port","value":{port}}}]"#);
        lab.k(&["patch", "service", "marker", "--type=json", "-p", &ports]);
        for from in ["pod", "node/node1"] {
            assert!(poll(|| !tcp(&lab, from, &marker, port).pods().is_empty()), "{}", lab.logs());
        }
    };
    // Each change, and the flows that it is not about.
    let cluster_ip = |f: &Flow| f.to.port() < 1000;
    let changes: [(&str, bool, &[&str]); 4] = [
        (
            "type",
            false,
            &[
                r#"{"spec":{"type":"ClusterIP","externalTrafficPolicy":null}}"#,
                r#"{"spec":{"type":"NodePort"}}"#,
                r#"{"spec":{"type":"LoadBalancer"}}"#,
                r#"{"spec":{"type":"ClusterIP"}}"#,
                r#"{"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30080},{"port":81,"protocol":"UDP","nodePort":30081}]}}"#,
            ],
        ),
        (
            "ports",
            true,
            &[
                r#"{"spec":{"ports":[{"name":"more","port":90,"targetPort":"http"}]}}"#,
                r#"{"spec":{"ports":[{"port":80,"targetPort":"other"}]}}"#,
                r#"{"spec":{"ports":[{"port":90,"targetPort":"other"}]}}"#,
                r#"{"spec":{"ports":[{"port":80,"targetPort":"http"},{"port":90,"$patch":"delete"}]}}"#,
            ],
        ),
        (
            "affinity",
            true,
            &[
                r#"{"spec":{"sessionAffinity":"ClientIP"}}"#,
                r#"{"spec":{"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":5}}}}"#,
                r#"{"spec":{"sessionAffinity":"None","sessionAffinityConfig":null}}"#,
            ],
        ),
        (
            "policies",
            true,
            &[
                r#"{"spec":{"trafficDistribution":"PreferClose"}}"#,
                r#"{"spec":{"trafficDistribution":null}}"#,
            ],
        ),
    ];
    for (phase, everybody, patches) in changes {
        let reports = clients.choose(
            &lab,
            |f| everybody || cluster_ip(f),
            || {
                for patch in patches {
                    change("wide", patch);
                }
            },
        );
        print(phase, &reports);
        assert_clean(&lab, phase, &reports);
    }
    // The pods of `near` are where its clients come in, so that both policies reach them.
    let reports = clients.during(&lab, || {
        for policy in ["Cluster", "Local", "Cluster", "Local"] {
            change("near", &format!(r#"{{"spec":{{"externalTrafficPolicy":"{policy}"}}}}"#));
        }
    });
    print("externalTrafficPolicy", &reports);
    assert_clean(&lab, "externalTrafficPolicy", &reports);
    lab.down();
}
