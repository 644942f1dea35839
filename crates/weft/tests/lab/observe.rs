//! What Weft tells about itself: metrics, and Events on objects that it leaves out.

use crate::{entrance::*, harness::*};
use serde_json::Value;

const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  \
    selector: {app: web}\n  ports: [{port: 80, targetPort: 8080}]\n---\n";

/// The value of the only sample with this name and these labels.
fn value(page: &str, sample: &str) -> Option<f64> {
    page.lines().find_map(|l| l.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn metrics_under_kube_proxys_names() {
    let name = "metrics_under_kube_proxys_names";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("metrics", &["--nodes", "2"]);
    let local = WEB
        .replace("name: web}", "name: near}")
        .replace("spec:\n", "spec:\n  internalTrafficPolicy: Local\n");
    let asker = asker("cli", "node2", false);
    lab.apply(&(server("s1", "web", "node1") + &asker + WEB + &local));
    lab.wait_ready(2);
    let ask = |node: &str, path: &str| {
        let url = format!("http://127.0.0.1:10249{path}");
        lab.exec("default", &format!("node/{node}"), &["curl", "-sS", "-m", "5", &url])
    };
    let mut page = String::new();
    let told = || {
        page = ask("node2", "/metrics");
        let more = |sample: &str| value(&page, sample).is_some_and(|v| v > 0.0);
        let none = |sample: &str| value(&page, sample) == Some(0.0);
        more("kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}")
            && more("kubeproxy_sync_proxy_rules_duration_seconds_count")
            && more("kubeproxy_sync_proxy_rules_service_changes_total")
            && more("kubeproxy_sync_proxy_rules_endpoint_changes_total")
            && none("kubeproxy_sync_proxy_rules_service_changes_pending")
            && none("kubeproxy_sync_proxy_rules_endpoint_changes_pending")
            // The only endpoint is on node1.
            && value(
                &page,
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",\
                 traffic_policy=\"internal\"}",
            ) == Some(1.0)
    };
    assert!(poll(told), "{page}\n{}", lab.logs());
    let at = |sample| value(&page, sample).unwrap_or_else(|| panic!("{sample}: {page}"));
    let synced = at("kubeproxy_sync_proxy_rules_last_timestamp_seconds");
    let queued = at("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds");
    assert!(synced >= queued && queued > 1e9, "{page}");
    // Bounded with room for a busy machine: from the pod's change to the kernel.
    let programming = "kubeproxy_network_programming_duration_seconds";
    let within = |le: &str| {
        let sample = format!("{programming}_bucket{{ip_family=\"IPv4\",le=\"{le}\"}}");
        value(&page, &sample).unwrap_or_else(|| panic!("{sample}: {page}"))
    };
    assert!(within("+Inf") >= 1.0 && within("60") == within("+Inf"), "{page}");
    let before = at("weft_socket_translations_total{kind=\"tcp_connect\"}");
    lab.exec("default", "cli", &["curl", "-sS", "-m", "5", "http://web/"]);
    let counted = || {
        let page = ask("node2", "/metrics");
        value(&page, "weft_socket_translations_total{kind=\"tcp_connect\"}") > Some(before)
    };
    assert!(poll(counted), "{}", ask("node2", "/metrics"));
    assert_eq!(ask("node2", "/proxyMode"), "weft");
    assert_eq!(ask("node2", "/healthz"), "ok");
    // Probes are counted by their answers.
    let probe = ["curl", "-sS", "-m", "5", "-o", "/dev/null", "http://127.0.0.1:10256/healthz"];
    lab.exec("default", "node/node1", &probe);
    let page = ask("node1", "/metrics");
    assert_eq!(value(&page, "kubeproxy_proxy_healthz_total{code=\"200\"}"), Some(1.0), "{page}");
    // Nobody else is told.
    let node = &node_ips(&lab, "node1")[0];
    let url = format!("http://{node}:10249/metrics");
    let out = lab.try_exec("default", "client", &["curl", "-sS", "-m", "4", &url]);
    assert_eq!(out.status.code(), Some(7), "{}", text(&out.stderr));
    lab.down();
}

fn events_about(lab: &Lab, object: &str) -> Vec<Value> {
    let said = lab.k(&["get", "events", "-o", "json"]);
    let list: Value = serde_json::from_str(&said).expect("JSON");
    let about = |e: &&Value| {
        e["involvedObject"]["name"] == object && e["source"]["component"] == "weft-agent"
    };
    list["items"].as_array().into_iter().flatten().filter(about).cloned().collect()
}

#[test]
fn bad_objects_are_named_in_events_and_harm_nobody() {
    let name = "bad_objects_are_named_in_events_and_harm_nobody";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("events", &[]);
    let with = |name: &str, external: &str, port: u16| {
        let spec = format!("spec:\n  externalIPs: [\"{external}\"]\n");
        WEB.replace("name: web}", &format!("name: {name}}}"))
            .replace("spec:\n", &spec)
            .replace("port: 80,", &format!("port: {port},"))
    };
    lab.apply(&(server("s1", "web", "node1") + &asker("cli", "node2", false) + WEB));
    let own = node_ips(&lab, "node1")[0].clone();
    let cluster_ip = lab.k(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    lab.apply(
        &(with("honest", "198.51.100.1", 80)
            + &with("zthief", "198.51.100.1", 80)
            + &with("usurper", &cluster_ip, 80)
            + &with("kubelet", &own, 10_250)
            + &with("ingress", &own, 81)),
    );
    lab.wait_ready(2);
    for (service, reason, word) in [
        ("zthief", "AddressConflict", "default/honest"),
        ("usurper", "AddressConflict", "default/web"),
        ("kubelet", "AddressRefused", "kubelet"),
        ("ingress", "NodeAddressHidden", "node1"),
    ] {
        let mut last = Vec::new();
        let told = poll(|| {
            last = events_about(&lab, service);
            !last.is_empty()
        });
        assert!(told, "{service}: no Event\n{}", lab.logs());
        let event = &last[0];
        let message = event["message"].as_str().expect("message");
        assert_eq!(event["reason"], reason, "{event}");
        assert!(message.starts_with("spec.externalIPs: ") && message.contains(word), "{event}");
        assert_eq!(event["involvedObject"]["kind"], "Service");
        assert_eq!(event["type"], "Warning");
        let uid = lab.k(&["get", "service", service, "-o", "jsonpath={.metadata.uid}"]);
        assert_eq!(event["involvedObject"]["uid"], uid.as_str(), "describe finds it");
    }
    // The others are unharmed, and so are the rightful owners.
    for (address, port) in [("198.51.100.1", 80), (&*cluster_ip, 80), (&*own, 81)] {
        let seen = until(&lab, &["s1"], || tcp(&lab, "cli", address, port));
        assert_eq!(seen.pods().len(), 1);
    }
    // Nothing leads to the Service from the kubelet's port: the node itself refuses.
    assert_eq!(tcp(&lab, "cli", &own, 10_250), Seen::Refused);
    let said = text(&weft(&["get", "services", "--name", &lab.name]).stdout);
    assert!(said.contains("already belongs to Service default/honest"), "{said}");
    let why = weft(&["why", "--name", &lab.name, "cli", &format!("{own}:10250")]);
    assert!(text(&why.stdout).contains("is not served"), "{}", text(&why.stdout));
    // Every agent has the same complaint, also after a restart: one Event, told once.
    let pid_file = lab.dir().join("node2/agent.pid");
    let pid = || -> Option<i32> {
        let id: Value = serde_json::from_slice(&std::fs::read(&pid_file).ok()?).ok()?;
        Some(i32::try_from(id["pid"].as_i64()?).expect("a PID"))
    };
    let before = pid().expect("agent.pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before), nix::sys::signal::SIGKILL)
        .expect("kill the agent");
    assert!(poll(|| pid().is_some_and(|p| p != before)), "{}", lab.logs());
    // The restarted agent tells of something new after it has looked at what it knows.
    lab.apply(&with("zznew", "198.51.100.1", 80));
    assert!(poll(|| !events_about(&lab, "zznew").is_empty()), "{}", lab.logs());
    let of_node2 = || {
        let page = lab.exec(
            "default",
            "node/node2",
            &["curl", "-sS", "-m", "5", "http://127.0.0.1:10249/metrics"],
        );
        value(&page, "weft_stage_diagnostics{stage=\"services\"}") == Some(5.0)
    };
    assert!(poll(of_node2), "{}", lab.logs());
    for service in ["zthief", "usurper", "kubelet", "ingress"] {
        let all = events_about(&lab, service);
        assert_eq!(all.len(), 1, "{all:#?}");
        assert_eq!(all[0]["count"], 1, "{all:#?}");
    }
    // A bad object is a warning about a node that is well; an agent that is away is an error.
    let check = |more: &[&str]| {
        let out = weft(&[&["check", "--name", &lab.name, "-o", "json"], more].concat());
        let said: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        (out.status.code(), said)
    };
    let well = || check(&[]).1["ok"] == true;
    assert!(poll(well), "{:#}", check(&[]).1);
    let (code, said) = check(&[]);
    let findings = said["findings"].as_array().expect("findings");
    let of_thief = findings.iter().find(|f| {
        f["message"].as_str().is_some_and(|m| m.contains("zthief")) && f["severity"] == "warning"
    });
    assert!(code == Some(0) && of_thief.is_some(), "{said:#}");
    assert_eq!(said["nodes"].as_array().map(Vec::len), Some(3), "{said:#}");
    let brief = text(&weft(&["status", "--name", &lab.name]).stdout);
    assert!(brief.lines().count() == 4 && brief.contains("5 warnings"), "{brief}");
    // What the API knows to be wrong never comes so far.
    for (manifest, field) in [
        // Another name: `apply` would merge the port with the good one's.
        (with("far", "198.51.100.9", 0).replace("port: 0", "port: 70000"), "spec.ports[0].port"),
        (with("loop", "127.0.0.1", 80), "spec.externalIPs[0]"),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: bad, labels: \
             {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{addresses: \
             [127.0.0.1]}]\nports: []\n"
                .to_owned(),
            "endpoints[0].addresses[0]",
        ),
    ] {
        let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("temporary file");
        std::fs::write(file.path(), &manifest).expect("write manifest");
        let path = file.path().to_str().expect("UTF-8 path");
        let out = lab.try_run(&["apply"], &["-f", path]);
        let said = text(&out.stderr) + &text(&out.stdout);
        assert!(!out.status.success() && said.contains(field), "{manifest}\n{said}");
    }
    until(&lab, &["s1"], || tcp(&lab, "cli", &cluster_ip, 80));
    lab.down();
}
