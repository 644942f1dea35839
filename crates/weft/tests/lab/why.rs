//! What `weft why` says, against what happens: every statement is compared with connections.

use crate::{entrance::*, harness::*};
use serde_json::Value;
use std::collections::BTreeSet;

/// Pods s1 and s2 serve, s3 never gets ready; askers on node1 and node3.
fn world() -> String {
    let mut all = String::new();
    for node in ["node1", "node3"] {
        all += &asker(&format!("pod-{node}"), node, false);
        all += &asker(&format!("host-{node}"), node, true);
    }
    all += &(server("s1", "web", "node1") + &server("s2", "web", "node2"));
    let never = server("s3", "web", "node3");
    let probe = "readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}";
    all +=
        &never.replace(probe, "readinessProbe: {exec: {command: [\"false\"]}, periodSeconds: 1}");
    assert!(all.contains("\"false\""), "the probe is another one now");
    all
}

/// A Service with an HTTP and a UDP port; `more` are further lines of its spec.
fn service(name: &str, app: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
         ipFamilyPolicy: RequireDualStack\n  selector: {{app: {app}}}\n{more}  ports:\n  \
         - {{name: http, port: 80, targetPort: http}}\n  \
         - {{name: udp, port: 81, targetPort: udp, protocol: UDP}}\n---\n"
    )
}

fn why(lab: &Lab, words: &[&str]) -> Value {
    let mut args = vec!["why", "--name", &lab.name, "-o", "json"];
    args.extend(words);
    let out = weft(&args);
    serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("why {words:?}: {e}: {}", text(&out.stderr)))
}

/// What a path of the answer promises.
fn promise(path: &Value) -> Seen {
    let field = |b: &Value, name: &str| b[name].as_str().unwrap_or_default().to_owned();
    match path["outcome"].as_str() {
        Some("forwarded" | "delivered") => {
            let all = path["backends"].as_array().into_iter().flatten();
            let answers = all.map(|b| Answer {
                pod: field(b, "pod").rsplit('/').next().unwrap_or_default().to_owned(),
                client: field(b, "sourceSeen"),
            });
            Seen::Answers(answers.collect())
        }
        Some("refused") => Seen::Refused,
        Some("dropped") => Seen::Nothing,
        other => panic!("no promise in {other:?}: {path}"),
    }
}

/// Asks until what is seen is what is said.
fn holds(lab: &Lab, from: &str, to: &str, udp_too: bool) {
    let mut last = String::new();
    let same = poll(|| {
        let said = why(lab, &[from, to]);
        let paths = said["paths"].as_array().expect("paths").clone();
        assert!(!paths.is_empty(), "{from} → {to}: {said}");
        paths.iter().all(|path| {
            let d = &path["destination"];
            let is_udp = d["protocol"] == "UDP";
            if is_udp && !udp_too {
                return true;
            }
            let address = d["address"].as_str().expect("address");
            let port = u16::try_from(d["port"].as_u64().expect("port")).expect("port");
            let ask = if is_udp { udp } else { tcp };
            let seen = ask(lab, from, address, port);
            // A kernel sends one host a few ICMP errors a second: refusals of UDP may be lost.
            let promised = promise(path);
            let lost = is_udp && promised == Seen::Refused && seen == Seen::Nothing;
            if seen != promised && !lost {
                last = format!("said {promised:?}\nseen {seen:?}\n{path:#}");
                return false;
            }
            true
        })
    });
    assert!(same, "{from} → {to}: {last}\n{}", lab.logs());
}

