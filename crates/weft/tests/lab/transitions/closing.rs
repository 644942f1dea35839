//! Sockets whose backend is gone: closed, and no others.

use super::*;

/// A Service without selector: its endpoints are what the test says.
fn service(name: &str) -> String {
    service_at(name, "")
}

/// The same; `more`: further lines of its spec.
fn service_at(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n{more}  ipFamilyPolicy: \
         RequireDualStack\n  ports:\n  - {{name: http, port: 80}}\n  - {{name: udp, port: 81, \
         protocol: UDP}}\n---\n"
    )
}

/// Its slices, one a family. `ready`: the endpoints' condition.
fn slices(service: &str, ips: &[&Vec<String>], ready: bool) -> String {
    let one = |(v, family): (usize, &str)| {
        let endpoint = |ips: &&Vec<String>| {
            format!("- {{addresses: [\"{}\"], conditions: {{ready: {ready}}}}}\n", ips[v])
        };
        let endpoints: String = ips.iter().map(endpoint).collect();
        let endpoints = if ips.is_empty() { " []".to_owned() } else { format!("\n{endpoints}") };
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: \
             {service}-{v}, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: \
             {family}\nports:\n- {{name: http, port: 8080}}\n- {{name: udp, port: 9000, protocol: \
             UDP}}\nendpoints:{endpoints}\n---\n"
        )
    };
    [(0, "IPv4"), (1, "IPv6")].map(one).concat()
}

/// Flows of every kind and family to a Service, and to a pod itself.
fn flows(service: &[String], direct: &[String]) -> Vec<Flow> {
    let kinds = [Kind::KeepAlive, Kind::UdpConnected, Kind::UdpUnconnected];
    let mut all = Vec::new();
    for v in [0, 1] {
        for kind in kinds {
            let udp = u16::from(kind != Kind::KeepAlive);
            let name = |to: &str| format!("{kind:?} IPv{} {to}", 4 + 2 * v);
            all.push(flow(&name("service"), kind, at(&service[v], 80 + udp)));
            let port = if udp == 1 { 9000 } else { 8080 };
            all.push(flow(&name("direct"), kind, at(&direct[v], port)));
        }
    }
    all
}

/// Whether every flow to the Service was answered by exactly these, and who moved.
fn judge(lab: &Lab, phase: &str, reports: &[Report], servers: &[&str]) {
    print(phase, reports);
    assert_clean(lab, phase, reports);
    for r in reports {
        let seen: Vec<&str> = r.servers.keys().map(String::as_str).collect();
        if r.name.ends_with("direct") {
            assert_eq!((seen, r.repeated), (vec!["one"], 0), "{phase} {}: untouched", r.name);
        } else {
            assert_eq!(seen, servers, "{phase} {}", r.name);
        }
    }
}

#[test]
fn clients_of_a_backend_that_left_are_told_and_others_are_not() {
    let name = "clients_of_a_backend_that_left_are_told_and_others_are_not";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("close", &["--nodes", "2"]);
    lab.apply(
        &(server("one", "web", "node1")
            + &server("two", "web", "node2")
            + &asker("pod", "node1", false)
            + &asker("host", "node1", true)
            + &service("web")),
    );
    lab.wait_ready(4);
    if stage(&lab, "node1", "sockets")["diagnostics"].to_string().contains("does not close") {
        println!("SKIP {name}: this kernel closes no sockets");
        return;
    }
    let (one, two) = (pod_ips(&lab, "one"), pod_ips(&lab, "two"));
    let web = cluster_ips(&lab, "web");
    for client in ["pod", "host"] {
        lab.apply(&slices("web", &[&one], true));
        until(&lab, &["one"], || tcp(&lab, client, &web[1], 80));
        let mut probe = in_pod(&lab, client);
        probe.load(flows(&web, &one)).expect("load");
        progress(&lab, &mut probe);
        let begun = || sockets_count(&lab, "node1", "closedTcp");
        let (tcp_before, udp_before) = (begun(), sockets_count(&lab, "node1", "closedUdp"));
        // A second endpoint: nobody moves who has a backend already.
        lab.apply(&slices("web", &[&one, &two], true));
        until(&lab, &["one", "two"], || tcp(&lab, client, &web[0], 80));
        sockets_seen(&lab, "node1");
        assert_eq!((begun(), sockets_count(&lab, "node1", "closedUdp")), (tcp_before, udp_before));
        // The first one leaves: TCP is reset, connected UDP closed, the rest moves by itself.
        lab.apply(&slices("web", &[&two], true));
        let moved = || {
            begun() >= tcp_before + 2 && sockets_count(&lab, "node1", "closedUdp") >= udp_before + 2
        };
        assert!(poll(moved), "{}\n{}", stage(&lab, "node1", "sockets"), lab.logs());
        progress(&lab, &mut probe);
        let reports = probe.end_load().expect("reports");
        judge(&lab, client, &reports, &["one", "two"]);
        let kept = reports.iter().filter(|r| r.name.ends_with("service") && r.name.contains("Kee"));
        assert!(kept.clone().all(|r| r.repeated >= 1), "{reports:#?}");
        // What is merely not ready drains over TCP; connected UDP goes.
        lab.apply(&slices("web", &[&one], true));
        until(&lab, &["one"], || tcp(&lab, client, &web[0], 80));
        let tcp_before = begun();
        let udp_before = sockets_count(&lab, "node1", "closedUdp");
        let mut probe = in_pod(&lab, client);
        probe.load(vec![flow("drains service", Kind::KeepAlive, at(&web[0], 80))]).expect("load");
        let connected = flow("goes", Kind::UdpConnected, at(&web[0], 81));
        probe.load(vec![connected]).expect("load");
        progress(&lab, &mut probe);
        lab.apply(&slices("web", &[&one], false));
        let gone = || sockets_count(&lab, "node1", "closedUdp") > udp_before;
        assert!(poll(gone), "{}\n{}", stage(&lab, "node1", "sockets"), lab.logs());
        let reports = probe.end_load().expect("reports");
        print(client, &reports);
        assert!(reports[0].failures.is_empty() && reports[0].repeated == 0, "{reports:#?}");
        assert_eq!(begun(), tcp_before, "it drains");
        // Where there is no backend, a client is refused at once.
        let kinds: Vec<&String> = reports[1].failures.keys().collect();
        assert!(kinds.iter().all(|k| *k == "refused"), "{reports:#?}");
    }
    lab.down();
}

