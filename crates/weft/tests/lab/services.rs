//! ClusterIP Services and names, from pods, nodes and hostNetwork pods.

use crate::harness::*;

const APP: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: example.test/web
        ports: [{containerPort: 8080, name: http}, {containerPort: 9000, protocol: UDP, name: udp}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: udp, port: 9000, targetPort: udp, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: nobody}
  ports: [{name: http, port: 80}, {name: udp, port: 81, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
---
apiVersion: v1
kind: Pod
metadata: {name: cli}
spec:
  containers: [{name: c, image: example.test/client, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: hostclient}
spec:
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  containers: [{name: c, image: example.test/client, command: [sleep, infinity]}]
"#;

fn curl(lab: &Lab, from: &str, family: &str, url: &str) -> String {
    lab.exec("default", from, &["curl", family, "-sS", "-m", "10", url])
}

#[test]
fn services_answer_by_name_over_both_families_and_balance() {
    if !root_or_skip("services_answer_by_name_over_both_families_and_balance") {
        return;
    }
    let lab = Lab::up("svc", &[]);
    lab.apply(APP);
    lab.wait_ready(5);
    for from in ["cli", "hostclient"] {
        for family in ["-4", "-6"] {
            let mut seen = std::collections::BTreeSet::new();
            let all = poll(|| {
                let said = curl(&lab, from, family, "http://web/");
                let pod = said.split("\"pod\": \"").nth(1).and_then(|p| p.split('"').next());
                seen.insert(pod.unwrap_or_else(|| panic!("no pod in {said}")).to_owned());
                seen.len() == 3
            });
            assert!(all, "{from} {family} reached only {seen:?}");
        }
        // Short name, name with namespace, full name, alias.
        for name in ["web.default", "web.default.svc.cluster.local", "alias"] {
            assert!(
                curl(&lab, from, "-4", &format!("http://{name}/")).contains("\"pod\""),
                "{name}"
            );
        }
    }
    // UDP, connected and not: the stand-in says who it is, and dig's source check passes.
    let said = lab.exec("default", "cli", &["sh", "-c", "echo hi | nc -u -w 2 web 9000"]);
    assert!(said.contains("default/web-"), "{said}");
    lab.down();
}

#[test]
fn no_backend_is_refused_at_once_and_readiness_is_followed() {
    if !root_or_skip("no_backend_is_refused_at_once_and_readiness_is_followed") {
        return;
    }
    let lab = Lab::up("empty", &["--nodes", "2"]);
    lab.apply(APP);
    lab.wait_ready(5);
    for from in ["cli", "hostclient"] {
        for family in ["-4", "-6"] {
            let url = ["curl", family, "-sSv", "-m", "10", "http://empty/"];
            let out = lab.try_exec("default", from, &url);
            let error = text(&out.stderr);
            // 7 is curl's "failed to connect"; a time-out would be 28.
            assert_eq!(out.status.code(), Some(7), "{from} {family}: {error}");
            assert!(error.to_lowercase().contains("refused"), "{from} {family}: {error}");
        }
    }
    // Scaled to nothing, the Service refuses; scaled up, it answers again.
    let scale = |n: u32| lab.apply(&APP.replace("replicas: 3", &format!("replicas: {n}")));
    scale(0);
    let code = |lab: &Lab| {
        lab.try_exec("default", "cli", &["curl", "-sS", "-m", "10", "http://web/"]).status.code()
    };
    assert!(poll(|| code(&lab) == Some(7)), "still answers: {:?}\n{}", code(&lab), lab.logs());
    scale(2);
    assert!(poll(|| code(&lab) == Some(0)), "does not answer again: {:?}", code(&lab));
    lab.down();
}

#[test]
fn names_resolve_as_the_dns_specification_says() {
    if !root_or_skip("names_resolve_as_the_dns_specification_says") {
        return;
    }
    let lab = Lab::up("dns", &["--nodes", "2"]);
    lab.apply(APP);
    lab.wait_ready(5);
    let dig = |args: &str| -> Vec<String> {
        let mut command = vec!["dig", "+short", "+tries=3", "+timeout=2"];
        command.extend(args.split(' '));
        let said = lab.exec("default", "cli", &command);
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let zone = "default.svc.cluster.local";
    let a = dig(&format!("web.{zone} A"));
    assert_eq!(a.len(), 1, "{a:?}");
    assert!(a[0].starts_with("10.96."), "{a:?}");
    let aaaa = dig(&format!("web.{zone} AAAA"));
    assert!(aaaa.len() == 1 && aaaa[0].starts_with("fd00:10:96:"), "{aaaa:?}");
    assert_eq!(dig(&format!("headless.{zone} A")).len(), 3);
    assert_eq!(dig(&format!("_http._tcp.web.{zone} SRV")), [format!("0 100 80 web.{zone}.")]);
    assert_eq!(dig(&format!("alias.{zone} CNAME")), [format!("web.{zone}.")]);
    assert_eq!(dig(&format!("-x {}", a[0])), [format!("web.{zone}.")]);
    assert_eq!(dig(&format!("-x {}", aaaa[0])), [format!("web.{zone}.")]);
    assert_eq!(dig("dns-version.cluster.local TXT"), ["\"1.1.0\""]);
    let said = lab.exec("default", "cli", &["dig", &format!("nothing.{zone}")]);
    assert!(said.contains("NXDOMAIN"), "{said}");
    let said = lab.exec("default", "cli", &["dig", "+tcp", &format!("web.{zone}")]);
    assert!(said.contains("NOERROR") && said.contains("ANSWER: 1"), "{said}");
    lab.down();
}