#[test]
fn what_why_says_is_what_happens() {
    let name = "what_why_says_is_what_happens";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("why", &[]);
    let near = "  type: NodePort\n  externalTrafficPolicy: Local\n";
    let ranges = "  type: LoadBalancer\n  loadBalancerSourceRanges: [172.30.250.0/24]\n";
    lab.apply(
        &(world()
            + &service("web", "web", "")
            + &service("near", "web", near)
            + &service("inner", "web", "  internalTrafficPolicy: Local\n")
            + &service("picky", "web", ranges)
            + &service("empty", "nobody", "")
            + &service("peers", "web", "  clusterIP: None\n")
            + "apiVersion: v1\nkind: Service\nmetadata: {name: alias}\nspec: {type: ExternalName, \
               externalName: web.default.svc.cluster.local}\n---\n"),
    );
    give_addresses(&lab, "picky", &["192.0.2.1"], "VIP");
    lead(&lab, &["192.0.2.1"], "node1");
    let ready = || {
        let said = why(&lab, &["pod-node1", "svc/web:http"]);
        said["paths"][0]["backends"].as_array().is_some_and(|b| b.len() == 2)
            && said["paths"][0]["excluded"].as_array().is_some_and(|e| e.len() == 1)
    };
    assert!(poll(ready), "{}", lab.logs());
    let said = why(&lab, &["pod-node1", "web:80"]);
    assert_eq!(said["ok"], true);
    assert_eq!(said["paths"][0]["excluded"][0]["reason"], "notReady");
    assert_eq!(said["paths"][0]["excluded"][0]["pod"], "default/s3");
    assert_eq!(said["dns"]["tried"][0]["name"], "web.default.svc.cluster.local");

    for from in ["pod-node1", "node/node3", "host-node1"] {
        holds(&lab, from, "svc/web", from == "pod-node1");
    }
    for from in ["pod-node1", "pod-node3"] {
        holds(&lab, from, "svc/inner:http", false);
        holds(&lab, from, "svc/empty", from == "pod-node1");
    }
    // Names: as the client's resolver has them.
    holds(&lab, "pod-node3", "alias:80", false);
    // Node ports: the own node's at the socket, others' where they are.
    let port = lab.k(&["get", "service", "near", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    for from in ["pod-node1", "client"] {
        for node in ["node1", "node3"] {
            holds(&lab, from, &format!("node/{node}:{port}"), false);
        }
    }
    let dropped = why(&lab, &["client", &format!("node/node3:{port}")]);
    assert_eq!(dropped["ok"], false);
    assert!(dropped["paths"][0]["reason"].as_str().is_some_and(|r| r.contains("Local")));
    // Source ranges hold for a pod, too.
    let admitted = why(&lab, &["client", "192.0.2.1:80", "--through", "node1"]);
    let seen = until(&lab, &["s1", "s2"], || tcp(&lab, "client", "192.0.2.1", 80));
    assert_eq!(promise(&admitted["paths"][0]), seen);
    holds(&lab, "pod-node1", "192.0.2.1:80", false);
    // Headless: the addresses of the name, untranslated.
    let peers = why(&lab, &["pod-node1", "peers:8080", "-4"]);
    let addresses = |of: &Value| -> BTreeSet<String> {
        let all = of.as_array().into_iter().flatten();
        all.filter_map(|b| Some(b["address"].as_str()?.to_owned())).collect()
    };
    let told = addresses(&peers["paths"][0]["backends"]);
    let dig = ["dig", "+short", "+search", "peers", "A"];
    let found = lab.exec("default", "pod-node1", &dig);
    assert_eq!(told, found.lines().map(str::to_owned).collect());
    for address in &told {
        holds(&lab, "pod-node1", &format!("{address}:8080"), false);
    }
    // A pod by its name, and one that no pod is any more.
    holds(&lab, "pod-node3", "s1:8080", false);
    lab.k(&["delete", "pod", "s1", "--wait=true"]);
    holds(&lab, "pod-node1", "svc/inner:http", false);
    holds(&lab, "pod-node1", "svc/web:http", false);
    lab.down();
}

#[test]
fn mistakes_are_named_with_what_is_near() {
    if !root_or_skip("mistakes_are_named_with_what_is_near") {
        return;
    }
    let lab = Lab::up("whyerr", &["--nodes", "1"]);
    lab.apply(&(asker("cli", "node1", false) + &service("web", "web", "")));
    lab.wait_ready(1);
    let fails = |words: &[&str], wanted: &str| {
        let mut args = vec!["why", "--name", &lab.name];
        args.extend(words);
        let out = weft(&args);
        let said = text(&out.stderr);
        assert!(!out.status.success() && said.contains(wanted), "{words:?}: {said}");
        assert!(out.stdout.is_empty(), "{words:?}");
    };
    fails(&["clu", "svc/web"], "there is no pod default/clu; near: default/cli");
    fails(&["cli", "svc/wbe"], "there is no Service default/wbe; near: default/web");
    fails(&["cli", "node/node2:1"], "there is no node node2; near: node1");
    fails(&["cli", "svc/web:99"], "has no port 99: it has 80/TCP (http), 81/UDP (udp)");
    fails(&["cli", "svc/web", "-n", "nowhere"], "there is no pod nowhere/cli");
    // No endpoints: an answer, and not success.
    let out = weft(&["why", "--name", &lab.name, "cli", "web:80", "-4"]);
    let said = text(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("refused on node1"), "{said}");
    // The lab's kubeconfig is as good as its name.
    let kubeconfig = lab.dir().join("kubeconfig");
    let path = kubeconfig.to_str().expect("UTF-8 path");
    let out = weft(&["get", "services", "-A", "--kubeconfig", path]);
    let said = text(&out.stdout);
    let row = said.lines().find(|l| l.starts_with("default ") && l.contains(" web "));
    assert!(row.is_some_and(|r| r.contains("80/TCP,81/UDP") && r.contains("0/0")), "{said}");
    let out = weft(&["get", "services", "--name", &lab.name, "-n", "kube-system", "-o", "json"]);
    let rows: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(rows["items"][0]["name"], "kube-dns");
    assert_eq!(rows["items"][0]["type"], "ClusterIP");
    lab.down();
}