/// As kube-proxy, which leaves TCP to its ends: a Service that is replaced (`kubectl replace
/// --force`) breaks no connection, although nobody knows its pods in between.
#[test]
fn a_service_that_is_deleted_and_made_again_breaks_no_connection() {
    let name = "a_service_that_is_deleted_and_made_again_breaks_no_connection";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("again", &["--nodes", "1"]);
    lab.apply(&(server("one", "web", "node1") + &asker("pod", "node1", false) + &service("web")));
    lab.wait_ready(2);
    if stage(&lab, "node1", "sockets")["diagnostics"].to_string().contains("does not close") {
        println!("SKIP {name}: this kernel closes no sockets");
        return;
    }
    let (one, web) = (pod_ips(&lab, "one"), cluster_ips(&lab, "web"));
    lab.apply(&slices("web", &[&one], true));
    until(&lab, &["one"], || tcp(&lab, "pod", &web[1], 80));
    let kept =
        |v: usize| flow(&format!("IPv{} service", 4 + 2 * v), Kind::KeepAlive, at(&web[v], 80));
    let mut probe = in_pod(&lab, "pod");
    probe.load(vec![kept(0), kept(1)]).expect("load");
    progress(&lab, &mut probe);
    let before = sockets_count(&lab, "node1", "closedTcp");
    let delete = || {
        let all = ["service/web", "endpointslice/web-0", "endpointslice/web-1"];
        lab.k(&[&["delete", "--wait=false"][..], &all[..]].concat());
        let seen = || sockets_count(&lab, "node1", "settling") >= 2;
        assert!(poll(seen), "{}\n{}", stage(&lab, "node1", "sockets"), lab.logs());
    };
    delete();
    let same = format!("  clusterIP: {}\n  clusterIPs: [\"{}\", \"{}\"]\n", web[0], web[0], web[1]);
    lab.apply(&(service_at("web", &same) + &slices("web", &[&one], true)));
    until(&lab, &["one"], || tcp(&lab, "pod", &web[0], 80));
    sockets_seen(&lab, "node1");
    assert_eq!(sockets_count(&lab, "node1", "settling"), 0, "{}", lab.logs());
    progress(&lab, &mut probe);
    let reports = probe.end_load().expect("reports");
    print("deleted and made again", &reports);
    assert_clean(&lab, "deleted and made again", &reports);
    assert!(reports.iter().all(|r| r.repeated == 0), "{reports:#?}");
    assert_eq!(sockets_count(&lab, "node1", "closedTcp"), before);
    // Once it stays away, pods that nobody knows count as gone.
    probe.load(vec![kept(0), kept(1)]).expect("load");
    progress(&lab, &mut probe);
    delete();
    let closed = || sockets_count(&lab, "node1", "closedTcp") >= before + 2;
    assert!(poll(closed), "{}\n{}", stage(&lab, "node1", "sockets"), lab.logs());
    print("deleted", &probe.end_load().expect("reports"));
    lab.down();
}

#[test]
fn what_an_agent_could_not_close_its_successor_closes() {
    let name = "what_an_agent_could_not_close_its_successor_closes";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("late", &["--nodes", "2"]);
    lab.apply(
        &(server("one", "web", "node1")
            + &server("two", "web", "node2")
            + &asker("pod", "node1", false)
            + &service("web")),
    );
    lab.wait_ready(3);
    if stage(&lab, "node1", "sockets")["diagnostics"].to_string().contains("does not close") {
        println!("SKIP {name}: this kernel closes no sockets");
        return;
    }
    let (one, two) = (pod_ips(&lab, "one"), pod_ips(&lab, "two"));
    let web = cluster_ips(&lab, "web");
    lab.apply(&slices("web", &[&one], true));
    until(&lab, &["one"], || tcp(&lab, "pod", &web[0], 80));
    let mut probe = in_pod(&lab, "pod");
    probe.load(flows(&web, &one)).expect("load");
    progress(&lab, &mut probe);
    // The agent is away when the backend leaves: stopped, then killed.
    let old = crate::crash::pid_of(&lab, "node1", "agent");
    crate::crash::signal(old, "-STOP");
    lab.apply(&slices("web", &[&two], true));
    crate::crash::signal(old, "-KILL");
    let closed = || {
        ![0, old].contains(&crate::crash::pid_of(&lab, "node1", "agent"))
            && sockets_count(&lab, "node1", "closedTcp") >= 2
            && sockets_count(&lab, "node1", "closedUdp") >= 2
    };
    assert!(poll(closed), "{}\n{}", stage(&lab, "node1", "sockets"), lab.logs());
    progress(&lab, &mut probe);
    let reports = probe.end_load().expect("reports");
    judge(&lab, "restart", &reports, &["one", "two"]);
    lab.down();
}
