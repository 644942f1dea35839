//! `weft why` says, the kernel does, `weft flows` and `weft policy status` tell: all the same.

use crate::{entrance::*, harness::*};
use serde_json::Value;

const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\n\
    spec:\n  podSelector: {matchLabels: {app: web}}\n  ingress:\n  \
    - from: [{podSelector: {matchLabels: {role: reader}}}]\n    ports: [{port: 8080}]\n---\n";

fn json_lines(bytes: &[u8]) -> Vec<Value> {
    let lines = text(bytes);
    lines.lines().map(|l| serde_json::from_str(l).expect("an object a line")).collect()
}

/// What `weft why` says of one connection, and its exit status.
fn why(lab: &Lab, to: &str) -> (Value, Option<i32>) {
    let out = weft(&["why", "--name", &lab.name, "-o", "json", "-4", "cli", to]);
    let said = serde_json::from_slice(&out.stdout);
    (said.unwrap_or_else(|e| panic!("{e}: {}", text(&out.stderr))), out.status.code())
}

fn status(lab: &Lab) -> Value {
    let out = weft(&["policy", "status", "--name", &lab.name, "-o", "json", "default/web"]);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&out.stderr)))
}

/// Flows of the lab with these words, as JSON.
fn flows(lab: &Lab, words: &[&str]) -> Vec<Value> {
    let out = weft(&[&["flows", "--name", &lab.name, "-o", "json"], words].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    json_lines(&out.stdout)
}

/// Sums a count over the nodes: of the first rule, or of what no rule allowed.
fn counted(status: &Value, of: &str, count: &str) -> u64 {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let policies = nodes.flat_map(|n| n["policies"].as_array().into_iter().flatten());
    let of = |p: &Value| match of {
        "noRule" => p["noRule"][count].as_u64(),
        _ => p["rules"][0]["counts"][count].as_u64(),
    };
    policies.filter_map(of).sum()
}

#[test]
fn verdicts_are_told_as_why_says_them() {
    let name = "verdicts_are_told_as_why_says_them";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("flows", &["--nodes", "2"]);
    lab.apply(&(server("s1", "web", "node1") + &asker("cli", "node2", false)));
    lab.wait_ready(2);
    let address = pod_ips(&lab, "s1")[0].clone();
    let to = format!("{address}:8080");
    until(&lab, &["s1"], || tcp(&lab, "cli", &address, 8080));
    assert_eq!(why(&lab, &to).1, Some(0));
    lab.apply(POLICY);
    let in_force = || {
        let said = status(&lab);
        let selects = |n: &Value| n["policies"][0]["podCount"] == 1;
        said["ok"] == true && said["nodes"].as_array().is_some_and(|n| n.iter().any(selects))
    };
    assert!(poll(in_force), "{:#}\n{}", status(&lab), lab.logs());

    // Denied: said, seen, told with its policy, and counted.
    let (said, code) = why(&lab, &to);
    assert_eq!((code, &said["paths"][0]["outcome"]), (Some(1), &"denied".into()), "{said:#}");
    assert!(poll(|| tcp(&lab, "cli", &address, 8080) == Seen::Nothing), "{}", lab.logs());
    let mut told = Vec::new();
    let wanted = ["--denied", "--from", "cli", "--to", "default/", "--port", "8080"];
    let denied = poll(|| {
        told = flows(&lab, &wanted);
        !told.is_empty()
    });
    assert!(denied, "{:#?}\n{}", flows(&lab, &[]), lab.logs());
    let event = &told[0];
    assert_eq!(event["verdict"], "denied", "{event:#}");
    assert_eq!((&event["node"], &event["direction"]), (&"node1".into(), &"ingress".into()));
    assert_eq!(event["from"]["pod"], "default/cli", "{event:#}");
    assert_eq!((&event["to"]["pod"], &event["to"]["port"]), (&"default/s1".into(), &8080.into()));
    let ingress = &said["paths"][0]["backends"][0]["policy"]["ingress"];
    assert_eq!(event["reason"], ingress["reason"], "{event:#}\n{ingress:#}");
    assert_eq!(event["policy"], ingress["isolatedBy"][0], "{event:#}");
    assert!(poll(|| counted(&status(&lab), "noRule", "denied") > 0), "{:#}", status(&lab));

    // What is proposed is done; then the rule is named, told and counted.
    let remedy = &ingress["remedies"][0];
    assert_eq!((&remedy["kind"], &remedy["object"]), (&"label".into(), &"Pod default/cli".into()));
    lab.k(&["label", "pod", "cli", "role=reader"]);
    until(&lab, &["s1"], || tcp(&lab, "cli", &address, 8080));
    let (said, code) = why(&lab, &to);
    assert_eq!(code, Some(0), "{said:#}");
    let allowed = poll(|| {
        flows(&lab, &["--from", "default/cli", "--node", "node1"]).iter().any(|f| {
            (&f["verdict"], &f["rule"]) == (&"allowed".into(), &0.into())
                && f["policy"] == "NetworkPolicy default/web"
        })
    });
    assert!(allowed, "{:#?}", flows(&lab, &[]));
    assert!(poll(|| counted(&status(&lab), "rule", "allowed") > 0), "{:#}", status(&lab));
    let page = lab.exec(
        "default",
        "node/node1",
        &["curl", "-sS", "-m", "5", "http://127.0.0.1:10249/metrics"],
    );
    let sample = "weft_policy_rule_flows_total{policy=\"NetworkPolicy default/web\",\
                  direction=\"ingress\",rule=\"0\",verdict=\"allowed\"}";
    assert!(page.lines().any(|l| l.starts_with(sample)), "{page}");
    // A policy that nobody knows.
    let out = weft(&["policy", "status", "--name", &lab.name, "nobody"]);
    assert!(out.status.code() == Some(2) && text(&out.stderr).contains("no node knows"));
    lab.down();
}
