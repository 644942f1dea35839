//! Whole reports, as people and machines see them. `WEFT_BLESS=1` writes them anew.

use std::{fs, path::PathBuf, sync::Arc};
use weft_model::IpFamilies;
use weft_policy_cli::{Cluster, Documents, Report, Source, compare, lint, matrix, run};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), text: text.into() }
}

/// A file of `examples/policy`.
fn example(file: &str) -> Source {
    let path = root().join("../../examples/policy").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    source(file, &text)
}

fn examples() -> Vec<Source> {
    ["app.yaml", "expectations.yaml", "policies.yaml"].map(example).into()
}

fn cluster(sources: Vec<Source>) -> Cluster {
    let documents = Documents::parse(sources).unwrap_or_else(|e| panic!("{e}"));
    Cluster::of(documents).unwrap_or_else(|e| panic!("{e}"))
}

fn golden(name: &str, text: &str) {
    let path = root().join("tests/golden").join(name);
    if std::env::var_os("WEFT_BLESS").is_some() {
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, wanted, "{name} differs");
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("JSON") + "\n"
}

fn report(sources: Vec<Source>) -> Report {
    run(&cluster(sources)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_example_holds_and_says_why() {
    let report = report(examples());
    golden("test.txt", &report.text(true));
    golden("test.json", &json(&report));
    assert!(report.ok);
}

#[test]
fn what_does_not_hold_is_named_with_its_line() {
    let mut sources = examples();
    sources[1] = source(
        "wrong.yaml",
        "
kind: PolicyTest
namespace: shop
ipFamily: dual
tests:
- {from: web, to: db, port: 5433, expect: allow}
- {name: 'a & <b>', from: outside, to: web, expect: deny}
- {from: web, to: nobody, expect: allow}
- {from: web, to: outside, port: http, expect: deny}
- {from: web, to: service/db, port: 5434, expect: allow}
- {from: outside, to: '2001:db8::1', port: 80, expect: allow}
",
    );
    let report = report(sources);
    golden("wrong.txt", &report.text(false));
    golden("wrong.xml", &report.junit());
    let held: Vec<bool> = report.tests.iter().map(|t| t.ok).collect();
    assert_eq!(held, [false, false, false, false, false, true]);
    assert!(!report.ok);
}

#[test]
fn no_expectations_are_no_success() {
    let report = report(vec![example("app.yaml")]);
    assert!(!report.ok && report.text(false).starts_with("no expectations"));
}

#[test]
fn the_matrix_shows_who_may_talk_to_whom() {
    let matrix = matrix(&cluster(examples()), IpFamilies::Dual).expect("small");
    golden("matrix.txt", &matrix.text());
    golden("matrix.json", &json(&matrix));
    golden("matrix.dot", &matrix.dot());
}

#[test]
fn a_difference_is_what_opens_and_closes() {
    let before = cluster(examples());
    let mut sources = examples();
    let text = sources[2].text.replace("port: sql", "port: 5000, endPort: 6000");
    let text = text.replace("name: deny-all, namespace: shop", "name: deny-all, namespace: other");
    sources[2].text = Arc::from(text.as_str());
    sources
        .push(source("new.yaml", "{apiVersion: v1, kind: Pod, metadata: {name: new}, spec: {}}"));
    let after = cluster(sources);
    let there = compare(&before, &after, IpFamilies::Ipv4).expect("small");
    golden("diff.txt", &there.text());
    golden("diff.json", &json(&there));
    let back = compare(&after, &before, IpFamilies::Ipv4).expect("small");
    for (a, b) in there.differences.iter().zip(&back.differences) {
        assert_eq!((&a.opened, &a.closed), (&b.closed, &b.opened), "{} → {}", a.from, a.to);
    }
    let same = compare(&before, &before, IpFamilies::Dual).expect("small");
    assert!(same.same && same.text() == "nothing opens and nothing closes\n");
}

const SLOPPY: &str = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: web, labels: {app: web}}
  spec:
    containers: [{name: c, ports: [{name: http, containerPort: 80}]}]
- apiVersion: v1
  kind: Pod
  metadata: {name: agent, labels: {app: agent}}
  spec: {hostNetwork: true, containers: [{name: c}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: typo}
spec:
  podSelector: {matchLabels: {app: wbe}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  egress:
  - to: [{podSelector: {matchLabels: {app: db}}}, {ipBlock: {cidr: 192.0.2.0/24}}]
    ports: [{port: 443}]
  - to: [{ipBlock: {cidr: 192.0.2.128/25}}]
    ports: [{port: 443, protocol: TCP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: ignored}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  ingress: [{}]
  egress:
  - ports: [{port: 53, protocol: TCP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: host}
spec:
  podSelector: {matchLabels: {app: agent}}
  ingress:
  - ports: [{port: metrics}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: base}
spec:
  tier: Baseline
  priority: 0
  subject: {pods: {podSelector: {matchLabels: {app: web}}}}
  ingress:
  - {action: Deny, from: [{namespaces: {}}]}
  - {action: Accept, from: [{pods: {podSelector: {matchLabels: {app: web}}}}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: base-too}
spec:
  tier: Baseline
  priority: 0
  subject: {namespaces: {}}
  ingress:
  - {action: Pass, from: [{services: {}}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: nothing}
spec: {tier: Admin, priority: 5, subject: {namespaces: {}}}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: old}
spec: {}
"#;

#[test]
fn what_is_probably_not_meant_is_found() {
    let notes = lint(&cluster(vec![source("sloppy.yaml", SLOPPY)]));
    let text: String = notes.iter().map(|n| n.text() + "\n").collect();
    golden("lint.txt", &text);
    golden("lint.json", &json(&notes));
    assert_eq!(lint(&cluster(examples())), [], "the example is clean");
}

#[test]
fn texts_that_are_no_manifests_are_refused_with_their_line() {
    let refused = |text: &str| match Documents::parse(vec![source("bad.yaml", text)]) {
        Ok(documents) => Cluster::of(documents).expect_err("bad").to_string(),
        Err(e) => e.to_string(),
    };
    for (text, why) in [
        ("a: [", "bad.yaml:"),
        ("a: &a [*a]\nb: *c\n", "bad.yaml:"),
        (
            "\nkind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nspec: 5\n",
            "bad.yaml:2: NetworkPolicy",
        ),
        ("kind: Pod\n", "has no name"),
        (
            "kind: Pod\nmetadata: {name: a}\n---\nkind: Pod\nmetadata: {name: a}\n",
            "two pods default/a",
        ),
    ] {
        let error = refused(text);
        assert!(error.contains(why), "{text:?}: {error}");
    }
    // What is not about the network is not looked at.
    let other = "kind: ConfigMap\ndata: {1: x}\n---\n- a\n---\njust text\n---\n";
    assert!(cluster(vec![source("other.yaml", other)]).groups.is_empty());
}

/// Each is dropped or refused by the API, and would open or close something unnoticed.
#[test]
fn what_is_not_judged_as_it_is_written_is_told_and_no_success() {
    let policy = |spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\n\
             spec:\n  podSelector: {{}}\n{spec}"
        )
    };
    let cluster_policy = |rule: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
             metadata: {{name: p}}\nspec:\n  tier: Admin\n  priority: 1\n  subject: {{namespaces: \
             {{}}}}\n  ingress:\n  - {rule}\n"
        )
    };
    let all = "from: [{namespaces: {}}]";
    let tests = "---\nkind: Pod\nmetadata: {name: a}\nspec: {}\n---\nkind: Pod\nmetadata: {name: \
        b}\nspec: {}\n---\nkind: PolicyTest\ntests: [{from: a, to: a, expect: allow}]\n";
    for (text, problem) in [
        (
            policy("  ingress:\n  - fro: [{podSelector: {}}]\n"),
            "a.yaml:7: NetworkPolicy default/p: spec.ingress[0].fro is no field of the API, which \
             ignores or refuses it; did you mean from?",
        ),
        (
            policy("  ingress:\n  - ports: []\n    to: [{podSelector: {}}]\n"),
            "a.yaml:8: NetworkPolicy default/p: spec.ingress[0].to is no field of the API, which \
             ignores or refuses it; known here: from, ports",
        ),
        (
            policy("  policyTypes: [ingress]\n"),
            "a.yaml:6: NetworkPolicy default/p: spec.policyTypes[0] 'ingress' is unknown; did you \
             mean Ingress?",
        ),
        (
            cluster_policy(&format!("{{action: Accept, {all}, protocols: [{{tcp: {{}}}}]}}")),
            "a.yaml:9: ClusterNetworkPolicy p: spec.ingress[0].protocols[0].tcp is empty; it needs \
             one of destinationPort",
        ),
        (
            "apiVersion: networking.k8s.io/v1beta1\nkind: NetworkPolicy\nmetadata: {name: p}\n"
                .to_owned(),
            "a.yaml:2: NetworkPolicy default/p is not judged: its apiVersion is \
             'networking.k8s.io/v1beta1', not networking.k8s.io/v1",
        ),
        (
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\n\
             metadata: {name: p}\n"
                .to_owned(),
            "a.yaml:2: BaselineAdminNetworkPolicy p is not judged: use ClusterNetworkPolicy, which \
             replaces it",
        ),
    ] {
        let cluster = cluster(vec![source("a.yaml", &format!("{text}{tests}"))]);
        let report = run(&cluster).expect("readable");
        // What the data path would leave out is told behind it.
        assert_eq!(report.problems.first().map(String::as_str), Some(problem));
        assert!(report.holds() && !report.ok, "{text}");
        let errors = format!("errors=\"{}\"", report.problems.len());
        assert!(report.junit().contains(&errors), "{}", report.junit());
        let matrix = matrix(&cluster, IpFamilies::Ipv4).expect("small");
        assert_eq!(matrix.problems, report.problems);
        let differences = compare(&cluster, &cluster, IpFamilies::Ipv4).expect("small");
        assert_eq!(differences.problems, report.problems);
        let notes: Vec<String> = lint(&cluster).iter().map(|n| n.text()).collect();
        let (place, rest) = problem.split_once(": ").expect("a place");
        assert!(notes.contains(&format!("{place}: error: {rest}")), "{notes:#?}");
    }
}

#[test]
fn invented_addresses_are_nobody_elses() {
    // A pod of a cluster, and ranges that mean something else, where templates' pods would be.
    const TEXT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: real, labels: {app: real}}
spec: {}
status: {podIPs: [{ip: 10.244.0.2}, {ip: 'fd00:10:244::2'}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {template: {metadata: {labels: {app: web}}, spec: {}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other}
spec: {template: {metadata: {labels: {app: other}}, spec: {}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - ipBlock: {cidr: 10.244.0.0/16}
    - ipBlock: {cidr: fd00::/8}
    - ipBlock: {cidr: 198.51.100.0/24}
---
kind: PolicyTest
ipFamily: dual
tests:
- {from: other, to: web, expect: deny}
- {from: outside, to: web, expect: deny}
- {from: real, to: web, expect: allow}
";
    let one = cluster(vec![source("a.yaml", TEXT)]);
    let report = run(&one).expect("readable");
    assert!(report.ok, "{}", report.text(true));
    // What one side of a comparison names, the other does not invent.
    let without = TEXT
        .replace("- ipBlock: {cidr: 10.244.0.0/16}", "- podSelector: {matchLabels: {app: real}}");
    let documents = |text: &str| Documents::parse(vec![source("a.yaml", text)]).expect("YAML");
    let (before, after) = Cluster::pair(documents(TEXT), documents(&without)).expect("readable");
    for (id, pod) in &before.input.pods {
        assert_eq!(after.input.pods[id].addresses, pod.addresses, "{id}");
    }
    let differences = compare(&before, &after, IpFamilies::Ipv4).expect("small");
    assert!(differences.same, "{}", differences.text());
}

#[test]
fn no_common_family_is_not_being_oneself() {
    let pod = |name: &str, ip: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: {name}}}\nspec: {{}}\nstatus: {{podIP: '{ip}'}}\n---\n"
        )
    };
    let text = pod("a", "192.0.2.1") + &pod("b", "2001:db8::1") + &pod("c", "2001:db8::2");
    let cluster = cluster(vec![source("a.yaml", &text)]);
    let matrix = matrix(&cluster, IpFamilies::Ipv6).expect("small");
    let cell = |from: &str, to: &str| {
        let all = matrix.cells.iter();
        let mut found = all.filter(|c| c.from == from && c.to == to).map(|c| c.allowed.as_str());
        found.next().expect("a cell").to_owned()
    };
    assert_eq!(cell("default/a", "default/b"), "no address");
    assert_eq!(cell("default/a", "default/a"), "itself");
    assert_eq!(cell("default/b", "default/c"), "everything");
    assert!(matrix.text().contains("– no addresses of one family"), "{}", matrix.text());
    assert!(!matrix.dot().contains("\"default/a\" ->"), "{}", matrix.dot());
}

#[test]
fn lines_cost_one_reading_of_the_text() {
    // Looking for each line from the beginning takes minutes here.
    const TESTS: usize = 4_000;
    let mut text =
        String::from("kind: Pod\nmetadata: {name: a}\nspec: {}\n---\nkind: PolicyTest\ntests:\n");
    for _ in 0..TESTS {
        text += "- {from: outside, to: a, port: 80, expect: allow}\n";
    }
    let begin = std::time::Instant::now();
    let report = report(vec![source("a.yaml", &text)]);
    assert!(report.ok && report.tests.len() == TESTS);
    assert_eq!(report.tests[TESTS - 1].line, Some(6 + TESTS));
    assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
}
