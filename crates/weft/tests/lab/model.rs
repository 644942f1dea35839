//! The network model: every transport, family and number of zones.

use crate::harness::*;
use std::process::{Command, Stdio};

/// Twelve pods and a bit: three per node with stand-ins, two containers in one of them, a
/// hostNetwork pod on each node.
pub const PODS: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 6
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: example.test/web:1
        ports: [{containerPort: 80, name: http}]
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: pair, labels: {app: pair}}
spec:
  selector: {matchLabels: {app: pair}}
  template:
    metadata: {labels: {app: pair}}
    spec:
      containers:
      - {name: one, image: example.test/one, ports: [{containerPort: 8080}]}
      - {name: two, image: example.test/two, ports: [{containerPort: 9090}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: host, labels: {app: host}}
spec:
  selector: {matchLabels: {app: host}}
  template:
    metadata: {labels: {app: host}}
    spec:
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      containers:
      - {name: sleep, image: example.test/sleep, command: [sleep, infinity]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
"#;

fn verify_one(network: &str, family: &str, zones: &str) {
    let lab = Lab::up("model", &["--network", network, "--ip-family", family, "--zones", zones]);
    lab.apply(PODS);
    lab.wait_ready(12);
    let report = lab.verify();
    let checks = report["checks"].as_array().expect("checks");
    let count = |name: &str| checks.iter().filter(|c| c["name"] == name).count();
    let families = if family == "dual" { 2 } else { 1 };
    // 12 pods to 12 pods; hostNetwork pods and pods alike.
    assert_eq!(count("pod-to-pod"), 12 * 12 * families, "{network} {family} {zones}");
    assert_eq!(count("node-to-local-pod"), 9 * families);
    assert_eq!(count("localhost"), 3 * families);
    // web and kubernetes and kube-dns, from three nodes and a pod on each.
    assert!(count("service-by-name") >= 3 * 6, "{}", count("service-by-name"));
    for f in ["IPv4", "IPv6"] {
        let there = checks.iter().any(|c| c["family"] == f);
        assert_eq!(there, family == "dual" || family == f.to_lowercase(), "{f} in {family}");
    }
    lab.down();
}

macro_rules! matrix {
    ($($test:ident: $network:literal $family:literal $zones:literal;)*) => {$(
        #[test]
        fn $test() {
            if root_or_skip(stringify!($test)) {
                verify_one($network, $family, $zones);
            }
        }
    )*};
}

matrix! {
    verify_vxlan_dual_one_zone: "vxlan" "dual" "1";
    verify_vxlan_dual_two_zones: "vxlan" "dual" "2";
    verify_vxlan_ipv4_one_zone: "vxlan" "ipv4" "1";
    verify_vxlan_ipv4_two_zones: "vxlan" "ipv4" "2";
    verify_vxlan_ipv6_one_zone: "vxlan" "ipv6" "1";
    verify_vxlan_ipv6_two_zones: "vxlan" "ipv6" "2";
    verify_native_dual_one_zone: "native" "dual" "1";
    verify_native_dual_two_zones: "native" "dual" "2";
    verify_native_ipv4_one_zone: "native" "ipv4" "1";
    verify_native_ipv4_two_zones: "native" "ipv4" "2";
    verify_native_ipv6_one_zone: "native" "ipv6" "1";
    verify_native_ipv6_two_zones: "native" "ipv6" "2";
}

/// A capture on the underlay agrees with what receivers see: pod addresses, untranslated.
#[test]
fn the_underlay_carries_pod_addresses() {
    if !root_or_skip("the_underlay_carries_pod_addresses") {
        return;
    }
    let lab = Lab::up("capture", &["--network", "native", "--ip-family", "ipv4", "--nodes", "2"]);
    lab.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: node1, containers: [{name: c, image: x, command: [sleep, infinity]}]}}\n---\n\
         {apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {nodeName: node2, containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}}\n",
    );
    lab.wait_ready(2);
    let status = lab.status();
    let ip = |pod: &str| {
        let pods = status["pods"].as_array().expect("pods").clone();
        let found = pods.into_iter().find(|p| p["name"] == pod).expect("pod");
        found["ips"][0].as_str().expect("address").to_owned()
    };
    let (a, b) = (ip("a"), ip("b"));
    // tcpdump ends by itself after the one packet that it waits for.
    let filter = format!("tcp dst port 80 and src host {a} and dst host {b}");
    let netns = format!("--net=/run/netns/weft.{}.underlay", lab.name);
    let mut capture = Command::new("nsenter")
        .args([&netns, "timeout", "30", "tcpdump", "-lnni", "zone1", "-c", "1", &filter])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start tcpdump");
    let captured = poll(|| {
        let said = lab.exec("default", "a", &["curl", "-s", "-m", "5", &format!("http://{b}/")]);
        assert!(said.contains(&format!("\"clientAddress\": \"{a}:")), "receiver saw: {said}");
        capture.try_wait().expect("tcpdump").is_some()
    });
    let out = capture.wait_with_output().expect("tcpdump's output");
    assert!(captured && out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stdout).contains(&format!("{a}.")), "{}", text(&out.stdout));
}

#[test]
fn two_labs_do_not_see_each_other_and_the_machine_sees_neither() {
    if !root_or_skip("two_labs_do_not_see_each_other_and_the_machine_sees_neither") {
        return;
    }
    let before = own_links();
    let one = Lab::up("one", &["--nodes", "2"]);
    let two = Lab::up("two", &["--nodes", "2"]);
    assert_eq!(own_links(), before, "links of the machine's own namespace");
    one.apply(PODS);
    two.apply(PODS);
    one.wait_ready(10);
    two.wait_ready(10);
    one.verify();
    two.verify();
    // The same address exists in both, and is another pod.
    assert_ne!(one.status()["pods"].as_array().map(Vec::len), Some(0), "each lab has its own pods");
    one.down();
    two.verify();
    two.down();
    assert_eq!(own_links(), before);
}
