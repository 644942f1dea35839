//! Two applications of the world, unchanged, with stock kubectl and with `weft lab apply`.

use crate::harness::*;
use std::path::Path;

/// Applies a file, waits for its pods, and asks every Service by name from a pod on each node
/// and from a hostNetwork pod.
fn application(part: &str, file: &Path, pods: usize, with_kubectl: bool) {
    let lab = Lab::up(part, &["--nodes", "3"]);
    if with_kubectl {
        lab.k(&["apply", "-f", file.to_str().expect("UTF-8 path")]);
        // Applying again changes nothing.
        let again = lab.k(&["apply", "-f", file.to_str().expect("UTF-8 path")]);
        assert!(again.lines().all(|l| l.ends_with("unchanged")), "{again}");
    } else {
        lab.apply_file(file);
    }
    lab.wait_ready(pods);
    let services = lab.k(&["get", "services", "-o", "json"]);
    let services: serde_json::Value = serde_json::from_str(&services).expect("JSON");
    // Copies of the Services over both families.
    for service in services["items"].as_array().expect("items") {
        let name = service["metadata"]["name"].as_str().expect("name");
        if name == "kubernetes" {
            continue;
        }
        let ports = serde_json::to_string(&service["spec"]["ports"]).expect("JSON");
        let ports = ports.replace("\"nodePort\":", "\"x\":");
        let mut ports: serde_json::Value = serde_json::from_str(&ports).expect("JSON");
        for port in ports.as_array_mut().expect("ports") {
            port.as_object_mut().expect("port").remove("x");
        }
        lab.apply(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: dual-{name}}}, spec: {{ipFamilyPolicy: RequireDualStack, selector: {}, ports: {ports}}}}}\n",
            service["spec"]["selector"]
        ));
    }
    lab.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: hostclient}\nspec:\n  hostNetwork: true\n  dnsPolicy: ClusterFirstWithHostNet\n  containers: [{name: c, image: x, command: [sleep, infinity]}]\n",
    );
    lab.wait_ready(pods + 1);
    // verify asks every Service by its DNS name, over every family it has, from each node and
    // a pod on each node.
    let report = lab.verify();
    let checks = report["checks"].as_array().expect("checks");
    for service in services["items"].as_array().expect("items") {
        let name = service["metadata"]["name"].as_str().expect("name");
        if name == "kubernetes" {
            continue;
        }
        for (prefix, families) in [("", 1), ("dual-", 2)] {
            let start = format!("{prefix}{name}.default.svc.cluster.local.:");
            let of_service =
                checks.iter().filter(|c| c["to"].as_str().is_some_and(|t| t.starts_with(&start)));
            let n = of_service.count();
            assert!(n >= 6 * families, "{start}: {n} checks");
        }
    }
    // By its short name from the hostNetwork pod, through its own resolv.conf.
    for service in services["items"].as_array().expect("items") {
        let name = service["metadata"]["name"].as_str().expect("name");
        let port = service["spec"]["ports"][0]["port"].as_i64().expect("port").to_string();
        if name != "kubernetes" {
            lab.exec("default", "hostclient", &["nc", "-z", "-w", "5", name, &port]);
            lab.exec(
                "default",
                "hostclient",
                &["nc", "-6", "-z", "-w", "5", &format!("dual-{name}"), &port],
            );
        }
    }
    lab.down();
}

fn run(test: &str, file: &str, pods: usize, with_kubectl: bool) {
    if !root_or_skip(test) || !kubectl_or_skip(test) {
        return;
    }
    if let Some(path) = upstream_or_skip(test, file) {
        application(if with_kubectl { "appk" } else { "appw" }, &path, pods, with_kubectl);
    }
}

#[test]
fn guestbook_with_kubectl() {
    run("guestbook_with_kubectl", "guestbook/guestbook-all-in-one.yaml", 6, true);
}

#[test]
fn guestbook_with_weft_lab_apply() {
    run("guestbook_with_weft_lab_apply", "guestbook/guestbook-all-in-one.yaml", 6, false);
}

#[test]
fn online_boutique_with_kubectl() {
    run("online_boutique_with_kubectl", "online-boutique/kubernetes-manifests.yaml", 12, true);
}

#[test]
fn online_boutique_with_weft_lab_apply() {
    run(
        "online_boutique_with_weft_lab_apply",
        "online-boutique/kubernetes-manifests.yaml",
        12,
        false,
    );
}
